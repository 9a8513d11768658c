//! ntoskrnl and HAL.
//!
//! - memory: [`pool`], [`mdl`], `rtl_memory`;
//! - waiting and excluding: `irql`, [`spin`], `spin_rw`, `event`, `wait`, `mutex`, `resource`, `rundown`, `interlocked`;
//! - time: `clock`, `dpc`, `ex_timer`, `shared_data`;
//! - devices and requests: [`io`], [`io_irp`], [`io_security`], [`io_user`], `wdm`;
//! - the rest: `debug`, `rtl_string`, `rtl`, [`process`], [`process_notify`], [`object`], `processor`, `errorlog`, `system`, `data`.

mod callback;
mod clock;
pub(crate) mod data;
pub mod debug;
mod dpc;
mod errorlog;
mod event;
mod ex_timer;
pub(crate) mod held;
mod interlocked;
pub mod io;
pub mod io_irp;
pub(crate) mod io_kernel;
pub mod io_memory;
pub mod io_security;
pub mod io_user;
mod irql;
pub mod mdl;
mod mutex;
mod notify;
pub mod object;
pub mod pool;
pub(crate) mod pool_api;
pub mod power;
pub mod process;
pub mod process_notify;
mod processor;
mod resource;
mod rtl;
mod rtl_memory;
mod rtl_string;
mod rundown;
pub mod session;
pub(crate) mod shared_data;
pub mod spin;
mod spin_rw;
pub(crate) mod system;
#[cfg(test)]
mod tests;
mod thread;
pub(crate) mod wait;
pub(crate) mod wdm;

/// Functions that other modules' tests call as a driver does.
#[cfg(test)]
pub(crate) mod calls {
    pub(crate) use super::clock::KeQueryInterruptTime;
    pub(crate) use super::dpc::{KeInitializeDpc, KeInsertQueueDpc, KeSetTargetProcessorDpc};
    pub(crate) use super::event::{KeClearEvent, KeInitializeEvent, KeReadStateEvent, KeSetEvent};
    pub(crate) use super::object::ObfDereferenceObject;
    pub(crate) use super::process::{KeGetCurrentThread, PsGetCurrentThreadId};
    pub(crate) use super::spin::{
        KeAcquireSpinLockAtDpcLevel, KeAcquireSpinLockRaiseToDpc, KeReleaseSpinLock,
        KeReleaseSpinLockFromDpcLevel,
    };
    pub(crate) use super::system::ZwClose;
    pub(crate) use super::thread::{
        ObReferenceObjectByHandle, PsCreateSystemThread, PsTerminateSystemThread,
    };
    pub(crate) use super::wait::{KeStallExecutionProcessor, KeWaitForSingleObject};
}

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::export::Export;
use crate::kernel::Config;

/// What these modules give to drivers.
pub(crate) static EXPORTS: &[&[Export]] = &[
    callback::EXPORTS,
    clock::EXPORTS,
    debug::EXPORTS,
    dpc::EXPORTS,
    errorlog::EXPORTS,
    event::EXPORTS,
    ex_timer::EXPORTS,
    interlocked::EXPORTS,
    irql::EXPORTS,
    mdl::EXPORTS,
    mutex::EXPORTS,
    object::EXPORTS,
    pool_api::EXPORTS,
    power::EXPORTS,
    process::EXPORTS,
    process_notify::EXPORTS,
    processor::EXPORTS,
    resource::EXPORTS,
    rtl::EXPORTS,
    rtl_memory::EXPORTS,
    rtl_memory::RAW_EXPORTS,
    rtl_string::EXPORTS,
    rundown::EXPORTS,
    session::EXPORTS,
    spin::EXPORTS,
    spin_rw::EXPORTS,
    system::EXPORTS,
    thread::EXPORTS,
    wait::EXPORTS,
    wdm::EXPORTS[0],
    wdm::EXPORTS[1],
    wdm::EXPORTS[2],
    wdm::EXPORTS[3],
    wdm::EXPORTS[4],
    wdm::EXPORTS[5],
];

/// Whether `name` takes variable arguments, so that its stub spills them (see [`Thunks`](crate::thunks::Thunks)).
pub(crate) fn variadic(name: &str) -> bool {
    debug::VARIADIC.contains(&name)
}

/// What ntoskrnl keeps for one machine.
#[derive(Debug)]
pub struct State {
    pool: pool::Pool,
    processes: process::Processes,
    process_watchers: process_notify::Watchers,
    objects: object::Objects,
    debug: debug::Log,
    order: held::Order,
    timers: dpc::Timers,
    ex_timers: ex_timer::Timers,
    resources: resource::Resources,
    threads: thread::Threads,
    callbacks: callback::Callbacks,
    power: power::Power,
    sessions: session::Sessions,
    variables: data::Variables,
    /// Held while a list that drivers share between processors is changed.
    lists: Mutex<()>,
    random: AtomicU64,
}

impl State {
    pub(crate) fn new(config: &Config) -> std::io::Result<Self> {
        let processes = process::Processes::new();
        let variables = data::Variables::new(config, &processes)?;
        Ok(Self {
            pool: pool::Pool::new(config.pool)?,
            processes,
            process_watchers: process_notify::Watchers::default(),
            objects: object::Objects::default(),
            debug: debug::Log::default(),
            order: held::Order::default(),
            timers: dpc::Timers::default(),
            ex_timers: ex_timer::Timers::default(),
            resources: resource::Resources::default(),
            threads: thread::Threads::default(),
            callbacks: callback::Callbacks::default(),
            power: power::Power::default(),
            sessions: session::Sessions::default(),
            variables,
            lists: Mutex::default(),
            random: AtomicU64::new(config.seed),
        })
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &pool::Pool {
        &self.pool
    }

    /// The processes.
    #[must_use]
    pub const fn processes(&self) -> &process::Processes {
        &self.processes
    }

    /// Who is told of processes that begin and end.
    pub(crate) const fn process_watchers(&self) -> &process_notify::Watchers {
        &self.process_watchers
    }

    /// References to objects.
    pub(crate) const fn objects(&self) -> &object::Objects {
        &self.objects
    }

    /// What drivers printed.
    #[must_use]
    pub const fn debug_log(&self) -> &debug::Log {
        &self.debug
    }

    /// In which order locks were taken.
    pub(crate) const fn lock_order(&self) -> &held::Order {
        &self.order
    }

    /// System threads.
    pub(crate) const fn threads(&self) -> &thread::Threads {
        &self.threads
    }

    pub(crate) const fn timers(&self) -> &dpc::Timers {
        &self.timers
    }

    /// Timers that the system allocates.
    pub(crate) const fn ex_timers(&self) -> &ex_timer::Timers {
        &self.ex_timers
    }

    /// Executive resources.
    pub(crate) const fn resources(&self) -> &resource::Resources {
        &self.resources
    }

    pub(crate) const fn callbacks(&self) -> &callback::Callbacks {
        &self.callbacks
    }

    pub(crate) const fn power(&self) -> &power::Power {
        &self.power
    }

    pub(crate) const fn sessions(&self) -> &session::Sessions {
        &self.sessions
    }

    pub(crate) const fn variables(&self) -> &data::Variables {
        &self.variables
    }

    pub(crate) const fn lists(&self) -> &Mutex<()> {
        &self.lists
    }

    /// The next number of this machine's random sequence (`SplitMix64`), which its seed determines.
    pub fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .random
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
