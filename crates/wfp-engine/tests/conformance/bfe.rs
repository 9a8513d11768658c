//! BFE rows: the state of the base filtering engine, and what survives it.

use crate::world::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use wfp_engine::{BootStore, Engine, Filter, Options, Provider, Registration, Session};
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{Action, BfeState, CalloutFlags, FilterFlags, NotifyType, NtStatus};

fn blocks(engine: &Engine<TestHost>) -> bool {
    let request = wfp_engine::Request::new(connect().id(), &[]);
    !engine.classify(&request, no_call).is_permit()
}

#[test]
fn bfe_01_no_session_opens_while_the_engine_is_stopped() {
    let engine = Engine::new(TestHost::default(), Options::default());
    let refused = engine.open_session(Session::default());
    assert_eq!(refused, Err(engine.options().open_without_bfe));
    engine.start_bfe();
    assert!(engine.open_session(Session::default()).is_ok());
}

#[test]
fn bfe_02_subscribers_hear_of_every_state() {
    let engine = Engine::new(TestHost::default(), Options::default());
    let heard = Arc::<Mutex<Vec<_>>>::default();
    let log = Arc::clone(&heard);
    let subscription = engine.subscribe(move |state| log.lock().unwrap().push(state));
    engine.start_bfe();
    engine.stop_bfe();
    assert_eq!(
        *heard.lock().unwrap(),
        [
            BfeState::StartPending,
            BfeState::Running,
            BfeState::StopPending,
            BfeState::Stopped
        ]
    );
    assert_eq!(engine.unsubscribe(subscription), Ok(()));
    engine.start_bfe();
    assert_eq!(heard.lock().unwrap().len(), 4);
    let again = engine.unsubscribe(subscription);
    assert_eq!(again, Err(NtStatus::INVALID_HANDLE));
}

#[test]
fn bfe_03_persistent_filters_take_the_place_of_boot_time_filters() {
    let stored = |flags| Filter {
        key: wfp_schema::Guid::from_u128(u128::from(flags == FilterFlags::BOOTTIME) + 1),
        ..filter(Action::Block).flagged(flags)
    };
    let boot = BootStore {
        filters: vec![
            stored(FilterFlags::BOOTTIME),
            stored(FilterFlags::PERSISTENT),
        ],
        ..BootStore::default()
    };
    let engine = Engine::boot(TestHost::default(), Options::default(), boot);
    let decides = || {
        let request = wfp_engine::Request::new(connect().id(), &[]);
        let by = engine.classify(&request, no_call).by.unwrap().filter;
        let objects = engine.committed();
        objects
            .filter(by)
            .map(|entry| entry.record().filter().flags)
    };
    assert_eq!(decides(), None, "nothing manages a boot-time filter yet");
    engine.start_bfe();
    assert_eq!(decides(), Some(FilterFlags::PERSISTENT));
    assert_eq!(engine.boot_store().filters.len(), 2);
}

#[test]
fn a_boot_time_filter_waits_for_the_next_boot() {
    let w = World::new();
    w.add(filter(Action::Block).flagged(FilterFlags::BOOTTIME));
    assert!(!blocks(&w.engine));
    let store = w.engine.boot_store();
    let next = Engine::boot(TestHost::default(), Options::default(), store);
    assert!(blocks(&next));
    next.start_bfe();
    assert!(!blocks(&next));
}

#[test]
fn a_stop_takes_static_objects_and_sessions() {
    let w = World::new();
    let persistent = w.add(filter(Action::Block).flagged(FilterFlags::PERSISTENT));
    let sublayer = w.sublayer(1);
    let key = w
        .engine
        .committed()
        .filter(persistent)
        .unwrap()
        .record()
        .key();
    w.engine.stop_bfe();
    assert!(!blocks(&w.engine));
    let aborted = w.engine.add_filter(w.session, filter(Action::Block));
    assert_eq!(aborted, Err(NtStatus::FWP_SESSION_ABORTED));
    assert_eq!(w.engine.close_session(w.session), Ok(()));

    w.engine.start_bfe();
    assert!(blocks(&w.engine));
    let objects = w.engine.committed();
    assert!(objects.filter_by_key(key).is_some());
    assert!(objects.sublayer(sublayer).is_none());
}

#[test]
fn filters_may_outlive_the_engine() {
    let w = World::with(Options {
        filters_outlive_bfe: true,
        ..Options::default()
    });
    let callout = w.callout();
    w.add(filter(Action::CalloutTerminating).asking(&callout));
    w.engine.stop_bfe();
    let verdict = w.classify(|_, out| answer(out, Action::Block));
    assert!(!verdict.is_permit());
    assert_eq!(callout.told.kinds(), [NotifyType::AddFilter]);
    w.engine.start_bfe();
    assert!(w.classify(no_call).is_permit());
    assert_eq!(
        callout.told.kinds(),
        [NotifyType::AddFilter, NotifyType::DeleteFilter]
    );
}

#[test]
fn a_stop_aborts_an_open_transaction() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    w.add(filter(Action::Block).flagged(FilterFlags::PERSISTENT));
    w.engine.stop_bfe();
    w.engine.start_bfe();
    assert!(!blocks(&w.engine));
    let session = w.engine.open_session(Session::default()).unwrap();
    assert_eq!(w.engine.begin_transaction(session, false), Ok(()));
}

