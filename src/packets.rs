//! Packets that rules change or shape: taken out of the stack, and put back, now or later.
//!
//! A packet is copied into memory of our own, changed there, and injected; the stack's is absorbed. One that has to wait is in
//! the schedule until a timer puts it back. All memory is there from the start: when it runs out, packets are dropped, and counted.

mod take;

use core::sync::atomic::{AtomicBool, Ordering};

use kmdf::Timer;
use portcullis_core::{
    Clock, Connection, Decision, PolicyView, Transfer,
    packet::{Hops, NoPath, PathBucket, Paths, Ticket},
    shape::{LimitSlot, Schedule, Waiting},
};
use portcullis_proto::{Counter, LifecycleStep, effect::MAX_LIMITS};
use wdk_sys::WDFTIMER;
use wfp::{
    NtStatus, Result,
    cell::KernelCell,
    inject::{Arrival, Completion, InjectionHandle, Network, Parcels},
    irql::Passive,
    list::{OwnedList, PacketPool},
    nbl::Packet,
    pool::PoolVec,
    schema::IpVersion,
    sync::{RawSpinLock, SpinLock},
};

pub(crate) use self::take::{Shown, take};
use crate::{
    device,
    state::{self, SystemClock, tag},
};

/// Packets that fit into a frame of Ethernet, at a time.
const SMALL: (u32, u32) = (1024, 2048);
/// Larger ones, up to the largest that IP knows, at a time.
const LARGE: (u32, u32) = (16, 65_536 + 64);
/// Packets that can wait at a time, at most as many as there can be.
const WAITING: usize = 1024 + 16;
/// Buckets of the table of paths.
const BUCKETS: usize = 2048;
/// Packets that one run of the timer puts back; the rest is put back by the next, so that none takes long.
const BATCH: usize = 64;

/// A packet with where it goes on.
struct Departure {
    list: OwnedList,
    version: IpVersion,
    transfer: Transfer,
    at: Arrival,
}

/// A packet that waits.
struct Held {
    departure: Departure,
    ticket: Ticket,
}

/// What is told of an injection's end.
struct Injected;

impl Completion for Injected {
    fn completed(self, status: NtStatus) {
        if !status.is_success() {
            state::count(Counter::PacketNotInjected);
        }
    }
}

/// The memory and the handles.
pub(crate) struct Packets {
    /// Gone before what their injections use.
    handles: [Option<InjectionHandle<Network>>; 2],
    parcels: Parcels<Injected>,
    small: PacketPool,
    large: PacketPool,
    paths: Paths<PoolVec<PathBucket<RawSpinLock>>, PoolVec<LimitSlot<RawSpinLock>>>,
    hops: Hops,
    schedule: SpinLock<Queue>,
    /// Whether the timer's work is being done: two at a time would overtake each other.
    is_serving: AtomicBool,
    timer: Timer,
}

/// What waits, and whether anything may.
struct Queue {
    waiting: Schedule<PoolVec<Waiting<Held>>>,
    is_closed: bool,
}

static PACKETS: KernelCell<Packets> = KernelCell::new(tag::GLOBAL);

/// The packets, while there are handles to inject them.
pub(crate) fn packets() -> Option<&'static Packets> {
    PACKETS.get()
}

/// Allocates memory for packets, and creates the handles, if there are none yet.
pub(crate) fn make(passive: Passive) -> Result {
    if packets().is_some() {
        return Ok(());
    }
    let pool = |(count, size)| PacketPool::try_new(tag::PACKETS, count, size, passive);
    let waiting = PoolVec::try_from_fn(tag::PACKETS, WAITING, |_| Waiting::new())?;
    let buckets = PoolVec::try_from_fn(tag::PACKETS, BUCKETS, |_| PathBucket::new())?;
    let limits = PoolVec::try_from_fn(tag::PACKETS, MAX_LIMITS, |_| LimitSlot::new())?;
    let mut packets = Packets {
        handles: [None, None],
        parcels: Parcels::try_new(tag::PACKETS, SMALL.0 + LARGE.0)?,
        small: pool(SMALL)?,
        large: pool(LARGE)?,
        paths: Paths::new(buckets, limits, SystemClock.now()),
        hops: Hops::new(),
        schedule: SpinLock::new(Queue {
            waiting: Schedule::new(waiting),
            is_closed: false,
        }),
        is_serving: AtomicBool::new(false),
        timer: device::timer()?,
    };
    for (version, place) in [IpVersion::V4, IpVersion::V6]
        .into_iter()
        .zip(&mut packets.handles)
    {
        *place = Some(InjectionHandle::create(version, passive)?);
    }
    PACKETS.try_set(packets, passive).map(|_| ())
}

/// Drops what waits, destroys the handles when the last injection is completed, and frees the memory. The callouts are gone.
pub(crate) fn delete(passive: Passive) {
    if let Some(packets) = packets() {
        packets.close(passive);
    }
    // SAFETY: the callouts are unregistered, the timer is stopped, and nobody else asks.
    let Some(mut packets) = (unsafe { PACKETS.take(passive) }) else {
        return;
    };
    for handle in packets.handles.iter_mut().filter_map(Option::take) {
        if let Err(status) = handle.destroy(passive) {
            state::record(LifecycleStep::DestroyInjectionHandles, status);
        }
    }
}

