//! ALE rows: authorization, its repetition and delay, redirection, endpoints.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use conformance_messages::{Inject, Step, completion, operation, point};
use ksim::net::{Output, Setup};
use portcullis_tests::Tcp;
use portcullis_tests::packets::RST;
use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{Action, ConditionFlags, DataType, LayerKind, NtStatus, Rights};
use zerocopy::FromZeros as _;

use crate::answers::{Doing as _, absorb, block, permit, redirect, with_slot};
use crate::traffic::{HOST, PEER, datagram};
use crate::world::{Callout, OK, Session, World, asking, connect, filter, v4};

/// A callout that decides at the layer, as told.
fn decides(w: &World, s: &Session<'_>, kind: LayerKind, answers: &[Step]) -> Callout {
    let callout = s.callout(v4(kind));
    w.script(&callout, answers);
    s.add(asking(&callout, Action::CalloutTerminating).weight(1));
    callout
}

/// A callout that watches the layer.
fn watches(s: &Session<'_>, kind: LayerKind) -> Callout {
    let callout = s.callout(v4(kind));
    s.add(asking(&callout, Action::CalloutInspection));
    callout
}

const fn flags(record: &conformance_messages::Record) -> ConditionFlags {
    ConditionFlags::from_bits(record.flags)
}

#[test]
fn ale_01_a_connection_is_authorized_once() {
    let w = World::new();
    let s = w.session();
    let callout = decides(&w, &s, LayerKind::AleAuthConnect, &[permit()]);
    let mut connection = w.connection();
    let more = [
        connection.client_says(b"hello"),
        connection.server_says(b"hello"),
    ];
    assert!(w.net().all_pass(&more));
    assert_eq!(w.classifies(&callout).len(), 1);
    w.end();
}

#[test]
fn ale_02_a_new_filter_authorizes_anew_with_the_next_packet() {
    for inbound in [false, true] {
        let w = World::new();
        let s = w.session();
        let callout = decides(&w, &s, LayerKind::AleAuthConnect, &[permit()]);
        let mut connection = w.connection();
        s.add(filter(connect(), Action::Permit).weight(0));
        let next = if inbound {
            connection.server_says(b"hello")
        } else {
            connection.client_says(b"hello")
        };
        assert!(w.net().passes(next));
        let [_, again] = w.classifies(&callout)[..] else {
            panic!("the connection is authorized again, once");
        };
        assert!(flags(&again).contains(ConditionFlags::IS_REAUTHORIZE));
        assert_eq!(
            again.reauthorize_reason,
            ReauthorizeReason::POLICY_CHANGE.bits()
        );
        w.end();
    }
}

#[test]
fn ale_03_a_repeated_authorization_is_not_pended() {
    let w = World::new();
    let s = w.session();
    let pends = permit().doing(with_slot(operation::PEND_OPERATION, 0));
    let callout = decides(&w, &s, LayerKind::AleAuthConnect, &[permit(), pends]);
    let mut connection = w.connection();
    s.add(filter(connect(), Action::Permit).weight(0));
    let next = connection.client_says(b"hello");
    w.net().packet(&next);
    assert_eq!(
        w.classifies(&callout)[1].operations[0],
        NtStatus::FWP_CANNOT_PEND.code()
    );
    w.end_with("pend-reauthorization");
}

#[test]
fn ale_04_a_completed_connect_is_authorized_again_at_once() {
    let w = World::new();
    let s = w.session();
    let pends = absorb().doing(with_slot(operation::PEND_OPERATION, 0));
    let callout = decides(&w, &s, LayerKind::AleAuthConnect, &[pends, permit()]);
    let mut connection = Tcp::new(&format!("{HOST}:41000"), &format!("{PEER}:443"));
    let handshake = connection.handshake();
    let syn = w.net().packet(&handshake[0]);
    assert!(!syn.passed, "the connect waits");
    assert_eq!(w.classifies(&callout)[0].operations[0], OK.code());

    let settled = w.complete(completion::OPERATION, 0, Action::Permit);
    let [_, again] = w.classifies(&callout)[..] else {
        panic!("authorized once more");
    };
    assert!(flags(&again).contains(ConditionFlags::IS_REAUTHORIZE));
    assert_eq!(settled, [(syn.id, true)], "the SYN goes out");
    assert!(w.net().all_pass(&handshake[1..]));
    w.end();
}

