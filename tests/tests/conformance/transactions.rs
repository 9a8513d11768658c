//! TXN rows.

use std::time::Duration;

use wfp_schema::{Action, Guid, NtStatus};

use crate::world::{OK, World, connect, filter};

#[test]
fn txn_01_a_session_has_one_transaction() {
    let w = World::new();
    let s = w.session();
    assert_eq!(s.begin(), OK);
    assert_eq!(s.begin(), NtStatus::FWP_TXN_IN_PROGRESS);
    assert_eq!(s.commit(), OK);
    w.end();
}

#[test]
fn txn_02_without_a_transaction_there_is_nothing_to_end() {
    let w = World::new();
    let s = w.session();
    assert_eq!(s.commit(), NtStatus::FWP_NO_TXN_IN_PROGRESS);
    assert_eq!(s.abort(), NtStatus::FWP_NO_TXN_IN_PROGRESS);
    w.end();
}

#[test]
fn txn_03_a_transaction_that_reads_adds_nothing() {
    let w = World::new();
    let s = w.session();
    assert_eq!(s.begin_read_only(), OK);
    let added = s.try_add(filter(connect(), Action::Permit));
    assert_eq!(added, Err(NtStatus::FWP_INCOMPATIBLE_TXN));
    assert_eq!(s.commit(), OK);
    w.end();
}

#[test]
fn txn_04_a_failed_addition_leaves_the_others() {
    let w = World::new();
    let s = w.session();
    assert_eq!(s.begin(), OK);
    let added = [1, 2, 3].map(|weight| s.add(filter(connect(), Action::Permit).weight(weight)));
    assert!(
        s.try_add(filter(connect(), Action::Permit).within(w.key()))
            .is_err()
    );
    assert_eq!(s.commit(), OK);
    for id in added {
        assert!(s.has_filter(id));
    }
    w.end();
}

#[test]
fn txn_05_a_filter_applies_from_the_commit_on() {
    let w = World::new();
    let s = w.session();
    assert_eq!(s.begin(), OK);
    s.add(filter(connect(), Action::Block));
    assert!(w.connects(), "not before the commit");
    assert_eq!(s.commit(), OK);
    assert!(!w.connects(), "after the commit");
    w.end();
}

#[test]
fn txn_05_an_aborted_filter_never_applies() {
    let w = World::new();
    let s = w.session();
    assert_eq!(s.begin(), OK);
    let id = s.add(filter(connect(), Action::Block));
    assert_eq!(s.abort(), OK);
    assert!(!s.has_filter(id));
    assert!(w.connects());
    w.end();
}

#[test]
fn txn_06_a_second_writer_waits_as_long_as_its_session_says() {
    let w = World::new();
    let (first, second) = (
        w.session(),
        w.open_with(0, 10, Guid::ZERO).expect("a session"),
    );
    assert_eq!(first.begin(), OK);
    let before = w.kernel.time().now();
    assert_eq!(second.begin(), NtStatus::FWP_TIMEOUT);
    let waited = w.kernel.time().now() - before;
    assert!(
        waited >= 10 * 10_000,
        "it has waited for {waited} units of 100 ns"
    );
    assert_eq!(first.commit(), OK);
    assert_eq!(second.begin(), OK);
    w.end();
}

#[test]
fn txn_07_a_kernel_session_keeps_its_transaction() {
    let w = World::new();
    let s = w.session();
    assert_eq!(s.begin(), OK);
    let hours = Duration::from_hours(2).as_nanos() / 100;
    w.kernel.time().advance(u64::try_from(hours).expect("fits"));
    let id = s.add(filter(connect(), Action::Permit));
    assert_eq!(s.commit(), OK);
    assert!(s.has_filter(id));
    w.end();
}
