//! Access of user-mode callers, by the pages on access control and access right identifiers.

use crate::world::*;
use wfp_engine::{
    ADMINISTRATORS, AccessEntry, AccessList, Caller, EVERYONE, Engine, NETWORK_OPERATORS,
    ObjectType, Options, Securable, Secured, SecurityDescriptor, SecurityParts, Session, SessionId,
    SubLayer,
};
use wfp_schema::{AccessRights, Action, FilterFlags, Guid, NtStatus};

const ALICE: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 10, 0, 0, 0];
const BOB: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 11, 0, 0, 0];
const DENIED: NtStatus = NtStatus::ACCESS_DENIED;
const LIST: SecurityParts = SecurityParts {
    owner: false,
    group: false,
    list: true,
};

fn session_of(w: &World, caller: Caller) -> SessionId {
    w.engine
        .open_session(Session {
            caller,
            ..Session::default()
        })
        .unwrap()
}

fn with_list(entries: Vec<AccessEntry>) -> SecurityDescriptor {
    SecurityDescriptor {
        list: AccessList::Entries(entries),
        ..SecurityDescriptor::default()
    }
}

fn sublayer() -> SubLayer {
    SubLayer {
        name: name(),
        ..SubLayer::default()
    }
}

/// Lets everyone do things with everything.
fn grant_everyone(w: &World, rights: AccessRights) {
    let all = AccessRights::OPEN | rights;
    let descriptor = with_list(vec![AccessEntry::grant(all, EVERYONE)]);
    w.engine
        .set_security(w.session, Securable::Engine, LIST, &descriptor)
        .unwrap();
}

#[test]
fn anyone_may_open_a_session_and_only_administrators_and_operators_may_do_more() {
    let w = World::new();
    let anyone = session_of(&w, user(ALICE, &[EVERYONE]));
    assert_eq!(w.engine.begin_transaction(anyone, true), Err(DENIED));
    assert_eq!(w.engine.add_sublayer(anyone, sublayer()), Err(DENIED));
    let enumerated = w.engine.enumerate(anyone, ObjectType::Filter);
    assert_eq!(enumerated.err(), Some(DENIED));

    for caller in [administrator(), user(ALICE, &[NETWORK_OPERATORS, EVERYONE])] {
        let session = session_of(&w, caller);
        assert_eq!(w.engine.begin_transaction(session, false), Ok(()));
        let added = w.engine.add_sublayer(session, sublayer()).unwrap();
        assert_eq!(w.engine.delete_sublayer(session, added), Ok(()));
        assert_eq!(w.engine.commit_transaction(session), Ok(()));
        assert!(w.engine.enumerate(session, ObjectType::Filter).is_ok());
    }
}

#[test]
fn administrators_can_always_open_a_session() {
    let w = World::new();
    let nothing = with_list(Vec::new());
    w.engine
        .set_security(w.session, Securable::Engine, LIST, &nothing)
        .unwrap();
    let open = |caller| {
        w.engine.open_session(Session {
            caller,
            ..Session::default()
        })
    };
    assert_eq!(open(user(ALICE, &[EVERYONE])), Err(DENIED));
    let administrator = open(administrator()).unwrap();
    assert_eq!(w.engine.begin_transaction(administrator, true), Err(DENIED));
}

#[test]
fn writing_takes_more_than_reading() {
    let w = World::new();
    grant_everyone(&w, AccessRights::BEGIN_READ_TXN);
    let session = session_of(&w, user(ALICE, &[EVERYONE]));
    assert_eq!(w.engine.begin_transaction(session, false), Err(DENIED));
    assert_eq!(w.engine.begin_transaction(session, true), Ok(()));
}

#[test]
fn adding_a_filter_takes_a_link_to_everything_that_it_names() {
    let w = World::new();
    grant_everyone(&w, AccessRights::ADD | AccessRights::ADD_LINK);
    let alice = session_of(&w, user(ALICE, &[EVERYONE]));
    let callout = w.callout();
    let within = w.sublayer(9);
    let asks = || {
        filter(Action::CalloutTerminating)
            .asking(&callout)
            .within(within)
    };
    assert!(w.engine.add_filter(alice, asks()).is_ok());
    for closed in [
        Securable::Container(ObjectType::Filter),
        Securable::Object(ObjectType::Layer, connect().key()),
        Securable::Object(ObjectType::SubLayer, within),
        Securable::Object(ObjectType::Callout, callout.key),
    ] {
        let rights = AccessRights::ADD | AccessRights::ADD_LINK;
        let closing = with_list(vec![AccessEntry::deny(rights, ALICE)]);
        let set = |descriptor: &SecurityDescriptor| {
            w.engine
                .set_security(w.session, closed, LIST, descriptor)
                .unwrap();
        };
        set(&closing);
        assert_eq!(
            w.engine.add_filter(alice, asks()),
            Err(DENIED),
            "{closed:?}"
        );
        set(&SecurityDescriptor::default());
        assert!(w.engine.add_filter(alice, asks()).is_ok(), "{closed:?}");
    }
}

