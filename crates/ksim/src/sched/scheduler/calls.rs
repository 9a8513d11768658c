//! What threads, programs and the rest of the process ask of the scheduler.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Id, Job, Kind, Member, Scheduler, Status, Woken};
use crate::cpu::{self, Cpu};
use crate::kernel::{Bugcheck, Machine};
use crate::sched::thread::Thread;
use crate::verifier::STOP_HANG;

/// So many rounds of a member that spins alone mean that it spins for ever.
const FRUITLESS: u32 = 10_000;

/// After so many visits of a thread to a place only those count whose number is a power of two.
const FEW_VISITS: u32 = 8;

/// How often those who wait look whether the one whose turn it is gets on.
pub(super) const WATCH_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);
/// Processor time that a driver may use between two calls under a controlled schedule.
pub(super) const LONGEST_STEP: std::time::Duration = std::time::Duration::from_secs(2);

/// How often a processor that does not stop by itself is interrupted after a crash.
const INTERRUPT_INTERVAL: std::time::Duration = std::time::Duration::from_millis(2);

impl Scheduler {
    /// Tells everyone who waits that something may have changed.
    pub(crate) fn wake(&self, machine: &Machine) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut state = self.state.lock();
        if self.wake_all(&mut state, Status::Waiting) {
            self.dispatch(machine, &mut state);
        }
    }

    /// The calling thread got on, which may be what another one waits for.
    pub(crate) fn progressed(&self) {
        self.progress.store(true, Ordering::SeqCst);
    }

    /// Work was deferred: a processor that a waiting thread has left may do it.
    pub(crate) fn deferred(&self) {
        // Under a controlled schedule it is a matter of turns.
        if self.controlled || self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.lock();
        if self.wake_all(&mut state, Status::Waiting) {
            self.dispatch_free(&mut state);
        }
    }

    /// What [`block`](Self::block) is given: taken before looking whether the wait is over.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Blocks the calling member until something has changed since the generation `seen`.
    #[allow(
        clippy::significant_drop_tightening,
        reason = "the lock is handed over to the wait, which gives it up"
    )]
    pub(crate) fn block(&self, machine: &Machine, me: Id, seen: u64) -> Woken {
        let mut state = self.state.lock();
        self.set(&mut state, me, Status::Waiting);
        // Whoever changes something later than this sees that somebody waits.
        if self.generation.load(Ordering::SeqCst) != seen {
            self.set(&mut state, me, Status::On);
            return Woken::Changed;
        }
        let saved = Saved::take();
        self.leave(&mut state, me, Status::Waiting);
        if !self.controlled
            && machine.time().has_pending()
            && let Some(processor) = state.members[me].processor
        {
            // Others may be at work for long.
            self.ready_spare(machine, &mut state, processor);
        }
        self.settle(machine, &mut state);
        let mut state = self.await_turn(machine, state, me);
        let hung = std::mem::take(&mut state.members[me].hung);
        drop(state);
        saved.restore();
        if hung { Woken::Hung } else { Woken::Changed }
    }

    /// Waits, below `DISPATCH_LEVEL`, until the background threads have nothing to do or wait. `false` when that is
    /// so already.
    #[allow(
        clippy::significant_drop_tightening,
        reason = "the lock is handed over to the wait, which gives it up"
    )]
    pub(crate) fn await_background(&self, machine: &Machine) -> bool {
        if self.background.load(Ordering::SeqCst) == 0 && !machine.time().has_pending() {
            return false;
        }
        let Some(thread) = Thread::current() else {
            return false;
        };
        self.progressed();
        let me = thread.id();
        let mut state = self.state.lock();
        if let Some(only) = machine.time().pending_processor() {
            self.ready_spare(machine, &mut state, only as usize);
        }
        let own = u32::from(state.members[me].kind.is_background());
        if self.background.load(Ordering::SeqCst) == own {
            return false;
        }
        let saved = Saved::take();
        self.leave(&mut state, me, Status::Settling);
        self.settle(machine, &mut state);
        drop(self.await_turn(machine, state, me));
        saved.restore();
        true
    }

    /// A place where another member may go on instead of the calling thread.
    ///
    /// At a place that a thread passes again and again that is not each time: a loop over thousands of elements would
    /// leave nothing else to decide about.
    pub(crate) fn point(&self, cpu: &Cpu, place: &str, site: usize) {
        if self.controlled && self.programs.load(Ordering::SeqCst) > 0 {
            self.yield_turn(cpu.machine(), place, Some(site));
        }
    }

    /// The calling thread spins for what another one holds.
    pub(crate) fn spin(&self, cpu: &Cpu) {
        if self.controlled {
            self.yield_turn(cpu.machine(), "spin", None);
        } else {
            std::thread::yield_now();
        }
    }

    /// Gives the turn away at `site`; `None` where the thread spins and needs somebody else to go on.
    #[allow(
        clippy::significant_drop_tightening,
        reason = "the lock is handed over to the wait, which gives it up"
    )]
    fn yield_turn(&self, machine: &Machine, place: &str, site: Option<usize>) {
        let Some(me) = Thread::current().map(Thread::id) else {
            return;
        };
        let mut state = self.state.lock();
        if let Some(chooser) = &state.chooser {
            chooser.passes(me, place);
        }
        state.steps += 1;
        let spinning = site.is_none();
        if let Some(site) = site {
            let visits = state.members[me].visits.entry(site).or_default();
            *visits += 1;
            if *visits > FEW_VISITS && !visits.is_power_of_two() {
                return;
            }
        }
        if spinning {
            state.fruitless += 1;
        } else {
            state.fruitless = 0;
            for member in &mut state.members {
                member.spinning = false;
            }
        }
        state.members[me].spinning = spinning;
        if state.fruitless > FRUITLESS {
            drop(state);
            machine.crash_by(
                &STOP_HANG,
                Bugcheck::new(
                    crate::trap::code::DRIVER_VERIFIER_DETECTED_VIOLATION,
                    [0x1001, 0, 0, 0],
                    "a processor spins for what nobody will give",
                ),
            );
        }
        state.turn = None;
        state.last = me;
        self.dispatch(machine, &mut state);
        let mut state = self.await_turn(machine, state, me);
        state.members[me].spinning = false;
    }

    /// The threads of the kernel that have not ended.
    pub(crate) fn threads(&self) -> Vec<Arc<Thread>> {
        self.state
            .lock()
            .members
            .iter()
            .filter(|member| member.status != Status::Gone)
            .filter_map(|member| member.thread.clone())
            .collect()
    }

    /// Hands a processor a job.
    pub(crate) fn push(&self, machine: &Machine, processor: u32, job: Job) {
        let processor = processor as usize;
        let mut state = self.state.lock();
        state.jobs[processor].push_back(job);
        if state.members[processor].status == Status::Idle {
            self.set(&mut state, processor, Status::Ready);
            self.dispatch(machine, &mut state);
        }
    }

    /// The next job of the processor that the calling thread runs; `None` when the machine ends.
    fn next_job(&self, machine: &Machine, me: Id) -> Option<Job> {
        self.progressed();
        let mut state = self.state.lock();
        self.outside.notify_all();
        loop {
            if let Some(job) = state.jobs[me].pop_front() {
                state.members[me].visits.clear();
                return Some(job);
            }
            if state.closing {
                return None;
            }
            self.leave(&mut state, me, Status::Idle);
            self.settle(machine, &mut state);
            state = self.await_turn(machine, state, me);
        }
    }

    /// The calling thread has nothing to do until somebody makes it ready; `false` when the machine ends.
    fn idle(&self, machine: &Machine, me: Id) -> bool {
        self.progressed();
        let mut state = self.state.lock();
        self.leave(&mut state, me, Status::Idle);
        self.settle(machine, &mut state);
        !self.await_turn(machine, state, me).closing
    }

    /// The calling thread begins: blocks until it is its turn.
    pub(in crate::sched) fn begin(&self, machine: &Machine, me: Id) {
        let state = self.state.lock();
        drop(self.await_turn(machine, state, me));
    }

    /// The calling thread ends.
    pub(in crate::sched) fn end(&self, machine: &Machine, me: Id) {
        self.progressed();
        let mut state = self.state.lock();
        self.leave(&mut state, me, Status::Gone);
        self.settle(machine, &mut state);
    }

    /// Makes members of `count` programs, which are ready; their ids.
    pub(in crate::sched) fn register_programs(&self, machine: &Machine, count: usize) -> Vec<Id> {
        let mut state = self.state.lock();
        let mut ids = Vec::new();
        for _ in 0..count {
            let gone = state
                .members
                .iter()
                .position(|member| member.status == Status::Gone && member.kind == Kind::Program);
            let id = gone.unwrap_or(state.members.len());
            let member = Member::new(Kind::Program, Status::Idle, None);
            if gone.is_some() {
                state.members[id] = member;
            } else {
                state.members.push(member);
            }
            self.set(&mut state, id, Status::Ready);
            self.programs.fetch_add(1, Ordering::SeqCst);
            ids.push(id);
        }
        self.dispatch(machine, &mut state);
        drop(state);
        ids
    }

    /// The calling program ends.
    pub(in crate::sched) fn end_program(&self, machine: &Machine, me: Id) {
        self.programs.fetch_sub(1, Ordering::SeqCst);
        self.end(machine, me);
    }

    /// Blocks a host thread that is no member until `done` yields, or until the thread that runs the jobs of
    /// processor `index` is parked because the machine crashed.
    #[allow(
        clippy::significant_drop_tightening,
        reason = "the lock is handed over to the wait, which gives it up"
    )]
    pub(crate) fn await_outside<T>(
        &self,
        machine: &Machine,
        index: u32,
        mut done: impl FnMut() -> Option<T>,
    ) -> Result<T, Bugcheck> {
        let mut state = self.state.lock();
        loop {
            if let Some(value) = done() {
                return Ok(value);
            }
            let Some(bugcheck) = machine.bugcheck() else {
                if self.controlled {
                    self.outside.wait_for(&mut state, WATCH_INTERVAL);
                    state.watch();
                } else {
                    self.outside.wait(&mut state);
                }
                continue;
            };
            let member = &state.members[index as usize];
            if member
                .thread
                .as_ref()
                .is_none_or(|thread| thread.is_parked())
            {
                return Err(bugcheck);
            }
            // It parks at its next call into the kernel, or here if it never makes one.
            if let Some(host) = &member.host {
                crate::trap::interrupt(host);
            }
            self.outside.wait_for(&mut state, INTERRUPT_INTERVAL);
        }
    }

    /// The machine has crashed: everybody looks up.
    pub(crate) fn crashed(&self) {
        let state = self.state.lock();
        for member in &state.members {
            member.turned.notify_all();
        }
        drop(state);
        self.outside.notify_all();
    }

    /// Ends the threads of a machine that nobody uses any more; `false` when some can't end, so that the machine has
    /// to stay.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state.lock();
        state.closing = true;
        let mut hosts = Vec::new();
        let mut all = true;
        for id in 0..state.members.len() {
            match state.members[id].status {
                Status::Idle => {
                    self.set(&mut state, id, Status::Dismissed);
                    let member = &mut state.members[id];
                    hosts.extend(member.host.take());
                    member.turned.notify_all();
                }
                Status::Gone => hosts.extend(state.members[id].host.take()),
                _ => all = false,
            }
        }
        drop(state);
        for host in hosts {
            // A processor's panic was already handed to the caller of `on`.
            drop(host.join());
        }
        all
    }
}

