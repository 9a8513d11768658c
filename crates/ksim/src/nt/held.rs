//! The locks that are held, how long, and in which order they are taken.
//!
//! Spin locks are a processor's, mutexes, push locks and the framework's wait locks a thread's. What waits for a lock while it holds another
//! makes an edge from that to this; a cycle of edges can deadlock, whether or not it does now.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::cpu::{Callback, Cpu};
use crate::export::Call;
use crate::verifier::{LOCK_HELD, LOCK_LONG, LOCK_ORDER};

/// Microseconds that a processor may stall while it holds a spin lock: what the DDI says of holding one.
const LONGEST_STALL: u64 = 25;
/// Calls into the kernel that may be made while a spin lock is held. No page names a number; this many are a loop
/// over something that grows.
const MOST_CALLS: u64 = 10_000;

/// The spin locks that one processor holds.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks {
    held: Mutex<Vec<Held>>,
    /// The lock that the processor spins for; 0 for none.
    awaited: AtomicUsize,
    /// Microseconds that the processor has stalled.
    stalled: AtomicU64,
    /// Calls into the kernel that it has made.
    calls: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    lock: usize,
    site: usize,
    /// [`HeldLocks::stalled`] and [`HeldLocks::calls`] when it was taken.
    stalled: u64,
    calls: u64,
}

impl HeldLocks {
    /// How many locks are held.
    pub(crate) fn count(&self) -> usize {
        self.held.lock().len()
    }

    /// The processor makes a call into the kernel.
    pub(crate) fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// The processor stalls.
    pub(super) fn stall(&self, microseconds: u32) {
        self.stalled
            .fetch_add(u64::from(microseconds), Ordering::Relaxed);
    }

    /// Whether `lock` is held.
    pub(super) fn holds(&self, lock: usize) -> bool {
        self.held.lock().iter().any(|held| held.lock == lock)
    }

    /// The same where waiting is not allowed: `None` when it cannot be found out now.
    pub(super) fn try_holds(&self, lock: usize) -> Option<bool> {
        let held = self.held.try_lock()?;
        Some(held.iter().any(|held| held.lock == lock))
    }

    /// From now on the processor spins for `lock`; 0 for none.
    pub(super) fn await_lock(&self, lock: usize) {
        self.awaited.store(lock, Ordering::SeqCst);
    }

    /// The lock that the processor spins for; 0 for none.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.load(Ordering::SeqCst)
    }

    /// A callback that was entered with `before` locks has come back.
    pub(crate) fn check_returned(&self, cpu: &Cpu, callback: Callback, before: usize) {
        let now = self.count();
        if now == before {
            return;
        }
        let sites: Vec<String> = {
            let held = self.held.lock();
            held.iter()
                .skip(before)
                .map(|held| cpu.machine().verifier().site(held.site))
                .collect()
        };
        let what = callback.name;
        let message = if now > before {
            format!(
                "{what} returned with a spin lock held that was acquired at {}",
                sites.join(", ")
            )
        } else {
            format!("{what} released a spin lock that it had not acquired")
        };
        cpu.machine()
            .verifier()
            .violation_by(cpu, callback, &LOCK_HELD, message);
    }

    fn push(&self, lock: usize, site: usize) {
        self.held.lock().push(Held {
            lock,
            site,
            stalled: self.stalled.load(Ordering::Relaxed),
            calls: self.calls.load(Ordering::Relaxed),
        });
    }

    fn locks(&self) -> Vec<usize> {
        self.held.lock().iter().map(|held| held.lock).collect()
    }

    fn remove(&self, lock: usize) -> Option<Held> {
        let mut held = self.held.lock();
        let at = held.iter().rposition(|held| held.lock == lock)?;
        Some(held.remove(at))
    }
}

/// The calling processor has got a spin lock for which it was ready to wait.
pub(super) fn spin_lock_taken(call: &Call<'_>, lock: usize) {
    check_order(call, lock);
    spin_lock_tried(call, lock);
}

