//! IP packets as slices: where each header starts, and the numbers in it that the stack needs.
//!
//! Nothing is copied and nothing outside the slice is read; a packet that a capture cut short is parsed as
//! far as it goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wfp_schema::IpVersion;

/// IP protocol numbers that the stack knows.
pub mod protocol {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Internet Group Management Protocol.
    pub const IGMP: u8 = 2;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// Internet Control Message Protocol for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// IPv6 extension headers that a chain may have; Windows drops longer ones too.
const MAX_EXTENSIONS: usize = 16;

/// Why bytes are not an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// No byte at all.
    #[error("the packet is empty")]
    Empty,
    /// The version is neither 4 nor 6.
    #[error("the IP version is {0}")]
    Version(u8),
    /// The IP header does not fit into the packet.
    #[error("the IP header is cut short")]
    HeaderCut,
    /// The header length of an IPv4 packet is below 20 or above the total length.
    #[error("the IPv4 header length is impossible")]
    HeaderLength,
    /// An extension header of an IPv6 packet does not fit, or there are too many.
    #[error("the chain of IPv6 extension headers is broken")]
    Extensions,
    /// A fragment has no data, or reaches beyond the largest datagram, or has an odd length before the end.
    #[error("the fragment's offset or length is impossible")]
    Fragment,
}

/// A piece of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification of the datagram.
    pub identification: u32,
    /// Offset of this piece in the datagram's data, in bytes.
    pub offset: u16,
    /// Whether pieces follow.
    pub more: bool,
    /// Where the byte that names the fragment header (IPv6) or the protocol (IPv4) stands.
    pub next_header_at: usize,
    /// Length of the header that repeats in front of each piece.
    pub unfragmentable: usize,
}

impl Fragment {
    /// Where the data of this piece stands in its packet.
    pub(super) const fn data_at(&self) -> usize {
        // An IPv6 fragment header has 8 bytes; an IPv4 header holds the fields itself.
        if self.next_header_at == 9 {
            self.unfragmentable
        } else {
            self.unfragmentable + 8
        }
    }
}

/// Bits of the TCP header's flags.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
}

/// What the stack needs of a TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// [`tcp_flag`] bits.
    pub flags: u8,
}

impl Tcp {
    /// Whether all of these flags are set.
    #[must_use]
    pub const fn has(self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Whether the segment asks for a connection (SYN without ACK).
    #[must_use]
    pub const fn opens(self) -> bool {
        self.flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN
    }
}

/// What the stack needs of an ICMP header of either version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Identifier and sequence number as one number, of messages that have them.
    pub id_and_sequence: Option<u32>,
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp(Tcp),
    /// A UDP datagram.
    Udp,
    /// An ICMP message of either version.
    Icmp(Icmp),
    /// Another protocol, a fragment, or a transport header that is cut short or impossible.
    Opaque,
}

/// A parsed IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The packet from its IP header to its end, without what follows it on the link.
    pub bytes: &'a [u8],
    /// IP version.
    pub version: IpVersion,
    /// Source address; IPv4 in the low 32 bits.
    pub source: u128,
    /// Destination address; IPv4 in the low 32 bits.
    pub destination: u128,
    /// Protocol number of what follows the IP header and its extensions.
    pub protocol: u8,
    /// Length on the wire; more than `bytes` holds if the capture cut the packet.
    pub wire_len: usize,
    /// Identification of an IPv4 packet, 0 for IPv6.
    pub identification: u16,
    /// Set if the packet is a piece of a datagram.
    pub fragment: Option<Fragment>,
    /// Length of the IP header with options or extension headers.
    pub ip_header_len: usize,
    /// Length of the transport header, as far as it was captured; 0 for [`Transport::Opaque`].
    pub transport_header_len: usize,
    /// Length on the wire of the data behind the transport header.
    pub payload_wire_len: usize,
    /// Source port, 0 where there is none.
    pub source_port: u16,
    /// Destination port, 0 where there is none.
    pub destination_port: u16,
    /// The transport header.
    pub transport: Transport,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_be_bytes(
        bytes.get(at..at + 16)?.try_into().ok()?,
    ))
}

