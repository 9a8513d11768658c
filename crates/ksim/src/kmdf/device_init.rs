//! `WDFDEVICE_INIT`: what a device is going to be.

use wfp_schema::NtStatus;

use super::abi::{
    FileObjectConfig, ObjectAttributes, ObjectCallback, RequestCallback, UnicodeString, sized, text,
};
use super::attributes::{Attributes, Constraints, Parent};
use super::device::{FileConfig, IoType};
use super::life;
use super::object::{Body, Id, Kind, not_null, resolve};
use super::preprocess::Preprocess;
use crate::access::In;
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::ARGUMENT;

/// What a `WDFDEVICE_INIT` holds.
#[derive(Debug, Default)]
pub(crate) struct DeviceInit {
    pub(crate) name: Option<String>,
    pub(crate) sddl: Option<String>,
    pub(crate) io_type: IoType,
    pub(crate) exclusive: bool,
    pub(crate) device_type: u32,
    pub(crate) characteristics: u32,
    pub(crate) file: Option<FileConfig>,
    pub(crate) request_attributes: Attributes,
    pub(crate) in_caller_context: Option<RequestCallback>,
    /// By major function.
    pub(crate) preprocess: Vec<(u8, Preprocess)>,
    pub(crate) shutdown: ShutdownNotification,
}

/// Whom a control device's driver asked to be told of a shutdown by, and when.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShutdownNotification {
    /// `EvtDeviceShutdownNotification`.
    pub(crate) callback: Option<ObjectCallback>,
    /// Before the file systems are flushed.
    pub(crate) first_chance: bool,
    /// After that.
    pub(crate) last_chance: bool,
}

/// `WdfDeviceShutdown` and `WdfDeviceLastChanceShutdown`.
const SHUTDOWN: u8 = 1;
const LAST_CHANCE_SHUTDOWN: u8 = 2;

/// `FILE_DEVICE_UNKNOWN`.
const FILE_DEVICE_UNKNOWN: u32 = 0x22;

