//! Flow contexts, registering and notify functions. Names of conformance rules are in parentheses.

use std::cell::Cell;
use std::rc::Rc;

use wfp_schema::{Action, CalloutFlags, Guid, LayerKind, NotifyType, NtStatus};

use super::support::{
    DEVICE, OK, Shown, absorb, at, behave, block, heard, into, registration, run, run_clean,
    status, v4,
};
use crate::access::{In, Out};
use crate::fwp::Config;
use crate::fwp::callout::{
    FwpsCalloutRegister2, FwpsCalloutUnregisterById0, FwpsCalloutUnregisterByKey0,
};
use crate::fwp::flow::{
    FwpsCompleteOperation0, FwpsFlowAbort0, FwpsFlowAssociateContext0, FwpsFlowRemoveContext0,
    FwpsPendOperation0,
};
use crate::fwp::layout::management::RawAction;
use crate::fwp::objects::filter::{FwpmFilterAdd0, FwpmFilterDeleteById0};
use crate::fwp::stack::StackRequest;
use crate::net::{Filtering, Outcome};

#[test]
fn a_context_reaches_the_classify_of_its_layer_only_and_is_deleted_once_with_its_flow() {
    run_clean(Config::default(), |driver| {
        let (datagram, transport) = (v4(LayerKind::DatagramData), v4(LayerKind::InboundTransport));
        let callout = driver.filtered(datagram, Action::CalloutInspection);
        driver.filtered(transport, Action::CalloutInspection);
        let flow = driver.flow();
        // FLW-05, FLW-03
        assert_eq!(
            FwpsFlowAssociateContext0(flow, datagram.get(), callout, 0x1234),
            OK
        );
        let again = FwpsFlowAssociateContext0(flow, datagram.get(), callout, 0x5678);
        assert_eq!(status(again), NtStatus::OBJECT_NAME_EXISTS);
        behave(move |classify| {
            let wanted = if classify.layer == datagram.get() {
                0x1234
            } else {
                0
            };
            assert_eq!(classify.flow_context, wanted);
            assert_eq!(classify.metadata.flow_handle, flow);
        });
        for layer in [datagram, transport] {
            driver.classify(
                layer,
                &[],
                Shown {
                    flow,
                    ..Shown::default()
                },
            );
        }
        // FLW-09
        driver.filtering.flow_ended(flow);
        assert_eq!(
            heard(|heard| heard.deleted.clone()),
            [(datagram.get(), callout, 0x1234)]
        );
        assert_eq!(
            status(FwpsFlowAssociateContext0(flow, datagram.get(), callout, 1)),
            NtStatus::NOT_FOUND
        );
    });
}

#[test]
fn associating_asks_for_a_context_a_flow_delete_function_and_the_callouts_own_layer() {
    run_clean(Config::default(), |driver| {
        let datagram = v4(LayerKind::DatagramData);
        let (callout, _) = driver.callout(datagram);
        let flow = driver.flow();
        // FLW-02
        assert_eq!(
            status(FwpsFlowAssociateContext0(flow, datagram.get(), callout, 0)),
            NtStatus::INVALID_PARAMETER
        );
        let stream = v4(LayerKind::Stream);
        assert_eq!(
            status(FwpsFlowAssociateContext0(flow, stream.get(), callout, 1)),
            NtStatus::INVALID_PARAMETER
        );
        // FLW-01
        let mut without = registration(Guid::from_u128(0xf1), CalloutFlags::NONE);
        without.flow_delete = 0;
        let mut id = 0;
        assert_eq!(
            FwpsCalloutRegister2(DEVICE, at(&without), into(&mut id)),
            OK
        );
        assert_eq!(
            status(FwpsFlowAssociateContext0(flow, datagram.get(), id, 1)),
            NtStatus::INVALID_PARAMETER
        );
        assert_eq!(FwpsCalloutUnregisterById0(id), OK);
        driver.filtering.flow_ended(flow);
        // FLW-10
        assert!(heard(|heard| heard.deleted.is_empty()));
    });
}

