//! What the stack leaves to the network card: checksums of what is sent, and splitting large TCP sends.

use wfp_schema::IpVersion;

use super::packet::{Packet, protocol};

/// What a list says that the card is to do (`NET_BUFFER_LIST_INFO`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// `TcpIpChecksumNetBufferListInfo`, as it is for a packet that is sent.
    pub checksum: u32,
    /// `TcpLargeSendNetBufferListInfo`, of large send offload version 2.
    pub large_send: u32,
}

/// Bits of `NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO.Transmit`.
mod checksum {
    pub(super) const IS_IPV4: u32 = 0x1;
    pub(super) const IS_IPV6: u32 = 0x2;
    pub(super) const TCP: u32 = 0x4;
    pub(super) const UDP: u32 = 0x8;
    pub(super) const IP_HEADER: u32 = 0x10;
}

/// `NDIS_TCP_LARGE_SEND_OFFLOAD_V2_TYPE`, and the version.
const LARGE_SEND_V2: u32 = 1 << 30;
const LARGE_SEND_V6: u32 = 1 << 31;

/// The packet as a stack hands it to a card that computes checksums and splits TCP data into segments of so many bytes, with what the
/// card is to do; `None` where it does nothing.
pub(super) fn left(packet: &Packet<'_>, segment: u32) -> Option<(Vec<u8>, Offload)> {
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
    let length = if is_large { 0 } else { bytes.len() - start };
    let sum = pseudo_header(packet, length);
    bytes
        .get_mut(at..at + 2)?
        .copy_from_slice(&sum.to_be_bytes());
    let header = u32::try_from(start).ok()?;
    let mut offload = Offload {
        checksum: bit | (header << 16),
        large_send: 0,
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
        finished[10..12].fill(0);
        let sum = !fold(words_of(&finished[..start]));
        finished[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    finished
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
    use super::{Offload, finish, left};
    use crate::net::packet::Packet;

    /// A UDP datagram of four bytes between 192.0.2.1:1 and 192.0.2.2:2.
    const UDP: [u8; 32] = [
        0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0xf6, 0xc8, 192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2, 0,
        12, 9, 9, 1, 2, 3, 4,
    ];

    #[test]
    fn the_sum_of_the_pseudo_header_stands_where_the_card_puts_the_checksum() {
        let packet = Packet::parse(&UDP).unwrap();
        let (bytes, offload) = left(&packet, 1_460).unwrap();
        let sum: u32 = [0xc000_u32, 0x0201, 0xc000, 0x0202, 17, 12].iter().sum();
        let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        assert_eq!(bytes[26..28], sum.to_be_bytes());
        assert_eq!(bytes[10..12], [0, 0]);
        let wanted = Offload {
            checksum: 0x19 | 20 << 16,
            large_send: 0,
        };
        assert_eq!(offload, wanted);
        assert_eq!(bytes[28..], UDP[28..], "nothing else is touched");
    }

    #[test]
    fn what_the_card_finishes_is_a_packet_with_right_checksums() {
        let packet = Packet::parse(&UDP).unwrap();
        let (bytes, offload) = left(&packet, 1_460).unwrap();
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
}
