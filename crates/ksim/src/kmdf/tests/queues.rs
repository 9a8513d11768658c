//! Dispatching, stopping, draining and purging.

use wfp_schema::NtStatus;

use super::driver::{
    DEVICE, ECHO, FORWARD, HOLD, HOLD_CANCELABLE, MANUAL, Machine, PARALLEL, SEQUENTIAL, Setup,
    attributes, create_queue, evt_control, globals, log, out, queue_config, with,
};
use crate::access::Out;
use crate::kmdf::abi::{QueueConfig, status};
use crate::kmdf::object_api::WdfObjectDereferenceActual;
use crate::kmdf::queue_api::{
    WdfIoQueueFindRequest, WdfIoQueueGetState, WdfIoQueueReadyNotify,
    WdfIoQueueRetrieveFoundRequest, WdfIoQueueRetrieveNextRequest, WdfIoQueueStart,
};
use crate::kmdf::queue_end::{
    WdfIoQueueDrain, WdfIoQueuePurge, WdfIoQueuePurgeSynchronously, WdfIoQueueStop,
    WdfIoQueueStopSynchronously,
};
use crate::kmdf::request_api::{WdfRequestComplete, WdfRequestRequeue};
use crate::nt::io_security::Caller;
use crate::nt::io_user::FileHandle;

fn open(dispatch_type: u32) -> (Machine, FileHandle) {
    let machine = Machine::new(&Setup {
        dispatch_type,
        ..Setup::default()
    });
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.take_log();
    (machine, handle)
}

fn retrieve(queue: usize) -> Result<usize, NtStatus> {
    let mut request = 0;
    let status = WdfIoQueueRetrieveNextRequest(globals(), queue, out(&mut request));
    if status.is_success() {
        Ok(request)
    } else {
        Err(status)
    }
}

fn counts(queue: usize) -> (u32, u32) {
    let (mut waiting, mut presented) = (0, 0);
    WdfIoQueueGetState(globals(), queue, out(&mut waiting), out(&mut presented));
    (waiting, presented)
}

