//! The control device: its name, who may open it, its queues and its work items.

use kmdf::{ControlDevice, Driver, File, Queue, Timer, WorkItem};
use portcullis_proto::device::{DEVICE_NAME, DEVICE_TYPE, SECURITY_DESCRIPTOR, SYMBOLIC_LINK_NAME};
use wdk_sys::{WDFFILEOBJECT, WDFTIMER, WDFWORKITEM};
use wfp::{NtStatus, Result, cell::KernelCell, device::Device, irql::Passive, wide};

use crate::{
    ask, capture, control, events, flows, management, packets, platform, redirect, state::tag,
    streams,
};

static DEVICE: KernelCell<ControlDevice> = KernelCell::new(tag::GLOBAL);
static QUEUES: KernelCell<Queues> = KernelCell::new(tag::GLOBAL);

/// What belongs to the device.
struct Queues {
    /// Takes every control request.
    control: Queue,
    /// Holds requests for events until there are some.
    read: Queue,
    /// Hands events to those requests.
    event_work: WorkItem,
    /// Holds requests for a capture's records until there are some.
    capture: Queue,
    /// Hands records to those requests.
    capture_work: WorkItem,
    /// Follows the base filtering engine.
    bfe_work: WorkItem,
    /// Makes room for more flows.
    flow_work: WorkItem,
    /// Puts packets back that have waited.
    packet_timer: Timer,
    /// Holds requests for questions until there are some.
    questions: Queue,
    /// Hands questions to those requests, and lets go what was held too long.
    ask_work: WorkItem,
    /// Asks for runs of that.
    ask_timer: Timer,
    /// Puts back what was taken out of streams.
    stream_work: WorkItem,
    /// Asks for that work when something has waited for long enough.
    stream_timer: Timer,
    /// Does what sleep and resume ask for, where their callback cannot.
    power_work: WorkItem,
}

/// Creates the device, which takes no requests before [`open`].
pub(crate) fn create(driver: Driver, passive: Passive) -> Result {
    let device = ControlDevice::create(
        driver,
        wide!(DEVICE_NAME),
        wide!(SECURITY_DESCRIPTOR),
        DEVICE_TYPE,
        Some(file_gone),
    )?;
    if let Err(status) = DEVICE.try_set(device, passive) {
        // SAFETY: nobody knows of the device yet.
        unsafe { device.delete() };
        return Err(status);
    }
    Ok(())
}

/// Deletes the device with all that belongs to it.
pub(crate) fn delete(passive: Passive) {
    // SAFETY: nothing else uses the device: it is the last thing that goes.
    if let Some(device) = unsafe { DEVICE.take(passive) } {
        // SAFETY: as above; callouts and the subscription went before it.
        unsafe { device.delete() };
    }
}

pub(crate) fn create_symbolic_link(_driver: Driver, _passive: Passive) -> Result {
    device()?.create_symbolic_link(wide!(SYMBOLIC_LINK_NAME))
}

pub(crate) fn create_queues(_driver: Driver, passive: Passive) -> Result {
    let device = device()?;
    let queues = Queues {
        control: Queue::create_default(device, Some(control::control))?,
        read: Queue::create_manual(device)?,
        event_work: WorkItem::create(device, Some(event_work))?,
        capture: Queue::create_manual(device)?,
        capture_work: WorkItem::create(device, Some(capture_work))?,
        bfe_work: WorkItem::create(device, Some(bfe_work))?,
        flow_work: WorkItem::create(device, Some(flow_work))?,
        packet_timer: Timer::create(device, Some(packets::serve))?,
        questions: Queue::create_manual(device)?,
        ask_work: WorkItem::create(device, Some(ask_work))?,
        ask_timer: Timer::create(device, Some(ask_timer))?,
        stream_work: WorkItem::create(device, Some(stream_work))?,
        stream_timer: Timer::create(device, Some(streams::due))?,
        power_work: WorkItem::create(device, Some(power_work))?,
    };
    QUEUES.try_set(queues, passive)?;
    Ok(())
}

/// Frees what is known of queues and work items; the framework deletes them with the device.
pub(crate) fn forget_queues(passive: Passive) {
    // SAFETY: requests are refused and work items have run, so nobody asks for them any more.
    drop(unsafe { QUEUES.take(passive) });
}

/// Lets requests arrive.
pub(crate) fn open() -> Result {
    device()?.finish_initializing();
    Ok(())
}

/// Refuses requests that come, cancels those that wait, and waits for those that are worked on.
pub(crate) fn purge_queues() {
    if let Some(queues) = QUEUES.get() {
        queues.control.purge();
        queues.read.purge();
        queues.questions.purge();
        queues.capture.purge();
    }
}

/// The device object for WFP.
pub(crate) fn wdm() -> Result<Device> {
    device()?.wdm()
}

/// Where requests wait for events.
pub(crate) fn read_queue() -> Option<Queue> {
    QUEUES.get().map(|queues| queues.read)
}

/// The timer that runs [`packets::serve`].
pub(crate) fn timer() -> Result<Timer> {
    let queues = QUEUES.get().ok_or(NtStatus::DEVICE_NOT_READY)?;
    Ok(queues.packet_timer)
}

/// Asks for a run of [`events::serve_readers`].
pub(crate) fn enqueue_event_work() {
    if let Some(queues) = QUEUES.get() {
        queues.event_work.enqueue();
    }
}

