//! The functions of WDFQUEUE.

use wfp_schema::NtStatus;

use super::abi::{
    Level, ObjectAttributes, QueueConfig, QueueStateCallback, RequestParameters, Scope, sized,
    status,
};
use super::attributes::{Attributes, Constraints, Parent};
use super::object::{Body, Id, Kind, not_null, resolve};
use super::queue::{Dispatching, Handlers, Queue, dispatch, find};
use super::request;
use super::request::Owner;
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::nt::io_irp::Major;
use crate::verifier::ARGUMENT;

/// `sizeof(WDF_IO_QUEUE_CONFIG)` up to 1.7, in 1.9, and since 1.11.
const CONFIG_SIZES: [u32; 3] = [80, 88, 96];
/// Where 1.9 put `Settings.Parallel.NumberOfPresentedRequests`.
const PRESENTED_REQUESTS: usize = 80;

/// `WDF_IO_QUEUE_STATE`.
mod queue_state {
    pub(super) const ACCEPTS: u32 = 0x1;
    pub(super) const DISPATCHES: u32 = 0x2;
    pub(super) const NO_REQUESTS: u32 = 0x4;
    pub(super) const DRIVER_NO_REQUESTS: u32 = 0x8;
}

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuecreate>
    fn WdfIoQueueCreate(call, globals: usize, device: usize, config: Out<QueueConfig>, attributes: In<ObjectAttributes>, queue: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let device = resolve(&call, device, Kind::Device);
        not_null(&call, config.address(), "Config");
        match create(&call, device, config, attributes) {
            Ok(id) => {
                queue.set(id.handle());
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuegetstate>
    fn WdfIoQueueGetState(call, globals: usize, queue: usize, waiting: Out<u32>, presented: Out<u32>) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, queue, Kind::Queue);
        let (flags, counts) = {
            let mut state = call.machine().kmdf().lock();
            state.queue(id).map_or((0, (0, 0)), |queue| (flags(queue), (queue.waiting.len(), queue.presented.len())))
        };
        waiting.set(u32::try_from(counts.0).unwrap_or(u32::MAX));
        presented.set(u32::try_from(counts.1).unwrap_or(u32::MAX));
        flags
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuegetdevice>
    fn WdfIoQueueGetDevice(call, globals: usize, queue: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, queue, Kind::Queue);
        call.machine().kmdf().lock().queue(id).map_or(0, |queue| queue.device.handle())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuestart>
    fn WdfIoQueueStart(call, globals: usize, queue: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, queue, Kind::Queue);
        if let Some(queue) = call.machine().kmdf().lock().queue(id) {
            queue.accepts = true;
            queue.dispatches = true;
            queue.cancels_presented = false;
            queue.became_ready |= !queue.waiting.is_empty();
        }
        dispatch(call.cpu(), id);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuereadynotify>
    fn WdfIoQueueReadyNotify(call, globals: usize, queue: usize, ready: Option<QueueStateCallback>, context: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INVALID_DEVICE_REQUEST;
    {
        let id = resolve(&call, queue, Kind::Queue);
        let status = {
            let mut state = call.machine().kmdf().lock();
            state.queue(id).map_or(NtStatus::DELETE_PENDING, |queue| {
                let allowed = match ready {
                    Some(_) => queue.ready_notify.is_none(),
                    None => queue.ready_notify.is_some() && !queue.dispatches,
                };
                if queue.dispatching != Dispatching::Manual || !allowed {
                    return NtStatus::INVALID_DEVICE_REQUEST;
                }
                queue.ready_notify = ready.map(|ready| (ready, context));
                NtStatus::SUCCESS
            })
        };
        if status.is_success() {
            dispatch(call.cpu(), id);
        }
        status
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueueretrievenextrequest>
    fn WdfIoQueueRetrieveNextRequest(call, globals: usize, queue: usize, out: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        retrieve(&call, queue, None, out)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueueretrieverequestbyfileobject>
    fn WdfIoQueueRetrieveRequestByFileObject(call, globals: usize, queue: usize, file: usize, out: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        let file = resolve(&call, file, Kind::File);
        retrieve(&call, queue, Some(file), out)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuefindrequest>
    fn WdfIoQueueFindRequest(call, globals: usize, queue: usize, found: usize, file: usize, parameters: Out<RequestParameters>, out: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, queue, Kind::Queue);
        let after = (found != 0).then(|| resolve(&call, found, Kind::Request));
        let file = (file != 0).then(|| resolve(&call, file, Kind::File));
        find_request(&call, id, after, file, parameters, out)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueueretrievefoundrequest>
    fn WdfIoQueueRetrieveFoundRequest(call, globals: usize, queue: usize, found: usize, out: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::NOT_FOUND;
    {
        let id = resolve(&call, queue, Kind::Queue);
        let found = resolve(&call, found, Kind::Request);
        let status = take(&call, id, |_| Some(found));
        let status = if status == Err(NtStatus::NO_MORE_ENTRIES) { Err(NtStatus::NOT_FOUND) } else { status };
        hand_out(status, out)
    }
}

fn create(
    call: &Call<'_>,
    device: Id,
    config: Out<QueueConfig>,
    attributes: In<ObjectAttributes>,
) -> Result<Id, NtStatus> {
    let raw = sized(config.as_in(), |config| config.size, &CONFIG_SIZES)?;
    let attributes = Attributes::read(call, attributes, Parent::Allowed, Constraints::Both)?;
    let handlers = Handlers {
        default: raw.io_default,
        read: raw.io_read,
        write: raw.io_write,
        device_control: raw.io_device_control,
        canceled_on_queue: raw.io_canceled_on_queue,
    };
    let any = handlers.default.is_some()
        || handlers.read.is_some()
        || handlers.write.is_some()
        || handlers.device_control.is_some()
        || raw.io_internal_device_control.is_some();
    let dispatching = match (raw.dispatch_type, any) {
        (1 | 2, false) => return Err(status::NO_CALLBACK),
        (1, true) => Dispatching::Sequential,
        (2, true) => Dispatching::Parallel,
        (3, false) => Dispatching::Manual,
        _ => return Err(NtStatus::INVALID_PARAMETER),
    };
    let mut queue = Queue::new(device, dispatching, handlers);
    queue.allow_zero_length = raw.allow_zero_length != 0;
    if raw.size > CONFIG_SIZES[0] {
        let presented = config.offset::<u32>(PRESENTED_REQUESTS).get().unwrap_or(0);
        match dispatching {
            Dispatching::Parallel => queue.presented_at_most = presented as usize,
            _ if presented != 0 => return Err(NtStatus::INVALID_PARAMETER),
            _ => {}
        }
    }
    if queue.presented_at_most == 0 {
        // It is created like that by the real framework too, and then never presents a request.
        call.violation(
            &ARGUMENT,
            "a parallel queue that presents 0 requests at a time never presents one",
        );
    }
    let mut state = call.machine().kmdf().lock();
    let level = state
        .get(device)
        .map_or(Level::Dispatch, |device| device.level);
    let attributes = attributes.or_below(Some(device));
    if attributes.scope == Some(Scope::Device) && attributes.level.is_some_and(|own| own != level) {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let client = state.get(device).map_or(0, |device| device.client);
    if raw.default_queue != 0
        && state
            .device(device)
            .is_some_and(|device| device.default_queue.is_some())
    {
        return Err(NtStatus::UNSUCCESSFUL);
    }
    let id = state.create(client, &attributes, Body::Queue(Box::new(queue)))?;
    if let Some(device) = state.device(device) {
        device.queues.push(id);
        if raw.default_queue != 0 {
            device.default_queue = Some(id);
        }
    }
    Ok(id)
}

const fn bit(flag: u32, set: bool) -> u32 {
    if set { flag } else { 0 }
}

fn flags(queue: &Queue) -> u32 {
    bit(queue_state::ACCEPTS, queue.accepts)
        | bit(queue_state::DISPATCHES, queue.dispatches)
        | bit(queue_state::NO_REQUESTS, queue.waiting.is_empty())
        | bit(queue_state::DRIVER_NO_REQUESTS, queue.presented.is_empty())
}

fn retrieve(call: &Call<'_>, queue: usize, file: Option<Id>, out: Out<usize>) -> NtStatus {
    let id = resolve(call, queue, Kind::Queue);
    not_null(call, out.address(), "OutRequest");
    loop {
        let taken = take(call, id, |state| {
            let file = file
                .and_then(|file| state.file(file))
                .map(|file| file.address());
            find(state, id, file, None)
        });
        // Reads and writes of nothing are completed without the driver, unless it wants them.
        if let Ok(request) = taken
            && is_empty_transfer(call, id, request)
        {
            request::complete(call.cpu(), request, NtStatus::SUCCESS, 0);
            continue;
        }
        return hand_out(taken, out);
    }
}

fn is_empty_transfer(call: &Call<'_>, queue: Id, request: Id) -> bool {
    let mut state = call.machine().kmdf().lock();
    let allowed = state
        .queue(queue)
        .is_none_or(|queue| queue.allow_zero_length);
    let irp = state
        .request(request)
        .and_then(|request| request.irp.as_ref());
    !allowed
        && irp.is_some_and(|irp| match irp.major {
            Major::Read => irp.output_len == 0,
            Major::Write => irp.input_len == 0,
            _ => false,
        })
}

/// Gives a waiting request to the driver.
fn take(
    call: &Call<'_>,
    queue_id: Id,
    choose: impl FnOnce(&mut super::object::State) -> Option<Id>,
) -> Result<Id, NtStatus> {
    let mut state = call.machine().kmdf().lock();
    let queue = state.queue(queue_id).ok_or(NtStatus::DELETE_PENDING)?;
    if queue.dispatching == Dispatching::Parallel {
        return Err(NtStatus::INVALID_DEVICE_STATE);
    }
    if !queue.dispatches {
        return Err(status::PAUSED);
    }
    let Some(chosen) = choose(&mut state) else {
        return Err(NtStatus::NO_MORE_ENTRIES);
    };
    let queue = state.queue(queue_id).ok_or(NtStatus::DELETE_PENDING)?;
    let at = queue
        .waiting
        .iter()
        .position(|id| *id == chosen)
        .ok_or(NtStatus::NO_MORE_ENTRIES)?;
    queue.waiting.remove(at);
    queue.presented.push(chosen);
    let request = state.request(chosen).ok_or(NtStatus::NO_MORE_ENTRIES)?;
    request.owner = Owner::Driver;
    request.presented = true;
    Ok(chosen)
}

const fn hand_out(taken: Result<Id, NtStatus>, out: Out<usize>) -> NtStatus {
    match taken {
        Ok(request) => {
            out.set(request.handle());
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

fn find_request(
    call: &Call<'_>,
    queue: Id,
    after: Option<Id>,
    file: Option<Id>,
    parameters: Out<RequestParameters>,
    out: Out<usize>,
) -> NtStatus {
    not_null(call, out.address(), "OutRequest");
    let found = {
        let mut state = call.machine().kmdf().lock();
        if state
            .queue(queue)
            .is_none_or(|queue| queue.dispatching != Dispatching::Manual)
        {
            return NtStatus::INVALID_DEVICE_REQUEST;
        }
        let gone = after.is_some_and(|after| {
            state
                .queue(queue)
                .is_some_and(|queue| !queue.waiting.contains(&after))
        });
        if gone {
            return NtStatus::NOT_FOUND;
        }
        let file = file
            .and_then(|file| state.file(file))
            .map(|file| file.address());
        let Some(found) = find(&mut state, queue, file, after) else {
            return NtStatus::NO_MORE_ENTRIES;
        };
        // The driver gives this reference back itself.
        if let Some(request) = state.get_mut(found) {
            request.references += 1;
        }
        state
            .request(found)
            .map(|request| (found, request.parameters()))
    };
    let Some((found, known)) = found else {
        return NtStatus::NO_MORE_ENTRIES;
    };
    parameters.set(known);
    out.set(found.handle());
    NtStatus::SUCCESS
}
