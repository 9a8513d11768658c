//! The base filtering engine coming and going.

use wfp_schema::{BfeState, NtStatus};

use super::support::{DEVICE, OK, heard, into, open, status};
use crate::Kernel;
use crate::access::Out;
use crate::fwp::Config;
use crate::fwp::bfe::{
    FwpmBfeStateGet0, FwpmBfeStateSubscribeChanges0, FwpmBfeStateUnsubscribeChanges0,
};
use crate::fwp::session::{FwpmEngineClose0, FwpmTransactionBegin0};
use crate::verifier::ARGUMENT;

extern "win64" fn changed(context: usize, state: u32) {
    assert_eq!(context, 0xc0de);
    heard(|heard| heard.states.push(state));
}

fn kernel(bfe_running: bool) -> Kernel {
    let fwp = Config {
        bfe_running,
        ..Config::default()
    };
    Kernel::new(&crate::Config {
        fwp,
        ..crate::Config::default()
    })
    .expect("a kernel")
}

#[test]
fn subscribers_hear_of_a_start_and_of_a_stop() {
    let kernel = kernel(false);
    let handle = kernel
        .on(0, |_| {
            let mut handle = 0;
            assert_eq!(
                FwpmBfeStateSubscribeChanges0(DEVICE, Some(changed), 0xc0de, into(&mut handle)),
                OK
            );
            assert_eq!(FwpmBfeStateGet0(), BfeState::Stopped.value());
            let mut engine = 0;
            assert_eq!(
                status(open(&mut engine)),
                kernel.filter_engine().options().open_without_bfe
            );
            handle
        })
        .expect("no bug check");
    kernel.bfe().start();
    kernel.on(0, |_| ()).expect("no bug check");
    assert_eq!(kernel.bfe().state(), BfeState::Running);
    let engine = kernel
        .on(0, |_| {
            // BFE-02
            let states = heard(|heard| std::mem::take(&mut heard.states));
            assert_eq!(
                states,
                [BfeState::StartPending.value(), BfeState::Running.value()]
            );
            let mut engine = 0;
            assert_eq!(open(&mut engine), OK);
            engine
        })
        .expect("no bug check");
    kernel.bfe().stop();
    kernel
        .on(0, |_| ())
        .and_then(|()| {
            kernel.on(0, |_| {
                let states = heard(|heard| std::mem::take(&mut heard.states));
                assert_eq!(
                    states,
                    [BfeState::StopPending.value(), BfeState::Stopped.value()]
                );
                assert_eq!(
                    status(FwpmTransactionBegin0(engine, 0)),
                    NtStatus::FWP_SESSION_ABORTED
                );
                assert_eq!(
                    FwpmEngineClose0(engine),
                    OK,
                    "an aborted session is closed all the same"
                );
                assert_eq!(FwpmBfeStateUnsubscribeChanges0(handle), OK);
            })
        })
        .expect("no bug check");
    assert!(
        kernel.verifier().report().is_clean(),
        "{:#?}",
        kernel.verifier().report()
    );
}

#[test]
fn the_state_is_asked_after_subscribing() {
    let kernel = kernel(true);
    kernel
        .on(0, |_| {
            assert_eq!(FwpmBfeStateGet0(), BfeState::Running.value());
        })
        .expect("no bug check");
    let report = kernel.verifier().report();
    assert_eq!(report.violations.len(), 1, "{report:#?}");
    assert_eq!(report.violations[0].rule, ARGUMENT.name);
}

#[test]
fn a_subscription_that_is_left_is_a_leak() {
    let kernel = kernel(true);
    kernel
        .on(0, |_| {
            let mut handle = 0;
            assert_eq!(
                FwpmBfeStateSubscribeChanges0(DEVICE, Some(changed), 0xc0de, into(&mut handle)),
                OK
            );
            let nothing = FwpmBfeStateSubscribeChanges0(DEVICE, None, 0, Out::null());
            assert_eq!(status(nothing), NtStatus::FWP_NULL_POINTER);
        })
        .expect("no bug check");
    let leaks = kernel.verifier().leaks();
    assert_eq!(leaks.len(), 1, "{leaks:#?}");
    assert_eq!(leaks[0].kind, "BFE state subscription");
}
