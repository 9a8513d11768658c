//! WDFLDR: drivers bind to the framework and unbind from it.

use wfp_schema::NtStatus;

use super::abi::{BindInfo, UnicodeString, text};
use super::life;
use super::object::{Id, Kind, Phase};
use super::table::{COPIED_AT_MOST, FUNCTIONS, STRUCTURES, functions_of, make_stub};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::{Call, exports};
use crate::nt::io_memory::Guarded;
use crate::verifier::{ARGUMENT, REQUEST_LEFT, UNLOAD_LEFT};

/// A bound driver.
#[derive(Debug)]
pub(crate) struct Client {
    /// `WDF_DRIVER_GLOBALS`.
    globals: Guarded,
    /// The table that a driver with more than [`COPIED_AT_MOST`] functions points at.
    _table: Option<Guarded>,
    /// The minor of the version 1.x that it was built for.
    pub(crate) minor: u32,
    /// Its `DRIVER_OBJECT`.
    pub(crate) driver_object: usize,
    /// Its service's registry key.
    pub(crate) registry_path: String,
    pub(crate) driver: Option<Id>,
}

impl Client {
    /// What `WdfDriverCreate` tells the driver through its globals.
    pub(crate) fn set_driver(&mut self, driver: Id, flags: u32, tag: u32) {
        self.driver = Some(driver);
        self.globals.put(0, driver.handle().to_le_bytes());
        self.globals.put(8, flags.to_le_bytes());
        self.globals.put(12, tag.to_le_bytes());
    }
}

/// `sizeof(WDF_DRIVER_GLOBALS)`.
const GLOBALS_SIZE: usize = 56;
const DRIVER_NAME: usize = 16;
const DRIVER_NAME_LEN: usize = 31;
const DISPLACE_DRIVER_UNLOAD: usize = 48;

/// Where `WDF_BIND_INFO2` keeps pointers to variables of the driver.
const MINIMUM_VERSION_REQUIRED: usize = 48;
const CLIENT_VERSION_HIGHER: usize = 56;
const FUNCTION_COUNT: usize = 64;
const STRUCTURE_COUNT: usize = 72;

const BIND_INFO_SIZE: u32 = 0x30;
const BIND_INFO2_SIZE: u32 = 0x58;

