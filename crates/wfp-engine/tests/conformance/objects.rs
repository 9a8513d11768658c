//! OBJ and WGT rows: management objects and filter weights.

use crate::world::*;
use wfp_engine::{
    Callout, CalloutId, Condition, ConditionValue, Filter, Provider, Session, SubLayer, Weight,
};
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{
    Action, CalloutFlags, FilterFlags, Guid, LayerKind, NtStatus, condition, sublayer,
};

fn described(key: Guid) -> Callout {
    Callout {
        key,
        name: name(),
        layer: connect().key(),
        ..Callout::default()
    }
}

#[test]
fn obj_01_a_callout_key_is_added_once() {
    let w = World::new();
    let key = w.key();
    w.add_callout(key, connect());
    let again = w.engine.add_callout(w.session, described(key));
    assert_eq!(again, Err(NtStatus::FWP_ALREADY_EXISTS));
}

#[test]
fn obj_02_adding_a_registered_callout_gives_its_id() {
    let w = World::new();
    let key = w.key();
    let (registered, _) = w.register(key, CalloutFlags::NONE);
    assert_eq!(w.add_callout(key, connect()), registered);
}

#[test]
fn obj_03_registering_an_added_callout_gives_its_id() {
    let w = World::new();
    let key = w.key();
    let added = w.add_callout(key, connect());
    assert_eq!(w.register(key, CalloutFlags::NONE).0, added);
}

#[test]
fn two_callouts_have_two_ids() {
    let w = World::new();
    assert_ne!(w.callout().id, w.callout().id);
}

#[test]
fn obj_04_a_callout_is_in_use_while_a_filter_names_it() {
    let w = World::new();
    let callout = w.callout();
    w.add(filter(Action::CalloutTerminating).asking(&callout));
    let refused = w.engine.delete_callout(w.session, callout.key);
    assert_eq!(refused, Err(NtStatus::FWP_IN_USE));
    assert!(w.engine.committed().callout(callout.key).is_some());
}

#[test]
fn obj_05_a_callout_that_no_filter_names_any_more_can_be_deleted() {
    let w = World::new();
    let callout = w.callout();
    let filter = w.add(filter(Action::CalloutTerminating).asking(&callout));
    w.engine.delete_filter(w.session, filter).unwrap();
    assert_eq!(w.engine.delete_callout(w.session, callout.key), Ok(()));
    assert!(w.engine.committed().callout(callout.key).is_none());
}

#[test]
fn obj_06_an_unknown_callout_id_is_not_found() {
    let w = World::new();
    let deleted = w.engine.delete_callout_by_id(w.session, CalloutId::new(77));
    assert_eq!(deleted, Err(NtStatus::FWP_CALLOUT_NOT_FOUND));
}

#[test]
fn obj_07_a_sublayer_with_a_filter_is_in_use() {
    let w = World::new();
    let sublayer = w.sublayer(1);
    w.add(filter(Action::Permit).within(sublayer));
    let refused = w.engine.delete_sublayer(w.session, sublayer);
    assert_eq!(refused, Err(NtStatus::FWP_IN_USE));
}

#[test]
fn a_provider_that_an_object_names_is_in_use() {
    let w = World::new();
    let provider = Provider {
        name: name(),
        ..Provider::default()
    };
    let key = w.engine.add_provider(w.session, provider).unwrap();
    let owned = Filter {
        provider: Some(key),
        ..filter(Action::Permit)
    };
    let owned = w.add(owned);
    let refused = w.engine.delete_provider(w.session, key);
    assert_eq!(refused, Err(NtStatus::FWP_IN_USE));
    w.engine.delete_filter(w.session, owned).unwrap();
    assert_eq!(w.engine.delete_provider(w.session, key), Ok(()));
}

#[test]
fn obj_08_a_display_name_is_required() {
    let w = World::new();
    let nameless = Filter {
        name: None,
        ..filter(Action::Permit)
    };
    let null = NtStatus::FWP_NULL_DISPLAY_NAME;
    let s = w.session;
    assert_eq!(w.engine.add_filter(s, nameless), Err(null));
    assert_eq!(w.engine.add_sublayer(s, SubLayer::default()), Err(null));
    assert_eq!(w.engine.add_provider(s, Provider::default()), Err(null));
    assert_eq!(w.engine.add_callout(s, Callout::default()), Err(null));
}

#[test]
fn obj_09_what_a_filter_names_has_to_exist() {
    let w = World::new();
    let unknown = w.key();
    let added = |filter| w.engine.add_filter(w.session, filter);
    let permit = || filter(Action::Permit);
    let of_layer = Filter {
        layer: unknown,
        ..permit()
    };
    assert_eq!(added(of_layer), Err(NtStatus::FWP_LAYER_NOT_FOUND));
    assert_eq!(
        added(permit().within(unknown)),
        Err(NtStatus::FWP_SUBLAYER_NOT_FOUND)
    );
    let of_provider = Filter {
        provider: Some(unknown),
        ..permit()
    };
    assert_eq!(added(of_provider), Err(NtStatus::FWP_PROVIDER_NOT_FOUND));
    assert_eq!(
        added(filter(Action::CalloutUnknown).of(unknown)),
        Err(NtStatus::FWP_CALLOUT_NOT_FOUND)
    );
}

