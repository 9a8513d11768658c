//! WDFIOTARGET: another driver's device, opened by its name, with requests that are waited for.

use std::sync::Arc;

use wfp_schema::NtStatus;

use super::abi::{MemoryOffset, ObjectAttributes, UnicodeString, sized};
use super::attributes::{Attributes, Constraints, Parent};
use super::object::{Body, Id, Kind, State, not_null, resolve};
use super::{memory, sent};
use crate::access::{In, Out, plain};
use crate::cpu::{Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::ndis::layout::{Mdl, layout};
use crate::nt::io::FileObject;
use crate::nt::io_irp::{Completion, Major, Method, Parameters};
use crate::nt::io_kernel;
use crate::time::Ticks;
use crate::verifier::ARGUMENT;

/// `WDF_IO_TARGET_STATE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum TargetState {
    Started = 1,
    Stopped = 2,
    ClosedForQueryRemove = 3,
    Closed = 4,
}

/// What a WDFIOTARGET holds.
#[derive(Debug)]
pub(crate) struct Target {
    device: Id,
    state: TargetState,
    /// What is open, and by which name it can be opened again.
    file: Option<Arc<FileObject>>,
    name: String,
}

/// `WDF_IO_TARGET_OPEN_PARAMS`, without what later versions have at the end.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenParameters {
    size: u32,
    kind: u32,
    query_remove: usize,
    remove_canceled: usize,
    remove_complete: usize,
    target_device_object: usize,
    target_file_object: usize,
    target_device_name: UnicodeString,
    desired_access: u32,
    share_access: u32,
    file_attributes: u32,
    create_disposition: u32,
    create_options: u32,
    ea_buffer: usize,
    ea_buffer_length: u32,
    allocation_size: usize,
    file_information: u32,
}

/// `WDF_MEMORY_DESCRIPTOR`: a buffer, an MDL or a memory object.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryDescriptor {
    kind: u32,
    /// The union, as its two words: an address, then a length or the address of a part.
    words: [u64; 2],
}

/// `WDF_REQUEST_SEND_OPTIONS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendOptions {
    size: u32,
    pub(super) flags: u32,
    pub(super) timeout: i64,
}

plain!(OpenParameters, MemoryDescriptor, SendOptions);

#[cfg(test)]
impl OpenParameters {
    /// What the header's initializer makes.
    pub(crate) fn new(kind: u32, name: UnicodeString) -> Self {
        Self {
            size: OPEN_SIZES[0],
            kind,
            query_remove: 0,
            remove_canceled: 0,
            remove_complete: 0,
            target_device_object: 0,
            target_file_object: 0,
            target_device_name: name,
            desired_access: 0,
            share_access: 0,
            file_attributes: 0,
            create_disposition: 0,
            create_options: 0,
            ea_buffer: 0,
            ea_buffer_length: 0,
            allocation_size: 0,
            file_information: 0,
        }
    }
}

#[cfg(test)]
impl MemoryDescriptor {
    pub(crate) const fn of_buffer(address: usize, length: usize) -> Self {
        Self {
            kind: 1,
            words: [address as u64, length as u64],
        }
    }

    pub(crate) const fn of_object(memory: usize) -> Self {
        Self {
            kind: 3,
            words: [memory as u64, 0],
        }
    }
}

#[cfg(test)]
impl SendOptions {
    pub(crate) const fn new(flags: u32, timeout: i64) -> Self {
        Self {
            size: 16,
            flags,
            timeout,
        }
    }
}

layout! {
    OpenParameters 120 {
        size @ 0, kind @ 4, query_remove @ 8, remove_canceled @ 16, remove_complete @ 24, target_device_object @ 32,
        target_file_object @ 40, target_device_name @ 48, desired_access @ 64, share_access @ 68,
        file_attributes @ 72, create_disposition @ 76, create_options @ 80, ea_buffer @ 88, ea_buffer_length @ 96,
        allocation_size @ 104, file_information @ 112,
    }
    MemoryDescriptor 24 { kind @ 0, words @ 8 }
    SendOptions 16 { size @ 0, flags @ 4, timeout @ 8 }
}

