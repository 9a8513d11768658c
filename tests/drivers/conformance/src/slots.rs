//! Tables of what the test names by number.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use wfp::NtStatus;

/// Handles by slot.
pub(crate) struct Handles<const N: usize>([AtomicPtr<c_void>; N]);

impl<const N: usize> Handles<N> {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicPtr::new(ptr::null_mut()) }; N])
    }

    /// Where slot `at` keeps its handle.
    fn place(&self, at: u32) -> Option<&AtomicPtr<c_void>> {
        self.0.get(usize::try_from(at).ok()?)
    }

    /// The handle in a slot; NULL if there is none.
    pub(crate) fn get(&self, at: u32) -> *mut c_void {
        self.place(at)
            .map_or(ptr::null_mut(), |place| place.load(Ordering::Acquire))
    }

    /// Keeps a handle.
    pub(crate) fn set(&self, at: u32, handle: *mut c_void) {
        if let Some(place) = self.place(at) {
            place.store(handle, Ordering::Release);
        }
    }

    /// Takes the handle out of a slot; NULL if there is none.
    pub(crate) fn take(&self, at: u32) -> *mut c_void {
        self.place(at).map_or(ptr::null_mut(), |place| {
            place.swap(ptr::null_mut(), Ordering::AcqRel)
        })
    }

    /// Takes every handle.
    pub(crate) fn drain(&self) -> impl Iterator<Item = *mut c_void> {
        self.0
            .iter()
            .map(|place| place.swap(ptr::null_mut(), Ordering::AcqRel))
            .filter(|handle| !handle.is_null())
    }
}

/// Numbers by slot; 0 is none.
pub(crate) struct Numbers<const N: usize>([AtomicU64; N]);

impl<const N: usize> Numbers<N> {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }

    /// Keeps a number in a free slot.
    pub(crate) fn keep(&self, number: u64) {
        let (free, taken) = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = self
            .0
            .iter()
            .find(|place| place.compare_exchange(0, number, free, taken).is_ok());
    }

    /// Keeps a number.
    pub(crate) fn set(&self, at: u32, number: u64) {
        if let Some(place) = usize::try_from(at).ok().and_then(|at| self.0.get(at)) {
            place.store(number, Ordering::Release);
        }
    }

    /// Takes the number out of a slot.
    pub(crate) fn take(&self, at: u32) -> u64 {
        let place = usize::try_from(at).ok().and_then(|at| self.0.get(at));
        place.map_or(0, |place| place.swap(0, Ordering::AcqRel))
    }

    /// The slot of a number.
    pub(crate) fn find(&self, number: u64) -> Option<usize> {
        self.0
            .iter()
            .position(|place| place.load(Ordering::Acquire) == number)
    }

    /// Takes every number.
    pub(crate) fn drain(&self) -> impl Iterator<Item = u64> {
        self.0
            .iter()
            .map(|place| place.swap(0, Ordering::AcqRel))
            .filter(|number| *number != 0)
    }
}

/// A status as replies and records have it.
pub(crate) const fn bits(status: i32) -> u32 {
    NtStatus::from_i32(status).code()
}
