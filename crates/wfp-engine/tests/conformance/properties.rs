//! Properties: the engine against plain models of what it should do.

use crate::world::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::BTreeMap;
use std::time::Duration;
use wfp_engine::{
    Condition, ConditionValue, Decision, FilterId, Options, Request, Session, TransactionWait,
    Value,
};
use wfp_schema::field::datagram_data;
use wfp_schema::{
    Action, CalloutFlags, ClassifyOutFlags, FilterFlags, Guid, Layer, LayerKind, NtStatus, Rights,
    condition,
};

/// The same cases in every run.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0x5746_5046),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A filter of the model, with a callout of its own.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they vary independently")]
struct ModelFilter {
    weight: u64,
    action: Action,
    clear_right: bool,
    permit_if_unregistered: bool,
    matches: bool,
    registered: bool,
    conditional: bool,
    has_context: bool,
    /// What its callout writes; `None` leaves the action alone.
    answers: Option<u32>,
    clears_right: bool,
    absorbs: bool,
}

fn model_filter() -> impl Strategy<Value = ModelFilter> {
    let action = prop::sample::select(vec![
        Action::Block,
        Action::Permit,
        Action::CalloutTerminating,
        Action::CalloutInspection,
        Action::CalloutUnknown,
    ]);
    let answer = prop::option::of(prop::sample::select(vec![
        Action::Block.value(),
        Action::Permit.value(),
        Action::Continue.value(),
        Action::None.value(),
        0,
        0xDEAD,
    ]));
    let mostly = prop::bool::weighted(0.8);
    (
        (0..4_u64, action, any::<bool>(), any::<bool>(), mostly),
        (mostly, prop::bool::weighted(0.2), any::<bool>()),
        (answer, any::<bool>(), any::<bool>()),
    )
        .prop_map(|(filter, callout, answer)| {
            let asks = matches!(
                filter.1,
                Action::CalloutTerminating | Action::CalloutUnknown
            );
            ModelFilter {
                weight: filter.0,
                action: filter.1,
                clear_right: filter.2,
                permit_if_unregistered: filter.3 && asks,
                matches: filter.4,
                registered: callout.0,
                conditional: callout.1,
                has_context: callout.2 && callout.0,
                answers: answer.0,
                clears_right: answer.1,
                absorbs: answer.2,
            }
        })
}

#[derive(Clone, Copy, Debug)]
struct Switches {
    stop_on_hard_block: bool,
    static_block_over_hard_permit: bool,
    unregistered_block_is_hard: bool,
    initial: u32,
}

/// What the model comes to: permit, absorb, vetoed, and which filters' callouts saw what rights.
type Outcome = (Decision, bool, Vec<(usize, usize, u32, Rights)>);

/// The arbitration of the Windows Filtering Platform, step by step.
fn reference(sublayers: &[Vec<ModelFilter>], switches: Switches) -> Outcome {
    const BLOCK: u32 = Action::Block.value();
    const PERMIT: u32 = Action::Permit.value();
    let mut current: Option<u32> = None;
    let mut writable = true;
    let mut absorb = false;
    let mut calls = Vec::new();
    for (s, filters) in sublayers.iter().enumerate() {
        let mut order: Vec<_> = filters
            .iter()
            .enumerate()
            .filter(|(_, f)| f.matches)
            .collect();
        order.sort_by(|a, b| b.1.weight.cmp(&a.1.weight).then(a.0.cmp(&b.0)));
        // action, hard, static
        let mut decision = None;
        for (n, f) in order {
            if f.action == Action::Block {
                decision = Some((BLOCK, true, true));
                break;
            }
            if f.action == Action::Permit {
                decision = Some((PERMIT, f.clear_right, true));
                break;
            }
            if !f.registered {
                if f.action == Action::CalloutInspection {
                    continue;
                }
                decision = Some(if f.permit_if_unregistered {
                    (PERMIT, f.clear_right, true)
                } else {
                    (BLOCK, switches.unregistered_block_is_hard, true)
                });
                break;
            }
            if f.conditional && !f.has_context {
                continue;
            }
            let entry = current.unwrap_or(switches.initial);
            let rights = if writable {
                Rights::ACTION_WRITE
            } else {
                Rights::NONE
            };
            calls.push((s, n, entry, rights));
            let answer = f.answers.unwrap_or(entry);
            let answer = match f.action {
                Action::CalloutInspection => None,
                Action::CalloutTerminating if answer != PERMIT => Some(BLOCK),
                _ => Some(answer).filter(|a| *a == PERMIT || *a == BLOCK),
            };
            let Some(answer) = answer else { continue };
            if !writable && answer != BLOCK {
                continue;
            }
            let hard = f.clears_right || !writable;
            absorb |= f.absorbs && answer == BLOCK;
            decision = Some((answer, hard, false));
            break;
        }
        if let Some((action, hard, is_static)) = decision {
            let replaces = match (current, writable) {
                (None, _) | (_, true) => true,
                (Some(PERMIT), false) => {
                    action == BLOCK && (!is_static || switches.static_block_over_hard_permit)
                }
                _ => false,
            };
            if replaces {
                current = Some(action);
                writable = !hard;
            }
        }
        if switches.stop_on_hard_block && current == Some(BLOCK) && !writable {
            break;
        }
    }
    let decision = if current == Some(BLOCK) {
        Decision::Block
    } else {
        Decision::Permit
    };
    (decision, absorb && decision == Decision::Block, calls)
}

