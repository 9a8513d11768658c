//! CAL rows: registering, notifying, unregistering.

use crate::world::*;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use wfp_engine::{CalloutId, Engine, Filter, Options, Registration, Request, Wait};
use wfp_schema::{
    Action, CalloutFlags, FilterFlags, Guid, LayerKind, NotifyType, NtStatus, condition,
};

fn registration(key: Guid) -> Registration<TestHost> {
    Registration {
        key,
        flags: CalloutFlags::NONE,
        has_flow_delete: false,
        host: std::sync::Arc::default(),
    }
}

#[test]
fn cal_01_a_key_is_registered_once() {
    let w = World::new();
    let callout = w.callout();
    let again = w.engine.register(registration(callout.key));
    assert_eq!(again, Err(NtStatus::FWP_ALREADY_EXISTS));
}

#[test]
fn cal_02_registering_works_while_the_engine_is_stopped() {
    let engine = Engine::new(TestHost::default(), Options::default());
    let key = Guid::from_u128(1);
    let id = engine.register(registration(key)).unwrap();
    assert_eq!(engine.registered_callouts(), [(id, key)]);
}

fn unregistered(action: Action, flags: FilterFlags) -> bool {
    let w = World::new();
    let key = w.key();
    w.add_callout(key, connect());
    w.add(filter(action).of(key).flagged(flags));
    w.classify(no_call).is_permit()
}

#[test]
fn cal_03_a_terminating_filter_blocks_without_its_callout() {
    assert!(!unregistered(Action::CalloutTerminating, FilterFlags::NONE));
}

#[test]
fn cal_04_an_unknown_filter_blocks_without_its_callout() {
    assert!(!unregistered(Action::CalloutUnknown, FilterFlags::NONE));
}

#[test]
fn cal_05_an_inspection_filter_is_skipped_without_its_callout() {
    let w = World::new();
    let key = w.key();
    w.add_callout(key, connect());
    w.add(filter(Action::CalloutInspection).of(key).weighing(2));
    assert!(w.classify(no_call).is_permit());
    let next = w.add(filter(Action::Block).weighing(1));
    let verdict = w.classify(no_call);
    assert_eq!(verdict.by.unwrap().filter, next);
}

#[test]
fn cal_06_a_filter_may_permit_without_its_callout() {
    let permits = FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED;
    assert!(unregistered(Action::CalloutTerminating, permits));
    assert!(unregistered(Action::CalloutUnknown, permits));
}

#[test]
fn cal_07_filters_from_before_registering_are_not_notified() {
    let w = World::new();
    let key = w.key();
    w.add_callout(key, connect());
    w.add(filter(Action::CalloutTerminating).of(key));
    let (_, told) = w.register(key, CalloutFlags::NONE);
    assert_eq!(told.kinds(), []);

    let new = w.add(filter(Action::CalloutTerminating).of(key));
    assert_eq!(
        *told.notified.lock().unwrap(),
        [(NotifyType::AddFilter, new, 0)]
    );
}

#[test]
fn cal_08_the_deletion_of_a_filter_from_before_registering_is_notified() {
    let w = World::new();
    let key = w.key();
    w.add_callout(key, connect());
    let old = w.add(filter(Action::CalloutTerminating).of(key));
    let (_, told) = w.register(key, CalloutFlags::NONE);
    w.engine.delete_filter(w.session, old).unwrap();
    assert_eq!(
        *told.notified.lock().unwrap(),
        [(NotifyType::DeleteFilter, old, 0)]
    );
}

#[test]
fn cal_09_a_callout_may_refuse_a_filter() {
    let w = World::new();
    let callout = w.callout();
    callout.told.refuses.store(true, Ordering::SeqCst);
    let refused = filter(Action::CalloutTerminating).asking(&callout);
    let refused = w.engine.add_filter(w.session, refused);
    assert_eq!(refused, Err(NtStatus::FWP_CALLOUT_NOTIFICATION_FAILED));
    assert_eq!(w.engine.committed().filters().count(), 0);
    assert!(w.classify(no_call).is_permit());
}

#[test]
fn cal_10_a_callout_can_not_keep_a_filter() {
    let w = World::new();
    let callout = w.callout();
    let id = w.add(filter(Action::CalloutTerminating).asking(&callout));
    callout.told.refuses.store(true, Ordering::SeqCst);
    assert_eq!(w.engine.delete_filter(w.session, id), Ok(()));
    assert!(w.engine.committed().filter(id).is_none());
}

#[test]
fn cal_11_a_rewritten_context_stays() {
    let w = World::new();
    let callout = w.callout();
    callout.told.rewrites.store(0xC0DE, Ordering::SeqCst);
    let id = w.add(Filter {
        context: 5,
        ..filter(Action::CalloutTerminating).asking(&callout)
    });
    let mut seen = 0;
    w.classify(|call, _| seen = call.filter.context());
    assert_eq!(seen, 0xC0DE);
    w.engine.delete_filter(w.session, id).unwrap();
    assert_eq!(
        *callout.told.notified.lock().unwrap(),
        [
            (NotifyType::AddFilter, id, 5),
            (NotifyType::DeleteFilter, id, 0xC0DE)
        ]
    );
}

