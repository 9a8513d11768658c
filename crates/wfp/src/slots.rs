//! A fixed number of places, of which anybody takes one and gives it back, without a lock.

use core::{
    fmt,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use wfp_schema::NtStatus;

use crate::{
    irql::{POLL, Passive},
    pool::{PoolVec, Tag},
};

/// Which of a number of places are free: a stack of their indexes.
///
/// A call repeats itself only when another processor was faster meanwhile, which means that that
/// one is done.
pub(crate) struct Slots {
    /// How often the stack has been changed, above the index of its first place plus 1 (0: none).
    /// The count keeps a place that was taken and given back meanwhile from being mistaken for
    /// one that stayed.
    head: AtomicU64,
    /// For each free place the one below it, as in `head`.
    below: PoolVec<AtomicU32>,
    taken: AtomicUsize,
}

const INDEX: u64 = u32::MAX as u64;

impl Slots {
    /// `count` free places.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub(crate) fn try_new(tag: Tag, count: u32) -> Result<Self, NtStatus> {
        // The first place is on top.
        let below = PoolVec::try_from_fn(tag, count as usize, |index| {
            let next = u32::try_from(index).map_or(0, |index| index + 2);
            AtomicU32::new(if next > count { 0 } else { next })
        })?;
        Ok(Self {
            head: AtomicU64::new(u64::from(count > 0)),
            below,
            taken: AtomicUsize::new(0),
        })
    }

    /// Takes a free place; `None` if there is none.
    pub(crate) fn take(&self) -> Option<u32> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let index = u32::try_from((head & INDEX).checked_sub(1)?).ok()?;
            let below = self.below.get(index as usize)?.load(Ordering::Relaxed);
            match self.head.compare_exchange_weak(
                head,
                after(head, below),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    return Some(index);
                }
                Err(now) => head = now,
            }
        }
    }

    /// Gives a place back that [`take`](Self::take) gave. Whoever waits for all of them may free
    /// `self` from then on.
    pub(crate) fn put(&self, index: u32) {
        if let Some(place) = self.below.get(index as usize) {
            let mut head = self.head.load(Ordering::Acquire);
            loop {
                place.store(u32::try_from(head & INDEX).unwrap_or(0), Ordering::Relaxed);
                match self.head.compare_exchange_weak(
                    head,
                    after(head, index + 1),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(_) => break,
                    Err(now) => head = now,
                }
            }
        }
        // The last look at `self`.
        self.taken.fetch_sub(1, Ordering::Release);
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// How many places there are.
    pub(crate) fn count(&self) -> usize {
        self.below.len()
    }

    /// Waits until every place is free.
    pub(crate) fn wait_until_free(&self, passive: Passive) {
        while self.taken() > 0 {
            passive.sleep(POLL);
        }
    }
}

/// The head that follows `head`, with this place on top.
const fn after(head: u64, place: u32) -> u64 {
    ((head & !INDEX).wrapping_add(1 << 32)) | place as u64
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("taken", &self.taken())
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
        vec::Vec,
    };

    use super::Slots;
    use crate::{irql::Passive, pool::Tag};

    const TAG: Tag = Tag::new(*b"Test");

    #[test]
    fn every_place_is_taken_once_and_again_after_it_was_given_back() {
        let slots = Slots::try_new(TAG, 3).unwrap();
        let mut taken: Vec<u32> = (0..3).map(|_| slots.take().unwrap()).collect();
        assert_eq!((slots.take(), slots.taken()), (None, 3));
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2]);
        slots.put(1);
        assert_eq!((slots.taken(), slots.take()), (2, Some(1)));
    }

    #[test]
    fn without_places_nothing_is_taken() {
        assert_eq!(Slots::try_new(TAG, 0).unwrap().take(), None);
    }

    #[test]
    fn a_place_has_one_owner_at_a_time() {
        let rounds = if cfg!(miri) { 20 } else { 20_000 };
        let slots = Slots::try_new(TAG, 3).unwrap();
        let owned: Vec<_> = (0..3).map(|_| AtomicBool::new(false)).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        let Some(index) = slots.take() else {
                            thread::yield_now();
                            continue;
                        };
                        assert!(!owned[index as usize].swap(true, Ordering::SeqCst));
                        owned[index as usize].store(false, Ordering::SeqCst);
                        slots.put(index);
                    }
                });
            }
        });
        // SAFETY: a program's threads have no IRQL to violate.
        slots.wait_until_free(unsafe { Passive::assume() });
        assert_eq!((slots.taken(), slots.count()), (0, 3));
        assert_eq!((0..4).filter_map(|_| slots.take()).count(), 3);
    }
}
