//! ALE rows: authorization, its repetition and delay, redirection, endpoints.

use std::net::Ipv4Addr;

use conformance_messages::{Inject, Step, completion, operation, point};
use portcullis_tests::Tcp;
use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{Action, ConditionFlags, LayerKind, NtStatus, Rights};
use zerocopy::FromZeros as _;

use crate::answers::{Doing as _, absorb, permit, redirect, with_slot};
use crate::traffic::{HOST, PEER};
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

fn flags(record: &conformance_messages::Record) -> ConditionFlags {
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
fn ale_13_an_idle_flow_is_authorized_anew() {
    let w = World::new();
    let s = w.session();
    let callout = decides(&w, &s, LayerKind::AleAuthConnect, &[permit()]);
    let established = watches(&s, LayerKind::AleFlowEstablished);
    let packet = w.datagram(5000, 53);
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
