//! The few calls of Windows that Portcullis's user program makes: the driver's device, a proxy's sockets, the names of
//! network interfaces, and Ctrl+C.
//!
//! Everything unsafe of the program is here. On other systems the crate has nothing but the tests of how messages are laid
//! out.

#[cfg(windows)]
mod console;
#[cfg(windows)]
mod datagrams;
#[cfg(windows)]
mod device;
#[cfg(windows)]
mod interfaces;
#[cfg(any(windows, test))]
mod messages;
#[cfg(windows)]
mod sockets;

#[cfg(windows)]
pub use console::on_interrupt;
#[cfg(windows)]
pub use datagrams::{Datagram, RedirectedDatagrams, send_with_records};
#[cfg(windows)]
pub use device::Device;
#[cfg(windows)]
pub use interfaces::interface_luid;
#[cfg(windows)]
pub use sockets::{connect_with_records, redirect_context, redirect_records};
