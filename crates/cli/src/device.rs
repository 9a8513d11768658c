//! The driver on this machine.

use std::io;
use std::net::{SocketAddr, TcpStream};

use portcullis_proto::device::{ControlCode, WIN32_PATH};
use portcullis_proto::redirect::RedirectContext;
use wfp_schema::NtStatus;

use crate::control::{ControlError, Device};
use crate::proxy::Way;

/// The driver's control device on this machine.
#[derive(Debug)]
pub struct WindowsDevice(portcullis_win32::Device);

impl WindowsDevice {
    /// Opens it.
    ///
    /// # Errors
    /// [`ControlError::Open`]: the driver does not run, or this program is not an administrator's.
    pub fn open() -> Result<Self, ControlError> {
        portcullis_win32::Device::open(WIN32_PATH)
            .map(Self)
            .map_err(ControlError::Open)
    }
}

impl Device for WindowsDevice {
    fn control(
        &self,
        code: ControlCode,
        input: &[u8],
        output_size: usize,
    ) -> Result<Vec<u8>, ControlError> {
        self.0
            .control(code.raw(), input, output_size)
            .map_err(|status| ControlError::Refused {
                operation: code.name(),
                status: NtStatus::from_u32(status),
            })
    }
}

/// The proxy's way on this machine: its sockets are asked.
#[derive(Debug)]
pub struct Sockets;

impl Way for Sockets {
    fn context(&self, accepted: &TcpStream) -> io::Result<RedirectContext> {
        let context = portcullis_win32::redirect_context(accepted)?;
        RedirectContext::read(&context)
            .ok_or_else(|| io::Error::other("another product has redirected the connection"))
    }

    fn connect(&self, accepted: &TcpStream, to: SocketAddr) -> io::Result<TcpStream> {
        let records = portcullis_win32::redirect_records(accepted)?;
        portcullis_win32::connect_with_records(to, &records)
    }
}
