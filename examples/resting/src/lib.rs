//! The least WFP callout driver that keeps up with the state of the platform: datagrams to port 6666 wait up to fifty
//! milliseconds, unless the base filtering engine (BFE) stops or the machine is about to sleep.
//!
//! What it shows, and what WFP and the system ask for
//! ([`FwpmBfeStateSubscribeChanges0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmbfestatesubscribechanges0),
//! [callback objects](https://learn.microsoft.com/windows-hardware/drivers/kernel/using-a-system-defined-callback-object),
//! [programming considerations](https://learn.microsoft.com/windows-hardware/drivers/network/callout-driver-programming-considerations)):
//!
//! - Callouts are the kernel's, and stay registered while the engine is down; filters are the engine's. So the driver
//!   starts without it, adds its filters when it runs, and takes them away when it stops. It subscribes first and asks
//!   for the state then: a change in between is not missed.
//! - The engine's callback does nothing but ask for a work item, which looks at the state there is by then: the engine may
//!   be back already, and the session is gone all the same.
//! - A control device has no power of its own, hence no `EvtDeviceD0Exit`. Of sleep it hears by `\Callback\PowerState`,
//!   perhaps above `PASSIVE_LEVEL`, where it cannot wait.
//! - Nothing is held over either. A clone keeps buffers of other drivers from being returned, which wait for them when they
//!   go to sleep; and a datagram that is sent after a night is of no use to anybody. In this order: nothing more is taken,
//!   the timer is stopped, everything that is held is let go, and its injections are waited for, within bounds, because the
//!   machine waits too. What comes meanwhile passes.
//! - Two things say whether packets are taken, and each has a place of its own: whether the machine is awake, and whether
//!   there are filters. A machine that wakes does not undo what the engine has done, nor the other way round.
//! - A stop of the driver is a third reason for the same.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::{
    mem,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kmdf::{ControlDevice, Service, Timer, WorkItem};
use portcullis_core::{PacketSummary, connection::UDP};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, WDFTIMER, WDFWORKITEM};
use wfp::{
    Result,
    attachment::{Callouts, Filters, Plan, Row},
    bfe::{self, Subscription},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    inject::{InjectionHandles, Network, Parcels},
    irql::Passive,
    layer::OutboundIpPacket,
    list::CloneList,
    nbl::Packet,
    pool::Tag,
    power,
    schema::{BfeState, CalloutFlags, Guid, IpVersion},
    sync::{SpinLock, WaitLock},
    verdict::Authorization,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"RsDr");
const PORT: u16 = 6666;
/// So much of a packet holds its headers, unless there are many extension headers of IPv6.
const HEADERS: usize = 128;
/// How long the first of those that wait does, in units of 100 nanoseconds; the others go with it.
const WAIT: u64 = 50 * 10_000;
/// As many wait.
const LENGTH: usize = 32;
/// How often, and between what times, it is looked whether the last injection is completed, before the machine sleeps
/// without that.
const LOOKS: u32 = 500;
const BETWEEN: Duration = Duration::from_millis(1);

static PLAN: Plan<1> = Plan {
    name: wide!("Resting"),
    description: wide!("Datagrams to port 6666 wait"),
    service: wide!("resting"),
    key: Guid::from_u128(0x0C8E_71B4_2F96_4D53_9E1A_58D7_30CB_0000),
    weight: 0x100,
    // What a clone leaves to the network card is what the packet did.
    rows: [Row::of::<Resting>(CalloutAction::Unknown)
        .with_flags(CalloutFlags::ALLOW_OFFLOAD.union(CalloutFlags::ALLOW_RSC))],
};

/// A datagram that waits.
struct Waiting {
    list: CloneList,
    version: IpVersion,
    compartment: u32,
}

/// What waits, in the order in which it came, and whether anything may.
struct Line {
    places: [Option<Waiting>; LENGTH],
    /// The machine is not about to sleep.
    is_awake: bool,
    /// There are filters, so that what is taken is missed by nobody who was not asked.
    is_asked: bool,
}

static LINE: SpinLock<Line> = SpinLock::new(Line {
    places: [const { None }; LENGTH],
    is_awake: true,
    is_asked: false,
});

