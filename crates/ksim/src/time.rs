//! Virtual time, and what becomes due in it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::cpu::Cpu;

/// 100-nanosecond units, the kernel's time unit.
pub type Ticks = u64;

/// Something that the kernel does for the driver later: a DPC, a work item, a completion.
pub struct Deferred {
    /// What it is, for reports.
    pub what: &'static str,
    /// The work; it raises the IRQL itself (see [`Cpu::enter_driver`]).
    pub run: Box<dyn FnOnce(&Cpu) + Send>,
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
#[derive(Debug, Default)]
pub struct Time {
    /// System time, 100 ns since 1601-01-01 UTC.
    now: AtomicU64,
    next_id: AtomicU64,
    timers: Mutex<BTreeMap<(Ticks, TimerId), Deferred>>,
    pending: Mutex<VecDeque<Deferred>>,
}

/// 100-ns units between 1601-01-01 and 1970-01-01.
pub const UNIX_EPOCH: Ticks = 116_444_736_000_000_000;

impl Time {
    pub(crate) fn starting_at(now: Ticks) -> Self {
        Self {
            now: AtomicU64::new(now),
            ..Self::default()
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
            if entry.key().0 > to {
                break;
            }
            self.pending.lock().push_back(entry.remove());
        }
    }

    /// Moves the clock forward by `by`.
    pub fn advance(&self, by: Ticks) {
        self.advance_to(self.now().saturating_add(by));
    }

    /// Makes `work` pending at once.
    pub fn defer(&self, what: &'static str, run: impl FnOnce(&Cpu) + Send + 'static) {
        self.pending.lock().push_back(Deferred {
            what,
            run: Box::new(run),
        });
    }

    /// Makes `work` pending when the clock reaches `due`.
    pub fn schedule(
        &self,
        due: Ticks,
        what: &'static str,
        run: impl FnOnce(&Cpu) + Send + 'static,
    ) -> TimerId {
        let id = TimerId(self.next_id.fetch_add(1, Ordering::Relaxed));
        if due <= self.now() {
            self.defer(what, run);
        } else {
            self.timers.lock().insert(
                (due, id),
                Deferred {
                    what,
                    run: Box::new(run),
                },
            );
        }
        id
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

    pub(crate) fn take_pending(&self) -> Option<Deferred> {
        self.pending.lock().pop_front()
    }

    /// Whether deferred work is waiting for a processor.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.lock().is_empty()
    }
}