/// The calling processor has got a spin lock for which it would not have waited: that cannot deadlock.
pub(super) fn spin_lock_tried(call: &Call<'_>, lock: usize) {
    call.cpu().locks().push(lock, call.site());
}

/// The calling processor gives a spin lock back; `false` if it does not hold it.
pub(super) fn spin_lock_released(call: &Call<'_>, lock: usize) -> bool {
    let locks = call.cpu().locks();
    let Some(held) = locks.remove(lock) else {
        return false;
    };
    let stalled = locks.stalled.load(Ordering::Relaxed) - held.stalled;
    let calls = locks.calls.load(Ordering::Relaxed) - held.calls;
    let place = || call.machine().verifier().site(held.site);
    if stalled > LONGEST_STALL {
        call.violation(
            &LOCK_LONG,
            format!(
                "a spin lock acquired at {} was held for {stalled} µs",
                place()
            ),
        );
    }
    if calls > MOST_CALLS {
        call.violation(
            &LOCK_LONG,
            format!(
                "a spin lock acquired at {} was held for {calls} calls",
                place()
            ),
        );
    }
    true
}

/// The calling thread has got a mutex, push lock or wait lock for which it was ready to wait.
pub(crate) fn mutex_taken(call: &Call<'_>, lock: usize) {
    check_order(call, lock);
    mutex_tried(call, lock);
}

/// The calling thread has got a mutex, push lock or wait lock for which it would not have waited for ever.
pub(crate) fn mutex_tried(call: &Call<'_>, lock: usize) {
    let order = call.machine().nt().lock_order();
    let mut mutexes = order.mutexes.lock();
    let held = mutexes.entry(call.cpu().thread()).or_default();
    held.push((lock, call.site()));
    drop(mutexes);
    order.held.fetch_add(1, Ordering::Relaxed);
}

/// The calling thread gives a mutex, push lock or wait lock back.
pub(crate) fn mutex_released(call: &Call<'_>, lock: usize) {
    let order = call.machine().nt().lock_order();
    let thread = call.cpu().thread();
    let mut mutexes = order.mutexes.lock();
    if let Some(held) = mutexes.get_mut(&thread) {
        if let Some(at) = held.iter().rposition(|(other, _)| *other == lock) {
            held.remove(at);
            order.held.fetch_sub(1, Ordering::Relaxed);
        }
        if held.is_empty() {
            mutexes.remove(&thread);
        }
    }
}

/// Complains when waiting for `lock` with the locks that are held can deadlock.
fn check_order(call: &Call<'_>, lock: usize) {
    let order = call.machine().nt().lock_order();
    let mut held = call.cpu().locks().locks();
    if let Some(mutexes) = order.mutexes.lock().get(&call.cpu().thread()) {
        held.extend(mutexes.iter().map(|(lock, _)| *lock));
    }
    for first in held {
        // A shared lock may be taken again; taking an exclusive one again is another rule's.
        if first == lock {
            continue;
        }
        let sites = order.edges.lock().add(first, lock, call.site());
        if let Some(sites) = sites {
            let verifier = call.machine().verifier();
            let places: Vec<String> = sites.iter().map(|&site| verifier.site(site)).collect();
            let places = places.join(", then at ");
            let message = if sites.len() == 1 {
                format!(
                    "two locks are taken in one order here and in the other at {places}: this can deadlock"
                )
            } else {
                format!(
                    "a lock is taken here that comes before one that is held, by way of others taken at {places}: \
                     this can deadlock"
                )
            };
            call.violation(&LOCK_ORDER, message);
        }
    }
}

/// In which order locks are taken on the machine.
#[derive(Debug, Default)]
pub(crate) struct Order {
    edges: Mutex<Edges>,
    /// The mutexes, push locks and wait locks that each thread holds, and where it took them.
    mutexes: Mutex<HashMap<usize, Vec<(usize, usize)>>>,
    /// How many these are.
    held: AtomicUsize,
}

