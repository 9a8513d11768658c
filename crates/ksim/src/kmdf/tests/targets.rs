//! I/O targets: a driver opens another device and sends requests that it waits for.

use wfp_schema::NtStatus;

use super::driver::{DEVICE, ECHO, HOLD, Machine, Setup, Text, at, globals, out, read, with};
use crate::access::In;
use crate::kmdf::abi::UnicodeString;
use crate::kmdf::memory::{WdfMemoryCreate, WdfMemoryGetBuffer};
use crate::kmdf::object_api::WdfObjectDelete;
use crate::kmdf::target::{
    MemoryDescriptor, OpenParameters, SendOptions, WdfIoTargetClose, WdfIoTargetCreate,
    WdfIoTargetGetState, WdfIoTargetOpen, WdfIoTargetSendIoctlSynchronously,
    WdfIoTargetSendReadSynchronously, WdfIoTargetStart, WdfIoTargetStop,
    WdfIoTargetWdmGetTargetFileObject,
};

const STARTED: u32 = 1;
const STOPPED: u32 = 2;
const CLOSED: u32 = 4;

fn create() -> usize {
    let (device, mut target) = (with(|state| state.device), 0);
    let status = WdfIoTargetCreate(globals(), device, In::null(), out(&mut target));
    assert_eq!(status, NtStatus::SUCCESS);
    target
}

fn open(target: usize, name: &str) -> NtStatus {
    let name = Text::new(name);
    open_with(target, 2, name.unicode())
}

fn open_with(target: usize, kind: u32, name: UnicodeString) -> NtStatus {
    let parameters = OpenParameters::new(kind, name);
    WdfIoTargetOpen(globals(), target, at(&parameters))
}

fn buffer(bytes: &mut [u8]) -> MemoryDescriptor {
    MemoryDescriptor::of_buffer(bytes.as_mut_ptr() as usize, bytes.len())
}

fn echo(target: usize, options: In<SendOptions>) -> (NtStatus, Vec<u8>) {
    let (mut input, mut output, mut returned) = (*b"abc", [0; 8], 0);
    let status = WdfIoTargetSendIoctlSynchronously(
        globals(),
        target,
        0,
        ECHO,
        at(&buffer(&mut input)),
        at(&buffer(&mut output)),
        options,
        out(&mut returned),
    );
    (status, output[..returned].to_vec())
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetsendioctlsynchronously>
#[test]
fn a_request_to_a_target_is_answered_by_the_other_device() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let target = create();
        assert_eq!(WdfIoTargetGetState(globals(), target), CLOSED);
        assert_eq!(echo(target, In::null()).0, NtStatus::INVALID_DEVICE_STATE);
        assert_eq!(
            open(target, "\\Device\\Nobody"),
            NtStatus::OBJECT_NAME_NOT_FOUND
        );
        assert_eq!(open(target, DEVICE), NtStatus::SUCCESS);
        assert_eq!(WdfIoTargetGetState(globals(), target), STARTED);
        assert_ne!(WdfIoTargetWdmGetTargetFileObject(globals(), target), 0);
        assert_eq!(
            open(target, DEVICE),
            NtStatus::INVALID_DEVICE_STATE,
            "open already"
        );
        assert_eq!(
            echo(target, In::null()),
            (NtStatus::SUCCESS, b"cba".to_vec())
        );
        WdfIoTargetClose(globals(), target);
        assert_eq!(echo(target, In::null()).0, NtStatus::INVALID_DEVICE_STATE);
        assert_eq!(
            open_with(target, 3, Text::new("").unicode()),
            NtStatus::SUCCESS,
            "reopened"
        );
        assert_eq!(echo(target, In::null()).0, NtStatus::SUCCESS);
        WdfObjectDelete(globals(), target);
    });
    machine.take_log();
    machine.end_clean();
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetstop>
#[test]
fn a_stopped_target_takes_only_requests_that_ignore_its_state() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let target = create();
        open(target, DEVICE);
        WdfIoTargetStop(globals(), target, 2);
        assert_eq!(WdfIoTargetGetState(globals(), target), STOPPED);
        assert_eq!(echo(target, In::null()).0, NtStatus::INVALID_DEVICE_STATE);
        let anyway = SendOptions::new(4, 0);
        assert_eq!(echo(target, at(&anyway)).0, NtStatus::SUCCESS);
        assert_eq!(WdfIoTargetStart(globals(), target), NtStatus::SUCCESS);
        assert_eq!(echo(target, In::null()).0, NtStatus::SUCCESS);
        WdfObjectDelete(globals(), target);
    });
    machine.take_log();
    machine.end_clean();
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/ns-wdfrequest-_wdf_request_send_options>
#[test]
fn a_request_that_takes_too_long_is_cancelled() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let target = create();
        open(target, DEVICE);
        // A relative time of a millisecond.
        let options = SendOptions::new(1, -10_000);
        let (mut input, mut returned) = (*b"abc", 0);
        let status = WdfIoTargetSendIoctlSynchronously(
            globals(),
            target,
            0,
            super::driver::HOLD_CANCELABLE,
            at(&buffer(&mut input)),
            In::null(),
            at(&options),
            out(&mut returned),
        );
        assert_eq!(status, NtStatus::IO_TIMEOUT);
        WdfObjectDelete(globals(), target);
    });
    machine.take_log();
    machine.end_clean();
}

#[test]
fn a_memory_object_receives_what_a_target_returns() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let target = create();
        open(target, DEVICE);
        let (mut memory, mut address, mut returned) = (0, 0, 0);
        WdfMemoryCreate(
            globals(),
            In::null(),
            0x200,
            0,
            8,
            out(&mut memory),
            out(&mut address),
        );
        let mut input = *b"xyz";
        let output = MemoryDescriptor::of_object(memory);
        let status = WdfIoTargetSendIoctlSynchronously(
            globals(),
            target,
            0,
            ECHO,
            at(&buffer(&mut input)),
            at(&output),
            In::null(),
            out(&mut returned),
        );
        assert_eq!((status, returned), (NtStatus::SUCCESS, 3));
        assert_eq!(
            read(WdfMemoryGetBuffer(globals(), memory, out(&mut returned)), 3),
            b"zyx"
        );
        // The device has no queue for reads.
        let status = WdfIoTargetSendReadSynchronously(
            globals(),
            target,
            0,
            at(&output),
            In::null(),
            In::null(),
            out(&mut returned),
        );
        assert!(!status.is_success());
        WdfObjectDelete(globals(), memory);
        WdfObjectDelete(globals(), target);
    });
    machine.take_log();
    machine.end_clean();
}

#[test]
fn a_request_held_by_the_other_side_is_no_reason_to_forget_the_target() {
    let machine = Machine::new(&Setup::default());
    let bugcheck = machine.try_run(|| {
        let target = create();
        open(target, DEVICE);
        let (mut input, mut returned) = (*b"abc", 0);
        WdfIoTargetSendIoctlSynchronously(
            globals(),
            target,
            0,
            HOLD,
            at(&buffer(&mut input)),
            In::null(),
            In::null(),
            out(&mut returned),
        );
    });
    assert!(
        bugcheck
            .unwrap_err()
            .message
            .contains("a request to another driver"),
        "nobody can end this wait"
    );
}
