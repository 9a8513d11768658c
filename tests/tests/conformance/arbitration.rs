//! ARB rows: what filters, sublayers and callouts make of one another's decisions.

use wfp_engine::NoMatch;
use wfp_schema::{Action, FilterFlags, Guid, Rights};

use crate::answers::{hard, permit, proceed, soft};
use crate::world::{Session, World, asking, connect, filter};

/// A filter's flag that makes its decision hard.
const HARD: u32 = FilterFlags::CLEAR_ACTION_RIGHT.bits();

/// Two sublayers, the heavier first.
fn sublayers(s: &Session<'_>) -> [Guid; 2] {
    [10, 5].map(|weight| s.sublayer(weight))
}

#[test]
fn arb_01_every_sublayer_is_evaluated() {
    let w = World::new();
    let s = w.session();
    let [high, low] = sublayers(&s);
    let watcher = s.callout(connect());
    s.add(asking(&watcher, Action::CalloutInspection).within(low));
    s.add(filter(connect(), Action::Permit).within(high));
    assert!(w.connects());
    assert_eq!(w.classifies(&watcher).len(), 1);
    w.end();
}

#[test]
fn arb_02_a_decision_ends_its_sublayer() {
    let w = World::new();
    let s = w.session();
    let [high, _] = sublayers(&s);
    let lower = s.callout(connect());
    w.script(&lower, &[hard(Action::Block)]);
    s.add(filter(connect(), Action::Permit).within(high).weight(2));
    s.add(filter(connect(), Action::Block).within(high).weight(1));
    s.add(
        asking(&lower, Action::CalloutTerminating)
            .within(high)
            .weight(0),
    );
    assert!(w.connects());
    assert!(
        w.classifies(&lower).is_empty(),
        "no lower filter is evaluated"
    );
    w.end();
}

/// What two static filters make, the heavier sublayer's first.
fn of_two(first: (Action, u32), second: (Action, u32)) -> (bool, World) {
    let w = World::new();
    let s = w.session();
    for (sublayer, (action, flags)) in sublayers(&s).into_iter().zip([first, second]) {
        s.add(filter(connect(), action).within(sublayer).flags(flags));
    }
    (w.connects(), w)
}

#[test]
fn arb_03_a_block_overrides_a_soft_permit() {
    let (connects, w) = of_two((Action::Permit, 0), (Action::Block, 0));
    assert!(!connects);
    w.end();
}

#[test]
fn arb_04_a_hard_permit_overrides_a_static_block() {
    let (connects, w) = of_two((Action::Permit, HARD), (Action::Block, 0));
    assert_eq!(connects, !w.options().static_block_over_hard_permit);
    w.end();
}

#[test]
fn arb_05_a_callout_vetoes_a_hard_permit() {
    let w = World::new();
    let s = w.session();
    let [high, low] = sublayers(&s);
    let veto = s.callout(connect());
    w.script(&veto, &[soft(Action::Block)]);
    s.add(filter(connect(), Action::Permit).within(high).flags(HARD));
    s.add(asking(&veto, Action::CalloutTerminating).within(low));
    assert!(!w.connects());
    assert_eq!(
        w.classifies(&veto)[0].rights & Rights::ACTION_WRITE.bits(),
        0
    );
    w.end();
}

#[test]
fn arb_06_a_static_block_is_final() {
    let (connects, w) = of_two((Action::Block, 0), (Action::Permit, HARD));
    assert!(!connects);
    w.end();
}

/// What a callout's block in the heavier sublayer becomes when a lighter one permits.
fn block_then_permit(block: conformance_messages::Step) -> (bool, World) {
    let w = World::new();
    let s = w.session();
    let [high, low] = sublayers(&s);
    let callout = s.callout(connect());
    w.script(&callout, &[block]);
    s.add(asking(&callout, Action::CalloutTerminating).within(high));
    s.add(filter(connect(), Action::Permit).within(low));
    let connects = w.connects();
    assert_eq!(w.classifies(&callout).len(), 1);
    (connects, w)
}

