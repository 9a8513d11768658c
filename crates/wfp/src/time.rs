//! The time of day.

use wdk_sys::LARGE_INTEGER;

/// The system time in units of 100 nanoseconds since 1601-01-01 UTC.
#[must_use]
pub fn system_time() -> u64 {
    let mut now = LARGE_INTEGER::default();
    // SAFETY: may be called at any IRQL, and writes to `now` only.
    unsafe { wdk_sys::ntddk::KeQuerySystemTimePrecise(&raw mut now) };
    // SAFETY: the quad part is valid however the number was written.
    let now = unsafe { now.QuadPart };
    now.cast_unsigned()
}
