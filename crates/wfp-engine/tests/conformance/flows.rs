//! FLW rows: contexts of flows.

use crate::world::*;
use std::sync::Arc;
use wfp_engine::{Flow, FlowId, Registration, Request};
use wfp_schema::{Action, CalloutFlags, LayerId, LayerKind, NtStatus};

struct OnStream {
    w: World,
    callout: TestCallout,
    flow: Arc<Flow<TestHost>>,
}

impl OnStream {
    fn new() -> Self {
        let w = World::new();
        let callout = w.callout_at(layer(LayerKind::Stream), CalloutFlags::NONE);
        let asks = filter(Action::CalloutTerminating).asking(&callout);
        w.add(asks.at(layer(LayerKind::Stream)));
        let flow = w.engine.create_flow();
        Self { w, callout, flow }
    }

    fn associate(&self, context: u64) -> NtStatus {
        let stream = LayerId::STREAM_V4;
        let engine = &self.w.engine;
        engine.associate_context(self.flow.id(), stream, self.callout.id, context)
    }

    fn remove(&self) -> NtStatus {
        let stream = LayerId::STREAM_V4;
        let engine = &self.w.engine;
        engine.remove_context(self.flow.id(), stream, self.callout.id)
    }

    fn classify(&self, mut call: impl FnMut(u64)) {
        let request = Request::new(LayerId::STREAM_V4, &[]).on_flow(&self.flow);
        self.w
            .engine
            .classify(&request, |asked, _| call(asked.flow_context));
    }
}

#[test]
fn flw_01_contexts_need_a_flow_delete_function() {
    let w = World::new();
    let key = w.key();
    let stream = layer(LayerKind::Stream);
    w.add_callout(key, stream);
    let without = Registration {
        key,
        flags: CalloutFlags::NONE,
        has_flow_delete: false,
        host: Arc::default(),
    };
    let id = w.engine.register(without).unwrap();
    let flow = w.engine.create_flow();
    let refused = w.engine.associate_context(flow.id(), stream.id(), id, 1);
    assert_eq!(refused, NtStatus::INVALID_PARAMETER);
}

#[test]
fn flw_02_a_context_is_not_zero() {
    assert_eq!(OnStream::new().associate(0), NtStatus::INVALID_PARAMETER);
}

#[test]
fn a_context_belongs_to_the_callouts_layer() {
    let s = OnStream::new();
    let datagram = LayerId::DATAGRAM_DATA_V4;
    let engine = &s.w.engine;
    let refused = engine.associate_context(s.flow.id(), datagram, s.callout.id, 1);
    assert_eq!(refused, NtStatus::INVALID_PARAMETER);
}

#[test]
fn flw_03_a_second_context_is_refused_and_the_first_stays() {
    let s = OnStream::new();
    assert_eq!(s.associate(1), NtStatus::SUCCESS);
    assert_eq!(s.associate(2), NtStatus::OBJECT_NAME_EXISTS);
    assert_eq!(s.flow.context(LayerId::STREAM_V4, s.callout.id), Some(1));
}

#[test]
fn flw_04_each_callout_has_its_own() {
    let s = OnStream::new();
    let other = s.w.callout_at(layer(LayerKind::Stream), CalloutFlags::NONE);
    assert_eq!(s.associate(1), NtStatus::SUCCESS);
    let stream = LayerId::STREAM_V4;
    let engine = &s.w.engine;
    let second = engine.associate_context(s.flow.id(), stream, other.id, 2);
    assert_eq!(second, NtStatus::SUCCESS);
    assert_eq!(s.flow.context_count(), 2);
}

#[test]
fn flw_05_a_context_is_seen_at_its_layer_only() {
    let s = OnStream::new();
    let established = layer(LayerKind::AleFlowEstablished);
    let watcher = s.w.callout_at(established, CalloutFlags::NONE);
    let asks = filter(Action::CalloutInspection).asking(&watcher);
    s.w.add(asks.at(established));
    let request = Request::new(established.id(), &[]).on_flow(&s.flow);
    let mut found = None;
    s.w.engine.classify(&request, |call, _| {
        assert_eq!(s.associate(7), NtStatus::SUCCESS);
        found = Some(call.flow_context);
    });
    assert_eq!(found, Some(0));
    s.classify(|context| assert_eq!(context, 7));
}

