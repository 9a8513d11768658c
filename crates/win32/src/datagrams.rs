//! What a proxy learns of redirected datagrams, and how it sends them on: the control messages of `WSARecvMsg` and
//! `WSASendMsg`.
//!
//! <https://learn.microsoft.com/windows/win32/winsock/ipproto-ip-socket-options>

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::windows::io::AsRawSocket as _;
use std::ptr;

use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, CMSGHDR, IP_WFP_REDIRECT_CONTEXT, IP_WFP_REDIRECT_RECORDS, IPPROTO_IP,
    IPPROTO_IPV6, IPV6_WFP_REDIRECT_CONTEXT, IPV6_WFP_REDIRECT_RECORDS, LPFN_WSARECVMSG,
    SIO_GET_EXTENSION_FUNCTION_POINTER, SOCKET, SOCKET_ERROR, WSABUF, WSAID_WSARECVMSG, WSAIoctl,
    WSAMSG, WSASendMsg, setsockopt,
};

use crate::messages::{
    self, address_bytes, address_of, bytes, control_message, control_with, words,
};
use crate::sockets::{last_error, size_of_i32};

/// Room for control messages, in words: a driver's context, and the records of a few redirections.
const CONTROL_WORDS: usize = 1024;
/// Bytes of a `SOCKADDR_STORAGE`, in words.
const ADDRESS_WORDS: usize = 16;

const _: () = {
    assert!(messages::HEADER == size_of::<CMSGHDR>());
    assert!(messages::ALIGNMENT == align_of::<CMSGHDR>());
    assert!(messages::AF_INET == AF_INET && messages::AF_INET6 == AF_INET6);
};

/// A UDP socket to which datagrams are redirected.
#[derive(Debug)]
pub struct RedirectedDatagrams {
    socket: UdpSocket,
    receive: LPFN_WSARECVMSG,
    is_v4: bool,
}

/// A datagram, with what its control messages say.
#[derive(Debug)]
pub struct Datagram {
    /// Its bytes in the buffer.
    pub length: usize,
    /// Who has sent it.
    pub from: SocketAddr,
    /// What the driver told of it; empty if nothing came with it.
    pub context: Vec<u8>,
    /// Who redirected it; empty if nothing came with it.
    pub records: Vec<u8>,
}

impl RedirectedDatagrams {
    /// Asks for the control messages of a bound socket.
    ///
    /// # Errors
    /// What the system answers.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let is_v4 = socket.local_addr()?.is_ipv4();
        let (level, context, records) = kinds(is_v4);
        let raw = raw(&socket)?;
        for option in [context, records] {
            let on = 1_u32;
            // SAFETY: the value is as long as is said, and only read.
            let result = unsafe {
                setsockopt(
                    raw,
                    level,
                    option,
                    (&raw const on).cast(),
                    size_of_i32::<u32>(),
                )
            };
            if result == SOCKET_ERROR {
                return Err(last_error());
            }
        }
        Ok(Self {
            receive: receive_function(raw)?,
            socket,
            is_v4,
        })
    }

    /// The socket.
    #[must_use]
    pub const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Receives a datagram into `buffer` (`WSARecvMsg`).
    ///
    /// # Errors
    /// What the system answers: nothing has come within the socket's time, or the datagram does not fit.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let receive = self
            .receive
            .ok_or_else(|| io::Error::from(ErrorKind::Unsupported))?;
        let mut address = [0_u64; ADDRESS_WORDS];
        let mut control = [0_u64; CONTROL_WORDS];
        let mut data = WSABUF {
            len: u32::try_from(buffer.len()).unwrap_or(u32::MAX),
            buf: buffer.as_mut_ptr(),
        };
        let mut message = WSAMSG {
            name: address.as_mut_ptr().cast(),
            namelen: size_of_i32::<[u64; ADDRESS_WORDS]>(),
            lpBuffers: &raw mut data,
            dwBufferCount: 1,
            Control: WSABUF {
                len: size_of_i32::<[u64; CONTROL_WORDS]>().unsigned_abs(),
                buf: control.as_mut_ptr().cast(),
            },
            dwFlags: 0,
        };
        let mut length = 0;
        // SAFETY: the message leads to buffers that are as long as it says and live until the call is over, which it is
        // when it returns.
        let result = unsafe {
            receive(
                raw(&self.socket)?,
                &raw mut message,
                &raw mut length,
                ptr::null_mut(),
                None,
            )
        };
        if result == SOCKET_ERROR {
            return Err(last_error());
        }
        let from = address_of(&bytes(&address))
            .ok_or_else(|| io::Error::other("a datagram came from no address"))?;
        let control = bytes(&control);
        let known = usize::try_from(message.Control.len).unwrap_or(usize::MAX);
        let control = control.get(..known).unwrap_or(&control);
        let (level, context, records) = kinds(self.is_v4);
        let find = |kind| {
            control_message(control, level, kind)
                .unwrap_or_default()
                .to_vec()
        };
        Ok(Datagram {
            length: usize::try_from(length).unwrap_or(0).min(buffer.len()),
            from,
            context: find(context),
            records: find(records),
        })
    }
}

