//! Virtual time, and what becomes due in it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::cpu::Cpu;
use crate::sched::Scheduler;

/// 100-nanosecond units, the kernel's time unit.
pub type Ticks = u64;

/// Something that the kernel does for the driver later: a DPC, a work item, a completion.
pub struct Deferred {
    /// What it is, for reports.
    pub what: &'static str,
    /// The work; it raises the IRQL itself (see [`Cpu::enter_driver`]).
    pub run: Box<dyn FnOnce(&Cpu) + Send>,
    /// The only processor that may do it.
    pub processor: Option<u32>,
}

impl std::fmt::Debug for Deferred {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deferred")
            .field("what", &self.what)
            .finish_non_exhaustive()
    }
}

/// Identifies a pending timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId(u64);

/// The clock of a kernel with its timers and its queue of deferred work.
#[derive(Debug)]
pub struct Time {
    /// System time, 100 ns since 1601-01-01 UTC.
    now: AtomicU64,
    next_id: AtomicU64,
    timers: Mutex<BTreeMap<(Ticks, TimerId), Due>>,
    /// How much later than it could deferred work begins, by what it is.
    late: Mutex<HashMap<&'static str, Ticks>>,
    pending: Mutex<VecDeque<Deferred>>,
    /// How many are pending.
    count: AtomicUsize,
    scheduler: Arc<Scheduler>,
}

/// What happens when the clock reaches a time.
#[derive(Debug)]
enum Due {
    /// Somebody has waited until then.
    Alarm,
    /// It becomes pending, unless it is late.
    Work(Deferred),
    /// It was late, and becomes pending.
    Late(Deferred),
}

/// 100-ns units between 1601-01-01 and 1970-01-01.
pub const UNIX_EPOCH: Ticks = 116_444_736_000_000_000;

impl Time {
    pub(crate) fn starting_at(now: Ticks, scheduler: Arc<Scheduler>) -> Self {
        Self {
            now: AtomicU64::new(now),
            next_id: AtomicU64::new(0),
            timers: Mutex::default(),
            late: Mutex::default(),
            pending: Mutex::default(),
            count: AtomicUsize::new(0),
            scheduler,
        }
    }

    /// System time now, 100 ns since 1601-01-01 UTC.
    #[must_use]
    pub fn now(&self) -> Ticks {
        self.now.load(Ordering::Relaxed)
    }

    /// Moves the clock forward to `to` (never back) and makes what became due pending.
    pub fn advance_to(&self, to: Ticks) {
        self.now.fetch_max(to, Ordering::Relaxed);
        let mut timers = self.timers.lock();
        while let Some(entry) = timers.first_entry() {
            let (due, _) = *entry.key();
            if due > to {
                break;
            }
            match entry.remove() {
                Due::Alarm => {}
                Due::Late(work) => self.put(work),
                Due::Work(work) => match self.lateness(&work) {
                    0 => self.put(work),
                    by => drop(
                        timers.insert((due.saturating_add(by), self.next_id()), Due::Late(work)),
                    ),
                },
            }
        }
    }

    /// From now on deferred work begins so much later than it could, if it is called `what`: a work item (`WDFWORKITEM`)
    /// for which no thread is free, a timer (`WDFTIMER`), the `completion of an injection`. Nothing promises any of them
    /// sooner. 0 is no lateness; what is late already stays so.
    pub fn set_lateness(&self, what: &'static str, by: Ticks) {
        self.late.lock().insert(what, by);
    }

    fn lateness(&self, work: &Deferred) -> Ticks {
        self.late.lock().get(work.what).copied().unwrap_or(0)
    }

    /// Moves the clock forward by `by`.
    pub fn advance(&self, by: Ticks) {
        self.advance_to(self.now().saturating_add(by));
    }

    /// Makes `work` pending at once, for any processor.
    pub fn defer(&self, what: &'static str, run: impl FnOnce(&Cpu) + Send + 'static) {
        self.defer_on(None, what, run);
    }

    /// Makes `work` pending at once, for one processor if it is given.
    pub fn defer_on(
        &self,
        processor: Option<u32>,
        what: &'static str,
        run: impl FnOnce(&Cpu) + Send + 'static,
    ) {
        let work = Deferred {
            what,
            run: Box::new(run),
            processor,
        };
        match self.lateness(&work) {
            0 => self.put(work),
            by => {
                let due = self.now().saturating_add(by);
                self.timers
                    .lock()
                    .insert((due, self.next_id()), Due::Late(work));
            }
        }
        self.scheduler.deferred();
    }

    fn put(&self, work: Deferred) {
        let mut pending = self.pending.lock();
        pending.push_back(work);
        self.count.store(pending.len(), Ordering::SeqCst);
    }

    /// Makes `work` pending when the clock reaches `due`.
    pub fn schedule(
        &self,
        due: Ticks,
        what: &'static str,
        run: impl FnOnce(&Cpu) + Send + 'static,
    ) -> TimerId {
        let id = self.next_id();
        if due <= self.now() {
            self.defer(what, run);
        } else {
            let work = Deferred {
                what,
                run: Box::new(run),
                processor: None,
            };
            self.timers.lock().insert((due, id), Due::Work(work));
        }
        id
    }

    /// The clock does not jump over `due`, until when somebody waits.
    pub(crate) fn alarm(&self, due: Ticks) -> TimerId {
        let id = self.next_id();
        self.timers.lock().insert((due, id), Due::Alarm);
        id
    }

    fn next_id(&self) -> TimerId {
        TimerId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a timer back that has not become due; `false` when it has.
    pub fn cancel(&self, id: TimerId) -> bool {
        let mut timers = self.timers.lock();
        let before = timers.len();
        timers.retain(|key, _| key.1 != id);
        timers.len() < before
    }

    /// When the next timer becomes due.
    #[must_use]
    pub fn next_due(&self) -> Option<Ticks> {
        self.timers.lock().keys().next().map(|key| key.0)
    }

    /// The number of timers and deferred pieces of work that have not run.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.timers.lock().len() + self.pending.lock().len()
    }

    /// The first deferred work that processor `index` may do.
    pub(crate) fn take_pending(&self, index: u32) -> Option<Deferred> {
        if !self.has_pending() {
            return None;
        }
        let mut pending = self.pending.lock();
        let here = |work: &Deferred| work.processor.is_none_or(|only| only == index);
        let place = pending.iter().position(here)?;
        let work = pending.remove(place);
        self.count.store(pending.len(), Ordering::SeqCst);
        work
    }

    /// The processor that has to do the first deferred work, where only one may.
    pub(crate) fn pending_processor(&self) -> Option<u32> {
        if !self.has_pending() {
            return None;
        }
        self.pending.lock().front().and_then(|work| work.processor)
    }

    /// Whether deferred work is waiting for a processor.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }
}
