//! Redirection: how a proxy registers itself, and what it is told of each connection that is sent to it.

use crate::callout::Family;
use crate::message::{Header, RequestError, read_padded, read_request};
use crate::policy::map_v4;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Request [`RegisterProxy`](crate::device::ControlCode::RegisterProxy): the process that asks listens there, and takes
/// what rules redirect to there, until it closes the handle that it asked by.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RegisterProxyRequest {
    /// Size and version.
    pub header: Header,
    /// Where it listens, in network order; IPv4 as IPv4-mapped IPv6. An address of this machine.
    pub address: [u8; 16],
    /// The port.
    pub port: U16,
    /// What it serves: the IP protocol number of TCP (6) or UDP (17); 0 for both.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

impl RegisterProxyRequest {
    /// The request of a proxy that listens there.
    #[must_use]
    pub const fn new(listens: SocketAddr, protocol: u8) -> Self {
        Self {
            header: Header::of::<Self>(),
            address: number(listens.ip()),
            port: U16::new(listens.port()),
            protocol,
            reserved: [0; 5],
        }
    }

    /// Checks an input buffer: where the proxy listens, and what it serves.
    ///
    /// # Errors
    /// What is wrong with the request; see [`RequestError`] for the status of each.
    pub fn parse(input: &[u8]) -> Result<(SocketAddr, u8), RequestError> {
        let (request, _) = read_request::<Self>(input)?;
        let address = Ipv6Addr::from_octets(request.address).to_canonical();
        let port = request.port.get();
        let is_valid = !address.is_unspecified()
            && port != 0
            && matches!(request.protocol, 0 | 6 | 17)
            && request.reserved == [0; 5];
        if is_valid {
            Ok((SocketAddr::new(address, port), request.protocol))
        } else {
            Err(RequestError::Reserved)
        }
    }
}

/// What a proxy is told of a connection that was sent to it: `SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT` on the accepted
/// socket; for UDP the control message `IP_WFP_REDIRECT_CONTEXT` of the datagram.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RedirectContext {
    /// Size and version.
    pub header: Header,
    /// Where the application wanted to connect to, in network order; IPv4 in the first four bytes.
    pub remote_address: [u8; 16],
    /// Where it connects from, likewise; unspecified where that is not known yet.
    pub local_address: [u8; 16],
    /// The port that it wanted to connect to.
    pub remote_port: U16,
    /// The port that it connects from; 0 where that is not known yet.
    pub local_port: U16,
    /// A [`Family`].
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: U16,
    /// The application's process; 0 unknown.
    pub process_id: U64,
    /// Epoch of the policy that sent it here.
    pub epoch: U64,
    /// Index of the rule that did.
    pub rule: U32,
    /// Zero.
    pub reserved2: U32,
}

impl RedirectContext {
    /// The context of a connection between these.
    #[must_use]
    pub const fn new(protocol: u8, local: SocketAddr, remote: SocketAddr) -> Self {
        let family = match remote {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        };
        Self {
            header: Header::of::<Self>(),
            remote_address: octets(remote.ip()),
            local_address: octets(local.ip()),
            remote_port: U16::new(remote.port()),
            local_port: U16::new(local.port()),
            family: family.raw(),
            protocol,
            reserved: U16::ZERO,
            process_id: U64::ZERO,
            epoch: U64::ZERO,
            rule: U32::ZERO,
            reserved2: U32::ZERO,
        }
    }

    /// Reads what a socket answered. `None` if it is no context of this major version: another product's, perhaps.
    #[must_use]
    pub fn read(context: &[u8]) -> Option<Self> {
        let (context, _) = read_padded::<Self>(context)?;
        Family::from_raw(context.family)?;
        Some(context)
    }

    /// Where the application wanted to connect to.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(
            address(self.family, self.remote_address),
            self.remote_port.get(),
        )
    }

    /// Where it connects from.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(
            address(self.family, self.local_address),
            self.local_port.get(),
        )
    }
}

const fn number(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => map_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

const fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn address(family: u8, octets: [u8; 16]) -> IpAddr {
    let [a, b, c, d, ..] = octets;
    if family == Family::V4.raw() {
        Ipv4Addr::new(a, b, c, d).into()
    } else {
        Ipv6Addr::from_octets(octets).into()
    }
}

const _: () = assert!(size_of::<RedirectContext>() == 72);

#[cfg(test)]
mod tests {
    use super::{RedirectContext, RegisterProxyRequest};
    use crate::message::RequestError;
    use core::net::SocketAddr;
    use zerocopy::IntoBytes;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_proxy_that_registers_is_understood_and_checked() {
        for listens in ["127.0.0.1:8080", "[::1]:8080"] {
            let request = RegisterProxyRequest::new(socket(listens), 6);
            assert_eq!(
                RegisterProxyRequest::parse(request.as_bytes()),
                Ok((socket(listens), 6))
            );
        }
        for (listens, protocol) in [
            ("127.0.0.1:0", 6),
            ("0.0.0.0:8080", 6),
            ("[::]:8080", 6),
            ("127.0.0.1:8080", 1),
        ] {
            let request = RegisterProxyRequest::new(socket(listens), protocol);
            assert_eq!(
                RegisterProxyRequest::parse(request.as_bytes()),
                Err(RequestError::Reserved),
                "{listens}"
            );
        }
        let mut request = RegisterProxyRequest::new(socket("127.0.0.1:1"), 0);
        request.reserved[4] = 1;
        assert!(RegisterProxyRequest::parse(request.as_bytes()).is_err());
        assert_eq!(
            RegisterProxyRequest::parse(&[0; 3]),
            Err(RequestError::TooShort)
        );
    }

    #[test]
    fn a_context_says_where_a_connection_was_to_go() {
        for (local, remote) in [
            ("192.0.2.1:50000", "198.51.100.1:443"),
            ("[2001:db8::1]:50000", "[2001:db8::2]:443"),
        ] {
            let context = RedirectContext::new(6, socket(local), socket(remote));
            let read = RedirectContext::read(context.as_bytes()).unwrap();
            assert_eq!(
                (read.local(), read.remote()),
                (socket(local), socket(remote))
            );
            assert_eq!(read, context);
        }
        assert_eq!(RedirectContext::read(b"another product's"), None);
        assert_eq!(RedirectContext::read(&[]), None);
    }
}