/// What belongs to a thread and is kept in its processor while it is there.
struct Saved(Option<(&'static Cpu, cpu::Context)>);

impl Saved {
    fn take() -> Self {
        let saved = Cpu::current().map(|cpu| (cpu, cpu.context()));
        if let Some(thread) = Thread::current() {
            thread.set_away(saved.map(|(_, context)| context));
        }
        Self(saved)
    }

    fn restore(self) {
        if let Some((cpu, context)) = self.0 {
            cpu.set_context(context);
        }
        if let Some(thread) = Thread::current() {
            thread.set_away(None);
        }
    }
}

/// The body of the thread that runs a processor's jobs.
pub(super) fn run_jobs(cpu: &Cpu) {
    let Some(me) = Thread::current().map(Thread::id) else {
        return;
    };
    while let Some(job) = cpu.machine().scheduler().next_job(cpu.machine(), me) {
        if let Some(thread) = Thread::current() {
            thread.resume();
        }
        job(cpu);
    }
}

/// The body of a thread that runs deferred work.
pub(super) fn run_spare(cpu: &Cpu) {
    let Some(thread) = Thread::current() else {
        return;
    };
    let machine = cpu.machine();
    loop {
        thread.resume();
        while let Some(work) = machine.time().take_pending(cpu.index()) {
            machine
                .scheduler()
                .point(cpu, work.what, work.what.as_ptr() as usize);
            (work.run)(cpu);
            machine.wake();
        }
        if !machine.scheduler().idle(machine, thread.id()) {
            return;
        }
    }
}
