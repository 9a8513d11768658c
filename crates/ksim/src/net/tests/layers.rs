//! The layers that most tests leave out: redirects, stream packets, discards, ICMP errors, forwarding, frames.

use wfp_schema::codes::DiscardModule;
use wfp_schema::{ConditionFlags, LayerKind, MetadataFields};

use super::build::{ACK, Dialogue, SYN, fragment, ip, ip_packet, socket, udp};
use super::recorder::{BLOCKING_FILTER, Recorder, host_with, setup};
use crate::net::{
    Host, Injection, InjectionMark, InjectionPoint, Interface, Outcome, Output, Reason, Setup,
};

fn everything() -> Host<Recorder> {
    host_with(Recorder::of_everything())
}

fn everything_with(setup: Setup) -> Host<Recorder> {
    Host::new(Recorder::of_everything(), setup)
}

#[test]
fn a_tcp_client_comes_by_every_layer_in_order() {
    for (client, server) in [
        ("10.0.0.1:50000", "192.0.2.1:443"),
        ("[fd00::1]:50000", "[2001:db8::1]:443"),
    ] {
        let mut host = everything();
        let mut talk = Dialogue::new(client, server);
        host.packet(0, &talk.segment(true, SYN, &[]));
        assert_eq!(
            host.filtering().take(),
            [
                "ALE_BIND_REDIRECT",
                "ALE_RESOURCE_ASSIGNMENT",
                "ALE_CONNECT_REDIRECT",
                "FLOW_CREATED",
                "ALE_AUTH_CONNECT",
                "STREAM_PACKET",
                "OUTBOUND_TRANSPORT",
                "OUTBOUND_IPPACKET",
            ]
        );
        host.packet(0, &talk.segment(false, SYN | ACK, &[]));
        assert_eq!(
            host.filtering().take(),
            [
                "INBOUND_IPPACKET",
                "INBOUND_TRANSPORT",
                "STREAM_PACKET",
                "ALE_FLOW_ESTABLISHED",
            ]
        );
        host.packet(0, &talk.segment(true, ACK, &[]));
        host.filtering().take();
        host.packet(0, &talk.say(false, b"data"));
        assert_eq!(
            host.filtering().take(),
            [
                "INBOUND_IPPACKET",
                "INBOUND_TRANSPORT",
                "STREAM_PACKET",
                "STREAM"
            ]
        );
    }
}

#[test]
fn a_stream_packet_has_the_direction_of_the_packet() {
    let mut host = everything();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    host.packet(0, &talk.segment(true, SYN, &[]));
    assert_eq!(
        host.filtering().last("STREAM_PACKET").fields["DIRECTION"],
        0
    );
    host.packet(0, &talk.segment(false, SYN | ACK, &[]));
    let shown = host.filtering().last("STREAM_PACKET");
    assert_eq!(shown.fields["DIRECTION"], 1);
    assert_eq!(shown.data.as_deref(), Some(&[][..]), "at the data");
}

#[test]
fn every_layer_that_blocks_has_its_discard_layer_shown() {
    let question = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"?");
    let request = udp(socket("192.0.2.1:53"), socket("10.0.0.1:5000"), b"?");
    for (kind, packet) in [
        (LayerKind::OutboundIpPacket, &question),
        (LayerKind::OutboundTransport, &question),
        (LayerKind::DatagramData, &question),
        (LayerKind::AleResourceAssignment, &question),
        (LayerKind::AleAuthConnect, &question),
        (LayerKind::AleFlowEstablished, &question),
        (LayerKind::InboundIpPacket, &request),
        (LayerKind::InboundTransport, &request),
        (LayerKind::AleAuthRecvAccept, &request),
    ] {
        let mut host = everything();
        host.filtering().answers.insert(kind, Outcome::Block);
        assert!(!host.packet(0, packet).passed);
        let name = format!("{}_DISCARD", kind.name());
        let shown = host.filtering().last(&name);
        let discard = shown.discard.expect("a reason");
        assert_eq!(discard.module, DiscardModule::General);
        assert_eq!(discard.filter_id, BLOCKING_FILTER);
        assert_eq!((shown.completion_handle, shown.pend_handle), (0, 0));
        host.filtering().answers.insert(kind, Outcome::Absorb);
        let mut host = everything();
        host.filtering().answers.insert(kind, Outcome::Absorb);
        host.packet(0, packet);
        assert_eq!(host.filtering().count(&name), 0, "{name} after an absorb");
    }
}

