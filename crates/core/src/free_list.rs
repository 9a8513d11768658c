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

/// A slot of storage that a free list can be made of.
pub(crate) trait Linked {
    /// The slot's place in the list.
    fn link(&self) -> &Link;
}

/// Storage that a free list can be made of: slots by their index.
pub(crate) trait Links {
    /// How many slots there are; more as time goes by, never fewer.
    fn count(&self) -> usize;
    /// The link of a slot, of which there is one for each index below [`count`](Self::count).
    fn link(&self, index: u32) -> Option<&Link>;
}

impl<T: Linked> Links for [T] {
    fn count(&self) -> usize {
        self.len()
    }

    fn link(&self, index: u32) -> Option<&Link> {
        Some(self.get(index as usize)?.link())
    }
}

/// The free ones of a number of slots. Taking one and giving it back cost one short lock.
pub(crate) struct FreeList<R> {
    /// Index plus one of the first free slot, 0 for none.
    first: Mutex<R, u32>,
    used: AtomicU32,
    capacity: AtomicU32,
}

impl<R: RawMutex> FreeList<R> {
    /// All of `slots` free. Slots beyond 2³² − 2 are not used.
    pub(crate) fn new(slots: &(impl Links + ?Sized)) -> Self {
        let list = Self {
            first: Mutex::new(0),
            used: AtomicU32::new(0),
            capacity: AtomicU32::new(0),
        };
        list.extend(slots);
        list
    }

    /// Adds the slots that have come since: they are taken first, in their order. Only one caller at a time may add.
    pub(crate) fn extend(&self, slots: &(impl Links + ?Sized)) {
        let count = u32::try_from(slots.count())
            .unwrap_or(u32::MAX - 1)
            .min(u32::MAX - 1);
        let old = self.capacity();
        // Nobody sees the new ones yet, so that the lock is held for the last one only.
        for index in old..count.saturating_sub(1) {
            if let Some(link) = slots.link(index) {
                link.0.store(index + 2, Ordering::Relaxed);
            }
        }
        let last = count.checked_sub(1).filter(|_| count > old);
        let Some(link) = last.and_then(|last| slots.link(last)) else {
            return;
        };
        let mut first = self.first.lock();
        link.0.store(*first, Ordering::Relaxed);
        *first = old + 1;
        drop(first);
        self.capacity.store(count, Ordering::Release);
    }

    /// How many slots there are.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Acquire)
    }

    /// How many are taken.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes a free slot; its index.
    pub(crate) fn take(&self, slots: &(impl Links + ?Sized)) -> Option<u32> {
        let mut first = self.first.lock();
        let index = first.checked_sub(1)?;
        let link = &slots.link(index)?.0;
        *first = link.swap(Link::TAKEN, Ordering::AcqRel);
        drop(first);
        self.used.fetch_add(1, Ordering::Relaxed);
        Some(index)
    }

    /// Gives a slot back that was taken.
    pub(crate) fn give(&self, slots: &(impl Links + ?Sized), index: u32) {
        let Some(link) = slots.link(index) else {
            return;
        };
        let mut first = self.first.lock();
        link.0.store(*first, Ordering::Release);
        *first = index + 1;
        drop(first);
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}
