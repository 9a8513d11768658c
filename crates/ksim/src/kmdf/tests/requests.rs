//! Requests: buffers of every transfer method, and how they end.

use wfp_schema::NtStatus;

use super::driver::{
    DEVICE, ECHO, HOLD, Machine, Setup, TOO_LONG, TWICE, attributes, code, create_queue, globals,
    log, out, queue_config, read, with, write,
};
use crate::kmdf::abi::{QueueConfig, RequestParameters, status};
use crate::kmdf::buffers::{
    WdfRequestProbeAndLockUserBufferForRead, WdfRequestProbeAndLockUserBufferForWrite,
    WdfRequestRetrieveInputBuffer, WdfRequestRetrieveOutputBuffer, WdfRequestRetrieveOutputMemory,
    WdfRequestRetrieveOutputWdmMdl, WdfRequestRetrieveUnsafeUserInputBuffer,
};
use crate::kmdf::device::{WdfControlFinishInitializing, WdfDeviceCreate, WdfDeviceEnqueueRequest};
use crate::kmdf::device_init::{
    WdfControlDeviceInitAllocate, WdfDeviceInitAssignName,
    WdfDeviceInitSetIoInCallerContextCallback,
};
use crate::kmdf::memory::WdfMemoryGetBuffer;
use crate::kmdf::object_api::{WdfObjectDereferenceActual, WdfObjectReferenceActual};
use crate::kmdf::request_api::{
    WdfRequestComplete, WdfRequestCompleteWithInformation, WdfRequestGetParameters,
    WdfRequestWdmGetIrp,
};
use crate::nt::io_security::Caller;
use crate::nt::io_user::FileHandle;

fn open(setup: &Setup) -> (Machine, FileHandle) {
    let machine = Machine::new(setup);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    (machine, handle)
}

#[test]
fn a_buffered_request_goes_in_and_out() {
    let (machine, handle) = open(&Setup::default());
    let result = handle.ioctl(ECHO, b"abc", 8).unwrap();
    assert_eq!(
        (result.status, result.information, result.output),
        (NtStatus::SUCCESS, 3, b"cba".to_vec())
    );
    drop(handle);
    machine.end_clean();
}

#[test]
fn buffers_that_are_absent_or_too_short_are_refused() {
    let (machine, handle) = open(&Setup::default());
    assert_eq!(
        handle.ioctl(ECHO, b"", 8).unwrap().status,
        NtStatus::BUFFER_TOO_SMALL
    );
    assert_eq!(
        handle.ioctl(ECHO, b"abc", 0).unwrap().status,
        NtStatus::BUFFER_TOO_SMALL
    );
    assert_eq!(
        handle.ioctl(ECHO, b"abc", 2).unwrap().status,
        NtStatus::BUFFER_TOO_SMALL
    );
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_device_without_a_queue_for_it_refuses_a_request() {
    let machine = Machine::bare();
    machine.run(|| {
        assert_eq!(
            super::driver::create_device("Test", &Setup::default()),
            NtStatus::SUCCESS
        );
        WdfControlFinishInitializing(globals(), with(|state| state.device));
    });
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    assert_eq!(
        handle.ioctl(ECHO, b"a", 1).unwrap().status,
        NtStatus::INVALID_DEVICE_REQUEST
    );
    assert_eq!(
        handle.read(1).unwrap().status,
        NtStatus::INVALID_DEVICE_REQUEST
    );
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_pending_request_is_completed_later() {
    let (machine, handle) = open(&Setup::default());
    let result = handle.ioctl(HOLD, b"abc", 8).unwrap();
    assert_eq!(result.status, NtStatus::PENDING);
    let pending = result.pending.unwrap();
    assert!(pending.poll().is_none());
    machine.complete_oldest(NtStatus::CANCELLED);
    assert_eq!(pending.wait().unwrap().status, NtStatus::CANCELLED);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_wait_that_nothing_can_end_stops_the_machine() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD, b"abc", 8).unwrap();
    assert!(pending.wait_for(1_000).unwrap().is_none());
    assert!(pending.wait().is_err());
    assert!(machine.kernel.crashed());
}

#[test]
fn completing_a_request_twice_stops_the_machine() {
    let (machine, handle) = open(&Setup::default());
    let bugcheck = handle.ioctl(TWICE, b"a", 1).unwrap_err();
    assert_eq!((bugcheck.code, bugcheck.parameters[0]), (0x10d, 5));
    assert!(
        bugcheck.message.contains("completed before"),
        "{}",
        bugcheck.message
    );
    assert_eq!(machine.broken_rules(), ["request-completion"]);
}

#[test]
fn a_reference_does_not_make_a_second_completion_right() {
    let (machine, handle) = open(&Setup::default());
    let _pending = handle.ioctl_async(HOLD, b"a", 1).unwrap();
    let request = machine.held()[0];
    let bugcheck = machine
        .try_run(|| {
            WdfObjectReferenceActual(globals(), request, 0, 0, 0);
            WdfRequestComplete(globals(), request, NtStatus::SUCCESS);
            WdfRequestComplete(globals(), request, NtStatus::SUCCESS);
        })
        .unwrap_err();
    assert_eq!(bugcheck.code, 0x44);
    assert_eq!(machine.broken_rules(), ["request-completion"]);
}

#[test]
fn more_information_than_there_is_room_for_stops_the_machine() {
    let (machine, handle) = open(&Setup::default());
    let bugcheck = handle.ioctl(TOO_LONG, b"a", 4).unwrap_err();
    assert_eq!(
        (
            bugcheck.code,
            bugcheck.parameters[0],
            bugcheck.parameters[1]
        ),
        (0x10d, 6, 4)
    );
    assert_eq!(machine.broken_rules(), ["request-completion"]);
}

#[test]
fn a_request_that_is_left_at_unload_is_reported() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD, b"a", 1).unwrap();
    machine.unbind();
    assert!(machine.broken_rules().contains(&"request-left"));
    assert!(pending.poll().is_none());
}

