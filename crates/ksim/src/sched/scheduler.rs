//! Who runs: threads, the processors that they occupy, and whose turn it is.
//!
//! A [`Member`] is a host thread that the scheduler knows: a thread of the simulated kernel, which is bound to one
//! processor and occupies it while it is at work, or a program that runs beside others
//! ([`Kernel::together`](crate::Kernel::together)). A thread that waits gives its processor to another one. Under a
//! controlled schedule one member runs at a time, the one whose turn it is; every other one stands still at a point
//! where it called the kernel.

mod calls;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::schedule::{Chooser, Schedule};
use super::thread::{self, Thread};
use crate::cpu::{self, Cpu};
use crate::kernel::Machine;

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
    /// Had nothing to do, and ends because nobody uses the machine any more.
    Dismissed,
    /// Stopped for ever, since the machine crashed.
    Parked,
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
    /// Under a controlled schedule: how many steps were made, each from one point to the next.
    steps: u64,
    /// Whose step is watched, which one, and how long its thread had run when it was seen first.
    watched: Option<(Id, u64, Duration)>,
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
        state.steps += 1;
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
                self.spawn(machine, state, Kind::Spare, processor, calls::run_spare)
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
            self.spawn(
                machine,
                &mut state,
                Kind::Processor,
                processor,
                calls::run_jobs,
            )?;
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
            // Even if the machine crashes now: whoever dismissed it waits for its end.
            if state.members[me].status == Status::Dismissed {
                return state;
            }
            if machine.crashed() {
                if state.members[me].kind == Kind::Program {
                    return state;
                }
                self.set(&mut state, me, Status::Parked);
                drop(state);
                cpu::park_for_ever();
            }
            let free = !self.controlled || state.closing || state.turn == Some(me);
            if free && state.members[me].status == Status::On {
                return state;
            }
            if self.controlled {
                turned.wait_for(&mut state, calls::WATCH_INTERVAL);
                state.watch();
            } else {
                turned.wait(&mut state);
            }
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
}

impl State {
    /// Looks whether the one whose turn it is gets on: driver code that goes on without a call keeps everybody waiting.
    /// It is asked to stop where it is.
    fn watch(&mut self) {
        let Some(id) = self.turn else { return };
        let member = &self.members[id];
        let (Some(thread), Some(host)) = (&member.thread, &member.host) else {
            return;
        };
        let ran = crate::trap::thread_time(host);
        match self.watched {
            Some((who, step, before)) if (who, step) == (id, self.steps) => {
                if ran.saturating_sub(before) > calls::LONGEST_STEP {
                    thread.trap_stacks().ask();
                    crate::trap::interrupt(host);
                }
            }
            _ => self.watched = Some((id, self.steps, ran)),
        }
    }

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