#[test]
fn removing_a_context_deletes_it_at_once_or_when_the_classify_with_it_returns() {
    run_clean(Config::default(), |driver| {
        let datagram = v4(LayerKind::DatagramData);
        let callout = driver.filtered(datagram, Action::CalloutInspection);
        let flow = driver.flow();
        // FLW-08
        let nothing = FwpsFlowRemoveContext0(flow, datagram.get(), callout);
        assert_eq!(status(nothing), NtStatus::UNSUCCESSFUL);
        // FLW-06
        assert_eq!(
            FwpsFlowAssociateContext0(flow, datagram.get(), callout, 1),
            OK
        );
        assert_eq!(FwpsFlowRemoveContext0(flow, datagram.get(), callout), OK);
        assert_eq!(heard(|heard| heard.deleted.len()), 1);
        // FLW-07
        assert_eq!(
            FwpsFlowAssociateContext0(flow, datagram.get(), callout, 2),
            OK
        );
        behave(move |_| {
            let removed = FwpsFlowRemoveContext0(flow, datagram.get(), callout);
            assert_eq!(status(removed), NtStatus::PENDING);
            assert_eq!(
                heard(|heard| heard.deleted.len()),
                1,
                "not while its classify runs"
            );
        });
        driver.classify(
            datagram,
            &[],
            Shown {
                flow,
                ..Shown::default()
            },
        );
        assert_eq!(
            heard(|heard| heard.deleted.clone())[1],
            (datagram.get(), callout, 2)
        );
        driver.filtering.flow_ended(flow);
    });
}

#[test]
fn a_callout_with_a_context_is_busy_and_is_gone_after_a_success() {
    run_clean(Config::default(), |driver| {
        let datagram = v4(LayerKind::DatagramData);
        let callout = driver.filtered(datagram, Action::CalloutInspection);
        let flow = driver.flow();
        assert_eq!(
            FwpsFlowAssociateContext0(flow, datagram.get(), callout, 1),
            OK
        );
        // CAL-14, CAL-15
        assert_eq!(
            status(FwpsCalloutUnregisterById0(callout)),
            NtStatus::DEVICE_BUSY
        );
        driver.filtering.flow_ended(flow);
        assert_eq!(FwpsCalloutUnregisterById0(callout), OK);
        // CAL-16
        assert_eq!(
            status(FwpsCalloutUnregisterById0(callout)),
            NtStatus::FWP_CALLOUT_NOT_FOUND
        );
        let key = Guid::from_u128(0xdead);
        assert_eq!(
            status(FwpsCalloutUnregisterByKey0(at(&key))),
            NtStatus::FWP_CALLOUT_NOT_FOUND
        );
        driver.forget_callouts();
    });
}

#[test]
fn a_key_is_registered_once_and_pointers_are_needed() {
    run_clean(
        Config {
            bfe_running: false,
            ..Config::default()
        },
        |_| {
            let key = Guid::from_u128(0xca1);
            let raw = registration(key, CalloutFlags::ALLOW_OFFLOAD);
            let mut id = 0;
            // CAL-02: the filter engine need not run.
            assert_eq!(FwpsCalloutRegister2(DEVICE, at(&raw), into(&mut id)), OK);
            assert_ne!(id, 0);
            // CAL-01
            assert_eq!(
                status(FwpsCalloutRegister2(DEVICE, at(&raw), Out::null())),
                NtStatus::FWP_ALREADY_EXISTS
            );
            assert_eq!(
                status(FwpsCalloutRegister2(0, at(&raw), Out::null())),
                NtStatus::FWP_NULL_POINTER
            );
            assert_eq!(
                status(FwpsCalloutRegister2(DEVICE, In::null(), Out::null())),
                NtStatus::FWP_NULL_POINTER
            );
            let mut none = registration(Guid::from_u128(0xca2), CalloutFlags::NONE);
            none.classify = 0;
            assert_eq!(
                status(FwpsCalloutRegister2(DEVICE, at(&none), Out::null())),
                NtStatus::FWP_NULL_POINTER
            );
            assert_eq!(FwpsCalloutUnregisterByKey0(at(&key)), OK);
        },
    );
}

#[test]
fn a_callout_that_is_left_registered_is_a_leak() {
    let report = run(Config::default(), |_| {
        let raw = registration(Guid::from_u128(0xca1), CalloutFlags::NONE);
        assert_eq!(FwpsCalloutRegister2(DEVICE, at(&raw), Out::null()), OK);
    });
    assert_eq!(report.leaks.len(), 1, "{report:#?}");
    assert_eq!(
        (report.leaks[0].kind, report.leaks[0].count),
        ("callout", 1)
    );
}

