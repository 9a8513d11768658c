//! A simulated machine: its processors and everything that they share.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::cpu::{self, Cpu};
use crate::export::{Faults, Witnesses};
use crate::loader::Images;
use crate::nt;
use crate::nt::pool::PoolMode;
use crate::sched::{Schedule, Scheduler};
use crate::thunks::Thunks;
use crate::time::{Ticks, Time, UNIX_EPOCH};
use crate::trap;
use crate::verifier::{Rule, Verifier};

/// What a kernel is made with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Simulated processors, at least 1.
    pub processors: u32,
    /// System time at boot, 100 ns since 1601-01-01 UTC.
    pub boot_time: Ticks,
    /// How the pool is guarded.
    pub pool: PoolMode,
    /// Where everything that a real kernel draws at random comes from: security cookies, UUIDs.
    pub seed: u64,
    /// How the processors interleave.
    pub schedule: Schedule,
    /// How the filtering platform is simulated.
    pub fwp: crate::fwp::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            processors: 1,
            // 2026-01-01 00:00:00 UTC: any fixed moment would do.
            boot_time: UNIX_EPOCH + 1_767_225_600 * 10_000_000,
            pool: PoolMode::Special,
            seed: 0x5eed,
            schedule: Schedule::free(),
            fwp: crate::fwp::Config::default(),
        }
    }
}

/// Why a kernel stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bugcheck {
    /// The bug check code, or the one that Windows would have used for a trap.
    pub code: u32,
    /// Its four parameters.
    pub parameters: [u64; 4],
    /// What happened and where, in words.
    pub message: String,
    /// The driver's return addresses, innermost first, as far as they could be found.
    pub stack: Vec<String>,
}

impl Bugcheck {
    /// A bug check with its code, parameters and words.
    #[must_use]
    pub fn new(code: u32, parameters: [u64; 4], message: impl Into<String>) -> Self {
        Self {
            code,
            parameters,
            message: message.into(),
            stack: Vec::new(),
        }
    }
}

