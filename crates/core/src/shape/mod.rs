//! Rates, delays and losses: when a packet goes on, and what waits until then.
//!
//! A [`Way`] says when a packet of one way of a flow goes on, a [`Bucket`] how much may pass: each way has one, or all flows of
//! a rule share those of [`Limits`]. A [`Schedule`] holds what waits. Time is given, in 100-nanosecond units, and chance
//! comes from a [`Random`] with a seed.

mod bucket;
mod limits;
mod random;
mod schedule;
mod way;

pub use bucket::{Bucket, MAX_WAIT, Rate};
pub use limits::{Limit, LimitSlot, Limits};
pub use random::Random;
pub use schedule::{Schedule, Waiting};
pub use way::{Fate, Shape, Way};
