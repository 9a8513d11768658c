//! Provider contexts, and the filters that name them.

use crate::world::*;
use wfp_engine::{
    Callout, Engine, Filter, Options, Provider, ProviderContext, ProviderContextId, Session,
};
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{Action, FilterFlags, Guid, NtStatus};

const HAS: FilterFlags = FilterFlags::HAS_PROVIDER_CONTEXT;

fn context(data: &[u8]) -> ProviderContext {
    ProviderContext {
        name: name(),
        data: data.into(),
        ..ProviderContext::default()
    }
}

/// A world with one context: its key and identifier.
fn with_context() -> (World, Guid, ProviderContextId) {
    let w = World::new();
    let key = w.key();
    let described = ProviderContext {
        key,
        ..context(b"rule 7")
    };
    let id = w.engine.add_provider_context(w.session, described).unwrap();
    (w, key, id)
}

fn naming(key: Guid, filter: Filter) -> Filter {
    Filter {
        provider_context: key,
        context: 99,
        ..filter.flagged(HAS)
    }
}

#[test]
fn a_context_is_found_by_its_key_and_its_identifier() {
    let (w, key, id) = with_context();
    let objects = w.engine.committed();
    let object = objects.provider_context(key).unwrap();
    assert_eq!(object.id, id);
    assert_eq!(*object.context.data, *b"rule 7");
    assert_eq!(objects.provider_context_by_id(id).unwrap().context.key, key);
    assert_eq!(objects.provider_contexts().count(), 1);
}

#[test]
fn a_filters_context_is_the_identifier_of_its_provider_context() {
    let (w, key, id) = with_context();
    let callout = w.callout();
    w.add(naming(
        key,
        filter(Action::CalloutTerminating).asking(&callout),
    ));
    let mut seen = 0;
    w.classify(|call, out| {
        seen = call.filter.context();
        assert!(call.filter.record().visible_provider_context().is_none());
        answer(out, Action::Permit);
    });
    assert_eq!(seen, id.get(), "the raw context counts for nothing");
}

#[test]
fn a_callout_that_uses_provider_contexts_sees_them() {
    let (w, context_key, _) = with_context();
    let key = w.key();
    let callout = Callout {
        key,
        name: name(),
        layer: connect().key(),
        flags: ManagementCalloutFlags::USES_PROVIDER_CONTEXT,
        ..Callout::default()
    };
    w.register(key, wfp_schema::CalloutFlags::NONE);
    w.engine.add_callout(w.session, callout).unwrap();
    w.add(naming(
        context_key,
        filter(Action::CalloutTerminating).of(key),
    ));
    let mut seen = Vec::new();
    w.classify(|call, out| {
        let object = call.filter.record().visible_provider_context().unwrap();
        seen = object.context.data.to_vec();
        answer(out, Action::Permit);
    });
    assert_eq!(seen, b"rule 7");
}

#[test]
fn a_filter_may_not_name_a_context_that_is_not_there() {
    let w = World::new();
    let added = w
        .engine
        .add_filter(w.session, naming(w.key(), filter(Action::Block)));
    assert_eq!(added, Err(NtStatus::FWP_PROVIDER_CONTEXT_NOT_FOUND));
}

#[test]
fn a_context_is_in_use_while_a_filter_names_it() {
    let (w, key, id) = with_context();
    let filter = w.add(naming(key, filter(Action::Block)));
    let in_use = Err(NtStatus::FWP_IN_USE);
    assert_eq!(w.engine.delete_provider_context(w.session, key), in_use);
    assert_eq!(
        w.engine.delete_provider_context_by_id(w.session, id),
        in_use
    );
    w.engine.delete_filter(w.session, filter).unwrap();
    assert_eq!(
        w.engine.delete_provider_context_by_id(w.session, id),
        Ok(())
    );
    assert_eq!(
        w.engine.delete_provider_context(w.session, key),
        Err(NtStatus::FWP_PROVIDER_CONTEXT_NOT_FOUND)
    );
}

#[test]
fn a_context_obeys_the_rules_of_all_objects() {
    let (w, key, _) = with_context();
    let add = |described: ProviderContext| {
        w.engine
            .add_provider_context(w.session, described)
            .map(|_| ())
    };
    let same_key = ProviderContext {
        key,
        ..context(b"")
    };
    assert_eq!(add(same_key), Err(NtStatus::FWP_ALREADY_EXISTS));
    let nameless = ProviderContext {
        name: None,
        ..context(b"")
    };
    assert_eq!(add(nameless), Err(NtStatus::FWP_NULL_DISPLAY_NAME));
    let orphan = ProviderContext {
        provider: Some(w.key()),
        ..context(b"")
    };
    assert_eq!(add(orphan), Err(NtStatus::FWP_PROVIDER_NOT_FOUND));

    let provider = Provider {
        name: name(),
        ..Provider::default()
    };
    let provider = w.engine.add_provider(w.session, provider).unwrap();
    add(ProviderContext {
        provider: Some(provider),
        ..context(b"")
    })
    .unwrap();
    assert_eq!(
        w.engine.delete_provider(w.session, provider),
        Err(NtStatus::FWP_IN_USE)
    );
}

#[test]
fn a_static_filter_may_not_name_a_dynamic_context() {
    let w = World::new();
    let dynamic = w.engine.open_session(Session::dynamic()).unwrap();
    let key = w.key();
    let described = ProviderContext {
        key,
        ..context(b"")
    };
    w.engine.add_provider_context(dynamic, described).unwrap();
    let added = w
        .engine
        .add_filter(w.session, naming(key, filter(Action::Block)));
    assert_eq!(added, Err(NtStatus::FWP_LIFETIME_MISMATCH));
    w.engine.close_session(dynamic).unwrap();
    assert_eq!(w.engine.committed().provider_contexts().count(), 0);
}

#[test]
fn a_persistent_context_and_its_filter_come_back() {
    let w = World::new();
    let key = w.key();
    let described = ProviderContext {
        key,
        persistent: true,
        ..context(b"kept")
    };
    w.engine.add_provider_context(w.session, described).unwrap();
    let filter = naming(key, filter(Action::Block));
    w.add(Filter {
        flags: HAS.union(FilterFlags::PERSISTENT),
        ..filter
    });
    let store = w.engine.boot_store();
    let next = Engine::boot(TestHost::default(), Options::default(), store);
    next.start_bfe();
    let objects = next.committed();
    let record = objects.filters().next().unwrap().record();
    let kept = record.provider_context().unwrap();
    assert_eq!(*kept.context.data, *b"kept");
    assert_eq!(record.initial_context(), kept.id.get());
}
