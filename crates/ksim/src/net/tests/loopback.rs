//! Loopback, multicast and broadcast.

use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, LayerKind, StreamFlags};

use super::build::{ACK, Dialogue, SYN, socket, udp};
use super::recorder::{Recorder, SECOND, host};
use crate::net::{ClassifyOptions, Host, Outcome, Reason};

const LOOPBACK: u64 = ConditionFlags::IS_LOOPBACK.bits() as u64;

fn connected() -> (Host<Recorder>, Dialogue) {
    let mut host = host();
    let mut talk = Dialogue::new("127.0.0.1:50000", "127.0.0.1:80");
    for packet in talk.handshake() {
        assert!(host.packet(0, &packet).passed);
    }
    (host, talk)
}

#[test]
fn both_ends_of_a_loopback_connection_are_shown_with_flows_of_their_own() {
    let mut host = host();
    let mut talk = Dialogue::new("[::1]:50000", "[::1]:80");
    host.packet(0, &talk.segment(true, SYN, &[]));
    assert_eq!(
        host.filtering().take(),
        [
            "ALE_RESOURCE_ASSIGNMENT",
            "FLOW_CREATED",
            "ALE_AUTH_CONNECT",
            "OUTBOUND_TRANSPORT",
            "OUTBOUND_IPPACKET",
            "ALE_RESOURCE_ASSIGNMENT",
            "ALE_AUTH_LISTEN",
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "FLOW_CREATED",
            "ALE_AUTH_RECV_ACCEPT",
        ]
    );
    host.packet(0, &talk.segment(false, SYN | ACK, &[]));
    assert_eq!(
        host.filtering().take(),
        [
            "OUTBOUND_TRANSPORT",
            "OUTBOUND_IPPACKET",
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "ALE_FLOW_ESTABLISHED",
        ]
    );
    host.packet(0, &talk.segment(true, ACK, &[]));
    assert_eq!(host.filtering().count("ALE_FLOW_ESTABLISHED"), 1);
}

#[test]
fn the_halves_have_two_handles_and_the_flag_but_one_report() {
    let (mut host, mut talk) = connected();
    let connect = host.filtering().last("ALE_AUTH_CONNECT").clone();
    let accept = host.filtering().last("ALE_AUTH_RECV_ACCEPT").clone();
    assert_ne!(connect.flow_handle, accept.flow_handle);
    assert_ne!(connect.endpoint_handle, accept.endpoint_handle);
    assert_eq!(
        [connect.fields["FLAGS"], accept.fields["FLAGS"]],
        [LOOPBACK; 2]
    );
    assert_eq!(connect.fields["IP_LOCAL_PORT"], 50000);
    assert_eq!(accept.fields["IP_LOCAL_PORT"], 80);
    host.packet(0, &talk.say(true, b"request"));
    let pieces = &host.filtering().pieces;
    let flags: Vec<_> = pieces.iter().map(|piece| piece.flags).collect();
    assert_eq!(flags, [StreamFlags::SEND, StreamFlags::RECEIVE]);
    assert!(pieces.iter().all(|piece| piece.bytes == b"request"));
    assert_eq!(host.flows().len(), 1);
    assert_eq!(host.flows()[0].packets, [3, 1]);
    assert_eq!(host.flows()[0].passed, [3, 1]);
    assert_eq!(host.flows()[0].handles.len(), 2);
    for packet in talk.close() {
        assert!(host.packet(0, &packet).passed);
    }
    assert!(host.filtering().live.is_empty());
}

#[test]
fn what_the_receiving_end_refuses_has_not_passed() {
    let mut host = host();
    host.filtering()
        .answers
        .insert(LayerKind::AleAuthRecvAccept, Outcome::Block);
    let mut talk = Dialogue::new("127.0.0.1:50000", "127.0.0.1:80");
    let report = host.packet(0, &talk.segment(true, SYN, &[]));
    assert!(matches!(report.reason, Some(Reason::Blocked(_))));
    assert_eq!(host.flows()[0].passed, [0, 0]);
    assert_eq!(host.filtering().count("OUTBOUND_IPPACKET"), 1);
}