#[test]
fn registrations_and_flow_contexts_survive_a_stop() {
    let w = World::new();
    let stream = layer(wfp_schema::LayerKind::Stream);
    let callout = w.callout_at(stream, CalloutFlags::NONE);
    let flow = w.engine.create_flow();
    w.engine
        .associate_context(flow.id(), stream.id(), callout.id, 7);
    w.engine.stop_bfe();
    assert_eq!(flow.context(stream.id(), callout.id), Some(7));
    w.engine.start_bfe();
    let session = w.engine.open_session(Session::default()).unwrap();
    let again = wfp_engine::Callout {
        key: callout.key,
        name: name(),
        layer: stream.key(),
        ..wfp_engine::Callout::default()
    };
    assert_eq!(w.engine.add_callout(session, again), Ok(callout.id));
}

#[test]
fn objects_of_a_provider_whose_service_is_not_started_are_disabled() {
    let w = World::new();
    let provider = Provider {
        name: name(),
        persistent: true,
        service: Some("manual".to_owned()),
        ..Provider::default()
    };
    let provider = w.engine.add_provider(w.session, provider).unwrap();
    w.add(Filter {
        provider: Some(provider),
        ..filter(Action::Block).flagged(FilterFlags::PERSISTENT)
    });
    let host = TestHost::with_manual_services();
    let next = Engine::boot(host, Options::default(), w.engine.boot_store());
    next.start_bfe();
    assert!(!blocks(&next));
    let objects = next.committed();
    assert!(objects.provider(provider).unwrap().disabled);
    let record = objects.filters().next().unwrap().record();
    assert!(record.filter().flags.contains(FilterFlags::DISABLED));
}

#[test]
fn bfe_03_traffic_never_slips_between_boot_time_and_persistent_filters() {
    for _ in 0..50 {
        let stored = |number, flags| Filter {
            key: wfp_schema::Guid::from_u128(number),
            ..filter(Action::Block).flagged(flags)
        };
        let boot = BootStore {
            filters: vec![
                stored(1, FilterFlags::BOOTTIME),
                stored(2, FilterFlags::PERSISTENT),
            ],
            ..BootStore::default()
        };
        let engine = Engine::boot(TestHost::default(), Options::default(), boot);
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(blocks(&engine));
                }
            });
            engine.start_bfe();
            assert!(blocks(&engine));
            done.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn a_boot_time_filter_asks_its_callout_as_soon_as_that_is_registered() {
    let w = World::new();
    let key = w.key();
    let callout = wfp_engine::Callout {
        key,
        name: name(),
        layer: connect().key(),
        flags: ManagementCalloutFlags::PERSISTENT,
        ..wfp_engine::Callout::default()
    };
    w.engine.add_callout(w.session, callout).unwrap();
    let asks = filter(Action::CalloutTerminating).of(key);
    w.add(asks.flagged(FilterFlags::BOOTTIME));

    let next = Engine::boot(
        TestHost::default(),
        Options::default(),
        w.engine.boot_store(),
    );
    assert!(blocks(&next), "its callout is not registered yet");
    next.register(Registration {
        key,
        flags: CalloutFlags::NONE,
        has_flow_delete: false,
        host: Arc::default(),
    })
    .unwrap();
    let request = wfp_engine::Request::new(connect().id(), &[]);
    let mut asked = 0;
    let verdict = next.classify(&request, |_, out| {
        asked += 1;
        answer(out, Action::Permit);
    });
    assert!(verdict.is_permit() && asked == 1);
    next.start_bfe();
    assert!(next.classify(&request, no_call).is_permit());
}

#[test]
fn a_persistent_object_stays_until_it_is_deleted_and_that_is_committed() {
    let w = World::new();
    let key = w.key();
    let kept = || Filter {
        key,
        ..filter(Action::Block).flagged(FilterFlags::PERSISTENT)
    };
    w.add(kept());
    let reboot = |engine: &Engine<TestHost>| {
        let store = engine.boot_store();
        let next = Engine::boot(TestHost::default(), Options::default(), store);
        next.start_bfe();
        next
    };
    let next = reboot(&reboot(&w.engine));
    assert!(blocks(&next));
    let session = next.open_session(Session::default()).unwrap();

    next.begin_transaction(session, false).unwrap();
    next.delete_filter_by_key(session, key).unwrap();
    assert!(blocks(&reboot(&next)), "the deletion is not committed");
    next.abort_transaction(session).unwrap();
    assert!(blocks(&reboot(&next)));

    next.delete_filter_by_key(session, key).unwrap();
    assert!(!blocks(&next));
    assert!(!blocks(&reboot(&next)));
}

#[test]
fn boot_time_filters_do_not_ask_for_their_providers_service() {
    let w = World::new();
    let provider = Provider {
        name: name(),
        persistent: true,
        service: Some("manual".to_owned()),
        ..Provider::default()
    };
    let provider = Some(w.engine.add_provider(w.session, provider).unwrap());
    for flags in [FilterFlags::BOOTTIME, FilterFlags::PERSISTENT] {
        w.add(Filter {
            provider,
            ..filter(Action::Block).flagged(flags)
        });
    }
    let host = TestHost::with_manual_services();
    let next = Engine::boot(host, Options::default(), w.engine.boot_store());
    assert!(blocks(&next), "services matter when the engine starts");
    next.start_bfe();
    assert!(!blocks(&next));
    assert_eq!(next.boot_store().filters.len(), 2, "both are kept");
}
