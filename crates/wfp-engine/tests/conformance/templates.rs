//! What enumeration templates mean.

use crate::world::*;
use std::collections::BTreeSet;
use wfp_engine::{
    CalloutTemplate, Condition, ConditionValue as V, Filter, FilterId, FilterTemplate, Provider,
    ProviderContext, ProviderContextTemplate, SubLayer,
};
use wfp_schema::{
    Action, FilterEnumFlags, FilterFlags, Guid, LayerKind, MatchType, NtStatus,
    ProviderContextType, condition,
};

const SID: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
const OTHER_SID: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 19, 0, 0, 0];

fn found(w: &World, template: &FilterTemplate) -> Vec<FilterId> {
    let objects = w.engine.committed();
    let selected = objects.select_filters(template).unwrap();
    selected.iter().map(|entry| entry.id()).collect()
}

const fn port(port: u16) -> Condition {
    Condition::equal(condition::IP_REMOTE_PORT, V::Uint16(port))
}

const fn ports(match_type: MatchType, value: V) -> Condition {
    Condition::new(condition::IP_REMOTE_PORT, match_type, value)
}

fn range(low: u16, high: u16) -> Condition {
    ports(MatchType::Range, V::range(V::Uint16(low), V::Uint16(high)))
}

const fn network(address: u32, mask: u32) -> Condition {
    Condition::equal(
        condition::IP_REMOTE_ADDRESS,
        V::V4AddrMask { address, mask },
    )
}

/// Whether a filter with these conditions contains, and whether it overlaps, what is asked.
fn means(filters: Vec<Condition>, asked: &[Condition]) -> (bool, bool) {
    let w = World::new();
    w.add(filter(Action::Block).when(filters));
    let [contains, overlaps] = [false, true].map(|overlapping| {
        let template = FilterTemplate {
            layer: connect().key(),
            overlapping,
            conditions: asked.to_vec(),
            ..FilterTemplate::default()
        };
        !found(&w, &template).is_empty()
    });
    assert!(overlaps || !contains, "what contains overlaps");
    (contains, overlaps)
}

#[test]
fn a_filter_contains_or_overlaps_the_traffic_that_is_asked_for() {
    const BOTH: (bool, bool) = (true, true);
    const OVERLAPS: (bool, bool) = (false, true);
    const NEITHER: (bool, bool) = (false, false);
    let n = MatchType::NotEqual;
    for (filters, asked, expected) in [
        (vec![], vec![port(80)], BOTH),
        (vec![port(80)], vec![], OVERLAPS),
        (vec![port(80)], vec![port(80)], BOTH),
        (vec![port(80)], vec![port(81)], NEITHER),
        (vec![port(80), port(81)], vec![range(80, 81)], BOTH),
        (vec![port(80), port(82)], vec![range(80, 82)], OVERLAPS),
        (vec![range(1, 79), range(80, 99)], vec![range(70, 90)], BOTH),
        (
            vec![range(1, 79), range(81, 99)],
            vec![range(70, 90)],
            OVERLAPS,
        ),
        (vec![range(1, 79)], vec![range(80, 90)], NEITHER),
        (vec![ports(n, V::Uint16(80))], vec![port(80)], NEITHER),
        (vec![ports(n, V::Uint16(80))], vec![port(81)], BOTH),
        (vec![ports(n, V::Uint16(80))], vec![range(79, 81)], OVERLAPS),
        (
            vec![ports(MatchType::Greater, V::Uint16(1023))],
            vec![range(1024, 65535)],
            BOTH,
        ),
        (
            vec![ports(MatchType::LessOrEqual, V::Uint16(80))],
            vec![range(80, 81)],
            OVERLAPS,
        ),
        (
            vec![network(0x0A00_0000, 0xFF00_0000)],
            vec![network(0x0A01_0000, 0xFFFF_0000)],
            BOTH,
        ),
        (
            vec![network(0x0A01_0000, 0xFFFF_0000)],
            vec![network(0x0A00_0000, 0xFF00_0000)],
            OVERLAPS,
        ),
        (
            vec![network(0x0A01_0000, 0xFFFF_0000)],
            vec![network(0x0B00_0000, 0xFF00_0000)],
            NEITHER,
        ),
        (
            vec![
                port(80),
                Condition::equal(condition::IP_PROTOCOL, V::Uint8(6)),
            ],
            vec![port(80)],
            OVERLAPS,
        ),
    ] {
        let text = format!("{filters:?} for {asked:?}");
        assert_eq!(means(filters, &asked), expected, "{text}");
    }
}

