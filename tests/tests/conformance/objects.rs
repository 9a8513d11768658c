//! OBJ and WGT rows: objects of the filter engine and filter weights.

use conformance_messages::{object, option};
use wfp_schema::{Action, DataType, FilterFlags, Guid, LayerKind, NtStatus, condition, sublayer};

use crate::conditions::equal;
use crate::world::{OK, World, asking, connect, filter, v4};

#[test]
fn obj_01_a_callout_key_is_added_once() {
    let w = World::new();
    let (s, key) = (w.session(), w.key());
    s.add_callout(key, connect());
    assert_eq!(
        s.try_add_callout(key, connect(), 0),
        Err(NtStatus::FWP_ALREADY_EXISTS)
    );
    w.end();
}

#[test]
fn obj_02_adding_a_registered_callout_gives_its_identifier() {
    let w = World::new();
    let registered = w.register(w.key());
    assert_eq!(
        w.session().add_callout(registered.key, connect()),
        registered.id
    );
    w.end();
}

#[test]
fn obj_03_registering_an_added_callout_gives_its_identifier() {
    let w = World::new();
    let key = w.key();
    let added = w.session().add_callout(key, connect());
    assert_eq!(w.register(key).id, added);
    w.end();
}

#[test]
fn obj_04_a_callout_is_in_use_while_a_filter_names_it() {
    let w = World::new();
    let s = w.session();
    let callout = s.callout(connect());
    s.add(asking(&callout, Action::CalloutTerminating));
    assert_eq!(
        s.delete(object::CALLOUT, callout.key, 0),
        NtStatus::FWP_IN_USE
    );
    assert!(s.query(object::CALLOUT, callout.key, 0).is_ok());
    w.end();
}

#[test]
fn obj_05_a_callout_is_deleted_once_its_filter_is() {
    let w = World::new();
    let s = w.session();
    let callout = s.callout(connect());
    let filter = s.add(asking(&callout, Action::CalloutTerminating));
    assert_eq!(s.delete_filter(filter), OK);
    assert_eq!(s.delete(object::CALLOUT, callout.key, 0), OK);
    let gone = s.query(object::CALLOUT, callout.key, 0);
    assert_eq!(gone.err(), Some(NtStatus::FWP_CALLOUT_NOT_FOUND));
    w.end();
}

#[test]
fn obj_06_an_unknown_callout_identifier_is_not_found() {
    let w = World::new();
    let status = w.session().delete(object::CALLOUT_ID, Guid::ZERO, 77);
    assert_eq!(status, NtStatus::FWP_CALLOUT_NOT_FOUND);
    w.end();
}

#[test]
fn obj_07_a_sublayer_with_a_filter_is_in_use() {
    let w = World::new();
    let s = w.session();
    let sublayer = s.sublayer(1);
    let filter = s.add(filter(connect(), Action::Permit).within(sublayer));
    assert_eq!(
        s.delete(object::SUBLAYER, sublayer, 0),
        NtStatus::FWP_IN_USE
    );
    assert_eq!(s.delete_filter(filter), OK);
    assert_eq!(s.delete(object::SUBLAYER, sublayer, 0), OK);
    w.end();
}

#[test]
fn obj_08_a_display_name_is_required() {
    let w = World::new();
    let s = w.session();
    let null = NtStatus::FWP_NULL_DISPLAY_NAME;
    assert_eq!(
        s.try_add(filter(connect(), Action::Permit).unnamed()),
        Err(null)
    );
    assert_eq!(s.try_add_sublayer(w.key(), 1, option::UNNAMED), null);
    assert_eq!(s.try_add_provider(w.key(), 0, option::UNNAMED), null);
    assert_eq!(
        s.try_add_callout(w.key(), connect(), option::UNNAMED),
        Err(null)
    );
    w.end();
}

#[test]
fn obj_09_what_a_filter_names_has_to_exist() {
    let w = World::new();
    let (s, unknown) = (w.session(), w.key());
    let permit = filter(connect(), Action::Permit);
    let callout = filter(connect(), Action::CalloutTerminating).calling(unknown);
    assert_eq!(
        s.try_add(permit.at(unknown)),
        Err(NtStatus::FWP_LAYER_NOT_FOUND)
    );
    assert_eq!(
        s.try_add(permit.within(unknown)),
        Err(NtStatus::FWP_SUBLAYER_NOT_FOUND)
    );
    assert_eq!(
        s.try_add(permit.of(unknown)),
        Err(NtStatus::FWP_PROVIDER_NOT_FOUND)
    );
    assert_eq!(s.try_add(callout), Err(NtStatus::FWP_CALLOUT_NOT_FOUND));
    w.end();
}

#[test]
fn obj_10_a_key_of_zeros_asks_for_one() {
    let w = World::new();
    let s = w.session();
    let filters = [1, 2].map(|_| s.add(filter(connect(), Action::Permit)));
    let [first, second] = filters.map(|id| {
        let found = s.query(object::FILTER_ID, Guid::ZERO, id);
        found.expect("the filter is there").keys[0]
    });
    assert_ne!(first, [0; 16]);
    assert_ne!(first, second);
    let by_key = s.query(object::FILTER, Guid::from_bytes(first), 0);
    assert_eq!(by_key.expect("the key names it").values[0], filters[0]);
    w.end();
}