#[test]
fn cal_12_a_callout_may_hear_of_the_commit() {
    let w = World::new();
    let callout = w.callout_at(connect(), CalloutFlags::ENABLE_COMMIT_ADD_NOTIFY);
    w.engine.begin_transaction(w.session, false).unwrap();
    w.add(filter(Action::CalloutTerminating).asking(&callout));
    assert_eq!(callout.told.kinds(), [NotifyType::AddFilter]);
    w.engine.commit_transaction(w.session).unwrap();
    assert_eq!(
        callout.told.kinds(),
        [NotifyType::AddFilter, NotifyType::AddFilterPostCommit]
    );
}

#[test]
fn a_filter_that_its_own_transaction_deletes_is_never_committed() {
    let w = World::new();
    let callout = w.callout_at(connect(), CalloutFlags::ENABLE_COMMIT_ADD_NOTIFY);
    w.engine.begin_transaction(w.session, false).unwrap();
    let id = w.add(filter(Action::CalloutTerminating).asking(&callout));
    w.engine.delete_filter(w.session, id).unwrap();
    w.engine.commit_transaction(w.session).unwrap();
    assert_eq!(
        callout.told.kinds(),
        [NotifyType::AddFilter, NotifyType::DeleteFilter]
    );
}

#[test]
fn deletions_are_notified_when_they_are_committed() {
    let w = World::new();
    let callout = w.callout();
    let id = w.add(filter(Action::CalloutTerminating).asking(&callout));
    w.engine.begin_transaction(w.session, false).unwrap();
    w.engine.delete_filter(w.session, id).unwrap();
    assert_eq!(callout.told.kinds(), [NotifyType::AddFilter]);
    w.engine.abort_transaction(w.session).unwrap();
    assert_eq!(callout.told.kinds(), [NotifyType::AddFilter]);
    w.engine.delete_filter(w.session, id).unwrap();
    assert_eq!(callout.told.kinds().len(), 2);
}

#[test]
fn an_abort_undoes_additions_and_says_so_if_wanted() {
    for notify_delete_on_abort in [true, false] {
        let w = World::with(Options {
            notify_delete_on_abort,
            ..Options::default()
        });
        let callout = w.callout();
        w.engine.begin_transaction(w.session, false).unwrap();
        w.add(filter(Action::CalloutTerminating).asking(&callout));
        w.engine.abort_transaction(w.session).unwrap();
        let told = callout.told.kinds();
        assert_eq!(
            told.contains(&NotifyType::DeleteFilter),
            notify_delete_on_abort
        );
    }
}

#[test]
fn cal_13_unregistering_leaves_filters_without_their_callout() {
    let w = World::new();
    let callout = w.callout();
    w.add(filter(Action::CalloutTerminating).asking(&callout));
    let permits = w.classify(|_, out| answer(out, Action::Permit)).is_permit();
    assert!(permits);
    assert_eq!(w.engine.unregister_by_id(callout.id), Ok(()));
    assert!(!w.classify(no_call).is_permit());

    let (id, _) = w.register(callout.key, CalloutFlags::NONE);
    assert_eq!(id, callout.id);
    assert!(w.classify(|_, out| answer(out, Action::Permit)).is_permit());
}

#[test]
fn cal_14_a_flow_context_keeps_a_callout_busy() {
    let w = World::new();
    let stream = layer(LayerKind::Stream);
    let callout = w.callout_at(stream, CalloutFlags::NONE);
    let flow = w.engine.create_flow();
    let associated = w
        .engine
        .associate_context(flow.id(), stream.id(), callout.id, 9);
    assert_eq!(associated, NtStatus::SUCCESS);
    let busy = Err(NtStatus::DEVICE_BUSY);
    assert_eq!(w.engine.unregister_by_id(callout.id), busy);
    assert_eq!(w.engine.unregister_by_key(callout.key), busy);
}

#[test]
fn cal_15_a_callout_without_contexts_any_more_can_be_unregistered() {
    let w = World::new();
    let stream = layer(LayerKind::Stream);
    let callout = w.callout_at(stream, CalloutFlags::NONE);
    let flow = w.engine.create_flow();
    w.engine
        .associate_context(flow.id(), stream.id(), callout.id, 9);
    assert!(w.engine.unregister_by_id(callout.id).is_err());
    let removed = w.engine.remove_context(flow.id(), stream.id(), callout.id);
    assert_eq!(removed, NtStatus::SUCCESS);
    assert_eq!(w.engine.unregister_by_id(callout.id), Ok(()));
}

