//! Who runs: threads, the processors that they occupy, and whose turn it is.
//!
//! A [`Member`] is a host thread that the scheduler knows: a thread of the simulated kernel, which is bound to one
//! processor and occupies it while it is at work, or a program that runs beside others
//! ([`Kernel::together`](crate::Kernel::together)). A thread that waits gives its processor to another one. Under a
//! controlled schedule one member runs at a time, the one whose turn it is; every other one stands still at a point
//! where it called the kernel.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::schedule::{Chooser, Schedule};
use super::thread::{self, Thread};
use crate::cpu::{self, Cpu};
use crate::kernel::{Bugcheck, Machine};
use crate::verifier::STOP_HANG;

/// What [`Kernel::on`](crate::Kernel::on) has a processor do.
pub(crate) type Job = Box<dyn FnOnce(&Cpu) + Send>;

/// Which member of its scheduler a host thread is.
pub(crate) type Id = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs a processor's jobs. The first members, by the processors' numbers.
    Processor,
    /// Runs deferred work on a processor that a waiting thread has left.
    Spare,
    /// `PsCreateSystemThread`.
    System,
    /// A program beside others, on no processor.
    Program,
}

impl Kind {
    /// Whether [`run_pending`](Machine::run_pending) waits until such a thread has nothing to do or waits itself.
    const fn is_background(self) -> bool {
        matches!(self, Self::Spare | Self::System)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// Has nothing to do.
    Idle,
    /// Waits for a change.
    Waiting,
    /// Waits until no background thread is active.
    Settling,
    /// Could go on once its processor is free.
    Ready,
    /// At work.
    On,
    /// Has ended.
    Gone,
}

impl Status {
    const fn is_active(self) -> bool {
        matches!(self, Self::Ready | Self::On)
    }
}

struct Member {
    kind: Kind,
    status: Status,
    processor: Option<usize>,
    /// Told when it may go on.
    turned: Arc<Condvar>,
    /// Spins for something: it is not its turn before another member has gone on.
    spinning: bool,
    /// Nothing can end its wait.
    hung: bool,
    /// How often it has passed each place since it began what it does.
    visits: HashMap<usize, u32>,
    thread: Option<Arc<Thread>>,
    host: Option<JoinHandle<()>>,
}

impl Member {
    fn new(kind: Kind, status: Status, processor: Option<usize>) -> Self {
        Self {
            kind,
            status,
            processor,
            turned: Arc::default(),
            spinning: false,
            hung: false,
            visits: HashMap::new(),
            thread: None,
            host: None,
        }
    }
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    /// Who is on each processor.
    occupants: Vec<Option<Id>>,
    /// Who is [`Status::Ready`], in the order in which they became so.
    ready: VecDeque<Id>,
    jobs: Vec<VecDeque<Job>>,
    /// How many members are active.
    active: usize,
    /// Under a controlled schedule: who runs, and who ran last.
    turn: Option<Id>,
    last: Id,
    /// How often in a row somebody spun with nobody else to go on.
    fruitless: u32,
    chooser: Option<Chooser>,
    closing: bool,
}

/// See the [module's documentation](self).
pub(crate) struct Scheduler {
    state: Mutex<State>,
    /// Told to host threads that are no members when a job is done.
    outside: Condvar,
    /// Rises whenever something may have changed that somebody waits for.
    generation: AtomicU64,
    /// How many members are [`Status::Waiting`].
    waiting: AtomicU32,
    /// How many background threads are active.
    background: AtomicU32,
    programs: AtomicU32,
    /// Whether anybody got anywhere since everyone who waits has last looked.
    progress: AtomicBool,
    controlled: bool,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").finish_non_exhaustive()
    }
}

/// Why a wait goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    Changed,
    /// Nothing that is pending or running can end it.
    Hung,
}

/// So many rounds of a member that spins alone mean that it spins for ever.
const FRUITLESS: u32 = 10_000;

/// After so many visits of a thread to a place only those count whose number is a power of two.
const FEW_VISITS: u32 = 8;

