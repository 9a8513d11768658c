//! WDFFILEOBJECT: open, cleanup and close.

use std::sync::Arc;

use wfp_schema::NtStatus;

use super::attributes::Attributes;
use super::life;
use super::object::{Body, Id, Kind, resolve};
use super::request::{self, Owner};
use super::sync::Manner;
use super::{abi::Level, queue};
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::exports;
use crate::nt::io;
use crate::nt::io_irp::{Irp, Major};

/// What a WDFFILEOBJECT holds.
#[derive(Debug)]
pub(crate) struct FileObject {
    wdm: Arc<io::FileObject>,
    device: Id,
}

impl FileObject {
    /// The address of the `FILE_OBJECT`.
    pub(crate) fn address(&self) -> usize {
        self.wdm.address()
    }
}

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdffileobject/nf-wdffileobject-wdffileobjectgetfilename>
    fn WdfFileObjectGetFileName(call, globals: usize, file: usize) -> usize,
    irql PASSIVE..=PASSIVE;
    {
        let id = resolve(&call, file, Kind::File);
        call.machine().kmdf().lock().file(id).map_or(0, |file| file.wdm.file_name())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdffileobject/nf-wdffileobject-wdffileobjectgetflags>
    fn WdfFileObjectGetFlags(call, globals: usize, file: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        resolve(&call, file, Kind::File);
        0
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdffileobject/nf-wdffileobject-wdffileobjectgetdevice>
    fn WdfFileObjectGetDevice(call, globals: usize, file: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, file, Kind::File);
        call.machine().kmdf().lock().file(id).map_or(0, |file| file.device.handle())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdffileobject/nf-wdffileobject-wdffileobjectwdmgetfileobject>
    fn WdfFileObjectWdmGetFileObject(call, globals: usize, file: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, file, Kind::File);
        call.machine().kmdf().lock().file(id).map_or(0, |file| file.wdm.address())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdffileobject/nf-wdffileobject-wdffileobjectgetinitiatorprocessid>
    fn WdfFileObjectGetInitiatorProcessId(call, globals: usize, file: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, file, Kind::File);
        call.machine().kmdf().lock().file(id).map_or(0, |file| file.wdm.caller().process)
    }
}

/// Callbacks of file objects run at passive level, with the device's lock where its scope is the device.
fn manner(cpu: &Cpu, device: Id) -> Manner {
    Manner::of(&cpu.machine().kmdf().lock(), device).at_level(Level::Passive)
}

/// `IRP_MJ_CREATE`.
pub(crate) fn create(cpu: &Cpu, device_id: Id, irp: &Arc<Irp>) {
    let opened = {
        let mut state = cpu.machine().kmdf().lock();
        let client = state.get(device_id).map_or(0, |device| device.client);
        let Some(device) = state.device(device_id) else {
            return;
        };
        let (config, queue) = (
            device.file,
            device.dispatching.get(&(Major::Create as u32)).copied(),
        );
        let attributes = config
            .map_or_else(Attributes::default, |config| config.attributes)
            .with_parent(device_id);
        let wants_object = config.is_some_and(|config| config.object);
        let body = FileObject {
            wdm: Arc::clone(&irp.file),
            device: device_id,
        };
        let file = if wants_object {
            state
                .create(client, &attributes, Body::File(Box::new(body)))
                .map(Some)
        } else {
            Ok(None)
        };
        if let (Ok(Some(file)), Some(device)) = (&file, state.device(device_id)) {
            device.files.insert(irp.file.address(), *file);
        }
        file.map(|file| (file, queue, config.and_then(|config| config.create)))
    };
    match opened {
        Err(status) => {
            irp.complete(cpu, status, 0);
        }
        Ok((_, Some(_), _)) => queue::arrive(cpu, device_id, irp),
        Ok((file, None, Some(callback))) => {
            match request::create(cpu, device_id, irp, Owner::Driver) {
                Ok(request) => {
                    let file = file.map_or(0, Id::handle);
                    let handles = (device_id.handle(), request.handle());
                    manner(cpu, device_id).call(
                        cpu,
                        Callback::new("EvtDeviceFileCreate", callback as usize),
                        || {
                            callback(handles.0, handles.1, file);
                        },
                    );
                }
                Err(status) => {
                    irp.complete(cpu, status, 0);
                }
            }
        }
        Ok((_, None, None)) => {
            irp.complete(cpu, NtStatus::SUCCESS, 0);
        }
    }
}

/// The create request was completed: a file that was not opened has no cleanup and no close.
pub(crate) fn create_completed(cpu: &Cpu, device: Id, file_object: usize, status: NtStatus) {
    if !status.is_success() {
        forget(cpu, device, file_object);
    }
}

/// `IRP_MJ_CLEANUP`: the handle is closed. The driver's callback first, then the file's requests on queues end.
pub(crate) fn cleanup(cpu: &Cpu, device: Id, irp: &Arc<Irp>) {
    let file_object = irp.file.address();
    if let Some((callback, file)) = callback(cpu, device, file_object, |config| config.cleanup) {
        manner(cpu, device).call(
            cpu,
            Callback::new("EvtFileCleanup", callback as usize),
            || callback(file),
        );
    }
    let queues = cpu
        .machine()
        .kmdf()
        .lock()
        .device(device)
        .map_or_else(Vec::new, |device| device.queues.clone());
    for queue in queues {
        queue::cancel_requests_of(cpu, queue, file_object);
    }
    irp.complete(cpu, NtStatus::SUCCESS, 0);
}

/// `IRP_MJ_CLOSE`: nothing refers to the file any more.
pub(crate) fn close(cpu: &Cpu, device: Id, irp: &Arc<Irp>) {
    let file_object = irp.file.address();
    if let Some((callback, file)) = callback(cpu, device, file_object, |config| config.close) {
        manner(cpu, device).call(
            cpu,
            Callback::new("EvtFileClose", callback as usize),
            || callback(file),
        );
    }
    forget(cpu, device, file_object);
    irp.complete(cpu, NtStatus::SUCCESS, 0);
}

fn callback<F>(
    cpu: &Cpu,
    device: Id,
    file_object: usize,
    choose: impl FnOnce(&super::device::FileConfig) -> Option<F>,
) -> Option<(F, usize)> {
    let mut state = cpu.machine().kmdf().lock();
    let device = state.device(device)?;
    let callback = choose(device.file.as_ref()?)?;
    Some((
        callback,
        device
            .files
            .get(&file_object)
            .map_or(0, |file| file.handle()),
    ))
}

fn forget(cpu: &Cpu, device: Id, file_object: usize) {
    let file = cpu
        .machine()
        .kmdf()
        .lock()
        .device(device)
        .and_then(|device| device.files.remove(&file_object));
    if let Some(file) = file {
        life::delete(cpu, file);
    }
}