/// Where requests wait for questions.
pub(crate) fn question_queue() -> Option<Queue> {
    QUEUES.get().map(|queues| queues.questions)
}

/// Asks for a run of [`ask::work`].
pub(crate) fn enqueue_ask_work() {
    if let Some(queues) = QUEUES.get() {
        queues.ask_work.enqueue();
    }
}

/// Asks for a run of [`ask::work`] after so many units of 100 nanoseconds.
pub(crate) fn start_ask_timer(after: u64) {
    if let Some(queues) = QUEUES.get() {
        queues.ask_timer.start(after);
    }
}

/// Stops the timer, which nobody starts any more.
pub(crate) fn stop_ask_timer(passive: Passive) {
    if let Some(queues) = QUEUES.get() {
        queues.ask_timer.stop(passive);
    }
}

/// Waits until [`ask::work`] neither runs nor waits to run.
pub(crate) fn flush_ask_work() {
    if let Some(queues) = QUEUES.get() {
        queues.ask_work.flush();
    }
}

/// Where requests wait for a capture's records.
pub(crate) fn capture_queue() -> Option<Queue> {
    QUEUES.get().map(|queues| queues.capture)
}

/// Asks for a run of [`capture::serve_readers`].
pub(crate) fn enqueue_capture_work() {
    if let Some(queues) = QUEUES.get() {
        queues.capture_work.enqueue();
    }
}

/// Asks for a run of [`management::follow_bfe`].
pub(crate) fn enqueue_bfe_work() {
    if let Some(queues) = QUEUES.get() {
        queues.bfe_work.enqueue();
    }
}

/// Asks for a run of [`flows::grow`].
pub(crate) fn enqueue_flow_work() {
    if let Some(queues) = QUEUES.get() {
        queues.flow_work.enqueue();
    }
}

/// Asks for a run of [`streams::serve`].
pub(crate) fn enqueue_stream_work() {
    if let Some(queues) = QUEUES.get() {
        queues.stream_work.enqueue();
    }
}

/// Asks for one after so many units of 100 ns.
pub(crate) fn start_stream_timer(ticks: u64) {
    if let Some(queues) = QUEUES.get() {
        queues.stream_timer.start(ticks);
    }
}

/// Ends the work on streams. The callouts are gone, so that nothing asks for it any more but itself.
pub(crate) fn stop_streams(passive: Passive) {
    if let Some(queues) = QUEUES.get() {
        queues.stream_work.flush();
        queues.stream_timer.stop(passive);
        queues.stream_work.flush();
    }
}

/// Asks for a run of [`platform::follow`].
pub(crate) fn enqueue_power_work() {
    if let Some(queues) = QUEUES.get() {
        queues.power_work.enqueue();
    }
}

/// Waits until [`platform::follow`] neither runs nor waits to run.
pub(crate) fn flush_power_work() {
    if let Some(queues) = QUEUES.get() {
        queues.power_work.flush();
    }
}

/// Waits until no work item runs or waits to run.
pub(crate) fn flush_work() {
    if let Some(queues) = QUEUES.get() {
        queues.bfe_work.flush();
        queues.flow_work.flush();
        queues.event_work.flush();
        queues.capture_work.flush();
    }
}

fn device() -> Result<ControlDevice> {
    DEVICE.get().copied().ok_or(NtStatus::DEVICE_NOT_READY)
}

/// A program has closed its handle, or has ended.
///
/// # Safety
/// Called by the framework, with a file of the device.
unsafe extern "C" fn file_gone(file: WDFFILEOBJECT) {
    // SAFETY: EvtFileCleanup and EvtFileClose are called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    // SAFETY: the framework calls this with a file.
    if let Some(file) = unsafe { File::new(file) } {
        redirect::file_gone(file);
        ask::file_gone(file, passive);
        capture::file_gone(file, passive);
    }
}

/// # Safety
/// Called by the framework.
unsafe extern "C" fn event_work(_item: WDFWORKITEM) {
    events::serve_readers();
}

/// # Safety
/// Called by the framework.
unsafe extern "C" fn capture_work(_item: WDFWORKITEM) {
    // SAFETY: work items run at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    capture::serve_readers(passive);
}

/// # Safety
/// Called by the framework.
unsafe extern "C" fn bfe_work(_item: WDFWORKITEM) {
    // SAFETY: work items run at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    management::follow_bfe(passive);
}

/// # Safety
/// Called by the framework.
unsafe extern "C" fn power_work(_item: WDFWORKITEM) {
    // SAFETY: work items run at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    platform::follow(passive);
}

/// # Safety
/// Called by the framework.
unsafe extern "C" fn flow_work(_item: WDFWORKITEM) {
    // SAFETY: work items run at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    flows::grow(passive);
}

/// # Safety
/// Called by the framework.
unsafe extern "C" fn ask_work(_item: WDFWORKITEM) {
    // SAFETY: work items run at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    ask::work(passive);
}

/// # Safety
/// Called by the framework.
unsafe extern "C" fn ask_timer(_timer: WDFTIMER) {
    enqueue_ask_work();
}

/// # Safety
/// Called by the framework.
unsafe extern "C" fn stream_work(_item: WDFWORKITEM) {
    // SAFETY: work items run at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    streams::serve(passive);
}