/// `sizeof(WDF_IO_TARGET_OPEN_PARAMS)` without and with `FileName`.
const OPEN_SIZES: [u32; 2] = [120, 136];
/// `WdfIoTargetOpenByName`.
const BY_NAME: u32 = 2;
/// `WdfIoTargetOpenReopen`.
const REOPEN: u32 = 3;
/// `WdfIoTargetCancelSentIo`.
const CANCEL_SENT: u32 = 1;
/// `WDF_REQUEST_SEND_OPTION_TIMEOUT`.
const TIMEOUT: u32 = 0x1;
/// `WDF_REQUEST_SEND_OPTION_IGNORE_TARGET_STATE`.
const IGNORE_STATE: u32 = 0x4;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetcreate>
    fn WdfIoTargetCreate(call, globals: usize, device: usize, attributes: In<ObjectAttributes>, target: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let device = resolve(&call, device, Kind::Device);
        not_null(&call, target.address(), "IoTarget");
        let attributes = match Attributes::read(&call, attributes, Parent::Allowed, Constraints::None) {
            Ok(attributes) => attributes.or_below(Some(device)),
            Err(status) => return status,
        };
        let body = Target { device, state: TargetState::Closed, file: None, name: String::new() };
        let created = {
            let mut state = call.machine().kmdf().lock();
            let client = state.get(device).map_or(0, |device| device.client);
            state.create(client, &attributes, Body::Target(Box::new(body)))
        };
        match created {
            Ok(id) => {
                target.set(id.handle());
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// By name, or again.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetopen>
    fn WdfIoTargetOpen(call, globals: usize, target: usize, parameters: In<OpenParameters>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::OBJECT_NAME_NOT_FOUND;
    {
        let id = resolve(&call, target, Kind::Target);
        not_null(&call, parameters.address(), "OpenParams");
        match open(&call, id, parameters) {
            Ok(()) => NtStatus::SUCCESS,
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetclose>
    fn WdfIoTargetClose(call, globals: usize, target: usize),
    irql PASSIVE..=PASSIVE;
    {
        let id = resolve(&call, target, Kind::Target);
        close(call.cpu(), id, TargetState::Closed);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetcloseforqueryremove>
    fn WdfIoTargetCloseForQueryRemove(call, globals: usize, target: usize),
    irql PASSIVE..=PASSIVE;
    {
        let id = resolve(&call, target, Kind::Target);
        close(call.cpu(), id, TargetState::ClosedForQueryRemove);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetstart>
    fn WdfIoTargetStart(call, globals: usize, target: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, target, Kind::Target);
        change(&call, id, TargetState::Started)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetstop>
    fn WdfIoTargetStop(call, globals: usize, target: usize, action: u32),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, target, Kind::Target);
        if !(1..=3).contains(&action) {
            call.violation(&ARGUMENT, format!("{action} is not a WDF_IO_TARGET_SENT_IO_ACTION"));
        }
        change(&call, id, TargetState::Stopped);
        if action == CANCEL_SENT {
            sent::end_all(call.cpu(), id);
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetgetstate>
    fn WdfIoTargetGetState(call, globals: usize, target: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, target, Kind::Target);
        call.machine().kmdf().lock().target(id).map_or(0, |target| target.state as u32)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetgetdevice>
    fn WdfIoTargetGetDevice(call, globals: usize, target: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, target, Kind::Target);
        call.machine().kmdf().lock().target(id).map_or(0, |target| target.device.handle())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetwdmgettargetdeviceobject>
    fn WdfIoTargetWdmGetTargetDeviceObject(call, globals: usize, target: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, target, Kind::Target);
        let mut state = call.machine().kmdf().lock();
        let file = state.target(id).and_then(|target| target.file.as_ref());
        file.map_or(0, |file| file.device().address())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetwdmgettargetfileobject>
    fn WdfIoTargetWdmGetTargetFileObject(call, globals: usize, target: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, target, Kind::Target);
        let mut state = call.machine().kmdf().lock();
        state.target(id).and_then(|target| target.file.as_ref()).map_or(0, |file| file.address())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetsendioctlsynchronously>
    fn WdfIoTargetSendIoctlSynchronously(
        call, globals: usize, target: usize, request: usize, code: u32, input: In<MemoryDescriptor>,
        output: In<MemoryDescriptor>, options: In<SendOptions>, returned: Out<usize>,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let parameters = |input, output| Parameters {
            major: Major::DeviceControl,
            code,
            method: Method::of_code(code),
            input,
            output,
        };
        send(&call, target, request, (input, output), options, returned, parameters)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetsendreadsynchronously>
    fn WdfIoTargetSendReadSynchronously(
        call, globals: usize, target: usize, request: usize, output: In<MemoryDescriptor>, offset: In<i64>,
        options: In<SendOptions>, read: Out<usize>,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let method = method(&call, target);
        let parameters = |input, output| Parameters { method, input, output, ..Parameters::plain(Major::Read) };
        send(&call, target, request, (In::null(), output), options, read, parameters)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetsendwritesynchronously>
    fn WdfIoTargetSendWriteSynchronously(
        call, globals: usize, target: usize, request: usize, input: In<MemoryDescriptor>, offset: In<i64>,
        options: In<SendOptions>, written: Out<usize>,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let method = method(&call, target);
        let parameters = |input, output| Parameters { method, input, output, ..Parameters::plain(Major::Write) };
        send(&call, target, request, (input, In::null()), options, written, parameters)
    }
}

fn open(call: &Call<'_>, id: Id, parameters: In<OpenParameters>) -> Result<(), NtStatus> {
    let wants = sized(parameters, |wants| wants.size, &OPEN_SIZES)?;
    let known = {
        let mut state = call.machine().kmdf().lock();
        let target = state.target(id).ok_or(NtStatus::DELETE_PENDING)?;
        if target.file.is_some() {
            return Err(NtStatus::INVALID_DEVICE_STATE);
        }
        target.name.clone()
    };
    let name = match wants.kind {
        BY_NAME => wants.target_device_name.text().unwrap_or_default(),
        REOPEN if !known.is_empty() => known,
        REOPEN => return Err(NtStatus::INVALID_DEVICE_STATE),
        other => {
            call.violation(
                &ARGUMENT,
                format!("a target is opened by its name here, not in the manner {other}"),
            );
            return Err(NtStatus::NOT_SUPPORTED);
        }
    };
    let file = io_kernel::open(call.cpu(), &name)?;
    if let Some(target) = call.machine().kmdf().lock().target(id) {
        (target.file, target.name, target.state) = (Some(file), name, TargetState::Started);
    }
    Ok(())
}

/// Starts or stops a target that is open.
fn change(call: &Call<'_>, id: Id, to: TargetState) -> NtStatus {
    let mut state = call.machine().kmdf().lock();
    match state.target(id).filter(|target| target.file.is_some()) {
        Some(target) => {
            target.state = to;
            NtStatus::SUCCESS
        }
        None => NtStatus::INVALID_DEVICE_STATE,
    }
}

/// What is open behind a target to which requests may be sent.
///
/// # Errors
/// `STATUS_INVALID_DEVICE_STATE` when it is not started, or closed.
pub(super) fn ready(
    state: &mut State,
    id: Id,
    ignores_state: bool,
) -> Result<Arc<FileObject>, NtStatus> {
    let target = state.target(id).ok_or(NtStatus::DELETE_PENDING)?;
    let ready = target.state == TargetState::Started || ignores_state;
    let file = target.file.clone().filter(|_| ready);
    file.ok_or(NtStatus::INVALID_DEVICE_STATE)
}

fn close(cpu: &Cpu, id: Id, state: TargetState) {
    sent::end_all(cpu, id);
    let file = {
        let mut framework = cpu.machine().kmdf().lock();
        framework.target(id).and_then(|target| {
            target.state = state;
            target.file.take()
        })
    };
    if let Some(file) = file {
        io_kernel::close(cpu, &file);
    }
}

/// A target is deleted: it is closed.
pub(crate) fn dispose(cpu: &Cpu, id: Id) {
    close(cpu, id, TargetState::Closed);
}

fn method(call: &Call<'_>, target: usize) -> Method {
    let id = resolve(call, target, Kind::Target);
    let mut state = call.machine().kmdf().lock();
    let file = state.target(id).and_then(|target| target.file.as_ref());
    file.map_or(Method::Neither, |file| file.device().read_write_method())
}

fn send(
    call: &Call<'_>,
    target: usize,
    request: usize,
    (input, output): (In<MemoryDescriptor>, In<MemoryDescriptor>),
    options: In<SendOptions>,
    transferred: Out<usize>,
    parameters: impl FnOnce(Vec<u8>, Vec<u8>) -> Parameters,
) -> NtStatus {
    let id = resolve(call, target, Kind::Target);
    if request != 0 {
        // Only lends its memory on Windows; here the packet is always a new one.
        resolve(call, request, Kind::Request);
    }
    let sent = || -> Result<Completion, NtStatus> {
        let options = options
            .get()
            .map(|_| sized(options, |options| options.size, &[16]))
            .transpose()?;
        let has = |flag| options.is_some_and(|options| options.flags & flag != 0);
        let file = {
            let mut state = call.machine().kmdf().lock();
            ready(&mut state, id, has(IGNORE_STATE))?
        };
        let (input, room) = (read(call, input)?, read(call, output)?);
        let timeout = options
            .filter(|_| has(TIMEOUT))
            .map(|options| -> Ticks { options.timeout.unsigned_abs() });
        let completion = io_kernel::send(call.cpu(), &file, parameters(input, room), timeout)?;
        write(call, output, &completion.output)?;
        Ok(completion)
    };
    match sent() {
        Ok(completion) => {
            transferred.set(completion.information);
            completion.status
        }
        Err(status) => status,
    }
}

/// The bytes that a descriptor stands for, if there is one.
enum Described {
    Nothing,
    Bytes(Out<u8>, usize),
    Object(Id, Option<MemoryOffset>),
}

fn described(call: &Call<'_>, descriptor: In<MemoryDescriptor>) -> Result<Described, NtStatus> {
    let Some(descriptor) = descriptor.get() else {
        return Ok(Described::Nothing);
    };
    let [buffer, rest] = descriptor.words;
    let address = usize::try_from(buffer).unwrap_or(0);
    // Behind a 32-bit length is padding.
    let length = usize::try_from(rest & u64::from(u32::MAX)).unwrap_or(0);
    // SAFETY: where the driver says that its buffer is (a trap otherwise).
    let at = |address: usize| unsafe { Out::new(address as *mut u8) };
    match descriptor.kind {
        1 => Ok(Described::Bytes(at(address), length)),
        2 => {
            let mdl = In::<Mdl>::member(buffer).get();
            let mdl = mdl.ok_or(NtStatus::INVALID_PARAMETER)?;
            let length = if length == 0 {
                mdl.byte_count as usize
            } else {
                length
            };
            Ok(Described::Bytes(mdl.buffer(), length))
        }
        3 => {
            let id = resolve(call, address, Kind::Memory);
            let part = In::<MemoryOffset>::member(rest).get();
            Ok(Described::Object(id, part))
        }
        _ => Err(NtStatus::INVALID_PARAMETER),
    }
}

fn read(call: &Call<'_>, descriptor: In<MemoryDescriptor>) -> Result<Vec<u8>, NtStatus> {
    match described(call, descriptor)? {
        Described::Nothing => Ok(Vec::new()),
        Described::Bytes(from, length) => {
            let mut bytes = vec![0; length];
            from.as_in().copy_to(&mut bytes);
            Ok(bytes)
        }
        Described::Object(id, part) => memory::read(call, id, part),
    }
}

fn write(call: &Call<'_>, descriptor: In<MemoryDescriptor>, bytes: &[u8]) -> Result<(), NtStatus> {
    if bytes.is_empty() {
        return Ok(());
    }
    match described(call, descriptor)? {
        Described::Nothing => Ok(()),
        Described::Bytes(to, length) => {
            to.copy_from(&bytes[..bytes.len().min(length)]);
            Ok(())
        }
        Described::Object(id, part) => memory::write(call, id, part, bytes),
    }
}
