//! How the driver starts and stops: one list, from top to bottom and from bottom to top.
//!
//! When a row's start fails it has left nothing itself, and the rows above it are stopped. So a
//! failed start and a stop are the same way down. Its order, which WFP demands:
//!
//! refuse new control requests and let go what is held → put back what was taken out of streams → delete
//! the filters → remove flow contexts and wait for the last
//! one's end → unregister each callout by its identifier → delete the management objects, close
//! the session, end the subscription → destroy the redirect handle, end the watch over processes → drop packets
//! that wait, destroy the injection handles → free memory → delete the device.

use kmdf::Driver;
use portcullis_core::{packet::PACKET_EFFECTS, stream::STREAM_EFFECTS};
use portcullis_proto::{LifecycleStep, effect::EffectSet};
use wfp::{Result, irql::Passive};

use crate::{
    ask, capture, control, device, management, packets, platform, processes, redirect,
    registration, state, streams,
};

/// A row of the list.
struct Step {
    /// What its failure is reported as.
    name: LifecycleStep,
    start: fn(Driver, Passive) -> Result,
    stop: fn(Passive),
}

/// The list. A row may rely on all that is above it.
static STEPS: [Step; 15] = [
    Step {
        name: LifecycleStep::CreateDevice,
        start: device::create,
        stop: device::delete,
    },
    Step {
        name: LifecycleStep::CreateSymbolicLink,
        start: device::create_symbolic_link,
        stop: with_the_device,
    },
    Step {
        name: LifecycleStep::CreateQueue,
        start: device::create_queues,
        stop: device::forget_queues,
    },
    Step {
        name: LifecycleStep::CreateFlowTable,
        start: state::create,
        stop: state::delete,
    },
    Step {
        name: LifecycleStep::PreparePackets,
        start: on_demand,
        stop: packets::delete,
    },
    Step {
        name: LifecycleStep::PrepareStreams,
        start: on_demand,
        stop: streams::delete,
    },
    Step {
        name: LifecycleStep::WatchProcesses,
        start: processes::watch,
        stop: processes::end_watch,
    },
    Step {
        name: LifecycleStep::CreateRedirectHandle,
        start: redirect::create,
        stop: redirect::delete,
    },
    // Below the callouts: until they are gone an operation may still be held.
    Step {
        name: LifecycleStep::PrepareAsking,
        start: ask::create,
        stop: ask::delete,
    },
    Step {
        name: LifecycleStep::PrepareCapture,
        start: capture::create,
        stop: capture::delete,
    },
    // The session is opened further down, when the base filtering engine runs, and reopened
    // whenever it returns. What is left of it after the filters is closed here, because callouts
    // are to be gone before.
    Step {
        name: LifecycleStep::PrepareManagement,
        start: management::prepare,
        stop: management::close,
    },
    Step {
        name: LifecycleStep::RegisterCallouts,
        start: registration::register,
        stop: registration::unregister,
    },
    Step {
        name: LifecycleStep::SubscribeBfe,
        start: management::subscribe,
        stop: stop_filtering,
    },
    Step {
        name: LifecycleStep::ListenToPower,
        start: platform::listen,
        stop: platform::stop_listening,
    },
    // From here on requests arrive.
    Step {
        name: LifecycleStep::TakeRequests,
        start: control::open,
        stop: control::close,
    },
];

// Each row has a name of its own, so that a failure names one row.
const _: () = {
    let mut row = 0;
    while row < STEPS.len() {
        let mut other = row + 1;
        while other < STEPS.len() {
            assert!(STEPS[row].name.raw() != STEPS[other].name.raw());
            other += 1;
        }
        row += 1;
    }
};

/// Memory and handles that only some effects need. They are made for the first policy that has one of these, and live
/// until the driver stops, in its row of the list above.
struct Store {
    /// The row.
    name: LifecycleStep,
    needed_by: EffectSet,
    /// Does nothing if it has been made.
    make: fn(Passive) -> Result,
}

static STORES: [Store; 2] = [
    Store {
        name: LifecycleStep::PreparePackets,
        needed_by: PACKET_EFFECTS,
        make: packets::make,
    },
    Store {
        name: LifecycleStep::PrepareStreams,
        needed_by: STREAM_EFFECTS,
        make: streams::make,
    },
];

/// Makes what these effects need. Called by one thread at a time, between start and stop.
///
/// # Errors
/// `STATUS_INSUFFICIENT_RESOURCES`, or why there is no injection handle. What has been made stays.
pub(crate) fn provide(effects: EffectSet, passive: Passive) -> Result {
    for store in &STORES {
        if store.needed_by.intersects(effects) {
            (store.make)(passive).inspect_err(|&status| {
                state::record(store.name, status);
            })?;
        }
    }
    Ok(())
}

/// What a module does when the system goes to sleep, and when it comes back.
struct Sleeper {
    /// Ends what waits for something outside. It returns soon: the system waits for it.
    before_sleep: fn(Passive),
    after_resume: fn(Passive),
}

/// Who has something to do then, in the order of the list above.
static SLEEPERS: [Sleeper; 3] = [
    Sleeper {
        before_sleep: packets::before_sleep,
        after_resume: packets::after_resume,
    },
    // Nobody answers while the system sleeps: the rules' defaults do.
    Sleeper {
        before_sleep: ask::before_sleep,
        after_resume: ask::after_resume,
    },
    Sleeper {
        before_sleep: nothing,
        // The engine's service may have come or gone with the system.
        after_resume: management::follow_bfe,
    },
];

/// The system is about to sleep: last first.
pub(crate) fn before_sleep(passive: Passive) {
    for sleeper in SLEEPERS.iter().rev() {
        (sleeper.before_sleep)(passive);
    }
}

/// The system has come back.
pub(crate) fn after_resume(passive: Passive) {
    for sleeper in &SLEEPERS {
        (sleeper.after_resume)(passive);
    }
}

/// Starts the driver.
///
/// # Errors
/// The status of the step that failed; nothing is left of those before it.
pub(crate) fn start(driver: Driver, passive: Passive) -> Result {
    for (done, step) in STEPS.iter().enumerate() {
        if let Err(status) = (step.start)(driver, passive) {
            state::record(step.name, status);
            undo(done, passive);
            return Err(status);
        }
    }
    Ok(())
}

/// Stops the driver. Returns when nothing of it is left.
pub(crate) fn stop(passive: Passive) {
    undo(STEPS.len(), passive);
}

/// Stops the first `started` rows, last first.
fn undo(started: usize, passive: Passive) {
    for step in STEPS.iter().take(started).rev() {
        (step.stop)(passive);
    }
}

/// Ends the filtering: what was taken out of streams is put back before the filters go.
fn stop_filtering(passive: Passive) {
    streams::settle(passive);
    management::delete_filters(passive);
}

/// For who has nothing to do.
const fn nothing(_passive: Passive) {}

/// The start of what is made when it is [needed](STORES).
#[allow(clippy::unnecessary_wraps, reason = "it is a step")]
const fn on_demand(_driver: Driver, _passive: Passive) -> Result {
    Ok(())
}

/// The stop of what the framework deletes together with the device.
const fn with_the_device(_passive: Passive) {}
