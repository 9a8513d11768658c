//! What an IP packet's headers say of where it goes.

use super::Ends;
use crate::connection::{Endpoint, TCP, UDP};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers whose header begins with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [TCP, UDP, 33, 132, 136];
/// ICMP and `ICMPv6`.
const ICMP: [u8; 2] = [1, 58];
/// Most extension headers that are passed.
const MAX_EXTENSIONS: usize = 8;

/// The ends of a packet, as far as its headers were there to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketSummary {
    /// IP protocol number.
    pub protocol: u8,
    /// Where it comes from. For ICMP the port is the message's type.
    pub source: Endpoint,
    /// Where it goes. For ICMP the port is the message's code.
    pub destination: Endpoint,
    /// It is a fragment other than a datagram's first: it has no ports.
    pub is_later_fragment: bool,
    /// Bytes before the transport header.
    pub header_length: usize,
}

impl PacketSummary {
    /// Reads a packet's headers from its first bytes. `None`: it does not begin like an IP packet.
    ///
    /// Where the transport header is missing, the ports are 0.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => v4(packet),
            6 => v6(packet),
            _ => None,
        }
    }

    /// The ends, seen from the side that sends it, or from the other.
    #[must_use]
    pub const fn ends(&self, is_sent: bool) -> Ends {
        let (local, remote) = if is_sent {
            (self.source, self.destination)
        } else {
            (self.destination, self.source)
        };
        Ends {
            protocol: self.protocol,
            local,
            remote,
        }
    }

    /// Reads the ports behind `header_length`.
    fn with_ports(mut self, packet: &[u8]) -> Self {
        if self.is_later_fragment {
            return self;
        }
        let transport = packet.get(self.header_length..).unwrap_or_default();
        match transport {
            [a, b, c, d, ..] if WITH_PORTS.contains(&self.protocol) => {
                self.source.port = u16::from_be_bytes([*a, *b]);
                self.destination.port = u16::from_be_bytes([*c, *d]);
            }
            [kind, code, ..] if ICMP.contains(&self.protocol) => {
                self.source.port = u16::from(*kind);
                self.destination.port = u16::from(*code);
            }
            _ => {}
        }
        self
    }
}

fn v4(packet: &[u8]) -> Option<PacketSummary> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    };
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    let summary = PacketSummary {
        protocol: header[9],
        source: Endpoint::new(address(12)?, 0),
        destination: Endpoint::new(address(16)?, 0),
        is_later_fragment: offset != 0,
        header_length: usize::from(header[0] & 0x0f) * 4,
    };
    (summary.header_length >= header.len()).then(|| summary.with_ports(packet))
}

fn v6(packet: &[u8]) -> Option<PacketSummary> {
    /// Hop-by-hop options, routing, destination options; mobility, HIP and shim6 have the same form.
    const OPTIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;

    let header: &[u8; 40] = packet.first_chunk()?;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let mut summary = PacketSummary {
        protocol: header[6],
        source: Endpoint::new(address(8)?, 0),
        destination: Endpoint::new(address(24)?, 0),
        is_later_fragment: false,
        header_length: header.len(),
    };
    for _ in 0..MAX_EXTENSIONS {
        let Some(&[next, length, high, low]) = packet
            .get(summary.header_length..)
            .and_then(|rest| rest.first_chunk())
        else {
            break;
        };
        let bytes = match summary.protocol {
            FRAGMENT => {
                summary.is_later_fragment |= u16::from_be_bytes([high, low]) >> 3 != 0;
                8
            }
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            other if OPTIONS.contains(&other) => (usize::from(length) + 1) * 8,
            _ => break,
        };
        summary.protocol = next;
        summary.header_length += bytes;
    }
    Some(summary.with_ports(packet))
}