/// `WdfFileObjectNotRequired`.
const FILE_OBJECT_NOT_REQUIRED: u32 = 1;
/// `WdfFileObjectCanBeOptional`, a flag of the class.
const FILE_OBJECT_CAN_BE_OPTIONAL: u32 = 0x8000_0000;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcontrol/nf-wdfcontrol-wdfcontroldeviceinitallocate>
    fn WdfControlDeviceInitAllocate(call, globals: usize, driver: usize, sddl: In<UnicodeString>) -> usize,
    irql PASSIVE..=PASSIVE, fails 0;
    {
        let driver = resolve(&call, driver, Kind::Driver);
        not_null(&call, sddl.address(), "SDDLString");
        let init = DeviceInit { sddl: text(sddl), device_type: FILE_DEVICE_UNKNOWN, ..DeviceInit::default() };
        let mut state = call.machine().kmdf().lock();
        let client = state.get(driver).map_or(0, |driver| driver.client);
        let attributes = Attributes::default().with_parent(driver);
        state.create(client, &attributes, Body::DeviceInit(Box::new(init))).map_or(0, Id::handle)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcontrol/nf-wdfcontrol-wdfcontroldeviceinitsetshutdownnotification>
    fn WdfControlDeviceInitSetShutdownNotification(call, globals: usize, init: usize, callback: Option<ObjectCallback>, flags: u8),
    irql PASSIVE..=DISPATCH;
    {
        not_null(&call, callback.map_or(0, |callback| callback as usize), "Notification");
        if flags & (SHUTDOWN | LAST_CHANCE_SHUTDOWN) == 0 || flags & !(SHUTDOWN | LAST_CHANCE_SHUTDOWN) != 0 {
            call.violation(&ARGUMENT, format!("{flags:#x} are not WDF_DEVICE_SHUTDOWN_FLAGS"));
        }
        change(&call, init, |init| {
            init.shutdown = ShutdownNotification {
                callback,
                first_chance: flags & SHUTDOWN != 0,
                last_chance: flags & LAST_CHANCE_SHUTDOWN != 0,
            };
        });
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitfree>
    fn WdfDeviceInitFree(call, globals: usize, init: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, init, Kind::DeviceInit);
        life::delete(call.cpu(), id);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitsetiotype>
    fn WdfDeviceInitSetIoType(call, globals: usize, init: usize, io_type: u32),
    irql PASSIVE..=DISPATCH;
    {
        let known = IoType::from_number(io_type);
        if known.is_none() {
            call.violation(&ARGUMENT, format!("{io_type} is not a WDF_DEVICE_IO_TYPE"));
        }
        change(&call, init, |init| init.io_type = known.unwrap_or_default());
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitsetexclusive>
    fn WdfDeviceInitSetExclusive(call, globals: usize, init: usize, exclusive: u8),
    irql PASSIVE..=DISPATCH;
    {
        change(&call, init, |init| init.exclusive = exclusive != 0);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitsetdevicetype>
    fn WdfDeviceInitSetDeviceType(call, globals: usize, init: usize, device_type: u32),
    irql PASSIVE..=DISPATCH;
    {
        change(&call, init, |init| init.device_type = device_type);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitassignname>
    fn WdfDeviceInitAssignName(call, globals: usize, init: usize, name: In<UnicodeString>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let name = text(name);
        change(&call, init, |init| init.name = name);
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitassignsddlstring>
    fn WdfDeviceInitAssignSDDLString(call, globals: usize, init: usize, sddl: In<UnicodeString>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let sddl = text(sddl);
        change(&call, init, |init| init.sddl = sddl);
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitsetdeviceclass>
    fn WdfDeviceInitSetDeviceClass(call, globals: usize, init: usize, class: usize),
    irql PASSIVE..=DISPATCH;
    {
        // Only decides about security overrides in the registry, which are not simulated.
        resolve(&call, init, Kind::DeviceInit);
        not_null(&call, class, "DeviceClassGuid");
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitsetcharacteristics>
    fn WdfDeviceInitSetCharacteristics(call, globals: usize, init: usize, characteristics: u32, or_in_values: u8),
    irql PASSIVE..=DISPATCH;
    {
        change(&call, init, |init| {
            let before = if or_in_values == 0 { 0 } else { init.characteristics };
            init.characteristics = before | characteristics;
        });
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitsetfileobjectconfig>
    fn WdfDeviceInitSetFileObjectConfig(call, globals: usize, init: usize, config: In<FileObjectConfig>, attributes: In<ObjectAttributes>),
    irql PASSIVE..=DISPATCH;
    {
        resolve(&call, init, Kind::DeviceInit);
        not_null(&call, config.address(), "FileObjectConfig");
        let config = sized(config, |config| config.size, &[40]);
        let attributes = Attributes::read(&call, attributes, Parent::NotAllowed, Constraints::Both);
        match (config, attributes) {
            (Ok(config), Ok(attributes)) => {
                let required = config.class & !FILE_OBJECT_CAN_BE_OPTIONAL != FILE_OBJECT_NOT_REQUIRED;
                let file = FileConfig {
                    create: config.create,
                    close: config.close,
                    cleanup: config.cleanup,
                    object: required,
                    attributes,
                };
                change(&call, init, |init| init.file = Some(file));
            }
            (Err(status), _) | (_, Err(status)) => {
                call.violation(&ARGUMENT, format!("the file object configuration is refused: {status}"));
            }
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitsetrequestattributes>
    fn WdfDeviceInitSetRequestAttributes(call, globals: usize, init: usize, attributes: In<ObjectAttributes>),
    irql PASSIVE..=DISPATCH;
    {
        not_null(&call, attributes.address(), "RequestAttributes");
        match Attributes::read(&call, attributes, Parent::NotAllowed, Constraints::None) {
            Ok(attributes) => change(&call, init, |init| init.request_attributes = attributes),
            Err(status) => call.violation(&ARGUMENT, format!("the request attributes are refused: {status}")),
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitsetioincallercontextcallback>
    fn WdfDeviceInitSetIoInCallerContextCallback(call, globals: usize, init: usize, callback: Option<RequestCallback>),
    irql PASSIVE..=DISPATCH;
    {
        change(&call, init, |init| init.in_caller_context = callback);
    }
}

pub(super) fn change(call: &Call<'_>, init: usize, change: impl FnOnce(&mut DeviceInit)) {
    let id = resolve(call, init, Kind::DeviceInit);
    if let Some(init) = call.machine().kmdf().lock().device_init(id) {
        change(init);
    }
}
