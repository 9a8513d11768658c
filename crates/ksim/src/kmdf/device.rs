//! WDFDEVICE: control devices, their names, and the requests that reach them.

use std::collections::HashMap;
use std::sync::Arc;

use wfp_schema::NtStatus;

use super::abi::{
    FileCreate, ObjectAttributes, ObjectCallback, RequestCallback, UnicodeString, status, text,
};
use super::attributes::{Attributes, Constraints, Parent};
use super::device_init::{DeviceInit, ShutdownNotification};
use super::memory::set_text;
use super::object::{Body, Id, Kind, not_null, resolve};
use super::preprocess::{self, Preprocess};
use super::sync::CallbackLock;
use super::{file, life, queue, request};
use crate::access::{In, Out};
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::nt::io::{
    self, DO_BUFFERED_IO, DO_DIRECT_IO, DO_EXCLUSIVE, DeviceDescription, Dispatch,
};
use crate::nt::io_irp::{Irp, Major};
use crate::nt::io_security::SecurityDescriptor;
use crate::verifier::{ARGUMENT, UNLOAD_LEFT};

pub(crate) use super::file::FileObject;

/// `WDF_DEVICE_IO_TYPE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum IoType {
    Neither,
    #[default]
    Buffered,
    Direct,
}

impl IoType {
    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Neither,
            2 => Self::Buffered,
            3 => Self::Direct,
            _ => return None,
        })
    }
}

/// `WDF_FILEOBJECT_CONFIG`, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileConfig {
    pub(crate) create: Option<FileCreate>,
    pub(crate) close: Option<ObjectCallback>,
    pub(crate) cleanup: Option<ObjectCallback>,
    /// Whether there are WDFFILEOBJECTs.
    pub(crate) object: bool,
    pub(crate) attributes: Attributes,
}

