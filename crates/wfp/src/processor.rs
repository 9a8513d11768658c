//! Which processor runs, and how many there can be.

/// How many processors the system may ever have, in all groups; at least 1.
#[cfg(windows)]
pub(crate) fn maximum_count() -> usize {
    /// `ALL_PROCESSOR_GROUPS`.
    const ALL_GROUPS: u16 = 0xFFFF;
    // SAFETY: may be called at any IRQL with any group number.
    let count = unsafe { wdk_sys::ntddk::KeQueryMaximumProcessorCountEx(ALL_GROUPS) };
    (count as usize).max(1)
}

/// The system-wide index of the running processor, less than [`maximum_count`].
///
/// Below `DISPATCH_LEVEL` the thread may move to another processor at any time.
#[cfg(windows)]
pub(crate) fn current() -> usize {
    // SAFETY: may be called at any IRQL; the group-relative number is optional.
    let index = unsafe { wdk_sys::ntddk::KeGetCurrentProcessorNumberEx(core::ptr::null_mut()) };
    index as usize
}

/// As many as host tests need to have readers in different slots.
#[cfg(not(windows))]
pub(crate) const fn maximum_count() -> usize {
    4
}

/// A number per thread.
#[cfg(not(windows))]
pub(crate) fn current() -> usize {
    extern crate std;

    use core::sync::atomic::{AtomicUsize, Ordering};

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::thread_local! {
        static INDEX: usize = NEXT.fetch_add(1, Ordering::Relaxed) % 4;
    }
    INDEX.with(|index| *index)
}
