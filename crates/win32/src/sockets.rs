//! What a proxy asks the sockets of redirected connections, and how it goes on.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/network/using-bind-or-connect-redirection>

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::windows::io::{AsRawSocket as _, FromRawSocket as _};
use std::ptr;

use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, IN_ADDR, IN_ADDR_0, IN6_ADDR, IN6_ADDR_0, INVALID_SOCKET, IPPROTO_TCP,
    SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT, SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS,
    SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS, SOCK_STREAM, SOCKADDR_IN, SOCKADDR_IN6,
    SOCKADDR_IN6_0, SOCKET, SOCKET_ERROR, WSAEFAULT, WSAGetLastError, WSAIoctl, connect, socket,
};

/// More than a driver's context, or the records of a few redirections, take.
const ROOM: usize = 4096;
/// As much as records may take.
const MOST: usize = 1 << 20;

/// `SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT`: what the driver told of an accepted connection.
///
/// # Errors
/// It was not redirected.
pub fn redirect_context(accepted: &TcpStream) -> io::Result<Vec<u8>> {
    query(accepted, SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT)
}

/// `SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS`: who redirected an accepted connection. To be handed to
/// [`connect_with_records`] as they are.
///
/// # Errors
/// It was not redirected.
pub fn redirect_records(accepted: &TcpStream) -> io::Result<Vec<u8>> {
    query(accepted, SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS)
}

/// Connects on behalf of a connection with these redirect records (`SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS`), so that
/// no redirector sends it back.
///
/// # Errors
/// What the system answers.
pub fn connect_with_records(to: SocketAddr, records: &[u8]) -> io::Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => AF_INET,
        SocketAddr::V6(_) => AF_INET6,
    };
    // SAFETY: no pointer is passed.
    let made = unsafe { socket(i32::from(family), SOCK_STREAM, IPPROTO_TCP) };
    if made == INVALID_SOCKET {
        return Err(last_error());
    }
    // SAFETY: the socket was just made, and is nobody else's. It is closed with the stream.
    let stream = unsafe { TcpStream::from_raw_socket(made as u64) };
    control(
        made,
        SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS,
        records,
        &mut [],
    )?;
    let connected = match to {
        SocketAddr::V4(to) => {
            let address = SOCKADDR_IN {
                sin_family: AF_INET,
                sin_port: to.port().to_be(),
                sin_addr: IN_ADDR {
                    S_un: IN_ADDR_0 {
                        S_addr: u32::from_ne_bytes(to.ip().octets()),
                    },
                },
                sin_zero: [0; 8],
            };
            // SAFETY: the address is of the size that is said, and only read.
            unsafe {
                connect(
                    made,
                    (&raw const address).cast(),
                    size_of_i32::<SOCKADDR_IN>(),
                )
            }
        }
        SocketAddr::V6(to) => {
            let address = SOCKADDR_IN6 {
                sin6_family: AF_INET6,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: to.flowinfo(),
                sin6_addr: IN6_ADDR {
                    u: IN6_ADDR_0 {
                        Byte: to.ip().octets(),
                    },
                },
                Anonymous: SOCKADDR_IN6_0 {
                    sin6_scope_id: to.scope_id(),
                },
            };
            // SAFETY: as above.
            unsafe {
                connect(
                    made,
                    (&raw const address).cast(),
                    size_of_i32::<SOCKADDR_IN6>(),
                )
            }
        }
    };
    if connected == SOCKET_ERROR {
        return Err(last_error());
    }
    Ok(stream)
}

fn query(accepted: &TcpStream, code: u32) -> io::Result<Vec<u8>> {
    let raw = usize::try_from(accepted.as_raw_socket()).map_err(io::Error::other)?;
    let mut answer = vec![0; ROOM];
    loop {
        match control(raw, code, &[], &mut answer) {
            Ok(length) => {
                answer.truncate(length);
                return Ok(answer);
            }
            Err(error) if error.raw_os_error() == Some(WSAEFAULT) && answer.len() < MOST => {
                answer.resize(answer.len() * 4, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// `WSAIoctl`; the length of the answer.
fn control(raw: SOCKET, code: u32, input: &[u8], output: &mut [u8]) -> io::Result<usize> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    let (input_length, output_length) = (length(input)?, length(output)?);
    let mut written = 0;
    // SAFETY: the socket is open, both buffers are as long as is said, and the call is over when it returns.
    let result = unsafe {
        WSAIoctl(
            raw,
            code,
            input.as_ptr().cast(),
            input_length,
            output.as_mut_ptr().cast(),
            output_length,
            &raw mut written,
            ptr::null_mut(),
            None,
        )
    };
    if result == SOCKET_ERROR {
        return Err(last_error());
    }
    Ok(usize::try_from(written).unwrap_or(0).min(output.len()))
}

pub(crate) fn last_error() -> io::Error {
    // SAFETY: no pointer is passed.
    io::Error::from_raw_os_error(unsafe { WSAGetLastError() })
}

pub(crate) const fn size_of_i32<T>() -> i32 {
    const { assert!(size_of::<T>() < 1 << 16) };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "asserted above"
    )]
    {
        size_of::<T>() as i32
    }
}