#[test]
fn a_write_behind_the_system_buffer_is_reported() {
    let (machine, handle) = open(&Setup::default());
    let _pending = handle.ioctl_async(HOLD, b"abc", 5).unwrap();
    let request = machine.held()[0];
    machine.run(|| {
        let (mut buffer, mut length) = (0, 0);
        WdfRequestRetrieveOutputBuffer(globals(), request, 1, out(&mut buffer), out(&mut length));
        write(buffer, &vec![0; length + 1]);
    });
    machine.complete_oldest(NtStatus::SUCCESS);
    assert_eq!(machine.broken_rules(), ["pool-overrun"]);
}

const IN_DIRECT: u32 = code(0x900, 1, 0);
const OUT_DIRECT: u32 = code(0x900, 2, 0);
const NEITHER: u32 = code(0x900, 3, 0);

/// `DataLength` bytes at the address that an `MDL` describes.
fn described_by(mdl: usize) -> (usize, usize) {
    let word = |offset, len| {
        let mut bytes = read(mdl + offset, len);
        bytes.resize(8, 0);
        usize::from_le_bytes(bytes.try_into().unwrap())
    };
    assert_eq!(word(32, 8) + word(44, 4), word(24, 8));
    (word(24, 8), word(40, 4))
}

extern "win64" fn evt_direct(
    _queue: usize,
    request: usize,
    output: usize,
    input: usize,
    code: u32,
) {
    let globals = globals();
    let (mut buffer, mut length) = (0, 0);
    let status =
        WdfRequestRetrieveInputBuffer(globals, request, input, out(&mut buffer), out(&mut length));
    log(format!("input {status}"));
    let mut mdl = 0;
    let status = WdfRequestRetrieveOutputWdmMdl(globals, request, out(&mut mdl));
    if status.is_success() {
        let (address, bytes) = described_by(mdl);
        assert_eq!(bytes, output);
        log(format!(
            "mdl {:?}",
            String::from_utf8(read(address, bytes)).unwrap()
        ));
        if code == OUT_DIRECT {
            write(address, b"out");
        }
    } else {
        log(format!("mdl {status}"));
    }
    WdfRequestCompleteWithInformation(globals, request, NtStatus::SUCCESS, output);
}

fn direct() -> (Machine, FileHandle) {
    let machine = Machine::bare();
    machine.run(|| {
        assert_eq!(
            super::driver::create_device("Test", &Setup::default()),
            NtStatus::SUCCESS
        );
        let config = QueueConfig {
            default_queue: 1,
            io_device_control: Some(evt_direct),
            ..queue_config(1)
        };
        create_queue(config, &attributes()).unwrap();
        WdfControlFinishInitializing(globals(), with(|state| state.device));
        with(|state| state.log.clear());
    });
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.take_log();
    (machine, handle)
}

