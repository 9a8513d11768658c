//! ARB-15 to ARB-17: decisions further down, and what the discard layers show of them.

use wfp_schema::flags::MetadataFields;
use wfp_schema::{Action, FilterFlags, LayerKind};

use crate::answers::{absorb, block};
use crate::traffic::{HOST, PEER};
use crate::world::{Callout, World, asking, connect, discard_v4, filter, v4};

#[test]
fn arb_15_a_permit_at_one_layer_is_none_at_another() {
    let w = World::new();
    let s = w.session();
    let authorized = s.callout(connect());
    s.add(asking(&authorized, Action::CalloutInspection).weight(2));
    let hard = FilterFlags::CLEAR_ACTION_RIGHT.bits();
    s.add(filter(connect(), Action::Permit).weight(1).flags(hard));
    s.add(filter(v4(LayerKind::OutboundTransport), Action::Block));
    assert!(!w.connects());
    assert_eq!(
        w.classifies(&authorized).len(),
        1,
        "the block is at the transport layer"
    );
    w.end();
}

/// What the discard layer sees of a datagram whose callout at the inbound transport layer answers so.
fn discarded(answer: conformance_messages::Step) -> (Vec<conformance_messages::Record>, World) {
    let w = World::new();
    let s = w.session();
    let decides: Callout = s.callout(v4(LayerKind::InboundTransport));
    w.script(&decides, &[answer]);
    s.add(asking(&decides, Action::CalloutTerminating));
    let watches = s.callout(discard_v4(LayerKind::InboundTransport));
    s.add(asking(&watches, Action::CalloutInspection));
    let packet = portcullis_tests::udp(&format!("{PEER}:53"), &format!("{HOST}:53"), b"datagram");
    assert!(!w.net().passes(packet));
    (w.classifies(&watches), w)
}

#[test]
fn arb_16_an_absorbed_packet_leaves_no_trace() {
    let (seen, w) = discarded(absorb());
    assert!(seen.is_empty());
    w.end();
}

#[test]
fn arb_17_a_dropped_packet_is_seen_at_the_discard_layer() {
    let (seen, w) = discarded(block());
    let [seen] = seen[..] else {
        panic!("one classify");
    };
    assert_ne!(
        seen.metadata & u64::from(MetadataFields::DISCARD_REASON.bits()),
        0
    );
    w.end();
}
