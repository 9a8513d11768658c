//! The few calls of Windows that Portcullis's user program makes: the driver's device, and a proxy's sockets.
//!
//! Everything unsafe of the program is here. On other systems the crate is empty.
#![cfg(windows)]

mod device;
mod sockets;

pub use device::Device;
pub use sockets::{connect_with_records, redirect_context, redirect_records};