fn datagram() -> &'static Layer {
    layer(LayerKind::DatagramData)
}

/// The same by the engine.
fn by_engine(sublayers: &[Vec<ModelFilter>], switches: Switches) -> Outcome {
    let w = World::with(Options {
        stop_on_hard_block: switches.stop_on_hard_block,
        static_block_over_hard_permit: switches.static_block_over_hard_permit,
        unregistered_block_is_hard: switches.unregistered_block_is_hard,
        initial_action_type: switches.initial,
        ..Options::default()
    });
    let flow = w.engine.create_flow();
    let mut of_filter = BTreeMap::new();
    for (s, filters) in sublayers.iter().enumerate() {
        let weight = u16::MAX - u16::try_from(s).unwrap();
        let sublayer = w.sublayer(weight);
        for (n, model) in filters.iter().enumerate() {
            let id = add_model(&w, sublayer, model, &flow);
            of_filter.insert(id, (s, n));
        }
    }
    let values = values_of(
        datagram(),
        &[(datagram_data::IP_PROTOCOL, Value::Uint8(17))],
    );
    let mut calls = Vec::new();
    let request = Request::new(datagram().id(), &values).on_flow(&flow);
    let verdict = w.engine.classify(&request, |call, out| {
        let (s, n) = of_filter[&call.filter.id()];
        calls.push((s, n, out.action, out.rights));
        let model = &sublayers[s][n];
        if let Some(action) = model.answers {
            out.action = action;
        }
        if model.clears_right {
            out.rights = Rights::NONE;
        }
        if model.absorbs {
            out.flags |= ClassifyOutFlags::ABSORB;
        }
    });
    (verdict.decision, verdict.absorb, calls)
}

fn add_model(
    w: &World,
    sublayer: Guid,
    model: &ModelFilter,
    flow: &wfp_engine::Flow<TestHost>,
) -> FilterId {
    let key = w.key();
    let id = w.add_callout(key, datagram());
    if model.registered {
        let flags = if model.conditional {
            CalloutFlags::CONDITIONAL_ON_FLOW
        } else {
            CalloutFlags::NONE
        };
        w.register(key, flags);
    }
    if model.has_context {
        let associated = w
            .engine
            .associate_context(flow.id(), datagram().id(), id, 1);
        assert_eq!(associated, NtStatus::SUCCESS);
    }
    let mut flags = FilterFlags::NONE;
    if model.clear_right {
        flags |= FilterFlags::CLEAR_ACTION_RIGHT;
    }
    if model.permit_if_unregistered {
        flags |= FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED;
    }
    let protocol = if model.matches { 17 } else { 6 };
    w.add(
        filter(model.action)
            .at(datagram())
            .of(key)
            .within(sublayer)
            .weighing(model.weight)
            .flagged(flags)
            .when(vec![Condition::equal(
                condition::IP_PROTOCOL,
                ConditionValue::Uint8(protocol),
            )]),
    )
}

proptest! {
    #![proptest_config(config(2048))]

    #[test]
    fn arbitration_is_the_reference_algorithm(
        sublayers in prop::collection::vec(prop::collection::vec(model_filter(), 0..4), 0..4),
        switches in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let switches = Switches {
            stop_on_hard_block: switches.0,
            static_block_over_hard_permit: switches.1,
            unregistered_block_is_hard: switches.2,
            initial: if switches.3 { 0 } else { Action::None.value() },
        };
        prop_assert_eq!(by_engine(&sublayers, switches), reference(&sublayers, switches));
    }
}

