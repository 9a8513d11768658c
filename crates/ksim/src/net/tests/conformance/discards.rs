//! ARB-15 to ARB-17: the stack and the engine together.

use wfp_schema::codes::DiscardModule;
use wfp_schema::{Action, ClassifyOutFlags, LayerKind, Rights};

use super::super::build::{Dialogue, SYN, socket, udp};
use super::super::engine::{Model, v4};
use super::super::recorder::setup;
use crate::net::{Host, Reason};

#[test]
fn arb_15_a_permit_at_connect_is_none_at_the_transport_layer() {
    let mut model = Model::new();
    model.add(v4(LayerKind::AleAuthConnect), Action::Permit, 10);
    model.add(v4(LayerKind::OutboundTransport), Action::Block, 1);
    let mut host = Host::new(model, setup());
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    let report = host.packet(0, &talk.segment(true, SYN, &[]));
    let layer = v4(LayerKind::OutboundTransport).id();
    assert_eq!(report.reason, Some(Reason::Blocked(layer)));
    assert_eq!(
        host.filtering().names(),
        ["ALE_AUTH_CONNECT_V4", "OUTBOUND_TRANSPORT_V4"]
    );
}

/// A host whose callout at the inbound transport layer blocks with these flags, after a datagram.
fn blocked(flags: ClassifyOutFlags) -> (Host<Model>, u64) {
    let mut model = Model::new();
    let layer = v4(LayerKind::InboundTransport);
    let filter = model.add(layer, Action::CalloutTerminating, 1);
    let discard = layer.twin().expect("a discard layer");
    model.add(discard, Action::CalloutInspection, 1);
    model.answer(move |out| {
        out.action = Action::Block.value();
        out.rights = Rights::NONE;
        out.flags |= flags;
    });
    let mut host = Host::new(model, setup());
    let packet = udp(socket("192.0.2.1:53"), socket("10.0.0.1:53"), b"?");
    assert!(!host.packet(0, &packet).passed);
    (host, filter.get())
}

#[test]
fn arb_16_an_absorbed_block_is_not_shown_to_the_discard_layer() {
    let (mut host, _) = blocked(ClassifyOutFlags::ABSORB);
    assert_eq!(host.filtering().names(), ["INBOUND_TRANSPORT_V4"]);
}

#[test]
fn arb_17_a_block_is_shown_to_the_discard_layer_with_its_reason_and_filter() {
    let (mut host, filter) = blocked(ClassifyOutFlags::NONE);
    let model = host.filtering();
    assert_eq!(
        model.names(),
        ["INBOUND_TRANSPORT_V4", "INBOUND_TRANSPORT_V4_DISCARD"]
    );
    let discard = model.seen[1].1.expect("DISCARD_REASON is present");
    assert_eq!(discard.module, DiscardModule::General);
    assert_eq!((discard.reason, discard.filter_id), (0, filter));
    assert_eq!(model.seen[0].1, None);
}
