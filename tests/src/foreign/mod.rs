//! Drivers that are not ours.

pub mod machine;
pub mod test_drivers;
pub mod windivert;

pub use machine::{Machine, sweep};
