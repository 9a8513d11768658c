//! Plans: the filters that match, asked one by one.

use crate::world::*;
use wfp_engine::{Answer, Decision, Options, Plan, Request, Stage};
use wfp_schema::{Action, CalloutFlags, ClassifyOutFlags, LayerKind, Rights};

#[test]
fn a_plan_lists_matching_filters_in_order_and_asks_each_as_often_as_needed() {
    let w = World::new();
    let stream = layer(LayerKind::Stream);
    let (low, high) = (w.sublayer(5), w.sublayer(10));
    let editor = w.callout_at(stream, CalloutFlags::NONE);
    let watcher = w.callout_at(stream, CalloutFlags::NONE);
    let first = filter(Action::CalloutUnknown).asking(&editor).at(stream);
    let first = w.add(first.within(high).weighing(2));
    let rest = w.add(filter(Action::Block).at(stream).within(high).weighing(1));
    let watch = filter(Action::CalloutInspection).asking(&watcher);
    let watch = w.add(watch.at(stream).within(low));

    let mut plan = Plan::default();
    w.engine.plan(&Request::new(stream.id(), &[]), &mut plan);
    let order: Vec<_> = (0..plan.len())
        .map(|stage| plan.filter(stage).unwrap().id())
        .collect();
    assert_eq!(order, [first, rest, watch]);
    assert_eq!(plan.next_sublayer(0), 2);
    assert_eq!(plan.next_sublayer(2), 3);
    assert_eq!(plan.callout(0), Some(editor.id));

    let flags = ClassifyOutFlags::NO_MORE_DATA;
    for _ in 0..2 {
        let (stage, out) = w.engine.ask_stage(&plan, 0, None, flags, |call, out| {
            assert_eq!(call.callout.id(), editor.id);
            assert_eq!((out.rights, out.flags), (Rights::ACTION_WRITE, flags));
            answer(out, Action::Permit);
        });
        assert_eq!(stage, Stage::Called(Answer::Decision(Decision::Permit)));
        assert_eq!(out.unwrap().action, Action::Permit.value());
    }
    let (stage, _) = w.engine.ask_stage(&plan, 1, None, flags, no_call);
    assert_eq!(stage, Stage::Static(Decision::Block));

    w.engine.unregister_by_id(editor.id).unwrap();
    w.engine.unregister_by_id(watcher.id).unwrap();
    let (stage, _) = w.engine.ask_stage(&plan, 0, None, flags, no_call);
    assert_eq!(stage, Stage::Static(Decision::Block));
    let (stage, _) = w.engine.ask_stage(&plan, 2, None, flags, no_call);
    assert_eq!(stage, Stage::Skipped);
}

#[test]
fn a_deleted_filter_is_skipped_by_an_old_plan() {
    let w = World::new();
    let stream = layer(LayerKind::Stream);
    let callout = w.callout_at(stream, CalloutFlags::NONE);
    let id = w.add(filter(Action::CalloutUnknown).asking(&callout).at(stream));
    let mut plan = Plan::default();
    let request = Request::new(stream.id(), &[]);
    w.engine.plan(&request, &mut plan);
    w.engine.delete_filter(w.session, id).unwrap();
    let flags = ClassifyOutFlags::NONE;
    let (stage, _) = w.engine.ask_stage(&plan, 0, None, flags, no_call);
    assert_eq!(stage, Stage::Skipped);
    w.engine.plan(&request, &mut plan);
    assert!(plan.is_empty());
}

#[test]
fn str_06_inspecting_callouts_do_not_drop_connections_and_terminating_ones_may() {
    for terminating_drops_connection in [true, false] {
        let w = World::with(Options {
            terminating_drops_connection,
            ..Options::default()
        });
        let stream = layer(LayerKind::Stream);
        let callout = w.callout_at(stream, CalloutFlags::NONE);
        for (weight, action) in [
            (3, Action::CalloutUnknown),
            (2, Action::CalloutTerminating),
            (1, Action::CalloutInspection),
        ] {
            w.add(filter(action).asking(&callout).at(stream).weighing(weight));
        }
        w.add(filter(Action::Block).at(stream).weighing(0));
        let mut plan = Plan::default();
        w.engine.plan(&Request::new(stream.id(), &[]), &mut plan);
        let may_drop: Vec<_> = (0..5)
            .map(|stage| w.engine.may_drop_connection(&plan, stage))
            .collect();
        let expected = [true, terminating_drops_connection, false, false, false];
        assert_eq!(may_drop, expected);
    }
}
