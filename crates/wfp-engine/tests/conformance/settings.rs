//! What the settings of the open questions change, that no other test shows.

use crate::world::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wfp_engine::{
    AutoWeight, Condition, ConditionValue as V, Engine, NoMatch, Options, Provider,
    ReadTransaction, RunningCallout, SeparatedConditions, Session, TransactionWait, Value, Weight,
};
use wfp_schema::field::ale_auth_connect as f;
use wfp_schema::{
    Action, BfeState, FilterFlags, IpVersion, Layer, LayerKind, MatchType, NtStatus, condition,
    sublayer,
};

const fn port(number: u16) -> Condition {
    Condition::equal(condition::IP_REMOTE_PORT, V::Uint16(number))
}

const fn protocol(number: u8) -> Condition {
    Condition::equal(condition::IP_PROTOCOL, V::Uint8(number))
}

#[test]
fn arb_14_traffic_that_nothing_decides_about_meets_the_default() {
    for (no_match, permitted) in [(NoMatch::Permit, true), (NoMatch::Block, false)] {
        let w = World::with(Options {
            no_match,
            ..Options::default()
        });
        assert_eq!(w.classify(no_call).is_permit(), permitted);
        w.add(filter(Action::Permit).when(vec![port(80)]));
        assert_eq!(w.classify(no_call).is_permit(), permitted);
        assert_eq!(w.classify(no_call).by, None);
    }
}

#[test]
fn an_answer_that_is_no_action_continues_or_blocks() {
    for unknown_answer_blocks in [false, true] {
        let w = World::with(Options {
            unknown_answer_blocks,
            ..Options::default()
        });
        let callout = w.callout();
        w.add(filter(Action::CalloutUnknown).asking(&callout));
        let permits = |action: u32| w.classify(|_, out| out.action = action).is_permit();
        assert_eq!(permits(Action::None.value()), !unknown_answer_blocks);
        assert_eq!(permits(Action::NoneNoMatch.value()), !unknown_answer_blocks);
        assert!(permits(Action::Continue.value()));
    }
}

#[test]
fn wgt_02_an_automatic_weight_follows_either_formula_within_60_bits() {
    let weigh = |formula, conditions: Vec<Condition>| {
        let w = World::with(Options {
            auto_weight: formula,
            ..Options::default()
        });
        let id = w.add(filter(Action::Block).when(conditions));
        let objects = w.engine.committed();
        objects.filter(id).unwrap().record().effective_weight()
    };
    let wide = Condition::new(condition::IP_REMOTE_PORT, MatchType::Greater, V::Uint16(1));
    for formula in [AutoWeight::BySpecificity, AutoWeight::ByFields] {
        let one = weigh(formula, vec![port(80)]);
        let two = weigh(formula, vec![port(80), protocol(6)]);
        assert!(one < two && two < 1 << 60, "{formula:?}");
        let wider = weigh(formula, vec![wide.clone()]);
        assert_eq!(wider < one, formula == AutoWeight::BySpecificity);
    }
}

#[test]
fn wgt_03_a_range_goes_above_either_formula() {
    for formula in [AutoWeight::BySpecificity, AutoWeight::ByFields] {
        let w = World::with(Options {
            auto_weight: formula,
            ..Options::default()
        });
        let weigh = |weight| {
            let id = w.add(wfp_engine::Filter {
                weight,
                ..filter(Action::Block).when(vec![port(80)])
            });
            let objects = w.engine.committed();
            objects.filter(id).unwrap().record().effective_weight()
        };
        assert_eq!(weigh(Weight::Range(7)), (7 << 60) + weigh(Weight::Auto));
    }
}

#[test]
fn the_universal_sublayer_weighs_what_is_set() {
    for universal_weight in [0x0100, 0x8000, 0xFF00] {
        let w = World::with(Options {
            universal_weight,
            ..Options::default()
        });
        let objects = w.engine.committed();
        let universal = objects.sublayer(sublayer::UNIVERSAL).unwrap();
        assert_eq!(universal.sublayer.weight, universal_weight);
    }
}

#[test]
fn cnd_04_conditions_that_are_apart_are_a_choice_or_a_demand_or_refused() {
    let apart = || vec![port(80), protocol(6), port(443)];
    let add = |separated_conditions| {
        let w = World::with(Options {
            separated_conditions,
            ..Options::default()
        });
        let added = w
            .engine
            .add_filter(w.session, filter(Action::Block).when(apart()));
        let values = [
            (f::IP_REMOTE_PORT, Value::Uint16(443)),
            (f::IP_PROTOCOL, Value::Uint8(6)),
        ];
        added.map(|_| w.is_blocked(&values))
    };
    assert_eq!(add(SeparatedConditions::Alternatives), Ok(true));
    assert_eq!(add(SeparatedConditions::BothRequired), Ok(false));
    assert_eq!(
        add(SeparatedConditions::Refused),
        Err(NtStatus::FWP_DUPLICATE_CONDITION)
    );
}

#[test]
fn cnd_11_a_range_may_exclude_its_upper_end() {
    for range_includes_high in [true, false] {
        let w = World::with(Options {
            range_includes_high,
            ..Options::default()
        });
        let range = V::range(V::Uint16(1000), V::Uint16(2000));
        let range = Condition::new(condition::IP_REMOTE_PORT, MatchType::Range, range);
        w.add(filter(Action::Block).when(vec![range]));
        let blocks = |port| w.is_blocked(&[(f::IP_REMOTE_PORT, Value::Uint16(port))]);
        assert!(!blocks(999));
        assert!(blocks(1000));
        assert!(blocks(1999));
        assert_eq!(blocks(2000), range_includes_high);
        assert!(!blocks(2001));
    }
}

