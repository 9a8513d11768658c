//! Where what is in an IP packet, with every offset and length checked.
//!
//! [`Headers`] are the one walk over IP's headers, as far as they are there. [`Layout`] is a packet that is whole enough to be
//! changed.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connection::{Endpoint, TCP, UDP};

/// Bytes of a packet in which the headers are that are looked at: the longest of IPv4 and TCP, or those of IPv6 with some
/// extension headers.
pub const HEADERS: usize = 192;

/// Bytes of an IPv4 header without options.
const V4_HEADER: usize = 20;
/// Bytes of an IPv6 header without extension headers.
const V6_HEADER: usize = 40;
/// Most extension headers that are passed.
const MAX_EXTENSIONS: usize = 16;

/// IP protocol numbers of extension headers of IPv6 that can be passed: IANA's list without ESP, which hides what follows, and
/// the two for experiments.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HOST_IDENTITY: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// Bytes that are no IP packet, or one of which a part is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Which piece of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first piece, which has the transport header.
    First,
    /// Another piece.
    Later,
}

impl Fragment {
    /// Of the offset and of whether more follow.
    const fn of(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }

    /// Whether it is not all of the datagram.
    #[must_use]
    pub const fn is_piece(self) -> bool {
        !matches!(self, Self::Whole)
    }
}

/// The headers that IP puts before a transport's, as far as they are there to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The version: 6, else 4.
    pub is_v6: bool,
    /// The source, as the IP header has it.
    pub source: IpAddr,
    /// The destination, as above. Under a routing header it may not be the final one.
    pub destination: IpAddr,
    /// Bytes of the packet as it says itself. `None`: it does not, because a network card is to split it.
    pub total: Option<usize>,
    /// Bytes before what `protocol` names: the IP header with its options, or extension headers.
    pub length: usize,
    /// IP protocol number of what follows.
    pub protocol: u8,
    /// Which piece it is.
    pub fragment: Fragment,
    /// Something that pins addresses down is there (a source route, a routing or an authentication header): addresses and
    /// ports may not be changed.
    pub is_pinned: bool,
    /// Not all headers are there, or there are too many: `protocol` may be an extension header's.
    pub is_cut: bool,
}

fn bytes<const N: usize>(packet: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    let end = at.checked_add(N).ok_or(Malformed)?;
    packet
        .get(at..end)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Malformed)
}

impl Headers {
    /// Walks the headers of a packet, of which the first bytes are here.
    ///
    /// # Errors
    /// [`Malformed`]: it does not begin with an IP header without options or extension headers.
    pub fn walk(packet: &[u8]) -> Result<Self, Malformed> {
        match packet.first().ok_or(Malformed)? >> 4 {
            4 => Self::v4(packet),
            6 => Self::v6(packet),
            _ => Err(Malformed),
        }
    }

    /// What follows the headers, without padding. Empty in a piece other than the first, or if nothing of it is here.
    #[must_use]
    pub fn transport<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        if self.is_cut || self.fragment == Fragment::Later {
            return &[];
        }
        let end = self.total.unwrap_or(packet.len()).min(packet.len());
        packet.get(self.length..end).unwrap_or_default()
    }

    fn v4(packet: &[u8]) -> Result<Self, Malformed> {
        let header: [u8; V4_HEADER] = bytes(packet, 0)?;
        let address = |at| bytes::<4>(packet, at).map(|octets| IpAddr::V4(octets.into()));
        let word = |at| bytes(packet, at).map(u16::from_be_bytes);
        let length = usize::from(header[0] & 0xF) * 4;
        if length < V4_HEADER {
            return Err(Malformed);
        }
        let fragment = word(6)?;
        let options = packet.get(V4_HEADER..length);
        Ok(Self {
            is_v6: false,
            source: address(12)?,
            destination: address(16)?,
            // What a network card is to split may be longer than the field can say.
            total: Some(usize::from(word(2)?)).filter(|&total| total > 0),
            length,
            protocol: header[9],
            fragment: Fragment::of(fragment & 0x1FFF, fragment & 0x2000 != 0),
            is_pinned: options.is_some_and(has_source_route),
            is_cut: options.is_none(),
        })
    }

    fn v6(packet: &[u8]) -> Result<Self, Malformed> {
        let address = |at| bytes::<16>(packet, at).map(|octets| IpAddr::V6(octets.into()));
        let [high, low, protocol, _] = bytes(packet, 4)?;
        let payload = usize::from(u16::from_be_bytes([high, low]));
        let mut headers = Self {
            is_v6: true,
            source: address(8)?,
            destination: address(24)?,
            total: Some(V6_HEADER + payload).filter(|_| payload > 0),
            length: V6_HEADER,
            protocol,
            fragment: Fragment::Whole,
            is_pinned: false,
            is_cut: false,
        };
        let end = headers.total.unwrap_or(packet.len()).min(packet.len());
        headers.pass_extensions(packet.get(..end).unwrap_or(packet));
        Ok(headers)
    }

    /// Goes on behind the extension headers.
    fn pass_extensions(&mut self, packet: &[u8]) {
        for passed in 0..=MAX_EXTENSIONS {
            let is_known = matches!(
                self.protocol,
                extension::HOP_BY_HOP
                    | extension::ROUTING
                    | extension::FRAGMENT
                    | extension::AUTHENTICATION
                    | extension::DESTINATION
                    | extension::MOBILITY
                    | extension::HOST_IDENTITY
                    | extension::SHIM6
            );
            // What follows in a later piece is data.
            if !is_known || self.fragment == Fragment::Later {
                return;
            }
            let Ok([next, units, high, low]) = bytes(packet, self.length) else {
                break;
            };
            if passed == MAX_EXTENSIONS {
                break;
            }
            let length = match self.protocol {
                extension::FRAGMENT => 8,
                extension::AUTHENTICATION => 8 + 4 * usize::from(units),
                _ => 8 + 8 * usize::from(units),
            };
            if self.length + length > packet.len() {
                break;
            }
            match self.protocol {
                extension::FRAGMENT => {
                    let field = u16::from_be_bytes([high, low]);
                    let fragment = Fragment::of(field >> 3, field & 1 != 0);
                    // A second such header does not make a piece whole.
                    if fragment.is_piece() {
                        self.fragment = fragment;
                    }
                }
                extension::ROUTING | extension::AUTHENTICATION => self.is_pinned = true,
                _ => {}
            }
            self.protocol = next;
            self.length += length;
        }
        self.is_cut = true;
    }
}

