//! WDFREQUEST: who owns a request, how it is cancelled, and how it ends.

use std::sync::Arc;

use wfp_schema::NtStatus;

use super::abi::{ObjectCallback, RequestParameters, status};
use super::object::{Body, Id, Kind, State, fatal, resolve, stop};
use super::sent::{self, Sending};
use super::{file, life, queue};
use crate::cpu::Cpu;
use crate::export::Call;
use crate::nt::io_irp::{Irp, Major, Method};
use crate::nt::io_memory::Guarded;
use crate::verifier::{POOL_OVERRUN, REQUEST_CANCELABLE, REQUEST_COMPLETION, REQUEST_OWNERSHIP};

/// Who has a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The driver, inside `EvtIoInCallerContext`.
    CallerContext,
    /// The queue on which it waits.
    Queue,
    /// The driver.
    Driver,
    /// Nobody: it was completed.
    Nobody,
}

/// What a WDFREQUEST holds.
#[derive(Debug)]
pub(crate) struct Request {
    /// The packet, until it is completed.
    pub(crate) irp: Option<Arc<Irp>>,
    pub(crate) device: Id,
    /// The queue on which it waits or from which the driver has it.
    pub(crate) queue: Option<Id>,
    pub(crate) owner: Owner,
    /// Whether the driver has seen it in a callback or retrieved it.
    pub(crate) presented: bool,
    /// The driver's cancel routine while the request is cancelable.
    pub(crate) cancelable: Option<ObjectCallback>,
    /// Whether the framework cancelled it.
    pub(crate) cancelled: bool,
    /// WDFMEMORY objects for its buffers.
    pub(crate) input_memory: Option<Id>,
    pub(crate) output_memory: Option<Id>,
    /// MDLs made for it.
    pub(crate) input_mdl: Option<Guarded>,
    pub(crate) output_mdl: Option<Guarded>,
    /// The driver has made it, for a target of its own.
    pub(crate) is_made: bool,
    /// What is known of its way to a target, if it goes to one.
    pub(crate) sending: Option<Box<Sending>>,
}

impl Request {
    /// A request that the driver makes itself.
    pub(super) fn made() -> Self {
        Self {
            is_made: true,
            ..Self::of(None, Id::NONE, Owner::Driver)
        }
    }

    fn of(irp: Option<Arc<Irp>>, device: Id, owner: Owner) -> Self {
        Self {
            irp,
            device,
            queue: None,
            owner,
            presented: false,
            cancelable: None,
            cancelled: false,
            input_memory: None,
            output_memory: None,
            input_mdl: None,
            output_mdl: None,
            is_made: false,
            sending: None,
        }
    }

    /// In words, for reports.
    pub(crate) fn describe(&self) -> String {
        self.irp.as_ref().map_or_else(
            || {
                if self.is_made {
                    "the driver's own"
                } else {
                    "completed"
                }
                .to_owned()
            },
            |irp| match irp.major {
                Major::DeviceControl => format!("I/O control {:#x}", irp.code),
                other => format!("{other:?}"),
            },
        )
    }

    /// `WDF_REQUEST_PARAMETERS`.
    pub(crate) fn parameters(&self) -> RequestParameters {
        let mut parameters = RequestParameters {
            size: 40,
            ..RequestParameters::default()
        };
        let Some(irp) = &self.irp else {
            return parameters;
        };
        parameters.request_type = irp.major as u32;
        match irp.major {
            Major::DeviceControl => {
                // The framework hides the caller's address: a driver gets it in EvtIoInCallerContext only.
                parameters.words = [
                    irp.output_len as u64,
                    irp.input_len as u64,
                    u64::from(irp.code),
                    0,
                ];
            }
            Major::Read => parameters.words[0] = irp.output_len as u64,
            Major::Write => parameters.words[0] = irp.input_len as u64,
            _ => {}
        }
        parameters
    }
}

/// Makes the WDFREQUEST for a packet that arrived at a device.
pub(crate) fn create(cpu: &Cpu, device: Id, irp: &Arc<Irp>, owner: Owner) -> Result<Id, NtStatus> {
    let mut state = cpu.machine().kmdf().lock();
    let client = state.get(device).map_or(0, |device| device.client);
    let attributes = state
        .device(device)
        .map(|device| device.request_attributes)
        .unwrap_or_default();
    let request = Request::of(Some(Arc::clone(irp)), device, owner);
    let id = state.create(
        client,
        &attributes.with_parent(device),
        Body::Request(Box::new(request)),
    )?;
    state.irps.insert(irp.address(), id);
    Ok(id)
}

