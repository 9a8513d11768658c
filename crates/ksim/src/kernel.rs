//! A simulated machine: its processors and everything that they share.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::cpu::{self, Cpu, JobQueue};
use crate::export::Faults;
use crate::loader::Images;
use crate::nt;
use crate::nt::pool::PoolMode;
use crate::thunks::Thunks;
use crate::time::{Ticks, Time, UNIX_EPOCH};
use crate::trap;
use crate::verifier::{Rule, STOP_HANG, Verifier};

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

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The condition came true.
    Satisfied,
    /// The deadline passed first.
    TimedOut,
}

/// What waiting processors go by.
#[derive(Debug, Default)]
struct Changes {
    /// Rises whenever something may have changed.
    generation: u64,
    /// Processors that sleep until then, and are not counted as busy.
    sleepers: u32,
}

/// The state of a machine. [`Kernel`] is the handle that keeps it.
#[derive(Debug)]
pub struct Machine {
    time: Time,
    verifier: Verifier,
    faults: Faults,
    thunks: Thunks,
    images: Images,
    nt: nt::State,
    io: nt::io::IoManager,
    kmdf: crate::kmdf::Framework,
    boot_time: Ticks,
    bugcheck: OnceLock<Bugcheck>,
    crashed: AtomicBool,
    /// Processors that run something which may still satisfy a wait.
    busy: AtomicU32,
    changed: (Mutex<Changes>, Condvar),
    /// The waits in progress, for reports: the processor, and what it waits for.
    waits: Mutex<Vec<(u32, String)>>,
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
    queues: Vec<Arc<JobQueue>>,
    threads: Vec<JoinHandle<()>>,
}

impl Deref for Kernel {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0.machine
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.close();
        }
        if self.machine.crashed() {
            // Parked processors never end, and their frames may still point at the machine.
            std::mem::forget(Arc::clone(&self.machine));
            return;
        }
        for thread in self.threads.drain(..) {
            // A processor's panic was already handed to the caller of `on`.
            drop(thread.join());
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
        let machine = Arc::new(Machine {
            time: Time::starting_at(config.boot_time),
            verifier: Verifier::default(),
            faults: Faults::default(),
            thunks: Thunks::default(),
            images: Images::default(),
            nt: nt::State::new(config)?,
            io: nt::io::IoManager::default(),
            kmdf: crate::kmdf::Framework::default(),
            boot_time: config.boot_time,
            bugcheck: OnceLock::new(),
            crashed: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            changed: (Mutex::default(), Condvar::new()),
            waits: Mutex::default(),
            ndis: crate::ndis::State::default(),
            fwp: crate::fwp::State::new(&config.fwp, config.processors),
            cpus: OnceLock::new(),
        });
        let mut handle = Handle {
            machine: Arc::clone(&machine),
            queues: Vec::new(),
            threads: Vec::new(),
        };
        let mut cpus = Vec::new();
        for index in 0..config.processors.max(1) {
            let cpu = Arc::new(Cpu::new(index, Arc::downgrade(&machine))?);
            let queue = Arc::new(JobQueue::default());
            cpus.push(Arc::clone(&cpu));
            handle.queues.push(Arc::clone(&queue));
            let thread = std::thread::Builder::new()
                .name(format!("cpu{index}"))
                .stack_size(1 << 20)
                .spawn(move || cpu::run(&cpu, &queue))?;
            handle.threads.push(thread);
        }
        machine.cpus.set(cpus).ok();
        machine.fwp.boot(Arc::downgrade(&machine), &config.fwp);
        Ok(Self(Arc::new(handle)))
    }

    pub(crate) fn queue(&self, index: u32) -> &JobQueue {
        &self.0.queues[index as usize]
    }

    /// Blocks a thread that is not this machine's processor `index` until `done` yields there, or until that
    /// processor is parked because the machine crashed.
    pub(crate) fn await_processor<T>(
        &self,
        index: u32,
        mut done: impl FnMut() -> Option<T>,
    ) -> Result<T, Bugcheck> {
        let mut changes = self.changed.0.lock();
        loop {
            if let Some(value) = done() {
                return Ok(value);
            }
            let Some(bugcheck) = self.bugcheck() else {
                self.changed.1.wait(&mut changes);
                continue;
            };
            if self.processor(index).is_none_or(Cpu::is_parked) {
                return Err(bugcheck);
            }
            // It parks at its next call into the kernel, or here if it never makes one.
            if let Some(thread) = self.0.threads.get(index as usize) {
                trap::interrupt(thread);
            }
            self.changed.1.wait_for(&mut changes, INTERRUPT_INTERVAL);
        }
    }
}

/// How long a waiting processor leaves deferred work to processors that are at work.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a processor that does not stop by itself is interrupted after a crash.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(2);

impl Machine {
    /// The clock, its timers and deferred work.
    #[must_use]
    pub const fn time(&self) -> &Time {
        &self.time
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
        self.wake();
        cpu::park_for_ever()
    }

