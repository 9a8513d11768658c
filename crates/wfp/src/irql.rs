//! Interrupt request levels.
//!
//! The crate's rule: a function that demands no token may be called at IRQL <=
//! `DISPATCH_LEVEL`; one that demands [`Passive`] may be called at
//! `PASSIVE_LEVEL` only; one that demands [`Dispatch`] may not be called in a classify.

use core::{marker::PhantomData, time::Duration};

/// Proof that the code runs at `PASSIVE_LEVEL`: it may wait, and call the management API.
///
/// The token stands for the level at which a callback was entered. A guard of a
/// [`SpinLock`](crate::sync::SpinLock) raises the level while it lives, so nothing that demands
/// `Passive` may be called before the guard is gone.
#[derive(Clone, Copy, Debug)]
pub struct Passive {
    /// Neither `Send` nor `Sync`: the level is a property of the running thread.
    _thread: PhantomData<*mut ()>,
}

impl Passive {
    /// The token of a callback that the kernel enters at `PASSIVE_LEVEL`.
    ///
    /// # Safety
    /// The running code was entered at `PASSIVE_LEVEL` and has not raised the level since:
    /// `DriverEntry`, `EvtDriverUnload`, a work item, or a function that checked the level.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self {
            _thread: PhantomData,
        }
    }

    /// The token, if the running processor is at `PASSIVE_LEVEL` now.
    #[cfg(windows)]
    #[must_use]
    pub fn check() -> Option<Self> {
        // SAFETY: reading the level is allowed at any level.
        let level = unsafe { wdk_sys::ntddk::KeGetCurrentIrql() };
        // SAFETY: the level has just been read, and only this thread changes it.
        (level == 0).then(|| unsafe { Self::assume() })
    }

    /// Waits for at least `duration`, in units of 100 nanoseconds; other threads run meanwhile.
    #[cfg(windows)]
    pub fn sleep(self, duration: Duration) {
        let ticks = i64::try_from(duration.as_nanos() / 100).unwrap_or(i64::MAX);
        // A negative interval is relative to now (DDI page of KeDelayExecutionThread).
        let mut interval = wdk_sys::LARGE_INTEGER { QuadPart: -ticks };
        // SAFETY: the token says PASSIVE_LEVEL; the interval outlives the call. A kernel-mode,
        // non-alertable delay always ends by time, so the status says nothing.
        let _ = unsafe {
            wdk_sys::ntddk::KeDelayExecutionThread(KERNEL_MODE, NOT_ALERTABLE, &raw mut interval)
        };
    }

    /// Waits for at least `duration`; other threads run meanwhile.
    #[cfg(not(windows))]
    pub fn sleep(self, duration: Duration) {
        extern crate std;
        std::thread::sleep(duration);
    }
}

/// `KPROCESSOR_MODE` of waits that belong to the kernel.
#[cfg(windows)]
pub(crate) const KERNEL_MODE: i8 = 0;
/// A wait that asynchronous procedure calls do not end.
#[cfg(windows)]
const NOT_ALERTABLE: u8 = 0;

/// Proof that the code runs at IRQL <= `DISPATCH_LEVEL` outside of any classify: in a deferred
/// procedure call, a timer, a work item, or a thread of the driver's.
///
/// A classify is called with locks of the stack held, so that some functions may not be called in
/// one though its level would do.
#[derive(Clone, Copy, Debug)]
pub struct Dispatch {
    /// Neither `Send` nor `Sync`: it is about the running thread.
    _thread: PhantomData<*mut ()>,
}

impl Dispatch {
    /// The token of a callback that is no classify.
    ///
    /// # Safety
    /// The running code was not called by a classify function, and runs at IRQL <=
    /// `DISPATCH_LEVEL`: it was entered as a deferred procedure call, a timer or a work item.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self {
            _thread: PhantomData,
        }
    }
}

impl From<Passive> for Dispatch {
    /// Whoever may wait is in no classify.
    fn from(_passive: Passive) -> Self {
        Self {
            _thread: PhantomData,
        }
    }
}

/// How long a poll of something that ends soon sleeps between two looks.
pub(crate) const POLL: Duration = Duration::from_millis(1);

/// Waiting for something that has to happen, however long it takes.
#[derive(Debug, Default)]
pub struct Patience {
    attempts: u32,
}

impl Patience {
    /// After this many attempts something is wrong; attempts become rare, and go on all the same.
    const ATTEMPTS: u32 = 10_000;
    /// Between two attempts then.
    const RESIGNATION: Duration = Duration::from_millis(100);

    /// Nothing has been attempted yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { attempts: 0 }
    }

    /// Waits after an attempt.
    pub fn wait(&mut self, passive: Passive) {
        self.attempts = self.attempts.saturating_add(1);
        passive.sleep(if self.attempts < Self::ATTEMPTS {
            POLL
        } else {
            Self::RESIGNATION
        });
    }
}