/// The request that `handle` names, which the driver must own.
pub(crate) fn owned(call: &Call<'_>, handle: usize) -> (Id, Arc<Irp>) {
    let id = resolve(call, handle, Kind::Request);
    sent::check_received(call, handle, id);
    let found = {
        let mut state = call.machine().kmdf().lock();
        state.request(id).and_then(|request| {
            let is_sent = request
                .sending
                .as_ref()
                .is_some_and(|sending| sending.is_sent());
            request.irp.clone().map(|irp| (irp, request.owner, is_sent))
        })
    };
    let Some((irp, owner, is_sent)) = found else {
        completed_again(call, handle);
    };
    if is_sent {
        sent::still_sent(call, handle);
    }
    if owner == Owner::Queue {
        /// `WDF_REQUEST_FATAL_ERROR` with `…_REQUEST_NOT_IN_QUEUE`: the nearest that the framework has.
        const NOT_OWNED: [u64; 2] = [6, 5];
        let message =
            format!("the WDFREQUEST {handle:#x} waits on a queue; the driver does not own it");
        fatal(
            call,
            &REQUEST_OWNERSHIP,
            [NOT_OWNED[0], NOT_OWNED[1], handle as u64],
            &message,
        );
    }
    (id, irp)
}

/// `MULTIPLE_IRP_COMPLETE_REQUESTS`.
const MULTIPLE_IRP_COMPLETE_REQUESTS: u32 = 0x44;

fn completed_again(call: &Call<'_>, handle: usize) -> ! {
    let message =
        format!("the WDFREQUEST {handle:#x} was completed before; only a reference keeps it");
    stop(
        call,
        &REQUEST_COMPLETION,
        MULTIPLE_IRP_COMPLETE_REQUESTS,
        [handle as u64, 0, 0, 0],
        &message,
    )
}

/// The driver completes a request.
pub(crate) fn complete_by_driver(
    call: &Call<'_>,
    handle: usize,
    status: NtStatus,
    information: Option<usize>,
) {
    let (id, irp) = owned(call, handle);
    let information = information.unwrap_or_else(|| irp.information());
    check_information(call, handle, &irp, status, information);
    let (cancelable, referenced_memory) = {
        let mut state = call.machine().kmdf().lock();
        let Some(request) = state.request(id) else {
            return;
        };
        let memories = [request.input_memory, request.output_memory];
        let cancelable = request.cancelable.is_some();
        let memory = memories
            .into_iter()
            .flatten()
            .find(|id| state.get(*id).is_some_and(|memory| memory.references > 1));
        (cancelable, memory)
    };
    if cancelable {
        call.violation(
            &REQUEST_CANCELABLE,
            "completes a request that is still cancelable: WdfRequestUnmarkCancelable comes first, and says who completes it",
        );
    }
    if let Some(memory) = referenced_memory {
        /// `WDF_VERIFIER_FATAL_ERROR`.
        const VERIFIER_FATAL_ERROR: u64 = 3;
        let message = "completes a request while the driver holds references to its WDFMEMORY";
        fatal(
            call,
            &REQUEST_COMPLETION,
            [VERIFIER_FATAL_ERROR, handle as u64, memory.handle() as u64],
            message,
        );
    }
    complete(call.cpu(), id, status, information);
}

/// A successful transfer cannot be longer than the caller's buffer.
fn check_information(
    call: &Call<'_>,
    handle: usize,
    irp: &Irp,
    status: NtStatus,
    information: usize,
) {
    let length = match irp.major {
        Major::Read => irp.output_len,
        Major::Write => irp.input_len,
        Major::DeviceControl if irp.output_len > 0 => irp.output_len,
        Major::DeviceControl if irp.method == Method::Buffered && information > 0 => 0,
        _ => return,
    };
    if status.is_success() && information > length {
        /// `WDF_REQUEST_FATAL_ERROR` with `…_INFORMATION_LENGTH_MISMATCH`.
        const LENGTH_MISMATCH: [u64; 2] = [6, 4];
        let message =
            format!("Information is {information}, the caller's buffer has {length} bytes");
        let parameters = [LENGTH_MISMATCH[0], LENGTH_MISMATCH[1], handle as u64];
        if irp.output_len == 0 && irp.major == Major::DeviceControl {
            // The framework only breaks into a debugger here.
            call.violation(&REQUEST_COMPLETION, message);
        } else {
            fatal(call, &REQUEST_COMPLETION, parameters, &message);
        }
    }
}