#[test]
fn an_object_inherits_from_its_container_and_that_from_the_engine() {
    let w = World::new();
    grant_everyone(&w, AccessRights::READ);
    let bob = session_of(&w, user(BOB, &[EVERYONE]));
    let key = w.sublayer(1);
    let object = Securable::Object(ObjectType::SubLayer, key);
    assert!(w.engine.read(bob, object).is_ok());

    let container = Securable::Container(ObjectType::SubLayer);
    let no_bob = with_list(vec![AccessEntry::deny(AccessRights::READ, BOB)]);
    w.engine
        .set_security(w.session, container, LIST, &no_bob)
        .unwrap();
    assert_eq!(w.engine.read(bob, object).err(), Some(DENIED));

    // The object's own entries come first.
    let bob_may = with_list(vec![AccessEntry::grant(AccessRights::READ, BOB)]);
    w.engine
        .set_security(w.session, object, LIST, &bob_may)
        .unwrap();
    assert!(w.engine.read(bob, object).is_ok());

    // A protected list inherits nothing.
    let mut protected = with_list(Vec::new());
    protected.protected = true;
    w.engine
        .set_security(w.session, object, LIST, &protected)
        .unwrap();
    assert_eq!(w.engine.read(bob, object).err(), Some(DENIED));
}

#[test]
fn an_enumeration_shows_what_may_be_read() {
    let w = World::new();
    grant_everyone(&w, AccessRights::READ | AccessRights::ENUM);
    let bob = session_of(&w, user(BOB, &[EVERYONE]));
    let shown = w.add(filter(Action::Permit));
    let hidden = filter(Action::Block).weighing(1 << 60);
    let secret = with_list(vec![AccessEntry::deny(AccessRights::READ, BOB)]);
    let hidden = w
        .engine
        .add_filter(w.session, Secured::new(hidden, secret))
        .unwrap();
    let seen = w.engine.enumerate(bob, ObjectType::Filter).unwrap();
    assert!(seen.filter(shown).is_some());
    assert!(seen.filter(hidden).is_none());
    assert!(w.is_blocked(&[]), "it is in force for everyone");
    let all = w.engine.enumerate(w.session, ObjectType::Filter).unwrap();
    assert_eq!(all.filters().count(), 2, "drivers see everything");
}

#[test]
fn whoever_adds_an_object_owns_it_and_may_change_its_list() {
    let w = World::new();
    grant_everyone(&w, AccessRights::ADD);
    let alice = session_of(&w, user(ALICE, &[EVERYONE]));
    let bob = session_of(&w, user(BOB, &[EVERYONE]));
    let key = w.engine.add_sublayer(alice, sublayer()).unwrap();
    let object = Securable::Object(ObjectType::SubLayer, key);
    assert_eq!(
        w.engine.security(alice, object).unwrap().owner.as_deref(),
        Some(ALICE)
    );
    assert_eq!(w.engine.security(bob, object).err(), Some(DENIED));
    assert_eq!(w.engine.delete_sublayer(alice, key), Err(DENIED));

    let mine = with_list(vec![AccessEntry::grant(AccessRights::DELETE, ALICE)]);
    let refused = w.engine.set_security(bob, object, LIST, &mine);
    assert_eq!(refused, Err(DENIED));
    w.engine.set_security(alice, object, LIST, &mine).unwrap();
    let owner = SecurityParts {
        owner: true,
        ..SecurityParts::default()
    };
    let taken = w.engine.set_security(alice, object, owner, &mine);
    assert_eq!(taken, Err(DENIED), "owners may not give what they own away");
    assert_eq!(w.engine.delete_sublayer(alice, key), Ok(()));
}

#[test]
fn security_is_not_set_within_a_transaction() {
    let w = World::new();
    let set = || {
        let descriptor = SecurityDescriptor::default();
        w.engine
            .set_security(w.session, Securable::Engine, LIST, &descriptor)
    };
    w.engine.begin_transaction(w.session, false).unwrap();
    assert_eq!(set(), Err(NtStatus::FWP_TXN_IN_PROGRESS));
    w.engine.abort_transaction(w.session).unwrap();
    assert_eq!(set(), Ok(()));
}

