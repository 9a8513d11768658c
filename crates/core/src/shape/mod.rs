//! Rates, delays and losses: when a packet goes on, and what waits until then.
//!
//! A [`Way`] says when a packet of one way of a flow goes on; a [`Schedule`] holds what waits. Both are plain data: time is
//! given, in 100-nanosecond units, and chance comes from a [`Random`] with a seed.

mod random;
mod schedule;
mod way;

pub use random::Random;
pub use schedule::{Schedule, Waiting};
pub use way::{Fate, MAX_WAIT, Rate, Shape, Way};