#[test]
fn direct_requests_lock_the_callers_buffer() {
    let (machine, handle) = direct();
    let result = handle.ioctl_with_data(IN_DIRECT, b"x", b"data").unwrap();
    assert_eq!(result.output, b"data");
    assert_eq!(machine.take_log(), ["input STATUS_SUCCESS", "mdl \"data\""]);
    let result = handle.ioctl(OUT_DIRECT, b"x", 3).unwrap();
    assert_eq!(result.output, b"out");
    drop(handle);
    machine.end_clean();
}

#[test]
fn the_callers_addresses_are_not_given_to_a_queue() {
    let (machine, handle) = direct();
    handle.ioctl(NEITHER, b"x", 3).unwrap();
    let refused = NtStatus::INVALID_DEVICE_REQUEST;
    assert_eq!(
        machine.take_log(),
        [format!("input {refused}"), format!("mdl {refused}")]
    );
    drop(handle);
    machine.end_clean();
}

extern "win64" fn evt_in_caller_context(device: usize, request: usize) {
    let globals = globals();
    let mut parameters = RequestParameters::default();
    WdfRequestGetParameters(globals, request, out(&mut parameters));
    let (mut buffer, mut length) = (0, 0);
    let status = WdfRequestRetrieveUnsafeUserInputBuffer(
        globals,
        request,
        16,
        out(&mut buffer),
        out(&mut length),
    );
    if !status.is_success() {
        WdfRequestComplete(globals, request, status);
        return;
    }
    // The input is two words: an address of the caller's, and a length.
    let words = read(buffer, 16);
    let word = |at: usize| usize::from_le_bytes(words[at..at + 8].try_into().unwrap());
    let mut memory = 0;
    let locked = WdfRequestProbeAndLockUserBufferForWrite(
        globals,
        request,
        word(0),
        word(8),
        out(&mut memory),
    );
    if !locked.is_success() {
        WdfRequestComplete(globals, request, locked);
        return;
    }
    let mut size = 0;
    let address = WdfMemoryGetBuffer(globals, memory, out(&mut size));
    write(address, &vec![7; size]);
    assert_eq!(
        WdfDeviceEnqueueRequest(globals, device, request),
        NtStatus::SUCCESS
    );
}

fn caller_context() -> (Machine, FileHandle) {
    let machine = Machine::bare();
    machine.run(|| {
        let (globals, driver) = with(|state| (state.globals, state.driver));
        let (sddl, name) = (
            super::driver::Text::new("D:P(A;;GA;;;SY)"),
            super::driver::Text::new("\\Device\\Test"),
        );
        let mut init =
            WdfControlDeviceInitAllocate(globals, driver, super::driver::at(&sddl.unicode()));
        WdfDeviceInitAssignName(globals, init, super::driver::at(&name.unicode()));
        WdfDeviceInitSetIoInCallerContextCallback(globals, init, Some(evt_in_caller_context));
        let mut device = 0;
        let status = WdfDeviceCreate(
            globals,
            out(&mut init),
            crate::access::In::null(),
            out(&mut device),
        );
        assert_eq!(status, NtStatus::SUCCESS);
        with(|state| state.device = device);
        let config = QueueConfig {
            default_queue: 1,
            io_device_control: Some(evt_direct),
            ..queue_config(1)
        };
        create_queue(config, &attributes()).unwrap();
        WdfControlFinishInitializing(globals, device);
    });
    let handle = machine
        .kernel
        .open("\\Device\\Test", Caller::system())
        .unwrap();
    (machine, handle)
}

