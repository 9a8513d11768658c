//! WDFDRIVER.

use wfp_schema::NtStatus;

use super::abi::{
    DriverConfig, Level, ObjectAttributes, ObjectCallback, Scope, UnicodeString, sized, status,
    text,
};
use super::attributes::{Attributes, Constraints, Parent};
use super::memory::set_text;
use super::object::{Body, Id, Kind, client, not_null, resolve};
use crate::access::{In, Out};
use crate::cpu::{Callback, Cpu, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::nt::io_memory::Guarded;
use crate::verifier::ARGUMENT;

/// What a WDFDRIVER holds.
#[derive(Debug)]
pub(crate) struct Driver {
    unload: Option<ObjectCallback>,
    /// Its registry path, NUL-terminated, as `WdfDriverGetRegistryPath` gives it.
    registry_path: Guarded,
}

/// `WdfDriverInitNonPnpDriver`.
const NON_PNP_DRIVER: u32 = 1;
/// `DriverUnload` in a `DRIVER_OBJECT`.
const DRIVER_UNLOAD: usize = 0x68;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdriver/nf-wdfdriver-wdfdrivercreate>
    fn WdfDriverCreate(call, globals: usize, driver_object: Out<u8>, registry_path: In<UnicodeString>,
        attributes: In<ObjectAttributes>, config: In<DriverConfig>, driver: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let globals = client(&call, globals);
        not_null(&call, driver_object.address(), "DriverObject");
        not_null(&call, registry_path.address(), "RegistryPath");
        not_null(&call, config.address(), "DriverConfig");
        match create(&call, globals, driver_object, registry_path, attributes, config) {
            Ok(id) => {
                driver.set(id.handle());
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdriver/nf-wdfdriver-wdfdrivergetregistrypath>
    fn WdfDriverGetRegistryPath(call, globals: usize, driver: usize) -> usize,
    irql PASSIVE..=PASSIVE;
    {
        let id = resolve(&call, driver, Kind::Driver);
        call.machine().kmdf().lock().driver(id).map_or(0, |driver| driver.registry_path.address())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdriver/nf-wdfdriver-wdfdriverwdmgetdriverobject>
    fn WdfDriverWdmGetDriverObject(call, globals: usize, driver: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, driver, Kind::Driver);
        let state = call.machine().kmdf().lock();
        let object = state.get(id).and_then(|object| state.clients.get(&object.client));
        object.map_or(0, |client| client.driver_object)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdriver/nf-wdfdriver-wdfwdmdrivergetwdfdriverhandle>
    fn WdfWdmDriverGetWdfDriverHandle(call, globals: usize, driver_object: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        let state = call.machine().kmdf().lock();
        let owner = state.clients.values().find(|client| client.driver_object == driver_object);
        owner.and_then(|client| client.driver).map_or(0, Id::handle)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdriver/nf-wdfdriver-wdfdriverretrieveversionstring>
    fn WdfDriverRetrieveVersionString(call, globals: usize, driver: usize, string: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        resolve(&call, driver, Kind::Driver);
        let string = resolve(&call, string, Kind::Text);
        set_text(&call, string, &format!("Kernel Mode Driver Framework version 1.{}", call.machine().kmdf().version()));
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdriver/nf-wdfdriver-wdfdriverisversionavailable>
    fn WdfDriverIsVersionAvailable(call, globals: usize, driver: usize, parameters: In<[u32; 3]>) -> u8,
    irql PASSIVE..=PASSIVE;
    {
        resolve(&call, driver, Kind::Driver);
        not_null(&call, parameters.address(), "VersionAvailableParams");
        let [size, major, minor] = parameters.get().unwrap_or_default();
        u8::from(size == 12 && major == 1 && minor <= call.machine().kmdf().version())
    }
}

fn create(
    call: &Call<'_>,
    globals: usize,
    driver_object: Out<u8>,
    registry_path: In<UnicodeString>,
    attributes: In<ObjectAttributes>,
    config: In<DriverConfig>,
) -> Result<Id, NtStatus> {
    let config = sized(config, |config| config.size, &[32])?;
    let attributes = Attributes::read(call, attributes, Parent::NotAllowed, Constraints::Both)?;
    if config.init_flags & NON_PNP_DRIVER != 0 && config.device_add != 0 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if config.init_flags & NON_PNP_DRIVER == 0 && config.device_add == 0 {
        call.violation(
            &ARGUMENT,
            "a driver without EvtDriverDeviceAdd has to set WdfDriverInitNonPnpDriver",
        );
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let path = text(registry_path).ok_or(NtStatus::INVALID_PARAMETER)?;
    let units: Vec<u8> = path
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let driver = Driver {
        unload: config.unload,
        registry_path: Guarded::holding(&units),
    };
    let attributes = attributes.with_defaults(Level::Dispatch, Scope::None);
    let id = {
        let mut state = call.machine().kmdf().lock();
        if state
            .clients
            .get(&globals)
            .is_some_and(|client| client.driver.is_some())
        {
            return Err(status::DRIVER_INTERNAL_ERROR);
        }
        let id = state.create(globals, &attributes, Body::Driver(Box::new(driver)))?;
        if let Some(client) = state.clients.get_mut(&globals) {
            client.set_driver(id, config.init_flags, config.pool_tag);
        }
        id
    };
    if config.unload.is_some() || config.init_flags & NON_PNP_DRIVER == 0 {
        driver_object
            .offset::<usize>(DRIVER_UNLOAD)
            .set(unload as *const () as usize);
    }
    Ok(id)
}

/// The framework's `DriverUnload`: calls the driver's own. What is left is deleted when the driver unbinds.
extern "win64" fn unload(driver_object: usize) {
    let Some(cpu) = Cpu::current() else {
        // Only the I/O manager calls this, on a processor.
        std::process::abort();
    };
    let callback = {
        let mut state = cpu.machine().kmdf().lock();
        let driver = state
            .clients
            .values()
            .find(|client| client.driver_object == driver_object);
        let driver = driver.and_then(|client| client.driver);
        driver.and_then(|id| {
            state
                .driver(id)
                .and_then(|driver| driver.unload)
                .map(|unload| (id, unload))
        })
    };
    if let Some((id, callback)) = callback {
        let unload = Callback::new("EvtDriverUnload", callback as usize);
        cpu.enter_driver(unload, PASSIVE, || callback(id.handle()));
    }
}