#[test]
fn a_user_is_asked_for_by_a_sid_and_meant_by_a_security_descriptor() {
    // Self-relative, the list behind the header, one entry that grants to SID.
    let mut descriptor = vec![1, 0, 4, 0x80];
    descriptor.extend([0; 12]);
    descriptor.extend(20_u32.to_le_bytes());
    descriptor.extend([2, 0, 28, 0, 1, 0, 0, 0]);
    descriptor.extend([0, 0, 20, 0, 1, 0, 0, 0]);
    descriptor.extend(SID);
    let user = |value| Condition::equal(condition::ALE_USER_ID, value);
    let of = |sid: [u8; 12]| {
        means(
            vec![user(V::SecurityDescriptor(descriptor.clone().into()))],
            &[user(V::Sid(sid.into()))],
        )
    };
    assert_eq!(of(SID), (true, true));
    assert_eq!(of(OTHER_SID), (false, false));
}

#[test]
fn filters_are_selected_by_layer_provider_action_callout_and_context() {
    let w = World::new();
    let provider = Provider {
        name: name(),
        ..Provider::default()
    };
    let provider = w.engine.add_provider(w.session, provider).unwrap();
    let callout = w.callout();
    let key = w.key();
    w.engine
        .add_provider_context(
            w.session,
            ProviderContext {
                key,
                name: name(),
                ..ProviderContext::default()
            },
        )
        .unwrap();
    let stream = w.add(filter(Action::Permit).at(layer(LayerKind::Stream)));
    let owned = w.add(Filter {
        provider: Some(provider),
        ..filter(Action::Block)
    });
    let asks = w.add(filter(Action::CalloutInspection).asking(&callout));
    let with_context = w.add(Filter {
        provider_context: key,
        ..filter(Action::Permit).flagged(FilterFlags::HAS_PROVIDER_CONTEXT)
    });
    let all = FilterTemplate::default;
    assert_eq!(found(&w, &all()), [stream, owned, asks, with_context]);
    for (template, expected) in [
        (
            FilterTemplate {
                layer: layer(LayerKind::Stream).key(),
                ..all()
            },
            vec![stream],
        ),
        (
            FilterTemplate {
                provider: Some(provider),
                ..all()
            },
            vec![owned],
        ),
        (
            FilterTemplate {
                action_mask: Action::CalloutInspection.value() & 0x4000,
                callout: Some(callout.key),
                ..all()
            },
            vec![asks],
        ),
        (
            FilterTemplate {
                provider_context: Some(ProviderContextTemplate::default()),
                ..all()
            },
            vec![with_context],
        ),
        (
            FilterTemplate {
                provider_context: Some(ProviderContextTemplate {
                    context_type: Some(ProviderContextType::ClassifyOptions),
                    ..ProviderContextTemplate::default()
                }),
                ..all()
            },
            vec![],
        ),
    ] {
        assert_eq!(found(&w, &template), expected, "{template:?}");
    }
}