/// Sends a datagram on behalf of one with these redirect records, so that no redirector sends it back (`WSASendMsg`).
///
/// # Errors
/// What the system answers.
pub fn send_with_records(
    by: &UdpSocket,
    datagram: &[u8],
    to: SocketAddr,
    records: &[u8],
) -> io::Result<()> {
    let (level, _, kind) = kinds(to.is_ipv4());
    let mut control = control_with(level, kind, records);
    let mut address = words(&address_bytes(to));
    let mut data = WSABUF {
        len: u32::try_from(datagram.len()).map_err(io::Error::other)?,
        buf: datagram.as_ptr().cast_mut(),
    };
    let has_records = !records.is_empty();
    let message = WSAMSG {
        name: address.as_mut_ptr().cast(),
        namelen: if to.is_ipv4() { 16 } else { 28 },
        lpBuffers: &raw mut data,
        dwBufferCount: 1,
        Control: WSABUF {
            len: if has_records {
                u32::try_from(control.len() * size_of::<u64>()).map_err(io::Error::other)?
            } else {
                0
            },
            buf: control.as_mut_ptr().cast(),
        },
        dwFlags: 0,
    };
    let mut sent = 0;
    // SAFETY: the message leads to buffers that are as long as it says, which are only read, and live until the call is over,
    // which it is when it returns.
    let result = unsafe {
        WSASendMsg(
            raw(by)?,
            &raw const message,
            0,
            &raw mut sent,
            ptr::null_mut(),
            None,
        )
    };
    if result == SOCKET_ERROR {
        return Err(last_error());
    }
    Ok(())
}

/// The level and the types of the control messages of one IP version: context, then records.
const fn kinds(is_v4: bool) -> (i32, i32, i32) {
    if is_v4 {
        (IPPROTO_IP, IP_WFP_REDIRECT_CONTEXT, IP_WFP_REDIRECT_RECORDS)
    } else {
        (
            IPPROTO_IPV6,
            IPV6_WFP_REDIRECT_CONTEXT,
            IPV6_WFP_REDIRECT_RECORDS,
        )
    }
}

fn raw(socket: &UdpSocket) -> io::Result<SOCKET> {
    SOCKET::try_from(socket.as_raw_socket()).map_err(io::Error::other)
}

/// `WSARecvMsg`, which is no export.
fn receive_function(raw: SOCKET) -> io::Result<LPFN_WSARECVMSG> {
    let which = WSAID_WSARECVMSG;
    let mut function: LPFN_WSARECVMSG = None;
    let mut written = 0;
    // SAFETY: the input is a GUID, the output takes a pointer to a function, and the call is over when it returns.
    let result = unsafe {
        WSAIoctl(
            raw,
            SIO_GET_EXTENSION_FUNCTION_POINTER,
            (&raw const which).cast(),
            16,
            (&raw mut function).cast(),
            size_of_i32::<LPFN_WSARECVMSG>().unsigned_abs(),
            &raw mut written,
            ptr::null_mut(),
            None,
        )
    };
    if result == SOCKET_ERROR {
        return Err(last_error());
    }
    Ok(function)
}
