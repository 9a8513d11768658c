//! The driver on this machine.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use portcullis_proto::device::{ControlCode, WIN32_PATH};
use portcullis_proto::redirect::RedirectContext;
use wfp_schema::NtStatus;

use crate::control::{ControlError, Device};
use crate::proxy::{Way, datagrams};

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

/// A UDP socket of the proxy on this machine: the control messages of its datagrams are asked.
#[derive(Debug)]
pub struct Datagrams(portcullis_win32::RedirectedDatagrams);

impl Datagrams {
    /// Listens there.
    ///
    /// # Errors
    /// What the system answers.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(datagrams::TICK))?;
        portcullis_win32::RedirectedDatagrams::new(socket).map(Self)
    }
}

impl datagrams::Way for Datagrams {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<datagrams::Arrived>> {
        match self.0.receive(buffer) {
            Ok(datagram) => Ok(Some(datagrams::Arrived {
                length: datagram.length,
                from: datagram.from,
                context: RedirectContext::read(&datagram.context),
                records: datagram.records,
            })),
            Err(error) if datagrams::is_passing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn send_on(
        &self,
        by: &UdpSocket,
        data: &[u8],
        to: SocketAddr,
        records: &[u8],
    ) -> io::Result<()> {
        portcullis_win32::send_with_records(by, data, to, records)
    }

    fn answer(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.socket().send_to(data, to).map(drop)
    }
}
