//! Classifies that are decided later: `FwpsPendClassify0` and `FwpsCompleteClassify0`.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use wfp_schema::{Action, LayerKind, NtStatus};

use super::support::{
    Classify, OK, Shown, absorb, at, behave, block, into, run, run_clean, status, v4,
};
use crate::access::{In, Out};
use crate::fwp::Config;
use crate::fwp::defer::{
    FwpsAcquireClassifyHandle0, FwpsAcquireWritableLayerDataPointer0, FwpsApplyModifiedLayerData0,
    FwpsCompleteClassify0, FwpsPendClassify0, FwpsReleaseClassifyHandle0,
};
use crate::fwp::flow::{FwpsCompleteOperation0, FwpsPendOperation0};
use crate::fwp::layout::kernel::RawClassifyOut;
use crate::fwp::layout::request::{RawConnectRequest, SockAddr};
use crate::fwp::stack::StackRequest;
use crate::net::{Completion, End, Outcome, Redirection, Request};
use crate::verifier::PEND_PROTOCOL;

fn out(action: Action) -> RawClassifyOut {
    RawClassifyOut {
        action: action.value(),
        out_context: 0,
        filter_id: 0,
        rights: 0,
        flags: 0,
        reserved: 0,
    }
}

/// Pends the classify; its handle, and what pending answered.
fn pend(classify: &mut Classify<'_>) -> (u64, i32) {
    let mut handle = 0;
    assert_eq!(
        FwpsAcquireClassifyHandle0(classify.context, 0, into(&mut handle)),
        OK
    );
    let pended = FwpsPendClassify0(handle, classify.filter.id, 0, into(classify.out));
    if pended == OK {
        block(classify);
    }
    (handle, pended)
}

fn connect() -> Redirection {
    let end = |last, port| End {
        address: Ipv4Addr::new(192, 0, 2, last).into(),
        port,
    };
    Redirection::new(Request::of(end(1, 50000), end(80, 443)))
}

#[test]
fn a_pended_closure_waits_for_its_completion() {
    for (decided, completion) in [
        (Some(Action::Permit), Completion::Permit),
        (Some(Action::Block), Completion::Block),
        (None, Completion::Again),
    ] {
        run_clean(Config::default(), move |driver| {
            let closure = v4(LayerKind::AleEndpointClosure);
            driver.filtered(closure, Action::CalloutUnknown);
            let kept = Rc::new(Cell::new(0));
            let slot = Rc::clone(&kept);
            behave(move |classify| {
                let (handle, pended) = pend(classify);
                assert_eq!(pended, OK);
                slot.set(handle);
            });
            let shown = Shown {
                completion: 0x99,
                ..Shown::default()
            };
            assert_eq!(driver.classify(closure, &[], shown), Outcome::Pend);
            let decision = decided.map(out);
            let given = decision.as_ref().map_or(In::null(), at);
            FwpsCompleteClassify0(kept.get(), 0, given);
            FwpsReleaseClassifyHandle0(kept.get());
            let asked: Vec<_> = driver.cpu.machine().take_stack_requests().into();
            let expected = StackRequest::CompleteClassify {
                pend_handle: 0x99,
                completion,
                changes: Vec::new(),
            };
            assert_eq!(asked, [expected]);
        });
    }
}

