//! What the driver knows: the core with its memory, and what state it is in.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use kmdf::Driver;
use portcullis_core::{AssemblyPool, AssemblySlot, Clock, EventSink, FlowTable, Parts, Portcullis};
use portcullis_proto::{
    Counter, DriverState, EventKind, EventRecord, LifecycleStep, status::STEP_SLOTS,
};
use wfp::{
    NtStatus, Result, cell::KernelCell, irql::Passive, pool::PoolVec, sync::RawSpinLock, time,
};

use crate::{device, events::Events, flows::Flows, policy::PolicyStore};

/// The core over the kernel's locks and memory.
pub(crate) type Core = Portcullis<Kernel>;

/// The kernel's locks and memory.
pub(crate) enum Kernel {}

impl Parts for Kernel {
    type Mutex = RawSpinLock;
    type Flows = Flows;
    type Assemblies = PoolVec<AssemblySlot<RawSpinLock>>;
    type Policy = PolicyStore;
    type Events = Events;
    type Clock = SystemClock;
}

/// QUIC connections whose host name can be sought at a time: each takes a few milliseconds and 7 KiB.
const ASSEMBLIES: usize = 128;

/// Tags of the pool, one for each owner.
pub(crate) mod tag {
    use wfp::pool::Tag;

    /// What lives in the driver's globals.
    pub(crate) const GLOBAL: Tag = Tag::new(*b"PcGl");
    /// The table of flows.
    pub(crate) const FLOWS: Tag = Tag::new(*b"PcFl");
    /// Memory to read QUIC's first packets.
    pub(crate) const QUIC: Tag = Tag::new(*b"PcQu");
    /// What is held until somebody answers.
    pub(crate) const ASK: Tag = Tag::new(*b"PcAs");
    /// The event ring.
    pub(crate) const EVENTS: Tag = Tag::new(*b"PcEv");
    /// Redirection: original destinations, and what proxies are told.
    pub(crate) const REDIRECT: Tag = Tag::new(*b"PcRd");
    /// Processes and their applications.
    pub(crate) const PROCESSES: Tag = Tag::new(*b"PcPr");
    /// Packets that are changed or wait, and their paths.
    pub(crate) const PACKETS: Tag = Tag::new(*b"PcPk");
    /// Captures and their rings.
    pub(crate) const CAPTURE: Tag = Tag::new(*b"PcCa");
    /// Streams that are edited or held.
    pub(crate) const STREAMS: Tag = Tag::new(*b"PcSt");
    /// Policies.
    pub(crate) const POLICY: Tag = Tag::new(*b"PcPo");
}

static CORE: KernelCell<Core> = KernelCell::new(tag::GLOBAL);
static STATE: AtomicU32 = AtomicU32::new(DriverState::Stopped.raw());
static STOPPING: AtomicBool = AtomicBool::new(false);
static STARTED: AtomicU64 = AtomicU64::new(0);
static ERRORS: [AtomicI32; STEP_SLOTS] = [const { AtomicI32::new(0) }; STEP_SLOTS];

/// The system's clock.
#[derive(Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        time::system_time()
    }
}

/// Allocates the core.
pub(crate) fn create(_driver: Driver, passive: Passive) -> Result {
    let assemblies =
        PoolVec::try_from_fn(tag::QUIC, ASSEMBLIES, |_| const { AssemblySlot::new() })?;
    let core = Portcullis::new(
        FlowTable::new(Flows::try_new(passive)?),
        AssemblyPool::new(assemblies),
        PolicyStore::try_new()?,
        Events::try_new()?,
        SystemClock,
    );
    CORE.try_set(core, passive)?;
    STARTED.store(time::system_time(), Ordering::Relaxed);
    Ok(())
}

/// Frees the core.
pub(crate) fn delete(passive: Passive) {
    // Work items are the last to use it: callouts and requests are gone.
    device::flush_work();
    // SAFETY: callouts are unregistered, requests are refused, work items have run.
    drop(unsafe { CORE.take(passive) });
}

/// The core, while it exists.
pub(crate) fn core() -> Option<&'static Core> {
    CORE.get()
}

/// Counts one, while there is a core.
pub(crate) fn count(counter: Counter) {
    if let Some(core) = core() {
        core.statistics().count(counter);
    }
}

/// What the driver is doing.
pub(crate) fn get() -> u32 {
    STATE.load(Ordering::Acquire)
}

/// Changes what the driver is doing, and tells of it.
pub(crate) fn set(new: DriverState) {
    let old = STATE.swap(new.raw(), Ordering::AcqRel);
    let Some(core) = core().filter(|_| old != new.raw()) else {
        return;
    };
    let event = EventRecord {
        kind: EventKind::StateChanged.raw(),
        time: SystemClock.now().into(),
        value: [u64::from(old).into(), u64::from(new.raw()).into()],
        ..EventRecord::default()
    };
    write_event(core, &event);
}

/// Puts an event of the driver's own into the ring.
pub(crate) fn write_event(core: &Core, event: &EventRecord) {
    let counter = if core.events().write(event) {
        Counter::EventsWritten
    } else {
        Counter::EventsDropped
    };
    core.statistics().count(counter);
}

/// Begins to stop: nothing new is to be started.
pub(crate) fn begin_stopping() {
    STOPPING.store(true, Ordering::SeqCst);
    set(DriverState::Stopping);
}

/// Whether the driver is stopping.
pub(crate) fn is_stopping() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// When the driver started, as [`Clock::now`] has it.
pub(crate) fn started() -> u64 {
    STARTED.load(Ordering::Relaxed)
}

/// Keeps a step's failure for status replies.
pub(crate) fn record(step: LifecycleStep, status: NtStatus) {
    if let Some(error) = ERRORS.get(usize::from(step.raw())) {
        error.store(status.to_i32(), Ordering::Relaxed);
    }
}

/// The last failure of each step.
pub(crate) fn errors() -> [i32; STEP_SLOTS] {
    ERRORS.each_ref().map(|error| error.load(Ordering::Relaxed))
}
