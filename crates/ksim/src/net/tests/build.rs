//! Builds packets.

use std::net::{IpAddr, SocketAddr};

/// TCP flags by their names.
pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;
pub(super) const FIN: u8 = 0x01;
pub(super) const RST: u8 = 0x04;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// An IP packet; both addresses have one version.
pub(super) fn ip_packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("fits");
    let mut bytes = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + length).to_be_bytes());
            bytes.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        _ => panic!("the two addresses differ in version"),
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A TCP segment.
pub(super) fn tcp(
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    data: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.port().to_be_bytes());
    segment.extend(destination.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgment.to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend_from_slice(data);
    ip_packet(source.ip(), destination.ip(), 6, &segment)
}

/// A UDP datagram.
pub(super) fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source.port().to_be_bytes());
    datagram.extend(destination.port().to_be_bytes());
    datagram.extend(u16::try_from(8 + data.len()).expect("fits").to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend_from_slice(data);
    ip_packet(source.ip(), destination.ip(), 17, &datagram)
}

/// An ICMP echo message of IPv4: request (8) or reply (0).
pub(super) fn echo(
    source: IpAddr,
    destination: IpAddr,
    kind: u8,
    id: u16,
    sequence: u16,
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    ip_packet(source, destination, 1, &message)
}

/// Cuts a packet without extension headers into fragments whose data is `size` bytes, a multiple of 8.
pub(super) fn fragment(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let data = &packet[header..];
    let count = data.len().div_ceil(size);
    (0..count)
        .map(|index| {
            let piece = &data[index * size..data.len().min((index + 1) * size)];
            let offset = u16::try_from(index * size).expect("fits");
            let more = index + 1 < count;
            let mut bytes = packet[..header].to_vec();
            if header == 20 {
                let length = u16::try_from(20 + piece.len()).expect("fits");
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                let field = offset >> 3 | if more { 0x2000 } else { 0 };
                bytes[6..8].copy_from_slice(&field.to_be_bytes());
            } else {
                let length = u16::try_from(8 + piece.len()).expect("fits");
                bytes[4..6].copy_from_slice(&length.to_be_bytes());
                let protocol = std::mem::replace(&mut bytes[6], 44);
                bytes.extend([protocol, 0]);
                bytes.extend((offset | u16::from(more)).to_be_bytes());
                bytes.extend([0, 0, 0x12, 0x34]);
            }
            bytes.extend_from_slice(piece);
            bytes
        })
        .collect()
}

/// A TCP connection as both ends speak it, with the sequence numbers kept.
#[derive(Debug)]
pub(super) struct Dialogue {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    /// Next sequence numbers, the client's first.
    pub(super) next: [u32; 2],
}

impl Dialogue {
    pub(super) fn new(client: &str, server: &str) -> Self {
        Self {
            client: socket(client),
            server: socket(server),
            next: [1000, 0xffff_fff0],
        }
    }

    /// Which side speaks, what it sends; moves its sequence number.
    pub(super) fn segment(&mut self, from_client: bool, flags: u8, data: &[u8]) -> Vec<u8> {
        let (source, destination) = if from_client {
            (self.client, self.server)
        } else {
            (self.server, self.client)
        };
        let side = usize::from(!from_client);
        let acknowledgment = if flags & ACK == 0 {
            0
        } else {
            self.next[1 - side]
        };
        let packet = tcp(
            source,
            destination,
            flags,
            self.next[side],
            acknowledgment,
            data,
        );
        let length = u32::try_from(data.len()).expect("fits") + u32::from(flags & (SYN | FIN) != 0);
        self.next[side] = self.next[side].wrapping_add(length);
        packet
    }

    pub(super) fn handshake(&mut self) -> Vec<Vec<u8>> {
        vec![
            self.segment(true, SYN, &[]),
            self.segment(false, SYN | ACK, &[]),
            self.segment(true, ACK, &[]),
        ]
    }

    pub(super) fn say(&mut self, from_client: bool, data: &[u8]) -> Vec<u8> {
        self.segment(from_client, ACK, data)
    }

    pub(super) fn close(&mut self) -> Vec<Vec<u8>> {
        vec![
            self.segment(true, FIN | ACK, &[]),
            self.segment(false, FIN | ACK, &[]),
            self.segment(true, ACK, &[]),
        ]
    }
}
