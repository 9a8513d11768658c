//! SES rows: sessions and the objects they own.

use crate::world::*;
use wfp_engine::{Filter, Provider, Session, SessionId, SubLayer};
use wfp_schema::{Action, Guid, NtStatus};

fn dynamic(w: &World) -> SessionId {
    w.engine.open_session(Session::dynamic()).unwrap()
}

fn sublayer_of(w: &World, session: SessionId) -> Guid {
    let sublayer = SubLayer {
        name: name(),
        ..SubLayer::default()
    };
    w.engine.add_sublayer(session, sublayer).unwrap()
}

#[test]
fn ses_01_a_dynamic_sessions_objects_go_with_it() {
    let w = World::new();
    let session = dynamic(&w);
    let provider = Provider {
        name: name(),
        ..Provider::default()
    };
    let provider = w.engine.add_provider(session, provider).unwrap();
    let sublayer = sublayer_of(&w, session);
    let block = Filter {
        provider: Some(provider),
        ..filter(Action::Block).within(sublayer)
    };
    let block = w.engine.add_filter(session, block).unwrap();
    assert!(w.is_blocked(&[]));

    w.engine.close_session(session).unwrap();
    let objects = w.engine.committed();
    assert!(objects.filter(block).is_none());
    assert!(objects.sublayer(sublayer).is_none());
    assert!(objects.provider(provider).is_none());
    assert!(!w.is_blocked(&[]));
}

#[test]
fn a_static_sessions_objects_stay() {
    let w = World::new();
    let block = w.add(filter(Action::Block));
    w.engine.close_session(w.session).unwrap();
    assert!(w.engine.committed().filter(block).is_some());
}

#[test]
fn ses_02_a_dynamic_session_may_not_delete_anothers_objects() {
    let w = World::new();
    let (a, b) = (dynamic(&w), dynamic(&w));
    let sublayer = sublayer_of(&w, a);
    let refused = w.engine.delete_sublayer(b, sublayer);
    assert_eq!(refused, Err(NtStatus::FWP_WRONG_SESSION));
    assert_eq!(w.engine.delete_sublayer(a, sublayer), Ok(()));
}

#[test]
fn ses_03_a_dynamic_session_may_not_delete_static_objects() {
    let w = World::new();
    let sublayer = w.sublayer(1);
    let refused = w.engine.delete_sublayer(dynamic(&w), sublayer);
    assert_eq!(refused, Err(NtStatus::FWP_DYNAMIC_SESSION_IN_PROGRESS));
}

#[test]
fn ses_04_closing_a_session_aborts_its_transaction() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    let block = w.add(filter(Action::Block));
    w.engine.close_session(w.session).unwrap();
    assert!(w.engine.committed().filter(block).is_none());

    let next = w.engine.open_session(Session::default()).unwrap();
    assert_eq!(w.engine.begin_transaction(next, false), Ok(()));
}

#[test]
fn ses_05_a_session_key_is_used_once() {
    let w = World::new();
    let session = Session {
        key: w.key(),
        ..Session::default()
    };
    let first = w.engine.open_session(session.clone()).unwrap();
    let second = w.engine.open_session(session.clone());
    assert_eq!(second, Err(NtStatus::FWP_ALREADY_EXISTS));
    w.engine.close_session(first).unwrap();
    assert!(w.engine.open_session(session).is_ok());
}

#[test]
fn a_closed_session_is_no_session() {
    let w = World::new();
    w.engine.close_session(w.session).unwrap();
    let invalid = Err(NtStatus::INVALID_HANDLE);
    assert_eq!(w.engine.close_session(w.session), invalid);
    assert_eq!(w.engine.begin_transaction(w.session, false), invalid);
}
