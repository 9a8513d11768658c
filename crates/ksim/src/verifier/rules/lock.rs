//! Spin locks, mutexes and their like.

use super::{Area, rules};

rules! {
    Area::Lock;

    /// Locks were taken in orders that can deadlock.
    LOCK_ORDER = Fatal, "lock-order", "locks of any kind are always taken in the same order", "Driver Verifier: Deadlock Detection; bug check 0xC4 subcode 0x1001";
    /// A lock was taken by who holds it already.
    LOCK_RECURSION = Fatal, "lock-recursion", "a lock is not taken again by its holder", "bug check 0x0F SPIN_LOCK_ALREADY_OWNED; ExAcquireFastMutex";
    /// A lock was given back by who does not hold it.
    LOCK_OWNER = Fatal, "lock-owner", "a lock is released by the processor or thread that holds it", "bug check 0x10 SPIN_LOCK_NOT_OWNED; KeReleaseMutex";
    /// A callback came back with a lock.
    LOCK_HELD = Fatal, "lock-held", "a callback returns with the locks with which it was called", "Driver Verifier: Deadlock Detection; KeAcquireSpinLock; WdfWaitLockAcquire; bug check 0x1";
    /// A spin lock was held for long.
    LOCK_LONG = Warning, "lock-long", "a spin lock is held for 25 microseconds at most, and not around loops of thousands of calls", "KeAcquireSpinLock, Remarks";
    /// What protects was not entered and left in pairs.
    LOCK_PROTOCOL = Fatal, "lock-protocol", "critical regions, push locks, run-down protection and framework locks are entered and left in pairs", "DDI pages of the lock";
}
