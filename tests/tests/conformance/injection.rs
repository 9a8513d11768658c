//! INJ rows: packets that drivers inject.

use conformance_messages::{Inject, MakePacket, operation, point};
use wfp_engine::InjectionCompletion;
use wfp_schema::{Action, CalloutFlags, LayerKind, NtStatus};
use zerocopy::FromZeros as _;

use crate::answers::{Doing as _, absorb, permit, with_slot};
use crate::traffic::{HOST, PEER};
use crate::world::{OK, World, asking, unversioned, v4};

/// `AF_INET`.
const AF_INET: u32 = 2;
/// `FWPS_INJECTION_TYPE_*`.
const TRANSPORT: u32 = 2;
const NETWORK: u32 = 4;
const FORWARD: u32 = 8;
/// `FWPS_PACKET_INJECTION_STATE`.
const NOT_INJECTED: u64 = 0;
const BY_SELF: u64 = 1;
const BY_OTHER: u64 = 2;
const PREVIOUSLY_BY_SELF: u64 = 3;

/// A datagram in a packet slot; behind another as a further net buffer of its list.
fn make(w: &World, slot: u32, behind: Option<u32>, from: &str, to: &str) {
    let packet = portcullis_tests::udp(&format!("{from}:9"), &format!("{to}:9"), b"injected");
    let mut made = MakePacket::new_zeroed();
    made.slot = slot;
    made.behind = behind.map_or(0, |slot| slot + 1);
    made.same_list = 1;
    made.length = u32::try_from(packet.len()).expect("short");
    made.bytes[..packet.len()].copy_from_slice(&packet);
    assert_eq!(w.agent.status(&made), OK);
}

/// The injection of a packet with a handle.
fn injection(point: u32, handle: u32, slot: u32, context: u64) -> Inject {
    let mut inject = Inject::new_zeroed();
    inject.point = point;
    inject.handle = handle;
    inject.packet = slot + 1;
    inject.family = AF_INET;
    inject.interface = 1;
    inject.context = context;
    inject
}

#[test]
fn inj_01_a_handle_is_for_what_it_was_made_for() {
    let w = World::new();
    w.injection_handle(0, AF_INET, TRANSPORT);
    make(&w, 0, None, HOST, PEER);
    let status = w.agent.status(&injection(point::NETWORK_SEND, 0, 0, 1));
    assert_eq!(status, NtStatus::FWP_INJECT_HANDLE_STALE);
    assert!(w.completions().is_empty());
    w.end_with("injection-handle");
}

#[test]
fn inj_02_a_handle_that_is_being_destroyed_injects_nothing() {
    // A completion that runs before the injection returns can't run while the handle is destroyed.
    let w = World::answering(|options| {
        if options.injection_completion == InjectionCompletion::Inline {
            options.injection_completion = InjectionCompletion::Deferred;
        }
    });
    w.injection_handle(0, AF_INET, NETWORK);
    make(&w, 0, None, HOST, PEER);
    make(&w, 1, None, HOST, PEER);
    // The first packet's completion runs while the handle is destroyed, and injects the second one.
    let mut inject = injection(point::NETWORK_SEND, 0, 0, 1);
    inject.destroy = 1;
    inject.again = 2;
    assert_eq!(w.agent.status(&inject), OK);
    w.net().settle();
    let [completed] = w.completions()[..] else {
        panic!("the second packet is not completed");
    };
    assert_eq!(
        completed.operations[0],
        NtStatus::FWP_INJECT_HANDLE_CLOSING.code()
    );
    w.end();
}

#[test]
fn inj_03_destroying_a_handle_waits_for_its_packets() {
    let w = World::new();
    w.injection_handle(0, AF_INET, NETWORK);
    make(&w, 0, None, HOST, PEER);
    let mut inject = injection(point::NETWORK_SEND, 0, 0, 1);
    inject.destroy = 1;
    let reply = w.agent.call(&inject);
    assert_eq!(
        (reply.status, reply.values[1]),
        (OK.code(), u64::from(OK.code()))
    );
    assert_eq!(
        reply.values[2], 1,
        "the completion ran before the call returned"
    );
    w.end();
}

/// What a callout at the outbound network layer finds of an injected packet, asked with both handles.
fn states(w: &World) -> crate::world::Callout {
    let s = w.session();
    let callout = s.callout(v4(LayerKind::OutboundIpPacket));
    let asks = permit()
        .doing(with_slot(operation::INJECTION_STATE, 0))
        .doing(with_slot(operation::INJECTION_STATE, 1));
    w.script(&callout, &[asks]);
    s.add(asking(&callout, Action::CalloutTerminating));
    callout
}

