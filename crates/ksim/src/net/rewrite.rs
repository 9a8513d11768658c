//! Packets whose ends are changed, with all checksums right.

use wfp_schema::IpVersion;

use super::packet::{Packet, Transport, protocol};

/// An address as [`Packet`] has it, and a port.
pub(super) type Place = (u128, u16);

/// The packet with other ends; what follows the ports stays as it is.
pub(super) fn rewritten(packet: &Packet<'_>, source: Place, destination: Place) -> Vec<u8> {
    let mut bytes = packet.bytes.to_vec();
    let transport = packet.ip_header_len;
    let (at, width) = match packet.version {
        IpVersion::V4 => (12, 4),
        IpVersion::V6 => (8, 16),
    };
    let mut sum = Difference::default();
    for (at, address) in [(at, source.0), (at + width, destination.0)] {
        let new = &address.to_be_bytes()[16 - width..];
        sum.change(&bytes[at..at + width], new);
        bytes[at..at + width].copy_from_slice(new);
    }
    if packet.version == IpVersion::V4 {
        sum.apply(&mut bytes, 10);
    }
    let has_ports = matches!(packet.protocol, protocol::TCP | protocol::UDP);
    if has_ports && bytes.len() >= transport + 4 {
        for (at, port) in [(transport, source.1), (transport + 2, destination.1)] {
            let new = port.to_be_bytes();
            sum.change(&bytes[at..at + 2], &new);
            bytes[at..at + 2].copy_from_slice(&new);
        }
    }
    let checksum = match packet.transport {
        Transport::Tcp(_) => Some(16),
        // 0 says that the datagram has none.
        Transport::Udp if bytes[transport + 6..transport + 8] != [0, 0] => Some(6),
        // The pseudo-header is in the checksum of ICMPv6 only.
        Transport::Icmp(_) if packet.version == IpVersion::V6 => Some(2),
        _ => None,
    };
    if let Some(offset) = checksum {
        sum.apply(&mut bytes, transport + offset);
    }
    bytes
}

/// What changes do to a checksum (RFC 1624).
#[derive(Default)]
struct Difference(u32);

impl Difference {
    fn change(&mut self, old: &[u8], new: &[u8]) {
        for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
            self.0 += u32::from(!u16::from_be_bytes([old[0], old[1]]));
            self.0 += u32::from(u16::from_be_bytes([new[0], new[1]]));
        }
    }

    fn apply(&self, bytes: &mut [u8], at: usize) {
        let Some(field) = bytes.get_mut(at..at + 2) else {
            return;
        };
        let mut sum = self.0 + u32::from(!u16::from_be_bytes([field[0], field[1]]));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let [_, _, high, low] = sum.to_be_bytes();
        field.copy_from_slice(&[!high, !low]);
    }
}
