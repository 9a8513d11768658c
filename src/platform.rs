//! The state of the platform: the system goes to sleep, and comes back.
//!
//! What a module has to do then is a row of a second list of [`lifecycle`]: before sleep its rows run from bottom to top,
//! after it from top to bottom, as at stop and start. Before sleep whatever waits for something outside
//! is to end, operations that are held and packets that are queued, and nothing new may wait until the system is back.
//! The system sleeps when the last row has returned, so no row waits without a bound.
//!
//! The system may tell of it above `PASSIVE_LEVEL`, where no row could wait. Then a work item runs the rows, and the
//! system may be faster.

use core::sync::atomic::{AtomicBool, Ordering};

use kmdf::Driver;
use portcullis_proto::{EventKind, EventRecord};
use wfp::{
    Result,
    cell::KernelCell,
    irql::Passive,
    power::{Listener, Registration},
    sync::WaitLock,
};

use crate::{
    device, lifecycle,
    state::{self, tag},
};

static REGISTRATION: KernelCell<Registration> = KernelCell::new(tag::GLOBAL);
/// Whoever runs the rows has it, so that the last one of them goes by the last change.
static ROWS: KernelCell<WaitLock<()>> = KernelCell::new(tag::GLOBAL);
/// The system is about to sleep, or sleeps.
static IS_ASLEEP: AtomicBool = AtomicBool::new(false);

/// Begins to hear of sleep and resume.
pub(crate) fn listen(_driver: Driver, passive: Passive) -> Result {
    ROWS.try_set_with(|| WaitLock::try_new(tag::GLOBAL, ()), passive)?;
    let registration = || Registration::new::<Platform>(passive);
    if let Err(status) = REGISTRATION.try_set_with(registration, passive) {
        stop_listening(passive);
        return Err(status);
    }
    Ok(())
}

/// Hears of nothing any more; whoever hears of something just now has done with it.
pub(crate) fn stop_listening(passive: Passive) {
    // SAFETY: starting and stopping are one thread's, and nobody else asks.
    if let Some(registration) = unsafe { REGISTRATION.take(passive) } {
        registration.into_inner().end(passive);
    }
    device::flush_power_work();
    // SAFETY: as above, and no work item runs the rows any more.
    drop(unsafe { ROWS.take(passive) });
}

/// Runs the rows for what the system does now.
pub(crate) fn follow(passive: Passive) {
    let Some(rows) = ROWS.get() else {
        return;
    };
    let _running = rows.lock(passive);
    if IS_ASLEEP.load(Ordering::SeqCst) {
        lifecycle::before_sleep(passive);
    } else {
        lifecycle::after_resume(passive);
    }
}

/// The system goes to sleep, or comes back.
fn changed(is_asleep: bool, passive: Option<Passive>) {
    IS_ASLEEP.store(is_asleep, Ordering::SeqCst);
    match passive {
        Some(passive) => follow(passive),
        None => device::enqueue_power_work(),
    }
}

/// Hears of sleep and resume.
struct Platform;

impl Listener for Platform {
    fn before_sleep(passive: Option<Passive>) {
        tell(true);
        changed(true, passive);
    }

    fn after_resume(passive: Option<Passive>) {
        changed(false, passive);
        tell(false);
    }
}

/// Tells of the change.
fn tell(asleep: bool) {
    let Some(core) = state::core() else {
        return;
    };
    let event = EventRecord {
        kind: EventKind::PowerChanged.raw(),
        time: wfp::time::system_time().into(),
        value: [u64::from(asleep).into(), 0.into()],
        ..EventRecord::default()
    };
    state::write_event(core, &event);
}
