//! Spin locks, mutexes and their like.

use super::{Area, rules};

rules! {
    Area::Lock;

    /// A lock was taken twice, released by a stranger, or held on return.
    LOCK_PROTOCOL = Fatal, "lock-protocol", "a lock is released once by its holder, and not held when a callback returns", "Driver Verifier: Deadlock Detection";
}
