//! A genuine driver that Microsoft's tools have built runs unmodified: WinDivert64.sys.
//!
//! Without a network the tests say that they are skipped.

mod faults;
mod forward;
mod layers;
mod network;
mod requests;
mod unload;

use ksim::{Config, Driver};
use portcullis_tests::World;
use portcullis_tests::foreign::windivert;

/// A machine with `WinDivert` running on it.
fn machine() -> Option<(World, Driver)> {
    windivert::machine(env!("CARGO_TARGET_TMPDIR"), &Config::default())
}
