//! A value that is read without locks and replaced as a whole.
//!
//! Readers run at IRQL <= `DISPATCH_LEVEL` and never wait: they count
//! themselves in a slot of their processor. The writer runs at `PASSIVE_LEVEL`,
//! publishes the new value and waits until nobody can still hold the old one.
//! Counting is by phase, so that a stream of new readers cannot keep the
//! writer waiting (the scheme of sleepable read-copy-update).

use core::{
    fmt,
    ops::Deref,
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
};

use wfp_schema::NtStatus;

use crate::{
    irql::{POLL, Passive},
    pool::{PoolBox, PoolVec, Tag},
    processor,
};

/// The readers on one processor, apart from every other processor's by two cache lines.
#[repr(C)]
struct Slot {
    /// Readers that entered in an even and in an odd phase.
    active: [AtomicUsize; 2],
    _apart: [usize; 14],
}

/// A value of type `T` in the pool, or none, that is swapped as a whole.
pub struct Swap<T> {
    value: AtomicPtr<T>,
    /// The parity in which new readers count themselves.
    phase: AtomicUsize,
    /// Whether a writer is at work.
    writing: AtomicBool,
    slots: PoolVec<Slot>,
    tag: Tag,
}

// SAFETY: the cell owns its value like a box, and moves it in and out.
unsafe impl<T: Send> Send for Swap<T> {}
// SAFETY: readers share the value (`Sync`), a writer takes it from another thread (`Send`).
unsafe impl<T: Send + Sync> Sync for Swap<T> {}

impl<T> Swap<T> {
    /// An empty cell whose memory, and that of its values, has this tag.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(tag: Tag) -> Result<Self, NtStatus> {
        Ok(Self {
            value: AtomicPtr::new(ptr::null_mut()),
            phase: AtomicUsize::new(0),
            writing: AtomicBool::new(false),
            slots: PoolVec::try_from_fn(tag, processor::maximum_count(), |_| Slot {
                active: [AtomicUsize::new(0), AtomicUsize::new(0)],
                _apart: [0; 14],
            })?,
            tag,
        })
    }

    /// The current value, which stays alive while the guard does.
    pub fn read(&self) -> Option<Reading<'_, T>> {
        // A reader may be moved to another processor, so the guard remembers the slot.
        let slot = self.slots.get(processor::current() % self.slots.len())?;
        let readers = slot
            .active
            .get(self.phase.load(Ordering::SeqCst))
            .unwrap_or(&slot.active[0]);
        readers.fetch_add(1, Ordering::SeqCst);
        let guard = Guard(readers);
        // After the count in the single total order: a writer that did not see the count has
        // published before this load.
        let value = NonNull::new(self.value.load(Ordering::SeqCst))?;
        Some(Reading {
            value,
            _guard: guard,
        })
    }

    /// Publishes `value` and returns the one it replaces, which nobody reads any more.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; the cell keeps its value then.
    pub fn try_replace(&self, value: T, passive: Passive) -> Result<Option<PoolBox<T>>, NtStatus> {
        Ok(self.prepare(value)?.publish(passive))
    }

    /// Takes the memory that a value needs, so that nothing can fail any more when it is
    /// [published](Prepared::publish).
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; `value` is dropped then.
    pub fn prepare(&self, value: T) -> Result<Prepared<'_, T>, NtStatus> {
        Ok(Prepared {
            cell: self,
            value: PoolBox::try_new(self.tag, value)?,
        })
    }

    /// Empties the cell and returns its value, which nobody reads any more.
    pub fn take(&self, passive: Passive) -> Option<PoolBox<T>> {
        self.exchange(ptr::null_mut(), passive)
    }

    fn exchange(&self, new: *mut T, passive: Passive) -> Option<PoolBox<T>> {
        while self.writing.swap(true, Ordering::Acquire) {
            passive.sleep(POLL);
        }
        let old = self.value.swap(new, Ordering::SeqCst);
        let phase = self.phase.load(Ordering::SeqCst);
        // Readers that learnt the phase before the last writer turned it.
        self.wait_for_readers(phase ^ 1, passive);
        self.phase.store(phase ^ 1, Ordering::SeqCst);
        self.wait_for_readers(phase, passive);
        self.writing.store(false, Ordering::Release);
        // SAFETY: `old` came from `into_raw` of a box with this tag. Every reader that counted
        // itself before the swap has left, and every later one found `new`.
        NonNull::new(old).map(|old| unsafe { PoolBox::from_raw(old, self.tag) })
    }

    fn wait_for_readers(&self, phase: usize, passive: Passive) {
        for slot in self.slots.iter() {
            while slot.active[phase & 1].load(Ordering::SeqCst) != 0 {
                passive.sleep(POLL);
            }
        }
    }
}

