//! The end of an object: cleanup from the leaves up, then the last reference.
//!
//! Deleting an object cleans its children up before itself, then gives the children's initial references back
//! before its own. `EvtCleanupCallback` runs in the first walk; `EvtDestroyCallback` when the last reference to
//! the object goes, with its contexts still there. What has to wait for something is only cleaned up at
//! `PASSIVE_LEVEL`; an object that is deleted above it is cleaned up a moment later.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/wdf/framework-object-life-cycle>

use super::abi::Level;
use super::object::{Id, Kind, Phase, State};
use super::{deferred, device, memory, queue, sent, target, timer};
use crate::cpu::{Callback, Cpu, PASSIVE};
use crate::verifier::{OBJECT_STALE, POOL_OVERRUN};

/// Deletes an object and everything below it.
pub(crate) fn delete(cpu: &Cpu, id: Id) {
    let defer = {
        let mut state = cpu.machine().kmdf().lock();
        let Some(object) = state.get(id).filter(|object| object.phase == Phase::Live) else {
            return;
        };
        let parent = object.parent;
        let defer = cpu.irql() > PASSIVE && needs_passive(&state, id);
        if let Some(object) = state.get_mut(id) {
            object.phase = Phase::DeletePending;
            object.parent = None;
        }
        if let Some(parent) = parent.and_then(|parent| state.get_mut(parent)) {
            parent.children.retain(|child| *child != id);
        }
        defer
    };
    if defer {
        cpu.machine()
            .time()
            .defer("deletion of a framework object", move |cpu| end(cpu, id));
    } else {
        end(cpu, id);
    }
}

fn end(cpu: &Cpu, id: Id) {
    dispose(cpu, id);
    destroy(cpu, id);
}

/// Whether the cleanup of `id` and what is below it may wait.
fn needs_passive(state: &State, id: Id) -> bool {
    state.get(id).is_some_and(|object| {
        let waits = match object.kind {
            Kind::Driver
            | Kind::Device
            | Kind::Queue
            | Kind::WorkItem
            | Kind::WaitLock
            | Kind::Target
            | Kind::Key => true,
            Kind::Timer => object.level == Level::Passive,
            _ => false,
        };
        waits
            || object
                .children
                .iter()
                .any(|child| needs_passive(state, *child))
    })
}

/// First walk: what is below, then this object.
pub(crate) fn dispose(cpu: &Cpu, id: Id) {
    let (kind, children) = {
        let mut state = cpu.machine().kmdf().lock();
        let Some(object) = state
            .get_mut(id)
            .filter(|object| object.phase < Phase::Disposed)
        else {
            return;
        };
        object.phase = Phase::Disposed;
        (object.kind, object.children.clone())
    };
    for child in children {
        dispose(cpu, child);
    }
    match kind {
        Kind::Device => device::dispose(cpu, id),
        Kind::Queue => queue::dispose(cpu, id),
        Kind::Timer => timer::dispose(cpu, id),
        Kind::Target => target::dispose(cpu, id),
        Kind::Request => sent::dispose(cpu, id),
        Kind::Dpc | Kind::WorkItem => deferred::dispose(cpu, id),
        Kind::Collection => {
            let items = memory::take_items(&mut cpu.machine().kmdf().lock(), id);
            for item in items {
                release(cpu, item);
            }
        }
        _ => {}
    }
    let cleanups = cpu
        .machine()
        .kmdf()
        .lock()
        .get_mut(id)
        .map(super::object::Object::take_cleanups);
    for cleanup in cleanups.unwrap_or_default() {
        let callback = Callback::new("EvtCleanupCallback", cleanup as usize);
        cpu.enter_driver(callback, cpu.irql(), || cleanup(id.handle()));
    }
}

/// Second walk: gives the initial references back.
pub(crate) fn destroy(cpu: &Cpu, id: Id) {
    let children = {
        let mut state = cpu.machine().kmdf().lock();
        let Some(object) = state
            .get_mut(id)
            .filter(|object| object.phase == Phase::Disposed)
        else {
            return;
        };
        object.phase = Phase::Destroyed;
        std::mem::take(&mut object.children)
    };
    for child in children {
        destroy(cpu, child);
    }
    release(cpu, id);
}

/// Gives one reference back; `false` when there was none.
pub(crate) fn release(cpu: &Cpu, id: Id) -> bool {
    let destroys = {
        let mut state = cpu.machine().kmdf().lock();
        let Some(object) = state.get_mut(id).filter(|object| object.references > 0) else {
            return false;
        };
        object.references -= 1;
        if object.references > 0 {
            return true;
        }
        object.take_destroys()
    };
    for destroy in destroys {
        let callback = Callback::new("EvtDestroyCallback", destroy as usize);
        cpu.enter_driver(callback, cpu.irql(), || destroy(id.handle()));
    }
    super::lock::forget(cpu, id);
    let object = cpu.machine().kmdf().lock().remove(id);
    if let Some(object) = object {
        let verifier = cpu.machine().verifier();
        if object.phase != Phase::Destroyed {
            let name = object.kind.name();
            verifier.violation_at(
                cpu,
                &OBJECT_STALE,
                format!("the last reference to a {name} went before it was deleted"),
            );
        }
        if object.context_overrun() {
            let name = object.kind.name();
            verifier.violation_at(
                cpu,
                &POOL_OVERRUN,
                format!("bytes behind a context of a {name} changed"),
            );
        }
    }
    true
}
