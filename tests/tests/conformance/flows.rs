//! FLW rows: contexts of flows.

use conformance_messages::{flow, operation};
use portcullis_tests::{Net, Tcp};
use wfp_schema::{Action, LayerKind, NtStatus};

use crate::answers::{Doing as _, associate, permit, proceed, with_slot};
use crate::world::{Callout, OK, Session, World, asking, at, v4};

/// A callout at the stream layer that takes contexts, and one that knows a flow when it begins.
fn callouts(s: &Session<'_>) -> (Callout, Callout) {
    let stream = s.flow_callout(v4(LayerKind::Stream));
    let established = s.callout(v4(LayerKind::AleFlowEstablished));
    s.add(asking(&established, Action::CalloutInspection));
    (stream, established)
}

/// A connection and its flow's handle.
fn connected(w: &World, established: &Callout) -> (Tcp, u64) {
    let connection = w.connection();
    let flow = w
        .classifies(established)
        .last()
        .expect("a flow has begun")
        .flow;
    assert_ne!(flow, 0);
    (connection, flow)
}

#[test]
fn flw_01_who_is_not_told_of_a_flows_end_gets_no_context() {
    let w = World::new();
    let s = w.session();
    let (_, established) = callouts(&s);
    let deaf = s.callout(v4(LayerKind::Stream));
    let (_, flow) = connected(&w, &established);
    assert_eq!(w.associate(flow, &deaf, 1), NtStatus::INVALID_PARAMETER);
    w.end();
}

#[test]
fn flw_02_zero_is_no_context() {
    let w = World::new();
    let (stream, established) = callouts(&w.session());
    let (_, flow) = connected(&w, &established);
    assert_eq!(w.associate(flow, &stream, 0), NtStatus::INVALID_PARAMETER);
    w.end();
}

#[test]
fn flw_03_a_callout_has_one_context_for_a_flow_and_layer() {
    let w = World::new();
    let (stream, established) = callouts(&w.session());
    let (_, flow) = connected(&w, &established);
    assert_eq!(w.associate(flow, &stream, 1), OK);
    assert_eq!(w.associate(flow, &stream, 2), NtStatus::OBJECT_NAME_EXISTS);
    assert_eq!(w.remove(flow, &stream), OK);
    assert_eq!(w.deleted(&stream), [1], "the old context is kept");
    w.end();
}

#[test]
fn flw_04_each_callout_has_its_own_context() {
    let w = World::new();
    let s = w.session();
    let (first, established) = callouts(&s);
    let second = s.flow_callout(first.layer);
    let (_, flow) = connected(&w, &established);
    assert_eq!(w.associate(flow, &first, 1), OK);
    assert_eq!(w.associate(flow, &second, 2), OK);
    assert_eq!((w.remove(flow, &first), w.remove(flow, &second)), (OK, OK));
    assert_eq!((w.deleted(&first), w.deleted(&second)), (vec![1], vec![2]));
    w.end();
}

#[test]
fn flw_05_a_context_is_seen_at_its_layer() {
    let w = World::new();
    let s = w.session();
    let (stream, established) = callouts(&s);
    let gives = proceed().doing(associate(&stream, v4(LayerKind::Stream), 7));
    w.script(&established, &[gives]);
    w.script(&stream, &[permit()]);
    s.add(asking(&stream, Action::CalloutTerminating));
    let (mut connection, _) = connected(&w, &established);
    assert_eq!(w.classifies(&established)[0].operations[0], OK.code());
    assert_eq!(w.classifies(&established)[0].flow_context, 0);
    let says = connection.client_says(b"hello");
    assert!(w.net().passes(says));
    assert_eq!(w.classifies(&stream)[0].flow_context, 7);
    w.end();
}

#[test]
fn flw_06_removing_an_idle_context_ends_it_at_once() {
    let w = World::new();
    let (stream, established) = callouts(&w.session());
    let (_, flow) = connected(&w, &established);
    assert_eq!(w.associate(flow, &stream, 7), OK);
    assert_eq!(w.remove(flow, &stream), OK);
    let log = w.log();
    let told = log
        .iter()
        .find(|record| record.kind == conformance_messages::kind::FLOW_DELETE);
    let told = told.expect("flowDeleteFn ran before the call returned");
    let layer = u32::from(stream.layer.id().get());
    assert_eq!(
        (told.layer, told.id, told.flow_context),
        (layer, stream.id.into(), 7)
    );
    w.end();
}

#[test]
fn flw_07_a_context_in_use_ends_after_its_classify() {
    let w = World::with_processors(2);
    let s = w.session();
    let (stream, established) = callouts(&s);
    w.script(&stream, &[permit().doing(with_slot(operation::HOLD, 0))]);
    s.add(asking(&stream, Action::CalloutTerminating));
    let gives = proceed().doing(associate(&stream, stream.layer, 7));
    w.script(&established, &[gives]);
    let kernel = &w.kernel;
    std::thread::scope(|scope| {
        let traffic = scope.spawn(move || {
            let mut net = Net::new(kernel, 1);
            let mut connection = Tcp::new("192.0.2.10:41000", "198.51.100.7:443");
            let mut packets = connection.handshake();
            packets.push(connection.client_says(b"hello"));
            assert!(net.all_pass(&packets));
        });
        w.await_held();
        let flow = w.classifies(&established)[0].flow;
        assert_eq!(w.remove(flow, &stream), NtStatus::PENDING);
        assert!(w.deleted(&stream).is_empty(), "the classify still has it");
        w.release();
        traffic.join().expect("the packets pass");
    });
    assert_eq!(w.deleted(&stream), [7], "once, after the classify");
    w.end();
}

#[test]
fn flw_08_what_is_not_there_is_not_removed() {
    let w = World::new();
    let (stream, established) = callouts(&w.session());
    let (_, flow) = connected(&w, &established);
    assert_eq!(w.remove(flow, &stream), NtStatus::UNSUCCESSFUL);
    assert!(w.deleted(&stream).is_empty());
    w.end();
}

#[test]
fn flw_09_a_reset_ends_the_context_once() {
    let w = World::new();
    let (stream, established) = callouts(&w.session());
    let (mut connection, flow) = connected(&w, &established);
    assert_eq!(w.associate(flow, &stream, 7), OK);
    let reset = connection.reset();
    w.net().packet(&reset);
    assert!(w.classifies(&stream).is_empty());
    assert_eq!(w.deleted(&stream), [7]);
    w.net().finish();
    assert_eq!(w.deleted(&stream), [7], "exactly once");
    w.end();
}

#[test]
fn flw_10_a_flow_without_context_ends_in_silence() {
    let w = World::new();
    let (stream, established) = callouts(&w.session());
    let (mut connection, _) = connected(&w, &established);
    let reset = connection.reset();
    w.net().packet(&reset);
    w.net().finish();
    assert!(w.deleted(&stream).is_empty());
    w.end();
}

#[test]
fn flw_11_an_aborted_flow_ends_with_its_connection() {
    let w = World::new();
    let (stream, established) = callouts(&w.session());
    let (mut connection, flow) = connected(&w, &established);
    assert_eq!(w.associate(flow, &stream, 7), OK);
    assert_eq!(
        w.flow(flow::ABORT, flow, &at(established, stream.layer), 0),
        OK
    );
    w.net().settle();
    assert_eq!(w.deleted(&stream), [7]);
    let says = connection.client_says(b"hello");
    assert!(!w.net().passes(says), "the connection is over");
    w.end();
}
