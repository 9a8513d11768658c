//! TXN rows: transactions.

use crate::world::*;
use std::time::Duration;
use wfp_engine::{Session, SessionId, TransactionWait};
use wfp_schema::{Action, NotifyType, NtStatus};

fn impatient(w: &World) -> SessionId {
    let session = Session {
        transaction_wait: TransactionWait::Limit(Duration::from_millis(10)),
        ..Session::default()
    };
    w.engine.open_session(session).unwrap()
}

#[test]
fn txn_01_a_session_has_one_transaction() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    let in_progress = Err(NtStatus::FWP_TXN_IN_PROGRESS);
    assert_eq!(w.engine.begin_transaction(w.session, false), in_progress);
    assert_eq!(w.engine.begin_transaction(w.session, true), in_progress);
}

#[test]
fn txn_02_there_is_nothing_to_end_without_a_transaction() {
    let w = World::new();
    let none = Err(NtStatus::FWP_NO_TXN_IN_PROGRESS);
    assert_eq!(w.engine.commit_transaction(w.session), none);
    assert_eq!(w.engine.abort_transaction(w.session), none);
}

#[test]
fn txn_03_a_read_only_transaction_changes_nothing() {
    let w = World::new();
    w.engine.begin_transaction(w.session, true).unwrap();
    let refused = w.engine.add_filter(w.session, filter(Action::Block));
    assert_eq!(refused, Err(NtStatus::FWP_INCOMPATIBLE_TXN));
    assert_eq!(w.engine.commit_transaction(w.session), Ok(()));
    assert!(
        w.engine
            .add_filter(w.session, filter(Action::Block))
            .is_ok()
    );
}

#[test]
fn a_read_only_transaction_keeps_its_view() {
    let w = World::new();
    w.engine.begin_transaction(w.session, true).unwrap();
    let other = impatient(&w);
    let id = w.engine.add_filter(other, filter(Action::Block)).unwrap();
    assert!(w.engine.objects(w.session).unwrap().filter(id).is_none());
    w.engine.abort_transaction(w.session).unwrap();
    assert!(w.engine.objects(w.session).unwrap().filter(id).is_some());
}

#[test]
fn txn_04_a_failing_call_does_not_poison_a_transaction() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    let added: Vec<_> = (0..3).map(|_| w.add(filter(Action::Permit))).collect();
    let unknown = filter(Action::CalloutUnknown).of(w.key());
    assert!(w.engine.add_filter(w.session, unknown).is_err());
    assert_eq!(w.engine.commit_transaction(w.session), Ok(()));
    let objects = w.engine.committed();
    assert!(added.iter().all(|id| objects.filter(*id).is_some()));
}

#[test]
fn txn_05_changes_apply_when_committed() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    let block = w.add(filter(Action::Block));
    assert!(!w.is_blocked(&[]));
    assert!(w.engine.committed().filter(block).is_none());
    assert!(w.engine.objects(w.session).unwrap().filter(block).is_some());
    w.engine.commit_transaction(w.session).unwrap();
    assert!(w.is_blocked(&[]));
}

#[test]
fn txn_05_changes_never_apply_when_aborted() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    w.add(filter(Action::Block));
    w.engine.abort_transaction(w.session).unwrap();
    assert!(!w.is_blocked(&[]));
    assert_eq!(w.engine.committed().filters().count(), 0);
}

#[test]
fn txn_06_waiting_for_another_transaction_times_out() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    let other = impatient(&w);
    let timeout = NtStatus::FWP_TIMEOUT;
    assert_eq!(w.engine.begin_transaction(other, false), Err(timeout));
    let implicit = w.engine.add_filter(other, filter(Action::Block));
    assert_eq!(implicit, Err(timeout));
    w.engine.commit_transaction(w.session).unwrap();
    assert_eq!(w.engine.begin_transaction(other, false), Ok(()));
}

#[test]
fn by_default_a_wait_takes_15_seconds() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    let waits = w.engine.host().hear_waits();
    let other = w.engine.open_session(Session::default()).unwrap();
    let refused = w.engine.begin_transaction(other, false);
    assert_eq!(refused, Err(NtStatus::FWP_TIMEOUT));
    let until = Some(Duration::from_secs(15));
    assert_eq!(
        waits.recv().unwrap(),
        wfp_engine::Wait::Transaction { until }
    );
}

#[test]
fn txn_07_a_kernel_session_may_hold_its_transaction_for_ever() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    w.engine.host().advance(Duration::from_hours(2));
    let blocked = w.engine.begin_transaction(impatient(&w), false);
    assert_eq!(blocked, Err(NtStatus::FWP_TIMEOUT));
    assert_eq!(w.engine.commit_transaction(w.session), Ok(()));
}

#[test]
fn txn_07_a_user_sessions_transaction_is_aborted_after_an_hour() {
    let w = World::new();
    let user = Session {
        caller: administrator(),
        ..Session::default()
    };
    let user = w.engine.open_session(user).unwrap();
    let callout = w.callout();
    w.engine.begin_transaction(user, false).unwrap();
    let asks = filter(Action::CalloutTerminating).asking(&callout);
    w.engine.add_filter(user, asks.clone()).unwrap();
    w.engine.host().advance(Duration::from_hours(1));
    let told = w.engine.add_filter(user, asks);
    assert_eq!(told, Err(NtStatus::FWP_TXN_ABORTED));
    assert_eq!(
        callout.told.kinds(),
        [NotifyType::AddFilter, NotifyType::DeleteFilter]
    );
    assert_eq!(w.engine.committed().filters().count(), 0);
    assert_eq!(w.engine.begin_transaction(w.session, false), Ok(()));
}