#[test]
fn inbound_groups_are_one_flow_and_new_ends_reauthorize_it() {
    let mut host = host();
    let (mdns, other) = (socket("224.0.0.251:5353"), socket("239.255.255.250:1900"));
    host.packet(0, &udp(socket("192.0.2.1:5353"), mdns, b"a"));
    host.packet(0, &udp(socket("192.0.2.1:5353"), mdns, b"b"));
    assert_eq!(host.filtering().count("ALE_AUTH_RECV_ACCEPT"), 1);
    let first = host.filtering().last("ALE_AUTH_RECV_ACCEPT").clone();
    host.packet(0, &udp(socket("192.0.2.2:1900"), other, b"c"));
    let second = host.filtering().last("ALE_AUTH_RECV_ACCEPT").clone();
    assert_eq!(first.flow_handle, second.flow_handle);
    let reason = ReauthorizeReason::NEW_INBOUND_MCAST_BCAST_PACKET.bits();
    assert_eq!(first.fields["REAUTHORIZE_REASON"], 0);
    assert_eq!(second.fields["REAUTHORIZE_REASON"], u64::from(reason));
    assert_eq!(host.filtering().count("FLOW_CREATED"), 1);
    assert_eq!(host.filtering().count("ALE_FLOW_ESTABLISHED"), 1);
    host.packet(
        0,
        &udp(socket("[fe80::2]:5353"), socket("[ff02::fb]:5353"), b"d"),
    );
    assert_eq!(host.filtering().count("FLOW_CREATED"), 2, "one a version");
    host.finish();
    assert!(host.filtering().live.is_empty());
}

/// A question to a group, and what becomes of an answer some seconds later.
fn answered(options: ClassifyOptions, question_at: u64, answer_at: u64) -> (Host<Recorder>, bool) {
    let mut host = host();
    host.filtering().classify_options = options;
    let here = socket("10.0.0.1:50000");
    let group = socket("239.255.255.250:1900");
    host.packet(0, &udp(here, group, b"?"));
    host.packet(question_at, &udp(here, group, b"?"));
    host.filtering().shown.clear();
    let answer = udp(socket("192.0.2.7:1900"), here, b"!");
    assert!(host.packet(answer_at, &answer).passed);
    let belongs = host.filtering().count("ALE_AUTH_RECV_ACCEPT") == 0;
    (host, belongs)
}

#[test]
fn an_answer_to_a_group_belongs_to_the_question_for_four_seconds() {
    let options = ClassifyOptions::default();
    let (mut host, belongs) = answered(options, 0, 3 * SECOND);
    assert!(belongs);
    let shown = host.filtering().last("DATAGRAM_DATA");
    assert_eq!(shown.fields["IP_REMOTE_ADDRESS"], 0xc000_0207);
    assert!(!answered(options, 0, 5 * SECOND).1);
    assert!(
        answered(options, 3 * SECOND, 6 * SECOND).1,
        "outbound refreshes"
    );
}

#[test]
fn classify_options_change_what_belongs_to_a_group_and_for_how_long() {
    let short = ClassifyOptions {
        group_lifetime: Some(1),
        ..ClassifyOptions::default()
    };
    assert!(!answered(short, 0, 2 * SECOND).1);
    let denied = ClassifyOptions {
        multicast_state: Some(false),
        ..ClassifyOptions::default()
    };
    assert!(!answered(denied, 0, SECOND).1);
}

#[test]
fn with_loose_source_mapping_a_stranger_may_answer() {
    let mut host = host();
    host.filtering().classify_options.loose_source_mapping = Some(true);
    let here = socket("10.0.0.1:50000");
    host.packet(0, &udp(here, socket("192.0.2.1:53"), b"?"));
    host.packet(0, &udp(socket("192.0.2.2:5300"), here, b"!"));
    assert_eq!(host.filtering().count("ALE_AUTH_RECV_ACCEPT"), 0);
}
