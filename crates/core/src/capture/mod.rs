//! Captures: which packets are taken, and the ring in which they wait to be read.
//!
//! A packet's record says what came by, not what becomes of it: an inbound packet is seen before it is decided. What is
//! decided and what is discarded goes into the same ring, in order, so that its reader can put them together.

mod filter;
mod mirror;
mod ring;
mod summary;

pub use filter::{CaptureFilter, Ends};
pub use mirror::{MirrorBucket, MirrorTable};
pub use ring::CaptureRing;
pub use summary::PacketSummary;
