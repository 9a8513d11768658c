//! ICMP errors about translated packets: translated, they are what they would be about a packet that never was.

use portcullis_core::packet::{Checksums, Edit, Layout, Quote, complete};
use portcullis_core::{Endpoint, Transfer};
use proptest::prelude::*;
use std::net::IpAddr;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// With so many bytes behind a TCP packet's first eight, its checksum is cut in two.
const HALF_A_CHECKSUM: usize = 9;

/// An IP packet; the checksum in the IPv4 header is right.
fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0x12, 0x34, 0x40, 0, 9, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([protocol, 9]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("of two versions"),
    };
    packet.extend(payload);
    // Where there are no headers of a transport the layout cannot be checked.
    if let Ok(layout) = Layout::new_checked(&packet) {
        let missing = Checksums {
            ip_missing: true,
            transport_missing: true,
        };
        complete(&mut packet, &layout, missing);
    }
    packet
}

/// The Internet checksum over bytes of an even or odd number.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// What the ICMP checksum of a packet is computed over, the checksum itself at zero.
fn summed(packet: &[u8]) -> Vec<u8> {
    let layout = Layout::new_checked(packet).unwrap();
    let mut bytes = Vec::new();
    if layout.is_v6 {
        bytes.extend(&packet[8..40]);
        bytes.extend(u32::try_from(packet.len() - 40).unwrap().to_be_bytes());
        bytes.extend([0, 0, 0, 58]);
    }
    let at = bytes.len() + 2;
    bytes.extend(&packet[layout.header..]);
    bytes[at..at + 2].fill(0);
    bytes
}

