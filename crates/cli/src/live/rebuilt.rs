//! Packets that never existed in full: what was blocked before its IP header was made, or before there was anything.

use std::net::IpAddr;

use portcullis_proto::capture::CaptureRecord;
use portcullis_proto::policy::Direction;

use super::Subject;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// TCP's SYN flag.
const SYN: u8 = 2;

/// The IP packet of a subject with this transport header and data, or with the least that a transport header says: the
/// ports. Also its length on the wire.
pub(super) fn packet(
    subject: &Subject,
    record: &CaptureRecord,
    transport: Option<&[u8]>,
) -> (Vec<u8>, u32) {
    let is_inbound = record.direction == Direction::Inbound.raw();
    let (source, destination) = if is_inbound {
        (subject.remote, subject.local)
    } else {
        (subject.local, subject.remote)
    };
    let made = header(subject.protocol, record, source, destination);
    let (transport, length) = transport.map_or_else(
        || (made.as_slice(), u32::try_from(made.len()).unwrap_or(0)),
        |bytes| (bytes, record.original.get()),
    );
    let mut packet = ip(source.0, destination.0, subject.protocol, length);
    let total = u32::try_from(packet.len()).unwrap_or(0) + length;
    packet.extend_from_slice(transport);
    (packet, total)
}

/// A transport header that says no more than is known.
fn header(
    protocol: u8,
    record: &CaptureRecord,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
) -> Vec<u8> {
    let ports = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
    match protocol {
        TCP => {
            let mut bytes = ports;
            bytes.extend([0; 8]);
            bytes.extend([0x50, SYN, 0, 0, 0, 0, 0, 0]);
            let sum = pseudo_header(source.0, destination.0, TCP, bytes.len());
            let checksum = checksum(&bytes, sum);
            bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
            bytes
        }
        UDP => {
            let mut bytes = ports;
            bytes.extend([0, 8, 0, 0]);
            let sum = pseudo_header(source.0, destination.0, UDP, bytes.len());
            let checksum = checksum(&bytes, sum);
            bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
            bytes
        }
        1 | 58 => {
            let [kind, _] = record.local_port.to_bytes();
            let [code, _] = record.remote_port.to_bytes();
            vec![kind, code, 0, 0, 0, 0, 0, 0]
        }
        _ => Vec::new(),
    }
}

/// An IP header for so many bytes behind it.
fn ip(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> Vec<u8> {
    if let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) {
        let total = u16::try_from(length + 20).unwrap_or(u16::MAX);
        let mut bytes = vec![0x45, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 128, protocol, 0, 0]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        let checksum = checksum(&bytes, 0);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    } else {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend([protocol, 128]);
        bytes.extend(octets(source));
        bytes.extend(octets(destination));
        bytes
    }
}

/// The sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    let words = |address: IpAddr| {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        sum(&bytes)
    };
    words(source) + words(destination) + u32::from(protocol) + u32::try_from(length).unwrap_or(0)
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)))
        .sum()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8], and: u32) -> u16 {
    let mut total = sum(bytes) + and;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap_or(0)
}