#[test]
fn obj_10_a_zero_key_asks_for_one() {
    let w = World::new();
    let sublayer = w.sublayer(1);
    assert_ne!(sublayer, Guid::ZERO);
    let id = w.add(filter(Action::Permit));
    let objects = w.engine.committed();
    let key = objects.filter(id).unwrap().record().key();
    assert_ne!(key, Guid::ZERO);
    assert_eq!(objects.filter_by_key(key).unwrap().id(), id);
}

#[test]
fn obj_11_a_built_in_sublayer_stays() {
    let w = World::new();
    let deleted = w.engine.delete_sublayer(w.session, sublayer::UNIVERSAL);
    assert_eq!(deleted, Err(NtStatus::FWP_BUILTIN_OBJECT));
}

#[test]
fn obj_12_keys_are_unique_per_type_only() {
    let w = World::new();
    let key = w.key();
    let provider = Provider {
        key,
        name: name(),
        ..Provider::default()
    };
    let sublayer = SubLayer {
        key,
        name: name(),
        ..SubLayer::default()
    };
    assert_eq!(w.engine.add_provider(w.session, provider), Ok(key));
    assert_eq!(w.engine.add_sublayer(w.session, sublayer), Ok(key));
}

#[test]
fn obj_13_a_static_filter_may_not_live_in_a_dynamic_sublayer() {
    let w = World::new();
    let dynamic = w.engine.open_session(Session::dynamic()).unwrap();
    let sublayer = SubLayer {
        name: name(),
        ..SubLayer::default()
    };
    let sublayer = w.engine.add_sublayer(dynamic, sublayer).unwrap();
    let mine = filter(Action::Permit).within(sublayer);
    let refused = w.engine.add_filter(w.session, mine.clone());
    assert_eq!(refused, Err(NtStatus::FWP_LIFETIME_MISMATCH));

    let other = w.engine.open_session(Session::dynamic()).unwrap();
    let refused = w.engine.add_filter(other, mine.clone());
    assert_eq!(refused, Err(NtStatus::FWP_LIFETIME_MISMATCH));
    assert!(w.engine.add_filter(dynamic, mine).is_ok());
}

#[test]
fn obj_14_a_persistent_filter_may_not_name_a_static_callout() {
    let w = World::new();
    let callout = w.callout();
    let persistent = filter(Action::CalloutTerminating)
        .asking(&callout)
        .flagged(FilterFlags::PERSISTENT);
    let refused = w.engine.add_filter(w.session, persistent);
    assert_eq!(refused, Err(NtStatus::FWP_LIFETIME_MISMATCH));
}

#[test]
fn a_persistent_filter_may_not_name_another_providers_persistent_sublayer() {
    let w = World::new();
    let provider = || {
        let provider = Provider {
            name: name(),
            persistent: true,
            ..Provider::default()
        };
        w.engine.add_provider(w.session, provider).unwrap()
    };
    let (mine, theirs) = (provider(), provider());
    let sublayer = SubLayer {
        name: name(),
        persistent: true,
        provider: Some(theirs),
        ..SubLayer::default()
    };
    let sublayer = w.engine.add_sublayer(w.session, sublayer).unwrap();
    let of = |provider| Filter {
        provider: Some(provider),
        ..filter(Action::Permit)
            .within(sublayer)
            .flagged(FilterFlags::PERSISTENT)
    };
    let refused = w.engine.add_filter(w.session, of(mine));
    assert_eq!(refused, Err(NtStatus::FWP_LIFETIME_MISMATCH));
    assert!(w.engine.add_filter(w.session, of(theirs)).is_ok());
}

fn refused_flags(action: Action, flags: FilterFlags) {
    let w = World::new();
    let callout = w.callout();
    let refused = filter(action).asking(&callout).flagged(flags);
    let refused = w.engine.add_filter(w.session, refused);
    assert_eq!(refused, Err(NtStatus::FWP_INVALID_FLAGS));
}

#[test]
fn obj_15_persistent_excludes_boot_time() {
    refused_flags(
        Action::Permit,
        FilterFlags::PERSISTENT | FilterFlags::BOOTTIME,
    );
}

#[test]
fn obj_16_disabled_is_output_only() {
    refused_flags(Action::Permit, FilterFlags::DISABLED);
}

#[test]
fn obj_17_permit_if_callout_unregistered_needs_a_callout_that_decides() {
    refused_flags(Action::Block, FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED);
    refused_flags(
        Action::CalloutInspection,
        FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED,
    );
}

