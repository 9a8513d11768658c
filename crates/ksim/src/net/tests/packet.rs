//! Parsing.

use wfp_schema::IpVersion;

use super::build::{ACK, Dialogue, ip, ip_packet, socket, udp};
use crate::net::packet::{Malformed, Packet, Transport};
use crate::net::{Reason, flow_hash};

#[test]
fn ipv4_options_move_the_transport_header() {
    let plain = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"data");
    let mut bytes = plain[..20].to_vec();
    bytes[0] = 0x46;
    let length = u16::try_from(plain.len() + 4).expect("fits");
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes.extend([1, 1, 1, 0]);
    bytes.extend(&plain[20..]);
    let packet = Packet::parse(&bytes).expect("a packet");
    assert_eq!(
        (packet.ip_header_len, packet.source_port, packet.payload()),
        (24, 5000, &b"data"[..])
    );
}

#[test]
fn ipv6_extension_headers_are_walked_and_their_number_is_bounded() {
    let plain = udp(
        socket("[fd00::1]:5000"),
        socket("[2001:db8::1]:53"),
        b"data",
    );
    let with = |extensions: usize| {
        let mut payload = Vec::new();
        for index in 0..extensions {
            let next = if index + 1 == extensions { 17 } else { 60 };
            payload.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        payload.extend(&plain[40..]);
        let first = if extensions == 0 { 17 } else { 0 };
        ip_packet(ip("fd00::1"), ip("2001:db8::1"), first, &payload)
    };
    for count in [0, 1, 5, 16] {
        let bytes = with(count);
        let packet = Packet::parse(&bytes).expect("a packet");
        assert_eq!(packet.version, IpVersion::V6);
        assert_eq!(
            (packet.protocol, packet.ip_header_len),
            (17, 40 + 8 * count)
        );
        assert_eq!(packet.payload(), b"data");
    }
    assert_eq!(Packet::parse(&with(17)).unwrap_err(), Malformed::Extensions);
}

#[test]
fn what_follows_the_packet_on_its_link_is_not_part_of_it() {
    let mut bytes = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"x");
    bytes.extend([0; 17]);
    assert_eq!(Packet::parse(&bytes).expect("a packet").payload(), b"x");
}

#[test]
fn a_packet_that_the_capture_cut_is_parsed_as_far_as_it_goes() {
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    let bytes = talk.segment(true, ACK, &[7; 100]);
    let packet = Packet::parse(&bytes[..60]).expect("a packet");
    assert!(packet.is_cut());
    assert_eq!((packet.payload().len(), packet.payload_wire_len), (20, 100));
    let mut options = bytes.clone();
    options[32] = 0x80;
    let packet = Packet::parse(&options[..44]).expect("a packet");
    assert!(
        matches!(packet.transport, Transport::Tcp(_)),
        "its options are cut, its numbers are not"
    );
    assert_eq!(
        (packet.transport_header_len, packet.payload_wire_len),
        (24, 88)
    );
    let packet = Packet::parse(&bytes[..25]).expect("a packet");
    assert_eq!(
        (packet.transport, packet.source_port),
        (Transport::Opaque, 50000)
    );
}

#[test]
fn a_length_of_zero_is_that_of_segmentation_offload() {
    let mut bytes = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"data");
    bytes[2..4].fill(0);
    assert_eq!(Packet::parse(&bytes).expect("a packet").payload(), b"data");
}

#[test]
fn what_is_no_ip_packet_is_named_and_counted() {
    let mut host = super::recorder::host();
    let mut short_header = vec![0x44; 20];
    short_header[2..4].copy_from_slice(&[0, 20]);
    for (bytes, expected) in [
        (vec![], Malformed::Empty),
        (vec![0x50; 40], Malformed::Version(5)),
        (vec![0x45; 19], Malformed::HeaderCut),
        (short_header, Malformed::HeaderLength),
        (vec![0x60; 39], Malformed::HeaderCut),
    ] {
        let report = host.packet(0, &bytes);
        assert_eq!(report.reason, Some(Reason::Malformed(expected)));
        assert!(!report.passed);
    }
    assert_eq!(host.counters().malformed, 5);
}

#[test]
fn both_directions_and_all_fragments_of_a_flow_have_one_hash() {
    let (here, there) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
    let packet = udp(here, there, &[0; 64]);
    let hash = flow_hash(&packet);
    assert_eq!(flow_hash(&udp(there, here, b"x")), hash);
    for fragment in super::build::fragment(&packet, 32) {
        assert_eq!(flow_hash(&fragment), hash);
    }
    assert_ne!(flow_hash(&udp(here, socket("192.0.2.2:53"), b"x")), hash);
    assert_eq!(flow_hash(b"no packet"), 0);
}