exports! {
    module "wdfldr.sys";

    /// Called by the entry point that a driver is linked with; source: `fxldr.h` of the framework
    /// (<https://github.com/microsoft/Windows-Driver-Frameworks>).
    fn WdfVersionBind(call, driver_object: usize, registry_path: In<UnicodeString>, info: Out<BindInfo>, globals: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        match bind(&call, driver_object, registry_path, info) {
            Ok(address) => {
                globals.set(address);
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// Source: `fxldr.h` of the framework (<https://github.com/microsoft/Windows-Driver-Frameworks>).
    fn WdfVersionUnbind(call, registry_path: In<UnicodeString>, info: Out<BindInfo>, globals: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE;
    {
        unbind(&call, globals);
        NtStatus::SUCCESS
    }

    /// Class extensions do not exist here, so a driver without one only asks pro forma.
    /// Source: `fxldr.h` of the framework (<https://github.com/microsoft/Windows-Driver-Frameworks>).
    fn WdfVersionBindClass(call, info: usize, globals: usize, class_info: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        NtStatus::SUCCESS
    }

    /// Source: `fxldr.h` of the framework (<https://github.com/microsoft/Windows-Driver-Frameworks>).
    fn WdfVersionUnbindClass(call, info: usize, globals: usize, class_info: usize),
    irql PASSIVE..=PASSIVE;
    {
    }

    /// For debuggers and class extensions; no interface is offered.
    /// Source: `fxldr.h` of the framework (<https://github.com/microsoft/Windows-Driver-Frameworks>).
    fn WdfLdrQueryInterface(call, interface: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE;
    {
        NtStatus::NOT_SUPPORTED
    }
}

fn bind(
    call: &Call<'_>,
    driver_object: usize,
    registry_path: In<UnicodeString>,
    info: Out<BindInfo>,
) -> Result<usize, NtStatus> {
    let bind = info.get().ok_or(NtStatus::INVALID_PARAMETER)?;
    let framework = call.machine().kmdf();
    let newest = framework.version();
    let extended = match bind.size {
        BIND_INFO_SIZE => false,
        BIND_INFO2_SIZE => true,
        _ => return Err(NtStatus::INVALID_PARAMETER),
    };
    if bind.component.string().as_deref() != Some("KmdfLibrary")
        || bind.major != 1
        || bind.function_table.is_null()
    {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let count = if bind.minor <= newest {
        let count = functions_of(bind.minor).ok_or(NtStatus::OBJECT_TYPE_MISMATCH)?;
        if bind.function_count != count {
            call.violation(
                &ARGUMENT,
                format!(
                    "KMDF 1.{} has {count} functions, not {}",
                    bind.minor, bind.function_count
                ),
            );
            return Err(NtStatus::INVALID_PARAMETER);
        }
        if extended {
            info.offset::<Out<u8>>(CLIENT_VERSION_HIGHER)
                .get()
                .map(|higher| higher.set(0));
        }
        count
    } else {
        // A newer driver that says it can do with less is told how much there is.
        let minimum = info
            .offset::<Out<u32>>(MINIMUM_VERSION_REQUIRED)
            .get()
            .filter(|_| extended)
            .and_then(Out::get);
        let count = minimum
            .filter(|minimum| *minimum <= newest)
            .and_then(|_| functions_of(newest));
        let count = count.ok_or(NtStatus::REVISION_MISMATCH)?;
        info.offset::<Out<u8>>(CLIENT_VERSION_HIGHER)
            .get()
            .map(|higher| higher.set(1));
        info.offset::<Out<u32>>(FUNCTION_COUNT)
            .get()
            .map(|pointer| pointer.set(count));
        info.offset::<Out<u32>>(STRUCTURE_COUNT)
            .get()
            .map(|pointer| pointer.set(STRUCTURES));
        count
    };
    let table = framework.table.get_or_init(|| {
        (0..FUNCTIONS.len())
            .map(|index| make_stub(call.machine().thunks(), index))
            .collect()
    });
    let table: Vec<u8> = table
        .iter()
        .take(count as usize)
        .flat_map(|slot| slot.to_le_bytes())
        .collect();
    let shared = if bind.function_count <= COPIED_AT_MOST {
        for (index, slot) in table.chunks_exact(8).enumerate() {
            let slot = slot.try_into().map_or(0, usize::from_le_bytes);
            bind.function_table.offset::<usize>(index * 8).set(slot);
        }
        None
    } else {
        let shared = Guarded::holding(&table);
        bind.function_table.set(shared.address());
        Some(shared)
    };
    let registry_path = text(registry_path).unwrap_or_default();
    let client = Client {
        globals: make_globals(&registry_path),
        _table: shared,
        minor: bind.minor.min(newest),
        driver_object,
        registry_path,
        driver: None,
    };
    let address = client.globals.address();
    framework.lock().clients.insert(address, client);
    Ok(address)
}

fn make_globals(registry_path: &str) -> Guarded {
    let globals = Guarded::new(GLOBALS_SIZE);
    let service = registry_path.rsplit('\\').next().unwrap_or_default();
    let name: Vec<u8> = service.bytes().take(DRIVER_NAME_LEN).collect();
    globals.write(DRIVER_NAME, &name);
    globals.put(DISPLACE_DRIVER_UNLOAD, [1]);
    globals
}

/// Deletes the driver object with all that is below it, and reports what survives.
fn unbind(call: &Call<'_>, globals: usize) {
    let cpu = call.cpu();
    let framework = call.machine().kmdf();
    let Some(driver) = framework
        .lock()
        .clients
        .get(&globals)
        .map(|client| client.driver)
    else {
        call.violation(
            &ARGUMENT,
            format!("{globals:#x} are not the globals of a bound driver"),
        );
        return;
    };
    report_requests(call, globals);
    if let Some(driver) = driver {
        life::delete(cpu, driver);
    }
    // Deletions that were put off, and the close of files.
    call.machine().run_pending(cpu);
    let mut state = framework.lock();
    let left = state.objects_of(globals);
    for (id, _) in &left {
        state.remove(*id);
    }
    state
        .irps
        .retain(|_, id| !left.iter().any(|(gone, _)| gone == id));
    state.clients.remove(&globals);
    drop(state);
    for (id, kind) in left {
        let message = format!("the {} {:#x} is still referenced", kind.name(), id.handle());
        call.violation(&UNLOAD_LEFT, message);
    }
}

/// Requests that the driver holds when it goes away are never completed.
fn report_requests(call: &Call<'_>, globals: usize) {
    let left: Vec<(Id, String)> = {
        let mut state = call.machine().kmdf().lock();
        let mut requests = state.objects_of(globals);
        requests.retain(|(id, kind)| {
            *kind == Kind::Request
                && state
                    .get(*id)
                    .is_some_and(|request| request.phase == Phase::Live)
        });
        requests
            .into_iter()
            .filter_map(|(id, _)| {
                let request = state.request(id)?;
                // One that the driver made and nobody has goes with the driver.
                let is_under_way = request.irp.is_some()
                    || request
                        .sending
                        .as_ref()
                        .is_some_and(|sending| sending.is_sent());
                is_under_way.then(|| (id, request.describe()))
            })
            .collect()
    };
    for (id, what) in left {
        call.violation(
            &REQUEST_LEFT,
            format!(
                "the WDFREQUEST {:#x} ({what}) was not completed",
                id.handle()
            ),
        );
    }
}
