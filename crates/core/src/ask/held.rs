//! What is held: a fixed number of slots, each with its own lock.

use super::subject::Subject;
use super::{Release, Released};
use crate::free_list::{FreeList, Link, Linked};
use crate::handle::slot_handle;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
use lock_api::{Mutex, RawMutex};
use portcullis_proto::event::EventRecord;
use portcullis_proto::policy::Action;

slot_handle! {
    /// Names a question.
    Ticket
}

/// What a slot keeps.
#[derive(Debug)]
pub(super) struct Kept<T> {
    pub(super) subject: Subject,
    /// When its time runs out; 0 for at once.
    pub(super) deadline: u64,
    pub(super) otherwise: Action,
    /// Somebody has been told the question.
    pub(super) is_told: bool,
    pub(super) is_reported: bool,
    pub(super) question: EventRecord,
    pub(super) held: T,
}

/// What was in a slot.
pub(super) struct Taken<T> {
    pub(super) ticket: Ticket,
    pub(super) subject: Subject,
    pub(super) released: Released<T>,
}

/// Storage for one operation that is held.
pub struct HeldSlot<R, T> {
    slot: Mutex<R, Slot<T>>,
    link: Link,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// Its place among all that were held.
    order: u64,
    kept: Option<Kept<T>>,
}

impl<R: RawMutex, T> HeldSlot<R, T> {
    /// A free slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slot: Mutex::new(Slot {
                generation: 0,
                order: 0,
                kept: None,
            }),
            link: Link::new(),
        }
    }
}

impl<R: RawMutex, T> Default for HeldSlot<R, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R, T> Linked for HeldSlot<R, T> {
    fn link(&self) -> &Link {
        &self.link
    }
}

/// The slots.
pub(super) struct Held<R, H, T> {
    free: FreeList<R>,
    slots: H,
    /// How many were held so far.
    count: AtomicU64,
    _kept: PhantomData<fn() -> T>,
}

impl<R: RawMutex, H: AsRef<[HeldSlot<R, T>]>, T> Held<R, H, T> {
    pub(super) fn new(slots: H) -> Self {
        Self {
            free: FreeList::new(slots.as_ref()),
            slots,
            count: AtomicU64::new(0),
            _kept: PhantomData,
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.free.capacity()
    }

    pub(super) fn len(&self) -> u32 {
        self.free.used()
    }

    fn slot(&self, index: u32) -> Option<&HeldSlot<R, T>> {
        self.slots.as_ref().get(index as usize)
    }

    /// A slot for what is about to be held.
    pub(super) fn reserve(&self) -> Option<Ticket> {
        let index = self.free.take(self.slots.as_ref())?;
        let mut slot = self.slot(index)?.slot.lock();
        slot.generation = slot.generation.wrapping_add(1);
        slot.order = self.count.fetch_add(1, Ordering::Relaxed);
        Ticket::new(index, slot.generation)
    }

    /// The slot is not needed after all, and was never filled.
    pub(super) fn give_back(&self, ticket: Ticket) {
        if let Some(index) = ticket.index() {
            self.free.give(self.slots.as_ref(), index);
        }
    }

    /// Fills a reserved slot; `kept` is called under its lock.
    pub(super) fn fill(&self, ticket: Ticket, kept: impl FnOnce() -> Kept<T>) {
        if let Some(entry) = ticket.index().and_then(|index| self.slot(index)) {
            let mut slot = entry.slot.lock();
            slot.kept = Some(kept());
        }
    }

    /// Takes what waits under a ticket, if `decide` decides it.
    pub(super) fn take(
        &self,
        ticket: Ticket,
        decide: impl FnOnce(&Kept<T>) -> Option<(Release, Action)>,
    ) -> Option<Taken<T>> {
        let index = ticket.index()?;
        self.take_if(index, Some(ticket.generation()), decide)
    }

    /// Takes what waits in a slot, if `decide` decides it.
    pub(super) fn take_at(
        &self,
        index: u32,
        decide: impl FnOnce(&Kept<T>) -> Option<(Release, Action)>,
    ) -> Option<Taken<T>> {
        self.take_if(index, None, decide)
    }

    fn take_if(
        &self,
        index: u32,
        generation: Option<u32>,
        decide: impl FnOnce(&Kept<T>) -> Option<(Release, Action)>,
    ) -> Option<Taken<T>> {
        let mut slot = self.slot(index)?.slot.lock();
        if generation.is_some_and(|generation| generation != slot.generation) {
            return None;
        }
        let (release, action) = decide(slot.kept.as_ref()?)?;
        let kept = slot.kept.take()?;
        let ticket = Ticket::new(index, slot.generation)?;
        drop(slot);
        self.free.give(self.slots.as_ref(), index);
        Some(Taken {
            ticket,
            subject: kept.subject,
            released: Released {
                held: kept.held,
                action,
                release,
                question: kept.question,
                is_reported: kept.is_reported,
            },
        })
    }

    /// The oldest question that nobody has been told; from now on somebody has.
    pub(super) fn next_untold(&self) -> Option<EventRecord> {
        // Another reader may be faster: then the next one is looked for, of which there are fewer each time.
        for _ in 0..self.capacity() {
            let index = self.oldest_untold()?;
            let mut slot = self.slot(index)?.slot.lock();
            if let Some(kept) = slot.kept.as_mut().filter(|kept| !kept.is_told) {
                kept.is_told = true;
                return Some(kept.question);
            }
        }
        None
    }

    pub(super) fn has_untold(&self) -> bool {
        self.oldest_untold().is_some()
    }

    fn oldest_untold(&self) -> Option<u32> {
        let untold = (0..self.capacity()).filter_map(|index| {
            let slot = self.slot(index)?.slot.lock();
            let is_untold = slot.kept.as_ref().is_some_and(|kept| !kept.is_told);
            is_untold.then_some((slot.order, index))
        });
        untold.min().map(|(_, index)| index)
    }
}
