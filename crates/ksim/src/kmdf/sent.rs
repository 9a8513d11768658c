//! Requests that a driver makes itself or hands on: formatted for a target, sent, and completed by the other side.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/wdf/sending-i-o-requests-asynchronously>

use std::sync::Arc;

use wfp_schema::NtStatus;

use super::abi::{MemoryOffset, ObjectAttributes};
use super::attributes::{Attributes, Constraints, Parent};
use super::object::{Body, Id, Kind, State, client, fatal, not_null, resolve};
use super::request::Request;
use super::target::{self, SendOptions};
use super::{memory, request};
use crate::access::{In, Out, Shared, plain};
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::ndis::layout::layout;
use crate::nt::io_irp::{Completion, Irp, Major, Method, Parameters};
use crate::time::Ticks;
use crate::verifier::{ARGUMENT, IRQL_RANGE, REQUEST_COMPLETION, REQUEST_LEFT, REQUEST_OWNERSHIP};

/// `EVT_WDF_REQUEST_COMPLETION_ROUTINE`: request, target, parameters, context.
type Routine = extern "win64" fn(usize, usize, In<CompletionParameters>, usize);

/// A memory object, and which part of it.
type Part = (Id, Option<MemoryOffset>);

/// What a request is for, once it is formatted.
#[derive(Debug, Clone, Copy)]
struct Format {
    major: Major,
    code: u32,
    input: Option<Part>,
    output: Option<Part>,
}

/// What a request is that goes to a target.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    format: Option<Format>,
    routine: Option<(Routine, usize)>,
    /// The packet while it is on its way, and the target.
    sent: Option<(Arc<Irp>, Id)>,
    /// How it ended the last time.
    status: Option<NtStatus>,
    information: usize,
}

impl Sending {
    /// Whether the other side has it.
    pub(crate) const fn is_sent(&self) -> bool {
        self.sent.is_some()
    }

    /// How it ended, or why it was not sent.
    pub(crate) const fn status(&self) -> NtStatus {
        match self.status {
            Some(status) => status,
            None if self.is_sent() => NtStatus::PENDING,
            None => NtStatus::SUCCESS,
        }
    }
}

/// `WDF_REQUEST_COMPLETION_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CompletionParameters {
    pub(crate) size: u32,
    pub(crate) kind: u32,
    pub(crate) status: u64,
    pub(crate) information: usize,
    /// The union: of a read or write memory, length, offset; of an I/O control the code, then input memory and offset,
    /// output memory, offset and length.
    pub(crate) words: [u64; 6],
}

/// `WDF_REQUEST_REUSE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReuseParameters {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) status: u32,
    pub(crate) new_irp: usize,
}

plain!(CompletionParameters, ReuseParameters);

layout! {
    CompletionParameters 72 { size @ 0, kind @ 4, status @ 8, information @ 16, words @ 24 }
    ReuseParameters 24 { size @ 0, flags @ 4, status @ 8, new_irp @ 16 }
}

