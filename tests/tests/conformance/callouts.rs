//! CAL rows: registration, absent callouts, notifications, unregistering.

use conformance_messages::operation;
use portcullis_tests::Net;
use wfp_engine::RunningCallout;
use wfp_schema::{Action, CalloutFlags, FilterFlags, LayerKind, NotifyType, NtStatus};

use crate::answers::{Doing as _, associate, block, permit, proceed, silent, with_slot};
use crate::traffic::datagram;
use crate::world::{OK, World, asking, connect, filter, unregister_by_id, v4};

#[test]
fn cal_01_a_key_is_registered_once() {
    let w = World::new();
    let registered = w.register(w.key());
    let again = w.register_with(registered.key, 0, 0);
    assert_eq!(again.err(), Some(NtStatus::FWP_ALREADY_EXISTS));
    w.end();
}

#[test]
fn cal_02_a_callout_registers_while_the_engine_is_stopped() {
    let w = World::without_bfe();
    assert!(w.register_with(w.key(), 0, 0).is_ok());
    w.end();
}

/// Whether the host may connect while a filter asks a callout that nobody has registered, above one that permits.
fn connects_without_callout(action: Action, flags: FilterFlags) -> bool {
    let w = World::new();
    let (s, key) = (w.session(), w.key());
    s.add_callout(key, connect());
    let absent = filter(connect(), action)
        .calling(key)
        .weight(2)
        .flags(flags.bits());
    s.add(absent);
    s.add(filter(connect(), Action::Permit).weight(1));
    let connects = w.connects();
    w.end();
    connects
}

#[test]
fn cal_03_an_absent_callout_that_decides_blocks() {
    assert!(!connects_without_callout(
        Action::CalloutTerminating,
        FilterFlags::NONE
    ));
}

#[test]
fn cal_04_an_absent_callout_that_may_decide_blocks() {
    assert!(!connects_without_callout(
        Action::CalloutUnknown,
        FilterFlags::NONE
    ));
}

#[test]
fn cal_05_an_absent_inspection_is_passed_over() {
    assert!(connects_without_callout(
        Action::CalloutInspection,
        FilterFlags::NONE
    ));

    let w = World::new();
    let (s, key) = (w.session(), w.key());
    s.add_callout(key, connect());
    s.add(
        filter(connect(), Action::CalloutInspection)
            .calling(key)
            .weight(2),
    );
    s.add(filter(connect(), Action::Block).weight(1));
    assert!(!w.connects(), "the next filter decides");
    w.end();
}

#[test]
fn cal_06_an_absent_callout_permits_if_the_filter_says_so() {
    let flag = FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED;
    assert!(connects_without_callout(Action::CalloutTerminating, flag));
}

#[test]
fn cal_07_nobody_is_told_of_filters_that_were_there_before() {
    let w = World::new();
    let (s, key) = (w.session(), w.key());
    s.add_callout(key, connect());
    s.add(filter(connect(), Action::CalloutTerminating).calling(key));
    let callout = w.register(key);
    assert!(w.notified(&callout).is_empty());
    w.end();
}

#[test]
fn cal_08_the_deletion_of_an_old_filter_is_told_without_its_key() {
    let w = World::new();
    let (s, key) = (w.session(), w.key());
    s.add_callout(key, connect());
    let old = s.add(filter(connect(), Action::CalloutTerminating).calling(key));
    let callout = w.register(key);
    assert_eq!(s.delete_filter(old), OK);
    let [deletion] = w.notified(&callout)[..] else {
        panic!("one notification");
    };
    assert_eq!(deletion.number, NotifyType::DeleteFilter.value());
    assert_eq!(deletion.keyed, 0, "filterKey is NULL");
    w.end();
}

#[test]
fn cal_09_a_callout_refuses_a_filter() {
    let w = World::new();
    let s = w.session();
    let callout = s.callout(connect());
    w.script_notify(&callout, NtStatus::INVALID_PARAMETER, OK, None);
    let key = w.key();
    let refused = s.try_add(asking(&callout, Action::CalloutTerminating).key(key));
    assert_eq!(refused, Err(NtStatus::FWP_CALLOUT_NOTIFICATION_FAILED));
    assert!(
        s.query(conformance_messages::object::FILTER, key, 0)
            .is_err()
    );
    assert!(w.connects());
    w.end();
}

#[test]
fn cal_10_a_callout_cannot_keep_a_filter() {
    let w = World::new();
    let s = w.session();
    let callout = s.callout(connect());
    w.script_notify(&callout, OK, NtStatus::UNSUCCESSFUL, None);
    let id = s.add(asking(&callout, Action::CalloutTerminating));
    assert_eq!(s.delete_filter(id), OK);
    assert!(!s.has_filter(id));
    w.end();
}

#[test]
fn cal_11_a_filters_context_is_the_callouts() {
    const CONTEXT: u64 = 0x1234_5678_9ABC_DEF0;
    let w = World::new();
    let s = w.session();
    let callout = s.callout(connect());
    w.script_notify(&callout, OK, OK, Some(CONTEXT));
    w.script(&callout, &[permit()]);
    let id = s.add(asking(&callout, Action::CalloutTerminating));
    w.connects();
    assert_eq!(s.delete_filter(id), OK);
    let [classify] = w.classifies(&callout)[..] else {
        panic!("one classify");
    };
    assert_eq!(classify.filter_context, CONTEXT);
    let [addition, deletion] = w.notified(&callout)[..] else {
        panic!("two notifications");
    };
    assert_eq!(addition.number, NotifyType::AddFilter.value());
    assert_eq!(deletion.number, NotifyType::DeleteFilter.value());
    assert_eq!(deletion.filter_context, CONTEXT);
    w.end();
}

