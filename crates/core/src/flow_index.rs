//! Where followed flows are, by the system's identifier of them.
//!
//! The system names a flow by its identifier where there is no flow context, as when a connection is authorized again.
//! Flows whose identifiers have the same hash are a chain of slots. Each of the slots that were there from the start keeps
//! the beginning of one chain, so that the index needs no memory of its own and chains stay short.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use lock_api::{Mutex, RawMutex};

use crate::flow::FlowHandle;

/// A slot's part of the index.
pub(crate) struct Entry<R> {
    /// A chain: the index plus one of its first slot, 0 for none. It locks the rest of the chain too.
    first: Mutex<R, u32>,
    /// The index plus one of the next slot of the chain that this slot is in, 0 for none.
    next: AtomicU32,
    /// The flow's identifier.
    flow: AtomicU64,
    /// The flow's handle.
    handle: AtomicU64,
}

impl<R: RawMutex> Entry<R> {
    /// A part that is in no chain, with a chain that is empty.
    pub(crate) const fn new() -> Self {
        Self {
            first: Mutex::from_raw(R::INIT, 0),
            next: AtomicU32::new(0),
            flow: AtomicU64::new(0),
            handle: AtomicU64::new(0),
        }
    }
}

/// The entries of a table's slots.
pub(crate) trait Entries<R> {
    /// That of the slot with this index.
    fn entry(&self, index: u32) -> Option<&Entry<R>>;
}

/// The index. Every call locks one chain, and walks at most all of it.
pub(crate) struct FlowIndex {
    /// Number of chains; it never changes.
    chains: u32,
}

impl FlowIndex {
    /// An index with a chain in each of the first `slots` slots; in the first one that comes, if there is none yet.
    pub(crate) const fn new(slots: u32) -> Self {
        Self {
            chains: if slots == 0 { 1 } else { slots },
        }
    }

    /// Adds a flow that has just taken its slot. One without an identifier is not found.
    pub(crate) fn insert<R: RawMutex>(
        &self,
        entries: &impl Entries<R>,
        flow: u64,
        index: u32,
        handle: FlowHandle,
    ) {
        let (Some(chain), Some(entry)) = (self.chain(entries, flow), entries.entry(index)) else {
            return;
        };
        let mut first = chain.first.lock();
        entry.flow.store(flow, Ordering::Relaxed);
        entry.handle.store(handle.raw(), Ordering::Relaxed);
        entry.next.store(*first, Ordering::Relaxed);
        *first = index + 1;
    }

    /// The flow of this identifier. It may end before the handle is used, which names nothing then.
    #[expect(
        clippy::significant_drop_tightening,
        reason = "the lock is that of the whole chain"
    )]
    pub(crate) fn find<R: RawMutex>(
        &self,
        entries: &impl Entries<R>,
        flow: u64,
    ) -> Option<FlowHandle> {
        let chain = self.chain(entries, flow)?;
        let first = chain.first.lock();
        let mut next = *first;
        while let Some(entry) = next.checked_sub(1).and_then(|index| entries.entry(index)) {
            if entry.flow.load(Ordering::Relaxed) == flow {
                return FlowHandle::from_raw(entry.handle.load(Ordering::Relaxed));
            }
            next = entry.next.load(Ordering::Relaxed);
        }
        None
    }

    /// Takes a flow out whose slot is about to be free.
    #[expect(
        clippy::significant_drop_tightening,
        reason = "the lock is that of the whole chain"
    )]
    pub(crate) fn remove<R: RawMutex>(&self, entries: &impl Entries<R>, flow: u64, index: u32) {
        let (Some(chain), Some(gone)) = (self.chain(entries, flow), entries.entry(index)) else {
            return;
        };
        let mut first = chain.first.lock();
        let after = gone.next.load(Ordering::Relaxed);
        if *first == index + 1 {
            *first = after;
            return;
        }
        let mut next = *first;
        while let Some(entry) = next.checked_sub(1).and_then(|index| entries.entry(index)) {
            next = entry.next.load(Ordering::Relaxed);
            if next == index + 1 {
                entry.next.store(after, Ordering::Relaxed);
                return;
            }
        }
    }

    fn chain<'e, R: RawMutex + 'e>(
        &self,
        entries: &'e impl Entries<R>,
        flow: u64,
    ) -> Option<&'e Entry<R>> {
        // Identifiers are counted up, or are addresses: the lowest bits tell little.
        let hash = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let place = hash.checked_rem(self.chains.into()).filter(|_| flow != 0)?;
        entries.entry(u32::try_from(place).ok()?)
    }
}
