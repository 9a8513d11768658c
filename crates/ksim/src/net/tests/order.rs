//! The order of indications, and what they show.

use wfp_schema::{ConditionFlags, LayerId, MetadataFields, StreamFlags};

use super::build::{ACK, Dialogue, FIN, RST, SYN, echo, ip, ip_packet, socket, udp};
use super::recorder::{Recorder, SECOND, host, setup};
use crate::net::{Host, Setup};

#[test]
fn a_tcp_client_is_asked_before_its_syn_and_established_by_the_answer() {
    for (client, server) in [
        ("10.0.0.1:50000", "192.0.2.1:443"),
        ("[fd00::1]:50000", "[2001:db8::1]:443"),
    ] {
        let mut host = host();
        let mut talk = Dialogue::new(client, server);
        host.packet(0, &talk.segment(true, SYN, &[]));
        assert_eq!(
            host.filtering().take(),
            [
                "ALE_RESOURCE_ASSIGNMENT",
                "FLOW_CREATED",
                "ALE_AUTH_CONNECT",
                "OUTBOUND_TRANSPORT",
                "OUTBOUND_IPPACKET"
            ]
        );
        host.packet(0, &talk.segment(false, SYN | ACK, &[]));
        assert_eq!(
            host.filtering().take(),
            [
                "INBOUND_IPPACKET",
                "INBOUND_TRANSPORT",
                "ALE_FLOW_ESTABLISHED"
            ]
        );
        host.packet(0, &talk.segment(true, ACK, &[]));
        assert_eq!(
            host.filtering().take(),
            ["OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET"]
        );
        host.packet(0, &talk.say(true, b"hello"));
        assert_eq!(
            host.filtering().take(),
            ["STREAM", "OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET"]
        );
        host.packet(0, &talk.say(false, b"world"));
        assert_eq!(
            host.filtering().take(),
            ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "STREAM"]
        );
        host.packet(0, &talk.segment(true, FIN | ACK, &[]));
        assert_eq!(
            host.filtering().take(),
            ["STREAM", "OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET"]
        );
        host.packet(0, &talk.segment(false, FIN | ACK, &[]));
        assert_eq!(
            host.filtering().take(),
            ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "STREAM"]
        );
        host.packet(0, &talk.segment(true, ACK, &[]));
        assert_eq!(
            host.filtering().take(),
            [
                "OUTBOUND_TRANSPORT",
                "OUTBOUND_IPPACKET",
                "ALE_ENDPOINT_CLOSURE",
                "ALE_RESOURCE_RELEASE",
                "FLOW_ENDED"
            ]
        );
    }
}

#[test]
fn a_tcp_server_listens_once_is_asked_at_the_syn_and_established_by_the_last_ack() {
    let mut host = host();
    let mut talk = Dialogue::new("192.0.2.1:50000", "10.0.0.1:80");
    host.packet(0, &talk.segment(true, SYN, &[]));
    assert_eq!(
        host.filtering().take(),
        [
            "ALE_RESOURCE_ASSIGNMENT",
            "ALE_AUTH_LISTEN",
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "FLOW_CREATED",
            "ALE_AUTH_RECV_ACCEPT"
        ]
    );
    host.packet(0, &talk.segment(false, SYN | ACK, &[]));
    assert_eq!(
        host.filtering().take(),
        ["OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET"]
    );
    host.packet(0, &talk.segment(true, ACK, &[]));
    assert_eq!(
        host.filtering().take(),
        [
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "ALE_FLOW_ESTABLISHED"
        ]
    );
    let mut second = Dialogue::new("192.0.2.1:50001", "10.0.0.1:80");
    host.packet(0, &second.segment(true, SYN, &[]));
    assert_eq!(
        host.filtering().take(),
        [
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "FLOW_CREATED",
            "ALE_AUTH_RECV_ACCEPT"
        ]
    );
    host.finish();
    assert_eq!(
        host.filtering().take(),
        [
            "ALE_ENDPOINT_CLOSURE",
            "FLOW_ENDED",
            "ALE_ENDPOINT_CLOSURE",
            "FLOW_ENDED",
            "ALE_ENDPOINT_CLOSURE",
            "ALE_RESOURCE_RELEASE"
        ]
    );
}

#[test]
fn a_udp_client_is_asked_and_established_by_its_first_datagram() {
    let mut host = host();
    let (client, server) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
    host.packet(0, &udp(client, server, b"question"));
    assert_eq!(
        host.filtering().take(),
        [
            "ALE_RESOURCE_ASSIGNMENT",
            "FLOW_CREATED",
            "ALE_AUTH_CONNECT",
            "ALE_FLOW_ESTABLISHED",
            "DATAGRAM_DATA",
            "OUTBOUND_TRANSPORT",
            "OUTBOUND_IPPACKET"
        ]
    );
    host.packet(0, &udp(server, client, b"answer"));
    assert_eq!(
        host.filtering().take(),
        ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "DATAGRAM_DATA"]
    );
    assert_eq!(host.flows().len(), 1);
    assert_eq!(host.flows()[0].packets, [1, 1]);
    assert_eq!(host.flows()[0].bytes, [36, 34]);
}