/// Statuses of the framework's own facility do not leave it.
const fn public_status(status: NtStatus) -> NtStatus {
    const FACILITY: u32 = 0x0fff_0000;
    const DRIVER_FRAMEWORK: u32 = 0x0020_0000;
    match status {
        status::PAUSED | status::BUSY => NtStatus::DEVICE_BUSY,
        status::INTERNAL_ERROR => NtStatus::INTERNAL_ERROR,
        status if status.code() & FACILITY == DRIVER_FRAMEWORK => NtStatus::INVALID_DEVICE_REQUEST,
        status => status,
    }
}

/// Completes a request that does not wait on a queue, and lets its queue go on.
pub(crate) fn complete(cpu: &Cpu, id: Id, status: NtStatus, information: usize) {
    let status = public_status(status);
    let machine = cpu.machine();
    let taken = {
        let mut state = machine.kmdf().lock();
        let Some(request) = state.request(id) else {
            return;
        };
        let Some(irp) = request.irp.take() else {
            return;
        };
        request.owner = Owner::Nobody;
        request.cancelable = None;
        let (queue, device) = (request.queue.take(), request.device);
        state.irps.remove(&irp.address());
        (irp, queue, device)
    };
    let (irp, queue, device) = taken;
    // Cleanup callbacks run while the buffers are still there.
    life::dispose(cpu, id);
    if let Some(buffer) = irp.overrun() {
        machine.verifier().violation_at(
            cpu,
            &POOL_OVERRUN,
            format!("bytes behind {buffer} of a request changed"),
        );
    }
    if irp.major == Major::Create {
        file::create_completed(cpu, device, irp.file.address(), status);
    }
    irp.complete(cpu, status, information);
    detach(&mut machine.kmdf().lock(), id);
    life::destroy(cpu, id);
    if let Some(queue_id) = queue {
        if let Some(queue) = machine.kmdf().lock().queue(queue_id) {
            queue.presented.retain(|request| *request != id);
            queue.cancelled.retain(|(request, _)| *request != id);
            queue.unwanted.retain(|request| *request != id);
        }
        queue::dispatch(cpu, queue_id);
    }
}

/// Takes the request out of its parent's children.
fn detach(state: &mut State, id: Id) {
    let parent = state.get_mut(id).and_then(|object| object.parent.take());
    if let Some(parent) = parent.and_then(|parent| state.get_mut(parent)) {
        parent.children.retain(|child| *child != id);
    }
}

/// User mode cancels an operation.
pub(crate) fn cancel(cpu: &Cpu, irp: &Arc<Irp>) {
    let found = {
        let mut state = cpu.machine().kmdf().lock();
        let id = state.irps.get(&irp.address()).copied();
        id.and_then(|id| {
            state
                .request(id)
                .map(|request| (id, request.owner, request.queue))
        })
    };
    match found {
        Some((id, Owner::Queue, Some(queue))) => queue::cancel_waiting(cpu, queue, id),
        Some((id, Owner::Driver, _)) => cancel_presented(cpu, id),
        _ => {}
    }
}

/// Calls the cancel routine of a request that the driver has, if it is cancelable.
pub(crate) fn cancel_presented(cpu: &Cpu, id: Id) {
    let queue = {
        let mut state = cpu.machine().kmdf().lock();
        let Some(request) = state.request(id) else {
            return;
        };
        let Some(callback) = request.cancelable.take() else {
            return;
        };
        request.cancelled = true;
        let Some(queue_id) = request.queue else {
            return;
        };
        if let Some(queue) = state.queue(queue_id) {
            queue.cancelled.push_back((id, callback));
        }
        queue_id
    };
    queue::dispatch(cpu, queue);
}

