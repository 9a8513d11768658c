//! CND rows: what conditions are accepted and what they match.

use crate::world::*;
use wfp_engine::{Condition, ConditionValue as V, Token, Value};
use wfp_schema::field::ale_auth_connect as f;
use wfp_schema::{
    Action, ConditionFlags, FieldIndex, Guid, IpVersion, Layer, LayerKind, MatchType, NtStatus,
    condition,
};

fn added(conditions: Vec<Condition>) -> Result<(), NtStatus> {
    let w = World::new();
    w.engine
        .add_filter(w.session, filter(Action::Block).when(conditions))
        .map(|_| ())
}

/// Whether a filter with these conditions matches these values.
fn matches(conditions: Vec<Condition>, values: &[(FieldIndex, Value<'_>)]) -> bool {
    let w = World::new();
    w.add(filter(Action::Block).when(conditions));
    w.is_blocked(values)
}

fn one(key: Guid, match_type: MatchType, value: V) -> Vec<Condition> {
    vec![Condition::new(key, match_type, value)]
}

fn blob(text: &str) -> V {
    V::ByteBlob(utf16(text).into())
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn cnd_01_types_do_not_widen() {
    let wide = one(condition::IP_REMOTE_PORT, MatchType::Equal, V::Uint32(80));
    assert_eq!(added(wide), Err(NtStatus::FWP_TYPE_MISMATCH));
}

#[test]
fn cnd_02_a_blob_has_no_flags() {
    let flags = one(condition::ALE_APP_ID, MatchType::FlagsAnySet, blob("a"));
    assert_eq!(added(flags), Err(NtStatus::FWP_MATCH_TYPE_MISMATCH));
}

#[test]
fn cnd_03_an_address_and_mask_match_a_network() {
    let network = V::V4AddrMask {
        address: 0x0A00_0000,
        mask: 0xFF00_0000,
    };
    let network = one(condition::IP_REMOTE_ADDRESS, MatchType::Equal, network);
    let at = |address| [(f::IP_REMOTE_ADDRESS, Value::Uint32(address))];
    assert!(matches(network.clone(), &at(0x0A01_0203)));
    assert!(!matches(network, &at(0x0B01_0203)));
}

#[test]
fn cnd_03_an_address_and_prefix_match_a_network() {
    let layer = Layer::of(LayerKind::AleAuthConnect, IpVersion::V6).unwrap();
    let address = |tail: u128| ((0x2001_0db8 << 96) | tail).to_be_bytes();
    for (prefix, inside, outside) in [
        (32, address(u128::MAX >> 32), [0; 16]),
        (127, address(1), address(2)),
        (128, address(0), address(1)),
        (1, [0; 16], [0xFF; 16]),
    ] {
        let w = World::new();
        let network = V::V6AddrMask {
            address: address(0),
            prefix,
        };
        let network = one(condition::IP_REMOTE_ADDRESS, MatchType::Equal, network);
        w.add(filter(Action::Block).at(layer).when(network));
        let permits = |address: &[u8; 16]| {
            let value = Value::ByteArray16(address);
            let values = [(f::IP_REMOTE_ADDRESS, value)];
            w.classify_at(layer, &values, no_call).is_permit()
        };
        assert!(!permits(&inside), "{prefix}");
        assert!(permits(&outside), "{prefix}");
    }
}

#[test]
fn a_prefix_of_length_0_matches_every_address() {
    let layer = Layer::of(LayerKind::AleAuthConnect, IpVersion::V6).unwrap();
    let w = World::new();
    let any = V::V6AddrMask {
        address: [0xFF; 16],
        prefix: 0,
    };
    let any = one(condition::IP_REMOTE_ADDRESS, MatchType::Equal, any);
    w.add(filter(Action::Block).at(layer).when(any));
    let values = [(f::IP_REMOTE_ADDRESS, Value::ByteArray16(&[0; 16]))];
    assert!(!w.classify_at(layer, &values, no_call).is_permit());
}

#[test]
fn cnd_04_one_field_is_a_choice_and_all_fields_are_needed() {
    let conditions = vec![
        Condition::equal(condition::IP_REMOTE_PORT, V::Uint16(80)),
        Condition::equal(condition::IP_REMOTE_PORT, V::Uint16(443)),
        Condition::equal(condition::IP_PROTOCOL, V::Uint8(6)),
    ];
    let traffic = |protocol, port| {
        [
            (f::IP_PROTOCOL, Value::Uint8(protocol)),
            (f::IP_REMOTE_PORT, Value::Uint16(port)),
        ]
    };
    assert!(matches(conditions.clone(), &traffic(6, 443)));
    assert!(matches(conditions.clone(), &traffic(6, 80)));
    assert!(!matches(conditions.clone(), &traffic(6, 8080)));
    assert!(!matches(conditions, &traffic(17, 443)));
}

#[test]
fn cnd_05_no_conditions_match_any_traffic() {
    assert!(matches(vec![], &[]));
}

fn flags_match(match_type: MatchType, wanted: u32, flags: u32) -> bool {
    matches(
        one(condition::FLAGS, match_type, V::Uint32(wanted)),
        &[(f::FLAGS, Value::Uint32(flags))],
    )
}

#[test]
fn cnd_06_no_flag_may_be_set() {
    let fragment = ConditionFlags::IS_FRAGMENT.bits();
    assert!(!flags_match(MatchType::FlagsNoneSet, fragment, 0x20));
    assert!(flags_match(MatchType::FlagsNoneSet, fragment, 0x400));
}

#[test]
fn cnd_07_all_or_any_flags_are_set() {
    assert!(!flags_match(MatchType::FlagsAllSet, 0x5, 0x4));
    assert!(flags_match(MatchType::FlagsAllSet, 0x5, 0x7));
    assert!(flags_match(MatchType::FlagsAnySet, 0x5, 0x4));
    assert!(!flags_match(MatchType::FlagsAnySet, 0x5, 0xA));
}

#[test]
fn cnd_08_a_prefix_match_tests_the_end() {
    let app = |match_type, path: &str| {
        let path = utf16(path);
        matches(
            one(condition::ALE_APP_ID, match_type, blob("b.exe")),
            &[(f::ALE_APP_ID, Value::ByteBlob(&path))],
        )
    };
    assert!(app(MatchType::Prefix, "a\\b.exe"));
    assert!(app(MatchType::Prefix, "a\\b.exe\0"));
    assert!(!app(MatchType::Prefix, "b.exe\\a"));
    assert!(!app(MatchType::NotPrefix, "a\\b.exe"));
    assert!(app(MatchType::NotPrefix, "b.exe\\a"));
}

#[test]
fn cnd_09_an_unknown_field_matches_empty_only() {
    let unknown = [(f::IP_LOCAL_ADDRESS, Value::Empty)];
    let known = [(f::IP_LOCAL_ADDRESS, Value::Uint32(0x0A00_0001))];
    let empty = one(condition::IP_LOCAL_ADDRESS, MatchType::Equal, V::Empty);
    let address = V::Uint32(0x0A00_0001);
    let address = one(condition::IP_LOCAL_ADDRESS, MatchType::Equal, address);
    assert!(matches(empty.clone(), &unknown));
    assert!(!matches(empty, &known));
    assert!(!matches(address.clone(), &unknown));
    assert!(matches(address, &known));
}

#[test]
fn an_unknown_field_fulfils_no_negation() {
    let unknown = [(f::IP_REMOTE_PORT, Value::Empty)];
    let other = one(condition::IP_REMOTE_PORT, MatchType::NotEqual, V::Uint16(1));
    assert!(!matches(other, &unknown));
}

#[test]
fn cnd_10_a_layer_has_only_its_own_fields() {
    let w = World::new();
    let app = one(condition::ALE_APP_ID, MatchType::Equal, blob("a"));
    let filter = filter(Action::Block).at(layer(LayerKind::Stream)).when(app);
    let refused = w.engine.add_filter(w.session, filter);
    assert_eq!(refused, Err(NtStatus::FWP_CONDITION_NOT_FOUND));
}

#[test]
fn cnd_11_a_range_includes_its_ends() {
    let range = one(
        condition::IP_REMOTE_PORT,
        MatchType::Range,
        V::range(V::Uint16(1000), V::Uint16(2000)),
    );
    let within = |port| matches(range.clone(), &[(f::IP_REMOTE_PORT, Value::Uint16(port))]);
    let found: Vec<_> = [999, 1000, 1500, 2000, 2001].map(within).into();
    assert_eq!(found, [false, true, true, true, false]);
}

#[test]
fn comparisons_are_of_the_value_with_the_condition() {
    let port = |match_type, port| {
        matches(
            one(condition::IP_REMOTE_PORT, match_type, V::Uint16(100)),
            &[(f::IP_REMOTE_PORT, Value::Uint16(port))],
        )
    };
    for (match_type, expected) in [
        (MatchType::Equal, [false, true, false]),
        (MatchType::NotEqual, [true, false, true]),
        (MatchType::Greater, [false, false, true]),
        (MatchType::GreaterOrEqual, [false, true, true]),
        (MatchType::Less, [true, false, false]),
        (MatchType::LessOrEqual, [true, true, false]),
    ] {
        let found = [99, 100, 101].map(|value| port(match_type, value));
        assert_eq!(found, expected, "{match_type}");
    }
}

#[test]
fn malformed_values_are_refused() {
    let address = |value| one(condition::IP_REMOTE_ADDRESS, MatchType::Equal, value);
    let holes = V::V4AddrMask {
        address: 0,
        mask: 0xFF00_FF00,
    };
    assert_eq!(added(address(holes)), Err(NtStatus::FWP_INVALID_NET_MASK));
    let range = |low, high| {
        one(
            condition::IP_REMOTE_PORT,
            MatchType::Range,
            V::range(low, high),
        )
    };
    assert_eq!(
        added(range(V::Uint16(2), V::Uint16(1))),
        Err(NtStatus::FWP_INVALID_RANGE)
    );
    assert_eq!(
        added(range(V::Uint16(1), V::Uint32(2))),
        Err(NtStatus::FWP_INVALID_RANGE)
    );
    assert_eq!(
        added(range(V::Uint32(1), V::Uint32(2))),
        Err(NtStatus::FWP_TYPE_MISMATCH)
    );
    let single = one(condition::IP_REMOTE_PORT, MatchType::Range, V::Uint16(1));
    assert_eq!(added(single), Err(NtStatus::FWP_MATCH_TYPE_MISMATCH));
}

const USER: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
const GROUP: [u8; 16] = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];

/// A self-relative descriptor whose ACL has these entries: allowed, mask, SID.
fn descriptor(entries: &[(bool, u32, &[u8])]) -> V {
    let mut acl = Vec::new();
    for (allowed, mask, sid) in entries {
        let size = u16::try_from(8 + sid.len()).unwrap();
        acl.extend([u8::from(!*allowed), 0]);
        acl.extend(size.to_le_bytes());
        acl.extend(mask.to_le_bytes());
        acl.extend(*sid);
    }
    let size = u16::try_from(8 + acl.len()).unwrap();
    let count = u16::try_from(entries.len()).unwrap();
    let mut all = vec![1, 0, 0x04, 0x80];
    all.extend([0; 12]);
    all.extend(20_u32.to_le_bytes());
    all.extend([2, 0]);
    all.extend(size.to_le_bytes());
    all.extend(count.to_le_bytes());
    all.extend([0, 0]);
    all.extend(acl);
    V::SecurityDescriptor(all.into())
}

fn user_matches(descriptor: V, token: &Token<'_>) -> bool {
    matches(
        one(condition::ALE_USER_ID, MatchType::Equal, descriptor),
        &[(f::ALE_USER_ID, Value::TokenAccessInformation(token))],
    )
}

#[test]
fn a_security_descriptor_matches_whom_it_grants_the_match_right() {
    let token = Token {
        user: &USER,
        groups: &[&GROUP],
    };
    let stranger = Token {
        user: &[1, 1, 0, 0, 0, 0, 0, 5, 19, 0, 0, 0],
        groups: &[],
    };
    assert!(user_matches(descriptor(&[(true, 1, &USER)]), &token));
    assert!(!user_matches(descriptor(&[(true, 1, &USER)]), &stranger));
    assert!(user_matches(descriptor(&[(true, 1, &GROUP)]), &token));
    let denied_first = [(false, 1, &USER[..]), (true, 1, &GROUP[..])];
    assert!(!user_matches(descriptor(&denied_first), &token));
    assert!(!user_matches(descriptor(&[(true, 2, &USER)]), &token));
    assert!(!user_matches(descriptor(&[]), &token));
}

#[test]
fn a_malformed_security_descriptor_is_refused() {
    let V::SecurityDescriptor(good) = descriptor(&[(true, 1, &USER)]) else {
        unreachable!("it is one");
    };
    let user = |bytes: &[u8]| {
        let value = V::SecurityDescriptor(bytes.into());
        added(one(condition::ALE_USER_ID, MatchType::Equal, value))
    };
    assert_eq!(user(&good), Ok(()));
    for length in 0..good.len() {
        let refused = Err(NtStatus::INVALID_SECURITY_DESCR);
        assert_eq!(user(&good[..length]), refused, "{length}");
    }
    let mut absolute = good.to_vec();
    absolute[3] = 0;
    assert_eq!(user(&absolute), Err(NtStatus::INVALID_SECURITY_DESCR));
}