#[test]
fn ale_05_a_completed_accept_is_authorized_by_the_clone_that_is_injected() {
    let w = World::new();
    let s = w.session();
    w.injection_handle(0, AF_INET, INJECTION_TYPE_TRANSPORT);
    let mut clones = with_slot(operation::CLONE, 0);
    clones.a = 1;
    let pends = absorb()
        .doing(with_slot(operation::PEND_OPERATION, 0))
        .doing(clones);
    let sees = permit().doing(with_slot(operation::INJECTION_STATE, 0));
    let callout = decides(&w, &s, LayerKind::AleAuthRecvAccept, &[pends, sees]);
    let packet = portcullis_tests::udp(&format!("{PEER}:53"), &format!("{HOST}:53"), b"datagram");
    let waits = w.net().packet(&packet);
    assert!(!waits.passed);
    assert_eq!(w.classifies(&callout)[0].operations[..2], [OK.code(); 2]);

    w.complete(completion::OPERATION, 0, Action::Permit);
    assert_eq!(
        w.classifies(&callout).len(),
        1,
        "completion does not authorize"
    );
    let mut inject = Inject::new_zeroed();
    inject.point = point::TRANSPORT_RECEIVE;
    inject.packet = 1;
    inject.family = AF_INET;
    inject.interface = 1;
    inject.context = 77;
    assert_eq!(w.agent.status(&inject), OK);
    let settled = w.net().settle();
    let [_, again] = w.classifies(&callout)[..] else {
        panic!("the clone is authorized");
    };
    assert!(!flags(&again).contains(ConditionFlags::IS_REAUTHORIZE));
    assert_eq!(again.values[0], 77 << 32 | INJECTED_BY_SELF);
    assert_eq!(settled, [(waits.id, true)]);
    w.end();
}

/// The proxy that connections are redirected to.
const PROXY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

/// Asks for the connection's state with both redirect handles.
fn asks(step: Step) -> Step {
    step.doing(with_slot(operation::REDIRECT_STATE, 0))
        .doing(with_slot(operation::REDIRECT_STATE, 1))
}

#[test]
fn ale_06_a_packets_classify_is_not_pended() {
    let w = World::new();
    let s = w.session();
    let pends = permit().doing(with_slot(operation::PEND_CLASSIFY, 0));
    let callout = decides(&w, &s, LayerKind::OutboundTransport, &[pends]);
    w.connects();
    assert_eq!(
        w.classifies(&callout)[0].operations[0],
        NtStatus::FWP_CANNOT_PEND.code()
    );
    w.end();
}

#[test]
fn ale_07_who_may_change_the_layers_data_has_blocked() {
    let w = World::new();
    let s = w.session();
    let modifies = permit().doing(with_slot(operation::MODIFY, 0));
    let callout = decides(&w, &s, LayerKind::AleConnectRedirect, &[modifies]);
    assert!(w.connects());
    let [seen] = w.classifies(&callout)[..] else {
        panic!("one classify");
    };
    assert_eq!(seen.operations[0], OK.code());
    let (action, rights) = (seen.values[0] & 0xFFFF_FFFF, seen.values[0] >> 32);
    assert_eq!(action, u64::from(Action::Block.value()));
    assert_eq!(rights & u64::from(Rights::ACTION_WRITE.bits()), 0);
    w.end();
}

#[test]
fn ale_08_a_redirected_connection_is_its_redirectors() {
    let w = World::new();
    let s = w.session();
    w.redirect_handle(0);
    w.redirect_handle(1);
    let redirects = permit().doing(redirect(PROXY, 8080, 0, 77));
    decides(&w, &s, LayerKind::AleConnectRedirect, &[redirects]);
    let callout = decides(&w, &s, LayerKind::AleAuthConnect, &[asks(permit())]);
    w.connects();
    let [original, seen] = w.classifies(&callout)[..] else {
        panic!("the connection is authorized as it was meant, then as it is");
    };
    assert!(flags(&original).contains(ConditionFlags::IS_HONORING_POLICY_AUTHORIZE));
    assert_eq!(seen.remote_address, PROXY.to_bits());
    assert_eq!(seen.remote_port, 8080);
    assert!(flags(&seen).contains(ConditionFlags::IS_CONNECTION_REDIRECTED));
    assert_eq!(seen.values[0], 77 << 32 | REDIRECTED_BY_SELF);
    assert_eq!(seen.values[1] & 0xFFFF_FFFF, REDIRECTED_BY_OTHER);
    w.end();
}

#[test]
fn ale_09_who_has_redirected_before_does_not_again() {
    let w = World::new();
    let s = w.session();
    w.redirect_handle(0);
    w.redirect_handle(1);
    let [high, low] = [10, 5].map(|weight| s.sublayer(weight));
    let layer = v4(LayerKind::AleConnectRedirect);
    for (sublayer, slot, context) in [(high, 0, 77), (low, 1, 88)] {
        let callout = s.callout(layer);
        w.script(
            &callout,
            &[permit().doing(redirect(PROXY, 8080, slot, context))],
        );
        s.add(asking(&callout, Action::CalloutTerminating).within(sublayer));
    }
    let callout = decides(&w, &s, LayerKind::AleAuthConnect, &[asks(permit())]);
    w.connects();
    let [original, seen] = w.classifies(&callout)[..] else {
        panic!("the connection is authorized as it was meant, then as it is");
    };
    assert!(flags(&original).contains(ConditionFlags::IS_HONORING_POLICY_AUTHORIZE));
    assert_eq!(seen.values[0], 77 << 32 | PREVIOUSLY_REDIRECTED_BY_SELF);
    assert_eq!(seen.values[1], 88 << 32 | REDIRECTED_BY_SELF);
    w.end();
}

