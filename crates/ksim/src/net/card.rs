//! What the stack leaves to the network card: checksums of what is sent, and splitting large sends. And what the card does
//! before the stack sees anything: merging UDP datagrams.

use wfp_schema::IpVersion;

use super::packet::{Packet, Transport, protocol, tcp_flag};

/// What a list says that the card is to do, or has done (`NET_BUFFER_LIST_INFO`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// `TcpIpChecksumNetBufferListInfo`: what the card is to compute, or has found.
    pub checksum: u32,
    /// `TcpLargeSendNetBufferListInfo`, of large send offload version 2.
    pub large_send: u32,
    /// `UdpSegmentationOffloadInfo` (USO).
    pub segmentation: u32,
    /// `UdpRecvSegCoalesceOffloadInfo` (URO).
    pub coalesced: u32,
}

impl Offload {
    /// Nothing is left, or was done.
    pub const NONE: Self = Self {
        checksum: 0,
        large_send: 0,
        segmentation: 0,
        coalesced: 0,
    };

    /// Bytes of data of each datagram of a packet that the card is to split, or has merged.
    pub(super) const fn datagram_size(self) -> Option<usize> {
        match (self.segmentation & 0xf_ffff, self.coalesced >> 16) {
            (0, 0) => None,
            (0, merged) => Some(merged as usize),
            (split, _) => Some(split as usize),
        }
    }
}

/// Bits of `NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO.Transmit`.
mod checksum {
    pub(super) const IS_IPV4: u32 = 0x1;
    pub(super) const IS_IPV6: u32 = 0x2;
    pub(super) const TCP: u32 = 0x4;
    pub(super) const UDP: u32 = 0x8;
    pub(super) const IP_HEADER: u32 = 0x10;
    /// `Receive.UdpChecksumSucceeded` and `Receive.IpChecksumSucceeded`.
    pub(super) const UDP_AND_IP_RIGHT: u32 = 0x10 | 0x20;
}

/// `NDIS_TCP_LARGE_SEND_OFFLOAD_V2_TYPE`, and the version.
const LARGE_SEND_V2: u32 = 1 << 30;
const LARGE_SEND_V6: u32 = 1 << 31;

/// `NDIS_UDP_SEGMENTATION_OFFLOAD_IPV6`.
const SEGMENTATION_V6: u32 = 1 << 31;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;

/// The packet as a stack hands it to a card that computes checksums and splits TCP data into segments of so many bytes, with what the
/// card is to do besides `offload`; `None` where it does nothing.
pub(super) fn left(
    packet: &Packet<'_>,
    segment: u32,
    offload: Offload,
) -> Option<(Vec<u8>, Offload)> {
    if packet.fragment.is_some() || packet.is_cut() {
        return None;
    }
    let start = packet.ip_header_len;
    let (at, bit) = match packet.protocol {
        protocol::TCP => (start + 16, checksum::TCP),
        protocol::UDP => (start + 6, checksum::UDP),
        _ => return None,
    };
    let mut bytes = packet.bytes.to_vec();
    let data = packet.payload().len();
    let is_large = packet.protocol == protocol::TCP && data > segment as usize;
    // Of a large send the length is left out, because each segment has its own.
    let is_split = is_large || offload.segmentation != 0;
    let length = if is_split { 0 } else { bytes.len() - start };
    let sum = pseudo_header(packet, length);
    bytes
        .get_mut(at..at + 2)?
        .copy_from_slice(&sum.to_be_bytes());
    let header = u32::try_from(start).ok()?;
    let mut offload = Offload {
        checksum: bit | (header << 16),
        ..offload
    };
    match packet.version {
        IpVersion::V4 => {
            bytes[10..12].fill(0);
            offload.checksum |= checksum::IS_IPV4 | checksum::IP_HEADER;
        }
        IpVersion::V6 => offload.checksum |= checksum::IS_IPV6,
    }
    if is_large {
        let version = match packet.version {
            IpVersion::V4 => 0,
            IpVersion::V6 => LARGE_SEND_V6,
        };
        offload.large_send = segment | (header << 20) | LARGE_SEND_V2 | version;
    }
    Some((bytes, offload))
}