#[test]
fn arb_07_a_permit_overrides_a_soft_block() {
    let (connects, w) = block_then_permit(soft(Action::Block));
    assert!(connects);
    // Whoever means a block clears the right; the verifier says so.
    w.end_with("classify-block-right");
}

#[test]
fn arb_08_a_hard_block_is_final() {
    let (connects, w) = block_then_permit(hard(Action::Block));
    assert!(!connects);
    w.end();
}

/// What becomes of a connection when a filter asks a callout that answers so, above a filter that permits.
fn answered(action: Action, answer: conformance_messages::Step, below: Action) -> (bool, World) {
    let w = World::new();
    let s = w.session();
    let callout = s.callout(connect());
    w.script(&callout, &[answer]);
    s.add(asking(&callout, action).weight(2));
    s.add(filter(connect(), below).weight(1));
    let connects = w.connects();
    assert_eq!(w.classifies(&callout).len(), 1);
    (connects, w)
}

#[test]
fn arb_09_who_has_to_decide_and_does_not_blocks() {
    let (connects, w) = answered(Action::CalloutTerminating, proceed(), Action::Permit);
    assert!(!connects);
    // The verifier says so too.
    let report = w.unload();
    assert!(
        !report.violations.is_empty(),
        "CONTINUE is no answer to a terminating filter"
    );
}

#[test]
fn arb_10_an_inspection_does_not_block() {
    let (connects, w) = answered(
        Action::CalloutInspection,
        hard(Action::Block),
        Action::Permit,
    );
    assert!(connects);
    let report = w.unload();
    assert!(
        !report.violations.is_empty(),
        "a block is no answer to an inspection filter"
    );
}

#[test]
fn arb_11_who_goes_on_leaves_it_to_the_next() {
    for (below, expected) in [(Action::Permit, true), (Action::Block, false)] {
        let (connects, w) = answered(Action::CalloutUnknown, proceed(), below);
        assert_eq!(connects, expected);
        w.end();
    }
}

#[test]
fn arb_12_below_a_hard_permit_there_is_no_right() {
    let w = World::new();
    let s = w.session();
    let [high, low] = sublayers(&s);
    let lower = s.callout(connect());
    s.add(filter(connect(), Action::Permit).within(high).flags(HARD));
    s.add(asking(&lower, Action::CalloutInspection).within(low));
    assert!(w.connects());
    let [entry] = w.classifies(&lower)[..] else {
        panic!("one classify");
    };
    assert_eq!(entry.rights & Rights::ACTION_WRITE.bits(), 0);
    assert_eq!(entry.action, Action::Permit.value());
    w.end();
}

#[test]
fn arb_13_a_permit_without_the_right_changes_nothing() {
    let w = World::new();
    let s = w.session();
    let [high, low] = sublayers(&s);
    let [first, second] = [(); 2].map(|()| s.callout(connect()));
    w.script(&first, &[hard(Action::Block)]);
    w.script(&second, &[permit()]);
    s.add(asking(&first, Action::CalloutTerminating).within(high));
    s.add(asking(&second, Action::CalloutTerminating).within(low));
    assert!(!w.connects());
    let asked = w.classifies(&second).len();
    assert_eq!(asked, usize::from(!w.options().stop_on_hard_block));
    let report = w.unload();
    assert_eq!(
        report.violations.len(),
        asked,
        "the verifier says who wrote without the right"
    );
}

#[test]
fn arb_14_without_filters_everything_passes() {
    let w = World::new();
    assert!(w.connects());
    w.end();

    // Nobody knows whether that is so where filters are, and none decides.
    let w = World::answering(|options| options.no_match = NoMatch::Block);
    let s = w.session();
    let watcher = s.callout(connect());
    s.add(asking(&watcher, Action::CalloutInspection));
    assert!(!w.connects());
    w.end();
}
