//! Whom the system tells of something, and that nobody is told after having unregistered.

use parking_lot::Mutex;

use crate::cpu::Cpu;
use crate::export::Call;

/// Registrations of one kind, in their order.
#[derive(Debug)]
pub(crate) struct Registered<T>(Mutex<Vec<Entry<T>>>);

#[derive(Debug)]
struct Entry<T> {
    handle: usize,
    what: T,
    /// Calls of it that have not returned.
    running: u32,
    /// It is being unregistered, and not called any more.
    leaving: bool,
}

impl<T> Default for Registered<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Copy> Registered<T> {
    /// Adds a registration under a handle that no other has.
    pub(super) fn add(&self, handle: usize, what: T) {
        self.0.lock().push(Entry {
            handle,
            what,
            running: 0,
            leaving: false,
        });
    }

    /// How many there are.
    pub(super) fn count(&self, choose: impl Fn(&T) -> bool) -> usize {
        self.0
            .lock()
            .iter()
            .filter(|entry| choose(&entry.what))
            .count()
    }

    /// Removes a registration once no call of it is under way; `false` when there is no such one.
    pub(super) fn remove(&self, call: &Call<'_>, handle: usize) -> bool {
        let known = self
            .0
            .lock()
            .iter_mut()
            .find(|entry| entry.handle == handle)
            .map(|entry| entry.leaving = true);
        if known.is_none() {
            return false;
        }
        call.machine().wait(call.cpu(), call.name(), None, || {
            let mut entries = self.0.lock();
            let idle = entries
                .iter()
                .position(|entry| entry.handle == handle && entry.running == 0);
            let removed = idle.map(|idle| entries.remove(idle));
            drop(entries);
            removed.is_some()
        });
        true
    }

    /// Calls `run` with each registration that `choose` picks, in their order. Those that are added meanwhile are
    /// left out.
    pub(super) fn each(&self, cpu: &Cpu, choose: impl Fn(&T) -> bool, run: impl Fn(T)) {
        let handles: Vec<usize> = self
            .0
            .lock()
            .iter()
            .filter(|entry| choose(&entry.what))
            .map(|entry| entry.handle)
            .collect();
        for handle in handles {
            let begun = self
                .0
                .lock()
                .iter_mut()
                .find(|entry| entry.handle == handle && !entry.leaving)
                .map(|entry| {
                    entry.running += 1;
                    entry.what
                });
            let Some(what) = begun else {
                continue;
            };
            run(what);
            if let Some(entry) = self
                .0
                .lock()
                .iter_mut()
                .find(|entry| entry.handle == handle)
            {
                entry.running -= 1;
            }
            cpu.machine().wake();
        }
    }
}