/// The packet as the card sends it, which `checksum` was left to.
pub(crate) fn finish(bytes: &[u8], checksum: u32) -> Vec<u8> {
    let mut finished = bytes.to_vec();
    let Ok(packet) = Packet::parse(bytes) else {
        return finished;
    };
    let start = packet.ip_header_len;
    let at = match packet.protocol {
        protocol::TCP if checksum & checksum::TCP != 0 => start + 16,
        protocol::UDP if checksum & checksum::UDP != 0 => start + 6,
        _ => return finished,
    };
    if at + 2 > bytes.len() {
        return finished;
    }
    // The sum of the pseudo-header is in the field.
    let sum = !fold(words_of(&bytes[start..]));
    let sum = if sum == 0 && packet.protocol == protocol::UDP {
        u16::MAX
    } else {
        sum
    };
    finished[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    if checksum & checksum::IP_HEADER != 0 {
        set_ipv4_checksum(&mut finished, start);
    }
    finished
}

/// What tells the card to split a UDP packet into datagrams of `size` bytes of data each.
pub(super) fn segmentation(packet: &Packet<'_>, size: u32) -> u32 {
    let version = match packet.version {
        IpVersion::V4 => 0,
        IpVersion::V6 => SEGMENTATION_V6,
    };
    let header = u32::try_from(packet.ip_header_len).unwrap_or(0);
    (size & 0xf_ffff) | (header & 0x3ff) << 20 | version
}

/// The datagrams, or segments of TCP, that a packet is split into, each with `size` bytes of data but the last: headers are
/// repeated, identification and sequence numbers count on, lengths and checksums are each one's own, and of TCP's flags `FIN`
/// and `PSH` are the last one's.
pub(super) fn split(packet: &Packet<'_>, size: usize) -> Vec<Vec<u8>> {
    const UNTIL_THE_LAST: u8 = tcp_flag::FIN | tcp_flag::PSH;
    let start = packet.ip_header_len;
    let headers = &packet.bytes[..start + packet.transport_header_len];
    let mut packets = Vec::new();
    let mut pieces = packet.payload().chunks(size.max(1)).enumerate().peekable();
    while let Some((index, data)) = pieces.next() {
        let mut bytes = [headers, data].concat();
        match packet.version {
            IpVersion::V4 => {
                let number = packet
                    .identification
                    .wrapping_add(u16::try_from(index).unwrap_or(0));
                let total = short(bytes.len());
                bytes[2..4].copy_from_slice(&total);
                bytes[4..6].copy_from_slice(&number.to_be_bytes());
                set_ipv4_checksum(&mut bytes, start);
            }
            IpVersion::V6 => {
                let payload = short(bytes.len() - 40);
                bytes[4..6].copy_from_slice(&payload);
            }
        }
        if let Transport::Tcp(tcp) = packet.transport {
            let before = u32::try_from(index * size.max(1)).unwrap_or(0);
            let sequence = tcp.sequence.wrapping_add(before);
            bytes[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
            if pieces.peek().is_some() {
                bytes[start + 13] &= !UNTIL_THE_LAST;
            }
        } else {
            let length = short(bytes.len() - start);
            bytes[start + 4..start + 6].copy_from_slice(&length);
        }
        // A datagram over IPv4 may be without a checksum: then none is computed.
        let may_lack = packet.protocol == protocol::UDP && packet.version == IpVersion::V4;
        if !may_lack || headers[start + 6..start + 8] != [0, 0] {
            set_transport_checksum(&mut bytes, packet);
        }
        packets.push(bytes);
    }
    packets
}

/// Whether the card may put `next` behind `first` in one packet: the same headers but for lengths, identification and
/// checksums; and all checksums right.
///
/// <https://learn.microsoft.com/windows-hardware/drivers/network/udp-rsc-offload>
pub(super) fn may_merge(first: &Packet<'_>, next: &Packet<'_>) -> bool {
    // Lengths, identification, header checksum; or the payload's length.
    let blanked = |packet: &Packet<'_>| {
        let mut header = packet.bytes[..packet.ip_header_len].to_vec();
        match packet.version {
            IpVersion::V4 => [2, 3, 4, 5, 10, 11].iter().for_each(|&at| header[at] = 0),
            IpVersion::V6 => header[4..6].fill(0),
        }
        header
    };
    let fits = |packet: &Packet<'_>| {
        let plain = match packet.version {
            IpVersion::V4 => 20,
            IpVersion::V6 => 40,
        };
        packet.protocol == protocol::UDP
            && packet.fragment.is_none()
            && !packet.is_cut()
            && packet.ip_header_len == plain
            && packet.transport_header_len == UDP_HEADER
            && !packet.payload().is_empty()
            && has_right_checksums(packet)
    };
    fits(first)
        && fits(next)
        && blanked(first) == blanked(next)
        && (first.source_port, first.destination_port) == (next.source_port, next.destination_port)
}