    /// Tells every waiter that something may have changed.
    pub(crate) fn wake(&self) {
        let mut changes = self.changed.0.lock();
        changes.generation += 1;
        // They are at work from now on, whenever they get to run: nobody is to believe that nothing goes on.
        self.busy
            .fetch_add(std::mem::take(&mut changes.sleepers), Ordering::SeqCst);
        drop(changes);
        self.changed.1.notify_all();
    }

    /// Runs deferred work on `cpu` until there is none.
    pub fn run_pending(&self, cpu: &Cpu) {
        while let Some(work) = self.time.take_pending() {
            (work.run)(cpu);
            self.wake();
        }
    }

    /// Waits on `cpu`, which is below `DISPATCH_LEVEL`, until `condition` or the clock reaches `deadline`.
    ///
    /// Meanwhile deferred work runs, here if no other processor is at work. When nothing else can happen the clock
    /// jumps to what is due next; a wait without deadline that nothing can end is reported and stops the machine, as
    /// it would hang.
    pub fn wait(
        &self,
        cpu: &Cpu,
        what: &str,
        deadline: Option<Ticks>,
        condition: impl FnMut() -> bool,
    ) -> Wait {
        // The deadline is a timer like any other, so that a wait on another processor moves the clock to it too.
        let alarm = deadline.map(|deadline| self.time.schedule(deadline, "end of a wait", |_| ()));
        self.waits.lock().push((cpu.index(), what.to_owned()));
        let outcome = self.wait_or_time_out(cpu, what, deadline, condition);
        let mut waits = self.waits.lock();
        let ended = waits
            .iter()
            .rposition(|(processor, _)| *processor == cpu.index());
        ended.map(|ended| waits.remove(ended));
        drop(waits);
        if let Some(alarm) = alarm {
            self.time.cancel(alarm);
        }
        outcome
    }

    fn wait_or_time_out(
        &self,
        cpu: &Cpu,
        what: &str,
        deadline: Option<Ticks>,
        mut condition: impl FnMut() -> bool,
    ) -> Wait {
        loop {
            let seen = self.changed.0.lock().generation;
            if condition() {
                return Wait::Satisfied;
            }
            if deadline.is_some_and(|deadline| deadline <= self.time.now()) {
                return Wait::TimedOut;
            }
            if self.crashed() {
                cpu::park_for_ever();
            }
            if self.sleep_until_changed(seen) {
                continue;
            }
            if let Some(work) = self.time.take_pending() {
                let irql = cpu.set_irql(cpu::PASSIVE);
                (work.run)(cpu);
                cpu.set_irql(irql);
                self.wake();
            } else if let Some(due) = self.time.next_due() {
                self.time.advance_to(due);
            } else {
                let others = self.other_waits(cpu);
                let message =
                    format!("{what}: nothing that is pending or running can end this wait{others}");
                self.crash_by(&STOP_HANG, Bugcheck::new(0, [0; 4], message));
            }
        }
    }

    /// Sleeps until something has changed since the generation `seen`. `false` when no other processor is at work
    /// that could change anything, or none has for long.
    ///
    /// Deferred work is left to processors that are at work. Here it would run on top of what waits, and might in
    /// turn wait for that, which on a real system happens on two threads and ends.
    #[allow(
        clippy::significant_drop_tightening,
        reason = "the sleep itself gives the lock up"
    )]
    fn sleep_until_changed(&self, seen: u64) -> bool {
        let mut changes = self.changed.0.lock();
        if changes.generation != seen {
            return true;
        }
        if self.busy.load(Ordering::SeqCst) <= 1 {
            return false;
        }
        changes.sleepers += 1;
        self.busy.fetch_sub(1, Ordering::SeqCst);
        while changes.generation == seen {
            if self.changed.1.wait_for(&mut changes, PATIENCE).timed_out()
                && changes.generation == seen
            {
                changes.sleepers -= 1;
                self.busy.fetch_add(1, Ordering::SeqCst);
                return false;
            }
        }
        true
    }

    /// What is waited for besides the wait in progress on `cpu`, in words.
    fn other_waits(&self, cpu: &Cpu) -> String {
        let mut waits = self.waits.lock().clone();
        if let Some(own) = waits
            .iter()
            .rposition(|(processor, _)| *processor == cpu.index())
        {
            waits.remove(own);
        }
        let words = waits
            .iter()
            .map(|(processor, what)| format!("; processor {processor} waits for {what}"));
        words.collect()
    }

    /// A processor begins (`true`) or ends a piece of work that may satisfy other processors' waits.
    pub(crate) fn set_busy(&self, busy: bool) {
        if busy {
            self.busy.fetch_add(1, Ordering::SeqCst);
        } else {
            self.busy.fetch_sub(1, Ordering::SeqCst);
            self.wake();
        }
    }
}
