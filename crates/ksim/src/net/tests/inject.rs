//! Absorbed and injected packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wfp_schema::{LayerId, LayerKind};

use super::build::{ACK, Dialogue, SYN, fragment, socket, udp};
use super::recorder::{host, host_that};
use crate::net::{
    Injection, InjectionMark, InjectionPoint, Outcome, Packet, PacketId, Reason, Sender,
};

fn injection(point: InjectionPoint, bytes: &[u8]) -> Injection<'_> {
    Injection {
        point,
        bytes,
        mark: InjectionMark(7),
        origin: None,
        link: 0,
        hops: 0,
    }
}

#[test]
fn a_packet_absorbed_at_the_network_layer_goes_on_when_injected() {
    for outbound in [true, false] {
        let (kind, point, layer) = if outbound {
            (
                LayerKind::OutboundIpPacket,
                InjectionPoint::NetworkSend,
                LayerId::OUTBOUND_IPPACKET_V4,
            )
        } else {
            (
                LayerKind::InboundIpPacket,
                InjectionPoint::NetworkReceive,
                LayerId::INBOUND_IPPACKET_V4,
            )
        };
        let mut host = host_that(kind, Outcome::Absorb);
        let (here, there) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
        let packet = if outbound {
            udp(here, there, b"x")
        } else {
            udp(there, here, b"x")
        };
        let report = host.packet(0, &packet);
        assert_eq!(report.reason, Some(Reason::Absorbed(layer)));
        assert!(!report.passed && host.settled().is_empty());
        host.filtering().take();
        host.filtering().answers.clear();
        let copy = host.inject(&injection(point, &packet));
        assert!(copy.passed);
        assert_eq!(copy.id, report.id);
        assert_eq!(host.settled(), [(report.id, true)]);
        assert!(
            host.filtering()
                .shown
                .iter()
                .filter(|shown| shown.data.is_some())
                .all(|shown| {
                    shown.mark == Some(InjectionMark(7)) && shown.packet == Some(report.id)
                })
        );
        let again: &[&str] = if outbound {
            &["OUTBOUND_IPPACKET"]
        } else {
            &[
                "ALE_RESOURCE_ASSIGNMENT",
                "INBOUND_IPPACKET",
                "INBOUND_TRANSPORT",
                "FLOW_CREATED",
                "ALE_AUTH_RECV_ACCEPT",
                "ALE_FLOW_ESTABLISHED",
                "DATAGRAM_DATA",
            ]
        };
        let again = if outbound { again } else { &again[1..] };
        assert_eq!(host.filtering().take(), again);
        assert_eq!(
            host.flows()[0].packets.iter().sum::<u64>(),
            1,
            "counted once"
        );
        assert_eq!(host.flows()[0].passed.iter().sum::<u64>(), 1);
        assert_eq!(host.counters().passed, 1);
    }
}

#[test]
fn what_an_endpoint_sends_gets_an_ip_header() {
    for (here, there, length) in [
        ("10.0.0.1:5000", "192.0.2.1:53", 20),
        ("[fd00::1]:5000", "[2001:db8::1]:53", 40),
    ] {
        let mut host = host();
        let (here, there) = (socket(here), socket(there));
        let packet = udp(here, there, b"x");
        host.packet(0, &packet);
        let endpoint = host.flows.all[0].endpoint_handle;
        let sender = Sender {
            endpoint,
            remote: there.ip(),
        };
        let sent = host.with_ip_header(sender, &packet[length..]);
        let sent = sent.expect("it is an endpoint of this version");
        let parsed = Packet::parse(&sent).expect("a packet");
        let (expected, original) = (Packet::parse(&packet).expect("a packet"), &packet[length..]);
        assert_eq!(
            (parsed.source, parsed.destination, parsed.protocol),
            (expected.source, expected.destination, expected.protocol)
        );
        assert_eq!((&sent[length..], sent.len()), (original, packet.len()));
        let foreign: IpAddr = if there.is_ipv4() {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        };
        for (endpoint, remote) in [(endpoint + 1_000, there.ip()), (endpoint, foreign)] {
            let other = Sender { endpoint, remote };
            assert_eq!(host.with_ip_header(other, original), None, "{other:?}");
        }
    }
}

