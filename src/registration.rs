//! Registering the callouts, and unregistering them when nothing of theirs is in use any more.

use kmdf::Driver;
use portcullis_proto::{Counter, LifecycleStep};
use wfp::{
    Result,
    cell::KernelCell,
    flow::Removal,
    irql::{Passive, Patience},
    registration::Registration,
    schema::IpVersion,
    sync::WaitLock,
};

use crate::{
    callouts, device,
    state::{self, tag},
};

type Registrations = [Option<Registration>; callouts::COUNT];

static REGISTERED: KernelCell<WaitLock<Registrations>> = KernelCell::new(tag::GLOBAL);

/// Registers every callout. It works before the base filtering engine runs.
pub(crate) fn register(_driver: Driver, passive: Passive) -> Result {
    let device = device::wdm()?;
    let none: Registrations = [const { None }; callouts::COUNT];
    let registered = REGISTERED.try_set(WaitLock::try_new(tag::GLOBAL, none)?, passive)?;
    let mut registered = registered.lock(passive);
    for (entry, place) in callouts::entries().zip(registered.iter_mut()) {
        match entry.register(device, passive) {
            Ok(registration) => *place = Some(registration),
            Err(status) => {
                state::count(Counter::RegisterFailed);
                drop(registered);
                unregister(passive);
                return Err(status);
            }
        }
    }
    Ok(())
}

/// Removes every flow context and unregisters every callout.
///
/// It does not return before that is done, however long it takes: a driver that is gone while WFP
/// can call it is a crash, one that cannot be unloaded is not.
pub(crate) fn unregister(passive: Passive) {
    remove_flow_contexts(passive);
    let Some(registered) = REGISTERED.get() else {
        return;
    };
    let mut registered = registered.lock(passive);
    for (entry, place) in callouts::entries().zip(registered.iter_mut()) {
        if let Some(registration) = place.take() {
            registration.unregister_at_last(passive, |status| {
                state::count(Counter::UnregisterBusy);
                state::record(LifecycleStep::UnregisterCallouts, status);
                // A flow that was established just before the filters went.
                remove_flow_contexts(passive);
            });
            entry.forget();
        }
    }
    drop(registered);
    // SAFETY: starting and stopping are one thread's, and nobody else asks.
    drop(unsafe { REGISTERED.take(passive) });
}

/// Takes our contexts off all flows and waits until WFP has told of the end of each.
fn remove_flow_contexts(passive: Passive) {
    let Some(core) = state::core() else {
        return;
    };
    let mut patience = Patience::new();
    loop {
        core.flows().for_each(|flow| {
            let version = if flow.is_v6 {
                IpVersion::V6
            } else {
                IpVersion::V4
            };
            let Some(at) = callouts::association(flow.system_flow, flow.protocol, version) else {
                return;
            };
            // Nothing is locked here. What is pending or absent is on its way already.
            if let Removal::Failed(status) = wfp::flow::remove(at) {
                state::count(Counter::FlowRemoveFailed);
                state::record(LifecycleStep::RemoveFlowContexts, status);
            }
        });
        if core.flows().is_empty() {
            return;
        }
        patience.wait(passive);
    }
}