#[test]
fn ale_10_a_socket_has_a_flow_for_each_peer_and_one_end() {
    let w = World::new();
    let s = w.session();
    let authorizes = watches(&s, LayerKind::AleAuthConnect);
    let closes = watches(&s, LayerKind::AleEndpointClosure);
    for peer in ["198.51.100.7", "198.51.100.8", "198.51.100.7"] {
        let packet = portcullis_tests::udp(&format!("{HOST}:5000"), &format!("{peer}:53"), b"ask");
        assert!(w.net().passes(packet));
    }
    assert_eq!(w.classifies(&authorizes).len(), 2);
    w.net().finish();
    assert_eq!(w.classifies(&closes).len(), 1);
    w.end();
}

#[test]
fn ale_11_a_bind_to_any_address_is_a_wildcard() {
    let w = World::new();
    let s = w.session();
    let callout = watches(&s, LayerKind::AleResourceAssignment);
    w.bind_any(5000);
    let [seen] = w.classifies(&callout)[..] else {
        panic!("one classify");
    };
    assert_eq!(seen.local_address_type, DataType::Empty.value());
    assert_eq!(seen.local_port, 5000);
    assert!(flags(&seen).contains(ConditionFlags::IS_WILDCARD_BIND));
    w.end();
}

#[test]
fn ale_12_a_syn_to_a_closed_port_is_discarded() {
    for (answer, resets) in [(permit(), true), (block(), false)] {
        let w = World::new();
        w.set_up(Setup {
            sockets: Some(BTreeSet::new()),
            output: true,
            ..Setup::default()
        });
        let s = w.session();
        let network = watches(&s, LayerKind::InboundIpPacket);
        let discard = s.callout(crate::world::discard_v4(LayerKind::InboundTransport));
        w.script(&discard, &[answer]);
        s.add(asking(&discard, Action::CalloutTerminating));
        let mut connection = Tcp::new(&format!("{PEER}:50000"), &format!("{HOST}:81"));
        let syn = connection.handshake().remove(0);
        assert!(!w.net().passes(syn));
        assert_eq!(w.classifies(&network).len(), 1);
        assert_eq!(w.classifies(&discard).len(), 1);
        let sent = w.net().output();
        let is_reset = |output: &Output| matches!(output, Output::Sent(packet) if packet[9] == 6 && packet[33] & RST != 0);
        assert_eq!(
            sent.iter().any(is_reset),
            resets,
            "a block there suppresses the RST"
        );
        w.end();
    }
}

#[test]
fn ale_13_an_idle_flow_is_authorized_anew() {
    let w = World::new();
    let s = w.session();
    let callout = decides(&w, &s, LayerKind::AleAuthConnect, &[permit()]);
    let established = watches(&s, LayerKind::AleFlowEstablished);
    let packet = datagram(5000, 53);
    for (seconds, authorized) in [(0, 1), (30, 1), (61, 2)] {
        w.net().wait(seconds);
        assert!(w.net().passes(&packet));
        assert_eq!(w.classifies(&callout).len(), authorized);
    }
    let flows = w.classifies(&established);
    assert_ne!(flows[0].flow, flows[1].flow);
    let again = w.classifies(&callout)[1];
    assert!(!flags(&again).contains(ConditionFlags::IS_REAUTHORIZE));
    w.end();
}

/// `AF_INET`.
const AF_INET: u32 = 2;
/// `FWPS_INJECTION_TYPE_TRANSPORT`.
const INJECTION_TYPE_TRANSPORT: u32 = 2;
/// `FWPS_PACKET_INJECTED_BY_SELF`.
const INJECTED_BY_SELF: u64 = 1;
/// `FWPS_CONNECTION_REDIRECTED_BY_SELF`.
const REDIRECTED_BY_SELF: u64 = 1;
/// `FWPS_CONNECTION_REDIRECTED_BY_OTHER`.
const REDIRECTED_BY_OTHER: u64 = 2;
/// `FWPS_CONNECTION_PREVIOUSLY_REDIRECTED_BY_SELF`.
const PREVIOUSLY_REDIRECTED_BY_SELF: u64 = 3;
