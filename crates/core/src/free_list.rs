//! Which slots of a fixed number are free.

use core::sync::atomic::{AtomicU32, Ordering};
use lock_api::{Mutex, RawMutex};

/// A slot's place in the list of those that are free.
///
/// It is the index plus one of the next free slot, 0 for none, [`Link::TAKEN`] for a slot that is not free, and
/// changes only under the list's lock.
#[derive(Debug)]
pub(crate) struct Link(AtomicU32);

impl Link {
    const TAKEN: u32 = u32::MAX;

    /// Whether the slot is taken. Nothing is locked: it may be taken or given back at this moment.
    pub(crate) fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::TAKEN
    }

    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }
}

/// Storage that a free list can be made of.
pub(crate) trait Linked {
    /// The slot's place in the list.
    fn link(&self) -> &Link;
}

/// The free ones of a slice of slots. Taking one and giving it back cost one short lock.
pub(crate) struct FreeList<R> {
    /// Index plus one of the first free slot, 0 for none.
    first: Mutex<R, u32>,
    used: AtomicU32,
    capacity: u32,
}

impl<R: RawMutex> FreeList<R> {
    /// All of `slots` free. Slots beyond 2³² − 2 are not used.
    pub(crate) fn new<T: Linked>(slots: &[T]) -> Self {
        let capacity = u32::try_from(slots.len())
            .unwrap_or(u32::MAX - 1)
            .min(u32::MAX - 1);
        for (slot, next) in slots.iter().zip(2..=capacity) {
            slot.link().0.store(next, Ordering::Relaxed);
        }
        Self {
            first: Mutex::new(u32::from(capacity > 0)),
            used: AtomicU32::new(0),
            capacity,
        }
    }

    /// How many slots there are.
    pub(crate) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many are taken.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes a free slot; its index.
    pub(crate) fn take<T: Linked>(&self, slots: &[T]) -> Option<u32> {
        let mut first = self.first.lock();
        let index = first.checked_sub(1)?;
        let link = &slots.get(index as usize)?.link().0;
        *first = link.swap(Link::TAKEN, Ordering::AcqRel);
        drop(first);
        self.used.fetch_add(1, Ordering::Relaxed);
        Some(index)
    }

    /// Gives a slot back that was taken.
    pub(crate) fn give<T: Linked>(&self, slots: &[T], index: u32) {
        let Some(slot) = slots.get(index as usize) else {
            return;
        };
        let mut first = self.first.lock();
        slot.link().0.store(*first, Ordering::Release);
        *first = index + 1;
        drop(first);
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}