impl std::fmt::Display for Bugcheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, second, third, fourth] = self.parameters;
        let Self { code, message, .. } = self;
        write!(
            f,
            "bug check {code:#010x} ({first:#x}, {second:#x}, {third:#x}, {fourth:#x}): {message}"
        )?;
        for place in &self.stack {
            write!(f, "\n  at {place}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Bugcheck {}

/// The state of a machine. [`Kernel`] is the handle that keeps it.
#[derive(Debug)]
pub struct Machine {
    time: Time,
    scheduler: Arc<Scheduler>,
    verifier: Verifier,
    faults: Faults,
    witnesses: Witnesses,
    thunks: Thunks,
    images: Images,
    nt: nt::State,
    io: nt::io::IoManager,
    kmdf: crate::kmdf::Framework,
    boot_time: Ticks,
    bugcheck: OnceLock<Bugcheck>,
    crashed: AtomicBool,
    /// The waits in progress, for reports: the processor, and what it waits for.
    pub(crate) waits: Mutex<Vec<(u32, String)>>,
    pub(crate) ndis: crate::ndis::State,
    pub(crate) fwp: crate::fwp::State,
    cpus: OnceLock<Vec<Arc<Cpu>>>,
}

/// A simulated Windows kernel. Clones share one machine; the last one to go stops its processors.
#[derive(Debug, Clone)]
pub struct Kernel(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    machine: Arc<Machine>,
}

impl Deref for Kernel {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0.machine
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.machine.crashed() || !self.machine.scheduler.close() {
            // Parked threads never end, and their frames may still point at the machine.
            std::mem::forget(Arc::clone(&self.machine));
        }
    }
}

impl Kernel {
    /// Boots a machine: processors started, nothing loaded.
    ///
    /// # Errors
    /// When the host gives no memory or threads.
    pub fn new(config: &Config) -> std::io::Result<Self> {
        trap::install();
        let scheduler = Arc::new(Scheduler::new(&config.schedule, config.processors));
        let machine = Arc::new(Machine {
            time: Time::starting_at(config.boot_time, Arc::clone(&scheduler)),
            scheduler,
            verifier: Verifier::default(),
            faults: Faults::default(),
            witnesses: Witnesses::default(),
            thunks: Thunks::default(),
            images: Images::default(),
            nt: nt::State::new(config)?,
            io: nt::io::IoManager::default(),
            kmdf: crate::kmdf::Framework::default(),
            boot_time: config.boot_time,
            bugcheck: OnceLock::new(),
            crashed: AtomicBool::new(false),
            waits: Mutex::default(),
            ndis: crate::ndis::State::default(),
            fwp: crate::fwp::State::new(&config.fwp),
            cpus: OnceLock::new(),
        });
        let mut cpus = Vec::new();
        for index in 0..config.processors.max(1) {
            cpus.push(Arc::new(Cpu::new(index, Arc::downgrade(&machine))?));
        }
        machine.cpus.set(cpus).ok();
        let kernel = Self(Arc::new(Handle {
            machine: Arc::clone(&machine),
        }));
        machine.scheduler.start(&machine)?;
        machine.fwp.boot(Arc::downgrade(&machine), &config.fwp);
        Ok(kernel)
    }
}

impl Machine {
    /// The clock, its timers and deferred work.
    #[must_use]
    pub const fn time(&self) -> &Time {
        &self.time
    }

    /// The threads.
    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The verifier.
    #[must_use]
    pub const fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Which calls are made to fail.
    #[must_use]
    pub const fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What is looked at when drivers call.
    #[must_use]
    pub const fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }

    /// Executable stubs through which drivers call simulated functions.
    #[must_use]
    pub const fn thunks(&self) -> &Thunks {
        &self.thunks
    }

    /// The images that were ever loaded.
    pub(crate) const fn images(&self) -> &Images {
        &self.images
    }

    /// What ntoskrnl keeps: pool, objects, processes, debug output.
    #[must_use]
    pub const fn nt(&self) -> &nt::State {
        &self.nt
    }

    /// The I/O manager: device names and requests from user mode.
    #[must_use]
    pub const fn io(&self) -> &nt::io::IoManager {
        &self.io
    }

    /// The Kernel-Mode Driver Framework.
    #[must_use]
    pub const fn kmdf(&self) -> &crate::kmdf::Framework {
        &self.kmdf
    }

    /// System time at boot, 100 ns since 1601-01-01 UTC.
    #[must_use]
    pub const fn boot_time(&self) -> Ticks {
        self.boot_time
    }

    /// Processor `index`, if there is one.
    #[must_use]
    pub fn processor(&self, index: u32) -> Option<&Cpu> {
        self.cpus.get()?.get(index as usize).map(|cpu| &**cpu)
    }

    /// The same, to keep.
    pub(crate) fn processor_arc(&self, index: usize) -> std::io::Result<Arc<Cpu>> {
        let cpu = self.cpus.get().and_then(|cpus| cpus.get(index));
        cpu.cloned()
            .ok_or_else(|| std::io::Error::other(format!("there is no processor {index}")))
    }

    /// The number of processors.
    #[must_use]
    pub fn processors(&self) -> u32 {
        self.cpus
            .get()
            .map_or(0, |cpus| u32::try_from(cpus.len()).unwrap_or(u32::MAX))
    }

    /// Why the machine stopped, if it did.
    #[must_use]
    pub fn bugcheck(&self) -> Option<Bugcheck> {
        self.bugcheck.get().cloned()
    }

    /// Whether the machine stopped.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.crashed.load(Ordering::Relaxed)
    }

    /// Stops the machine because of a breach of `rule`, which is recorded.
    pub(crate) fn crash_by(&self, rule: &Rule, bugcheck: Bugcheck) -> ! {
        if let Some(cpu) = Cpu::current() {
            self.verifier.stopped_by(cpu, rule, &bugcheck);
        }
        self.crash(bugcheck)
    }

    /// Stops the machine and parks the calling processor for ever. The first bug check is the one reported.
    pub(crate) fn crash(&self, bugcheck: Bugcheck) -> ! {
        drop(self.bugcheck.set(bugcheck));
        self.crashed.store(true, Ordering::SeqCst);
        self.scheduler.crashed();
        cpu::park_for_ever()
    }
}