#[test]
fn inj_04_an_injected_packet_is_known_by_its_handle() {
    let w = World::new();
    w.injection_handle(0, AF_INET, NETWORK);
    w.injection_handle(1, AF_INET, NETWORK);
    let callout = states(&w);
    make(&w, 0, None, HOST, PEER);
    assert_eq!(
        w.agent.status(&injection(point::NETWORK_SEND, 0, 0, 77)),
        OK
    );
    w.net().settle();
    let [seen] = w.classifies(&callout)[..] else {
        panic!("one classify");
    };
    assert_eq!(seen.values[0], 77 << 32 | BY_SELF);
    assert_eq!(seen.values[1] & 0xFFFF_FFFF, BY_OTHER);
    w.end();
}

#[test]
fn inj_05_a_packet_that_was_injected_again_is_known_by_both_handles() {
    let w = World::new();
    w.injection_handle(0, AF_INET, NETWORK);
    w.injection_handle(1, AF_INET, NETWORK);
    let s = w.session();
    let callout = s.callout(v4(LayerKind::OutboundIpPacket));
    let clones = absorb().doing(with_slot(operation::CLONE, 1));
    let asks = permit()
        .doing(with_slot(operation::INJECTION_STATE, 0))
        .doing(with_slot(operation::INJECTION_STATE, 1));
    w.script(&callout, &[clones, asks]);
    s.add(asking(&callout, Action::CalloutTerminating));
    make(&w, 0, None, HOST, PEER);
    assert_eq!(
        w.agent.status(&injection(point::NETWORK_SEND, 0, 0, 77)),
        OK
    );
    w.net().settle();
    assert_eq!(
        w.agent.status(&injection(point::NETWORK_SEND, 1, 1, 88)),
        OK
    );
    w.net().settle();
    let [_, seen] = w.classifies(&callout)[..] else {
        panic!("two classifies");
    };
    assert_eq!(seen.values[0], 77 << 32 | PREVIOUSLY_BY_SELF);
    assert_eq!(seen.values[1], 88 << 32 | BY_SELF);
    w.end();
}

#[test]
fn inj_06_the_stacks_packets_are_not_injected() {
    let w = World::new();
    w.injection_handle(0, AF_INET, NETWORK);
    w.injection_handle(1, AF_INET, NETWORK);
    let callout = states(&w);
    assert!(w.connects());
    let [seen] = w.classifies(&callout)[..] else {
        panic!("one classify");
    };
    assert_eq!(seen.values[..2], [NOT_INJECTED, NOT_INJECTED]);
    w.end();
}

#[test]
fn inj_07_a_forwarded_packet_is_not_shown() {
    let w = World::new();
    w.injection_handle(0, AF_INET, FORWARD);
    let s = w.session();
    let watchers = [
        LayerKind::IpForward,
        LayerKind::OutboundIpPacket,
        LayerKind::InboundIpPacket,
        LayerKind::OutboundTransport,
    ]
    .map(|kind| {
        let callout = s.callout(v4(kind));
        s.add(asking(&callout, Action::CalloutInspection));
        callout
    });
    make(&w, 0, None, PEER, "203.0.113.5");
    assert_eq!(w.agent.status(&injection(point::FORWARD, 0, 0, 1)), OK);
    w.net().settle();
    assert_eq!(w.completions().len(), 1);
    for watcher in watchers {
        assert!(
            w.classifies(&watcher).is_empty(),
            "{}",
            watcher.layer.name()
        );
    }
    w.end();
}

#[test]
fn inj_08_a_batch_of_frames_is_not_cloned() {
    for (flags, status) in [
        (CalloutFlags::NONE, OK),
        (
            CalloutFlags::ALLOW_L2_BATCH_CLASSIFY,
            NtStatus::INVALID_PARAMETER,
        ),
    ] {
        let w = World::new();
        let s = w.session();
        let layer = unversioned(LayerKind::InboundMacFrameEthernet);
        let callout = s.callout_with(layer, flags.bits(), 0);
        w.script(&callout, &[permit().doing(with_slot(operation::CLONE, 0))]);
        s.add(asking(&callout, Action::CalloutTerminating));
        let packet = portcullis_tests::udp(&format!("{PEER}:9"), &format!("{HOST}:9"), b"frame");
        let ethernet = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]].concat();
        w.net().frame(&[&ethernet[..], &[8, 0], &packet].concat());
        assert_eq!(w.classifies(&callout)[0].operations[0], status.code());
        w.unload();
    }
}

#[test]
fn inj_09_received_lists_have_one_net_buffer() {
    let w = World::new();
    w.injection_handle(0, AF_INET, NETWORK);
    make(&w, 0, None, PEER, HOST);
    make(&w, 1, Some(0), PEER, HOST);
    let bugcheck = w.agent.stops(&injection(point::NETWORK_RECEIVE, 0, 0, 1));
    assert_eq!((bugcheck.code, bugcheck.parameters[0]), (0x1D3, 1));
}
