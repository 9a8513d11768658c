//! Many filters: the index finds those that looking at each would find, in the same order.

use crate::properties::config;
use crate::world::*;
use proptest::prelude::*;
use std::cmp::Reverse;
use wfp_engine::{
    Condition, ConditionValue as V, FilterId, Options, Plan, Request, TieOrder, Value,
};
use wfp_schema::field::ale_auth_connect as f;
use wfp_schema::{Action, Guid, IpVersion, Layer, LayerKind, MatchType, condition};

fn any_number() -> impl Strategy<Value = u16> {
    prop_oneof![3 => 0..8_u16, 1 => any::<u16>(), 1 => Just(u16::MAX)]
}

fn match_type() -> impl Strategy<Value = MatchType> {
    prop::sample::select(vec![
        MatchType::Equal,
        MatchType::Equal,
        MatchType::Equal,
        MatchType::NotEqual,
        MatchType::Greater,
        MatchType::GreaterOrEqual,
        MatchType::Less,
        MatchType::LessOrEqual,
        MatchType::FlagsAllSet,
        MatchType::FlagsAnySet,
        MatchType::FlagsNoneSet,
    ])
}

fn v6(tail: u16) -> [u8; 16] {
    ((0x2001_0db8_u128 << 96) | u128::from(tail)).to_be_bytes()
}

const fn sids() -> [&'static [u8]; 2] {
    [&[1, 0, 0, 0, 0, 0, 0, 5], &[1, 0, 0, 0, 0, 0, 0, 1]]
}

fn any_condition(version: IpVersion) -> impl Strategy<Value = Condition> {
    let ports = || prop::sample::select(vec![condition::IP_REMOTE_PORT, condition::IP_LOCAL_PORT]);
    let port = (ports(), match_type(), any_number())
        .prop_map(|(field, match_type, port)| Condition::new(field, match_type, V::Uint16(port)));
    let range = (ports(), any_number(), any_number()).prop_map(|(field, one, other)| {
        let range = V::range(V::Uint16(one.min(other)), V::Uint16(one.max(other)));
        Condition::new(field, MatchType::Range, range)
    });
    let protocol = (match_type(), 0..20_u8).prop_map(|(match_type, protocol)| {
        Condition::new(condition::IP_PROTOCOL, match_type, V::Uint8(protocol))
    });
    let address = (any_number(), 0..=32_u8).prop_map(move |(tail, bits)| {
        let network = match version {
            IpVersion::V4 => V::V4AddrMask {
                address: 0x0A00_0000 | u32::from(tail),
                mask: u32::MAX.checked_shl(u32::from(32 - bits)).unwrap_or(0),
            },
            IpVersion::V6 => V::V6AddrMask {
                address: v6(tail),
                prefix: bits * 4,
            },
        };
        Condition::equal(condition::IP_REMOTE_ADDRESS, network)
    });
    let application = (0..3_u8, any::<bool>()).prop_map(|(name, end)| {
        let match_type = if end {
            MatchType::Prefix
        } else {
            MatchType::Equal
        };
        let name = V::ByteBlob(Box::from([b'a' + name, 0]));
        Condition::new(condition::ALE_APP_ID, match_type, name)
    });
    let package = (0..2_usize).prop_map(|which| {
        Condition::equal(condition::ALE_PACKAGE_ID, V::Sid(sids()[which].into()))
    });
    let unknown = ports().prop_map(|field| Condition::equal(field, V::Empty));
    prop_oneof![4 => port, 2 => range, 2 => protocol, 2 => address, 1 => application, 1 => package, 1 => unknown]
}

/// What is classified: ports, protocol, address, application and package, each known or not.
type Traffic = (
    Option<u16>,
    Option<u16>,
    Option<u8>,
    u16,
    Option<u8>,
    Option<usize>,
);