/// A connection was decided. `false` if what its rule does to packets cannot be done, and it may not be without.
pub(crate) fn decided(
    policy: (&PolicyView<'_>, u64),
    connection: &Connection<'_>,
    decision: Decision,
) -> bool {
    let Some(packets) = packets() else {
        return true;
    };
    let now = SystemClock.now();
    match packets.paths.decided(policy, connection, decision, now) {
        Ok(()) => true,
        Err(no_path) => {
            state::count(match no_path {
                NoPath::Full => Counter::PathTableFull,
                NoPath::Taken => Counter::PathTaken,
            });
            // A limit that is not kept is less than a connection that goes where it must not.
            !decision
                .effects
                .contains(portcullis_core::EffectKind::Translate)
        }
    }
}

/// A flow has ended.
pub(crate) fn ended(connection: &Connection<'_>) {
    if let Some(packets) = packets() {
        packets.paths.ended(connection);
    }
}

/// The system is about to sleep: what waits is dropped, and until it is back nothing may wait. Whoever sent it sends it
/// again, and its time would be long over.
pub(crate) fn before_sleep(passive: Passive) {
    if let Some(packets) = packets() {
        packets.pause(passive);
    }
}

/// The system is back: packets may wait again.
pub(crate) fn after_resume(_passive: Passive) {
    if let Some(packets) = packets() {
        packets.schedule.lock().is_closed = false;
    }
}

/// The timer's work.
///
/// # Safety
/// Called by the framework.
pub(crate) unsafe extern "C" fn serve(_timer: WDFTIMER) {
    if let Some(packets) = packets() {
        packets.serve();
    }
}

impl Packets {
    const fn handle(&self, version: IpVersion) -> Option<&InjectionHandle<Network>> {
        let [v4, v6] = &self.handles;
        match version {
            IpVersion::V4 => v4.as_ref(),
            IpVersion::V6 => v6.as_ref(),
        }
    }

    /// Whether the packet was injected from here: it was taken, and is on its way.
    pub(crate) fn is_own(&self, version: IpVersion, packet: Packet<'_>) -> bool {
        let handle = self.handle(version);
        handle.is_some_and(|handle| handle.state(packet).is_own())
    }

    /// Memory for a packet of so many bytes.
    fn memory(&self, length: usize) -> Option<wfp::list::PacketBuffer> {
        let memory = if length <= self.small.size() {
            self.small.take(length)
        } else {
            self.large.take(length)
        };
        if memory.is_none() {
            state::count(Counter::PacketMemoryFull);
        }
        memory
    }

    /// Puts a packet back into the stack.
    fn depart(&self, departure: Departure) {
        let Departure {
            list,
            version,
            transfer,
            at,
        } = departure;
        let Some(handle) = self.handle(version) else {
            return;
        };
        let injected = match transfer {
            Transfer::Sent => handle.send(&self.parcels, list, Injected, at.compartment),
            Transfer::Received => handle.receive(&self.parcels, list, Injected, at),
        };
        // The list of one that was refused is freed with the refusal.
        if injected.is_err() {
            state::count(Counter::PacketNotInjected);
        }
    }

    /// Lets a packet wait.
    fn hold(&self, due: u64, held: Held) {
        let ticket = held.ticket;
        let mut queue = self.schedule.lock();
        let pushed = if queue.is_closed {
            Err(held)
        } else {
            queue.waiting.push(due, held)
        };
        if matches!(pushed, Ok(true)) {
            // Under the lock, so that the timer is never set to a later time than the first one's.
            self.timer.start(due.saturating_sub(SystemClock.now()));
        }
        drop(queue);
        match pushed {
            Ok(_) => state::count(Counter::PacketsDelayed),
            // Freed with no lock held.
            Err(held) => {
                drop(held);
                self.paths.gone(ticket);
                state::count(Counter::PacketQueueFull);
            }
        }
    }

    /// Puts back what is due.
    fn serve(&self) {
        if self.is_serving.swap(true, Ordering::Acquire) {
            // Whoever is at it sets the timer again.
            return;
        }
        for _ in 0..BATCH {
            let due = self.schedule.lock().waiting.pop_due(SystemClock.now());
            let Some(Held { departure, ticket }) = due else {
                break;
            };
            self.depart(departure);
            // Only now may another of its way go on at once.
            self.paths.gone(ticket);
        }
        self.is_serving.store(false, Ordering::Release);
        let mut queue = self.schedule.lock();
        if !queue.is_closed
            && let Some(due) = queue.waiting.next_due()
        {
            self.timer.start(due.saturating_sub(SystemClock.now()));
        }
        drop(queue);
    }

    /// Lets nothing wait for now, and drops what does.
    fn pause(&self, passive: Passive) {
        self.schedule.lock().is_closed = true;
        self.timer.stop(passive);
        loop {
            let held = self.schedule.lock().waiting.pop_due(u64::MAX);
            let Some(Held { departure, ticket }) = held else {
                return;
            };
            drop(departure);
            self.paths.gone(ticket);
            state::count(Counter::PacketsDropped);
        }
    }

    /// Lets nothing wait any more, and drops what does.
    fn close(&self, passive: Passive) {
        self.schedule.lock().is_closed = true;
        self.timer.stop(passive);
        loop {
            let held = self.schedule.lock().waiting.pop_due(u64::MAX);
            if held.is_none() {
                return;
            }
            state::count(Counter::PacketsDropped);
        }
    }
}