#[test]
fn an_absorbed_packet_that_nobody_injects_is_lost() {
    let mut host = host_that(LayerKind::OutboundTransport, Outcome::Absorb);
    let report = host.packet(
        0,
        &udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"x"),
    );
    host.finish();
    assert_eq!(host.settled(), [(report.id, false)]);
}

#[test]
fn an_injected_packet_may_be_absorbed_again() {
    let mut host = host_that(LayerKind::OutboundIpPacket, Outcome::Absorb);
    let packet = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"x");
    let report = host.packet(0, &packet);
    let copy = host.inject(&injection(InjectionPoint::NetworkSend, &packet));
    assert_eq!(
        copy.reason,
        Some(Reason::Absorbed(LayerId::OUTBOUND_IPPACKET_V4))
    );
    host.filtering().answers.clear();
    assert!(
        host.inject(&injection(InjectionPoint::NetworkSend, &packet))
            .passed
    );
    assert_eq!(host.settled(), [(report.id, true)]);
    assert_eq!(host.counters().injected_new, 0);
}

#[test]
fn a_packet_with_other_data_stands_for_its_origin_only_if_that_is_named() {
    let mut host = host_that(LayerKind::OutboundTransport, Outcome::Absorb);
    let report = host.packet(
        0,
        &udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"x"),
    );
    host.filtering().answers.clear();
    let changed = udp(socket("10.0.0.1:5000"), socket("192.0.2.9:53"), b"changed");
    let new = host.inject(&injection(InjectionPoint::TransportSend, &changed));
    assert!(new.passed);
    assert_eq!(host.counters().injected_new, 1);
    assert!(host.settled().is_empty());
    let named = Injection {
        origin: Some(report.id),
        ..injection(InjectionPoint::TransportSend, &changed)
    };
    assert!(host.inject(&named).passed);
    assert_eq!(host.settled(), [(report.id, true)]);
}

#[test]
fn a_packet_whose_remote_side_is_translated_stands_for_its_origin() {
    let here = socket("10.0.0.1:5000");
    let (asked, wire) = (socket("192.0.2.1:53"), socket("192.0.2.9:5353"));
    for outbound in [true, false] {
        let packet = |there, data: &[u8]| {
            if outbound {
                udp(here, there, data)
            } else {
                udp(there, here, data)
            }
        };
        let (kind, point) = if outbound {
            (LayerKind::OutboundIpPacket, InjectionPoint::NetworkSend)
        } else {
            (LayerKind::InboundIpPacket, InjectionPoint::NetworkReceive)
        };
        let mut host = host_that(kind, Outcome::Absorb);
        let first = host.packet(0, &packet(asked, b"a")).id;
        let equal = host.packet(0, &packet(wire, b"b")).id;
        host.filtering().answers.clear();
        // The one that is equal comes before the one that is older.
        assert_eq!(
            host.inject(&injection(point, &packet(wire, b"c"))).id,
            equal
        );
        assert_eq!(
            host.inject(&injection(point, &packet(wire, b"d"))).id,
            first
        );
        assert_eq!(host.settled(), [(equal, true), (first, true)]);
        let new = host.inject(&injection(point, &packet(wire, b"e")));
        assert_eq!((new.id, new.passed), (PacketId::NONE, true));
    }
}