/// `WDF_REQUEST_SEND_OPTION_TIMEOUT`.
const TIMEOUT: u32 = 0x1;
/// `WDF_REQUEST_SEND_OPTION_SYNCHRONOUS`.
const SYNCHRONOUS: u32 = 0x2;
/// `WDF_REQUEST_SEND_OPTION_IGNORE_TARGET_STATE`.
const IGNORE_STATE: u32 = 0x4;
/// `WDF_REQUEST_SEND_OPTION_SEND_AND_FORGET`.
const SEND_AND_FORGET: u32 = 0x8;
/// `STATUS_REQUEST_NOT_ACCEPTED`.
const REQUEST_NOT_ACCEPTED: NtStatus = NtStatus::from_u32(0xc000_00d0);
/// `WDF_REQUEST_FATAL_ERROR`.
const REQUEST_FATAL: u64 = 6;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestcreate>
    fn WdfRequestCreate(
        call, globals: usize, attributes: In<ObjectAttributes>, target: usize, request: Out<usize>,
    ) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, request.address(), "Request");
        if target != 0 {
            resolve(&call, target, Kind::Target);
        }
        let attributes = match Attributes::read(&call, attributes, Parent::Allowed, Constraints::None) {
            Ok(attributes) => attributes,
            Err(status) => return status,
        };
        let globals = client(&call, globals);
        let created = {
            let mut state = call.machine().kmdf().lock();
            let attributes = attributes.or_below_driver(&state, globals);
            state.create(globals, &attributes, Body::Request(Box::new(Request::made())))
        };
        match created {
            Ok(id) => {
                request.set(id.handle());
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestreuse>
    fn WdfRequestReuse(call, globals: usize, request: usize, parameters: In<ReuseParameters>) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        let id = at_hand(&call, request);
        not_null(&call, parameters.address(), "ReuseParams");
        let status = parameters.get().map_or(0, |parameters| parameters.status);
        if let Some(sending) = sending(&mut call.machine().kmdf().lock(), id) {
            *sending = Sending { status: Some(NtStatus::from_u32(status)), ..Sending::default() };
        }
        NtStatus::SUCCESS
    }

    /// Only whether the target may be another one: targets here take requests of one size.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestchangetarget>
    fn WdfRequestChangeTarget(call, globals: usize, request: usize, target: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails REQUEST_NOT_ACCEPTED;
    {
        at_hand(&call, request);
        resolve(&call, target, Kind::Target);
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetformatrequestforioctl>
    fn WdfIoTargetFormatRequestForIoctl(
        call, globals: usize, target: usize, request: usize, code: u32, input: usize, input_part: In<MemoryOffset>,
        output: usize, output_part: In<MemoryOffset>,
    ) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let format = Format {
            major: Major::DeviceControl,
            code,
            input: part(&call, input, input_part),
            output: part(&call, output, output_part),
        };
        self::format(&call, target, request, format)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetformatrequestforread>
    fn WdfIoTargetFormatRequestForRead(
        call, globals: usize, target: usize, request: usize, output: usize, output_part: In<MemoryOffset>,
        offset: In<i64>,
    ) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let output = part(&call, output, output_part);
        self::format(&call, target, request, Format { major: Major::Read, code: 0, input: None, output })
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfiotarget/nf-wdfiotarget-wdfiotargetformatrequestforwrite>
    fn WdfIoTargetFormatRequestForWrite(
        call, globals: usize, target: usize, request: usize, input: usize, input_part: In<MemoryOffset>,
        offset: In<i64>,
    ) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let input = part(&call, input, input_part);
        self::format(&call, target, request, Format { major: Major::Write, code: 0, input, output: None })
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestsetcompletionroutine>
    fn WdfRequestSetCompletionRoutine(call, globals: usize, request: usize, routine: Option<Routine>, context: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = at_hand(&call, request);
        if let Some(sending) = sending(&mut call.machine().kmdf().lock(), id) {
            sending.routine = routine.map(|routine| (routine, context));
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestsend>
    fn WdfRequestSend(call, globals: usize, request: usize, target: usize, options: In<SendOptions>) -> u8,
    irql PASSIVE..=DISPATCH, fails 0;
    {
        let id = at_hand(&call, request);
        let target = resolve(&call, target, Kind::Target);
        match send(&call, id, target, options) {
            Ok(()) => 1,
            Err(status) => {
                if let Some(sending) = sending(&mut call.machine().kmdf().lock(), id) {
                    sending.status = Some(status);
                }
                0
            }
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestcancelsentrequest>
    fn WdfRequestCancelSentRequest(call, globals: usize, request: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, request, Kind::Request);
        let sent = sending(&mut call.machine().kmdf().lock(), id).and_then(|sending| sending.sent.clone());
        u8::from(sent.is_some_and(|(irp, _)| cancel(call.cpu(), &irp)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestgetcompletionparams>
    fn WdfRequestGetCompletionParams(call, globals: usize, request: usize, parameters: Out<CompletionParameters>),
    irql PASSIVE..=DISPATCH;
    {
        let id = at_hand(&call, request);
        not_null(&call, parameters.address(), "Params");
        let known = sending(&mut call.machine().kmdf().lock(), id).map(|sending| sending.parameters());
        parameters.set(known.unwrap_or_default());
    }
}

impl Sending {
    fn parameters(&self) -> CompletionParameters {
        /// `WdfRequestTypeNoFormat`.
        const NO_FORMAT: u32 = 0xff;
        let handle = |part: Option<Part>| part.map_or(0, |(id, _)| id.handle() as u64);
        let offset = |part: Option<Part>| {
            let part = part.and_then(|(_, part)| part);
            part.map_or(0, |part| part.offset as u64)
        };
        let length = self.information as u64;
        let words = match self.format {
            Some(format) if format.major == Major::DeviceControl => [
                u64::from(format.code),
                handle(format.input),
                offset(format.input),
                handle(format.output),
                offset(format.output),
                length,
            ],
            Some(Format { input, output, .. }) => {
                let part = output.or(input);
                [handle(part), length, offset(part), 0, 0, 0]
            }
            None => [0; 6],
        };
        CompletionParameters {
            size: 72,
            kind: self.format.map_or(NO_FORMAT, |format| format.major as u32),
            status: u64::from(self.status().code()),
            information: self.information,
            words,
        }
    }
}

/// What is known of sending the request, which is noted from now on.
fn sending(state: &mut State, id: Id) -> Option<&mut Sending> {
    let request = state.request(id)?;
    Some(request.sending.get_or_insert_with(Box::default))
}

/// The request that `handle` names, which the driver must have: one of its own or a received one, and not on its way.
fn at_hand(call: &Call<'_>, handle: usize) -> Id {
    let id = resolve(call, handle, Kind::Request);
    let (is_sent, is_made) = {
        let mut state = call.machine().kmdf().lock();
        let request = state.request(id);
        request.map_or((false, false), |request| {
            let sending = request.sending.as_ref();
            (
                sending.is_some_and(|sending| sending.is_sent()),
                request.is_made,
            )
        })
    };
    if is_sent {
        still_sent(call, handle);
    }
    if !is_made {
        request::owned(call, handle);
    }
    id
}

/// The driver uses a request that the other side has.
pub(super) fn still_sent(call: &Call<'_>, handle: usize) -> ! {
    let message = format!("the WDFREQUEST {handle:#x} is sent and has not come back");
    fatal(
        call,
        &REQUEST_OWNERSHIP,
        [REQUEST_FATAL, 1, handle as u64],
        &message,
    )
}

fn part(call: &Call<'_>, handle: usize, part: In<MemoryOffset>) -> Option<Part> {
    (handle != 0).then(|| (resolve(call, handle, Kind::Memory), part.get()))
}

fn format(call: &Call<'_>, target: usize, request: usize, format: Format) -> NtStatus {
    resolve(call, target, Kind::Target);
    let id = at_hand(call, request);
    for part in [format.input, format.output].into_iter().flatten() {
        if let Err(status) = memory::read(call, part.0, part.1) {
            // The offset and length lie outside of the memory object.
            return status;
        }
    }
    if let Some(sending) = sending(&mut call.machine().kmdf().lock(), id) {
        sending.format = Some(format);
        sending.status = None;
    }
    NtStatus::SUCCESS
}

/// Sends the request; why not, if it was not sent.
fn send(call: &Call<'_>, id: Id, target: Id, options: In<SendOptions>) -> Result<(), NtStatus> {
    let (cpu, machine) = (call.cpu(), call.machine());
    let options = options.get();
    let flags = options.map_or(0, |options| options.flags);
    if flags & SEND_AND_FORGET != 0 {
        let message = "a request goes to another device here only with its end told to its sender";
        call.violation(&ARGUMENT, message);
        return Err(NtStatus::NOT_SUPPORTED);
    }
    if flags & SYNCHRONOUS != 0 && cpu.irql() > PASSIVE {
        call.violation(
            &IRQL_RANGE,
            "waits for a request that it sends above PASSIVE_LEVEL",
        );
    }
    let format = sending(&mut machine.kmdf().lock(), id).and_then(|sending| sending.format);
    let Some(format) = format else {
        call.violation(
            &ARGUMENT,
            "a request is sent that was not formatted for its target",
        );
        return Err(NtStatus::INVALID_DEVICE_REQUEST);
    };
    let file = target::ready(
        &mut machine.kmdf().lock(),
        target,
        flags & IGNORE_STATE != 0,
    )?;
    let read =
        |part: Option<Part>| part.map_or(Ok(Vec::new()), |(id, part)| memory::read(call, id, part));
    let method = match format.major {
        Major::DeviceControl => Method::of_code(format.code),
        _ => file.device().read_write_method(),
    };
    let parameters = Parameters {
        major: format.major,
        code: format.code,
        method,
        input: read(format.input)?,
        output: read(format.output)?,
    };
    let irp = machine.io().allocate_irp(&file, parameters);
    irp.set_thread(cpu.thread());
    irp.when_complete(move |cpu, completion| completed(cpu, id, target, completion));
    {
        let mut state = machine.kmdf().lock();
        if let Some(sending) = sending(&mut state, id) {
            sending.status = None;
            sending.sent = Some((Arc::clone(&irp), target));
        }
        // Whatever the driver does meanwhile, the request and the target stay.
        for id in [id, target] {
            if let Some(object) = state.get_mut(id) {
                object.references += 1;
            }
        }
    }
    let timeout = options.filter(|options| options.flags & TIMEOUT != 0);
    if let Some(options) = timeout {
        let after: Ticks = options.timeout.unsigned_abs();
        let late = Arc::clone(&irp);
        let due = machine.time().now().saturating_add(after);
        machine
            .time()
            .schedule(due, "the time-out of a request", move |cpu| {
                cancel(cpu, &late);
            });
    }
    file.device().dispatch(cpu, &irp);
    if flags & SYNCHRONOUS != 0 && irp.completion().is_none() {
        machine.wait(cpu, "a request that was sent", None, || {
            irp.completion().is_some()
        });
    }
    Ok(())
}

/// Asks the other side to end a request; `false` when it has ended.
fn cancel(cpu: &Cpu, irp: &Arc<Irp>) -> bool {
    if irp.completion().is_some() {
        return false;
    }
    irp.set_cancelled();
    irp.file.device().cancel(cpu, irp);
    true
}

/// The other side has completed a request: its result is the sender's, which is told.
fn completed(cpu: &Cpu, id: Id, target: Id, completion: &Completion) {
    let machine = cpu.machine();
    let told = {
        let mut state = machine.kmdf().lock();
        let Some(sending) = sending(&mut state, id) else {
            return;
        };
        sending.sent = None;
        sending.status = Some(completion.status);
        sending.information = completion.information;
        let parameters = sending.parameters();
        let (routine, output) = (
            sending.routine,
            sending.format.and_then(|format| format.output),
        );
        if let Some((memory, part)) = output {
            memory::fill(&mut state, memory, part, &completion.output);
        }
        routine.map(|routine| (routine, parameters))
    };
    if let Some(((routine, context), parameters)) = told {
        let shown = Shared::new(parameters);
        let callback = Callback::new("EvtRequestCompletionRoutine", routine as usize);
        cpu.enter_driver(callback, cpu.irql(), || {
            routine(id.handle(), target.handle(), shown.out().as_in(), context);
        });
    }
    for id in [id, target] {
        super::life::release(cpu, id);
    }
    machine.wake();
}

/// A request is deleted.
pub(super) fn dispose(cpu: &Cpu, id: Id) {
    let sent = {
        let mut state = cpu.machine().kmdf().lock();
        let request = state
            .request(id)
            .and_then(|request| request.sending.as_ref());
        request.and_then(|sending| sending.sent.clone())
    };
    if let Some((irp, _)) = sent {
        let message = format!(
            "a request is deleted that is sent and has not come back: {}",
            irp.describe()
        );
        let verifier = cpu.machine().verifier();
        let routine = {
            let mut state = cpu.machine().kmdf().lock();
            sending(&mut state, id).and_then(|sending| sending.routine)
        };
        if let Some((routine, _)) = routine {
            verifier.violation_of(cpu, &REQUEST_LEFT, routine as usize, message);
        } else {
            verifier.violation_at(cpu, &REQUEST_LEFT, message);
        }
    }
}

/// A target is closed: what was sent to it is cancelled, and waited for.
pub(super) fn end_all(cpu: &Cpu, target: Id) {
    let machine = cpu.machine();
    let sent = || -> Vec<Arc<Irp>> {
        let mut state = machine.kmdf().lock();
        let requests: Vec<Id> = state.of_kind(Kind::Request);
        let irps = requests.into_iter().filter_map(|id| {
            let (irp, to) = state.request(id)?.sending.as_ref()?.sent.clone()?;
            (to == target).then_some(irp)
        });
        irps.collect()
    };
    for irp in sent() {
        cancel(cpu, &irp);
    }
    if !sent().is_empty() {
        machine.wait(
            cpu,
            "the end of requests that were sent to a target",
            None,
            || sent().is_empty(),
        );
    }
}

/// The driver treats a request that it made as one that it received, which alone can be completed or queued.
pub(super) fn check_received(call: &Call<'_>, handle: usize, id: Id) {
    let is_made = {
        let mut state = call.machine().kmdf().lock();
        state.request(id).is_some_and(|request| request.is_made)
    };
    if is_made {
        let message =
            format!("uses the WDFREQUEST {handle:#x} as one that it received; it made that itself");
        fatal(
            call,
            &REQUEST_COMPLETION,
            [REQUEST_FATAL, 2, handle as u64],
            &message,
        );
    }
}