#[test]
fn a_callers_buffer_is_probed_and_locked_in_its_context() {
    let (machine, handle) = caller_context();
    let memory = machine.kernel.user_memory(5);
    let words = |len: u64| [memory.address().to_le_bytes(), len.to_le_bytes()].concat();
    assert_eq!(
        handle.ioctl(NEITHER, &words(5), 0).unwrap().status,
        NtStatus::SUCCESS
    );
    assert_eq!(memory.read(), [7; 5]);
    assert_eq!(
        handle.ioctl(NEITHER, &words(6), 0).unwrap().status,
        status::ACCESS_VIOLATION
    );
    assert_eq!(
        handle.ioctl(NEITHER, &words(0), 0).unwrap().status,
        status::INVALID_USER_BUFFER
    );
    assert_eq!(
        handle.ioctl(NEITHER, b"short", 0).unwrap().status,
        NtStatus::BUFFER_TOO_SMALL
    );
    assert_eq!(
        handle.ioctl(NEITHER, &[0xff; 16], 0).unwrap().status,
        status::ACCESS_VIOLATION
    );
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_callers_buffer_is_only_good_in_its_context() {
    let (machine, handle) = open(&Setup::default());
    let _pending = handle.ioctl_async(HOLD, b"a", 1).unwrap();
    let request = machine.held()[0];
    let memory = machine.kernel.user_memory(5);
    let address = usize::try_from(memory.address()).unwrap();
    let status = machine.run(|| {
        let mut locked = 0;
        WdfRequestProbeAndLockUserBufferForRead(globals(), request, address, 5, out(&mut locked))
    });
    assert_eq!(status, NtStatus::INVALID_DEVICE_REQUEST);
    assert_eq!(machine.broken_rules(), ["argument"]);
    machine.complete_oldest(NtStatus::SUCCESS);
}

#[test]
fn a_request_memory_that_is_referenced_forbids_completion() {
    let (machine, handle) = open(&Setup::default());
    let _pending = handle.ioctl_async(HOLD, b"a", 1).unwrap();
    let request = machine.held()[0];
    let bugcheck = machine
        .try_run(|| {
            let mut memory = 0;
            WdfRequestRetrieveOutputMemory(globals(), request, out(&mut memory));
            WdfObjectReferenceActual(globals(), memory, 0, 0, 0);
            WdfRequestComplete(globals(), request, NtStatus::SUCCESS);
        })
        .unwrap_err();
    assert_eq!((bugcheck.code, bugcheck.parameters[0]), (0x10d, 3));
}

#[test]
fn the_irp_says_what_the_request_says() {
    let (machine, handle) = open(&Setup::default());
    let _pending = handle.ioctl_async(HOLD, b"abc", 8).unwrap();
    let request = machine.held()[0];
    machine.run(|| {
        let irp = WdfRequestWdmGetIrp(globals(), request);
        let word = |address| usize::from_le_bytes(read(address, 8).try_into().unwrap());
        assert_eq!(read(irp, 2), [6, 0], "IO_TYPE_IRP");
        assert_eq!(read(irp + 64, 1), [1], "UserMode");
        assert_eq!(read(word(irp + 24), 3), b"abc", "SystemBuffer");
        let stack = word(irp + 184);
        assert_eq!(read(stack, 1), [0x0e], "IRP_MJ_DEVICE_CONTROL");
        assert_eq!(read(stack + 24, 4), HOLD.to_le_bytes());
        let machine = crate::Cpu::current().unwrap().machine();
        assert_eq!(machine.io().requestor_process(irp), Some(1000));
    });
    machine.complete_oldest(NtStatus::SUCCESS);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_driver_may_keep_the_object_of_a_completed_request() {
    let (machine, handle) = open(&Setup::default());
    let pending = handle.ioctl_async(HOLD, b"a", 1).unwrap();
    let request = machine.held()[0];
    machine.run(|| {
        WdfObjectReferenceActual(globals(), request, 0, 0, 0);
        WdfRequestComplete(globals(), request, NtStatus::SUCCESS);
        WdfObjectDereferenceActual(globals(), request, 0, 0, 0);
    });
    assert_eq!(pending.poll().unwrap().status, NtStatus::SUCCESS);
    drop(handle);
    machine.end_clean();
}

#[test]
fn a_retrieve_that_is_made_to_fail_reaches_the_driver() {
    let (machine, handle) = open(&Setup::default());
    machine
        .kernel
        .faults()
        .fail_call("WdfRequestRetrieveOutputBuffer", 1);
    assert_eq!(
        handle.ioctl(ECHO, b"a", 1).unwrap().status,
        NtStatus::INSUFFICIENT_RESOURCES
    );
    assert_eq!(
        handle.ioctl(ECHO, b"a", 1).unwrap().status,
        NtStatus::SUCCESS
    );
    drop(handle);
    machine.end_clean();
}