/// A value for a [`Swap`], in memory of its own.
#[derive(Debug)]
#[must_use = "a value that is not published changes nothing"]
pub struct Prepared<'s, T> {
    cell: &'s Swap<T>,
    value: PoolBox<T>,
}

impl<T> Prepared<'_, T> {
    /// Publishes the value and returns the one it replaces, which nobody reads any more.
    #[must_use = "the old value is freed when what is returned is dropped"]
    pub fn publish(self, passive: Passive) -> Option<PoolBox<T>> {
        self.cell.exchange(self.value.into_raw(), passive)
    }
}

impl<T> Deref for Prepared<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Swap<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `into_raw` of a box with this tag, and an exclusive
        // borrow of the cell means that no guard is left.
        drop(
            NonNull::new(*self.value.get_mut()).map(|v| unsafe { PoolBox::from_raw(v, self.tag) }),
        );
    }
}

impl<T> fmt::Debug for Swap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swap").finish_non_exhaustive()
    }
}

/// A reader's count in its slot.
struct Guard<'a>(&'a AtomicUsize);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The value of a [`Swap`] as one reader holds it.
#[must_use]
pub struct Reading<'a, T> {
    value: NonNull<T>,
    _guard: Guard<'a>,
}

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: no writer frees the value before the guard has left its slot.
        unsafe { self.value.as_ref() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Reading<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        thread,
    };

    use super::Swap;
    use crate::{irql::Passive, pool::Tag};

    const TAG: Tag = Tag::new(*b"Test");

    fn passive() -> Passive {
        // SAFETY: a program's threads have no IRQL to violate.
        unsafe { Passive::assume() }
    }

    /// A value that knows whether it has been dropped, in memory that outlives it.
    struct Witness<'a> {
        dropped: &'a AtomicBool,
    }

    impl Drop for Witness<'_> {
        fn drop(&mut self) {
            self.dropped.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn an_empty_cell_has_nothing_to_read() {
        let cell = Swap::<u32>::try_new(TAG).unwrap();
        assert!(cell.read().is_none());
        assert!(cell.take(passive()).is_none());
    }

    #[test]
    fn a_writer_gets_the_value_that_it_replaced() {
        let cell = Swap::try_new(TAG).unwrap();
        assert!(cell.try_replace(1, passive()).unwrap().is_none());
        assert_eq!(*cell.try_replace(2, passive()).unwrap().unwrap(), 1);
        assert_eq!(*cell.read().unwrap(), 2);
        assert_eq!(*cell.take(passive()).unwrap(), 2);
    }

    #[test]
    fn no_reader_ever_sees_a_dropped_value() {
        let rounds = if cfg!(miri) { 5 } else { 50 };
        let dropped: std::vec::Vec<_> = (0..=rounds).map(|_| AtomicBool::new(false)).collect();
        let cell = Swap::try_new(TAG).unwrap();
        let reads = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        cell.try_replace(
            Witness {
                dropped: &dropped[0],
            },
            passive(),
        )
        .unwrap();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        let value = cell.read().unwrap();
                        assert!(!value.dropped.load(Ordering::SeqCst));
                        thread::yield_now();
                        assert!(!value.dropped.load(Ordering::SeqCst));
                        reads.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for (round, next) in dropped.iter().enumerate().skip(1) {
                let before = reads.load(Ordering::SeqCst);
                drop(
                    cell.try_replace(Witness { dropped: next }, passive())
                        .unwrap(),
                );
                assert!(dropped[round - 1].load(Ordering::SeqCst));
                while reads.load(Ordering::SeqCst) == before {
                    thread::yield_now();
                }
            }
            stop.store(true, Ordering::SeqCst);
        });
        drop(cell);
        assert!(dropped.iter().all(|dropped| dropped.load(Ordering::SeqCst)));
    }
}