impl Line {
    /// Lets one wait, or gives it back.
    fn hold(&mut self, waiting: Waiting) -> Option<Waiting> {
        if !(self.is_awake && self.is_asked) {
            return Some(waiting);
        }
        let free = self.places.iter_mut().enumerate();
        let Some((index, place)) = free.into_iter().find(|(_, place)| place.is_none()) else {
            return Some(waiting);
        };
        *place = Some(waiting);
        if let (0, Some(timer)) = (index, TIMER.get()) {
            // Under the lock: once nothing may wait, nobody starts it any more.
            timer.start(WAIT);
        }
        None
    }
}

/// What injections need.
struct Means {
    /// Dropped first, which waits for the last injection.
    handles: InjectionHandles<Network>,
    parcels: Parcels<()>,
}

/// What there is of the driver in the engine.
struct Engine {
    filters: Option<Filters>,
    is_stopping: bool,
}

static MEANS: KernelCell<Means> = KernelCell::new(TAG);
static TIMER: KernelCell<Timer> = KernelCell::new(TAG);
static WORK: KernelCell<WorkItem> = KernelCell::new(TAG);
static ENGINE: KernelCell<WaitLock<Engine>> = KernelCell::new(TAG);
static CALLOUTS: KernelCell<Callouts<1>> = KernelCell::new(TAG);
static SUBSCRIPTION: KernelCell<Subscription> = KernelCell::new(TAG);
static POWER: KernelCell<power::Registration> = KernelCell::new(TAG);
/// The engine has not been running at some time since this was last looked at.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Starts the driver. When it fails, nothing of it is left.
///
/// # Safety
/// Called by the operating system, once, with the driver's object and its key in the registry.
#[unsafe(export_name = "DriverEntry")]
pub unsafe extern "system" fn driver_entry(
    driver: &mut DRIVER_OBJECT,
    registry_path: PCUNICODE_STRING,
) -> NTSTATUS {
    // SAFETY: these are the arguments of `DriverEntry`.
    unsafe { kmdf::enter::<Resting>(driver, registry_path) }
}

/// The driver, its callout at `OUTBOUND_IPPACKET`, and who hears of the platform's changes.
struct Resting;

// SAFETY: `stop` ends the subscription and unregisters the callouts, has the work item run for the last time, and stops the
// timer, which nobody else starts.
unsafe impl Service for Resting {
    const DEVICE: Wide<'static> = wide!(r"\Device\Resting");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        let means = || {
            Ok(Means {
                parcels: Parcels::try_new(TAG, 64)?,
                handles: InjectionHandles::create(passive)?,
            })
        };
        let engine = || {
            let nothing = Engine {
                filters: None,
                is_stopping: false,
            };
            WaitLock::try_new(TAG, nothing)
        };
        MEANS.try_set_with(means, passive)?;
        TIMER.try_set_with(|| Timer::create(device, Some(due)), passive)?;
        WORK.try_set_with(|| WorkItem::create(device, Some(work)), passive)?;
        ENGINE.try_set_with(engine, passive)?;
        let device = device.wdm()?;
        CALLOUTS.try_set_with(|| Callouts::register(device, &PLAN, passive), passive)?;
        SUBSCRIPTION.try_set_with(|| Subscription::new::<Self>(device, passive), passive)?;
        POWER.try_set_with(|| power::Registration::new::<Self>(passive), passive)?;
        follow(passive)
    }

    fn stop(passive: Passive) {
        // SAFETY: nobody else uses it.
        if let Some(power) = unsafe { POWER.take(passive) } {
            power.into_inner().end(passive);
        }
        if let Some(engine) = ENGINE.get() {
            engine.lock(passive).is_stopping = true;
        }
        // Nothing is added any more, so nothing fails.
        let _ = follow(passive);
        // Without the lock, because it waits for its callback. When it fails, the subscription is gone all the same.
        // SAFETY: `follow` does not look at it any more.
        let _ = unsafe { SUBSCRIPTION.take(passive) }
            .map(|subscription| subscription.into_inner().end(passive));
        if let Some(work) = WORK.get() {
            work.flush();
        }
        // SAFETY: nobody else uses it.
        drop(unsafe { CALLOUTS.take(passive) });
        // SAFETY: nobody asks for work any more, and none is done.
        drop(unsafe { WORK.take(passive) });
        // SAFETY: as above.
        drop(unsafe { ENGINE.take(passive) });
        // SAFETY: callouts and timer have stopped.
        drop(unsafe { TIMER.take(passive) });
        // SAFETY: as above.
        drop(unsafe { MEANS.take(passive) });
    }
}