/// An ICMP error about the first bytes of a packet.
fn error(from: IpAddr, to: IpAddr, (kind, code): (u8, u8), about: &[u8]) -> Vec<u8> {
    let message = [&[kind, code, 0, 0, 0, 0, 5, 220], about].concat();
    let protocol = if from.is_ipv6() { 58 } else { 1 };
    let mut packet = ip(from, to, protocol, &message);
    let sum = checksum(&summed(&packet));
    let at = Layout::new_checked(&packet).unwrap().header + 2;
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[derive(Clone, Debug)]
struct Case {
    is_v6: bool,
    protocol: u8,
    has_checksum: bool,
    ends: [([u8; 16], u16); 3],
    router: Option<[u8; 16]>,
    data: Vec<u8>,
    quoted: usize,
    kind: usize,
    error: Transfer,
}

prop_compose! {
    fn case()(
        is_v6 in any::<bool>(), is_tcp in any::<bool>(), has_checksum in any::<bool>(), ends in any::<[([u8; 16], u16); 3]>(),
        router in prop::option::of(any::<[u8; 16]>()), data in prop::collection::vec(any::<u8>(), 0..60), quoted in 0_usize..90,
        kind in 0_usize..3, is_sent in any::<bool>(),
    ) -> Case {
        let protocol = if is_tcp { TCP } else { UDP };
        let error = if is_sent { Transfer::Sent } else { Transfer::Received };
        Case { is_v6, protocol, has_checksum, ends, router, data, quoted, kind, error }
    }
}

impl Case {
    fn address(&self, octets: [u8; 16]) -> IpAddr {
        if self.is_v6 {
            octets.into()
        } else {
            IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        }
    }

    fn end(&self, at: usize) -> Endpoint {
        let (octets, port) = self.ends[at];
        Endpoint::new(self.address(octets), port)
    }

    /// The packet that the error is about, with this remote side.
    fn about(&self, remote: Endpoint) -> Vec<u8> {
        let local = self.end(0);
        let (from, to) = match self.error {
            Transfer::Received => (local, remote),
            Transfer::Sent => (remote, local),
        };
        let mut transport = [from.port.to_be_bytes(), to.port.to_be_bytes()].concat();
        transport.resize(if self.protocol == TCP { 20 } else { 8 }, 0);
        if self.protocol == TCP {
            transport[12] = 0x50;
        }
        transport.extend(&self.data);
        if self.protocol == UDP {
            let length = u16::try_from(transport.len()).unwrap();
            transport[4..6].copy_from_slice(&length.to_be_bytes());
        }
        let mut packet = ip(from.address, to.address, self.protocol, &transport);
        if self.protocol == UDP && !self.is_v6 && !self.has_checksum {
            packet[26..28].fill(0);
        }
        packet
    }

    /// The error about it, as it is where the remote side has this name.
    fn error(&self, remote: Endpoint) -> Vec<u8> {
        let about = self.about(remote);
        let header = if self.is_v6 { 40 } else { 20 };
        let quoted = &about[..about.len().min(header + 8 + self.quoted)];
        let other = self
            .router
            .map_or(remote.address, |octets| self.address(octets));
        let (from, to) = match self.error {
            Transfer::Received => (other, self.end(0).address),
            Transfer::Sent => (self.end(0).address, other),
        };
        let kinds = if self.is_v6 {
            [(1, 4), (2, 0), (3, 0)]
        } else {
            [(3, 3), (3, 4), (11, 0)]
        };
        error(from, to, kinds[self.kind], quoted)
    }
}

/// Both forms of a sum of zero are right; an update may leave either.
fn with_one_zero(mut packet: Vec<u8>, at: usize) -> Vec<u8> {
    if let Some(place) = packet.get_mut(at..at + 2)
        && place == [0xFF, 0xFF]
    {
        place.fill(0);
    }
    packet
}

proptest! {
    #[test]
    fn a_translated_error_is_as_if_the_packet_had_never_been(case in case()) {
        let (before, after) = (case.end(1), case.end(2));
        // Where two addresses are one, the error is also from that one.
        let local = case.end(0).address;
        prop_assume!(local != before.address && local != after.address && before.address != after.address);
        // Of half a checksum nothing can be made: it is left as it is.
        prop_assume!(case.protocol != TCP || case.quoted != HALF_A_CHECKSUM);
        let router = case.router.map(|octets| case.address(octets));
        prop_assume!(router != Some(before.address));
        let mut packet = case.error(before);
        let layout = Layout::new_checked(&packet).unwrap();
        let quote = Quote::of(&packet, &layout).expect("it quotes ports");
        prop_assert_eq!(quote.sides(case.error), (case.end(0), before));
        prop_assert_eq!(quote.protocol(), case.protocol);
        quote.translate(case.error, after, &mut packet, &layout);
        Edit::default().apply(&mut packet, &layout, Checksums { ip_missing: case.error == Transfer::Received, transport_missing: false }).unwrap();
        // The sum over everything is right, whichever form its parts have.
        let sum_at = layout.header + 2;
        let sum = checksum(&summed(&packet));
        let kept = u16::from_be_bytes([packet[sum_at], packet[sum_at + 1]]);
        prop_assert!(kept == sum || kept.is_multiple_of(0xFFFF) && sum.is_multiple_of(0xFFFF));
        let mut wanted = case.error(after);
        let inner = layout.header + 8;
        let mut places = vec![sum_at, inner + if case.is_v6 { 40 } else { 20 } + if case.protocol == TCP { 16 } else { 6 }];
        if !case.is_v6 {
            places.extend([10, inner + 10]);
        }
        for at in places {
            packet = with_one_zero(packet, at);
            wanted = with_one_zero(wanted, at);
        }
        // A part in its other form makes another sum of the whole.
        packet[sum_at..sum_at + 2].fill(0);
        wanted[sum_at..sum_at + 2].fill(0);
        prop_assert_eq!(packet, wanted);
    }

    #[test]
    fn a_damaged_error_is_not_healed(case in case(), bit in 0_u8..16) {
        let mut packet = case.error(case.end(1));
        let layout = Layout::new_checked(&packet).unwrap();
        // In the unused word behind the checksum.
        packet[layout.header + 4 + usize::from(bit / 8)] ^= 1 << (bit % 8);
        let quote = Quote::of(&packet, &layout).expect("it quotes ports");
        quote.translate(case.error, case.end(2), &mut packet, &layout);
        let at = layout.header + 2;
        prop_assert_ne!(u16::from_be_bytes([packet[at], packet[at + 1]]), checksum(&summed(&packet)));
    }

    #[test]
    fn whatever_an_error_quotes_nothing_is_read_or_written_that_is_not_there(
        case in case(), noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(), seen in any::<prop::sample::Index>(), other in any::<bool>(),
    ) {
        let mut packet = case.error(case.end(1));
        for (at, byte) in noise {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        packet.truncate(cut.index(packet.len() + 1));
        let Ok(layout) = Layout::new_checked(&packet) else { return Ok(()) };
        let first = seen.index(packet.len() + 1);
        let Some(quote) = Quote::of(&packet[..first], &layout) else { return Ok(()) };
        let to = if other { Endpoint::new(IpAddr::from([0; 16]), 1) } else { case.end(2) };
        let length = packet.len();
        quote.translate(case.error, to, &mut packet, &layout);
        prop_assert_eq!(packet.len(), length);
    }
}

#[test]
fn half_a_checksum_is_left_as_it_is() {
    let case = Case {
        is_v6: false,
        protocol: TCP,
        has_checksum: true,
        ends: [([1; 16], 1), ([2; 16], 2), ([3; 16], 3)],
        router: None,
        data: vec![0; 9],
        quoted: HALF_A_CHECKSUM,
        kind: 0,
        error: Transfer::Received,
    };
    let mut packet = case.error(case.end(1));
    let layout = Layout::new_checked(&packet).unwrap();
    let quote = Quote::of(&packet, &layout).expect("it quotes ports");
    let half = *packet.last().unwrap();
    quote.translate(case.error, case.end(2), &mut packet, &layout);
    assert_eq!(packet.last(), Some(&half));
    let at = layout.header + 2;
    let sum = u16::from_be_bytes([packet[at], packet[at + 1]]);
    assert_eq!(sum, checksum(&summed(&packet)));
}

#[test]
fn what_quotes_no_ports_is_no_quote() {
    let case = Case {
        is_v6: false,
        protocol: UDP,
        has_checksum: true,
        ends: [([1; 16], 1), ([2; 16], 2), ([3; 16], 3)],
        router: None,
        data: vec![0; 9],
        quoted: 0,
        kind: 0,
        error: Transfer::Received,
    };
    let packet = case.error(case.end(1));
    let of = |packet: &[u8]| Quote::of(packet, &Layout::new_checked(packet).unwrap());
    assert!(of(&packet).is_some());
    let changed = |at: usize, byte: u8| {
        let mut packet = packet.clone();
        packet[at] = byte;
        of(&packet)
    };
    assert_eq!(changed(20, 8), None, "an echo");
    assert_eq!(changed(20, 5), None, "a redirect");
    assert_eq!(changed(28, 0x65), None, "of the other version");
    assert_eq!(changed(28 + 7, 3), None, "about a later piece");
    assert_eq!(changed(28 + 9, 1), None, "about ICMP");
    assert_eq!(changed(6, 0x20), None, "a piece itself");
    let mut short = packet[..20 + 8 + 20 + 3].to_vec();
    short[3] = u8::try_from(short.len()).unwrap();
    assert_eq!(of(&short), None, "not as far as the ports");
}