#[test]
fn flw_06_removing_deletes_at_once() {
    let s = OnStream::new();
    s.associate(7);
    assert_eq!(s.remove(), NtStatus::SUCCESS);
    let deleted = s.callout.told.deleted_contexts.lock().unwrap();
    assert_eq!(*deleted, [(LayerId::STREAM_V4, 7)]);
}

#[test]
fn flw_07_a_context_in_use_is_deleted_when_the_call_returns() {
    let s = OnStream::new();
    s.associate(7);
    s.classify(|context| {
        assert_eq!(context, 7);
        assert_eq!(s.remove(), NtStatus::PENDING);
        assert_eq!(s.callout.told.contexts(), []);
        assert_eq!(s.remove(), NtStatus::UNSUCCESSFUL);
        let busy = s.w.engine.unregister_by_id(s.callout.id);
        assert_eq!(busy, Err(NtStatus::DEVICE_BUSY));
    });
    assert_eq!(s.callout.told.contexts(), [7]);
    assert_eq!(s.w.engine.context_count(s.callout.id), 0);
}

#[test]
fn a_context_in_use_twice_is_deleted_when_the_last_call_returns() {
    let s = OnStream::new();
    s.associate(7);
    s.classify(|_| {
        s.classify(|_| assert_eq!(s.remove(), NtStatus::PENDING));
        assert_eq!(s.callout.told.contexts(), []);
    });
    assert_eq!(s.callout.told.contexts(), [7]);
}

#[test]
fn a_context_can_be_replaced_while_the_old_one_is_in_use() {
    let s = OnStream::new();
    s.associate(7);
    s.classify(|_| {
        assert_eq!(s.remove(), NtStatus::PENDING);
        assert_eq!(s.associate(8), NtStatus::SUCCESS);
        s.classify(|context| assert_eq!(context, 8));
        assert_eq!(s.callout.told.contexts(), []);
    });
    assert_eq!(s.callout.told.contexts(), [7]);
    s.classify(|context| assert_eq!(context, 8));
}

#[test]
fn flw_08_what_is_not_there_is_not_removed() {
    let s = OnStream::new();
    assert_eq!(s.remove(), NtStatus::UNSUCCESSFUL);
    assert_eq!(s.callout.told.contexts(), []);
}

#[test]
fn flw_09_the_end_of_a_flow_deletes_its_contexts_once() {
    let s = OnStream::new();
    s.associate(7);
    assert!(s.w.engine.end_flow(&s.flow));
    assert!(!s.w.engine.end_flow(&s.flow));
    assert_eq!(s.callout.told.contexts(), [7]);
    assert_eq!(s.w.engine.flow_count(), 0);
}

#[test]
fn flw_10_the_end_of_a_flow_without_contexts_is_not_told() {
    let s = OnStream::new();
    s.w.engine.end_flow(&s.flow);
    assert_eq!(s.callout.told.contexts(), []);
}

#[test]
fn flw_11_a_flow_that_is_aborted_in_a_call_is_deleted_after_it() {
    let s = OnStream::new();
    s.associate(7);
    s.classify(|_| {
        assert!(s.w.engine.end_flow(&s.flow));
        assert_eq!(s.callout.told.contexts(), []);
    });
    assert_eq!(s.callout.told.contexts(), [7]);
}

#[test]
fn a_flow_that_has_ended_takes_no_context() {
    let s = OnStream::new();
    s.w.engine.end_flow(&s.flow);
    assert_eq!(s.associate(7), s.w.engine.options().unknown_flow);
    assert_eq!(s.remove(), s.w.engine.options().unknown_flow);
    assert!(s.w.engine.flow(FlowId::new(u64::MAX)).is_none());
}
