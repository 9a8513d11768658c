//! What an IP packet's headers say of where it goes.

use super::Ends;
use crate::connection::{Endpoint, TCP, UDP, is_icmp};
use crate::packet::{Fragment, Headers};

/// Protocol numbers whose header begins with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [TCP, UDP, 33, 132, 136];

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
        let headers = Headers::walk(packet).ok()?;
        let (source, destination) = match headers.transport(packet) {
            [a, b, c, d, ..] if WITH_PORTS.contains(&headers.protocol) => {
                (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
            }
            [kind, code, ..] if is_icmp(headers.protocol) => (u16::from(*kind), u16::from(*code)),
            _ => (0, 0),
        };
        Some(Self {
            protocol: headers.protocol,
            source: Endpoint::new(headers.source, source),
            destination: Endpoint::new(headers.destination, destination),
            is_later_fragment: headers.fragment == Fragment::Later,
            header_length: headers.length,
        })
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
}
