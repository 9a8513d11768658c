//! SES rows.

use conformance_messages::object;
use wfp_schema::{Action, NtStatus};

use crate::world::{OK, World, connect, filter};

#[test]
fn ses_01_dynamic_objects_go_with_their_session() {
    let w = World::new();
    let (dynamic, other) = (w.dynamic_session(), w.session());
    let sublayer = dynamic.sublayer(1);
    let id = dynamic.add(filter(connect(), Action::Permit).within(sublayer));
    assert!(other.has_filter(id) && other.has_sublayer(sublayer));
    assert_eq!(dynamic.close(), OK);
    assert!(!other.has_filter(id) && !other.has_sublayer(sublayer));
    w.end();
}

#[test]
fn ses_02_a_dynamic_object_is_its_sessions() {
    let w = World::new();
    let (first, second) = (w.dynamic_session(), w.dynamic_session());
    let sublayer = first.sublayer(1);
    assert_eq!(
        second.delete(object::SUBLAYER, sublayer, 0),
        NtStatus::FWP_WRONG_SESSION
    );
    assert_eq!(first.delete(object::SUBLAYER, sublayer, 0), OK);
    w.end();
}

#[test]
fn ses_03_a_dynamic_session_deletes_nothing_static() {
    let w = World::new();
    let sublayer = w.session().sublayer(1);
    let status = w.dynamic_session().delete(object::SUBLAYER, sublayer, 0);
    assert_eq!(status, NtStatus::FWP_DYNAMIC_SESSION_IN_PROGRESS);
    w.end();
}

#[test]
fn ses_04_closing_a_session_aborts_its_transaction() {
    let w = World::new();
    let s = w.session();
    assert_eq!(s.begin(), OK);
    let sublayer = s.sublayer(1);
    assert_eq!(s.close(), OK);
    let other = w.session();
    assert!(!other.has_sublayer(sublayer));
    assert_eq!(other.begin(), OK, "nobody holds the lock");
    w.end();
}

#[test]
fn ses_05_two_sessions_do_not_have_one_key() {
    let w = World::new();
    let key = w.key();
    let first = w.open_with(0, 0, key).expect("a session");
    assert_eq!(
        w.open_with(0, 0, key).err(),
        Some(NtStatus::FWP_ALREADY_EXISTS)
    );
    assert_eq!(first.close(), OK);
    assert!(w.open_with(0, 0, key).is_ok());
    w.end();
}