/// What a WDFDEVICE holds.
#[derive(Debug)]
pub(crate) struct Device {
    /// The device object, until the device is deleted.
    pub(crate) wdm: Option<Arc<io::Device>>,
    name: Option<String>,
    links: Vec<String>,
    pub(crate) file: Option<FileConfig>,
    pub(crate) request_attributes: Attributes,
    pub(crate) in_caller_context: Option<RequestCallback>,
    /// Who sees IRPs first, by major function.
    pub(crate) preprocess: Vec<(u8, Preprocess)>,
    pub(crate) callback_lock: CallbackLock,
    pub(crate) queues: Vec<Id>,
    pub(crate) default_queue: Option<Id>,
    /// Queues for one kind of request, by `WDF_REQUEST_TYPE`.
    pub(crate) dispatching: HashMap<u32, Id>,
    /// WDFFILEOBJECTs by the address of the `FILE_OBJECT`.
    pub(crate) files: HashMap<usize, Id>,
    pub(super) characteristics: u32,
    /// `FILE_*_ALIGNMENT`.
    pub(super) alignment: u32,
    shutdown: ShutdownNotification,
}

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicecreate>
    fn WdfDeviceCreate(call, globals: usize, init: Out<usize>, attributes: In<ObjectAttributes>, device: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, init.address(), "DeviceInit");
        not_null(&call, device.address(), "Device");
        match create(&call, init.get().unwrap_or(0), attributes) {
            Ok(id) => {
                init.set(0);
                device.set(id.handle());
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfcontrol/nf-wdfcontrol-wdfcontrolfinishinitializing>
    fn WdfControlFinishInitializing(call, globals: usize, device: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, device, Kind::Device);
        if let Some(device) = call.machine().kmdf().lock().device(id).and_then(|device| device.wdm.clone()) {
            device.finish_initializing();
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicecreatesymboliclink>
    fn WdfDeviceCreateSymbolicLink(call, globals: usize, device: usize, link: In<UnicodeString>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let id = resolve(&call, device, Kind::Device);
        not_null(&call, link.address(), "SymbolicLinkName");
        let link = text(link).unwrap_or_default();
        match create_link(&call, id, link) {
            Ok(()) => NtStatus::SUCCESS,
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicewdmgetdeviceobject>
    fn WdfDeviceWdmGetDeviceObject(call, globals: usize, device: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, device, Kind::Device);
        let wdm = call.machine().kmdf().lock().device(id).and_then(|device| device.wdm.clone());
        wdm.map_or(0, |device| device.address())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfwdmdevicegetwdfdevicehandle>
    fn WdfWdmDeviceGetWdfDeviceHandle(call, globals: usize, device_object: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let mut state = call.machine().kmdf().lock();
        let devices = state.objects_of(globals);
        let found = devices.into_iter().find(|(id, _)| {
            let wdm = state.device(*id).and_then(|device| device.wdm.as_ref());
            wdm.is_some_and(|device| device.address() == device_object)
        });
        found.map_or(0, |(id, _)| id.handle())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicegetdriver>
    fn WdfDeviceGetDriver(call, globals: usize, device: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, device, Kind::Device);
        let state = call.machine().kmdf().lock();
        state.ancestor(id, Kind::Driver).map_or(0, Id::handle)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicegetdefaultqueue>
    fn WdfDeviceGetDefaultQueue(call, globals: usize, device: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, device, Kind::Device);
        let queue = call.machine().kmdf().lock().device(id).and_then(|device| device.default_queue);
        queue.map_or(0, Id::handle)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceconfigurerequestdispatching>
    fn WdfDeviceConfigureRequestDispatching(call, globals: usize, device: usize, queue: usize, request_type: u32) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let id = resolve(&call, device, Kind::Device);
        let queue = resolve(&call, queue, Kind::Queue);
        configure_dispatching(&call, id, queue, request_type)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceenqueuerequest>
    fn WdfDeviceEnqueueRequest(call, globals: usize, device: usize, request: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails status::BUSY;
    {
        let device = resolve(&call, device, Kind::Device);
        let request = resolve(&call, request, Kind::Request);
        queue::enqueue_from_caller_context(&call, device, request)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicegetfileobject>
    fn WdfDeviceGetFileObject(call, globals: usize, device: usize, file_object: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, device, Kind::Device);
        let file = call.machine().kmdf().lock().device(id).and_then(|device| device.files.get(&file_object).copied());
        file.map_or(0, Id::handle)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceretrievedevicename>
    fn WdfDeviceRetrieveDeviceName(call, globals: usize, device: usize, string: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let id = resolve(&call, device, Kind::Device);
        let string = resolve(&call, string, Kind::Text);
        let name = call.machine().kmdf().lock().device(id).and_then(|device| device.name.clone());
        name.map_or(NtStatus::INVALID_DEVICE_REQUEST, |name| {
            set_text(&call, string, &name);
            NtStatus::SUCCESS
        })
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicegetcharacteristics>
    fn WdfDeviceGetCharacteristics(call, globals: usize, device: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, device, Kind::Device);
        call.machine().kmdf().lock().device(id).map_or(0, |device| device.characteristics)
    }
}

fn create(call: &Call<'_>, init: usize, attributes: In<ObjectAttributes>) -> Result<Id, NtStatus> {
    let init_id = resolve(call, init, Kind::DeviceInit);
    let attributes = Attributes::read(call, attributes, Parent::NotAllowed, Constraints::Both)?;
    let machine = call.machine();
    let (client, driver, driver_object, init) = {
        let mut state = machine.kmdf().lock();
        let (client, driver) = state
            .get(init_id)
            .map_or((0, None), |init| (init.client, init.parent));
        let driver_object = state
            .clients
            .get(&client)
            .map_or(0, |client| client.driver_object);
        let init = state
            .device_init(init_id)
            .map(std::mem::take)
            .unwrap_or_default();
        (client, driver, driver_object, init)
    };
    let outcome = create_from(call, &init, attributes, client, driver, driver_object);
    if outcome.is_ok() {
        life::delete(call.cpu(), init_id);
    } else if let Some(kept) = machine.kmdf().lock().device_init(init_id) {
        // The driver still owns it, and frees it or tries again.
        *kept = init;
    }
    outcome
}

fn create_from(
    call: &Call<'_>,
    init: &DeviceInit,
    attributes: Attributes,
    client: usize,
    driver: Option<Id>,
    driver_object: usize,
) -> Result<Id, NtStatus> {
    let driver = driver.ok_or(NtStatus::DELETE_PENDING)?;
    let security = match &init.sddl {
        Some(_) if init.name.is_none() => return Err(NtStatus::INVALID_SECURITY_DESCR),
        Some(sddl) => SecurityDescriptor::parse(sddl).map_err(|error| {
            call.violation(&ARGUMENT, error.to_string());
            NtStatus::INVALID_PARAMETER
        })?,
        None => SecurityDescriptor::default(),
    };
    let io_flags = match init.io_type {
        IoType::Neither => 0,
        IoType::Buffered => DO_BUFFERED_IO,
        IoType::Direct => DO_DIRECT_IO,
    };
    let description = DeviceDescription {
        name: init.name.clone(),
        security,
        device_type: init.device_type,
        characteristics: init.characteristics,
        flags: io_flags | if init.exclusive { DO_EXCLUSIVE } else { 0 },
        driver: driver_object,
        extension: 0,
    };
    let device = Device {
        wdm: None,
        name: init.name.clone(),
        links: Vec::new(),
        file: init.file,
        request_attributes: init.request_attributes,
        in_caller_context: init.in_caller_context,
        preprocess: init.preprocess.clone(),
        callback_lock: CallbackLock::default(),
        queues: Vec::new(),
        default_queue: None,
        dispatching: HashMap::new(),
        files: HashMap::new(),
        characteristics: init.characteristics,
        alignment: 0,
        shutdown: init.shutdown,
    };
    let machine = call.machine();
    let id = machine.kmdf().lock().create(
        client,
        &attributes.with_parent(driver),
        Body::Device(Box::new(device)),
    )?;
    match machine
        .io()
        .create_device(&description, Arc::new(Route(id)))
    {
        Ok(wdm) => {
            let power = machine.nt().power();
            for (wanted, last) in [
                (init.shutdown.first_chance, false),
                (init.shutdown.last_chance, true),
            ] {
                if wanted {
                    power.tell_of_shutdown(wdm.address(), last);
                }
            }
            if let Some(device) = machine.kmdf().lock().device(id) {
                device.wdm = Some(wdm);
            }
            Ok(id)
        }
        Err(status) => {
            life::delete(call.cpu(), id);
            Err(status)
        }
    }
}

fn create_link(call: &Call<'_>, id: Id, link: String) -> Result<(), NtStatus> {
    let machine = call.machine();
    let name = machine
        .kmdf()
        .lock()
        .device(id)
        .and_then(|device| device.name.clone());
    let name = name.ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
    machine.io().create_symbolic_link(&link, &name)?;
    if let Some(device) = machine.kmdf().lock().device(id) {
        device.links.push(link);
    }
    Ok(())
}

fn configure_dispatching(call: &Call<'_>, device: Id, queue: Id, request_type: u32) -> NtStatus {
    let mut state = call.machine().kmdf().lock();
    if state
        .queue(queue)
        .is_none_or(|queue| queue.device != device)
    {
        return NtStatus::INVALID_DEVICE_REQUEST;
    }
    let Some(device) = state.device(device) else {
        return NtStatus::DELETE_PENDING;
    };
    let known = [
        Major::Create as u32,
        Major::Read as u32,
        Major::Write as u32,
        Major::DeviceControl as u32,
        0xf,
    ];
    if !known.contains(&request_type) {
        return NtStatus::INVALID_PARAMETER;
    }
    if device.dispatching.contains_key(&request_type) {
        return status::BUSY;
    }
    device.dispatching.insert(request_type, queue);
    NtStatus::SUCCESS
}

/// Takes a device's names away when it is deleted.
pub(crate) fn dispose(cpu: &Cpu, id: Id) {
    let machine = cpu.machine();
    let Some((wdm, links)) = machine
        .kmdf()
        .lock()
        .device(id)
        .map(|device| (device.wdm.take(), std::mem::take(&mut device.links)))
    else {
        return;
    };
    for link in links {
        machine.io().delete_symbolic_link(&link);
    }
    if let Some(wdm) = wdm {
        machine.nt().power().forget_shutdown(wdm.address());
        machine.io().delete_device(&wdm);
        if wdm.handles() > 0 {
            let message = format!(
                "a device was deleted while {} handles to it are open",
                wdm.handles()
            );
            machine.verifier().violation_at(cpu, &UNLOAD_LEFT, message);
        }
    }
}

/// `IRP_MJ_SHUTDOWN`: the driver is told, and the request is complete.
fn shut_down(cpu: &Cpu, id: Id, irp: &Arc<Irp>) {
    let callback = {
        let mut state = cpu.machine().kmdf().lock();
        state.device(id).and_then(|device| device.shutdown.callback)
    };
    if let Some(callback) = callback {
        let function = Callback::new("EvtDeviceShutdownNotification", callback as usize);
        cpu.enter_driver(function, PASSIVE, || {
            callback(id.handle());
        });
    }
    irp.complete(cpu, NtStatus::SUCCESS, 0);
}

/// Gives the framework an IRP for one of its devices.
pub(super) fn route(cpu: &Cpu, id: Id, irp: &Arc<Irp>) {
    let known = cpu.machine().kmdf().lock().device(id).is_some();
    match irp.major {
        _ if !known => {
            irp.complete(cpu, NtStatus::NO_SUCH_DEVICE, 0);
        }
        Major::Create => file::create(cpu, id, irp),
        Major::Cleanup => file::cleanup(cpu, id, irp),
        Major::Close => file::close(cpu, id, irp),
        Major::Shutdown => shut_down(cpu, id, irp),
        Major::Read | Major::Write | Major::DeviceControl => queue::arrive(cpu, id, irp),
    }
}

/// The framework's dispatch routines for one device.
#[derive(Debug)]
struct Route(Id);

impl Dispatch for Route {
    fn dispatch(&self, cpu: &Cpu, irp: &Arc<Irp>) {
        if !preprocess::shown(cpu, self.0, irp) {
            route(cpu, self.0, irp);
        }
    }

    fn cancel(&self, cpu: &Cpu, irp: &Arc<Irp>) {
        request::cancel(cpu, irp);
    }
}
