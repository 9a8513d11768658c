//! Packets: what is in them, changing their headers, and which are to be changed or shaped.
//!
//! A [`Layout`] says where what is in a packet, an [`Edit`] changes its headers with their checksums, and [`Paths`] know what a
//! rule does to the packets of a connection. [`Segments`] split what was left to a network card to split.

mod checksum;
mod edit;
mod header;
mod hops;
mod path;
mod segment;

pub use checksum::{Sum, update};
pub use edit::{Checksums, Edit, NotEditable, complete, transport_sum};
pub use header::{Fragment, Layout, Malformed};
pub use hops::Hops;
pub use path::{NoPath, PACKET_EFFECTS, PathBucket, Paths, Ticket, Treatment};
pub use segment::Segments;
