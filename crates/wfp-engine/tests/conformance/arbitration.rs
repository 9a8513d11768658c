//! ARB rows: how decisions combine.

use crate::world::*;
use wfp_engine::{Arbitration, Decision, Filter, Options, Outcome, Request, TieOrder, Verdict};
use wfp_schema::{Action, CalloutFlags, ClassifyOutFlags, FilterFlags, LayerKind, Rights};

const HARD: FilterFlags = FilterFlags::CLEAR_ACTION_RIGHT;

/// A heavier sublayer's filter, a lighter one's, and what their callouts answer.
struct Pair {
    w: World,
    high: wfp_schema::Guid,
    low: wfp_schema::Guid,
}

impl Pair {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let w = World::with(options);
        let (low, high) = (w.sublayer(5), w.sublayer(10));
        Self { w, high, low }
    }

    fn high(&self, filter: Filter) -> &Self {
        self.w.add(filter.within(self.high));
        self
    }

    fn low(&self, filter: Filter) -> &Self {
        self.w.add(filter.within(self.low));
        self
    }

    fn verdict(&self) -> Verdict {
        self.w.classify(no_call)
    }
}

#[test]
fn arb_01_every_sublayer_is_evaluated() {
    let p = Pair::new();
    let callout = p.w.callout();
    p.high(filter(Action::Permit));
    p.low(filter(Action::CalloutInspection).asking(&callout));
    let mut calls = 0;
    let verdict = p.w.classify(|_, _| calls += 1);
    assert!(verdict.is_permit());
    assert_eq!(calls, 1);
}

#[test]
fn arb_02_the_first_decision_ends_its_sublayer() {
    let p = Pair::new();
    p.high(filter(Action::Permit).weighing(2));
    p.high(filter(Action::Block).weighing(1));
    assert!(p.verdict().is_permit());
}

#[test]
fn arb_03_a_soft_permit_is_overridden_by_a_block() {
    let p = Pair::new();
    p.high(filter(Action::Permit)).low(filter(Action::Block));
    assert!(!p.verdict().is_permit());
}

#[test]
fn arb_04_a_hard_permit_is_not_overridden_by_a_block_filter() {
    let p = Pair::new();
    p.high(filter(Action::Permit).flagged(HARD))
        .low(filter(Action::Block));
    assert!(p.verdict().is_permit());
}

#[test]
fn a_block_filter_overrides_a_hard_permit_if_that_is_how_it_is() {
    let p = Pair::with(Options {
        static_block_over_hard_permit: true,
        ..Options::default()
    });
    p.high(filter(Action::Permit).flagged(HARD))
        .low(filter(Action::Block));
    assert!(!p.verdict().is_permit());
    assert!(!p.verdict().vetoed);
}

#[test]
fn arb_05_a_callout_vetoes_a_hard_permit() {
    let p = Pair::new();
    let callout = p.w.callout();
    p.high(filter(Action::Permit).flagged(HARD));
    p.low(filter(Action::CalloutTerminating).asking(&callout));
    let verdict = p.w.classify(|_, out| answer_hard(out, Action::Block));
    assert_eq!(verdict.decision, Decision::Block);
    assert!(verdict.vetoed);
}

#[test]
fn arb_06_a_static_block_is_final() {
    let p = Pair::new();
    p.high(filter(Action::Block))
        .low(filter(Action::Permit).flagged(HARD));
    assert!(!p.verdict().is_permit());
}