impl Order {
    /// How many mutexes, push locks and wait locks the thread on `cpu` holds.
    pub(crate) fn held_by(&self, cpu: &Cpu) -> usize {
        if self.held.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.mutexes.lock().get(&cpu.thread()).map_or(0, Vec::len)
    }

    /// A callback that was entered with `before` such locks has come back.
    pub(crate) fn check_returned(&self, cpu: &Cpu, callback: Callback, before: usize) {
        if self.held_by(cpu) <= before {
            return;
        }
        let mut mutexes = self.mutexes.lock();
        let left = mutexes
            .get_mut(&cpu.thread())
            .map(|held| held.split_off(before));
        drop(mutexes);
        let left = left.unwrap_or_default();
        self.held.fetch_sub(left.len(), Ordering::Relaxed);
        let verifier = cpu.machine().verifier();
        let sites: Vec<String> = left.iter().map(|(_, site)| verifier.site(*site)).collect();
        let message = format!(
            "{} returned with a mutex, push lock or wait lock held that was acquired at {}",
            callback.name,
            sites.join(", ")
        );
        verifier.violation_by(cpu, callback, &LOCK_HELD, message);
    }

    /// Locks in this memory are no more.
    pub(crate) fn forget(&self, memory: Range<usize>) {
        self.edges.lock().forget(&memory);
    }
}

/// From each lock to those that were waited for while it was held, and where.
#[derive(Debug, Default)]
struct Edges(HashMap<usize, HashMap<usize, usize>>);

impl Edges {
    /// `second` is waited for at `site` while `first` is held. If that is new and there is a way from `second` to
    /// `first`, the sites of its edges.
    fn add(&mut self, first: usize, second: usize, site: usize) -> Option<Vec<usize>> {
        let known = self.0.entry(first).or_default().insert(second, site);
        if known.is_some() {
            return None;
        }
        self.way(second, first)
    }

    /// The sites of the edges of a shortest way.
    fn way(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        // To each lock that was reached: from which one, and where it was taken.
        let mut reached: HashMap<usize, (usize, usize)> = HashMap::new();
        let mut next = vec![from];
        while !reached.contains_key(&to) {
            let mut found = Vec::new();
            for lock in next {
                for (&behind, &site) in self.0.get(&lock)? {
                    if behind != from && !reached.contains_key(&behind) {
                        reached.insert(behind, (lock, site));
                        found.push(behind);
                    }
                }
            }
            if found.is_empty() {
                return None;
            }
            found.retain(|lock| self.0.contains_key(lock));
            next = found;
        }
        let mut sites = Vec::new();
        let mut lock = to;
        while lock != from {
            let (before, site) = *reached.get(&lock)?;
            sites.push(site);
            lock = before;
        }
        sites.reverse();
        Some(sites)
    }

    fn forget(&mut self, memory: &Range<usize>) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|lock, behind| {
            behind.retain(|lock, _| !memory.contains(lock));
            !memory.contains(lock) && !behind.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_found_once_with_the_way_back_and_forgotten_with_its_memory() {
        let mut edges = Edges::default();
        assert_eq!(edges.add(1, 2, 12), None);
        assert_eq!(edges.add(2, 3, 23), None);
        assert_eq!(edges.add(2, 4, 24), None);
        assert_eq!(edges.add(1, 3, 13), None);
        assert_eq!(edges.add(3, 1, 31), Some(vec![13]), "the shortest way");
        assert_eq!(edges.add(3, 1, 31), None, "it was told");
        assert_eq!(edges.add(4, 1, 41), Some(vec![12, 24]));
        edges.forget(&(1..2));
        assert_eq!(edges.add(4, 2, 42), Some(vec![24]));
        assert_eq!(edges.add(3, 2, 32), Some(vec![23]));
        edges.forget(&(0..9));
        assert!(edges.0.is_empty());
    }
}
