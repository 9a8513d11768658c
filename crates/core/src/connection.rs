//! What is known of a connection when it is decided.

use core::net::IpAddr;
use portcullis_proto::event::MAX_PATH_UNITS;
use portcullis_proto::policy::{Direction, fold_unit, map_v4};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Whether a protocol is ICMP, of either IP version.
#[must_use]
pub(crate) const fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, 1 | 58)
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The IP address. Never an IPv4-mapped one: what a dual-mode socket sends over IPv4 is IPv4 traffic, at whichever layers
    /// WFP shows it.
    pub address: IpAddr,
    /// The port in the processor's byte order, as WFP gives it. For ICMP WFP puts the message's type into the local
    /// port and its code into the remote one.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint; an IPv4-mapped address is taken for the IPv4 one.
    #[must_use]
    pub const fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address: address.to_canonical(),
            port,
        }
    }

    /// The address as the policy's 128-bit number: IPv4 as IPv4-mapped IPv6.
    #[must_use]
    pub const fn number(&self) -> u128 {
        match self.address {
            IpAddr::V4(v4) => u128::from_be_bytes(map_v4(v4.octets())),
            IpAddr::V6(v6) => u128::from_be_bytes(v6.octets()),
        }
    }
}

/// The path of the application that owns an endpoint, as `ALE_APP_ID` has it: UTF-16 in NT form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Application<'a> {
    utf16: &'a [u8],
    truncated: bool,
}

impl<'a> Application<'a> {
    /// No application is known. A rule's application condition does not match it.
    pub const UNKNOWN: Self = Self {
        utf16: &[],
        truncated: false,
    };

    /// The application of this path: little-endian UTF-16, with or without a terminator (WFP's blobs have one).
    #[must_use]
    pub const fn new(utf16: &'a [u8]) -> Self {
        match utf16 {
            [path @ .., 0, 0] if path.len().is_multiple_of(2) => Self {
                utf16: path,
                truncated: false,
            },
            _ => Self {
                utf16,
                truncated: false,
            },
        }
    }

    /// The first part of a path that was too long to keep. Its true path is not known, so a rule that blocks
    /// applications matches it, and a rule that permits applications does not.
    #[must_use]
    pub const fn truncated(utf16: &'a [u8]) -> Self {
        Self {
            utf16,
            truncated: true,
        }
    }

    /// Whether this is only the path's first part.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// The path's bytes: little-endian UTF-16 without a terminator.
    #[must_use]
    pub const fn as_utf16(&self) -> &'a [u8] {
        self.utf16
    }

    /// Whether both are one path, as far as it is kept; upper and lower case of ASCII are the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let kept = |path: &Self| path.units().take(MAX_PATH_UNITS).map(fold_unit);
        kept(self).eq(kept(other))
    }

    /// The path's code units.
    #[must_use]
    pub fn units(&self) -> impl ExactSizeIterator<Item = u16> + Clone + use<'a> {
        self.utf16
            .as_chunks()
            .0
            .iter()
            .map(|&pair| u16::from_le_bytes(pair))
    }
}

/// What is known of a connection, or of the exchange of datagrams with one peer.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Who began it.
    pub direction: Direction,
    /// IP protocol number.
    pub protocol: u8,
    /// This machine's side.
    pub local: Endpoint,
    /// The other side.
    pub remote: Endpoint,
    /// Who owns the local endpoint.
    pub application: Application<'a>,
    /// The SID of the user whom the application runs as, as Windows lays it out; empty if unknown. A rule's user
    /// condition does not match an unknown user.
    pub user: &'a [u8],
    /// The process; 0 if unknown. It takes no part in decisions.
    pub process_id: u64,
    /// WFP's handle of its flow; 0 if unknown. It takes no part in decisions.
    pub flow: u64,
    /// The LUID of the network interface that its packets take; 0 if unknown. A rule that blocks by interface matches an
    /// unknown one, a rule that permits by interface does not.
    pub interface: u64,
}

impl Connection<'_> {
    /// The port of the side that did not begin the connection: the one that names the service.
    #[must_use]
    pub const fn responder_port(&self) -> u16 {
        match self.direction {
            Direction::Outbound => self.remote.port,
            Direction::Inbound => self.local.port,
        }
    }
}

/// What is known of an endpoint that wants to listen.
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    /// Where it listens; the unspecified address if everywhere.
    pub local: Endpoint,
    /// Who owns the endpoint.
    pub application: Application<'a>,
    /// As in [`Connection::user`].
    pub user: &'a [u8],
    /// As in [`Connection::process_id`].
    pub process_id: u64,
    /// The LUID of the network interface that has its address; 0 if it listens on every interface.
    pub interface: u64,
}

/// What is known of a socket that is bound, before it is.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// IP protocol number.
    pub protocol: u8,
    /// Where it is to be bound; the unspecified address and port 0 where the system chooses.
    pub local: Endpoint,
    /// As in [`Connection::application`].
    pub application: Application<'a>,
    /// As in [`Connection::user`].
    pub user: &'a [u8],
    /// As in [`Connection::process_id`].
    pub process_id: u64,
}

/// What is known of a socket that is bound, or whose bind is over.
#[derive(Clone, Copy, Debug)]
pub struct Socket<'a> {
    /// Where, and whose it is.
    pub listener: Listener<'a>,
    /// IP protocol number.
    pub protocol: u8,
    /// A raw socket.
    pub is_raw: bool,
    /// The system chose the port.
    pub any_port: bool,
    /// What the socket is to see of an interface's packets (`SIO_RCVALL`); 0 for its own only.
    pub promiscuous: u32,
}