fn blocked_then_permitted(answers: fn(Out<'_>, Action)) -> Verdict {
    let p = Pair::new();
    let callout = p.w.callout();
    p.high(filter(Action::CalloutTerminating).asking(&callout));
    p.low(filter(Action::Permit));
    p.w.classify(|_, out| answers(out, Action::Block))
}

#[test]
fn arb_07_soft_callout_block_is_overridden() {
    assert!(blocked_then_permitted(answer).is_permit());
}

#[test]
fn arb_08_hard_callout_block_is_final() {
    assert!(!blocked_then_permitted(answer_hard).is_permit());
}

#[test]
fn arb_09_a_terminating_callout_that_continues_blocks() {
    let p = Pair::new();
    let callout = p.w.callout();
    p.high(filter(Action::CalloutTerminating).asking(&callout));
    let verdict = p.w.classify(|_, out| answer(out, Action::Continue));
    assert!(!verdict.is_permit());
}

#[test]
fn arb_10_an_inspecting_callout_that_blocks_continues() {
    let p = Pair::new();
    let callout = p.w.callout();
    p.high(filter(Action::CalloutInspection).asking(&callout));
    let verdict = p.w.classify(|_, out| answer_hard(out, Action::Block));
    assert_eq!(verdict, Verdict::UNDECIDED);
}

#[test]
fn arb_11_after_a_continue_the_next_filter_decides() {
    let p = Pair::new();
    let callout = p.w.callout();
    p.high(filter(Action::CalloutUnknown).asking(&callout).weighing(2));
    let next = p.w.add(filter(Action::Permit).within(p.high).weighing(1));
    let verdict = p.w.classify(|_, out| answer(out, Action::Continue));
    assert!(verdict.is_permit());
    assert_eq!(verdict.by.unwrap().filter, next);
}

#[test]
fn arb_12_after_a_hard_permit_a_callout_lacks_the_right() {
    for (flags, expected) in [
        (HARD, Rights::NONE),
        (FilterFlags::NONE, Rights::ACTION_WRITE),
    ] {
        let p = Pair::new();
        let callout = p.w.callout();
        p.high(filter(Action::Permit).flagged(flags));
        p.low(filter(Action::CalloutInspection).asking(&callout));
        let mut found = None;
        p.w.classify(|_, out| found = Some((out.rights, out.action)));
        assert_eq!(found, Some((expected, Action::Permit.value())));
    }
}

#[test]
fn arb_13_a_permit_without_the_right_changes_nothing() {
    let p = Pair::new();
    let callout = p.w.callout();
    p.high(filter(Action::Block));
    p.low(filter(Action::CalloutTerminating).asking(&callout));
    let verdict = p.w.classify(|_, out| answer(out, Action::Permit));
    assert!(!verdict.is_permit());
}

#[test]
fn arb_14_traffic_that_nothing_decides_about_is_permitted() {
    let w = World::new();
    assert!(!w.engine.has_filters(connect().id()));
    assert_eq!(w.classify(no_call), Verdict::UNDECIDED);
}

#[test]
fn arb_15_layers_decide_by_themselves() {
    let w = World::new();
    let transport = layer(LayerKind::OutboundTransport);
    w.add(filter(Action::Permit).flagged(HARD));
    w.add(filter(Action::Block).at(transport));
    assert!(w.classify(no_call).is_permit());
    assert!(!w.classify_at(transport, &[], no_call).is_permit());
}

fn blocked_at_transport(flags: ClassifyOutFlags) -> Verdict {
    let w = World::new();
    let transport = layer(LayerKind::InboundTransport);
    let callout = w.callout_at(transport, CalloutFlags::NONE);
    w.add(
        filter(Action::CalloutTerminating)
            .at(transport)
            .asking(&callout),
    );
    w.classify_at(transport, &[], |_, out| {
        answer_hard(out, Action::Block);
        out.flags |= flags;
    })
}

#[test]
fn arb_16_an_absorbed_block_leaves_no_trace() {
    let verdict = blocked_at_transport(ClassifyOutFlags::ABSORB);
    assert!(!verdict.is_permit() && verdict.absorb);
}

#[test]
fn arb_17_a_block_that_is_not_absorbed_leaves_a_trace() {
    let verdict = blocked_at_transport(ClassifyOutFlags::NONE);
    assert!(!verdict.is_permit() && !verdict.absorb);
}

#[test]
fn a_permit_absorbs_nothing() {
    let p = Pair::new();
    let callout = p.w.callout();
    p.high(filter(Action::CalloutTerminating).asking(&callout));
    let verdict = p.w.classify(|_, out| {
        answer(out, Action::Permit);
        out.flags |= ClassifyOutFlags::ABSORB;
    });
    assert!(verdict.is_permit() && !verdict.absorb);
}

#[test]
fn a_block_that_is_overridden_absorbs_nothing() {
    let p = Pair::new();
    let callout = p.w.callout();
    p.high(filter(Action::CalloutTerminating).asking(&callout));
    p.low(filter(Action::Permit));
    let verdict = p.w.classify(|_, out| {
        answer(out, Action::Block);
        out.flags |= ClassifyOutFlags::ABSORB;
    });
    assert!(verdict.is_permit() && !verdict.absorb);
}

#[test]
fn evaluation_may_stop_at_a_hard_block() {
    for stop_on_hard_block in [true, false] {
        let p = Pair::with(Options {
            stop_on_hard_block,
            ..Options::default()
        });
        let callout = p.w.callout();
        p.high(filter(Action::Block));
        p.low(filter(Action::CalloutInspection).asking(&callout));
        let mut calls = 0;
        p.w.classify(|_, _| calls += 1);
        assert_eq!(calls, usize::from(!stop_on_hard_block));
    }
}

#[test]
fn the_block_for_an_absent_callout_is_as_hard_as_configured() {
    for unregistered_block_is_hard in [true, false] {
        let p = Pair::with(Options {
            unregistered_block_is_hard,
            ..Options::default()
        });
        let key = p.w.key();
        p.w.add_callout(key, connect());
        p.high(filter(Action::CalloutTerminating).of(key));
        p.low(filter(Action::Permit));
        assert_eq!(p.verdict().is_permit(), !unregistered_block_is_hard);
    }
}

#[test]
fn ties_go_to_the_oldest_or_the_newest() {
    for order in [TieOrder::OldestFirst, TieOrder::NewestFirst] {
        let w = World::with(Options {
            filter_ties: order,
            ..Options::default()
        });
        w.add(filter(Action::Permit).weighing(7));
        w.add(filter(Action::Block).weighing(7));
        let permits = w.classify(no_call).is_permit();
        assert_eq!(permits, order == TieOrder::OldestFirst);
    }
}

#[test]
fn what_the_first_callout_finds_is_configured() {
    for initial_action_type in [0, Action::None.value()] {
        let w = World::with(Options {
            initial_action_type,
            ..Options::default()
        });
        let callout = w.callout();
        w.add(filter(Action::CalloutInspection).asking(&callout));
        let mut found = None;
        w.classify(|_, out| found = Some(out.action));
        assert_eq!(found, Some(initial_action_type));
    }
}

#[test]
fn a_record_tells_every_step() {
    let p = Pair::new();
    let callout = p.w.callout();
    let asks = filter(Action::CalloutUnknown).asking(&callout);
    let asked = p.w.add(asks.within(p.high));
    let blocks = p.w.add(filter(Action::Block).within(p.low));
    let mut record = Arbitration::default();
    let request = Request::new(connect().id(), &[]);
    let verdict =
        p.w.engine
            .classify_recorded(&request, &mut record, |_, out| {
                answer_hard(out, Action::Permit);
            });
    assert_eq!(record.verdict, Some(verdict));
    let filters: Vec<_> = record.steps.iter().map(|step| step.filter).collect();
    assert_eq!(filters, [asked, blocks]);
    let call = record.calls().next().unwrap();
    assert_eq!(call.callout, callout.id);
    assert_eq!(call.entry.rights, Rights::ACTION_WRITE);
    assert_eq!(call.exit.rights, Rights::NONE);
    assert_eq!(record.steps[1].outcome, Outcome::Static(Decision::Block));
    assert!(verdict.is_permit() && verdict.hard);
}