#[test]
fn boot_time_filters_are_shown_when_they_are_asked_for() {
    let w = World::new();
    let usual = w.add(filter(Action::Permit));
    let boot_time = w.add(filter(Action::Permit).flagged(FilterFlags::BOOTTIME));
    let with = |flags| {
        let template = FilterTemplate {
            flags,
            ..FilterTemplate::default()
        };
        found(&w, &template)
    };
    assert_eq!(with(FilterEnumFlags::NONE), [usual]);
    assert_eq!(with(FilterEnumFlags::INCLUDE_BOOTTIME), [usual, boot_time]);
    assert_eq!(with(FilterEnumFlags::BOOTTIME_ONLY), [boot_time]);
}

#[test]
fn the_heaviest_comes_first_or_alone_if_it_decides() {
    let w = World::new();
    let callout = w.callout();
    let light = w.add(filter(Action::Permit).weighing(1));
    let heavy = w.add(filter(Action::Block).weighing(3));
    let heaviest = w.add(
        filter(Action::CalloutInspection)
            .asking(&callout)
            .weighing(4),
    );
    let with = |flags| {
        let template = FilterTemplate {
            flags,
            ..FilterTemplate::default()
        };
        found(&w, &template)
    };
    assert_eq!(with(FilterEnumFlags::SORTED), [heaviest, heavy, light]);
    assert_eq!(with(FilterEnumFlags::BEST_TERMINATING_MATCH), [heavy]);
}

#[test]
fn a_template_that_fits_no_layer_is_refused() {
    let w = World::new();
    let selected = |template: FilterTemplate| {
        let objects = w.engine.committed();
        objects.select_filters(&template).map(|_| ()).unwrap_err()
    };
    let of = |conditions| FilterTemplate {
        layer: connect().key(),
        conditions,
        ..FilterTemplate::default()
    };
    assert_eq!(
        selected(of(vec![port(80), port(81)])),
        NtStatus::FWP_DUPLICATE_CONDITION
    );
    let unknown = Condition::equal(w.key(), V::Uint8(1));
    assert_eq!(
        selected(of(vec![unknown])),
        NtStatus::FWP_CONDITION_NOT_FOUND
    );
    let wide = Condition::equal(condition::IP_REMOTE_PORT, V::Uint32(80));
    assert_eq!(selected(of(vec![wide])), NtStatus::FWP_TYPE_MISMATCH);
    let nowhere = FilterTemplate {
        layer: w.key(),
        ..FilterTemplate::default()
    };
    assert_eq!(selected(nowhere), NtStatus::FWP_LAYER_NOT_FOUND);
}

#[test]
fn sublayers_callouts_and_contexts_are_selected_too() {
    let w = World::new();
    let provider = Provider {
        name: name(),
        ..Provider::default()
    };
    let provider = Some(w.engine.add_provider(w.session, provider).unwrap());
    let sublayer = SubLayer {
        name: name(),
        provider,
        ..SubLayer::default()
    };
    let sublayer = w.engine.add_sublayer(w.session, sublayer).unwrap();
    let callout = w.callout();
    w.callout_at(layer(LayerKind::Stream), wfp_schema::CalloutFlags::NONE);
    let context = ProviderContext {
        name: name(),
        provider,
        ..ProviderContext::default()
    };
    let context = w.engine.add_provider_context(w.session, context).unwrap();

    let objects = w.engine.committed();
    let sublayers: Vec<Guid> = objects
        .select_sublayers(provider)
        .map(|object| object.sublayer.key)
        .collect();
    assert_eq!(sublayers, [sublayer]);
    let built_in = objects.select_sublayers(None).count() - 1;
    assert_eq!(built_in, wfp_schema::sublayer::ALL.len());
    let callouts: BTreeSet<Guid> = objects
        .select_callouts(CalloutTemplate {
            layer: connect().key(),
            ..CalloutTemplate::default()
        })
        .map(|object| object.callout.key)
        .collect();
    assert_eq!(callouts, BTreeSet::from([callout.key]));
    let contexts: Vec<_> = objects
        .select_provider_contexts(ProviderContextTemplate {
            provider,
            context_type: Some(ProviderContextType::General),
        })
        .map(|object| object.id)
        .collect();
    assert_eq!(contexts, [context]);
}