#[test]
fn a_callout_that_wants_its_flows_only_is_not_asked_about_others() {
    run_clean(Config::default(), |driver| {
        // CAL-18
        let datagram = v4(LayerKind::DatagramData);
        let (callout, key) = driver.callout_with(datagram, CalloutFlags::CONDITIONAL_ON_FLOW);
        let mut filter = driver.raw_filter(datagram);
        filter.action = RawAction {
            kind: Action::CalloutUnknown.value(),
            key,
        };
        assert_eq!(
            FwpmFilterAdd0(driver.engine, at(&filter), In::null(), Out::null()),
            OK
        );
        behave(block);
        let flow = driver.flow();
        let shown = Shown {
            flow,
            ..Shown::default()
        };
        assert_eq!(driver.classify(datagram, &[], shown), Outcome::Permit);
        assert_eq!(
            FwpsFlowAssociateContext0(flow, datagram.get(), callout, 1),
            OK
        );
        assert_eq!(driver.classify(datagram, &[], shown), Outcome::Block);
        driver.filtering.flow_ended(flow);
    });
}

#[test]
fn notify_functions_hear_of_filters_and_may_change_their_context() {
    run_clean(Config::default(), |driver| {
        let datagram = v4(LayerKind::DatagramData);
        let (_, key) = driver.callout(datagram);
        let mut filter = driver.raw_filter(datagram);
        filter.key = Guid::from_u128(0xf1);
        filter.action = RawAction {
            kind: Action::CalloutUnknown.value(),
            key,
        };
        filter.context[0] = 5;
        heard(|heard| heard.filter_context = Some(6));
        let mut id = 0;
        assert_eq!(
            FwpmFilterAdd0(driver.engine, at(&filter), In::null(), into(&mut id)),
            OK
        );
        let add = NotifyType::AddFilter.value();
        assert_eq!(
            heard(|heard| heard.notified.clone()),
            [(add, Some(filter.key), 5)]
        );
        // CAL-11
        behave(|classify| {
            assert_eq!(classify.filter.context, 6);
            block(classify);
        });
        assert_eq!(
            driver.classify(datagram, &[], Shown::default()),
            Outcome::Block
        );
        assert_eq!(FwpmFilterDeleteById0(driver.engine, id), OK);
        // CAL-08
        assert_eq!(
            heard(|heard| heard.notified[1]),
            (NotifyType::DeleteFilter.value(), None, 6)
        );
        assert_eq!(
            driver.classify(datagram, &[], Shown::default()),
            Outcome::Permit
        );
        // CAL-09
        heard(|heard| heard.notify_status = NtStatus::ACCESS_DENIED.to_i32());
        let refused = FwpmFilterAdd0(driver.engine, at(&filter), In::null(), Out::null());
        assert_eq!(status(refused), NtStatus::FWP_CALLOUT_NOTIFICATION_FAILED);
        heard(|heard| heard.notify_status = OK);
    });
}

#[test]
fn a_pended_connect_waits_for_its_completion() {
    run_clean(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        driver.filtered(connect, Action::CalloutUnknown);
        let pended = Rc::new(Cell::new(0));
        let slot = Rc::clone(&pended);
        behave(move |classify| {
            let mut context = 0;
            assert_eq!(
                FwpsPendOperation0(classify.metadata.completion_handle, into(&mut context)),
                OK
            );
            slot.set(context);
            absorb(classify);
        });
        let shown = Shown {
            completion: 0x77,
            ..Shown::default()
        };
        assert_eq!(driver.classify(connect, &[], shown), Outcome::Pend);
        FwpsCompleteOperation0(pended.get(), Out::null());
        let requests: Vec<_> = driver.cpu.machine().take_stack_requests().into();
        assert_eq!(
            requests,
            [StackRequest::Complete {
                completion_handle: 0x77
            }]
        );
    });
}

#[test]
fn an_operation_that_is_never_completed_is_a_leak() {
    let report = run(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        driver.filtered(connect, Action::CalloutUnknown);
        behave(|classify| {
            let mut context = 0;
            assert_eq!(
                FwpsPendOperation0(classify.metadata.completion_handle, into(&mut context)),
                OK
            );
            absorb(classify);
        });
        driver.classify(
            connect,
            &[],
            Shown {
                completion: 0x77,
                ..Shown::default()
            },
        );
    });
    assert_eq!(report.leaks.len(), 1, "{report:#?}");
    assert_eq!(report.leaks[0].kind, "pended operation");
    assert!(report.violations.is_empty(), "{report:#?}");
}

#[test]
fn an_abort_is_asked_of_the_stack() {
    run_clean(Config::default(), |driver| {
        let flow = driver.flow();
        assert_eq!(FwpsFlowAbort0(flow), OK);
        assert_eq!(
            driver.cpu.machine().take_stack_requests(),
            [StackRequest::AbortFlow { flow_handle: flow }]
        );
        driver.filtering.flow_ended(flow);
        assert_eq!(status(FwpsFlowAbort0(flow)), NtStatus::NOT_FOUND);
    });
}