/// One packet of datagrams that [may be merged](may_merge), as a card indicates it: its checksums are zero, and were right.
pub(super) fn merged(datagrams: &[Packet<'_>]) -> (Vec<u8>, Offload) {
    let first = &datagrams[0];
    let start = first.ip_header_len;
    let mut bytes = first.bytes[..start + UDP_HEADER].to_vec();
    for datagram in datagrams {
        bytes.extend_from_slice(datagram.payload());
    }
    let length = short(bytes.len() - start);
    bytes[start + 4..start + 6].copy_from_slice(&length);
    bytes[start + 6..start + 8].fill(0);
    let total = short(bytes.len());
    match first.version {
        IpVersion::V4 => {
            bytes[2..4].copy_from_slice(&total);
            bytes[10..12].fill(0);
        }
        IpVersion::V6 => bytes[4..6].copy_from_slice(&length),
    }
    let count = u32::try_from(datagrams.len()).unwrap_or(0);
    let size = u32::try_from(first.payload().len()).unwrap_or(0);
    let offload = Offload {
        checksum: checksum::UDP_AND_IP_RIGHT,
        coalesced: count | size << 16,
        ..Offload::NONE
    };
    (bytes, offload)
}

fn has_right_checksums(packet: &Packet<'_>) -> bool {
    let start = packet.ip_header_len;
    let segment = &packet.bytes[start..];
    let is_ip_right =
        packet.version == IpVersion::V6 || fold(words_of(&packet.bytes[..start])) == 0xffff;
    let sum = words_of(segment) + u64::from(pseudo_header(packet, segment.len()));
    is_ip_right && (segment[6..8] == [0, 0] || fold(sum) == 0xffff)
}

pub(super) fn set_ipv4_checksum(bytes: &mut [u8], header: usize) {
    bytes[10..12].fill(0);
    let sum = !fold(words_of(&bytes[..header]));
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The checksum of a UDP datagram, or a TCP segment, between the ends of `packet`.
fn set_transport_checksum(bytes: &mut [u8], packet: &Packet<'_>) {
    let start = packet.ip_header_len;
    let is_tcp = packet.protocol == protocol::TCP;
    let at = start + if is_tcp { 16 } else { 6 };
    bytes[at..at + 2].fill(0);
    let pseudo = u64::from(pseudo_header(packet, bytes.len() - start));
    let sum = match !fold(words_of(&bytes[start..]) + pseudo) {
        0 if !is_tcp => u16::MAX,
        sum => sum,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A length of a header's.
fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// The sum of big-endian words.
fn words_of(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low)))
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

/// The folded sum of the pseudo-header, not inverted.
fn pseudo_header(packet: &Packet<'_>, length: usize) -> u16 {
    let addresses =
        words_of(&packet.source.to_be_bytes()) + words_of(&packet.destination.to_be_bytes());
    fold(addresses + length as u64 + u64::from(packet.protocol))
}

#[cfg(test)]
mod tests {
    use super::{Offload, finish, left, may_merge, merged, segmentation, split};
    use crate::net::packet::Packet;

    /// A UDP datagram of four bytes between 192.0.2.1:1 and 192.0.2.2:2.
    const UDP: [u8; 32] = [
        0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0xf6, 0xc8, 192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2, 0,
        12, 9, 9, 1, 2, 3, 4,
    ];

    #[test]
    fn the_sum_of_the_pseudo_header_stands_where_the_card_puts_the_checksum() {
        let packet = Packet::parse(&UDP).unwrap();
        let (bytes, offload) = left(&packet, 1_460, Offload::NONE).unwrap();
        let sum: u32 = [0xc000_u32, 0x0201, 0xc000, 0x0202, 17, 12].iter().sum();
        let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        assert_eq!(bytes[26..28], sum.to_be_bytes());
        assert_eq!(bytes[10..12], [0, 0]);
        let wanted = Offload {
            checksum: 0x19 | 20 << 16,
            ..Offload::NONE
        };
        assert_eq!(offload, wanted);
        assert_eq!(bytes[28..], UDP[28..], "nothing else is touched");
    }

    #[test]
    fn what_the_card_finishes_is_a_packet_with_right_checksums() {
        let packet = Packet::parse(&UDP).unwrap();
        let (bytes, offload) = left(&packet, 1_460, Offload::NONE).unwrap();
        let finished = finish(&bytes, offload.checksum);
        assert_eq!(finished[10..12], UDP[10..12]);
        // With its pseudo-header a right segment sums up to all ones.
        let pseudo = u64::from(super::pseudo_header(&packet, 12));
        assert_eq!(
            super::fold(super::words_of(&finished[20..]) + pseudo),
            0xffff
        );
        assert_eq!(finish(&bytes, 0), bytes, "nothing was left to it");
    }

    /// A UDP packet of seven bytes, with right checksums.
    fn large() -> Vec<u8> {
        let mut bytes = UDP.to_vec();
        bytes.extend([5, 6, 7]);
        bytes[3] = 35;
        bytes[25] = 15;
        let copy = bytes.clone();
        let packet = Packet::parse(&copy).unwrap();
        super::set_ipv4_checksum(&mut bytes, 20);
        super::set_transport_checksum(&mut bytes, &packet);
        bytes
    }

    #[test]
    fn a_packet_that_is_split_is_merged_into_the_same_one() {
        let large = large();
        let packet = Packet::parse(&large).unwrap();
        assert_eq!(segmentation(&packet, 3), 3 | 20 << 20);
        let datagrams = split(&packet, 3);
        let parsed: Vec<_> = datagrams
            .iter()
            .map(|bytes| Packet::parse(bytes).unwrap())
            .collect();
        let data: Vec<_> = parsed.iter().map(Packet::payload).collect();
        assert_eq!(data, [&[1, 2, 3][..], &[4, 5, 6], &[7]]);
        assert_eq!(
            parsed
                .iter()
                .map(|one| one.identification)
                .collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert!(parsed.iter().all(|one| may_merge(&parsed[0], one)));
        let (mut bytes, offload) = merged(&parsed);
        assert_eq!((offload.checksum, offload.coalesced), (0x30, 3 | 3 << 16));
        assert_eq!(
            (bytes[10..12].to_vec(), bytes[26..28].to_vec()),
            (vec![0; 2], vec![0; 2])
        );
        bytes[10..12].copy_from_slice(&large[10..12]);
        bytes[26..28].copy_from_slice(&large[26..28]);
        assert_eq!(bytes, large);
    }

    #[test]
    fn what_differs_or_is_damaged_is_not_merged() {
        let large = large();
        let datagrams = split(&Packet::parse(&large).unwrap(), 3);
        let first = Packet::parse(&datagrams[0]).unwrap();
        // Type of service, time to live, destination, a port, and a byte of the data.
        for at in [1, 8, 19, 21, 28] {
            let mut other = datagrams[1].clone();
            other[at] ^= 1;
            if at < 20 {
                super::set_ipv4_checksum(&mut other, 20);
            }
            assert!(!may_merge(&first, &Packet::parse(&other).unwrap()), "{at}");
        }
        let mut damaged = datagrams[1].clone();
        damaged[10] ^= 1;
        assert!(!may_merge(&first, &Packet::parse(&damaged).unwrap()));
    }
}