#[test]
fn a_sequential_queue_presents_one_request_at_a_time() {
    let (machine, handle) = open(SEQUENTIAL);
    let first = handle.ioctl_async(HOLD, b"1", 0).unwrap();
    let second = handle.ioctl_async(HOLD, b"2", 0).unwrap();
    assert_eq!(machine.held().len(), 1);
    assert_eq!(machine.run(|| counts(with(|state| state.queue))), (1, 1));
    machine.complete_oldest(NtStatus::SUCCESS);
    assert!(first.poll().is_some());
    assert!(second.poll().is_none());
    assert_eq!(machine.held().len(), 1);
    machine.complete_oldest(NtStatus::SUCCESS);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_parallel_queue_presents_all() {
    let (machine, handle) = open(PARALLEL);
    let _pending: Vec<_> = (0..3)
        .map(|_| handle.ioctl_async(HOLD, b"1", 0).unwrap())
        .collect();
    assert_eq!(machine.held().len(), 3);
    for _ in 0..3 {
        machine.complete_oldest(NtStatus::SUCCESS);
    }
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_manual_queue_gives_requests_in_order_when_asked() {
    let (machine, handle) = open(PARALLEL);
    let first = handle.ioctl_async(FORWARD, b"1", 0).unwrap();
    let second = handle.ioctl_async(FORWARD, b"2", 0).unwrap();
    machine.run(|| {
        let manual = with(|state| state.manual);
        assert_eq!(counts(manual), (2, 0));
        let request = retrieve(manual).unwrap();
        assert_eq!(counts(manual), (1, 1));
        // Back to the head, and out again.
        assert_eq!(WdfRequestRequeue(globals(), request), NtStatus::SUCCESS);
        assert_eq!(retrieve(manual), Ok(request));
        WdfRequestComplete(globals(), request, NtStatus::SUCCESS);
        let request = retrieve(manual).unwrap();
        assert_eq!(retrieve(manual), Err(NtStatus::NO_MORE_ENTRIES));
        with(|state| state.held.push(request));
    });
    assert!(first.poll().is_some());
    assert!(second.poll().is_none());
    machine.complete_oldest(NtStatus::SUCCESS);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_parallel_queue_is_not_retrieved_from() {
    let (machine, handle) = open(PARALLEL);
    assert_eq!(
        machine.run(|| retrieve(with(|state| state.queue))),
        Err(NtStatus::INVALID_DEVICE_STATE)
    );
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_request_is_found_without_being_taken() {
    let (machine, handle) = open(PARALLEL);
    let _first = handle.ioctl_async(FORWARD, b"1", 0).unwrap();
    let second = handle.ioctl_async(FORWARD, b"2", 0).unwrap();
    machine.run(|| {
        let (globals, manual) = with(|state| (state.globals, state.manual));
        let find = |after| {
            let mut found = 0;
            let status =
                WdfIoQueueFindRequest(globals, manual, after, 0, Out::null(), out(&mut found));
            (status, found)
        };
        let (status, first) = find(0);
        assert_eq!(status, NtStatus::SUCCESS);
        let (status, other) = find(first);
        assert_eq!(status, NtStatus::SUCCESS);
        assert_ne!(first, other);
        assert_eq!(find(other).0, NtStatus::NO_MORE_ENTRIES);
        let mut taken = 0;
        assert_eq!(
            WdfIoQueueRetrieveFoundRequest(globals, manual, other, out(&mut taken)),
            NtStatus::SUCCESS
        );
        assert_eq!(taken, other);
        WdfObjectDereferenceActual(globals, first, 0, 0, 0);
        WdfObjectDereferenceActual(globals, other, 0, 0, 0);
        WdfRequestComplete(globals, taken, NtStatus::SUCCESS);
    });
    assert!(second.poll().is_some());
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_stopped_queue_keeps_requests_until_it_is_started() {
    let (machine, handle) = open(PARALLEL);
    machine.run(|| WdfIoQueueStop(globals(), with(|state| state.queue), None, 0));
    let pending = handle.ioctl_async(ECHO, b"ab", 2).unwrap();
    assert!(pending.poll().is_none());
    machine.run(|| WdfIoQueueStart(globals(), with(|state| state.queue)));
    assert_eq!(pending.poll().unwrap().output, b"ba");
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_purged_queue_refuses_requests_and_ends_those_it_has() {
    let (machine, handle) = open(PARALLEL);
    let waiting = handle.ioctl_async(FORWARD, b"1", 0).unwrap();
    let cancelable = handle.ioctl_async(HOLD_CANCELABLE, b"2", 0).unwrap();
    machine.run(|| {
        let (globals, queue, manual) = with(|state| (state.globals, state.queue, state.manual));
        WdfIoQueuePurgeSynchronously(globals, manual);
        WdfIoQueuePurgeSynchronously(globals, queue);
    });
    assert_eq!(waiting.poll().unwrap().status, NtStatus::CANCELLED);
    assert_eq!(cancelable.poll().unwrap().status, NtStatus::CANCELLED);
    assert_eq!(machine.take_log(), ["cancel"]);
    assert_eq!(
        handle.ioctl(ECHO, b"a", 1).unwrap().status,
        NtStatus::INVALID_DEVICE_STATE
    );
    machine.run(|| WdfIoQueueStart(globals(), with(|state| state.queue)));
    assert_eq!(
        handle.ioctl(FORWARD, b"a", 1).unwrap().status,
        NtStatus::DEVICE_BUSY,
        "the manual queue is still purged"
    );
    drop(handle);
    machine.end_clean();
}

#[test]
fn purging_waits_for_the_driver_and_tells_it() {
    extern "win64" fn purged(_queue: usize, context: usize) {
        log(format!("purged {context}"));
    }
    let (machine, handle) = open(PARALLEL);
    let _pending = handle.ioctl_async(HOLD, b"1", 0).unwrap();
    machine.run(|| WdfIoQueuePurge(globals(), with(|state| state.queue), Some(purged), 7));
    assert_eq!(machine.take_log(), Vec::<String>::new());
    machine.complete_oldest(NtStatus::SUCCESS);
    assert_eq!(machine.take_log(), ["purged 7"]);
    drop(handle);
    machine.end_clean();
}

#[test]
fn draining_lets_what_waits_through() {
    extern "win64" fn drained(_queue: usize, _context: usize) {
        log("drained");
    }
    let (machine, handle) = open(SEQUENTIAL);
    let _first = handle.ioctl_async(HOLD, b"1", 0).unwrap();
    let second = handle.ioctl_async(ECHO, b"ab", 2).unwrap();
    machine.run(|| WdfIoQueueDrain(globals(), with(|state| state.queue), Some(drained), 0));
    assert_eq!(
        handle.ioctl(ECHO, b"a", 1).unwrap().status,
        NtStatus::INVALID_DEVICE_STATE
    );
    machine.complete_oldest(NtStatus::SUCCESS);
    assert_eq!(second.poll().unwrap().status, NtStatus::SUCCESS);
    assert_eq!(machine.take_log(), ["drained"]);
    drop(handle);
    machine.end_clean();
}

#[test]
fn waiting_for_a_request_that_nobody_completes_stops_the_machine() {
    let (machine, handle) = open(PARALLEL);
    let _pending = handle.ioctl_async(HOLD, b"1", 0).unwrap();
    let bugcheck = machine
        .try_run(|| WdfIoQueueStopSynchronously(globals(), with(|state| state.queue)))
        .unwrap_err();
    assert!(
        bugcheck.message.contains("WdfIoQueueStopSynchronously"),
        "{}",
        bugcheck.message
    );
}

#[test]
fn a_manual_queue_tells_when_it_is_no_longer_empty() {
    extern "win64" fn ready(queue: usize, _context: usize) {
        log("ready");
        while let Ok(request) = retrieve(queue) {
            WdfRequestComplete(globals(), request, NtStatus::SUCCESS);
        }
    }
    let (machine, handle) = open(PARALLEL);
    let status = machine
        .run(|| WdfIoQueueReadyNotify(globals(), with(|state| state.manual), Some(ready), 0));
    assert_eq!(status, NtStatus::SUCCESS);
    for _ in 0..2 {
        assert_eq!(
            handle.ioctl(FORWARD, b"1", 0).unwrap().status,
            NtStatus::SUCCESS
        );
    }
    assert_eq!(machine.take_log(), ["ready", "ready"]);
    let again = machine
        .run(|| WdfIoQueueReadyNotify(globals(), with(|state| state.manual), Some(ready), 0));
    assert_eq!(again, NtStatus::INVALID_DEVICE_REQUEST);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_queue_needs_callbacks_that_fit() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let create = |config| create_queue(config, &attributes());
        assert_eq!(create(queue_config(PARALLEL)), Err(status::NO_CALLBACK));
        let config = QueueConfig {
            io_device_control: Some(evt_control),
            ..queue_config(MANUAL)
        };
        assert_eq!(create(config), Err(NtStatus::INVALID_PARAMETER));
        let config = QueueConfig {
            size: 84,
            ..queue_config(MANUAL)
        };
        assert_eq!(create(config), Err(NtStatus::INFO_LENGTH_MISMATCH));
        let config = QueueConfig {
            default_queue: 1,
            ..queue_config(MANUAL)
        };
        assert_eq!(
            create(config),
            Err(NtStatus::UNSUCCESSFUL),
            "there is a default queue"
        );
    });
    machine.end_clean();
}

#[test]
fn reads_and_writes_of_nothing_do_not_reach_the_driver() {
    extern "win64" fn evt_default(_queue: usize, request: usize) {
        log("default");
        WdfRequestComplete(globals(), request, NtStatus::SUCCESS);
    }
    let machine = Machine::bare();
    machine.run(|| {
        assert_eq!(
            super::driver::create_device("Test", &Setup::default()),
            NtStatus::SUCCESS
        );
        let config = QueueConfig {
            default_queue: 1,
            io_default: Some(evt_default),
            ..queue_config(PARALLEL)
        };
        create_queue(config, &attributes()).unwrap();
        crate::kmdf::device::WdfControlFinishInitializing(globals(), with(|state| state.device));
    });
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.take_log();
    assert_eq!(handle.read(0).unwrap().status, NtStatus::SUCCESS);
    assert_eq!(handle.write(b"").unwrap().status, NtStatus::SUCCESS);
    assert_eq!(machine.take_log(), Vec::<String>::new());
    assert_eq!(handle.write(b"x").unwrap().status, NtStatus::SUCCESS);
    assert_eq!(machine.take_log(), ["default"]);
    drop(handle);
    machine.end_clean();
}
