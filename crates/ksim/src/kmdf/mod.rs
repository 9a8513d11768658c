//! The Kernel-Mode Driver Framework, versions 1.9 to 1.33.
//!
//! ```text
//! client     WDFLDR: a driver binds to the framework and gets its globals and function table
//! table      the functions by index
//! object     handles, tree, references, contexts      attributes, life   how they begin and end
//! driver, device, file, queue, request, buffers       what an I/O request passes through
//! sync       callbacks that exclude each other        lock, timer, deferred, memory, lookaside, registry
//! ```
//!
//! Objects are Rust's; a driver only ever holds handles, contexts and buffers. What a driver does against the
//! framework's rules is a violation, and where the real framework would stop the system, so does this one.

#![allow(
    clippy::significant_drop_tightening,
    clippy::significant_drop_in_scrutinee,
    reason = "the state is locked for whole steps, and nothing slow happens in one"
)]

pub(crate) mod abi;
mod attributes;
mod buffers;
mod client;
mod deferred;
mod device;
mod device_init;
mod device_property;
mod driver;
mod file;
mod life;
mod lock;
mod lookaside;
mod memory;
mod object;
mod object_api;
mod preprocess;
mod queue;
mod queue_api;
mod queue_end;
mod registry;
mod registry_value;
mod request;
mod request_api;
mod sent;
mod sync;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod timer;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::export::Export;
use object::State;
pub use registry::{Registry, Value};
pub use table::functions_of;

/// What the framework and its loader export, file by file. Module `wdfldr.sys` is imported by name; `kmdf` is the
/// function table.
pub(crate) static EXPORTS: &[&[Export]] = &[
    client::EXPORTS,
    driver::EXPORTS,
    device_init::EXPORTS,
    device::EXPORTS,
    device_property::EXPORTS,
    file::EXPORTS,
    queue_api::EXPORTS,
    queue_end::EXPORTS,
    request_api::EXPORTS,
    buffers::EXPORTS,
    object_api::EXPORTS,
    lock::EXPORTS,
    preprocess::EXPORTS,
    sent::EXPORTS,
    target::EXPORTS,
    timer::EXPORTS,
    deferred::EXPORTS,
    memory::EXPORTS,
    lookaside::EXPORTS,
    registry::EXPORTS,
    registry_value::EXPORTS,
];

/// The framework of one machine.
#[derive(Debug)]
pub struct Framework {
    state: Mutex<State>,
    registry: Registry,
    /// The thunk of each slot of the function table.
    table: OnceLock<Vec<usize>>,
    newest: AtomicU32,
}

impl Default for Framework {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            registry: Registry::default(),
            table: OnceLock::new(),
            newest: AtomicU32::new(table::NEWEST),
        }
    }
}

impl Framework {
    /// The registry that drivers read.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Makes this framework version 1.`minor`: drivers built for a newer one find fewer functions, or don't bind.
    ///
    /// Has no effect for a version that was never released.
    pub fn set_version(&self, minor: u32) {
        if table::functions_of(minor).is_some() {
            self.newest.store(minor, Ordering::SeqCst);
        }
    }

    /// The minor of the framework's version 1.x.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.newest.load(Ordering::SeqCst)
    }

    /// How many drivers are bound.
    #[must_use]
    pub fn bound_drivers(&self) -> usize {
        self.lock().clients.len()
    }

    /// How many framework objects exist, by the name of their handle type.
    #[must_use]
    pub fn live_objects(&self) -> Vec<(&'static str, usize)> {
        let state = self.lock();
        let mut counts = std::collections::BTreeMap::new();
        for client in state.clients.keys() {
            for (_, kind) in state.objects_of(*client) {
                *counts.entry(kind.name()).or_insert(0) += 1;
            }
        }
        counts.into_iter().collect()
    }

    /// The state. Nobody calls a driver, reads its memory or waits with it locked.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}