impl Scheduler {
    pub(crate) fn new(schedule: &Schedule, processors: u32) -> Self {
        let processors = processors.max(1) as usize;
        let state = State {
            occupants: vec![None; processors],
            jobs: (0..processors).map(|_| VecDeque::new()).collect(),
            chooser: schedule.chooser(),
            ..State::default()
        };
        Self {
            controlled: state.chooser.is_some(),
            state: Mutex::new(state),
            outside: Condvar::new(),
            generation: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            background: AtomicU32::new(0),
            programs: AtomicU32::new(0),
            progress: AtomicBool::new(false),
        }
    }

    fn set(&self, state: &mut State, id: Id, status: Status) {
        let member = &mut state.members[id];
        let before = std::mem::replace(&mut member.status, status);
        if before.is_active() != status.is_active() {
            let change = if status.is_active() { 1 } else { -1 };
            state.active = state.active.saturating_add_signed(change);
            if member.kind.is_background() {
                let change = if status.is_active() { 1 } else { u32::MAX };
                self.background.fetch_add(change, Ordering::SeqCst);
            }
        }
        match (before, status) {
            (Status::Waiting, Status::Waiting) => {}
            (Status::Waiting, _) => drop(self.waiting.fetch_sub(1, Ordering::SeqCst)),
            (_, Status::Waiting) => drop(self.waiting.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
        if status == Status::Ready {
            state.ready.push_back(id);
        }
    }

    /// The member stops being at work; its processor is free.
    fn leave(&self, state: &mut State, id: Id, status: Status) {
        if let Some(processor) = state.members[id].processor
            && state.occupants[processor] == Some(id)
        {
            state.occupants[processor] = None;
        }
        self.set(state, id, status);
        if state.turn == Some(id) {
            state.turn = None;
            state.last = id;
        }
    }

    /// The member goes on.
    fn enter(&self, state: &mut State, id: Id) {
        if let Some(place) = state.ready.iter().position(|ready| *ready == id) {
            state.ready.remove(place);
        }
        if let Some(processor) = state.members[id].processor {
            state.occupants[processor] = Some(id);
        }
        self.set(state, id, Status::On);
    }

    /// Lets go on who can.
    fn dispatch(&self, machine: &Machine, state: &mut State) {
        if self.controlled {
            self.dispatch_one(machine, state);
        } else {
            self.dispatch_free(state);
        }
    }

    /// Lets go on everyone whose processor is free.
    fn dispatch_free(&self, state: &mut State) {
        let mut place = 0;
        while let Some(&id) = state.ready.get(place) {
            let member = &state.members[id];
            if member
                .processor
                .is_some_and(|processor| state.occupants[processor].is_some())
            {
                place += 1;
                continue;
            }
            let turned = Arc::clone(&member.turned);
            self.enter(state, id);
            turned.notify_one();
        }
    }

    /// Gives the turn to one member, if nobody has it.
    fn dispatch_one(&self, machine: &Machine, state: &mut State) {
        if state.turn.is_some() {
            return;
        }
        let together = self.programs.load(Ordering::SeqCst) > 0;
        if together && machine.time().has_pending() {
            self.take_up_pending(machine, state);
        }
        let mut candidates = state.candidates(false);
        if candidates.is_empty() {
            candidates = state.candidates(true);
        }
        if candidates.is_empty() {
            return;
        }
        let (last, count) = (state.last, state.members.len());
        // The one that ran goes on if it can; else they take turns.
        candidates.sort_by_key(|id| (id + count - last) % count);
        let choice = match &mut state.chooser {
            Some(chooser) if together => chooser.choose(candidates.len(), candidates[0] == last),
            _ => 0,
        };
        let id = candidates[choice];
        if state.members[id].status == Status::Ready {
            self.enter(state, id);
        }
        state.turn = Some(id);
        state.last = id;
        state.members[id].turned.notify_one();
    }

    /// An idle processor takes up what is pending, as it would while others are at work.
    fn take_up_pending(&self, machine: &Machine, state: &mut State) {
        let on_its_way =
            |member: &Member| member.kind == Kind::Spare && member.status == Status::Ready;
        if state.members.iter().any(on_its_way) {
            return;
        }
        let idle = state.occupants.iter().position(Option::is_none);
        if let Some(processor) = machine
            .time()
            .pending_processor()
            .map_or(idle, |only| Some(only as usize))
            .filter(|processor| state.occupants[*processor].is_none())
        {
            self.ready_spare(machine, state, processor);
        }
    }

    /// Has deferred work run on `processor`, which is or becomes free.
    fn ready_spare(&self, machine: &Machine, state: &mut State, processor: usize) {
        let spare =
            |member: &Member| member.kind == Kind::Spare && member.processor == Some(processor);
        let mut idle = None;
        for (id, member) in state
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| spare(member))
        {
            match member.status {
                Status::Ready | Status::On => return,
                Status::Idle => idle = idle.or(Some(id)),
                _ => {}
            }
        }
        match idle {
            Some(id) => self.set(state, id, Status::Ready),
            None => {
                self.spawn(machine, state, Kind::Spare, processor, run_spare)
                    .expect("a host thread for deferred work");
            }
        }
    }

    /// Starts a thread of the kernel on `processor`; it is ready.
    fn spawn(
        &self,
        machine: &Machine,
        state: &mut State,
        kind: Kind,
        processor: usize,
        body: impl FnOnce(&Cpu) + Send + 'static,
    ) -> std::io::Result<Arc<Thread>> {
        let gone = state
            .members
            .iter()
            .position(|member| member.status == Status::Gone);
        let id = gone.unwrap_or(state.members.len());
        let cpu = machine.processor_arc(processor)?;
        let thread = Arc::new(Thread::new(id, cpu)?);
        let host = thread::spawn(Arc::clone(&thread), body)?;
        let mut member = Member::new(kind, Status::Idle, Some(processor));
        member.thread = Some(Arc::clone(&thread));
        member.host = Some(host);
        match gone {
            Some(id) => {
                let before = std::mem::replace(&mut state.members[id], member);
                if let Some(host) = before.host {
                    // It has nothing left to do but to end.
                    drop(host.join());
                }
            }
            None => state.members.push(member),
        }
        self.set(state, id, Status::Ready);
        Ok(thread)
    }

    /// Starts the threads that run the processors' jobs.
    pub(crate) fn start(&self, machine: &Machine) -> std::io::Result<()> {
        let mut state = self.state.lock();
        for processor in 0..state.occupants.len() {
            self.spawn(machine, &mut state, Kind::Processor, processor, run_jobs)?;
            let id = state.members.len() - 1;
            // It has nothing to do yet.
            state.ready.clear();
            self.set(&mut state, id, Status::Idle);
        }
        drop(state);
        Ok(())
    }

    /// Starts a system thread on the processor after the calling one.
    pub(crate) fn start_system_thread(
        &self,
        cpu: &Cpu,
        body: impl FnOnce(&Cpu) + Send + 'static,
    ) -> std::io::Result<Arc<Thread>> {
        let mut state = self.state.lock();
        let processor = (cpu.index() as usize + 1) % state.occupants.len();
        let thread = self.spawn(cpu.machine(), &mut state, Kind::System, processor, body)?;
        self.dispatch(cpu.machine(), &mut state);
        drop(state);
        Ok(thread)
    }

    /// Blocks the calling member until it is at work, and it is its turn.
    fn await_turn<'a>(
        &'a self,
        machine: &Machine,
        mut state: MutexGuard<'a, State>,
        me: Id,
    ) -> MutexGuard<'a, State> {
        let turned = Arc::clone(&state.members[me].turned);
        loop {
            if machine.crashed() {
                if state.members[me].kind == Kind::Program {
                    return state;
                }
                drop(state);
                cpu::park_for_ever();
            }
            let free = !self.controlled || state.closing || state.turn == Some(me);
            if free && state.members[me].status == Status::On {
                return state;
            }
            turned.wait(&mut state);
        }
    }

    /// After a member stopped being at work: who goes on, and what happens if nobody can.
    fn settle(&self, machine: &Machine, state: &mut State) {
        loop {
            self.dispatch(machine, state);
            if self.background.load(Ordering::SeqCst) == 0 && self.wake_all(state, Status::Settling)
            {
                continue;
            }
            if state.active > 0 || machine.crashed() {
                return;
            }
            let Some(waiter) = state.waiter() else { return };
            if machine.time().has_pending() {
                let processor = machine.time().pending_processor().map_or_else(
                    || state.members[waiter].processor.unwrap_or(0),
                    |only| only as usize,
                );
                self.ready_spare(machine, state, processor);
            } else if let Some(due) = machine.time().next_due() {
                machine.time().advance_to(due);
                self.generation.fetch_add(1, Ordering::SeqCst);
                self.wake_all(state, Status::Waiting);
            } else if self.progress.swap(false, Ordering::SeqCst) {
                // Not everything that ends a wait says so, the end of a classify for instance.
                self.generation.fetch_add(1, Ordering::SeqCst);
                self.wake_all(state, Status::Waiting);
            } else {
                state.members[waiter].hung = true;
                self.set(state, waiter, Status::Ready);
            }
        }
    }

    /// Makes everyone ready who is `status`; whether there was anybody.
    fn wake_all(&self, state: &mut State, status: Status) -> bool {
        let mut any = false;
        for id in 0..state.members.len() {
            if state.members[id].status == status {
                self.set(state, id, Status::Ready);
                any = true;
            }
        }
        any
    }

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
    fn yield_turn(&self, machine: &Machine, place: &str, site: Option<usize>) {
        let Some(me) = Thread::current().map(Thread::id) else {
            return;
        };
        let mut state = self.state.lock();
        if let Some(chooser) = &state.chooser {
            chooser.passes(me, place);
        }
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
    pub(super) fn begin(&self, machine: &Machine, me: Id) {
        let state = self.state.lock();
        drop(self.await_turn(machine, state, me));
    }

    /// The calling thread ends.
    pub(super) fn end(&self, machine: &Machine, me: Id) {
        self.progressed();
        let mut state = self.state.lock();
        self.leave(&mut state, me, Status::Gone);
        self.settle(machine, &mut state);
    }

    /// Makes members of `count` programs, which are ready; their ids.
    pub(super) fn register_programs(&self, machine: &Machine, count: usize) -> Vec<Id> {
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
    pub(super) fn end_program(&self, machine: &Machine, me: Id) {
        self.programs.fetch_sub(1, Ordering::SeqCst);
        self.end(machine, me);
    }

    /// Blocks a host thread that is no member until `done` yields, or until the thread that runs the jobs of
    /// processor `index` is parked because the machine crashed.
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
                self.outside.wait(&mut state);
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
                    self.enter(&mut state, id);
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

/// How often a processor that does not stop by itself is interrupted after a crash.
const INTERRUPT_INTERVAL: std::time::Duration = std::time::Duration::from_millis(2);

impl State {
    /// Who could have the turn; only who spins if `spinning`.
    fn candidates(&self, spinning: bool) -> Vec<Id> {
        let here = |(id, member): (Id, &Member)| {
            let can = match member.status {
                Status::On => member.spinning == spinning,
                Status::Ready => {
                    !spinning
                        && member
                            .processor
                            .is_none_or(|processor| self.occupants[processor].is_none())
                }
                _ => false,
            };
            can.then_some(id)
        };
        self.members.iter().enumerate().filter_map(here).collect()
    }

    /// A thread in whose wait somebody outside takes part: one that runs a job.
    fn waiter(&self) -> Option<Id> {
        self.members
            .iter()
            .position(|member| member.status == Status::Waiting && member.kind == Kind::Processor)
    }
}

/// What belongs to a thread and is kept in its processor while it is there.
struct Saved(Option<(&'static Cpu, cpu::Context)>);

impl Saved {
    fn take() -> Self {
        Self(Cpu::current().map(|cpu| (cpu, cpu.context())))
    }

    fn restore(self) {
        if let Some((cpu, context)) = self.0 {
            cpu.set_context(context);
        }
    }
}

/// The body of the thread that runs a processor's jobs.
fn run_jobs(cpu: &Cpu) {
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
fn run_spare(cpu: &Cpu) {
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