#[test]
fn a_tcp_segment_absorbed_at_transport_is_streamed_once() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    for (kind, point, from_here) in [
        (
            LayerKind::OutboundTransport,
            InjectionPoint::TransportSend,
            true,
        ),
        (
            LayerKind::InboundTransport,
            InjectionPoint::TransportReceive,
            false,
        ),
    ] {
        host.filtering().answers.insert(kind, Outcome::Absorb);
        let packet = talk.say(from_here, b"data");
        assert!(!host.packet(0, &packet).passed);
        host.filtering().answers.clear();
        assert!(host.inject(&injection(point, &packet)).passed);
    }
    assert_eq!(host.filtering().pieces.len(), 2);
    assert_eq!(host.settled().len(), 2);
}

#[test]
fn a_pended_accept_is_classified_anew_when_its_syn_is_injected() {
    let mut host = host_that(LayerKind::AleAuthRecvAccept, Outcome::Pend);
    let mut talk = Dialogue::new("192.0.2.1:50000", "10.0.0.1:80");
    let syn = talk.segment(true, SYN, &[]);
    let report = host.packet(0, &syn);
    assert_eq!(report.reason, Some(Reason::AwaitsAuthorization));
    let handle = host
        .filtering()
        .last("ALE_AUTH_RECV_ACCEPT")
        .completion_handle;
    host.filtering().answers.clear();
    assert!(host.complete(0, handle));
    host.filtering().take();
    assert!(
        host.inject(&injection(InjectionPoint::TransportReceive, &syn))
            .passed
    );
    assert_eq!(host.settled(), [(report.id, true)]);
    assert_eq!(
        host.filtering().take(),
        ["INBOUND_TRANSPORT", "FLOW_CREATED", "ALE_AUTH_RECV_ACCEPT"]
    );
    host.packet(0, &talk.segment(false, SYN | ACK, &[]));
    host.packet(0, &talk.segment(true, ACK, &[]));
    assert_eq!(host.filtering().count("ALE_FLOW_ESTABLISHED"), 1);
}

#[test]
fn a_datagram_whose_connect_was_pended_passes_when_it_is_injected() {
    let mut host = host_that(LayerKind::AleAuthConnect, Outcome::Pend);
    let packet = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"x");
    let report = host.packet(0, &packet);
    let handle = host.filtering().last("ALE_AUTH_CONNECT").completion_handle;
    host.filtering().answers.clear();
    assert!(host.complete(0, handle));
    assert_eq!(host.filtering().count("ALE_FLOW_ESTABLISHED"), 1);
    assert!(host.settled().is_empty(), "the stack has flushed it");
    assert!(
        host.inject(&injection(InjectionPoint::TransportSend, &packet))
            .passed
    );
    assert_eq!(host.settled(), [(report.id, true)]);
    assert_eq!(host.filtering().count("DATAGRAM_DATA"), 1);
}

#[test]
fn what_is_no_packet_is_not_injected() {
    let mut host = host();
    let report = host.inject(&injection(InjectionPoint::NetworkSend, &[1, 2, 3]));
    assert!(!report.passed && matches!(report.reason, Some(Reason::Malformed(_))));
    assert_eq!(report.id, PacketId::NONE);
}

#[test]
fn absorbed_fragments_join_their_datagram_when_injected() {
    let mut host = host_that(LayerKind::InboundIpPacket, Outcome::Absorb);
    let packet = udp(socket("192.0.2.1:5000"), socket("10.0.0.1:53"), &[1; 100]);
    let fragments = fragment(&packet, 64);
    let ids: Vec<_> = fragments
        .iter()
        .map(|fragment| host.packet(0, fragment).id)
        .collect();
    host.filtering().answers.clear();
    for fragment in &fragments {
        host.inject(&injection(InjectionPoint::NetworkReceive, fragment));
    }
    let mut settled = host.settled();
    settled.sort_unstable();
    assert_eq!(settled, [(ids[0], true), (ids[1], true)]);
    assert_eq!(
        host.filtering().last("DATAGRAM_DATA").data,
        Some(vec![1; 100])
    );
    assert_eq!(host.flows()[0].passed, [0, 2]);
    assert_eq!(host.counters().passed, 2);
}