#[test]
fn a_stream_has_no_discard_layer_in_use() {
    let mut host = everything();
    host.filtering().stream = Box::new(|_| crate::net::StreamOutcome::BLOCK);
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    assert!(!host.packet(0, &talk.say(true, b"x")).passed);
    assert_eq!(host.filtering().count("STREAM_DISCARD"), 0);
}

/// Destination unreachable, about a datagram from `10.0.0.1:5000`.
fn unreachable() -> (Vec<u8>, Vec<u8>) {
    let question = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"?");
    let message = [&[3, 3, 0, 0, 0, 0, 0, 0], &question[..28]].concat();
    (question, message)
}

#[test]
fn an_inbound_icmp_error_shows_what_it_is_about() {
    let mut host = everything();
    let (question, message) = unreachable();
    host.packet(0, &question);
    let endpoint = host.filtering().last("ALE_AUTH_CONNECT").endpoint_handle;
    host.filtering().take();
    let error = ip_packet(ip("192.0.2.1"), ip("10.0.0.1"), 1, &message);
    assert!(host.packet(0, &error).passed);
    assert_eq!(
        host.filtering().take(),
        [
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "INBOUND_ICMP_ERROR"
        ]
    );
    assert!(host.packet(0, &error).passed);
    let shown = host.filtering().last("INBOUND_ICMP_ERROR");
    for (field, value) in [
        ("EMBEDDED_PROTOCOL", 17),
        ("EMBEDDED_REMOTE_ADDRESS", 0xc000_0201),
        ("EMBEDDED_LOCAL_PORT", 5000),
        ("EMBEDDED_REMOTE_PORT", 53),
        ("ICMP_TYPE", 3),
        ("ICMP_CODE", 3),
    ] {
        assert_eq!(shown.fields[field], value, "{field}");
    }
    assert_eq!(shown.endpoint_handle, endpoint);
    assert_eq!(
        shown.data.as_deref(),
        Some(&question[..28]),
        "at the quoted header"
    );
    assert!(!shown.present.contains(MetadataFields::FLOW_HANDLE));
}

#[test]
fn a_datagram_to_a_closed_port_is_discarded_and_answered() {
    for (answer, error) in [(Outcome::Permit, true), (Outcome::Block, false)] {
        for (peer, here) in [
            ("192.0.2.1:5000", "10.0.0.1:53"),
            ("[2001:db8::1]:5000", "[fd00::1]:53"),
        ] {
            let mut host = everything_with(Setup {
                sockets: Some([(17, 123)].into()),
                output: true,
                ..setup()
            });
            host.filtering().discard_answer = answer;
            let report = host.packet(0, &udp(socket(peer), socket(here), b"?"));
            assert_eq!(report.reason, Some(Reason::NoEndpoint));
            let discard = host.filtering().last("INBOUND_IPPACKET_DISCARD").discard;
            assert_eq!(discard, Some(crate::net::Discard::PORT_UNREACHABLE));
            let mut expected = vec!["INBOUND_IPPACKET", "INBOUND_IPPACKET_DISCARD"];
            if error {
                expected.extend([
                    "OUTBOUND_ICMP_ERROR",
                    "OUTBOUND_TRANSPORT",
                    "OUTBOUND_IPPACKET",
                ]);
            }
            assert_eq!(host.filtering().take(), expected);
            assert_eq!(host.output().len(), usize::from(error));
        }
    }
}

#[test]
fn what_is_between_others_comes_to_the_forward_layer() {
    let mut host = everything_with(Setup {
        forwarding: true,
        output: true,
        routes: vec![(ip("198.51.100.0"), 24, 7), (ip("198.0.0.0"), 8, 9)],
        ..setup()
    });
    let packet = udp(socket("192.0.2.1:5000"), socket("198.51.100.1:53"), b"?");
    let report = host.packet_on(0, 3, &packet);
    assert!(report.passed);
    assert_eq!(host.output(), [Output::Sent(packet.clone())]);
    let shown = host.filtering().last("IPFORWARD").clone();
    assert_eq!(host.filtering().take(), ["IPFORWARD"]);
    assert_eq!(shown.fields["IP_SOURCE_ADDRESS"], 0xc000_0201);
    assert_eq!(shown.fields["IP_DESTINATION_ADDRESS"], 0xc633_6401);
    let index = |link| u64::from(Interface::ethernet(link).index);
    assert_eq!(shown.fields["SOURCE_INTERFACE_INDEX"], index(3));
    assert_eq!(shown.fields["DESTINATION_INTERFACE_INDEX"], index(7));
    assert_eq!(shown.data.as_deref(), Some(&packet[..]), "at the IP header");
    host.filtering()
        .answers
        .insert(LayerKind::IpForward, Outcome::Block);
    assert!(!host.packet_on(0, 3, &packet).passed);
    assert_eq!(host.filtering().take(), ["IPFORWARD", "IPFORWARD_DISCARD"]);
    assert!(host.output().is_empty());
    assert_eq!(host.counters().forwarded, 1);
}