#[test]
fn obj_11_a_built_in_sublayer_is_not_deleted() {
    let w = World::new();
    let status = w.session().delete(object::SUBLAYER, sublayer::UNIVERSAL, 0);
    assert_eq!(status, NtStatus::FWP_BUILTIN_OBJECT);
    w.end();
}

#[test]
fn obj_12_keys_are_unique_by_kind_of_object() {
    let w = World::new();
    let (s, key) = (w.session(), w.key());
    assert_eq!(s.try_add_provider(key, 0, 0), OK);
    assert_eq!(s.try_add_sublayer(key, 1, 0), OK);
    w.end();
}

#[test]
fn obj_13_a_static_filter_cannot_stand_in_a_dynamic_sublayer() {
    let w = World::new();
    let sublayer = w.dynamic_session().sublayer(1);
    let added = w
        .session()
        .try_add(filter(connect(), Action::Permit).within(sublayer));
    assert_eq!(added, Err(NtStatus::FWP_LIFETIME_MISMATCH));
    w.end();
}

#[test]
fn obj_14_a_persistent_filter_cannot_name_a_static_callout() {
    let w = World::new();
    let s = w.session();
    let callout = s.callout(connect());
    let persistent =
        asking(&callout, Action::CalloutTerminating).flags(FilterFlags::PERSISTENT.bits());
    assert_eq!(s.try_add(persistent), Err(NtStatus::FWP_LIFETIME_MISMATCH));
    w.end();
}

#[test]
fn obj_15_a_filter_is_persistent_or_for_boot_time() {
    let w = World::new();
    let both = FilterFlags::PERSISTENT | FilterFlags::BOOTTIME;
    let added = w
        .session()
        .try_add(filter(connect(), Action::Permit).flags(both.bits()));
    assert_eq!(added, Err(w.options().illegal_filter_flags));
    w.end();
}

#[test]
fn obj_16_a_filter_is_not_added_disabled() {
    let w = World::new();
    let disabled = filter(connect(), Action::Permit).flags(FilterFlags::DISABLED.bits());
    assert_eq!(
        w.session().try_add(disabled),
        Err(w.options().illegal_filter_flags)
    );
    w.end();
}

#[test]
fn obj_17_only_a_filter_that_asks_for_a_decision_permits_for_an_absent_callout() {
    let w = World::new();
    let s = w.session();
    let callout = s.callout(connect());
    let flag = FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED.bits();
    let refused = Err(w.options().illegal_filter_flags);
    assert_eq!(
        s.try_add(filter(connect(), Action::Block).flags(flag)),
        refused
    );
    assert_eq!(
        s.try_add(asking(&callout, Action::CalloutInspection).flags(flag)),
        refused
    );
    assert!(
        s.try_add(asking(&callout, Action::CalloutTerminating).flags(flag))
            .is_ok()
    );
    w.end();
}

#[test]
fn obj_18_a_filter_without_a_sublayer_is_in_its_layers_default_one() {
    let w = World::new();
    let s = w.session();
    for kind in [
        LayerKind::AleAuthConnect,
        LayerKind::InboundTransport,
        LayerKind::Stream,
    ] {
        let layer = v4(kind);
        let default = s.query(object::LAYER_ID, Guid::ZERO, layer.id().get().into());
        let default = default.expect("the layer is there").keys[1];
        let id = s.add(filter(layer, Action::Permit));
        let found = s
            .query(object::FILTER_ID, Guid::ZERO, id)
            .expect("the filter is there");
        assert_eq!(found.keys[1], default, "{}", layer.name());
        assert_ne!(default, [0; 16]);
    }
    w.end();
}

#[test]
fn wgt_01_a_weight_of_64_bits_is_the_effective_one() {
    let w = World::new();
    let s = w.session();
    for weight in [0, 7, 1 << 60, u64::MAX] {
        let id = s.add(filter(connect(), Action::Permit).weight(weight));
        assert_eq!(s.effective_weight(id), weight);
    }
    w.end();
}

#[test]
fn wgt_02_an_automatic_weight_is_below_all_ranges() {
    let w = World::new();
    let s = w.session();
    let plain = filter(connect(), Action::Permit);
    let narrow = plain.when(equal(condition::IP_REMOTE_PORT, DataType::Uint16, 443));
    for automatic in [plain, narrow] {
        assert!(s.effective_weight(s.add(automatic)) < 1 << 60);
    }
    w.end();
}

#[test]
fn wgt_03_a_range_is_above_the_automatic_weight() {
    let w = World::new();
    let s = w.session();
    let narrow = filter(connect(), Action::Permit).when(equal(
        condition::IP_REMOTE_PORT,
        DataType::Uint16,
        443,
    ));
    let automatic = s.effective_weight(s.add(narrow));
    for range in [0, 1, 15] {
        let ranged = s.add(narrow.weight_of(DataType::Uint8, range));
        assert_eq!(s.effective_weight(ranged), (range << 60) + automatic);
    }
    w.end();
}

#[test]
fn wgt_04_a_weight_is_a_range_of_four_bits_or_64_bits_wide() {
    let w = World::new();
    let s = w.session();
    let permit = filter(connect(), Action::Permit);
    for (data_type, weight) in [(DataType::Uint8, 16), (DataType::Uint32, 1)] {
        let added = s.try_add(permit.weight_of(data_type, weight));
        assert_eq!(added, Err(NtStatus::FWP_INVALID_WEIGHT));
    }
    w.end();
}
