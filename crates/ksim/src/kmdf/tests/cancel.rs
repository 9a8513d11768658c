//! Cancellation, in the driver's hands and on queues.

use wfp_schema::NtStatus;

use super::driver::{
    DEVICE, FORWARD, HOLD, HOLD_CANCELABLE, Machine, SEQUENTIAL, Setup, evt_cancel, globals, log,
    out, with,
};
use crate::kmdf::queue_api::WdfIoQueueRetrieveNextRequest;
use crate::kmdf::request_api::{
    WdfRequestComplete, WdfRequestIsCanceled, WdfRequestMarkCancelable, WdfRequestMarkCancelableEx,
    WdfRequestUnmarkCancelable,
};
use crate::nt::io_security::Caller;
use crate::nt::io_user::FileHandle;

extern "win64" fn evt_canceled_on_queue(_queue: usize, request: usize) {
    log("canceled on queue");
    WdfRequestComplete(globals(), request, NtStatus::CANCELLED);
}

fn open(setup: &Setup) -> (Machine, FileHandle) {
    let machine = Machine::new(setup);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.take_log();
    (machine, handle)
}

#[test]
fn a_cancelable_request_is_cancelled_through_its_routine() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD_CANCELABLE, b"1", 0).unwrap();
    pending.cancel().unwrap();
    assert_eq!(pending.poll().unwrap().status, NtStatus::CANCELLED);
    assert_eq!(machine.take_log(), ["cancel"]);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_request_that_is_not_cancelable_stays() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD, b"1", 0).unwrap();
    let request = machine.held()[0];
    assert_eq!(machine.run(|| WdfRequestIsCanceled(globals(), request)), 0);
    pending.cancel().unwrap();
    assert!(pending.poll().is_none());
    assert_eq!(machine.run(|| WdfRequestIsCanceled(globals(), request)), 1);
    machine.complete_oldest(NtStatus::SUCCESS);
    assert_eq!(
        pending.poll().unwrap().status,
        NtStatus::SUCCESS,
        "it was too late"
    );
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_cancelled_request_cannot_be_made_cancelable() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD, b"1", 0).unwrap();
    let request = machine.held()[0];
    pending.cancel().unwrap();
    let status = machine.run(|| WdfRequestMarkCancelableEx(globals(), request, Some(evt_cancel)));
    assert_eq!(status, NtStatus::CANCELLED);
    assert!(pending.poll().is_none(), "the driver completes it");
    // The older function calls the routine instead.
    machine.run(|| WdfRequestMarkCancelable(globals(), request, Some(evt_cancel)));
    assert_eq!(machine.take_log(), ["cancel"]);
    assert_eq!(pending.poll().unwrap().status, NtStatus::CANCELLED);
    drop(handle);
    machine.end_clean();
}

#[test]
fn an_unmarked_request_is_the_drivers() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD_CANCELABLE, b"1", 0).unwrap();
    let request = machine.held()[0];
    assert_eq!(
        machine.run(|| WdfRequestUnmarkCancelable(globals(), request)),
        NtStatus::SUCCESS
    );
    pending.cancel().unwrap();
    assert_eq!(machine.take_log(), Vec::<String>::new());
    machine.complete_oldest(NtStatus::SUCCESS);
    assert_eq!(pending.poll().unwrap().status, NtStatus::SUCCESS);
    drop(handle);
    machine.end_clean();
}

#[test]
fn unmarking_loses_the_race_against_the_cancel_routine() {
    extern "win64" fn evt_cancel_late(request: usize) {
        // What another thread of the driver would see now.
        let status = WdfRequestUnmarkCancelable(globals(), request);
        log(status.to_string());
        WdfRequestComplete(globals(), request, NtStatus::CANCELLED);
    }
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD, b"1", 0).unwrap();
    let request = machine.held()[0];
    let status =
        machine.run(|| WdfRequestMarkCancelableEx(globals(), request, Some(evt_cancel_late)));
    assert_eq!(status, NtStatus::SUCCESS);
    pending.cancel().unwrap();
    assert_eq!(machine.take_log(), [NtStatus::CANCELLED.to_string()]);
    assert_eq!(pending.poll().unwrap().status, NtStatus::CANCELLED);
    machine.run(|| with(|state| state.held.clear()));
    drop(handle);
    machine.end_clean();
}

#[test]
fn completing_a_request_that_is_still_cancelable_is_a_violation() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD_CANCELABLE, b"1", 0).unwrap();
    machine.complete_oldest(NtStatus::SUCCESS);
    assert!(pending.poll().is_some());
    assert_eq!(machine.broken_rules(), ["request-cancelable"]);
}

#[test]
fn a_request_that_the_driver_has_not_seen_is_cancelled_on_its_queue() {
    let setup = Setup {
        dispatch_type: SEQUENTIAL,
        canceled_on_queue: Some(evt_canceled_on_queue),
        ..Setup::default()
    };
    let (machine, handle) = open(&setup);
    let _first = handle.ioctl_async(HOLD, b"1", 0).unwrap();
    let second = handle.ioctl_async(HOLD, b"2", 0).unwrap();
    second.cancel().unwrap();
    assert_eq!(second.poll().unwrap().status, NtStatus::CANCELLED);
    assert_eq!(
        machine.take_log(),
        Vec::<String>::new(),
        "the driver never had it"
    );
    machine.complete_oldest(NtStatus::SUCCESS);
    assert_eq!(machine.held(), []);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_forwarded_request_is_given_back_when_it_is_cancelled() {
    let setup = Setup {
        canceled_on_queue: Some(evt_canceled_on_queue),
        ..Setup::default()
    };
    let (machine, handle) = open(&setup);
    let pending = handle.ioctl_async(FORWARD, b"1", 0).unwrap();
    pending.cancel().unwrap();
    assert_eq!(machine.take_log(), ["canceled on queue"]);
    assert_eq!(pending.poll().unwrap().status, NtStatus::CANCELLED);
    drop(handle);
    machine.end_clean();
}

#[test]
fn without_that_callback_the_framework_completes_it() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(FORWARD, b"1", 0).unwrap();
    pending.cancel().unwrap();
    assert_eq!(pending.poll().unwrap().status, NtStatus::CANCELLED);
    drop(handle);
    machine.end_clean();
}

#[test]
fn closing_a_handle_cancels_what_waits_for_it_only() {
    let (machine, handle) = open(&Setup::default());
    let other = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    let mine = handle.ioctl_async(FORWARD, b"1", 0).unwrap();
    let theirs = other.ioctl_async(FORWARD, b"2", 0).unwrap();
    handle.close().unwrap();
    assert_eq!(mine.poll().unwrap().status, NtStatus::CANCELLED);
    assert!(theirs.poll().is_none());
    machine.run(|| {
        let (globals, manual) = with(|state| (state.globals, state.manual));
        let mut request = 0;
        assert_eq!(
            WdfIoQueueRetrieveNextRequest(globals, manual, out(&mut request)),
            NtStatus::SUCCESS
        );
        WdfRequestComplete(globals, request, NtStatus::SUCCESS);
    });
    assert_eq!(theirs.poll().unwrap().status, NtStatus::SUCCESS);
    drop(other);
    machine.end_clean();
}

#[test]
fn the_end_of_a_process_cancels_its_requests() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD_CANCELABLE, b"1", 0).unwrap();
    drop(handle);
    assert_eq!(pending.poll().unwrap().status, NtStatus::CANCELLED);
    assert_eq!(machine.take_log(), ["cancel", "cleanup", "close"]);
    machine.end_clean();
}