/// An address as `std` has it.
#[must_use]
pub const fn ip_addr(version: IpVersion, address: u128) -> IpAddr {
    match version {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "IPv4 is in the low 32 bits"
        )]
        IpVersion::V4 => IpAddr::V4(Ipv4Addr::from_bits(address as u32)),
        IpVersion::V6 => IpAddr::V6(Ipv6Addr::from_bits(address)),
    }
}

impl<'a> Packet<'a> {
    /// Parses a packet that starts with its IP header.
    ///
    /// # Errors
    /// [`Malformed`] if the IP header can't be understood. What follows it may be anything.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut packet = match bytes.first().ok_or(Malformed::Empty)? >> 4 {
            4 => Self::ipv4(bytes)?,
            6 => Self::ipv6(bytes)?,
            version => return Err(Malformed::Version(version)),
        };
        if packet.fragment.is_none() {
            packet.parse_transport();
        }
        Ok(packet)
    }

    fn ipv4(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.get(..20).ok_or(Malformed::HeaderCut)?;
        let ip_header_len = usize::from(header[0] & 0x0f) * 4;
        // Segmentation offload leaves a length of 0 in packets captured on their way out.
        let wire_len = match usize::from(u16::from_be_bytes([header[2], header[3]])) {
            0 => bytes.len(),
            length => length,
        };
        if ip_header_len < 20 || ip_header_len > wire_len {
            return Err(Malformed::HeaderLength);
        }
        if ip_header_len > bytes.len() {
            return Err(Malformed::HeaderCut);
        }
        let identification = u16::from_be_bytes([header[4], header[5]]);
        let fragmentation = u16::from_be_bytes([header[6], header[7]]);
        let (offset, more) = ((fragmentation & 0x1fff) << 3, fragmentation & 0x2000 != 0);
        let fragment = if offset != 0 || more {
            Some(Self::check_fragment(
                Fragment {
                    identification: u32::from(identification),
                    offset,
                    more,
                    next_header_at: 9,
                    unfragmentable: ip_header_len,
                },
                wire_len - ip_header_len,
            )?)
        } else {
            None
        };
        Ok(Self {
            bytes: &bytes[..wire_len.min(bytes.len())],
            version: IpVersion::V4,
            source: u128::from(u32_at(header, 12).unwrap_or(0)),
            destination: u128::from(u32_at(header, 16).unwrap_or(0)),
            protocol: header[9],
            wire_len,
            identification,
            fragment,
            ip_header_len,
            transport_header_len: 0,
            payload_wire_len: 0,
            source_port: 0,
            destination_port: 0,
            transport: Transport::Opaque,
        })
    }

    fn ipv6(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.get(..40).ok_or(Malformed::HeaderCut)?;
        // 0: a jumbogram, or segmentation offload.
        let wire_len = match usize::from(u16::from_be_bytes([header[4], header[5]])) {
            0 => bytes.len(),
            length => 40 + length,
        };
        let bytes = &bytes[..wire_len.min(bytes.len())];
        let (mut next, mut next_at, mut at) = (header[6], 6, 40);
        let mut fragment = None;
        for extension in 0.. {
            let length = match next {
                // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
                0 | 43 | 60 | 135 | 139 | 140 => {
                    8 * (1 + usize::from(*bytes.get(at + 1).ok_or(Malformed::Extensions)?))
                }
                // Authentication header.
                51 => 4 * (2 + usize::from(*bytes.get(at + 1).ok_or(Malformed::Extensions)?)),
                44 => {
                    let word = u16_at(bytes, at + 2).ok_or(Malformed::Extensions)?;
                    let identification = u32_at(bytes, at + 4).ok_or(Malformed::Extensions)?;
                    let (offset, more) = (word & 0xfff8, word & 1 != 0);
                    // An offset of 0 with nothing to follow is a whole datagram (RFC 6946).
                    if offset != 0 || more {
                        fragment = Some(Self::check_fragment(
                            Fragment {
                                identification,
                                offset,
                                more,
                                next_header_at: next_at,
                                unfragmentable: at,
                            },
                            wire_len - (at + 8),
                        )?);
                    }
                    8
                }
                _ => break,
            };
            if extension == MAX_EXTENSIONS || at + length > bytes.len() {
                return Err(Malformed::Extensions);
            }
            (next, next_at) = (bytes[at], at);
            at += length;
            if fragment.is_some() {
                break;
            }
        }
        Ok(Self {
            bytes,
            version: IpVersion::V6,
            source: u128_at(header, 8).unwrap_or(0),
            destination: u128_at(header, 24).unwrap_or(0),
            protocol: next,
            wire_len,
            identification: 0,
            fragment,
            ip_header_len: at,
            transport_header_len: 0,
            payload_wire_len: 0,
            source_port: 0,
            destination_port: 0,
            transport: Transport::Opaque,
        })
    }

    fn check_fragment(fragment: Fragment, length: usize) -> Result<Fragment, Malformed> {
        let fits = u16::try_from(usize::from(fragment.offset) + length).is_ok();
        if length == 0 || !fits || (fragment.more && !length.is_multiple_of(8)) {
            return Err(Malformed::Fragment);
        }
        Ok(fragment)
    }

    fn parse_transport(&mut self) {
        let bytes = &self.bytes[self.ip_header_len..];
        let on_wire = self.wire_len - self.ip_header_len;
        self.payload_wire_len = on_wire;
        let ports = |packet: &mut Self| {
            packet.source_port = u16_at(bytes, 0).unwrap_or(0);
            packet.destination_port = u16_at(bytes, 2).unwrap_or(0);
        };
        match (self.protocol, self.version) {
            (protocol::TCP, _) => {
                ports(self);
                if let (Some(sequence), Some(acknowledgment), Some(&offset), Some(&flags)) = (
                    u32_at(bytes, 4),
                    u32_at(bytes, 8),
                    bytes.get(12),
                    bytes.get(13),
                ) {
                    let length = usize::from(offset >> 4) * 4;
                    if length >= 20 && length <= on_wire {
                        self.transport_header_len = length.min(bytes.len());
                        self.payload_wire_len = on_wire - length;
                        self.transport = Transport::Tcp(Tcp {
                            sequence,
                            acknowledgment,
                            flags,
                        });
                    }
                }
            }
            (protocol::UDP, _) => {
                ports(self);
                if bytes.len() >= 8 {
                    self.transport_header_len = 8;
                    self.payload_wire_len = on_wire - 8;
                    self.transport = Transport::Udp;
                }
            }
            (protocol::ICMP, IpVersion::V4) | (protocol::ICMPV6, IpVersion::V6) => {
                if let (Some(&kind), Some(&code)) = (bytes.first(), bytes.get(1)) {
                    self.transport_header_len = 8.min(bytes.len());
                    self.payload_wire_len = on_wire.saturating_sub(8);
                    let identified =
                        icmp_family(self.version, kind) != kind || is_query(self.version, kind);
                    let id_and_sequence = if identified { u32_at(bytes, 4) } else { None };
                    self.transport = Transport::Icmp(Icmp {
                        kind,
                        code,
                        id_and_sequence,
                    });
                }
            }
            _ => {}
        }
    }

    /// Whether the capture holds less than was on the wire.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.bytes.len() < self.wire_len
    }

    /// Data behind the transport header, as far as it was captured.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        let at = self.ip_header_len + self.transport_header_len;
        self.bytes.get(at..).unwrap_or(&[])
    }
}

/// Whether the message is a query that carries an identifier.
const fn is_query(version: IpVersion, kind: u8) -> bool {
    match version {
        IpVersion::V4 => matches!(kind, 8 | 13 | 15 | 17),
        IpVersion::V6 => kind == 128,
    }
}

/// The type of the query that a message answers, or its own type: request and reply are one flow.
#[must_use]
pub const fn icmp_family(version: IpVersion, kind: u8) -> u8 {
    match (version, kind) {
        (IpVersion::V4, 0) => 8,
        (IpVersion::V4, 14 | 16 | 18) => kind - 1,
        (IpVersion::V6, 129) => 128,
        _ => kind,
    }
}

/// Whether the message reports an error: such messages have no flow of their own in ALE.
#[must_use]
pub const fn icmp_is_error(version: IpVersion, kind: u8) -> bool {
    match version {
        IpVersion::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
        IpVersion::V6 => kind < 128,
    }
}
