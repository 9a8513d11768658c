//! Packets: what is in them, edits of their headers against whole recomputation, segments, and rounds.

use portcullis_core::Endpoint;
use portcullis_core::packet::{
    Checksums, Edit, Fragment, Hops, Layout, Segments, complete, transport_sum, update,
};
use proptest::prelude::*;
use std::net::IpAddr;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// RFC 1071 in the plainest words: the oracle.
fn naive(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |&low| u32::from(low));
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
    }
    !u16::try_from(sum).unwrap()
}

/// The checksum that a whole packet's transport should have.
fn naive_transport(packet: &[u8], layout: &Layout) -> u16 {
    let segment = &packet[layout.header..layout.total];
    let (source, destination, size) = layout.addresses_at();
    let mut bytes = packet[source..source + size].to_vec();
    bytes.extend_from_slice(&packet[destination..destination + size]);
    bytes.extend_from_slice(&u32::try_from(segment.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, layout.protocol]);
    bytes.extend_from_slice(segment);
    let at = bytes.len() - segment.len() + layout.checksum_at().unwrap() - layout.header;
    bytes[at..at + 2].fill(0);
    match naive(&bytes) {
        0 if layout.protocol == UDP => 0xFFFF,
        sum => sum,
    }
}

fn field(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// Every checksum of the packet is right.
fn assert_right(packet: &[u8]) {
    let layout = Layout::new_checked(packet).expect("a packet");
    if !layout.is_v6 {
        assert_eq!(
            naive(&packet[..layout.header]),
            0,
            "the IP header's checksum"
        );
    }
    if let Some(at) = layout.checksum_at() {
        assert_eq!(
            field(packet, at),
            naive_transport(packet, &layout),
            "the transport's"
        );
    }
}

/// A packet as a stack makes it, checksums included.
#[derive(Clone, Debug)]
struct Made {
    is_v6: bool,
    protocol: u8,
    /// Four bytes a piece: IPv4 options, or half of an IPv6 destination options header.
    extra: usize,
    class: u8,
    hops: u8,
    ports: [u16; 2],
    addresses: [u8; 32],
    data: Vec<u8>,
}

impl Made {
    fn bytes(&self) -> Vec<u8> {
        let fixed = if self.protocol == TCP { 20 } else { 8 };
        let mut transport = vec![0; fixed];
        transport[..2].copy_from_slice(&self.ports[0].to_be_bytes());
        transport[2..4].copy_from_slice(&self.ports[1].to_be_bytes());
        let length = u16::try_from(fixed + self.data.len()).unwrap();
        if self.protocol == TCP {
            transport[4..8].copy_from_slice(&0xFFFF_FF00_u32.to_be_bytes());
            transport[12] = 0x50;
            transport[13] = 0x99;
        } else {
            transport[4..6].copy_from_slice(&length.to_be_bytes());
        }
        transport.extend_from_slice(&self.data);
        let mut packet;
        if self.is_v6 {
            let extension = if self.extra > 0 {
                let size = self.extra * 8;
                let mut header = vec![0; size];
                header[0] = self.protocol;
                header[1] = u8::try_from(self.extra - 1).unwrap();
                header
            } else {
                Vec::new()
            };
            packet = vec![0x60 | self.class >> 4, self.class << 4 | 0xA, 0xBC, 0xDE];
            let payload = u16::try_from(extension.len() + transport.len()).unwrap();
            packet.extend_from_slice(&payload.to_be_bytes());
            packet.push(if self.extra > 0 { 60 } else { self.protocol });
            packet.push(self.hops);
            packet.extend_from_slice(&self.addresses);
            packet.extend_from_slice(&extension);
        } else {
            let header = 20 + 4 * self.extra;
            let total = u16::try_from(header + transport.len()).unwrap();
            packet = vec![0x40 | u8::try_from(header / 4).unwrap(), self.class];
            packet.extend_from_slice(&total.to_be_bytes());
            packet.extend_from_slice(&[0xFF, 0xFE, 0x40, 0, self.hops, self.protocol, 0, 0]);
            packet.extend_from_slice(&self.addresses[..8]);
            // No operation, as often as there is room.
            packet.resize(header, 1);
        }
        packet.extend_from_slice(&transport);
        let layout = Layout::new_checked(&packet).expect("a packet");
        let missing = Checksums {
            ip_missing: true,
            transport_missing: true,
        };
        complete(&mut packet, &layout, missing);
        packet
    }
}

prop_compose! {
    fn made()(
        is_v6 in any::<bool>(), is_tcp in any::<bool>(), extra in 0_usize..4, class in any::<u8>(), hops in 1_u8..,
        ports in any::<[u16; 2]>(), addresses in any::<[u8; 32]>(), data in prop::collection::vec(any::<u8>(), 0..200),
    ) -> Made {
        let protocol = if is_tcp { TCP } else { UDP };
        Made { is_v6, protocol, extra, class, hops, ports, addresses, data }
    }
}

fn end(is_v6: bool, octets: [u8; 16], port: u16) -> Endpoint {
    let address = if is_v6 {
        IpAddr::from(octets)
    } else {
        IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
    };
    Endpoint::new(address, port)
}

type Sides = (Option<([u8; 16], u16)>, Option<([u8; 16], u16)>);

proptest! {
    #[test]
    fn an_update_is_the_whole_sum_of_what_it_makes(
        words in prop::collection::vec(any::<u16>(), 2..40), at in any::<prop::sample::Index>(), new in any::<u16>(),
    ) {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        // The first word is not zero, so that the two forms of zero cannot differ.
        bytes[0] |= 1;
        let old = naive(&bytes);
        let at = 2 + 2 * at.index(words.len() - 1);
        let before = [bytes[at], bytes[at + 1]];
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        prop_assert_eq!(update(old, &before, &new.to_be_bytes()), naive(&bytes));
    }

    #[test]
    fn an_edit_leaves_right_checksums_right_and_changes_nothing_else(
        made in made(), dscp in prop::option::of(0_u8..64), hop_limit in prop::option::of(1_u8..),
        (source, destination) in any::<Sides>(),
    ) {
        let before = made.bytes();
        let layout = Layout::new_checked(&before).unwrap();
        let side = |side: Option<([u8; 16], u16)>| side.map(|(octets, port)| end(made.is_v6, octets, port));
        let edit = Edit { dscp, hop_limit, source: side(source), destination: side(destination) };
        let mut after = before.clone();
        edit.apply(&mut after, &layout, Checksums::default()).unwrap();
        assert_right(&after);
        let now = Layout::new_checked(&after).unwrap();
        prop_assert_eq!(now.source, edit.source.unwrap_or(layout.source));
        prop_assert_eq!(now.destination, edit.destination.unwrap_or(layout.destination));
        // Made from scratch with what was asked for, it is the same to the last byte.
        let mut wanted = made.clone();
        if let Some(dscp) = dscp {
            wanted.class = dscp << 2 | made.class & 3;
        }
        wanted.hops = hop_limit.unwrap_or(made.hops);
        let size = if made.is_v6 { 16 } else { 4 };
        for (at, side, port) in [(0, source, 0), (size, destination, 1)] {
            if let Some((octets, number)) = side {
                wanted.addresses[at..at + size].copy_from_slice(&octets[..size]);
                wanted.ports[port] = number;
            }
        }
        let fresh = wanted.bytes();
        // A sum of zero has two forms; an update may leave the other one.
        let mut shown = after.clone();
        if let Some(at) = layout.checksum_at() && field(&shown, at).is_multiple_of(0xFFFF) && field(&fresh, at).is_multiple_of(0xFFFF) {
            shown[at..at + 2].copy_from_slice(&fresh[at..at + 2]);
        }
        prop_assert_eq!(shown, fresh);
        prop_assert!(!edit.changes(&after, &now));
        prop_assert_eq!(edit.changes(&before, &layout), after != before);
    }

    #[test]
    fn a_damaged_packet_is_not_healed(made in made(), bit in any::<prop::sample::Index>(), octets in any::<[u8; 16]>()) {
        let mut packet = made.bytes();
        let layout = Layout::new_checked(&packet).unwrap();
        let fixed = if made.protocol == TCP { 14 } else { 4 };
        // In the transport header or the data, but not in the UDP length and checksum or the ports.
        let places: Vec<usize> = (layout.header + fixed..layout.total)
            .filter(|at| { let sum = layout.checksum_at().unwrap(); *at != sum && *at != sum + 1 })
            .filter(|at| made.protocol == TCP || *at >= layout.header + 8)
            .collect();
        prop_assume!(!places.is_empty());
        packet[places[bit.index(places.len())]] ^= 0x10;
        let edit = Edit { destination: Some(end(made.is_v6, octets, 9)), hop_limit: Some(9), ..Edit::default() };
        edit.apply(&mut packet, &layout, Checksums::default()).unwrap();
        let at = layout.checksum_at().unwrap();
        prop_assert_ne!(field(&packet, at), naive_transport(&packet, &layout));
    }

    #[test]
    fn checksums_that_were_left_to_the_card_are_made_whole(made in made(), octets in any::<[u8; 16]>()) {
        let mut packet = made.bytes();
        let layout = Layout::new_checked(&packet).unwrap();
        let at = layout.checksum_at().unwrap();
        // What a stack leaves: the sum of the pseudo-header.
        let mut pseudo = packet.clone();
        pseudo[layout.header..].fill(0);
        let sum = transport_sum(&pseudo, &layout).fold();
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        if !made.is_v6 {
            packet[10..12].fill(0);
        }
        let edit = Edit { destination: Some(end(made.is_v6, octets, 9)), dscp: Some(46), ..Edit::default() };
        let checksums = Checksums { ip_missing: true, transport_missing: true };
        edit.apply(&mut packet, &layout, checksums).unwrap();
        assert_right(&packet);
    }

    #[test]
    fn segments_carry_the_data_once_and_are_packets_of_their_own(
        mut made in made(), size in 1_usize..120, data in prop::collection::vec(any::<u8>(), 1..2000),
    ) {
        made.protocol = TCP;
        made.data = data;
        let large = made.bytes();
        let layout = Layout::new_checked(&large).unwrap();
        let segments = Segments::new(&large, &layout, size);
        prop_assume!(segments.is_some());
        let segments = segments.unwrap();
        let mut carried = Vec::new();
        for index in 0..segments.count() {
            let mut packet = large[..segments.headers()].to_vec();
            packet.extend_from_slice(&large[segments.data(index)]);
            prop_assert_eq!(packet.len(), segments.length(index));
            let layout = segments.finish(index, &mut packet);
            prop_assert_eq!(layout, Layout::new_checked(&packet).unwrap());
            assert_right(&packet);
            let tcp = &packet[layout.header..];
            let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            prop_assert_eq!(sequence, 0xFFFF_FF00_u32.wrapping_add(u32::try_from(carried.len()).unwrap()));
            let last = index + 1 == segments.count();
            prop_assert_eq!(tcp[13] & 0x09, if last { 0x09 } else { 0 }, "FIN and PSH are the last one's");
            prop_assert_eq!(tcp[13] & 0x80, if index == 0 { 0x80 } else { 0 }, "CWR is the first one's");
            carried.extend_from_slice(&packet[segments.headers()..]);
        }
        prop_assert_eq!(carried, made.data);
    }

    #[test]
    fn datagrams_carry_the_data_once_and_are_packets_of_their_own(
        mut made in made(), size in 2_usize..120, data in prop::collection::vec(any::<u8>(), 0..2000), has_checksum in any::<bool>(),
    ) {
        made.protocol = UDP;
        made.data = data;
        let mut large = made.bytes();
        let layout = Layout::new_checked(&large).unwrap();
        if !has_checksum {
            large[layout.header + 6..layout.header + 8].fill(0);
        }
        let split = Segments::datagram_sent(&layout, size);
        prop_assert_eq!(split.is_some(), made.data.len() > size);
        let count = made.data.len().div_ceil(size);
        prop_assert_eq!(Segments::datagram_received(&layout, count, size), split);
        prop_assert_eq!(Segments::datagram_received(&layout, count + 1, size), None);
        let segments = Segments::new(&large, &layout, size).unwrap();
        let mut carried = Vec::new();
        for index in 0..segments.count() {
            let mut packet = large[..segments.headers()].to_vec();
            packet.extend_from_slice(&large[segments.data(index)]);
            prop_assert_eq!(packet.len(), segments.length(index));
            let layout = segments.finish(index, &mut packet);
            prop_assert_eq!(layout, Layout::new_checked(&packet).unwrap());
            let udp = layout.header;
            prop_assert_eq!(usize::from(field(&packet, udp + 4)), packet.len() - udp);
            if has_checksum || layout.is_v6 {
                assert_right(&packet);
            } else {
                prop_assert_eq!(field(&packet, udp + 6), 0);
                prop_assert_eq!(naive(&packet[..udp]), 0);
            }
            if !layout.is_v6 {
                let counted = u16::try_from(index).unwrap();
                prop_assert_eq!(field(&packet, 4), field(&large, 4).wrapping_add(counted));
            }
            carried.extend_from_slice(&packet[segments.headers()..]);
        }
        prop_assert_eq!(carried, made.data);
    }

    #[test]
    fn no_bytes_are_read_that_are_not_there(bytes in prop::collection::vec(any::<u8>(), 0..120), version in 4_u8..7) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = version << 4 | *first & 0xF;
        }
        let Ok(layout) = Layout::new_checked(&bytes) else { return Ok(()) };
        prop_assert!(layout.header <= layout.total && layout.total <= bytes.len());
        let edit = Edit { dscp: Some(1), hop_limit: Some(1), source: Some(layout.destination), destination: None };
        let _ = edit.changes(&bytes, &layout);
        let _ = edit.apply(&mut bytes, &layout, Checksums { ip_missing: true, transport_missing: true });
        let _ = Segments::new(&bytes, &layout, 7);
        let _ = Hops::new().note(&bytes, &layout, 0);
    }
}

