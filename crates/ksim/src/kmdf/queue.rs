//! WDFQUEUE: which request is presented when.
//!
//! [`dispatch`] is the one place that calls a queue's callbacks. It runs after everything that may let it go on:
//! a request arrived, was completed, forwarded or cancelled, the queue was started or stopped.

use std::collections::VecDeque;
use std::sync::Arc;

use wfp_schema::NtStatus;

use super::abi::{
    ControlCallback, ObjectCallback, QueueStateCallback, RequestCallback, TransferCallback, status,
};
use super::object::{Id, State};
use super::request::{self, Owner};
use super::sync::{CallbackLock, Manner};
use crate::cpu::{Callback, Cpu};
use crate::export::Call;
use crate::nt::io_irp::{Irp, Major};
use crate::verifier::ARGUMENT;

/// `WDF_IO_QUEUE_DISPATCH_TYPE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dispatching {
    Sequential,
    Parallel,
    Manual,
}

/// A queue's callbacks for requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Handlers {
    pub(crate) default: Option<RequestCallback>,
    pub(crate) read: Option<TransferCallback>,
    pub(crate) write: Option<TransferCallback>,
    pub(crate) device_control: Option<ControlCallback>,
    pub(crate) canceled_on_queue: Option<RequestCallback>,
}

/// A callback that is called once the queue has come to some state, with its context.
pub(crate) type Once = (QueueStateCallback, usize);

/// What a WDFQUEUE holds.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, most of them the driver's to set"
)]
pub(crate) struct Queue {
    pub(crate) device: Id,
    pub(crate) dispatching: Dispatching,
    /// How many requests a parallel queue presents at a time.
    pub(crate) presented_at_most: usize,
    pub(crate) allow_zero_length: bool,
    pub(crate) handlers: Handlers,
    pub(crate) callback_lock: CallbackLock,
    /// Requests that wait, oldest first.
    pub(crate) waiting: VecDeque<Id>,
    /// Requests that the driver has from this queue.
    pub(crate) presented: Vec<Id>,
    /// Cancelable requests whose cancel routine is to be called.
    pub(crate) cancelled: VecDeque<(Id, ObjectCallback)>,
    /// Requests that were cancelled while they waited here, and that the driver is to be told of.
    pub(crate) unwanted: VecDeque<Id>,
    pub(crate) accepts: bool,
    pub(crate) dispatches: bool,
    /// Requests that become cancelable are cancelled at once: the queue is being stopped or purged with that.
    pub(crate) cancels_presented: bool,
    pub(crate) idle_complete: Option<Once>,
    pub(crate) purge_complete: Option<Once>,
    pub(crate) ready_notify: Option<Once>,
    /// A request arrived while the queue was empty, and nobody was told yet.
    pub(crate) became_ready: bool,
    /// Threads inside [`dispatch`].
    dispatchers: u32,
}

impl Queue {
    pub(crate) fn new(device: Id, dispatching: Dispatching, handlers: Handlers) -> Self {
        Self {
            device,
            dispatching,
            presented_at_most: usize::MAX,
            allow_zero_length: false,
            handlers,
            callback_lock: CallbackLock::default(),
            waiting: VecDeque::new(),
            presented: Vec::new(),
            cancelled: VecDeque::new(),
            unwanted: VecDeque::new(),
            accepts: true,
            dispatches: true,
            cancels_presented: false,
            idle_complete: None,
            purge_complete: None,
            ready_notify: None,
            became_ready: false,
            dispatchers: 0,
        }
    }

