//! IP packets, and TCP connections as both ends speak them.

use std::net::{IpAddr, SocketAddr};

use portcullis_core::packet::{Checksums, Layout, complete};

/// TCP's FIN flag.
pub const FIN: u8 = 0x01;
/// TCP's SYN flag.
pub const SYN: u8 = 0x02;
/// TCP's RST flag.
pub const RST: u8 = 0x04;
/// TCP's ACK flag.
pub const ACK: u8 = 0x10;
/// TCP's URG flag.
pub const URG: u8 = 0x20;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

/// An address with a port.
#[must_use]
pub fn end(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().expect("an address"), port).to_string()
}

/// An IP packet; both addresses are of one version.
#[must_use]
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("fits into a packet");
    let mut bytes = Vec::with_capacity(40 + payload.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + length).to_be_bytes());
            bytes.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            let checksum = checksum(&bytes);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        _ => panic!("{source} and {destination} are of two versions"),
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// The packet with every checksum in its place, as a host's stack sends it.
#[must_use]
pub fn whole(mut packet: Vec<u8>) -> Vec<u8> {
    let layout = Layout::new_checked(&packet).expect("a packet");
    let missing = Checksums {
        ip_missing: true,
        transport_missing: true,
    };
    complete(&mut packet, &layout, missing);
    packet
}

/// An ICMP error, "port unreachable", of `from` to `to` about a packet, with its checksum.
#[must_use]
pub fn unreachable(from: IpAddr, to: IpAddr, about: &[u8]) -> Vec<u8> {
    let (protocol, kind, code) = if from.is_ipv4() {
        (1, 3, 3)
    } else {
        (58, 1, 4)
    };
    let mut message = [&[kind, code, 0, 0, 0, 0, 0, 0], about].concat();
    let mut summed = Vec::new();
    if let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) {
        summed.extend([from.octets(), to.octets()].concat());
        summed.extend(u32::try_from(message.len()).expect("small").to_be_bytes());
        summed.extend([0, 0, 0, protocol]);
    }
    summed.extend(&message);
    if summed.len() % 2 == 1 {
        summed.push(0);
    }
    message[2..4].copy_from_slice(&checksum(&summed).to_be_bytes());
    ip(from, to, protocol, &message)
}

/// The Internet checksum (RFC 1071).
fn checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// A UDP datagram.
#[must_use]
pub fn udp(source: &str, destination: &str, data: &[u8]) -> Vec<u8> {
    let (source, destination) = (socket(source), socket(destination));
    let mut datagram = Vec::with_capacity(8 + data.len());
    datagram.extend(source.port().to_be_bytes());
    datagram.extend(destination.port().to_be_bytes());
    datagram.extend(
        u16::try_from(8 + data.len())
            .expect("fits into a datagram")
            .to_be_bytes(),
    );
    datagram.extend([0, 0]);
    datagram.extend_from_slice(data);
    ip(source.ip(), destination.ip(), 17, &datagram)
}

/// An ICMP echo message: request (8) or reply (0).
#[must_use]
pub fn icmp_echo(source: &str, destination: &str, kind: u8) -> Vec<u8> {
    let (source, destination) = (
        source.parse().expect("an address"),
        destination.parse().expect("an address"),
    );
    ip(
        source,
        destination,
        1,
        &[kind, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g'],
    )
}

/// An `ICMPv6` echo message: request (128) or reply (129).
#[must_use]
pub fn icmp_echo_v6(source: &str, destination: &str, kind: u8) -> Vec<u8> {
    let (source, destination) = (
        source.parse().expect("an address"),
        destination.parse().expect("an address"),
    );
    ip(
        source,
        destination,
        58,
        &[kind, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g'],
    )
}

/// A message of `ICMPv6` of this type, without anything in it.
#[must_use]
pub fn icmp_v6(source: &str, destination: &str, kind: u8) -> Vec<u8> {
    let (source, destination) = (
        source.parse().expect("an address"),
        destination.parse().expect("an address"),
    );
    ip(source, destination, 58, &[kind; 24])
}

/// A TCP connection, with the sequence numbers of both ends.
#[derive(Clone, Debug)]
pub struct Tcp {
    client: SocketAddr,
    server: SocketAddr,
    /// Next sequence numbers, the client's first.
    next: [u32; 2],
}

impl Tcp {
    /// A connection that `client` is about to begin.
    #[must_use]
    pub fn new(client: &str, server: &str) -> Self {
        // The server's numbers wrap around early.
        Self {
            client: socket(client),
            server: socket(server),
            next: [1_000, 0xffff_fff0],
        }
    }

    /// The three segments that establish it.
    pub fn handshake(&mut self) -> Vec<Vec<u8>> {
        vec![
            self.segment(true, SYN, &[]),
            self.segment(false, SYN | ACK, &[]),
            self.segment(true, ACK, &[]),
        ]
    }

    /// The same connection as the wire knows it when the client's system sends it to another server: where it has got to
    /// is kept.
    #[must_use]
    pub fn at(&self, server: &str) -> Self {
        Self {
            server: socket(server),
            ..self.clone()
        }
    }

    /// What is left of the handshake after the first segment.
    pub fn handshake_rest(&mut self) -> Vec<Vec<u8>> {
        vec![
            self.segment(false, SYN | ACK, &[]),
            self.segment(true, ACK, &[]),
        ]
    }

    /// The client says something, in one segment.
    pub fn client_says(&mut self, data: &[u8]) -> Vec<u8> {
        self.segment(true, ACK, data)
    }

    /// The server says something, in one segment.
    pub fn server_says(&mut self, data: &[u8]) -> Vec<u8> {
        self.segment(false, ACK, data)
    }

    /// Both ends close.
    pub fn close(&mut self) -> Vec<Vec<u8>> {
        vec![
            self.segment(true, FIN | ACK, &[]),
            self.segment(false, FIN | ACK, &[]),
            self.segment(true, ACK, &[]),
        ]
    }

    /// The client resets it.
    pub fn reset(&mut self) -> Vec<u8> {
        self.segment(true, RST | ACK, &[])
    }

    /// The client's data `offset` bytes ahead of what it has said: a segment that arrives too early. The
    /// sequence number stays.
    #[must_use]
    pub fn client_says_ahead(&self, offset: usize, data: &[u8]) -> Vec<u8> {
        let ahead = u32::try_from(offset).expect("within a window");
        self.build(true, ACK, self.next[0].wrapping_add(ahead), data)
    }

    /// A segment; moves its sender's sequence number.
    pub fn segment(&mut self, from_client: bool, flags: u8, data: &[u8]) -> Vec<u8> {
        let side = usize::from(!from_client);
        let packet = self.build(from_client, flags, self.next[side], data);
        let length = u32::try_from(data.len()).expect("fits") + u32::from(flags & (SYN | FIN) != 0);
        self.next[side] = self.next[side].wrapping_add(length);
        packet
    }

    fn build(&self, from_client: bool, flags: u8, sequence: u32, data: &[u8]) -> Vec<u8> {
        let (source, destination) = if from_client {
            (self.client, self.server)
        } else {
            (self.server, self.client)
        };
        let acknowledgment = if flags & ACK == 0 {
            0
        } else {
            self.next[usize::from(from_client)]
        };
        let mut segment = Vec::with_capacity(20 + data.len());
        segment.extend(source.port().to_be_bytes());
        segment.extend(destination.port().to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledgment.to_be_bytes());
        segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend_from_slice(data);
        ip(source.ip(), destination.ip(), 6, &segment)
    }
}
