//! The state of the platform: the system goes to sleep, and comes back.
//!
//! What a module has to do then is a row of a second list of [`lifecycle`]: before sleep its rows run from bottom to top,
//! after it from top to bottom, as at stop and start. Before sleep whatever waits for something outside
//! is to end, operations that are held and packets that are queued, and nothing new may wait until the system is back.
//! The system sleeps when the last row has returned, so no row waits without a bound.

use kmdf::Driver;
use portcullis_proto::{EventKind, EventRecord};
use wfp::{
    Result,
    cell::KernelCell,
    irql::Passive,
    power::{Listener, Registration},
};

use crate::{
    lifecycle,
    state::{self, tag},
};

static REGISTRATION: KernelCell<Registration> = KernelCell::new(tag::GLOBAL);

/// Begins to hear of sleep and resume.
pub(crate) fn listen(_driver: Driver, passive: Passive) -> Result {
    REGISTRATION.try_set_with(|| Registration::new::<Platform>(passive), passive)?;
    Ok(())
}

/// Hears of nothing any more; whoever hears of something just now has done with it.
pub(crate) fn stop_listening(passive: Passive) {
    // SAFETY: starting and stopping are one thread's, and nobody else asks.
    if let Some(registration) = unsafe { REGISTRATION.take(passive) } {
        registration.into_inner().end(passive);
    }
}

/// Hears of sleep and resume.
struct Platform;

impl Listener for Platform {
    fn before_sleep(passive: Option<Passive>) {
        tell(true);
        // Above PASSIVE_LEVEL no row can wait. What is held then ends by its own time limit.
        if let Some(passive) = passive {
            lifecycle::before_sleep(passive);
        }
    }

    fn after_resume(passive: Option<Passive>) {
        if let Some(passive) = passive {
            lifecycle::after_resume(passive);
        }
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