#[test]
fn forwarded_fragments_are_shown_alone_and_once_more_as_a_group() {
    for (source, destination) in [
        ("192.0.2.1:5000", "198.51.100.1:53"),
        ("[2001:db8::1]:5000", "[2001:db8::2]:53"),
    ] {
        let mut host = everything_with(Setup {
            forwarding: true,
            fragment_groups: true,
            ..setup()
        });
        let packet = udp(socket(source), socket(destination), &[7; 200]);
        for piece in fragment(&packet, 80) {
            assert!(host.packet(0, &piece).passed);
        }
        let group = u64::from(ConditionFlags::IS_FRAGMENT_GROUP.bits());
        let shown: Vec<_> = host
            .filtering()
            .shown
            .iter()
            .map(|shown| (shown.fields["FLAGS"], shown.chain))
            .collect();
        assert_eq!(shown, [(0, 0), (0, 0), (0, 0), (group, 2)]);
    }
}

/// A frame between the host and a neighbour.
fn frame(outbound: bool, vlan: Option<u16>, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let here = Interface::ethernet(vlan.unwrap_or(0)).mac;
    let there = [0x02, 0xaa, 0, 0, 0, 1];
    let (source, destination) = if outbound {
        (here, there)
    } else {
        (there, here)
    };
    let mut bytes = [destination, source].concat();
    if let Some(vlan) = vlan {
        bytes.extend([0x81, 0]);
        bytes.extend(vlan.to_be_bytes());
    }
    bytes.extend(ether_type.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn frames_come_by_the_layers_of_the_data_link_below_the_packet() {
    let mut host = everything();
    let question = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"?");
    let answer = udp(socket("192.0.2.1:53"), socket("10.0.0.1:5000"), b"!");
    let sent = frame(true, Some(5), 0x0800, &question);
    assert!(host.frame(0, &sent).passed);
    let shown = host.filtering().take();
    assert_eq!(
        shown[shown.len() - 3..],
        [
            "OUTBOUND_IPPACKET",
            "OUTBOUND_MAC_FRAME_ETHERNET",
            "OUTBOUND_MAC_FRAME_NATIVE",
        ]
    );
    let came = frame(false, Some(5), 0x0800, &answer);
    assert!(host.frame(0, &came).passed);
    let ethernet = host.filtering().last("INBOUND_MAC_FRAME_ETHERNET").clone();
    assert_eq!(
        ethernet.data.as_deref(),
        Some(&answer[..]),
        "at the IP header"
    );
    assert_eq!(ethernet.fields["VLAN_ID"], 5);
    assert_eq!(ethernet.fields["ETHER_TYPE"], 0x0800);
    assert_eq!(ethernet.fields["MAC_REMOTE_ADDRESS"], 0x02aa_0000_0001);
    let native = host.filtering().last("INBOUND_MAC_FRAME_NATIVE").clone();
    assert_eq!(native.data.as_deref(), Some(&came[..]), "at the MAC header");
    assert_eq!(
        host.filtering().take()[..3],
        [
            "INBOUND_MAC_FRAME_NATIVE",
            "INBOUND_MAC_FRAME_ETHERNET",
            "INBOUND_IPPACKET",
        ]
    );
    assert_eq!(host.flows().len(), 1, "both are of one link");
    let arp = frame(false, None, 0x0806, &[0; 28]);
    assert_eq!(host.frame(0, &arp).reason, Some(Reason::Foreign));
}

#[test]
fn an_absorbed_frame_goes_on_when_it_is_injected() {
    for (outbound, kind, point) in [
        (
            false,
            LayerKind::InboundMacFrameEthernet,
            InjectionPoint::MacReceive,
        ),
        (
            true,
            LayerKind::OutboundMacFrameNative,
            InjectionPoint::MacSend,
        ),
    ] {
        let mut host = everything();
        host.filtering().answers.insert(kind, Outcome::Absorb);
        let (here, there) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
        let packet = if outbound {
            udp(here, there, b"?")
        } else {
            udp(there, here, b"?")
        };
        let bytes = frame(outbound, None, 0x0800, &packet);
        let report = host.frame(0, &bytes);
        assert!(matches!(report.reason, Some(Reason::Absorbed(_))));
        host.filtering().answers.clear();
        host.filtering().take();
        let injection = Injection {
            point,
            bytes: &bytes,
            mark: InjectionMark(3),
            origin: Some(report.id),
            link: 0,
            hops: 0,
        };
        assert!(host.inject(&injection).passed);
        assert_eq!(host.settled(), [(report.id, true)]);
        assert_eq!(
            host.filtering().last(kind.name()).mark,
            Some(InjectionMark(3))
        );
        let datagrams = host.filtering().count("DATAGRAM_DATA");
        assert_eq!(datagrams, usize::from(!outbound), "what was above has been");
        assert_eq!(host.flows()[0].packets.iter().sum::<u64>(), 1);
    }
}

#[test]
fn a_raw_endpoint_is_marked_and_its_own_header_has_its_size() {
    let mut host = everything();
    let raw = u64::from(ConditionFlags::IS_RAW_ENDPOINT.bits());
    host.packet(0, &ip_packet(ip("10.0.0.1"), ip("192.0.2.1"), 89, &[0; 16]));
    for layer in [
        "ALE_RESOURCE_ASSIGNMENT",
        "ALE_AUTH_CONNECT",
        "DATAGRAM_DATA",
        "OUTBOUND_TRANSPORT",
    ] {
        assert_eq!(host.filtering().last(layer).fields["FLAGS"], raw, "{layer}");
    }
    assert_eq!(
        host.filtering().last("OUTBOUND_IPPACKET").fields["FLAGS"],
        0
    );
}

#[test]
fn a_link_local_peer_has_its_zone() {
    let mut host = everything();
    host.packet(
        0,
        &udp(socket("[fd00::1]:5000"), socket("[fe80::1]:53"), b"?"),
    );
    for layer in ["ALE_AUTH_CONNECT", "DATAGRAM_DATA", "OUTBOUND_TRANSPORT"] {
        let shown = host.filtering().last(layer);
        assert!(
            shown.present.contains(MetadataFields::REMOTE_SCOPE_ID),
            "{layer}"
        );
    }
    host.packet(
        0,
        &udp(socket("[fd00::1]:5000"), socket("[2001:db8::1]:53"), b"?"),
    );
    let shown = host.filtering().last("ALE_AUTH_CONNECT");
    assert!(!shown.present.contains(MetadataFields::REMOTE_SCOPE_ID));
}

#[test]
fn ale_may_see_a_dual_mode_socket_as_ipv6_with_mapped_addresses() {
    use wfp_engine::DualModeLayer::{V4, V6Mapped, V6Redirect};
    use wfp_schema::LayerId;

    const MAPPED: (LayerId, u64) = (LayerId::ALE_AUTH_CONNECT_V6, 0xffff_0a00_0001);
    const PLAIN: (LayerId, u64) = (LayerId::ALE_AUTH_CONNECT_V4, 0x0a00_0001);
    for (layers, expected, redirect) in [
        (V4, PLAIN, LayerId::ALE_CONNECT_REDIRECT_V4),
        (V6Mapped, MAPPED, LayerId::ALE_CONNECT_REDIRECT_V6),
        (V6Redirect, PLAIN, LayerId::ALE_CONNECT_REDIRECT_V6),
    ] {
        let mut recorder = Recorder::of_everything();
        recorder.options.dual_mode_layer = layers;
        let dual = Setup {
            dual_mode: true,
            ..setup()
        };
        let mut host = Host::new(recorder, dual);
        host.packet(
            0,
            &udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"?"),
        );
        let asked = host.filtering().last("ALE_AUTH_CONNECT").clone();
        assert_eq!(
            (asked.layer, asked.fields["IP_LOCAL_ADDRESS"]),
            (Some(expected.0), expected.1)
        );
        let transport = host.filtering().last("OUTBOUND_TRANSPORT").layer;
        assert_eq!(transport, Some(LayerId::OUTBOUND_TRANSPORT_V4));
        let asked = host.filtering().last("ALE_CONNECT_REDIRECT").layer;
        assert_eq!(asked, Some(redirect), "{layers:?}");
    }
}
