//! Limits that all flows of a rule share.

use lock_api::{Mutex, MutexGuard, RawMutex};

use super::bucket::Bucket;
use crate::flow::Transfer;

/// Names a limit: its number in a policy, and the policy's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Below [`MAX_LIMITS`](portcullis_proto::effect::MAX_LIMITS).
    pub number: u16,
    /// The policy's epoch.
    pub epoch: u64,
}

#[derive(Clone, Copy, Debug)]
struct Buckets {
    epoch: u64,
    /// Sent, received.
    ways: [Bucket; 2],
}

impl Buckets {
    const FULL: Self = Self {
        epoch: 0,
        ways: [Bucket::FULL; 2],
    };
}

/// Storage for a limit.
pub struct LimitSlot<R>(Mutex<R, Buckets>);

impl<R: RawMutex> LimitSlot<R> {
    /// Full buckets.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Buckets::FULL))
    }
}

impl<R: RawMutex> Default for LimitSlot<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> core::fmt::Debug for LimitSlot<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LimitSlot").finish_non_exhaustive()
    }
}

/// The limits, over storage of the caller's: a slot for each number.
#[derive(Debug)]
pub struct Limits<L>(L);

impl<L> Limits<L> {
    /// All buckets are full.
    pub const fn new(slots: L) -> Self {
        Self(slots)
    }

    /// Shows a limit's bucket of one way, under its lock. A new policy begins with full ones. `None` for a flow that has not
    /// been decided by the policy whose they are by now.
    pub fn with<R: RawMutex, T>(
        &self,
        limit: Limit,
        transfer: Transfer,
        with: impl FnOnce(&mut Bucket) -> T,
    ) -> Option<T>
    where
        L: AsRef<[LimitSlot<R>]>,
    {
        let slot = self.0.as_ref().get(usize::from(limit.number))?;
        let mut buckets: MutexGuard<'_, R, Buckets> = slot.0.lock();
        if buckets.epoch < limit.epoch {
            *buckets = Buckets {
                epoch: limit.epoch,
                ..Buckets::FULL
            };
        }
        if buckets.epoch > limit.epoch {
            return None;
        }
        buckets.ways.get_mut(transfer as usize).map(with)
    }
}
