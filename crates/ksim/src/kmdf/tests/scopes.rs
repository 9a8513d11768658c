//! Synchronization scopes and execution levels.

use wfp_schema::NtStatus;

use super::driver::{
    DEVICE, Machine, PARALLEL, SEQUENTIAL, Setup, attributes, create_device, create_queue, globals,
    log, queue_config, with,
};
use crate::Cpu;
use crate::kmdf::abi::{ObjectAttributes, QueueConfig};
use crate::kmdf::device::WdfControlFinishInitializing;
use crate::kmdf::request_api::WdfRequestComplete;
use crate::nt::io_security::Caller;

const INHERITED: u32 = 1;
const PASSIVE_LEVEL: u32 = 2;
const SCOPE_QUEUE: u32 = 3;
const SCOPE_NONE: u32 = 4;

extern "win64" fn evt_control(
    _queue: usize,
    request: usize,
    _output: usize,
    _input: usize,
    code: u32,
) {
    log(format!(
        "begin {code} at {}",
        Cpu::current().unwrap().irql()
    ));
    with(|state| state.held.push(request));
    if code == 1 {
        // Completing the request before lets the queue go on, but not into this callback.
        let first = with(|state| state.held.remove(0));
        WdfRequestComplete(globals(), first, NtStatus::SUCCESS);
    }
    log(format!("end {code}"));
}

fn machine(scope: u32, level: u32, dispatch_type: u32) -> Machine {
    let machine = Machine::bare();
    machine.run(|| {
        assert_eq!(create_device("Test", &Setup::default()), NtStatus::SUCCESS);
        let config = QueueConfig {
            default_queue: 1,
            io_device_control: Some(evt_control),
            ..queue_config(dispatch_type)
        };
        let attributes = ObjectAttributes {
            synchronization_scope: scope,
            execution_level: level,
            ..attributes()
        };
        let queue = create_queue(config, &attributes).unwrap();
        with(|state| state.queue = queue);
        WdfControlFinishInitializing(globals(), with(|state| state.device));
    });
    machine
}

#[test]
fn without_a_scope_callbacks_come_at_the_callers_level() {
    let machine = machine(SCOPE_NONE, INHERITED, PARALLEL);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.take_log();
    let _pending = handle.ioctl_async(0, b"", 0).unwrap();
    assert_eq!(machine.take_log(), ["begin 0 at 0", "end 0"]);
    machine.complete_oldest(NtStatus::SUCCESS);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_queue_scope_raises_callbacks_to_dispatch_level() {
    let machine = machine(SCOPE_QUEUE, INHERITED, PARALLEL);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.take_log();
    let _pending = handle.ioctl_async(0, b"", 0).unwrap();
    assert_eq!(machine.take_log(), ["begin 0 at 2", "end 0"]);
    machine.complete_oldest(NtStatus::SUCCESS);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_passive_queue_scope_excludes_without_raising() {
    let machine = machine(SCOPE_QUEUE, PASSIVE_LEVEL, SEQUENTIAL);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.take_log();
    let _first = handle.ioctl_async(1, b"", 0).unwrap();
    assert_eq!(machine.take_log(), ["begin 1 at 0", "end 1"]);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_request_that_may_go_on_waits_for_the_callback_to_end() {
    let machine = machine(SCOPE_QUEUE, INHERITED, SEQUENTIAL);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.take_log();
    // The first is kept; two wait behind it. The second's callback completes itself, which lets the third go on.
    let _pending: Vec<_> = [4, 1, 5]
        .into_iter()
        .map(|code| handle.ioctl_async(code, b"", 0).unwrap())
        .collect();
    machine.complete_oldest(NtStatus::SUCCESS);
    assert_eq!(
        machine.take_log(),
        [
            "begin 4 at 2",
            "end 4",
            "begin 1 at 2",
            "end 1",
            "begin 5 at 2",
            "end 5"
        ]
    );
    machine.complete_oldest(NtStatus::SUCCESS);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_passive_queue_defers_what_arrives_at_dispatch_level() {
    let machine = machine(INHERITED, PASSIVE_LEVEL, SEQUENTIAL);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.take_log();
    let _pending: Vec<_> = [4, 5]
        .into_iter()
        .map(|code| handle.ioctl_async(code, b"", 0).unwrap())
        .collect();
    machine.run(|| {
        let first = with(|state| state.held.remove(0));
        let cpu = Cpu::current().unwrap();
        cpu.set_irql(2);
        WdfRequestComplete(globals(), first, NtStatus::SUCCESS);
        log("completed at 2");
        cpu.set_irql(0);
    });
    assert_eq!(
        machine.take_log(),
        [
            "begin 4 at 0",
            "end 4",
            "completed at 2",
            "begin 5 at 0",
            "end 5"
        ]
    );
    machine.complete_oldest(NtStatus::SUCCESS);
    drop(handle);
    machine.end_clean();
}
