//! `IoCreateDevice`, `IoDeleteDevice`, and symbolic links.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use wfp_schema::NtStatus;

use super::dispatch::DispatchTable;
use super::driver_object;
use crate::access::{In, Out};
use crate::cpu::{APC, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Machine;
use crate::kmdf::abi::{UnicodeString, text};
use crate::nt::io::{self, DO_EXCLUSIVE, DeviceDescription};
use crate::nt::io_security::SecurityDescriptor;
use crate::verifier::{ARGUMENT, OBJECT_STALE};

/// How the verifier calls what a driver has to give back.
const DEVICE: &str = "device object";
const LINK: &str = "symbolic link";

/// `DEVICE_OBJECT.NextDevice`.
const NEXT_DEVICE: usize = 16;

/// Who may open a device that its driver created without a security descriptor: everybody reads and writes, System
/// and Administrators do everything. Where the I/O manager has a stricter default for a type of device, that type is
/// not a network driver's.
const DEFAULT_SECURITY: &str = "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GRGWGX;;;WD)";

/// The number under which the verifier keeps a symbolic link.
fn link_number(name: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    io::canonical(name).hash(&mut hasher);
    crate::access::address(hasher.finish())
}

/// `DO_DEVICE_INITIALIZING` goes from the devices that a driver's entry made when that has succeeded.
pub(crate) fn finish_initializing(machine: &Machine, driver: usize) {
    for device in machine.io().devices_of(driver) {
        device.finish_initializing();
    }
}

/// The requests that the driver whose object is at `driver` has and has not completed.
pub(crate) fn pending_of(machine: &Machine, driver: usize) -> Vec<String> {
    let irps = machine.io().live_irps();
    let of_driver = irps.iter().filter(|irp| {
        let device = irp.file.device();
        device.driver() == driver && !device.by_framework() && irp.completion().is_none()
    });
    of_driver.map(|irp| irp.describe()).collect()
}

/// Puts `device` first in the list that begins in its driver object.
fn enlist(driver: Out<u8>, device: &io::Device) {
    let head = driver.offset::<usize>(driver_object::DEVICE_OBJECT);
    device.set_next(head.get().unwrap_or(0));
    head.set(device.address());
}

/// Takes `device` out of the list that begins in its driver object.
fn delist(device: &io::Device) {
    // SAFETY: the driver object that the device was created for; the driver's own list (a trap otherwise).
    let driver: Out<u8> = unsafe { Out::new(device.driver() as *mut u8) };
    let mut link = driver.offset::<usize>(driver_object::DEVICE_OBJECT);
    while let Some(next) = link.get().filter(|next| *next != 0) {
        // SAFETY: an element of that list.
        let element: Out<u8> = unsafe { Out::new(next as *mut u8) };
        let after = element.offset::<usize>(NEXT_DEVICE);
        if next == device.address() {
            link.set(after.get().unwrap_or(0));
            return;
        }
        link = after;
    }
}

struct Request {
    driver: Out<u8>,
    extension: usize,
    name: Option<String>,
    device_type: u32,
    characteristics: u32,
    exclusive: bool,
}

fn create(call: &Call<'_>, request: Request) -> Result<usize, NtStatus> {
    if request.driver.is_null() {
        call.violation(&ARGUMENT, "DriverObject is NULL");
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let security = SecurityDescriptor::parse(DEFAULT_SECURITY);
    let description = DeviceDescription {
        name: request.name,
        security: security.unwrap_or_default(),
        device_type: request.device_type,
        characteristics: request.characteristics,
        flags: if request.exclusive { DO_EXCLUSIVE } else { 0 },
        driver: request.driver.address(),
        extension: request.extension,
    };
    let machine = call.machine();
    let dispatch = Arc::new(DispatchTable::new(request.driver.address()));
    let device = machine.io().create_device(&description, dispatch)?;
    enlist(request.driver, &device);
    let (address, name) = (device.address(), description.name.unwrap_or_default());
    machine.io().keep_device(device);
    machine.verifier().track(call, DEVICE, address, name, 0);
    Ok(address)
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocreatedevice>
    fn IoCreateDevice(
        call, driver: Out<u8>, extension: u32, name: In<UnicodeString>, device_type: u32, characteristics: u32,
        exclusive: u8, device: Out<usize>,
    ) -> NtStatus,
    irql PASSIVE..=APC, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let request = Request {
            driver,
            extension: extension as usize,
            name: text(name).filter(|name| !name.is_empty()),
            device_type,
            characteristics,
            exclusive: exclusive != 0,
        };
        match create(&call, request) {
            Ok(address) => {
                device.set(address);
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iodeletedevice>
    fn IoDeleteDevice(call, device: usize),
    irql PASSIVE..=APC;
    {
        let machine = call.machine();
        if !machine.verifier().untrack(&call, DEVICE, device) {
            return;
        }
        let Some(device) = machine.io().forget_device(device) else { return };
        delist(&device);
        machine.io().delete_device(&device);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocreatesymboliclink>
    fn IoCreateSymbolicLink(call, link: In<UnicodeString>, device: In<UnicodeString>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (Some(link), Some(target)) = (text(link), text(device)) else {
            call.violation(&ARGUMENT, "a symbolic link without a name or a target");
            return NtStatus::INVALID_PARAMETER;
        };
        match call.machine().io().create_symbolic_link(&link, &target) {
            Ok(()) => {
                let number = link_number(&link);
                call.machine().verifier().track(&call, LINK, number, link, 0);
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iocreateunprotectedsymboliclink>
    fn IoCreateUnprotectedSymbolicLink(call, link: In<UnicodeString>, device: In<UnicodeString>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    { IoCreateSymbolicLink(link, device) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iodeletesymboliclink>
    fn IoDeleteSymbolicLink(call, link: In<UnicodeString>) -> NtStatus,
    irql PASSIVE..=PASSIVE;
    {
        let link = text(link).unwrap_or_default();
        let number = link_number(&link);
        if !call.machine().verifier().is_tracked(LINK, number) {
            call.violation(&OBJECT_STALE, format!("the symbolic link {link} does not exist or was deleted before"));
            return NtStatus::OBJECT_NAME_NOT_FOUND;
        }
        call.machine().verifier().forget(LINK, number);
        call.machine().io().delete_symbolic_link(&link);
        NtStatus::SUCCESS
    }
}