#[test]
fn a_udp_server_is_asked_and_established_by_the_first_datagram_it_gets() {
    let mut host = host();
    let (client, server) = (socket("[2001:db8::1]:5000"), socket("[fd00::1]:53"));
    host.packet(0, &udp(client, server, b"question"));
    assert_eq!(
        host.filtering().take(),
        [
            "ALE_RESOURCE_ASSIGNMENT",
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "FLOW_CREATED",
            "ALE_AUTH_RECV_ACCEPT",
            "ALE_FLOW_ESTABLISHED",
            "DATAGRAM_DATA"
        ]
    );
}

#[test]
fn a_socket_that_talks_to_two_peers_is_asked_twice_and_closes_once() {
    let mut host = host();
    let client = socket("10.0.0.1:5000");
    host.packet(0, &udp(client, socket("192.0.2.1:53"), b"?"));
    host.packet(0, &udp(client, socket("192.0.2.2:53"), b"?"));
    host.finish();
    let recorder = host.filtering();
    assert_eq!(recorder.count("ALE_AUTH_CONNECT"), 2);
    assert_eq!(recorder.count("ALE_ENDPOINT_CLOSURE"), 1);
    assert_eq!(recorder.count("ALE_RESOURCE_ASSIGNMENT"), 1);
    assert_eq!(recorder.count("ALE_RESOURCE_RELEASE"), 1);
    assert!(recorder.live.is_empty());
}

#[test]
fn a_datagram_flow_that_was_idle_for_a_minute_is_asked_about_again() {
    let mut host = host();
    let (client, server) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
    host.packet(0, &udp(client, server, b"?"));
    host.packet(59 * SECOND, &udp(server, client, b"!"));
    assert_eq!(host.filtering().count("FLOW_CREATED"), 1);
    host.advance_to(119 * SECOND);
    assert_eq!(host.filtering().count("FLOW_ENDED"), 1);
    assert_eq!(host.filtering().count("ALE_ENDPOINT_CLOSURE"), 1);
    host.packet(200 * SECOND, &udp(client, server, b"?"));
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 2);
    assert_eq!(host.flows().len(), 1, "a collector sees one flow");
    assert_eq!(host.flows()[0].handles.len(), 2, "WFP saw two");
}

#[test]
fn pings_with_two_identifiers_are_two_data_flows_and_one_reported_flow() {
    let mut host = host();
    let (here, there) = (ip("10.0.0.1"), ip("192.0.2.1"));
    host.packet(0, &echo(here, there, 8, 1, 1));
    host.packet(0, &echo(there, here, 0, 1, 1));
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 1);
    let reply = host.filtering().last("DATAGRAM_DATA");
    assert_eq!(
        reply.fields["IP_LOCAL_PORT"], 0,
        "the type of an echo reply"
    );
    assert!(reply.present.contains(MetadataFields::ICMP_ID_AND_SEQUENCE));
    assert_eq!(
        reply.data.as_ref().expect("a packet").len(),
        8,
        "starts at the ICMP header"
    );
    host.packet(0, &echo(here, there, 8, 2, 1));
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 2);
    let asked = host.filtering().last("ALE_AUTH_CONNECT");
    assert_eq!(
        (
            asked.fields["IP_LOCAL_PORT"],
            asked.fields["IP_REMOTE_PORT"]
        ),
        (8, 0)
    );
    assert_eq!(host.flows().len(), 1);
    assert_eq!(host.flows()[0].packets, [2, 1]);
    assert_eq!(host.flows()[0].local.port, 0);
}

#[test]
fn an_icmp_error_is_not_asked_about() {
    let mut host = host();
    host.packet(
        0,
        &ip_packet(
            ip("192.0.2.1"),
            ip("10.0.0.1"),
            1,
            &[3, 3, 0, 0, 0, 0, 0, 0, 0x45],
        ),
    );
    assert_eq!(
        host.filtering().take(),
        ["INBOUND_IPPACKET", "INBOUND_TRANSPORT"]
    );
}

#[test]
fn each_layer_shows_the_packet_at_its_documented_offset() {
    let mut host = host();
    let (client, server) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
    let question = udp(client, server, b"question");
    host.packet(0, &question);
    let recorder = host.filtering();
    for (layer, offset) in [
        ("ALE_AUTH_CONNECT", 20),
        ("ALE_FLOW_ESTABLISHED", 20),
        ("DATAGRAM_DATA", 20),
        ("OUTBOUND_TRANSPORT", 20),
        ("OUTBOUND_IPPACKET", 0),
    ] {
        assert_eq!(
            recorder.last(layer).data.as_deref(),
            Some(&question[offset..]),
            "{layer}"
        );
    }
    let answer = udp(server, client, b"answer");
    host.packet(0, &answer);
    let recorder = host.filtering();
    for (layer, offset) in [
        ("INBOUND_IPPACKET", 20),
        ("INBOUND_TRANSPORT", 28),
        ("DATAGRAM_DATA", 28),
    ] {
        assert_eq!(
            recorder.last(layer).data.as_deref(),
            Some(&answer[offset..]),
            "{layer}"
        );
    }
}

