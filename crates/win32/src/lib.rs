//! The few calls of Windows that Portcullis's user program makes: the driver's device, a proxy's sockets, and
//! Ctrl+C.
//!
//! Everything unsafe of the program is here. On other systems the crate is empty.
#![cfg(windows)]

mod console;
mod device;
mod sockets;

pub use console::on_interrupt;
pub use device::Device;
pub use sockets::{connect_with_records, redirect_context, redirect_records};