/// Where what is in an IP packet that begins with its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The version: 6, else 4.
    pub is_v6: bool,
    /// Bytes before the transport header: the IP header with its options, or extension headers.
    pub header: usize,
    /// Bytes of the packet; what follows is padding.
    pub total: usize,
    /// IP protocol number of what follows the header.
    pub protocol: u8,
    /// Which piece it is.
    pub fragment: Fragment,
    /// The source, as the IP header has it; the port is 0 where there is none, and in a piece.
    pub source: Endpoint,
    /// The destination, as above. Under a routing header it may not be the final one.
    pub destination: Endpoint,
    /// Addresses and ports may not be changed, as [`Headers::is_pinned`] says.
    pub is_pinned: bool,
}

impl Layout {
    /// Looks at a packet, which begins with its IP header and may be followed by padding.
    ///
    /// The fixed transport header of TCP and UDP, unless it is a piece of a datagram, is all there.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn new_checked(packet: &[u8]) -> Result<Self, Malformed> {
        Self::of_first(packet, packet.len())
    }

    /// Looks at a packet of `length` bytes, of which the first are here.
    ///
    /// # Errors
    /// [`Malformed`], also if the headers are longer than what is here.
    pub fn of_first(packet: &[u8], length: usize) -> Result<Self, Malformed> {
        let headers = Headers::walk(packet)?;
        let total = headers.total.unwrap_or(length);
        if headers.length > total || total > length {
            return Err(Malformed);
        }
        let mut layout = Self {
            is_v6: headers.is_v6,
            header: headers.length,
            total,
            protocol: headers.protocol,
            fragment: headers.fragment,
            source: Endpoint::new(headers.source, 0),
            destination: Endpoint::new(headers.destination, 0),
            is_pinned: headers.is_pinned,
        };
        if headers.fragment.is_piece() {
            return Ok(layout);
        }
        if headers.is_cut {
            return Err(Malformed);
        }
        let least = match headers.protocol {
            TCP => 20,
            UDP => 8,
            _ => return Ok(layout),
        };
        let transport = headers.transport(packet);
        if transport.len() < least {
            return Err(Malformed);
        }
        let [a, b, c, d] = bytes(transport, 0)?;
        layout.source.port = u16::from_be_bytes([a, b]);
        layout.destination.port = u16::from_be_bytes([c, d]);
        Ok(layout)
    }

    /// Where the transport's checksum is; `None` if it has none that covers addresses, or is in another fragment.
    #[must_use]
    pub const fn checksum_at(&self) -> Option<usize> {
        match (self.fragment, self.protocol) {
            (Fragment::Whole, TCP) => Some(self.header + 16),
            (Fragment::Whole, UDP) => Some(self.header + 6),
            _ => None,
        }
    }

    /// Where the packet's source and destination address are, and how many bytes each has.
    #[must_use]
    pub const fn addresses_at(&self) -> (usize, usize, usize) {
        if self.is_v6 { (8, 24, 16) } else { (12, 16, 4) }
    }
}

/// Whether IPv4 options hold a loose (131) or strict (137) source route. Each option but the first two kinds has its
/// length in its second byte.
fn has_source_route(mut options: &[u8]) -> bool {
    while let Some((&kind, rest)) = options.split_first() {
        options = match kind {
            0 => return false,
            1 => rest,
            131 | 137 => return true,
            _ => {
                let length = rest.first().map_or(2, |&length| usize::from(length.max(2)));
                options.get(length..).unwrap_or_default()
            }
        };
    }
    false
}

/// The octets of an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Octets {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Octets {
    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(Ipv4Addr::octets(&address)),
            IpAddr::V6(address) => Self::V6(Ipv6Addr::octets(&address)),
        }
    }

    pub(crate) const fn as_slice(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
        }
    }
}
