//! ALE-01 to ALE-05 and ALE-10 to ALE-13.

use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, IpVersion, LayerKind, MetadataFields};

use super::super::build::{ACK, Dialogue, SYN, socket, udp};
use super::super::recorder::{Recorder, SECOND, host, host_that, host_with, setup};
use crate::net::{
    Host, Injection, InjectionMark, InjectionPoint, Opened, Outcome, Output, Reason, Setup, Socket,
};

const ENDS: (&str, &str) = ("10.0.0.1:50000", "192.0.2.1:443");

#[test]
fn ale_01_a_permitted_connection_is_asked_about_once() {
    let mut host = host();
    let mut talk = Dialogue::new(ENDS.0, ENDS.1);
    let mut packets = talk.handshake();
    packets.extend([talk.say(true, b"a"), talk.say(false, b"b")]);
    for packet in packets {
        host.packet(0, &packet);
    }
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 1);
}

#[test]
fn ale_02_a_changed_filter_asks_again_by_the_next_packet_either_way() {
    for from_here in [true, false] {
        let mut host = host();
        let mut talk = Dialogue::new(ENDS.0, ENDS.1);
        for packet in talk.handshake() {
            host.packet(0, &packet);
        }
        host.filtering().take();
        host.filtering().epoch += 1;
        host.packet(0, &talk.say(from_here, b"data"));
        let again = host.filtering().last("ALE_AUTH_CONNECT");
        let flags = u64::from(ConditionFlags::IS_REAUTHORIZE.bits());
        assert_eq!(again.fields["FLAGS"], flags);
        let reason = u64::from(ReauthorizeReason::POLICY_CHANGE.bits());
        assert_eq!(again.fields["REAUTHORIZE_REASON"], reason);
        assert!(again.present.contains(MetadataFields::PACKET_DIRECTION));
    }
}

#[test]
fn ale_03_a_reauthorization_has_nothing_to_pend() {
    let mut host = host();
    let mut talk = Dialogue::new(ENDS.0, ENDS.1);
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    host.filtering().epoch += 1;
    host.packet(0, &talk.say(true, b"data"));
    let again = host.filtering().last("ALE_AUTH_CONNECT");
    assert_eq!((again.completion_handle, again.pend_handle), (0, 0));
}

#[test]
fn ale_04_a_completed_connect_is_asked_about_at_once_and_its_syn_goes() {
    let mut host = host_that(LayerKind::AleAuthConnect, Outcome::Pend);
    let mut talk = Dialogue::new(ENDS.0, ENDS.1);
    let report = host.packet(0, &talk.segment(true, SYN, &[]));
    assert_eq!(report.reason, Some(Reason::AwaitsAuthorization));
    let handle = host.filtering().last("ALE_AUTH_CONNECT").pend_handle;
    host.filtering().take();
    host.filtering().answers.clear();
    assert!(host.complete(0, handle));
    assert_eq!(
        host.filtering().take(),
        [
            "ALE_AUTH_CONNECT",
            "OUTBOUND_TRANSPORT",
            "OUTBOUND_IPPACKET"
        ]
    );
    assert_eq!(host.settled(), [(report.id, true)]);
}

#[test]
fn ale_05_a_completed_accept_is_asked_about_by_the_clone_that_is_injected() {
    let mut host = host_that(LayerKind::AleAuthRecvAccept, Outcome::Pend);
    let mut talk = Dialogue::new("192.0.2.1:50000", "10.0.0.1:80");
    let syn = talk.segment(true, SYN, &[]);
    let report = host.packet(0, &syn);
    let handle = host.filtering().last("ALE_AUTH_RECV_ACCEPT").pend_handle;
    host.filtering().take();
    host.filtering().answers.clear();
    assert!(host.complete(0, handle));
    assert_eq!(host.filtering().count("ALE_AUTH_RECV_ACCEPT"), 0);
    let injection = Injection {
        point: InjectionPoint::TransportReceive,
        bytes: &syn,
        mark: InjectionMark(9),
        origin: Some(report.id),
        link: 0,
        hops: 0,
    };
    assert!(host.inject(&injection).passed);
    let again = host.filtering().last("ALE_AUTH_RECV_ACCEPT");
    assert_eq!(again.mark, Some(InjectionMark(9)));
    assert_eq!(again.fields["FLAGS"], 0, "it is the first authorization");
    assert_eq!(host.settled(), [(report.id, true)]);
    assert!(host.packet(0, &talk.segment(false, SYN | ACK, &[])).passed);
}

#[test]
fn ale_10_two_peers_of_a_socket_are_asked_about_and_it_closes_once() {
    let mut host = host();
    let client = socket("10.0.0.1:5000");
    host.packet(0, &udp(client, socket("192.0.2.1:53"), b"?"));
    host.packet(0, &udp(client, socket("192.0.2.2:53"), b"?"));
    host.finish();
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 2);
    assert_eq!(host.filtering().count("ALE_ENDPOINT_CLOSURE"), 1);
}

#[test]
fn ale_11_a_bind_to_any_address_and_port_is_shown_as_such() {
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut host = host();
        let opened = host.open(
            0,
            &Socket {
                version,
                protocol: 17,
                address: None,
                port: 49152,
                any_port: true,
                raw: false,
                promiscuous: false,
                listens: false,
                link: 0,
            },
        );
        let bind = host.filtering().last("ALE_RESOURCE_ASSIGNMENT").clone();
        assert_eq!(opened, Opened::Bound(bind.endpoint_handle));
        assert!(!bind.fields.contains_key("IP_LOCAL_ADDRESS"), "FWP_EMPTY");
        assert_eq!(bind.fields["IP_LOCAL_PORT"], 49152);
        let flags = u64::from(ConditionFlags::IS_WILDCARD_BIND.bits());
        assert_eq!(bind.fields["FLAGS"], flags);
    }
}

#[test]
fn ale_12_a_syn_to_a_closed_port_is_reset_unless_the_discard_layer_blocks() {
    for (answer, resets) in [(Outcome::Permit, 1), (Outcome::Block, 0)] {
        let mut host = Host::new(
            Recorder::of_everything(),
            Setup {
                sockets: Some([(6, 80)].into()),
                output: true,
                ..setup()
            },
        );
        host.filtering().discard_answer = answer;
        let mut talk = Dialogue::new("192.0.2.1:50000", "10.0.0.1:81");
        let report = host.packet(0, &talk.segment(true, SYN, &[]));
        assert_eq!(report.reason, Some(Reason::NoEndpoint));
        let shown = host.filtering().take();
        assert_eq!(
            shown[..2],
            ["INBOUND_IPPACKET", "INBOUND_TRANSPORT_DISCARD"]
        );
        assert_eq!(shown.len(), 2 + 2 * resets, "{shown:?}");
        let output = host.output();
        assert_eq!(output.len(), resets);
        if let Some(Output::Sent(reset)) = output.first() {
            let packet = crate::net::Packet::parse(reset).expect("a packet");
            assert_eq!(packet.destination_port, 50000);
            assert_eq!(reset[33], 0x14, "RST and ACK");
        }
        let mut open = Dialogue::new("192.0.2.1:50000", "10.0.0.1:80");
        assert!(host.packet(0, &open.segment(true, SYN, &[])).passed);
    }
}

#[test]
fn ale_13_a_flow_that_was_idle_for_a_minute_is_asked_about_again() {
    let mut host = host_with(Recorder::default());
    let (client, server) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
    host.packet(0, &udp(client, server, b"?"));
    host.packet(60 * SECOND, &udp(client, server, b"?"));
    assert_eq!(host.filtering().count("FLOW_ENDED"), 1);
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 2);
}