impl Callout for Resting {
    type Layer = OutboundIpPacket;

    fn classify(call: &Classify<'_, OutboundIpPacket>) -> Authorization {
        let (Some(means), Some(packet), false) = (MEANS.get(), call.data, call.decided) else {
            return Authorization::Continue;
        };
        let version = call.fields.version();
        // First of all: what we have injected passes.
        if means.handles.of(version).state(packet).is_own() || !is_ours(packet) {
            return Authorization::Continue;
        }
        let Ok(list) = CloneList::of(packet) else {
            return Authorization::Continue;
        };
        let refused = LINE.lock().hold(Waiting {
            list,
            version,
            compartment: call.metadata.compartment().unwrap_or(0),
        });
        // What finds no place passes at once. Its clone is freed here, with no lock held.
        match refused {
            Some(_) => Authorization::Continue,
            None => Authorization::BlockSilently,
        }
    }
}

/// Whether these are datagrams to the port.
fn is_ours(packet: Packet<'_>) -> bool {
    packet.buffers().all(|buffer| {
        let mut headers = [0; HEADERS];
        let length = buffer.length().min(HEADERS);
        headers.get_mut(..length).is_some_and(|headers| {
            buffer.copy_to(0, headers).is_ok()
                && PacketSummary::parse(headers).is_some_and(|summary| {
                    summary.protocol == UDP && summary.destination.port == PORT
                })
        })
    })
}

/// The timer.
unsafe extern "C" fn due(_timer: WDFTIMER) {
    let_go();
}

/// Injects everything that is held, with no lock held. At IRQL <= `DISPATCH_LEVEL`.
fn let_go() {
    let places = mem::replace(&mut LINE.lock().places, [const { None }; LENGTH]);
    let Some(means) = MEANS.get() else { return };
    for waiting in places.into_iter().flatten() {
        let handle = means.handles.of(waiting.version);
        // What is refused comes back, and is freed.
        let _ = handle.send(&means.parcels, waiting.list, (), waiting.compartment);
    }
}

/// Lets go everything that is held, and waits until it has gone. Nothing is taken any more.
fn drain(passive: Passive) {
    if let Some(timer) = TIMER.get() {
        // One that was at it has done with it.
        timer.stop(passive);
    }
    let_go();
    for _ in 0..LOOKS {
        if MEANS.get().is_none_or(|means| means.parcels.pending() == 0) {
            return;
        }
        passive.sleep(BETWEEN);
    }
}

impl bfe::Listener for Resting {
    fn state_changed(state: Option<BfeState>) {
        if state != Some(BfeState::Running) {
            INTERRUPTED.store(true, Ordering::SeqCst);
        }
        if let Some(work) = WORK.get() {
            work.enqueue();
        }
    }
}

/// The work item. Filters that cannot be added are tried again at the next change.
unsafe extern "C" fn work(_work: WDFWORKITEM) {
    // SAFETY: a work item runs at PASSIVE_LEVEL.
    let _ = follow(unsafe { Passive::assume() });
}

/// Brings the filters in line with the engine's state.
///
/// # Errors
/// The filters could not be added; there are none then.
fn follow(passive: Passive) -> Result {
    let Some(engine) = ENGINE.get() else {
        return Ok(());
    };
    let mut engine = engine.lock(passive);
    // At stop the subscription is not looked at.
    let is_running = !engine.is_stopping
        && SUBSCRIPTION
            .get()
            .is_some_and(|subscription| subscription.state() == Some(BfeState::Running));
    if INTERRUPTED.swap(false, Ordering::SeqCst) || !is_running {
        LINE.lock().is_asked = false;
        // The session of an engine that has stopped is closed too.
        engine.filters = None;
        drain(passive);
    }
    if is_running && engine.filters.is_none() {
        engine.filters = Some(Filters::add(&PLAN, passive)?);
        LINE.lock().is_asked = true;
    }
    Ok(())
}

impl power::Listener for Resting {
    fn before_sleep(passive: Option<Passive>) {
        LINE.lock().is_awake = false;
        match passive {
            Some(passive) => drain(passive),
            None => let_go(),
        }
    }

    fn after_resume(_passive: Option<Passive>) {
        LINE.lock().is_awake = true;
    }
}