#[test]
fn a_dynamic_session_sets_the_security_of_its_own_objects_only() {
    let w = World::new();
    let open = || w.engine.open_session(Session::dynamic()).unwrap();
    let (own, other) = (open(), open());
    let add = |session| w.engine.add_sublayer(session, sublayer()).unwrap();
    let keys: [Guid; 3] = [add(own), add(other), add(w.session)];
    let [mine, theirs, fixed] = keys.map(|key| {
        let what = Securable::Object(ObjectType::SubLayer, key);
        w.engine
            .set_security(own, what, LIST, &SecurityDescriptor::default())
    });
    assert_eq!(mine, Ok(()));
    assert_eq!(theirs, Err(NtStatus::FWP_WRONG_SESSION));
    assert_eq!(fixed, Err(NtStatus::FWP_DYNAMIC_SESSION_IN_PROGRESS));
}

#[test]
fn the_security_of_persistent_objects_is_persistent() {
    let w = World::new();
    let secret = with_list(vec![AccessEntry::deny(AccessRights::READ, BOB)]);
    let kept = filter(Action::Block).flagged(FilterFlags::PERSISTENT);
    let id = w
        .engine
        .add_filter(w.session, Secured::new(kept, secret.clone()))
        .unwrap();
    let key = w.engine.committed().filter(id).unwrap().record().key();
    w.engine.stop_bfe();
    w.engine.start_bfe();
    let what = Securable::Object(ObjectType::Filter, key);
    assert_eq!(w.engine.committed().security(what), Some(&secret));
    let next = Engine::boot(
        TestHost::default(),
        Options::default(),
        w.engine.boot_store(),
    );
    next.start_bfe();
    assert_eq!(next.committed().security(what), Some(&secret));
}

#[test]
fn the_descriptor_of_a_deleted_object_is_not_its_successors() {
    let w = World::new();
    let key = w.key();
    let described = || SubLayer { key, ..sublayer() };
    let secret = with_list(vec![AccessEntry::deny(AccessRights::READ, BOB)]);
    w.engine
        .add_sublayer(w.session, Secured::new(described(), secret))
        .unwrap();
    w.engine.delete_sublayer(w.session, key).unwrap();
    w.engine.add_sublayer(w.session, described()).unwrap();
    let what = Securable::Object(ObjectType::SubLayer, key);
    assert_eq!(w.engine.committed().security(what), None);
}

#[test]
fn a_self_relative_descriptor_is_read() {
    let mut bytes = vec![1, 0];
    // SE_SELF_RELATIVE | SE_DACL_PRESENT | SE_DACL_PROTECTED
    bytes.extend(0x9004_u16.to_le_bytes());
    // Owner behind the header, no group, no system list, the list behind the owner.
    for offset in [20_u32, 0, 0, 36] {
        bytes.extend(offset.to_le_bytes());
    }
    bytes.extend(ADMINISTRATORS);
    let entry_size = 8 + ALICE.len();
    let list_size = u16::try_from(8 + 2 * entry_size).unwrap();
    bytes.extend([2, 0]);
    bytes.extend(list_size.to_le_bytes());
    bytes.extend([2, 0, 0, 0]);
    for (kind, flags, mask, sid) in [(1, 0x03, 0x80_u32, ALICE), (0, 0x0B, 0x8000_0000, BOB)] {
        bytes.extend([kind, flags]);
        bytes.extend(u16::try_from(entry_size).unwrap().to_le_bytes());
        bytes.extend(mask.to_le_bytes());
        bytes.extend(sid);
    }
    let read = SecurityDescriptor::from_bytes(&bytes).unwrap();
    let mut inherited_only = AccessEntry::grant(AccessRights::GENERIC_READ, BOB);
    inherited_only.applies = false;
    let expected = SecurityDescriptor {
        owner: Some(ADMINISTRATORS.into()),
        group: None,
        list: AccessList::Entries(vec![
            AccessEntry::deny(AccessRights::READ, ALICE),
            inherited_only,
        ]),
        protected: true,
    };
    assert_eq!(read, expected);

    // An absolute one, and one whose list lies beyond its end, are refused.
    let invalid = Err(NtStatus::INVALID_SECURITY_DESCR);
    for end in 0..bytes.len() {
        assert_eq!(SecurityDescriptor::from_bytes(&bytes[..end]), invalid);
    }
    bytes[3] = 0;
    assert_eq!(SecurityDescriptor::from_bytes(&bytes), invalid);
}
