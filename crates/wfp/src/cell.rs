//! A place for what is made later than its owner.

use core::{
    fmt,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering},
};

use wfp_schema::NtStatus;

use crate::{
    irql::Passive,
    pool::{PoolBox, Tag},
};

/// A place for a value that is made later: in a `static`, for what lives from a driver's start to its stop, or in
/// something that grows, with which it is dropped.
///
/// The protocol: [`try_set`](Self::try_set) once, at start or later, by one thread at a time;
/// [`get`](Self::get) from callbacks at any time; [`take`](Self::take) at stop, after the
/// last callback is gone.
pub struct KernelCell<T> {
    value: AtomicPtr<T>,
    tag: Tag,
}

// SAFETY: callbacks share the value (`Sync`); start and stop may be different threads (`Send`).
unsafe impl<T: Send + Sync> Sync for KernelCell<T> {}

impl<T> KernelCell<T> {
    /// An empty cell whose value's memory will have this tag.
    #[must_use]
    pub const fn new(tag: Tag) -> Self {
        Self {
            value: AtomicPtr::new(ptr::null_mut()),
            tag,
        }
    }

    /// Moves `value` to the pool and publishes it.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; `STATUS_OBJECT_NAME_COLLISION` if the cell holds a value,
    /// which stays. `value` is dropped in both cases.
    pub fn try_set(&self, value: T, _passive: Passive) -> Result<&T, NtStatus> {
        let new = PoolBox::try_new(self.tag, value)?.into_raw();
        if self
            .value
            .compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // SAFETY: `new` came from `into_raw` just now with this tag, and was not published.
            drop(NonNull::new(new).map(|new| unsafe { PoolBox::from_raw(new, self.tag) }));
            return Err(NtStatus::OBJECT_NAME_COLLISION);
        }
        self.get().ok_or(NtStatus::UNSUCCESSFUL)
    }

    /// Makes a value in the pool and publishes it. There is memory for it when `make` is called, so what it makes is not
    /// dropped for want of any.
    ///
    /// # Errors
    /// As [`try_set`](Self::try_set), and `make` is not called; or why `make` failed.
    pub fn try_set_with(
        &self,
        make: impl FnOnce() -> Result<T, NtStatus>,
        _passive: Passive,
    ) -> Result<&T, NtStatus> {
        if self.get().is_some() {
            return Err(NtStatus::OBJECT_NAME_COLLISION);
        }
        let new = PoolBox::try_new_with(self.tag, make)?.into_raw();
        // One thread sets it at a time: nobody has in between.
        self.value.store(new, Ordering::Release);
        self.get().ok_or(NtStatus::UNSUCCESSFUL)
    }

    /// The value, if it has been set and not yet taken.
    pub fn get(&self) -> Option<&T> {
        let value = NonNull::new(self.value.load(Ordering::Acquire))?;
        // SAFETY: the pointer came from a box; `take`'s caller vouches that no reference is left.
        Some(unsafe { value.as_ref() })
    }

    /// Takes the value out.
    ///
    /// # Safety
    /// No reference from [`get`](Self::get) or [`try_set`](Self::try_set) is in use any more.
    pub unsafe fn take(&self, _passive: Passive) -> Option<PoolBox<T>> {
        let old = NonNull::new(self.value.swap(ptr::null_mut(), Ordering::AcqRel))?;
        // SAFETY: the pointer came from `into_raw` of a box with this tag; the caller vouches
        // that nobody uses it.
        Some(unsafe { PoolBox::from_raw(old, self.tag) })
    }
}

impl<T> Drop for KernelCell<T> {
    fn drop(&mut self) {
        let value = NonNull::new(*self.value.get_mut());
        // SAFETY: the pointer came from `into_raw` of a box with this tag, and the cell is borrowed exclusively.
        drop(value.map(|value| unsafe { PoolBox::from_raw(value, self.tag) }));
    }
}

impl<T> fmt::Debug for KernelCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelCell")
            .field("set", &self.get().is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::KernelCell;
    use crate::{irql::Passive, pool::Tag};

    #[test]
    fn a_cell_is_set_once_until_it_is_taken() {
        // SAFETY: a program's threads have no IRQL to violate.
        let passive = unsafe { Passive::assume() };
        let cell = KernelCell::new(Tag::new(*b"Test"));
        assert!(cell.get().is_none());
        assert_eq!(cell.try_set(1, passive), Ok(&1));
        assert!(cell.try_set(2, passive).is_err());
        assert_eq!(cell.get(), Some(&1));
        // SAFETY: no reference is left.
        let taken = unsafe { cell.take(passive) };
        assert_eq!(*taken.unwrap(), 1);
        assert_eq!(cell.try_set(3, passive), Ok(&3));
        // SAFETY: no reference is left.
        drop(unsafe { cell.take(passive) });
    }

    #[test]
    fn a_cell_drops_its_value_with_itself() {
        // SAFETY: a program's threads have no IRQL to violate.
        let passive = unsafe { Passive::assume() };
        let witness = std::sync::Arc::new(());
        let cell = KernelCell::new(Tag::new(*b"Test"));
        cell.try_set(std::sync::Arc::clone(&witness), passive)
            .unwrap();
        assert_eq!(std::sync::Arc::strong_count(&witness), 2);
        drop(cell);
        assert_eq!(std::sync::Arc::strong_count(&witness), 1);
    }
}