/// What a session does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin { read_only: bool },
    Commit,
    Abort,
    Add,
    Delete(usize),
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        any::<bool>().prop_map(|read_only| Step::Begin { read_only }),
        Just(Step::Commit),
        Just(Step::Abort),
        Just(Step::Add),
        (0..8_usize).prop_map(Step::Delete),
    ];
    (0..2_usize, step)
}

/// Which of the filters added so far exist, by their number.
type Filters = BTreeMap<usize, FilterId>;

/// Two sessions and one set of filters.
#[derive(Default)]
struct Model {
    committed: Filters,
    /// What each session's transaction sees, and whether it may write.
    open: [Option<(bool, Filters)>; 2],
    added: usize,
}

impl Model {
    const fn is_locked_for(&self, session: usize) -> bool {
        matches!(&self.open[1 - session], Some((true, _)))
    }

    fn view(&self, session: usize) -> &Filters {
        self.open[session]
            .as_ref()
            .map_or(&self.committed, |(_, filters)| filters)
    }

    /// Whether a change can be made, and where.
    const fn change(&mut self, session: usize) -> Result<&mut Filters, NtStatus> {
        let locked = self.is_locked_for(session);
        match &mut self.open[session] {
            Some((false, _)) => Err(NtStatus::FWP_INCOMPATIBLE_TXN),
            Some((true, filters)) => Ok(filters),
            None if locked => Err(NtStatus::FWP_TIMEOUT),
            None => Ok(&mut self.committed),
        }
    }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn transactions_are_a_map_with_one_writer(
        steps in prop::collection::vec(step(), 0..40)
    ) {
        let w = World::new();
        let sessions = [(); 2].map(|()| {
            w.engine.open_session(Session {
                transaction_wait: TransactionWait::Limit(Duration::from_millis(1)),
                ..Session::default()
            }).unwrap()
        });
        let mut model = Model::default();
        for (s, step) in steps {
            let session = sessions[s];
            match step {
                Step::Begin { read_only } => {
                    let expected = if model.open[s].is_some() {
                        Err(NtStatus::FWP_TXN_IN_PROGRESS)
                    } else if !read_only && model.is_locked_for(s) {
                        Err(NtStatus::FWP_TIMEOUT)
                    } else {
                        model.open[s] = Some((!read_only, model.committed.clone()));
                        Ok(())
                    };
                    prop_assert_eq!(w.engine.begin_transaction(session, read_only), expected);
                }
                Step::Commit => {
                    let expected = match model.open[s].take() {
                        None => Err(NtStatus::FWP_NO_TXN_IN_PROGRESS),
                        Some((writes, filters)) => {
                            if writes {
                                model.committed = filters;
                            }
                            Ok(())
                        }
                    };
                    prop_assert_eq!(w.engine.commit_transaction(session), expected);
                }
                Step::Abort => {
                    let expected = model.open[s]
                        .take()
                        .map(|_| ())
                        .ok_or(NtStatus::FWP_NO_TXN_IN_PROGRESS);
                    prop_assert_eq!(w.engine.abort_transaction(session), expected);
                }
                Step::Add => {
                    let added = w.engine.add_filter(session, filter(Action::Permit));
                    let number = model.added;
                    match (model.change(s), added) {
                        (Ok(filters), Ok(id)) => {
                            filters.insert(number, id);
                            model.added += 1;
                        }
                        (expected, found) => prop_assert_eq!(found.err(), expected.err()),
                    }
                }
                Step::Delete(nth) => {
                    let Some((&number, &id)) = model.view(s).iter().nth(nth) else { continue };
                    let deleted = w.engine.delete_filter(session, id);
                    let expected = model.change(s).map(|filters| { filters.remove(&number); });
                    prop_assert_eq!(deleted, expected);
                }
            }
            for (s, session) in sessions.iter().enumerate() {
                let seen: Vec<_> = w.engine.objects(*session).unwrap()
                    .filters().map(|entry| entry.id()).collect();
                let expected: Vec<_> = model.view(s).values().copied().collect();
                prop_assert_eq!(seen, expected);
            }
        }
    }
}
