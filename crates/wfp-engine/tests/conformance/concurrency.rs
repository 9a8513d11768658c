//! Several processors at once.

use crate::world::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use wfp_engine::{Options, ReadTransaction, Request, Session, TransactionWait};
use wfp_schema::{Action, CalloutFlags, LayerId, LayerKind, NtStatus};

#[test]
fn traffic_never_slips_between_two_filters_that_are_swapped_in_one_transaction() {
    let w = World::new();
    let mut current = w.add(filter(Action::Block));
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(w.is_blocked(&[]));
                }
            });
        }
        for _ in 0..300 {
            w.engine.begin_transaction(w.session, false).unwrap();
            w.engine.delete_filter(w.session, current).unwrap();
            current = w.add(filter(Action::Block));
            w.engine.commit_transaction(w.session).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn no_call_runs_once_unregistering_has_succeeded() {
    let w = World::new();
    let callout = w.callout();
    w.add(filter(Action::CalloutTerminating).asking(&callout));
    let alive = AtomicBool::new(true);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    w.classify(|_, out| {
                        assert!(alive.load(Ordering::SeqCst));
                        answer(out, Action::Permit);
                        assert!(alive.load(Ordering::SeqCst));
                    });
                }
            });
        }
        for _ in 0..200 {
            w.engine.unregister_by_key(callout.key).unwrap();
            alive.store(false, Ordering::SeqCst);
            std::thread::yield_now();
            alive.store(true, Ordering::SeqCst);
            w.register(callout.key, CalloutFlags::NONE);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn every_context_is_deleted_exactly_once_whoever_removes_it() {
    let w = World::new();
    let stream = layer(LayerKind::Stream);
    let callout = w.callout_at(stream, CalloutFlags::NONE);
    w.add(
        filter(Action::CalloutTerminating)
            .at(stream)
            .asking(&callout),
    );
    for round in 1..=200 {
        let flow = w.engine.create_flow();
        let id = flow.id();
        let layer = LayerId::STREAM_V4;
        w.engine.associate_context(id, layer, callout.id, round);
        std::thread::scope(|threads| {
            threads.spawn(|| w.engine.remove_context(id, layer, callout.id));
            threads.spawn(|| w.engine.end_flow(&flow));
            threads.spawn(|| {
                let request = Request::new(layer, &[]).on_flow(&flow);
                w.engine.classify(&request, |call, _| {
                    assert!(call.flow_context == 0 || call.flow_context == round);
                });
            });
        });
    }
    let expected: Vec<_> = (1..=200).collect();
    assert_eq!(callout.told.contexts(), expected);
    assert_eq!(w.engine.unregister_by_id(callout.id), Ok(()));
}

#[test]
fn sessions_take_turns() {
    let w = World::new();
    let added = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                let session = Session {
                    transaction_wait: wfp_engine::TransactionWait::Infinite,
                    ..Session::default()
                };
                let session = w.engine.open_session(session).unwrap();
                for _ in 0..25 {
                    w.engine.begin_transaction(session, false).unwrap();
                    w.engine
                        .add_filter(session, filter(Action::Permit))
                        .unwrap();
                    w.engine.commit_transaction(session).unwrap();
                    added.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(added.load(Ordering::Relaxed), 100);
    assert_eq!(w.engine.committed().filters().count(), 100);
}

#[test]
fn readers_never_see_half_of_a_transaction() {
    for read_transaction in [ReadTransaction::Snapshot, ReadTransaction::SharedLock] {
        let w = World::with(Options {
            read_transaction,
            ..Options::default()
        });
        let done = AtomicBool::new(false);
        let open = || {
            let session = Session {
                transaction_wait: TransactionWait::Infinite,
                ..Session::default()
            };
            w.engine.open_session(session).unwrap()
        };
        let writer = open();
        std::thread::scope(|threads| {
            for in_transaction in [true, false] {
                let reader = open();
                let (w, done) = (&w, &done);
                threads.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        if in_transaction {
                            w.engine.begin_transaction(reader, true).unwrap();
                        }
                        let seen = w.engine.objects(reader).unwrap().filters().count();
                        assert_eq!(seen % 2, 0);
                        if in_transaction {
                            let again = w.engine.objects(reader).unwrap().filters().count();
                            assert_eq!(again, seen, "a transaction keeps its view");
                            w.engine.commit_transaction(reader).unwrap();
                        }
                    }
                });
            }
            for round in 0..100 {
                w.engine.begin_transaction(writer, false).unwrap();
                for _ in 0..2 {
                    let added = w.engine.add_filter(writer, filter(Action::Permit));
                    added.unwrap();
                }
                if round % 3 == 0 {
                    w.engine.abort_transaction(writer).unwrap();
                } else {
                    w.engine.commit_transaction(writer).unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(w.engine.committed().filters().count(), 2 * 66);
    }
}

#[test]
fn a_callout_may_call_the_engine_while_it_classifies() {
    let w = World::new();
    let stream = layer(LayerKind::Stream);
    let callout = w.callout_at(stream, CalloutFlags::NONE);
    let asker = w.callout();
    w.add(filter(Action::CalloutTerminating).asking(&asker));
    let flow = w.engine.create_flow();
    let verdict = w.classify(|_, out| {
        let associated = w
            .engine
            .associate_context(flow.id(), stream.id(), callout.id, 1);
        assert_eq!(associated, NtStatus::SUCCESS);
        w.add(filter(Action::Block).at(stream));
        answer(out, Action::Permit);
    });
    assert!(verdict.is_permit());
}