#[test]
fn fields_are_the_hosts_view_of_the_flow() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    host.packet(
        0,
        &talk.say(false, b"inbound data of an outgoing connection"),
    );
    let recorder = host.filtering();
    let asked = recorder.last("ALE_AUTH_CONNECT");
    assert_eq!(asked.layer, Some(LayerId::ALE_AUTH_CONNECT_V4));
    assert_eq!(asked.fields["IP_LOCAL_ADDRESS"], 0x0a00_0001);
    assert_eq!(asked.fields["IP_REMOTE_ADDRESS"], 0xc000_0201);
    assert_eq!(asked.fields["IP_LOCAL_PORT"], 50000);
    assert_eq!(asked.fields["IP_REMOTE_PORT"], 443);
    assert_eq!(asked.fields["IP_PROTOCOL"], 6);
    assert_eq!(asked.fields["FLAGS"], 0);
    assert_eq!(asked.data, None, "connect() comes before any packet");
    assert_eq!(asked.application, "System");
    assert!(
        asked
            .present
            .contains(MetadataFields::FLOW_HANDLE | MetadataFields::COMPLETION_HANDLE)
    );
    let stream = recorder.last("STREAM");
    assert_eq!(
        stream.fields["DIRECTION"], 0,
        "the connection's direction is outbound"
    );
    assert_eq!(stream.flow_handle, asked.flow_handle);
    assert_eq!(recorder.pieces[0].flags, StreamFlags::RECEIVE);
}

#[test]
fn an_accepted_connection_names_the_listening_endpoint_as_its_parent() {
    let mut host = host();
    let mut talk = Dialogue::new("192.0.2.1:50000", "10.0.0.1:80");
    host.packet(0, &talk.segment(true, SYN, &[]));
    let recorder = host.filtering();
    let listening = recorder.last("ALE_AUTH_LISTEN").endpoint_handle;
    let accepted = recorder.last("ALE_AUTH_RECV_ACCEPT");
    assert_eq!(accepted.parent_endpoint_handle, listening);
    assert_ne!(accepted.endpoint_handle, listening);
    assert!(accepted.data.is_some(), "the SYN is there");
    let transport = recorder.last("INBOUND_TRANSPORT");
    assert!(
        transport
            .present
            .contains(MetadataFields::ALE_CLASSIFY_REQUIRED)
    );
    assert!(!transport.present.contains(MetadataFields::FLOW_HANDLE));
}

#[test]
fn a_loopback_flow_of_a_capture_is_seen_from_its_initiator_and_marked() {
    let mut host = Host::new(
        Recorder::default(),
        Setup {
            both_halves: false,
            ..setup()
        },
    );
    let mut talk = Dialogue::new("127.0.0.1:50000", "127.0.0.1:80");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    let recorder = host.filtering();
    let asked = recorder.last("ALE_AUTH_CONNECT");
    assert_eq!(asked.fields["IP_LOCAL_PORT"], 50000);
    assert_eq!(
        asked.fields["FLAGS"],
        u64::from(ConditionFlags::IS_LOOPBACK.bits())
    );
    assert_eq!(recorder.count("ALE_AUTH_RECV_ACCEPT"), 0);
    assert_eq!(host.flows()[0].packets, [2, 1]);
}

#[test]
fn a_reset_aborts_the_stream_and_ends_the_flow() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    host.filtering().take();
    host.packet(0, &talk.segment(false, RST, &[]));
    let recorder = host.filtering();
    let abort = recorder.pieces.last().expect("a piece");
    assert_eq!(
        abort.flags,
        StreamFlags::RECEIVE | StreamFlags::RECEIVE_ABORT
    );
    assert!(abort.bytes.is_empty());
    assert_eq!(
        recorder.take(),
        [
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "STREAM",
            "ALE_ENDPOINT_CLOSURE",
            "ALE_RESOURCE_RELEASE",
            "FLOW_ENDED"
        ]
    );
}

#[test]
fn equal_ports_on_two_links_are_two_flows() {
    let mut host = host();
    let packet = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"?");
    host.packet_on(0, 50, &packet);
    host.packet_on(0, 300, &packet);
    assert_eq!(host.flows().len(), 2);
    assert_eq!(host.filtering().count("ALE_RESOURCE_ASSIGNMENT"), 2);
}

#[test]
fn layers_that_nobody_wants_are_not_indicated() {
    let mut host = host();
    host.filtering().wanted = Some(vec![wfp_schema::LayerKind::AleAuthConnect]);
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        assert!(host.packet(0, &packet).passed);
    }
    assert!(host.packet(0, &talk.say(true, b"data")).passed);
    host.finish();
    assert_eq!(
        host.filtering().take(),
        ["FLOW_CREATED", "ALE_AUTH_CONNECT", "FLOW_ENDED"]
    );
}