/// Makes a request cancelable.
///
/// # Errors
/// `STATUS_CANCELLED` when it is cancelled already; with `at_once` the cancel routine is called instead.
pub(crate) fn mark_cancelable(
    call: &Call<'_>,
    handle: usize,
    callback: ObjectCallback,
    at_once: bool,
) -> Result<(), NtStatus> {
    let (id, irp) = owned(call, handle);
    let (cancelled, queue) = {
        let mut state = call.machine().kmdf().lock();
        let request = state.request(id).ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
        if request.cancelable.is_some() {
            drop(state);
            call.violation(
                &REQUEST_CANCELABLE,
                "marks a request cancelable that is so already",
            );
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        let queue_id = request.queue.ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
        let stopping = state
            .queue(queue_id)
            .is_some_and(|queue| queue.cancels_presented);
        let cancelled = stopping || irp.is_cancelled();
        if let Some(request) = state.request(id) {
            request.cancelled |= cancelled && at_once;
            request.cancelable = (!cancelled).then_some(callback);
        }
        if let Some(queue) = state.queue(queue_id).filter(|_| cancelled && at_once) {
            queue.cancelled.push_back((id, callback));
        }
        (cancelled, queue_id)
    };
    if cancelled && at_once {
        queue::dispatch(call.cpu(), queue);
        return Ok(());
    }
    if cancelled {
        Err(NtStatus::CANCELLED)
    } else {
        Ok(())
    }
}

/// Takes a request's cancel routine back.
///
/// # Errors
/// `STATUS_CANCELLED` when the routine is being or will be called, and completes the request.
pub(crate) fn unmark_cancelable(call: &Call<'_>, handle: usize) -> Result<(), NtStatus> {
    let (id, _) = owned(call, handle);
    let mut state = call.machine().kmdf().lock();
    let request = state.request(id).ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
    if request.cancelable.take().is_some() {
        return Ok(());
    }
    if request.cancelled {
        return Err(NtStatus::CANCELLED);
    }
    drop(state);
    call.violation(
        &REQUEST_CANCELABLE,
        "unmarks a request that is not cancelable",
    );
    Err(NtStatus::INVALID_DEVICE_REQUEST)
}

/// `WdfRequestForwardToIoQueue`.
pub(crate) fn forward(call: &Call<'_>, handle: usize, target: Id) -> Result<(), NtStatus> {
    let (id, _) = owned(call, handle);
    let cpu = call.cpu();
    let source = {
        let mut state = call.machine().kmdf().lock();
        let device = state.queue(target).map(|queue| queue.device);
        let request = state.request(id).ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
        let problem = if request.cancelable.is_some() {
            Some((&REQUEST_CANCELABLE, "forwards a request that is cancelable"))
        } else if request.queue == Some(target) {
            Some((
                &REQUEST_OWNERSHIP,
                "forwards a request to the queue that it came from",
            ))
        } else if Some(request.device) != device {
            Some((
                &REQUEST_OWNERSHIP,
                "forwards a request to a queue of another device",
            ))
        } else {
            None
        };
        let source = request.queue;
        if let Some((rule, problem)) = problem {
            drop(state);
            call.violation(rule, problem);
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        source.ok_or(NtStatus::INVALID_DEVICE_REQUEST)?
    };
    queue::insert(cpu, target, id)?;
    if let Some(queue) = call.machine().kmdf().lock().queue(source) {
        queue.presented.retain(|request| *request != id);
    }
    queue::dispatch(cpu, target);
    queue::dispatch(cpu, source);
    Ok(())
}

/// `WdfRequestRequeue`: back to the head of the manual queue it came from.
pub(crate) fn requeue(call: &Call<'_>, handle: usize) -> Result<(), NtStatus> {
    let (id, irp) = owned(call, handle);
    let (queue_id, cancelled) = {
        let mut state = call.machine().kmdf().lock();
        let request = state.request(id).ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
        if request.cancelable.is_some() {
            drop(state);
            call.violation(&REQUEST_CANCELABLE, "requeues a request that is cancelable");
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        let queue_id = request.queue.ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
        let queue = state
            .queue(queue_id)
            .ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
        if queue.dispatching != queue::Dispatching::Manual {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        queue.presented.retain(|request| *request != id);
        queue.waiting.push_front(id);
        let cancelled = queue.cancels_presented || irp.is_cancelled();
        if let Some(request) = state.request(id) {
            request.owner = Owner::Queue;
        }
        (queue_id, cancelled)
    };
    if cancelled {
        queue::cancel_waiting(call.cpu(), queue_id, id);
    }
    queue::dispatch(call.cpu(), queue_id);
    Ok(())
}
