//! Where what is in an IP packet, with every offset and length checked.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connection::{Endpoint, TCP, UDP};

/// Bytes of an IPv4 header without options.
const V4_HEADER: usize = 20;
/// Bytes of an IPv6 header without extension headers.
const V6_HEADER: usize = 40;
/// Most extension headers that are passed.
const MAX_EXTENSIONS: usize = 16;

/// IP protocol numbers of extension headers of IPv6.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// Bytes that are no IP packet, or one of which a part is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Which piece of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// A piece; the first one has the transport header.
    Piece,
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
    /// The source, as the IP header has it; the port is 0 where there is none.
    pub source: Endpoint,
    /// The destination, as above. Under a routing header it may not be the final one.
    pub destination: Endpoint,
    /// An extension header that pins addresses down (routing, authentication) is there: addresses and ports may not
    /// be changed.
    pub is_pinned: bool,
}

fn bytes<const N: usize>(packet: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    let end = at.checked_add(N).ok_or(Malformed)?;
    packet
        .get(at..end)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Malformed)
}

fn word(packet: &[u8], at: usize) -> Result<u16, Malformed> {
    bytes(packet, at).map(u16::from_be_bytes)
}

fn byte(packet: &[u8], at: usize) -> Result<u8, Malformed> {
    packet.get(at).copied().ok_or(Malformed)
}

impl Layout {
    /// Looks at a packet, which begins with its IP header and may be followed by padding.
    ///
    /// The fixed transport header of TCP and UDP, unless it is in another fragment, is all there.
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
        match byte(packet, 0)? >> 4 {
            4 => Self::v4(packet, length),
            6 => Self::v6(packet, length),
            _ => Err(Malformed),
        }
    }

    fn v4(packet: &[u8], length: usize) -> Result<Self, Malformed> {
        let header = usize::from(byte(packet, 0)? & 0xF) * 4;
        // What a network card is to split may be longer than the field can say.
        let total = match usize::from(word(packet, 2)?) {
            0 => length,
            total => total,
        };
        if header < V4_HEADER || total < header || total > length {
            return Err(Malformed);
        }
        let is_piece = word(packet, 6)? & 0x3FFF != 0;
        let address = |at| bytes::<4>(packet, at).map(|octets| IpAddr::V4(octets.into()));
        Self {
            is_v6: false,
            header,
            total,
            protocol: byte(packet, 9)?,
            fragment: if is_piece {
                Fragment::Piece
            } else {
                Fragment::Whole
            },
            source: Endpoint::new(address(12)?, 0),
            destination: Endpoint::new(address(16)?, 0),
            // A source route among the options.
            is_pinned: has_source_route(packet.get(V4_HEADER..header).ok_or(Malformed)?),
        }
        .with_ports(packet)
    }

    fn v6(packet: &[u8], length: usize) -> Result<Self, Malformed> {
        let total = match usize::from(word(packet, 4)?) {
            0 => length,
            payload => V6_HEADER + payload,
        };
        if total < V6_HEADER || total > length {
            return Err(Malformed);
        }
        let packet = packet.get(..total).unwrap_or(packet);
        let address = |at| bytes::<16>(packet, at).map(|octets| IpAddr::V6(octets.into()));
        let mut layout = Self {
            is_v6: true,
            header: V6_HEADER,
            total,
            protocol: byte(packet, 6)?,
            fragment: Fragment::Whole,
            source: Endpoint::new(address(8)?, 0),
            destination: Endpoint::new(address(24)?, 0),
            is_pinned: false,
        };
        for _ in 0..MAX_EXTENSIONS {
            let at = layout.header;
            let length = match layout.protocol {
                extension::HOP_BY_HOP | extension::DESTINATION => {
                    8 + 8 * usize::from(byte(packet, at + 1)?)
                }
                extension::ROUTING => {
                    layout.is_pinned = true;
                    8 + 8 * usize::from(byte(packet, at + 1)?)
                }
                extension::AUTHENTICATION => {
                    layout.is_pinned = true;
                    8 + 4 * usize::from(byte(packet, at + 1)?)
                }
                extension::FRAGMENT => {
                    if word(packet, at + 2)? & 0xFFF9 != 0 {
                        layout.fragment = Fragment::Piece;
                    }
                    8
                }
                _ => return layout.with_ports(packet),
            };
            layout.protocol = byte(packet, at)?;
            layout.header = at + length;
            if layout.header > total {
                return Err(Malformed);
            }
            if layout.fragment == Fragment::Piece {
                return Ok(layout);
            }
        }
        Err(Malformed)
    }

    fn with_ports(mut self, packet: &[u8]) -> Result<Self, Malformed> {
        let least = match self.protocol {
            TCP => 20,
            UDP => 8,
            _ => return Ok(self),
        };
        if self.fragment == Fragment::Piece {
            return Ok(self);
        }
        if self.total - self.header < least {
            return Err(Malformed);
        }
        let header = bytes::<4>(packet, self.header)?;
        // All of the fixed header is here.
        byte(packet, self.header + least - 1)?;
        let [a, b, c, d] = header;
        self.source.port = u16::from_be_bytes([a, b]);
        self.destination.port = u16::from_be_bytes([c, d]);
        Ok(self)
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
