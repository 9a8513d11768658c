//! Control devices: names, security, handles.

use wfp_schema::NtStatus;

use super::driver::{
    DEVICE, ECHO, HOLD, Machine, NtStatusOrSuccess, Setup, WRITE_ACCESS, at, create_device,
    globals, log, out, with,
};
use crate::access::In;
use crate::kmdf::Value;
use crate::kmdf::device::{WdfControlFinishInitializing, WdfDeviceCreate};
use crate::kmdf::device_init::{
    WdfControlDeviceInitAllocate, WdfControlDeviceInitSetShutdownNotification,
    WdfDeviceInitAssignName,
};
use crate::kmdf::driver::WdfDriverGetRegistryPath;
use crate::kmdf::object_api::WdfObjectDelete;
use crate::kmdf::registry::{
    WdfDriverOpenParametersRegistryKey, WdfRegistryClose, WdfRegistryQueryULong,
};
use crate::nt::io_security::{Caller, GENERIC_READ};
use crate::nt::io_user::OpenError;

fn refused(machine: &Machine, path: &str, caller: Caller) -> NtStatus {
    match machine.kernel.open(path, caller) {
        Err(OpenError::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_cannot_be_opened_before_it_is_finished() {
    let machine = Machine::new(&Setup {
        finish: false,
        ..Setup::default()
    });
    assert_eq!(
        refused(&machine, DEVICE, Caller::system()),
        NtStatus::NO_SUCH_DEVICE
    );
    machine.run(|| WdfControlFinishInitializing(globals(), with(|state| state.device)));
    drop(machine.kernel.open(DEVICE, Caller::system()).unwrap());
    machine.end_clean();
}

#[test]
fn a_handle_lives_through_create_cleanup_and_close() {
    let machine = Machine::new(&Setup::default());
    let handle = machine
        .kernel
        .open("\\Device\\Test", Caller::administrator())
        .unwrap();
    assert_eq!(machine.take_log(), ["create"]);
    handle.close().unwrap();
    assert_eq!(machine.take_log(), ["cleanup", "close"]);
    machine.end_clean();
}

#[test]
fn close_comes_after_the_last_request() {
    let machine = Machine::new(&Setup::default());
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    let pending = handle.ioctl_async(HOLD, b"x", 0).unwrap();
    handle.close().unwrap();
    assert_eq!(machine.take_log(), ["create", "cleanup"]);
    machine.complete_oldest(NtStatus::SUCCESS);
    assert_eq!(machine.take_log(), ["close"]);
    assert_eq!(pending.poll().unwrap().status, NtStatus::SUCCESS);
    machine.end_clean();
}

#[test]
fn the_security_descriptor_decides_who_opens() {
    let machine = Machine::new(&Setup::default());
    assert_eq!(
        refused(&machine, DEVICE, Caller::user()),
        NtStatus::ACCESS_DENIED
    );
    let reader = machine
        .kernel
        .open(DEVICE, Caller::user().with_access(GENERIC_READ))
        .unwrap();
    assert_eq!(
        reader.ioctl(ECHO, b"ab", 2).unwrap().status,
        NtStatus::SUCCESS
    );
    assert_eq!(
        reader.ioctl(WRITE_ACCESS, b"ab", 2).unwrap().status,
        NtStatus::ACCESS_DENIED
    );
    drop(reader);
    machine.end_clean();
}

#[test]
fn a_name_below_the_device_skips_its_security_unless_it_says_otherwise() {
    let machine = Machine::new(&Setup {
        sddl: "D:P(A;;GA;;;SY)",
        ..Setup::default()
    });
    // This device lacks FILE_DEVICE_SECURE_OPEN, the classic mistake.
    drop(
        machine
            .kernel
            .open("\\\\.\\Test\\below", Caller::user())
            .unwrap(),
    );
    machine.end_clean();
}

#[test]
fn an_unknown_name_is_not_found() {
    let machine = Machine::new(&Setup::default());
    assert_eq!(
        refused(&machine, "\\\\.\\Other", Caller::system()),
        NtStatus::OBJECT_NAME_NOT_FOUND
    );
    machine.end_clean();
}

#[test]
fn a_name_is_given_once() {
    let machine = Machine::new(&Setup::default());
    let status = machine.run(|| create_device("Test", &Setup::default()));
    assert_eq!(status, NtStatus::OBJECT_NAME_COLLISION);
    drop(machine.kernel.open(DEVICE, Caller::system()).unwrap());
}

#[test]
fn a_driver_may_refuse_an_open() {
    let machine = Machine::new(&Setup::default());
    machine
        .run(|| with(|state| state.create_status = NtStatusOrSuccess(NtStatus::DEVICE_NOT_READY)));
    assert_eq!(
        refused(&machine, DEVICE, Caller::system()),
        NtStatus::DEVICE_NOT_READY
    );
    assert_eq!(
        machine.take_log(),
        ["create"],
        "no cleanup and no close follow"
    );
    machine.end_clean();
}

#[test]
fn a_malformed_security_descriptor_is_refused() {
    let machine = Machine::bare();
    let setup = Setup {
        sddl: "D:P(A;;GA;;;NOBODY)",
        ..Setup::default()
    };
    assert_eq!(
        machine.run(|| create_device("Test", &setup)),
        NtStatus::INVALID_PARAMETER
    );
    assert_eq!(machine.broken_rules(), ["argument"]);
}

#[test]
fn an_open_device_outlives_its_driver_only_with_a_violation() {
    let machine = Machine::new(&Setup::default());
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    machine.unbind();
    assert_eq!(machine.broken_rules(), ["unload-left"]);
    assert_eq!(
        handle.ioctl(ECHO, b"x", 1).unwrap().status,
        NtStatus::NO_SUCH_DEVICE
    );
}

#[test]
fn a_failed_call_leaves_no_device() {
    for call in ["WdfDeviceCreate", "WdfDeviceCreateSymbolicLink"] {
        let machine = Machine::bare();
        machine.kernel.faults().fail_call(call, 1);
        let status = machine.run(|| create_device("Test", &Setup::default()));
        assert_eq!(status, NtStatus::INSUFFICIENT_RESOURCES, "{call}");
        machine.end_clean();
    }
}

#[test]
fn the_parameters_key_is_read() {
    let machine = Machine::bare();
    let path = "\\Registry\\Machine\\System\\CurrentControlSet\\Services\\Test";
    machine.kernel.kmdf().registry().set(
        &format!("{path}\\Parameters"),
        "LogLevel",
        Value::Dword(7),
    );
    machine.run(|| {
        let (globals, driver) = with(|state| (state.globals, state.driver));
        let text = super::driver::read(WdfDriverGetRegistryPath(globals, driver), path.len() * 2);
        let units: Vec<u16> = text
            .chunks(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .collect();
        assert_eq!(String::from_utf16_lossy(&units), path);
        let mut key = 0;
        let status =
            WdfDriverOpenParametersRegistryKey(globals, driver, 1, In::null(), out(&mut key));
        assert_eq!(status, NtStatus::SUCCESS);
        let mut value = 0;
        let name = super::driver::Text::new("loglevel");
        assert_eq!(
            WdfRegistryQueryULong(globals, key, at(&name.unicode()), out(&mut value)),
            NtStatus::SUCCESS
        );
        assert_eq!(value, 7);
        let name = super::driver::Text::new("none");
        let status = WdfRegistryQueryULong(globals, key, at(&name.unicode()), out(&mut value));
        assert_eq!(status, NtStatus::OBJECT_NAME_NOT_FOUND);
        WdfRegistryClose(globals, key);
    });
    machine.end_clean();
}

extern "win64" fn evt_shutdown(device: usize) {
    assert_eq!(device, with(|state| state.device));
    log("shutdown");
}

/// A control device that asks to be told of a shutdown.
fn told_of_shutdown(flags: u8) -> Machine {
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
        WdfControlDeviceInitSetShutdownNotification(globals, init, Some(evt_shutdown), flags);
        let mut device = 0;
        let status = WdfDeviceCreate(globals, out(&mut init), In::null(), out(&mut device));
        assert_eq!(status, NtStatus::SUCCESS);
        with(|state| state.device = device);
        WdfControlFinishInitializing(globals, device);
    });
    machine.take_log();
    machine
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcontrol/nc-wdfcontrol-evt_wdf_device_shutdown_notification>
#[test]
fn a_control_devices_driver_is_told_of_a_shutdown_as_often_as_it_asked() {
    for (flags, told) in [(1, 1), (2, 1), (3, 2)] {
        let machine = told_of_shutdown(flags);
        machine.kernel.shutdown().unwrap();
        assert_eq!(machine.take_log(), vec!["shutdown"; told], "flags {flags}");
        machine.kernel.shutdown().unwrap();
        assert!(machine.take_log().is_empty(), "the power is off");
        machine.end_clean();
    }
}

#[test]
fn a_deleted_device_is_not_told_of_a_shutdown_and_sleep_is_none() {
    let machine = told_of_shutdown(1);
    machine.kernel.sleep().unwrap();
    machine.kernel.resume().unwrap();
    assert!(machine.take_log().is_empty());
    machine.run(|| WdfObjectDelete(globals(), with(|state| state.device)));
    machine.kernel.shutdown().unwrap();
    assert!(machine.take_log().is_empty());
    machine.end_clean();
}