#[test]
fn a_tenant_network_identifier_has_16_or_32_bits() {
    let layer = Layer::of(LayerKind::IngressVSwitchTransport, IpVersion::V4).unwrap();
    for wide in [false, true] {
        let w = World::with(Options {
            wide_tenant_network_id: wide,
            ..Options::default()
        });
        let add = |value| {
            let tenant = Condition::equal(condition::VSWITCH_TENANT_NETWORK_ID, value);
            w.engine.add_filter(
                w.session,
                filter(Action::Block).at(layer).when(vec![tenant]),
            )
        };
        assert_eq!(add(V::Uint32(1)).is_ok(), wide);
        assert_eq!(add(V::Uint16(1)).is_ok(), !wide);
    }
}

#[test]
fn unregistering_may_be_refused_while_a_function_of_the_callout_runs() {
    let w = World::with(Options {
        unregister_while_running: RunningCallout::Busy,
        ..Options::default()
    });
    let callout = w.callout();
    w.add(filter(Action::CalloutTerminating).asking(&callout));
    w.classify(|_, out| {
        let busy = w.engine.unregister_by_id(callout.id);
        assert_eq!(busy, Err(NtStatus::DEVICE_BUSY));
        answer(out, Action::Permit);
    });
    assert_eq!(w.engine.unregister_by_id(callout.id), Ok(()));
}

#[test]
fn a_filter_may_be_deleted_while_a_classify_with_it_runs() {
    let w = World::with(Options {
        deletion_waits: false,
        ..Options::default()
    });
    let callout = w.callout();
    let id = w.add(filter(Action::CalloutTerminating).asking(&callout));
    w.classify(|_, out| {
        assert_eq!(w.engine.delete_filter(w.session, id), Ok(()));
        answer(out, Action::Permit);
    });
}

#[test]
fn txn_03_a_transaction_that_reads_may_share_the_lock() {
    for shared in [false, true] {
        let w = World::with(Options {
            read_transaction: if shared {
                ReadTransaction::SharedLock
            } else {
                ReadTransaction::Snapshot
            },
            ..Options::default()
        });
        let impatient = || {
            let session = Session {
                transaction_wait: TransactionWait::Limit(Duration::from_millis(10)),
                ..Session::default()
            };
            w.engine.open_session(session).unwrap()
        };
        let (writer, reader, other) = (impatient(), impatient(), impatient());
        let expected = if shared {
            Err(NtStatus::FWP_TIMEOUT)
        } else {
            Ok(())
        };
        w.engine.begin_transaction(writer, false).unwrap();
        assert_eq!(w.engine.begin_transaction(reader, true), expected);
        w.engine.abort_transaction(writer).unwrap();
        if shared {
            w.engine.begin_transaction(reader, true).unwrap();
        }
        // Readers don't hinder each other, only writers.
        w.engine.begin_transaction(other, true).unwrap();
        assert_eq!(w.engine.begin_transaction(writer, false), expected);
        if shared {
            w.engine.commit_transaction(reader).unwrap();
            w.engine.close_session(other).unwrap();
            assert_eq!(w.engine.begin_transaction(writer, false), Ok(()));
        }
    }
}

#[test]
fn bfe_02_the_first_state_that_subscribers_hear_of_is_start_pending_or_running() {
    for start_pending_is_told in [true, false] {
        let engine = Engine::new(
            TestHost::default(),
            Options {
                start_pending_is_told,
                ..Options::default()
            },
        );
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        engine.subscribe(move |state| log.lock().unwrap().push(state));
        engine.start_bfe();
        let expected: &[_] = if start_pending_is_told {
            &[BfeState::StartPending, BfeState::Running]
        } else {
            &[BfeState::Running]
        };
        assert_eq!(*heard.lock().unwrap(), expected);
    }
}

#[test]
fn a_provider_without_a_service_is_loaded_or_disabled() {
    for provider_needs_service in [false, true] {
        let w = World::new();
        let provider = Provider {
            name: name(),
            persistent: true,
            ..Provider::default()
        };
        let provider = w.engine.add_provider(w.session, provider).unwrap();
        w.add(wfp_engine::Filter {
            provider: Some(provider),
            ..filter(Action::Block).flagged(FilterFlags::PERSISTENT)
        });
        let options = Options {
            provider_needs_service,
            ..Options::default()
        };
        let next = Engine::boot(TestHost::default(), options, w.engine.boot_store());
        next.start_bfe();
        let objects = next.committed();
        assert_eq!(
            objects.provider(provider).unwrap().disabled,
            provider_needs_service
        );
        let record = objects.filters().next().unwrap().record();
        let disabled = record.filter().flags.contains(FilterFlags::DISABLED);
        assert_eq!(disabled, provider_needs_service);
    }
}

#[test]
fn obj_15_to_17_the_status_of_illegal_flags_is_set() {
    for status in [NtStatus::FWP_INVALID_FLAGS, NtStatus::FWP_INVALID_PARAMETER] {
        let w = World::with(Options {
            illegal_filter_flags: status,
            ..Options::default()
        });
        for (action, flags) in [
            (
                Action::Permit,
                FilterFlags::PERSISTENT.union(FilterFlags::BOOTTIME),
            ),
            (Action::Permit, FilterFlags::DISABLED),
            (Action::Block, FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED),
        ] {
            let added = w
                .engine
                .add_filter(w.session, filter(action).flagged(flags));
            assert_eq!(added, Err(status));
        }
    }
}
