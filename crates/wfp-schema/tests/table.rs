//! What holds within the tables, whatever their source.

use wfp_schema::{
    ConditionFlags, FilterFlags, Guid, IpVersion, Layer, LayerData, LayerId, LayerKind, NtStatus,
    field,
};

#[test]
fn a_layer_is_found_by_its_id_its_key_and_its_kind() {
    for (index, layer) in Layer::all().iter().enumerate() {
        assert_eq!(usize::from(layer.id().get()), index);
        assert_eq!(layer.id().layer(), Some(layer));
        assert_eq!(Layer::by_key(layer.key()), Some(layer));
        if !layer.is_discard() {
            let found = layer.version().map_or_else(
                || Layer::unversioned(layer.kind()),
                |version| Layer::of(layer.kind(), version),
            );
            assert_eq!(found, Some(layer));
        }
    }
    assert_eq!(LayerId::new(82).layer(), None);
    assert_eq!(LayerId::ALE_AUTH_CONNECT_V6.get(), 50);
    assert_eq!(LayerId::STREAM_V4.to_string(), "STREAM_V4");
    assert_eq!(LayerId::new(999).to_string(), "layer 999");
}

#[test]
fn twins_are_next_to_each_other_and_mutual() {
    for layer in Layer::all() {
        if let Some(twin) = layer.twin() {
            assert_eq!(twin.twin(), Some(layer));
            assert_ne!(twin.is_discard(), layer.is_discard());
            assert_eq!(layer.id().get().abs_diff(twin.id().get()), 1);
        } else {
            assert!(!layer.is_discard());
        }
    }
}

#[test]
fn field_indexes_are_places_in_both_families() {
    for kind in LayerKind::ALL {
        for (place, field) in kind.fields().iter().enumerate() {
            assert_eq!(
                field.index().get(),
                place,
                "{} {}",
                kind.name(),
                field.name()
            );
        }
        let both = [IpVersion::V4, IpVersion::V6].map(|version| Layer::of(*kind, version));
        if let [Some(v4), Some(v6)] = both {
            assert_eq!(v4.fields(), v6.fields());
            assert_eq!(v4.metadata(), v6.metadata());
            assert_eq!(v4.name().replace("_V4", "_V6"), v6.name());
        }
    }
}

#[test]
fn a_field_is_found_by_its_condition() {
    for layer in Layer::all() {
        for field in layer.fields() {
            let found = layer.field_by_condition(field.condition()).unwrap();
            assert_eq!(found, field, "{}", layer.name());
        }
    }
}

#[test]
fn layers_that_carry_flows_say_so() {
    let carries: Vec<_> = LayerKind::ALL
        .iter()
        .filter_map(|kind| Layer::of(*kind, IpVersion::V4))
        .filter(|layer| layer.is_flow_capable())
        .map(Layer::kind)
        .collect();
    assert_eq!(
        carries,
        [
            LayerKind::InboundTransport,
            LayerKind::OutboundTransport,
            LayerKind::Stream,
            LayerKind::DatagramData,
            LayerKind::AleAuthRecvAccept,
            LayerKind::AleAuthConnect,
            LayerKind::AleFlowEstablished,
            LayerKind::StreamPacket
        ]
    );
    let stream = LayerId::STREAM_V4.layer().unwrap();
    assert_eq!(stream.data(), LayerData::StreamCalloutIoPacket);
    assert!(!stream.may_absorb());
}

#[test]
fn indexes_are_named_by_layer_kind() {
    let connect = LayerId::ALE_AUTH_CONNECT_V4.layer().unwrap();
    let address = connect.field(field::ale_auth_connect::IP_REMOTE_ADDRESS);
    assert_eq!(address.unwrap().name(), "IP_REMOTE_ADDRESS");
    let beyond = field::ale_auth_connect::COMPARTMENT_ID;
    assert_eq!(LayerId::STREAM_V4.layer().unwrap().field(beyond), None);
}

#[test]
fn a_guid_has_a_text_a_memory_and_a_number_form() {
    let text = "c38d57d1-05a7-4c33-904f-7fbceee60e82";
    let guid = Guid::from_u128(0xc38d57d1_05a7_4c33_904f_7fbceee60e82);
    assert_eq!(guid.to_string(), text);
    let memory = [
        0xd1, 0x57, 0x8d, 0xc3, 0xa7, 0x05, 0x33, 0x4c, 0x90, 0x4f, 0x7f, 0xbc, 0xee, 0xe6, 0x0e,
        0x82,
    ];
    assert_eq!(guid.to_bytes(), memory);
    assert_eq!(Guid::from_bytes(memory), guid);
    assert_eq!(guid.to_u128(), 0xc38d57d1_05a7_4c33_904f_7fbceee60e82);
    assert_eq!(guid.parts().0, 0xc38d_57d1);
    assert!(Guid::ZERO.is_zero() && !guid.is_zero());
    assert_eq!(size_of::<Guid>(), 16);
}

#[test]
fn statuses_are_judged_by_severity() {
    assert!(NtStatus::SUCCESS.is_success());
    assert!(NtStatus::PENDING.is_success());
    assert!(NtStatus::OBJECT_NAME_EXISTS.is_success());
    assert!(!NtStatus::DEVICE_BUSY.is_success() && !NtStatus::DEVICE_BUSY.is_error());
    assert!(NtStatus::FWP_IN_USE.is_error());
    assert_eq!(NtStatus::FWP_IN_USE.ok(), Err(NtStatus::FWP_IN_USE));
    assert_eq!(NtStatus::from_i32(-1_071_513_590), NtStatus::FWP_IN_USE);
    assert_eq!(NtStatus::FWP_IN_USE.to_i32(), -1_071_513_590);
    assert_eq!(NtStatus::FWP_IN_USE.to_string(), "STATUS_FWP_IN_USE");
    let unknown = NtStatus::from_u32(0xE000_0001);
    assert_eq!(
        (unknown.name(), unknown.to_string()),
        (None, "0xE0000001".into())
    );
}

#[test]
fn flags_print_by_name() {
    let flags = FilterFlags::PERSISTENT | FilterFlags::CLEAR_ACTION_RIGHT;
    assert_eq!(flags.to_string(), "PERSISTENT | CLEAR_ACTION_RIGHT");
    assert_eq!(FilterFlags::NONE.to_string(), "0");
    let unknown = ConditionFlags::IS_LOOPBACK | ConditionFlags::from_bits(0x8000_0000);
    assert_eq!(unknown.to_string(), "IS_LOOPBACK | 0x80000000");
    assert_eq!(unknown.unknown().bits(), 0x8000_0000);
    assert!(flags.intersects(FilterFlags::PERSISTENT) && !flags.contains(FilterFlags::BOOTTIME));
    assert_eq!(
        flags.without(FilterFlags::PERSISTENT),
        FilterFlags::CLEAR_ACTION_RIGHT
    );
}

#[test]
fn generic_rights_stand_for_what_the_page_says() {
    use wfp_schema::AccessRights as R;
    let standard = R::READ_CONTROL.bits();
    for (generic, own) in [
        (R::GENERIC_READ, 0x4 | 0x10 | 0x40 | 0x80 | 0x100),
        (R::GENERIC_EXECUTE, 0x20 | 0x200),
        (R::GENERIC_WRITE, 0x0001_0000 | 0x1 | 0x2 | 0x8 | 0x400),
        (R::GENERIC_ALL, 0x000F_0000 | 0x7FF),
    ] {
        assert_eq!(generic.specific().bits(), standard | own, "{generic}");
    }
    assert_eq!(R::READ.specific(), R::READ);
}