#[test]
fn cal_12_an_addition_is_told_again_after_the_commit() {
    let w = World::new();
    let s = w.session();
    let callout = s.callout_with(connect(), CalloutFlags::ENABLE_COMMIT_ADD_NOTIFY.bits(), 0);
    let types = || {
        let notified = w.notified(&callout);
        notified
            .iter()
            .map(|record| record.number)
            .collect::<Vec<_>>()
    };
    assert_eq!(s.begin(), OK);
    s.add(asking(&callout, Action::CalloutTerminating));
    assert!(!types().contains(&NotifyType::AddFilterPostCommit.value()));
    assert_eq!(s.commit(), OK);
    assert_eq!(
        types().last(),
        Some(&NotifyType::AddFilterPostCommit.value())
    );
    w.end();
}

#[test]
fn cal_13_filters_outlive_their_callouts_registration() {
    let w = World::new();
    let s = w.session();
    let callout = s.callout(connect());
    w.script(&callout, &[permit()]);
    let id = s.add(asking(&callout, Action::CalloutTerminating));
    assert!(w.connects());
    assert_eq!(w.unregister(callout.id), OK);
    assert!(s.has_filter(id));
    assert!(!w.connects(), "as if the callout had never been registered");
    assert_eq!(w.classifies(&callout).len(), 1);
    w.end();
}

#[test]
fn cal_14_unregister_is_busy_while_a_flow_has_a_context() {
    let w = World::new();
    let s = w.session();
    let callout = s.flow_callout(v4(LayerKind::Stream));
    let established = s.callout(v4(LayerKind::AleFlowEstablished));
    let gives = proceed().doing(associate(&callout, callout.layer, 7));
    w.script(&established, &[gives]);
    s.add(asking(&established, Action::CalloutInspection));
    let mut connection = w.connection();
    assert_eq!(w.unregister(callout.id), NtStatus::DEVICE_BUSY);
    let reset = connection.reset();
    w.net().packet(&reset);
    w.end();
}

#[test]
fn cal_15_unregister_succeeds_once_the_contexts_are_removed() {
    let w = World::new();
    let s = w.session();
    let callout = s.flow_callout(v4(LayerKind::Stream));
    let established = s.callout(v4(LayerKind::AleFlowEstablished));
    let gives = proceed().doing(associate(&callout, callout.layer, 7));
    w.script(&established, &[gives]);
    s.add(asking(&established, Action::CalloutInspection));
    w.connection();
    let flow = w.classifies(&established)[0].flow;
    assert_eq!(w.unregister(callout.id), NtStatus::DEVICE_BUSY);
    assert_eq!(w.remove(flow, &callout), OK);
    assert_eq!(w.unregister(callout.id), OK);
    w.end();
}

#[test]
fn cal_16_what_is_not_registered_is_not_found() {
    let w = World::new();
    assert_eq!(w.unregister(12_345), NtStatus::FWP_CALLOUT_NOT_FOUND);
    assert_eq!(
        w.unregister_by_key(w.key()),
        NtStatus::FWP_CALLOUT_NOT_FOUND
    );
    w.end();
}

#[test]
fn cal_17_one_thread_unregisters_a_callout() {
    let w = World::with_processors(4);
    if w.options().unregister_while_running == RunningCallout::Busy {
        // Nobody waits in an unregistration then, so nobody can meet one.
        return w.end();
    }
    let s = w.session();
    let callout = s.callout(connect());
    w.script(&callout, &[permit().doing(with_slot(operation::HOLD, 0))]);
    s.add(asking(&callout, Action::CalloutTerminating));
    let packet = datagram(5000, 53);
    let (kernel, agent) = (&w.kernel, &w.agent);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || Net::new(kernel, 1).passes(packet));
        w.await_held();
        for processor in [2, 3] {
            let tell = tell.clone();
            scope.spawn(move || {
                let unregister = unregister_by_id(callout.id);
                let status = kernel.on(processor, |_| agent.status(&unregister));
                tell.send(status.expect("the machine runs"))
                    .expect("the test waits");
            });
        }
        // One of them waits for the classify; the other one is refused.
        assert_eq!(told.recv(), Ok(NtStatus::FWP_IN_USE));
        w.release();
        assert_eq!(told.recv(), Ok(OK));
    });
    w.end();
}

#[test]
fn cal_18_a_callout_for_flows_with_contexts_sees_no_other() {
    let w = World::new();
    let s = w.session();
    let flag = CalloutFlags::CONDITIONAL_ON_FLOW.bits();
    let layer = v4(LayerKind::Stream);
    let callout = s.callout_with(layer, flag, conformance_messages::option::FLOW_DELETE);
    w.script(&callout, &[block()]);
    s.add(asking(&callout, Action::CalloutUnknown));
    let established = s.callout(v4(LayerKind::AleFlowEstablished));
    let gives = proceed().doing(associate(&callout, layer, 7));
    w.script(&established, &[silent(), gives]);
    s.add(asking(&established, Action::CalloutInspection));
    let (mut without, mut with) = (w.connection(), w.connection());
    let says = without.client_says(b"hello");
    assert!(w.net().passes(says), "the callout is ignored");
    assert!(w.classifies(&callout).is_empty());
    let says = with.client_says(b"hello");
    assert!(!w.net().passes(says));
    assert_eq!(w.classifies(&callout)[0].flow_context, 7);
    w.end();
}
