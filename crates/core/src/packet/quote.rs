//! What an ICMP error quotes of the packet that it complains about, and giving that another remote side.
//!
//! An error about a translated packet quotes it as it was on the wire. Whoever has sent it knows another remote side, and would
//! not know the packet. So the quoted packet is translated back, as a NAT does (RFC 5508, section 4), and the error itself where
//! it comes from that remote side.

use super::checksum::update;
use super::header::{Headers, Layout, Octets};
use crate::connection::{Endpoint, TCP, UDP};
use crate::flow::Transfer;

/// Bytes of an ICMP error before what it quotes.
const ICMP_HEADER: usize = 8;
/// Types of ICMP errors: unreachable, time exceeded, parameter problem. A redirect is about a route, not about a path.
const V4_ERRORS: [u8; 3] = [3, 11, 12];
/// Types of `ICMPv6` errors: unreachable, packet too big, time exceeded, parameter problem.
const V6_ERRORS: [u8; 4] = [1, 2, 3, 4];

/// A packet of TCP or UDP that an ICMP error quotes, at least as far as its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Where it begins.
    at: usize,
    headers: Headers,
    /// The quoted packet's source.
    pub source: Endpoint,
    /// The quoted packet's destination.
    pub destination: Endpoint,
    /// Where the transport's checksum is, if all of it is quoted.
    checksum_at: Option<usize>,
}

/// Where an end of a packet is written.
struct Place {
    address: usize,
    port: usize,
}

impl Quote {
    /// Looks at a packet whose first bytes are here. `None` if it is no error that quotes ports, or if something pins its
    /// addresses or the quoted ones down.
    #[must_use]
    pub fn of(first: &[u8], layout: &Layout) -> Option<Self> {
        let (protocol, errors): (u8, &[u8]) = if layout.is_v6 {
            (58, &V6_ERRORS)
        } else {
            (1, &V4_ERRORS)
        };
        if layout.protocol != protocol || layout.fragment.is_piece() || layout.is_pinned {
            return None;
        }
        let first = first.get(..layout.total.min(first.len()))?;
        if !errors.contains(first.get(layout.header)?) {
            return None;
        }
        let at = layout.header + ICMP_HEADER;
        let quoted = first.get(at..)?;
        let headers = Headers::walk(quoted).ok()?;
        if headers.is_v6 != layout.is_v6 || headers.is_pinned {
            return None;
        }
        let transport = headers.transport(quoted);
        let sum = match headers.protocol {
            TCP => 16,
            UDP => 6,
            _ => return None,
        };
        let [a, b, c, d, ..] = *transport else {
            return None;
        };
        Some(Self {
            at,
            headers,
            source: Endpoint::new(headers.source, u16::from_be_bytes([a, b])),
            destination: Endpoint::new(headers.destination, u16::from_be_bytes([c, d])),
            checksum_at: (transport.len() >= sum + 2).then_some(at + headers.length + sum),
        })
    }

    /// IP protocol number of the quoted packet.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.headers.protocol
    }

    /// The quoted packet's local and remote side. What an error that is received quotes was sent, and the other way round.
    #[must_use]
    pub const fn sides(&self, error: Transfer) -> (Endpoint, Endpoint) {
        match error {
            Transfer::Received => (self.source, self.destination),
            Transfer::Sent => (self.destination, self.source),
        }
    }

    /// Gives the quoted packet, in the error that it was found in, another remote side; and the error too, if it comes from or
    /// goes to that side's address. Checksums that were right are right afterwards, those that were wrong are wrong.
    pub fn translate(&self, error: Transfer, to: Endpoint, packet: &mut [u8], layout: &Layout) {
        let (_, remote) = self.sides(error);
        let octets = Octets::of(to.address);
        let icmp_at = layout.header + 2;
        let (source, destination, size) = layout.addresses_at();
        if octets.as_slice().len() != size {
            return;
        }
        let place = match error {
            Transfer::Received => Place {
                address: self.at + destination,
                port: self.at + self.headers.length + 2,
            },
            Transfer::Sent => Place {
                address: self.at + source,
                port: self.at + self.headers.length,
            },
        };
        let ip_sum = (!layout.is_v6).then_some(self.at + 10);
        // UDP may go without.
        let sum = self
            .checksum_at
            .filter(|&at| self.protocol() != UDP || word(packet, at) != Some(0));
        let mut inner = Revision {
            packet: &mut *packet,
            sum_at: icmp_at,
        };
        inner.replace(place.address, octets.as_slice(), [ip_sum, sum]);
        inner.replace(place.port, &to.port.to_be_bytes(), [None, sum]);
        if self.protocol() == UDP
            && let Some(at) = sum.filter(|&at| word(packet, at) == Some(0))
        {
            let mut inner = Revision {
                packet: &mut *packet,
                sum_at: icmp_at,
            };
            inner.put(at, &[0xFF, 0xFF]);
        }
        let (outer, outer_at) = match error {
            Transfer::Received => (layout.source.address, source),
            Transfer::Sent => (layout.destination.address, destination),
        };
        if outer == remote.address {
            // ICMPv6's checksum covers the addresses, IPv4's header has its own.
            let sum_at = if layout.is_v6 { icmp_at } else { 10 };
            Revision { packet, sum_at }.put(outer_at, octets.as_slice());
        }
    }
}

/// Changes words that a checksum covers.
struct Revision<'a> {
    packet: &'a mut [u8],
    sum_at: usize,
}

impl Revision<'_> {
    /// Replaces words at an even place, and brings the checksum up to date. Returns what was there.
    fn put(&mut self, at: usize, with: &[u8]) -> Option<[u8; 16]> {
        let mut kept = [0; 16];
        let before = kept.get_mut(..with.len())?;
        let now = self.packet.get_mut(at..at + with.len())?;
        before.copy_from_slice(now);
        now.copy_from_slice(with);
        let sum = update(word(self.packet, self.sum_at)?, before, with);
        let place = self.packet.get_mut(self.sum_at..self.sum_at + 2)?;
        place.copy_from_slice(&sum.to_be_bytes());
        Some(kept)
    }

    /// The same, with checksums within that cover the words too.
    fn replace(&mut self, at: usize, with: &[u8], sums: [Option<usize>; 2]) {
        let Some(kept) = self.put(at, with) else {
            return;
        };
        let before = kept.get(..with.len()).unwrap_or_default();
        for at in sums.into_iter().flatten() {
            if let Some(old) = word(self.packet, at) {
                self.put(at, &update(old, before, with).to_be_bytes());
            }
        }
    }
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    let word = packet.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(word))
}