    /// Whether nothing waits here and the driver has nothing from here.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.presented.is_empty()
    }

    fn push(&mut self, request: Id) {
        self.became_ready |= self.waiting.is_empty();
        self.waiting.push_back(request);
    }

    /// Takes what is to be done next, if it is this thread's turn.
    fn next(&mut self) -> Step {
        if let Some((request, callback)) = self.cancelled.pop_front() {
            return Step::Cancel(request, callback);
        }
        if let Some(request) = self.unwanted.pop_front() {
            return Step::CanceledOnQueue(request);
        }
        if self.presented.is_empty() && self.dispatchers == 1 && self.idle_complete.is_some() {
            self.cancels_presented = false;
            return Step::State(self.idle_complete.take(), "EvtIoQueueState (stopped)");
        }
        if self.is_idle() && self.dispatchers == 1 && self.purge_complete.is_some() {
            self.cancels_presented = false;
            return Step::State(self.purge_complete.take(), "EvtIoQueueState (purged)");
        }
        if !self.dispatches {
            return Step::Done;
        }
        let full = match self.dispatching {
            Dispatching::Manual => {
                if self.ready_notify.is_some() && std::mem::take(&mut self.became_ready) {
                    return Step::State(self.ready_notify, "EvtIoQueueState (ready)");
                }
                return Step::Done;
            }
            Dispatching::Sequential => !self.presented.is_empty(),
            Dispatching::Parallel => self.presented.len() >= self.presented_at_most,
        };
        match self.waiting.pop_front() {
            Some(request) if !full => {
                self.presented.push(request);
                Step::Present(request)
            }
            Some(request) => {
                self.waiting.push_front(request);
                Step::Done
            }
            None => Step::Done,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Cancel(Id, ObjectCallback),
    CanceledOnQueue(Id),
    State(Option<Once>, &'static str),
    Present(Id),
    Done,
}

/// Presents what the queue may present, and tells the driver what happened to it.
pub(crate) fn dispatch(cpu: &Cpu, id: Id) {
    let manner = {
        let mut state = cpu.machine().kmdf().lock();
        let manner = Manner::of(&state, id);
        if !manner.admits(cpu, &mut state, move |cpu| dispatch_later(cpu, id, manner)) {
            return;
        }
        let Some(queue) = state.queue(id) else {
            return;
        };
        queue.dispatchers += 1;
        manner
    };
    loop {
        let step = {
            let mut state = cpu.machine().kmdf().lock();
            let Some(queue) = state.queue(id) else {
                return;
            };
            let step = queue.next();
            if matches!(step, Step::Done) {
                queue.dispatchers -= 1;
                break;
            }
            step
        };
        take_step(cpu, id, manner, step);
    }
    cpu.machine().wake();
}

/// Presents what had to wait: from a DPC, or from a work item where callbacks are passive.
fn dispatch_later(cpu: &Cpu, id: Id, manner: Manner) {
    let level = if manner.is_passive() {
        crate::cpu::PASSIVE
    } else {
        crate::cpu::DISPATCH
    };
    let irql = cpu.set_irql(level);
    dispatch(cpu, id);
    cpu.set_irql(irql);
}

fn take_step(cpu: &Cpu, queue: Id, manner: Manner, step: Step) {
    match step {
        Step::Cancel(request, callback) => {
            manner.call(
                cpu,
                Callback::new("EvtRequestCancel", callback as usize),
                || callback(request.handle()),
            );
        }
        Step::CanceledOnQueue(request) => {
            let callback = cpu
                .machine()
                .kmdf()
                .lock()
                .queue(queue)
                .and_then(|queue| queue.handlers.canceled_on_queue);
            if let Some(callback) = callback {
                manner.call(
                    cpu,
                    Callback::new("EvtIoCanceledOnQueue", callback as usize),
                    || {
                        callback(queue.handle(), request.handle());
                    },
                );
            }
        }
        Step::State(Some((callback, context)), what) => {
            manner.call(cpu, Callback::new(what, callback as usize), || {
                callback(queue.handle(), context);
            });
        }
        Step::Present(request) => present(cpu, queue, manner, request),
        Step::State(None, _) | Step::Done => {}
    }
}

fn present(cpu: &Cpu, queue: Id, manner: Manner, request: Id) {
    let (irp, handlers, allow_zero_length) = {
        let mut state = cpu.machine().kmdf().lock();
        let Some((handlers, zero)) = state
            .queue(queue)
            .map(|queue| (queue.handlers, queue.allow_zero_length))
        else {
            return;
        };
        let Some(body) = state.request(request) else {
            return;
        };
        body.owner = Owner::Driver;
        let Some(irp) = body.irp.clone() else {
            return;
        };
        (irp, handlers, zero)
    };
    let empty = match irp.major {
        Major::Read => irp.output_len == 0,
        Major::Write => irp.input_len == 0,
        _ => false,
    };
    if empty && !allow_zero_length {
        request::complete(cpu, request, NtStatus::SUCCESS, 0);
        return;
    }
    if let Some(body) = cpu.machine().kmdf().lock().request(request) {
        body.presented = true;
    }
    let (queue, handle) = (queue.handle(), request.handle());
    let (input, output, code) = (irp.input_len, irp.output_len, irp.code);
    let major = irp.major;
    // The driver may complete the request and the caller free it while the callback still runs.
    drop(irp);
    match (major, handlers) {
        (
            Major::DeviceControl,
            Handlers {
                device_control: Some(callback),
                ..
            },
        ) => {
            manner.call(
                cpu,
                Callback::new("EvtIoDeviceControl", callback as usize),
                || {
                    callback(queue, handle, output, input, code);
                },
            );
        }
        (
            Major::Read,
            Handlers {
                read: Some(callback),
                ..
            },
        ) => {
            manner.call(cpu, Callback::new("EvtIoRead", callback as usize), || {
                callback(queue, handle, output);
            });
        }
        (
            Major::Write,
            Handlers {
                write: Some(callback),
                ..
            },
        ) => {
            manner.call(cpu, Callback::new("EvtIoWrite", callback as usize), || {
                callback(queue, handle, input);
            });
        }
        (
            _,
            Handlers {
                default: Some(callback),
                ..
            },
        ) => {
            manner.call(
                cpu,
                Callback::new("EvtIoDefault", callback as usize),
                || callback(queue, handle),
            );
        }
        _ => request::complete(cpu, request, NtStatus::INVALID_DEVICE_REQUEST, 0),
    }
}

/// A request from user mode arrives at a device.
pub(crate) fn arrive(cpu: &Cpu, device: Id, irp: &Arc<Irp>) {
    let request = match request::create(cpu, device, irp, Owner::CallerContext) {
        Ok(request) => request,
        Err(status) => {
            irp.complete(cpu, status, 0);
            return;
        }
    };
    let callback = cpu
        .machine()
        .kmdf()
        .lock()
        .device(device)
        .and_then(|device| device.in_caller_context);
    if let Some(callback) = callback.filter(|_| irp.major != Major::Create) {
        let function = Callback::new("EvtIoInCallerContext", callback as usize);
        cpu.enter_driver(function, cpu.irql(), || {
            callback(device.handle(), request.handle());
        });
        return;
    }
    let Some(queue) = queue_for(&mut cpu.machine().kmdf().lock(), device, irp.major) else {
        request::complete(cpu, request, NtStatus::INVALID_DEVICE_REQUEST, 0);
        return;
    };
    if insert(cpu, queue, request).is_err() {
        request::complete(cpu, request, NtStatus::INVALID_DEVICE_STATE, 0);
    } else {
        dispatch(cpu, queue);
    }
}

/// The queue that gets a device's requests of one kind.
fn queue_for(state: &mut State, device: Id, major: Major) -> Option<Id> {
    let device = state.device(device)?;
    device
        .dispatching
        .get(&(major as u32))
        .copied()
        .or(device.default_queue)
}

/// Puts a request that the driver does not own at the end of a queue. A request that is cancelled already does
/// not wait.
///
/// # Errors
/// `STATUS_WDF_BUSY` when the queue accepts no requests.
pub(crate) fn insert(cpu: &Cpu, queue_id: Id, request_id: Id) -> Result<(), NtStatus> {
    let cancelled = {
        let mut state = cpu.machine().kmdf().lock();
        let queue = state
            .queue(queue_id)
            .filter(|queue| queue.accepts)
            .ok_or(status::BUSY)?;
        queue.push(request_id);
        let request = state
            .request(request_id)
            .ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
        request.queue = Some(queue_id);
        request.owner = Owner::Queue;
        request.irp.as_ref().is_some_and(|irp| irp.is_cancelled())
    };
    if cancelled {
        cancel_waiting(cpu, queue_id, request_id);
    }
    Ok(())
}

/// `WdfDeviceEnqueueRequest`: from `EvtIoInCallerContext` to the queue that would have had it.
pub(crate) fn enqueue_from_caller_context(call: &Call<'_>, device: Id, request_id: Id) -> NtStatus {
    let cpu = call.cpu();
    let queue = {
        let mut state = call.machine().kmdf().lock();
        let Some(request) = state
            .request(request_id)
            .filter(|request| request.owner == Owner::CallerContext)
        else {
            drop(state);
            call.violation(
                &ARGUMENT,
                "the request does not come from EvtIoInCallerContext",
            );
            return NtStatus::INVALID_DEVICE_REQUEST;
        };
        let Some(major) = request.irp.as_ref().map(|irp| irp.major) else {
            return NtStatus::INVALID_DEVICE_REQUEST;
        };
        queue_for(&mut state, device, major)
    };
    let Some(queue) = queue else {
        return NtStatus::INVALID_DEVICE_REQUEST;
    };
    match insert(cpu, queue, request_id) {
        Ok(()) => {
            dispatch(cpu, queue);
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

/// Ends a request that waits on a queue: completed as cancelled, or given to `EvtIoCanceledOnQueue` when the
/// driver has seen it before. Nothing happens when it does not wait there any more.
pub(crate) fn cancel_waiting(cpu: &Cpu, queue_id: Id, request_id: Id) {
    let told = {
        let mut state = cpu.machine().kmdf().lock();
        let seen = state
            .request(request_id)
            .is_some_and(|request| request.presented);
        let Some(queue) = state.queue(queue_id) else {
            return;
        };
        let Some(at) = queue
            .waiting
            .iter()
            .position(|waiting| *waiting == request_id)
        else {
            return;
        };
        queue.waiting.remove(at);
        let told = seen && queue.handlers.canceled_on_queue.is_some();
        if told {
            queue.presented.push(request_id);
            queue.unwanted.push_back(request_id);
        }
        if let Some(request) = state.request(request_id) {
            request.owner = Owner::Driver;
            request.cancelled = true;
        }
        told
    };
    if told {
        dispatch(cpu, queue_id);
    } else {
        request::complete(cpu, request_id, NtStatus::CANCELLED, 0);
    }
}

/// Cancels what waits on a queue for one file, when its handle is closed.
pub(crate) fn cancel_requests_of(cpu: &Cpu, queue_id: Id, file_object: usize) {
    loop {
        let next = {
            let mut state = cpu.machine().kmdf().lock();
            find(&mut state, queue_id, Some(file_object), None)
        };
        let Some(request) = next else {
            return;
        };
        cancel_waiting(cpu, queue_id, request);
    }
}

/// The first waiting request of `file_object` (or of any), behind `after` if that is given.
pub(crate) fn find(
    state: &mut State,
    queue: Id,
    file_object: Option<usize>,
    after: Option<Id>,
) -> Option<Id> {
    let waiting: Vec<Id> = state.queue(queue)?.waiting.iter().copied().collect();
    let start = after.map_or(Some(0), |after| {
        waiting.iter().position(|id| *id == after).map(|at| at + 1)
    })?;
    waiting.into_iter().skip(start).find(|id| {
        let irp = state.request(*id).and_then(|request| request.irp.as_ref());
        irp.is_some_and(|irp| {
            file_object.is_none_or(|file_object| irp.file.address() == file_object)
        })
    })
}

/// How a queue's work ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It accepts requests and presents none; those that the driver has are left alone.
    Stop,
    /// The same, and requests that wait or are cancelable are cancelled.
    StopAndPurge,
    /// It accepts none and presents those that wait.
    Drain,
    /// It accepts none, and requests that wait or are cancelable are cancelled.
    Purge,
}

impl Ending {
    /// Whether the queue goes on accepting requests. Then it presents none.
    pub(crate) const fn accepts(self) -> bool {
        matches!(self, Self::Stop | Self::StopAndPurge)
    }

    const fn cancels(self) -> bool {
        matches!(self, Self::StopAndPurge | Self::Purge)
    }
}

/// Changes what a queue accepts and dispatches, and cancels its requests if asked.
///
/// # Errors
/// `STATUS_INVALID_DEVICE_REQUEST` when somebody waits for the same already.
pub(crate) fn wind_down(
    cpu: &Cpu,
    id: Id,
    ending: Ending,
    done: Option<Once>,
) -> Result<(), NtStatus> {
    let stop = ending.accepts();
    {
        let mut state = cpu.machine().kmdf().lock();
        // A purge of 1.9 does not yet reach requests that become cancelable meanwhile.
        let reaches_later_ones = stop || state.version_of(id) >= 11;
        let queue = state.queue(id).ok_or(NtStatus::DELETE_PENDING)?;
        let slot = if stop {
            &mut queue.idle_complete
        } else {
            &mut queue.purge_complete
        };
        if done.is_some() {
            if slot.is_some() {
                return Err(NtStatus::INVALID_DEVICE_REQUEST);
            }
            *slot = done;
        }
        queue.accepts = stop;
        queue.dispatches &= !stop;
        queue.cancels_presented |= ending.cancels() && reaches_later_ones;
    }
    if ending.cancels() {
        let waiting = cpu
            .machine()
            .kmdf()
            .lock()
            .queue(id)
            .map_or_else(VecDeque::new, |queue| queue.waiting.clone());
        for request in waiting {
            cancel_waiting(cpu, id, request);
        }
        let presented = cpu
            .machine()
            .kmdf()
            .lock()
            .queue(id)
            .map_or_else(Vec::new, |queue| queue.presented.clone());
        for request in presented {
            request::cancel_presented(cpu, request);
        }
    }
    dispatch(cpu, id);
    Ok(())
}

/// A queue is deleted: everything on it ends, and what the driver has is waited for.
pub(crate) fn dispose(cpu: &Cpu, id: Id) {
    // An earlier purge that is still under way is no reason not to wait.
    wind_down(cpu, id, Ending::Purge, None).ok();
    let idle = || {
        cpu.machine()
            .kmdf()
            .lock()
            .queue(id)
            .is_none_or(|queue| queue.is_idle())
    };
    if !idle() {
        let machine = cpu.machine();
        // What cannot end is reported and left, so that a driver which forgot a request can still be judged.
        let deadline = machine.time().now().saturating_add(GRACE);
        machine.wait(
            cpu,
            "the requests of a queue that is deleted",
            Some(deadline),
            idle,
        );
    }
    let mut state = cpu.machine().kmdf().lock();
    let Some(device) = state.queue(id).map(|queue| queue.device) else {
        return;
    };
    if let Some(device) = state.device(device) {
        device.queues.retain(|queue| *queue != id);
        device.default_queue = device.default_queue.filter(|queue| *queue != id);
        device.dispatching.retain(|_, queue| *queue != id);
    }
}

/// How long the deletion of a queue waits for the driver, in virtual time: 10 s.
const GRACE: u64 = 10 * 10_000_000;