#[test]
fn new_contexts_are_refused_after_a_busy_unregister_unless_wanted() {
    for allow_association_after_busy in [true, false] {
        let w = World::with(Options {
            allow_association_after_busy,
            ..Options::default()
        });
        let stream = layer(LayerKind::Stream);
        let callout = w.callout_at(stream, CalloutFlags::NONE);
        let associate = || {
            let flow = w.engine.create_flow();
            w.engine
                .associate_context(flow.id(), stream.id(), callout.id, 9)
        };
        assert_eq!(associate(), NtStatus::SUCCESS);
        assert!(w.engine.unregister_by_id(callout.id).is_err());
        let accepted = associate() == NtStatus::SUCCESS;
        assert_eq!(accepted, allow_association_after_busy);
    }
}

#[test]
fn cal_16_unknown_callouts_can_not_be_unregistered() {
    let w = World::new();
    let not_found = Err(NtStatus::FWP_CALLOUT_NOT_FOUND);
    assert_eq!(w.engine.unregister_by_id(CalloutId::new(77)), not_found);
    assert_eq!(w.engine.unregister_by_key(w.key()), not_found);
    let added = w.key();
    w.add_callout(added, connect());
    assert_eq!(w.engine.unregister_by_key(added), not_found);
}

#[test]
fn cal_17_unregistering_waits_for_calls_and_is_exclusive() {
    let w = World::new();
    let callout = w.callout();
    w.add(filter(Action::CalloutTerminating).asking(&callout));
    let waits = w.engine.host().hear_waits();
    let (done, when_done) = channel();
    std::thread::scope(|threads| {
        w.classify(|_, out| {
            let done = done.clone();
            let (w, id) = (&w, callout.id);
            threads.spawn(move || done.send(w.engine.unregister_by_id(id)).unwrap());
            assert_eq!(waits.recv().unwrap(), Wait::Callout(id));
            assert_eq!(w.engine.running_calls(id), 1);
            let second = w.engine.unregister_by_id(id);
            assert_eq!(second, Err(NtStatus::FWP_IN_USE));
            assert!(when_done.try_recv().is_err(), "a call still runs");
            let next = w.classify(no_call);
            assert!(!next.is_permit(), "the callout is gone for new traffic");
            answer(out, Action::Permit);
        });
        assert_eq!(when_done.recv().unwrap(), Ok(()));
    });
}

#[test]
fn a_deletion_is_notified_once_no_call_with_the_filter_runs() {
    let w = World::new();
    let callout = w.callout();
    let id = w.add(filter(Action::CalloutTerminating).asking(&callout));
    let waits = w.engine.host().hear_waits();
    std::thread::scope(|threads| {
        w.classify(|_, out| {
            let w = &w;
            threads.spawn(move || w.engine.delete_filter(w.session, id).unwrap());
            assert_eq!(waits.recv().unwrap(), Wait::Filter(id));
            assert_eq!(callout.told.kinds(), [NotifyType::AddFilter]);
            assert!(w.classify(no_call).is_permit(), "it is gone for others");
            answer(out, Action::Block);
        });
    });
    assert_eq!(
        callout.told.kinds(),
        [NotifyType::AddFilter, NotifyType::DeleteFilter]
    );
}

#[test]
fn cal_18_a_callout_conditional_on_flow_is_ignored_without_its_context() {
    let w = World::new();
    let stream = layer(LayerKind::DatagramData);
    let callout = w.callout_at(stream, CalloutFlags::CONDITIONAL_ON_FLOW);
    w.add(
        filter(Action::CalloutTerminating)
            .at(stream)
            .asking(&callout),
    );
    let flow = w.engine.create_flow();
    let request = Request::new(stream.id(), &[]).on_flow(&flow);
    assert!(w.engine.classify(&request, no_call).is_permit());
    w.engine
        .associate_context(flow.id(), stream.id(), callout.id, 9);
    let mut context = 0;
    w.engine.classify(&request, |call, out| {
        context = call.flow_context;
        answer(out, Action::Permit);
    });
    assert_eq!(context, 9);
}

#[test]
fn a_refused_filter_does_not_hold_up_others() {
    let w = World::new();
    let callout = w.callout();
    callout.told.refuses.store(true, Ordering::SeqCst);
    w.engine.begin_transaction(w.session, false).unwrap();
    let asks = || filter(Action::CalloutTerminating).asking(&callout);
    assert!(w.engine.add_filter(w.session, asks()).is_err());
    callout.told.refuses.store(false, Ordering::SeqCst);
    w.add(asks().when(vec![wfp_engine::Condition::equal(
        condition::IP_PROTOCOL,
        wfp_engine::ConditionValue::Empty,
    )]));
    w.engine.commit_transaction(w.session).unwrap();
    assert_eq!(w.engine.committed().filters().count(), 1);
}
