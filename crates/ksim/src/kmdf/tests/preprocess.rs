//! IRPs that a driver sees before the framework does.

use wfp_schema::NtStatus;

use super::driver::{DEVICE, ECHO, HOLD, Machine, Setup, globals, log};
use crate::access::Out;
use crate::kmdf::preprocess::{Preprocess, WdfDeviceWdmDispatchPreprocessedIrp};
use crate::nt::io_irp::offset;
use crate::nt::io_security::Caller;
use crate::nt::wdm::IofCompleteRequest;

/// A field of an `IRP`.
fn field<T>(irp: usize, offset: usize) -> Out<T> {
    // SAFETY: an IRP that the driver was given, and a member of it.
    unsafe { Out::new((irp + offset) as *mut T) }
}

extern "win64" fn hands_on(device: usize, irp: usize) -> NtStatus {
    log("first");
    // IoSkipCurrentIrpStackLocation.
    let location: Out<u8> = field(irp, offset::CURRENT_LOCATION);
    location.set(location.get().unwrap() + 1);
    let stack: Out<usize> = field(irp, offset::CURRENT_STACK_LOCATION);
    stack.set(stack.get().unwrap() + 72);
    WdfDeviceWdmDispatchPreprocessedIrp(globals(), device, irp)
}

extern "win64" fn answers(_: usize, irp: usize) -> NtStatus {
    let status: Out<u32> = field(irp, offset::STATUS);
    status.set(NtStatus::ACCESS_DENIED.code());
    IofCompleteRequest(irp, 0);
    NtStatus::ACCESS_DENIED
}

extern "win64" fn forgets(_: usize, _: usize) -> NtStatus {
    NtStatus::SUCCESS
}

fn machine(preprocess: Preprocess) -> Machine {
    Machine::new(&Setup {
        preprocess: Some(preprocess),
        ..Setup::default()
    })
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicewdmdispatchpreprocessedirp>
#[test]
fn an_irp_is_handed_on_to_the_framework_at_once_or_pending() {
    let machine = machine(hands_on);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    let result = handle.ioctl(ECHO, b"ab", 2).unwrap();
    assert_eq!(
        (result.status, &*result.output),
        (NtStatus::SUCCESS, &b"ba"[..])
    );
    let pending = handle.ioctl_async(HOLD, b"x", 0).unwrap();
    assert!(pending.poll().is_none());
    machine.complete_oldest(NtStatus::SUCCESS);
    assert_eq!(pending.poll().unwrap().status, NtStatus::SUCCESS);
    handle.close().unwrap();
    assert_eq!(
        machine.take_log(),
        ["create", "first", "first", "cleanup", "close"]
    );
    machine.end_clean();
}

#[test]
fn an_irp_that_the_driver_answers_never_reaches_the_framework() {
    let machine = machine(answers);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    assert_eq!(
        handle.ioctl(ECHO, b"ab", 2).unwrap().status,
        NtStatus::ACCESS_DENIED
    );
    handle.close().unwrap();
    machine.take_log();
    machine.end_clean();
}

#[test]
fn an_irp_that_is_neither_answered_nor_handed_on_is_found() {
    let machine = machine(forgets);
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    drop(handle.ioctl_async(ECHO, b"ab", 2).unwrap());
    assert_eq!(machine.broken_rules(), ["request-completion"]);
}
