//! Locks and events.

use core::{
    cell::UnsafeCell,
    fmt,
    ops::{Deref, DerefMut},
    ptr,
};

use lock_api::{GuardNoSend, RawMutex};
use wdk_sys::{KEVENT, KIRQL, KSPIN_LOCK, LARGE_INTEGER};
use wfp_schema::NtStatus;

use crate::{
    irql::{KERNEL_MODE, Passive},
    pool::{PoolBox, Tag},
};

/// `DISPATCH_LEVEL`.
const DISPATCH_LEVEL: KIRQL = 2;

/// A spin lock of the kernel, for use with [`lock_api::Mutex`].
///
/// It is taken at IRQL <= `DISPATCH_LEVEL` and raises to `DISPATCH_LEVEL` while it is held, so
/// what it guards is also safe from deferred procedure calls. Hold one for a few memory accesses;
/// call nothing that demands [`Passive`] meanwhile.
pub struct RawSpinLock {
    lock: UnsafeCell<KSPIN_LOCK>,
    /// The level at which the holder came. Written and read by the holder only.
    previous: UnsafeCell<KIRQL>,
}

// SAFETY: the holder owns the lock, which does not care about threads.
unsafe impl Send for RawSpinLock {}
// SAFETY: `lock` is only touched by the kernel's functions, `previous` by the holder.
unsafe impl Sync for RawSpinLock {}

// SAFETY: `KSPIN_LOCK` excludes every other processor from `lock` to `unlock`.
unsafe impl RawMutex for RawSpinLock {
    // `KeInitializeSpinLock` is inline and stores a zero.
    const INIT: Self = Self {
        lock: UnsafeCell::new(0),
        previous: UnsafeCell::new(0),
    };

    /// The level belongs to the processor that raised it.
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        // SAFETY: the lock is initialized and at a fixed address while it is borrowed.
        let previous = unsafe { wdk_sys::ntddk::KeAcquireSpinLockRaiseToDpc(self.lock.get()) };
        // SAFETY: this is the holder now.
        unsafe { *self.previous.get() = previous };
    }

    /// Takes the lock if the code already runs at `DISPATCH_LEVEL` and the lock is free.
    fn try_lock(&self) -> bool {
        // SAFETY: reading the level is allowed at any level.
        if unsafe { wdk_sys::ntddk::KeGetCurrentIrql() } != DISPATCH_LEVEL {
            return false;
        }
        // SAFETY: the lock is initialized, and this runs at DISPATCH_LEVEL.
        let taken =
            unsafe { wdk_sys::ntddk::KeTryToAcquireSpinLockAtDpcLevel(self.lock.get()) } != 0;
        if taken {
            // SAFETY: this is the holder now.
            unsafe { *self.previous.get() = DISPATCH_LEVEL };
        }
        taken
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock.
        let previous = unsafe { *self.previous.get() };
        // SAFETY: the caller holds the lock, and came at this level.
        unsafe { wdk_sys::ntddk::KeReleaseSpinLock(self.lock.get(), previous) };
    }
}

impl fmt::Debug for RawSpinLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSpinLock").finish_non_exhaustive()
    }
}

/// A value guarded by a spin lock.
pub type SpinLock<T> = lock_api::Mutex<RawSpinLock, T>;

/// An event that lets one waiter through for each time it is set.
pub struct Event {
    /// In the pool, because the kernel links waiters to its address.
    event: PoolBox<KernelEvent>,
}

struct KernelEvent(UnsafeCell<KEVENT>);

#[allow(
    clippy::non_send_fields_in_send_ty,
    reason = "the raw pointers within are the kernel's own list of waiters"
)]
// SAFETY: the kernel's functions may be called on an event from any thread.
unsafe impl Send for KernelEvent {}
// SAFETY: as above; nothing else touches the event.
unsafe impl Sync for KernelEvent {}

impl Event {
    /// An event, set or not.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(tag: Tag, set: bool) -> Result<Self, NtStatus> {
        let event = PoolBox::try_new(tag, KernelEvent(UnsafeCell::new(KEVENT::default())))?;
        // SAFETY: the event is in non-paged memory and does not move before it is dropped.
        unsafe {
            wdk_sys::ntddk::KeInitializeEvent(
                event.0.get(),
                wdk_sys::_EVENT_TYPE::SynchronizationEvent,
                u8::from(set),
            );
        }
        Ok(Self { event })
    }

    /// Sets the event: one waiter goes on, now or when it comes.
    pub fn set(&self) {
        // SAFETY: the event is initialized; without `Wait` this may be called at IRQL <=
        // DISPATCH_LEVEL. The previous state says nothing.
        let _ = unsafe { wdk_sys::ntddk::KeSetEvent(self.event.0.get(), 0, 0) };
    }

    /// Waits until the event is set, and resets it.
    pub fn wait(&self, _passive: Passive) {
        // SAFETY: the event is initialized, and the token says PASSIVE_LEVEL. A kernel-mode wait
        // without a time limit that is not alertable ends by the event alone.
        let _ = unsafe {
            wdk_sys::ntddk::KeWaitForSingleObject(
                self.event.0.get().cast(),
                wdk_sys::_KWAIT_REASON::Executive,
                KERNEL_MODE,
                0,
                ptr::null_mut::<LARGE_INTEGER>(),
            )
        };
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").finish_non_exhaustive()
    }
}

/// A value guarded by a lock that is taken, held and waited for at `PASSIVE_LEVEL`.
///
/// The level stays, so the management API may be called while it is held.
pub struct WaitLock<T> {
    /// Set while nobody holds the lock.
    free: Event,
    value: UnsafeCell<T>,
}

// SAFETY: the lock owns its value.
unsafe impl<T: Send> Send for WaitLock<T> {}
// SAFETY: one thread at a time reaches the value.
unsafe impl<T: Send> Sync for WaitLock<T> {}

impl<T> WaitLock<T> {
    /// A lock around `value`.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(tag: Tag, value: T) -> Result<Self, NtStatus> {
        Ok(Self {
            free: Event::try_new(tag, true)?,
            value: UnsafeCell::new(value),
        })
    }

    /// Waits for the lock. Not recursive.
    pub fn lock(&self, passive: Passive) -> WaitGuard<'_, T> {
        self.free.wait(passive);
        WaitGuard {
            lock: self,
            _passive: passive,
        }
    }
}

impl<T> fmt::Debug for WaitLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitLock").finish_non_exhaustive()
    }
}

/// The holder's access to what a [`WaitLock`] guards.
#[derive(Debug)]
#[must_use]
pub struct WaitGuard<'a, T> {
    lock: &'a WaitLock<T>,
    /// Keeps the guard on its thread.
    _passive: Passive,
}

impl<T> Deref for WaitGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard's owner holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for WaitGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard's owner holds the lock, and borrows the guard exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for WaitGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.free.set();
    }
}