const UDP_V4: Made = Made {
    is_v6: false,
    protocol: UDP,
    extra: 0,
    class: 0,
    hops: 64,
    ports: [1, 2],
    addresses: [9; 32],
    data: Vec::new(),
};

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut packet = UDP_V4.bytes();
    packet[26..28].fill(0);
    let layout = Layout::new_checked(&packet).unwrap();
    let edit = Edit {
        destination: Some(end(false, [1; 16], 7)),
        ..Edit::default()
    };
    edit.apply(&mut packet, &layout, Checksums::default())
        .unwrap();
    assert_eq!(field(&packet, 26), 0);
    assert_eq!(naive(&packet[..20]), 0);
}

#[test]
fn an_address_of_the_other_version_is_refused_and_changes_nothing() {
    let mut packet = UDP_V4.bytes();
    let before = packet.clone();
    let layout = Layout::new_checked(&packet).unwrap();
    let edit = Edit {
        dscp: Some(9),
        destination: Some(end(true, [1; 16], 7)),
        ..Edit::default()
    };
    assert!(
        edit.apply(&mut packet, &layout, Checksums::default())
            .is_err()
    );
    assert_eq!(packet, before);
}

#[test]
fn a_source_route_pins_addresses_down() {
    let mut made = UDP_V4;
    made.extra = 2;
    let mut packet = made.bytes();
    // No operation, then a loose source route.
    packet[21..24].copy_from_slice(&[131, 7, 4]);
    let layout = Layout::new_checked(&packet).unwrap();
    assert!(layout.is_pinned);
    let edit = Edit {
        destination: Some(end(false, [1; 16], 7)),
        ..Edit::default()
    };
    assert!(
        edit.apply(&mut packet, &layout, Checksums::default())
            .is_err()
    );
}

#[test]
fn pieces_of_a_datagram_have_no_ports() {
    let mut packet = UDP_V4.bytes();
    packet[6] = 0x20;
    let layout = Layout::new_checked(&packet).unwrap();
    assert_eq!((layout.fragment, layout.source.port), (Fragment::First, 0));
    assert_eq!(layout.checksum_at(), None);
}

#[test]
fn a_packet_that_others_inject_again_and_again_is_let_through_in_the_end() {
    let hops = Hops::new();
    let mut packet = UDP_V4.bytes();
    let layout = Layout::new_checked(&packet).unwrap();
    let mut now = 1_000_000_000;
    for _ in 0..8 {
        assert!(!hops.note(&packet, &layout, now));
        // What is changed on each round makes no other packet of it.
        packet[8] -= 1;
        packet[1] ^= 4;
        now += 1000;
    }
    assert!(hops.note(&packet, &layout, now));
    let other = Made {
        ports: [1, 3],
        ..UDP_V4
    };
    assert!(!hops.note(&other.bytes(), &layout, now), "another packet");
    assert!(!hops.note(&packet, &layout, now + 30_000_000), "much later");
}