#[test]
fn obj_18_a_filter_without_sublayer_is_in_the_layers_default() {
    let w = World::new();
    let id = w.add(filter(Action::Permit));
    let objects = w.engine.committed();
    let record = objects.filter(id).unwrap().record();
    assert_eq!(record.filter().sublayer, connect().default_sublayer());
}

#[test]
fn a_callout_serves_its_own_layer_only() {
    let w = World::new();
    let callout = w.callout();
    let elsewhere = filter(Action::CalloutTerminating)
        .asking(&callout)
        .at(layer(LayerKind::AleAuthListen));
    let refused = w.engine.add_filter(w.session, elsewhere);
    assert_eq!(refused, Err(NtStatus::FWP_INCOMPATIBLE_LAYER));
}

#[test]
fn the_inspection_sublayer_takes_inspection_filters_only() {
    let w = World::new();
    let callout = w.callout();
    let inspection = |action| filter(action).asking(&callout).within(sublayer::INSPECTION);
    let refused = w.engine.add_filter(w.session, inspection(Action::Permit));
    assert_eq!(
        refused,
        Err(NtStatus::FWP_ACTION_INCOMPATIBLE_WITH_SUBLAYER)
    );
    w.add(inspection(Action::CalloutInspection));
}

#[test]
fn registered_is_not_a_flag_to_add_a_callout_with() {
    let w = World::new();
    let callout = Callout {
        flags: ManagementCalloutFlags::REGISTERED,
        ..described(w.key())
    };
    let refused = w.engine.add_callout(w.session, callout);
    assert_eq!(refused, Err(NtStatus::FWP_INVALID_FLAGS));
}

#[test]
fn a_filter_can_only_permit_block_or_ask() {
    let w = World::new();
    for action in [Action::Continue, Action::None, Action::NoneNoMatch] {
        let refused = w.engine.add_filter(w.session, filter(action));
        assert_eq!(refused, Err(NtStatus::FWP_INVALID_ACTION_TYPE));
    }
}

const fn tcp() -> Condition {
    Condition::equal(condition::IP_PROTOCOL, ConditionValue::Uint8(6))
}

const fn port(port: u16) -> Condition {
    Condition::equal(condition::IP_REMOTE_PORT, ConditionValue::Uint16(port))
}

const fn network(mask: u32) -> Condition {
    let value = ConditionValue::V4AddrMask {
        address: 0x0A00_0000,
        mask,
    };
    Condition::equal(condition::IP_REMOTE_ADDRESS, value)
}

fn effective(w: &World, weight: Weight, conditions: Vec<Condition>) -> u64 {
    let id = w.add(Filter {
        weight,
        ..filter(Action::Permit).when(conditions)
    });
    let objects = w.engine.committed();
    objects.filter(id).unwrap().record().effective_weight()
}

#[test]
fn wgt_01_an_exact_weight_is_the_weight() {
    let w = World::new();
    for weight in [0, 7, u64::MAX] {
        assert_eq!(effective(&w, Weight::Exact(weight), vec![tcp()]), weight);
    }
}

#[test]
fn wgt_02_an_automatic_weight_has_60_bits() {
    let w = World::new();
    let conditions = connect()
        .fields()
        .iter()
        .map(|field| Condition::equal(field.condition(), ConditionValue::Empty))
        .collect();
    assert!(effective(&w, Weight::Auto, conditions) < 1 << 60);
}

#[test]
fn wgt_03_a_range_goes_above_an_automatic_weight() {
    let w = World::new();
    let auto = effective(&w, Weight::Auto, vec![tcp(), port(80)]);
    for range in [0, 1, 15] {
        let ranged = effective(&w, Weight::Range(range), vec![tcp(), port(80)]);
        assert_eq!(ranged, (u64::from(range) << 60) + auto);
    }
}

#[test]
fn wgt_04_a_range_ends_at_15() {
    let w = World::new();
    let filter = Filter {
        weight: Weight::Range(16),
        ..filter(Action::Permit)
    };
    let refused = w.engine.add_filter(w.session, filter);
    assert_eq!(refused, Err(NtStatus::FWP_INVALID_WEIGHT));
}

#[test]
fn more_and_narrower_conditions_weigh_more() {
    let w = World::new();
    let weights: Vec<_> = [
        vec![],
        vec![network(0)],
        vec![network(0xFF00_0000)],
        vec![network(0xFFFF_0000)],
        vec![network(u32::MAX)],
        vec![network(0), tcp()],
        vec![network(u32::MAX), tcp()],
        vec![network(u32::MAX), tcp(), port(80), port(443)],
        vec![network(u32::MAX), tcp(), port(80)],
    ]
    .into_iter()
    .map(|conditions| effective(&w, Weight::Auto, conditions))
    .collect();
    assert!(
        weights.is_sorted_by(|lighter, heavier| lighter < heavier),
        "{weights:?}"
    );
}