fn any_traffic() -> impl Strategy<Value = Traffic> {
    let known = |strategy| prop::option::weighted(0.9, strategy);
    (
        known(any_number().boxed()),
        known(any_number().boxed()),
        prop::option::weighted(0.9, 0..20_u8),
        any_number(),
        prop::option::weighted(0.5, 0..3_u8),
        prop::option::weighted(0.5, 0..2_usize),
    )
}

/// What matching means, one filter and one field at a time.
fn meets(w: &World, conditions: &[Condition], layer: &Layer, values: &[Value<'_>]) -> bool {
    conditions
        .chunk_by(|left, right| left.field == right.field)
        .all(|alternatives| {
            alternatives.iter().any(|condition| {
                let field = layer.field_by_condition(condition.field).unwrap();
                wfp_engine::RuntimeCondition::new(
                    field.index(),
                    field.data_type(layer.version()),
                    condition.match_type,
                    condition.value.clone(),
                    w.engine.options(),
                )
                .unwrap()
                .is_met_by(&values[field.index().get()])
            })
        })
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn many_filters_are_found_as_if_each_were_looked_at(
        version in prop::sample::select(vec![IpVersion::V4, IpVersion::V6]),
        includes_high in any::<bool>(),
        (v4, v6_filters) in (
            prop::collection::vec((0..2_usize, 0..5_u64, prop::collection::vec(any_condition(IpVersion::V4), 0..5)), 0..120),
            prop::collection::vec((0..2_usize, 0..5_u64, prop::collection::vec(any_condition(IpVersion::V6), 0..5)), 0..120),
        ),
        traffic in prop::collection::vec(any_traffic(), 20),
    ) {
        let layer = Layer::of(LayerKind::AleAuthConnect, version).unwrap();
        let filters = if version == IpVersion::V4 { v4 } else { v6_filters };
        let w = World::with(Options { range_includes_high: includes_high, ..Options::default() });
        let sublayers: [Guid; 2] = [w.sublayer(20), w.sublayer(10)];
        w.engine.begin_transaction(w.session, false).unwrap();
        let mut added = Vec::new();
        for (sublayer, weight, conditions) in filters {
            let id = w.add(
                filter(Action::Permit)
                    .at(layer)
                    .within(sublayers[sublayer])
                    .weighing(weight)
                    .when(conditions.clone()),
            );
            added.push(((sublayer, Reverse(weight), id), conditions));
        }
        w.engine.commit_transaction(w.session).unwrap();
        added.sort_by_key(|(order, _)| *order);

        for (remote, local, protocol, tail, application, package) in traffic {
            let name = application.map(|name| [b'a' + name, 0]);
            let address = v6(tail);
            let mut values = Vec::new();
            values.extend(remote.map(|port| (f::IP_REMOTE_PORT, Value::Uint16(port))));
            values.extend(local.map(|port| (f::IP_LOCAL_PORT, Value::Uint16(port))));
            values.extend(protocol.map(|number| (f::IP_PROTOCOL, Value::Uint8(number))));
            values.push((f::IP_REMOTE_ADDRESS, match version {
                IpVersion::V4 => Value::Uint32(0x0A00_0000 | u32::from(tail)),
                IpVersion::V6 => Value::ByteArray16(&address),
            }));
            values.extend(name.as_ref().map(|name| (f::ALE_APP_ID, Value::ByteBlob(name))));
            values.extend(package.map(|which| (f::ALE_PACKAGE_ID, Value::Sid(sids()[which]))));
            let values = values_of(layer, &values);
            let mut plan = Plan::default();
            w.engine.plan(&Request::new(layer.id(), &values), &mut plan);
            let found: Vec<_> = (0..plan.len()).map(|stage| plan.filter(stage).unwrap().id()).collect();
            let expected: Vec<_> = added
                .iter()
                .filter(|(_, conditions)| meets(&w, conditions, layer, &values))
                .map(|((_, _, id), _)| *id)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn the_heaviest_of_ten_thousand_filters_decides() {
    let w = World::new();
    w.engine.begin_transaction(w.session, false).unwrap();
    for port in 0..10_000 {
        let action = if port % 2 == 0 {
            Action::Block
        } else {
            Action::Permit
        };
        let exact = Condition::equal(condition::IP_REMOTE_PORT, V::Uint16(port));
        w.add(filter(action).weighing(5).when(vec![exact]));
    }
    let range = V::range(V::Uint16(100), V::Uint16(199));
    let range = Condition::new(condition::IP_REMOTE_PORT, MatchType::Range, range);
    w.add(filter(Action::Permit).weighing(6).when(vec![range]));
    w.engine.commit_transaction(w.session).unwrap();
    let blocked = |port| w.is_blocked(&[(f::IP_REMOTE_PORT, Value::Uint16(port))]);
    assert!(blocked(98) && !blocked(99));
    assert!(!blocked(100) && !blocked(198));
    assert!(blocked(200) && blocked(9_998));
    assert!(!blocked(10_000));
}

/// A change of one transaction: adds a filter of this sublayer, weight and
/// port, or deletes one of those that are there.
#[derive(Clone, Debug)]
enum Change {
    Add(usize, u64, u16),
    Delete(prop::sample::Index),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0..3_usize, 0..4_u64, 0..4_u16).prop_map(|(s, w, p)| Change::Add(s, w, p)),
        2 => any::<prop::sample::Index>().prop_map(Change::Delete),
    ]
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn the_order_after_many_transactions_is_that_of_all_their_filters(
        newest_first in any::<bool>(),
        transactions in prop::collection::vec((prop::collection::vec(any_change(), 0..12), prop::bool::weighted(0.8)), 1..12),
    ) {
        let ties = if newest_first { TieOrder::NewestFirst } else { TieOrder::OldestFirst };
        let w = World::with(Options { filter_ties: ties, ..Options::default() });
        let sublayers = [w.sublayer(7), w.sublayer(9), w.sublayer(8)];
        let weights = [7, 9, 8];
        let mut model: Vec<(usize, u64, u16, FilterId)> = Vec::new();
        for (changes, commits) in transactions {
            let before = model.clone();
            w.engine.begin_transaction(w.session, false).unwrap();
            for change in changes {
                match change {
                    Change::Add(sublayer, weight, port) => {
                        let exact = Condition::equal(condition::IP_REMOTE_PORT, V::Uint16(port));
                        let id = w.add(
                            filter(Action::Permit)
                                .within(sublayers[sublayer])
                                .weighing(weight)
                                .when(vec![exact]),
                        );
                        model.push((sublayer, weight, port, id));
                    }
                    Change::Delete(which) if !model.is_empty() => {
                        let (.., id) = model.swap_remove(which.index(model.len()));
                        w.engine.delete_filter(w.session, id).unwrap();
                    }
                    Change::Delete(_) => {}
                }
            }
            if commits {
                w.engine.commit_transaction(w.session).unwrap();
            } else {
                w.engine.abort_transaction(w.session).unwrap();
                model = before;
            }
            let mut expected = model.clone();
            expected.sort_by_key(|(sublayer, weight, _, id)| {
                let id = i128::from(id.get());
                (Reverse(weights[*sublayer]), Reverse(*weight), if newest_first { -id } else { id })
            });
            for port in 0..4 {
                let values = values_of(connect(), &[(f::IP_REMOTE_PORT, Value::Uint16(port))]);
                let mut plan = Plan::default();
                w.engine.plan(&Request::new(connect().id(), &values), &mut plan);
                let found: Vec<_> = (0..plan.len()).map(|stage| plan.filter(stage).unwrap().id()).collect();
                let of_port: Vec<_> = expected
                    .iter()
                    .filter(|(_, _, of, _)| *of == port)
                    .map(|(.., id)| *id)
                    .collect();
                prop_assert_eq!(found, of_port);
            }
        }
    }
}