#[test]
fn a_pended_redirection_is_changed_later() {
    run_clean(Config::default(), |driver| {
        let redirect = v4(LayerKind::AleConnectRedirect);
        driver.filtered(redirect, Action::CalloutUnknown);
        let kept = Rc::new(Cell::new((0, 0)));
        let slot = Rc::clone(&kept);
        behave(move |classify| slot.set((pend(classify).0, classify.filter.id)));
        let mut redirection = connect();
        assert_eq!(
            driver.redirect(redirect, &mut redirection, 0x42),
            Outcome::Pend
        );
        assert!(!redirection.is_redirected());

        let (handle, filter) = kept.get();
        let (mut data, mut decision) = (Out::<u8>::null(), out(Action::Permit));
        let acquired = FwpsAcquireWritableLayerDataPointer0(
            handle,
            filter,
            0,
            into(&mut data),
            into(&mut decision),
        );
        assert_eq!(acquired, OK);
        let typed: Out<RawConnectRequest> = data.offset(0);
        let mut raw = typed.get().expect("layer data");
        let elsewhere = End {
            address: Ipv4Addr::new(198, 51, 100, 1).into(),
            port: 1,
        };
        raw.remote = SockAddr::of(elsewhere);
        typed.set(raw);
        FwpsApplyModifiedLayerData0(handle, data, 0);
        decision.action = Action::Permit.value();
        FwpsCompleteClassify0(handle, 0, at(&decision));
        FwpsReleaseClassifyHandle0(handle);
        let asked = driver.cpu.machine().take_stack_requests();
        let Some(StackRequest::CompleteClassify {
            pend_handle: 0x42,
            completion,
            changes,
        }) = asked.front()
        else {
            panic!("{asked:?}");
        };
        assert_eq!(*completion, Completion::Permit);
        assert_eq!(
            changes
                .iter()
                .map(|version| version.remote)
                .collect::<Vec<_>>(),
            [elsewhere]
        );
    });
}

#[test]
fn ale_06_a_classify_is_pended_only_where_the_layer_has_it() {
    run_clean(Config::default(), |driver| {
        for (kind, pend_handle) in [
            (LayerKind::OutboundTransport, 0),
            (LayerKind::AleAuthConnect, 5),
            (LayerKind::AleEndpointClosure, 0),
        ] {
            driver.filtered(v4(kind), Action::CalloutUnknown);
            behave(|classify| {
                let (handle, pended) = pend(classify);
                assert_eq!(status(pended), NtStatus::FWP_CANNOT_PEND);
                FwpsReleaseClassifyHandle0(handle);
                classify.out.action = Action::Permit.value();
            });
            let shown = Shown {
                completion: pend_handle,
                ..Shown::default()
            };
            assert_eq!(driver.classify(v4(kind), &[], shown), Outcome::Permit);
        }
    });
}

#[test]
fn completing_twice_and_never_are_found() {
    let report = run(Config::default(), |driver| {
        let closure = v4(LayerKind::AleEndpointClosure);
        driver.filtered(closure, Action::CalloutUnknown);
        let kept = Rc::new(Cell::new(0));
        let slot = Rc::clone(&kept);
        behave(move |classify| slot.set(pend(classify).0));
        let shown = Shown {
            completion: 0x99,
            ..Shown::default()
        };
        driver.classify(closure, &[], shown);
        let decision = out(Action::Permit);
        FwpsCompleteClassify0(kept.get(), 0, at(&decision));
        FwpsCompleteClassify0(kept.get(), 0, at(&decision));
        FwpsReleaseClassifyHandle0(kept.get());
        // This one is left.
        driver.classify(closure, &[], shown);
        FwpsReleaseClassifyHandle0(kept.get());
    });
    let rules: Vec<_> = report.violations.iter().map(|found| found.rule).collect();
    assert_eq!(rules, [PEND_PROTOCOL.name]);
    let kinds: Vec<_> = report.leaks.iter().map(|leak| leak.kind).collect();
    assert_eq!(kinds, ["pended classify"]);
}

#[test]
fn an_operation_is_completed_once() {
    let report = run(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        driver.filtered(connect, Action::CalloutUnknown);
        let kept = Rc::new(Cell::new(0));
        let slot = Rc::clone(&kept);
        behave(move |classify| {
            let mut context = 0;
            FwpsPendOperation0(classify.metadata.completion_handle, into(&mut context));
            slot.set(context);
            absorb(classify);
        });
        let shown = Shown {
            completion: 0x77,
            ..Shown::default()
        };
        driver.classify(connect, &[], shown);
        FwpsCompleteOperation0(kept.get(), Out::null());
        FwpsCompleteOperation0(kept.get(), Out::null());
        assert_eq!(driver.cpu.machine().take_stack_requests().len(), 1);
    });
    let rules: Vec<_> = report.violations.iter().map(|found| found.rule).collect();
    assert_eq!(rules, [PEND_PROTOCOL.name]);
    assert!(report.leaks.is_empty(), "{:?}", report.leaks);
}
