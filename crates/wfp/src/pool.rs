//! Memory from the kernel's pool: tagged, fallible, non-paged and never executable.
//!
//! Everything here may be called at IRQL <= `DISPATCH_LEVEL`. A subsystem has a
//! [`Tag`] of its own, so that a leak names its owner in `!poolused`.

use core::{
    fmt,
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
};

use wfp_schema::NtStatus;
use zerocopy::FromZeros;

/// A pool tag, shown by debuggers in the order of its letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// The tag with these four letters.
    #[must_use]
    pub const fn new(letters: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(letters))
    }

    /// The number that stands for the letters.
    #[cfg(windows)]
    pub(crate) const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({})", self.0.to_le_bytes().escape_ascii())
    }
}

/// The alignment of every pool allocation on 64-bit Windows (`MEMORY_ALLOCATION_ALIGNMENT`).
const ALIGNMENT: usize = 16;

/// A value in the pool.
pub struct PoolBox<T> {
    value: NonNull<T>,
    tag: Tag,
    _owns: PhantomData<T>,
}

// SAFETY: a box owns its value; sending it sends the value.
unsafe impl<T: Send> Send for PoolBox<T> {}
// SAFETY: a shared box gives out shared references to its value only.
unsafe impl<T: Sync> Sync for PoolBox<T> {}

impl<T> PoolBox<T> {
    /// Moves `value` into the pool.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; `value` is dropped then.
    pub fn try_new(tag: Tag, value: T) -> Result<Self, NtStatus> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= ALIGNMENT) };
        let place = backend::allocate(size_of::<T>(), tag)
            .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?
            .cast::<T>();
        // SAFETY: the allocation is new, as large as `T` and aligned for it.
        unsafe { place.write(value) };
        Ok(Self {
            value: place,
            tag,
            _owns: PhantomData,
        })
    }

    /// Makes a value for which there is memory already.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and `make` is not called; or why `make` failed.
    pub fn try_new_with(
        tag: Tag,
        make: impl FnOnce() -> Result<T, NtStatus>,
    ) -> Result<Self, NtStatus> {
        let place = PoolBox::try_new(tag, MaybeUninit::<T>::uninit())?;
        let value = make()?;
        let place =
            NonNull::new(place.into_raw().cast::<T>()).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        // SAFETY: the allocation is as large as `T`, aligned for it, and nobody else's.
        unsafe { place.write(value) };
        // SAFETY: it came from a box with this tag, and holds a value now.
        Ok(unsafe { Self::from_raw(place, tag) })
    }

    /// The value, moved out of the pool.
    #[must_use]
    pub fn into_inner(self) -> T {
        let given = ManuallyDrop::new(self);
        // SAFETY: the value is initialized, and not used in its place any more.
        let value = unsafe { given.value.read() };
        // SAFETY: as in `drop`, without the value.
        unsafe { backend::free(given.value.cast(), size_of::<T>(), given.tag) };
        value
    }

    /// Gives the value up to a raw pointer; [`PoolBox::from_raw`] takes it back.
    #[must_use]
    pub(crate) fn into_raw(self) -> *mut T {
        ManuallyDrop::new(self).value.as_ptr()
    }

    /// Takes back what [`PoolBox::into_raw`] gave up.
    ///
    /// # Safety
    /// `raw` came from `into_raw` of a box with this tag, and nobody uses it otherwise.
    pub(crate) const unsafe fn from_raw(raw: NonNull<T>, tag: Tag) -> Self {
        Self {
            value: raw,
            tag,
            _owns: PhantomData,
        }
    }
}

impl<T> Deref for PoolBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the box owns an initialized value.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for PoolBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the box owns an initialized value and is borrowed exclusively.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for PoolBox<T> {
    fn drop(&mut self) {
        // SAFETY: the value is initialized and never used again.
        unsafe { self.value.drop_in_place() };
        // SAFETY: `try_new` allocated this with this size and tag.
        unsafe { backend::free(self.value.cast(), size_of::<T>(), self.tag) };
    }
}

impl<T: fmt::Debug> fmt::Debug for PoolBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

/// Bytes in the pool that somebody else may come to own.
#[cfg_attr(not(windows), allow(dead_code))]
pub(crate) struct PoolBytes {
    start: NonNull<u8>,
    size: usize,
    tag: Tag,
}

// SAFETY: the bytes are owned, and nobody else reaches them.
unsafe impl Send for PoolBytes {}

#[cfg_attr(not(windows), allow(dead_code))]
impl PoolBytes {
    /// A copy of `bytes`; empty ones are refused.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, `STATUS_INVALID_PARAMETER`.
    pub(crate) fn try_copy_of(tag: Tag, bytes: &[u8]) -> Result<Self, NtStatus> {
        if bytes.is_empty() {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let start = backend::allocate(bytes.len(), tag).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        // SAFETY: the new allocation is as long and overlaps nothing.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), bytes.len()) };
        Ok(Self {
            start,
            size: bytes.len(),
            tag,
        })
    }

    /// Gives the bytes up: whoever takes them frees them.
    #[must_use]
    pub(crate) fn into_raw(self) -> (NonNull<u8>, usize) {
        let given = ManuallyDrop::new(self);
        (given.start, given.size)
    }
}

impl Drop for PoolBytes {
    fn drop(&mut self) {
        // SAFETY: `try_copy_of` allocated this with this size and tag.
        unsafe { backend::free(self.start, self.size, self.tag) };
    }
}

impl fmt::Debug for PoolBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolBytes({})", self.size)
    }
}

/// A vector in the pool whose capacity is chosen once.
pub struct PoolVec<T> {
    /// Dangling when the capacity is zero.
    start: NonNull<T>,
    length: usize,
    capacity: usize,
    tag: Tag,
    _owns: PhantomData<T>,
}

// SAFETY: the vector owns its elements; sending it sends them.
unsafe impl<T: Send> Send for PoolVec<T> {}
// SAFETY: a shared vector gives out shared references to its elements only.
unsafe impl<T: Sync> Sync for PoolVec<T> {}

impl<T> PoolVec<T> {
    /// An empty vector with room for `capacity` elements.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_with_capacity(tag: Tag, capacity: usize) -> Result<Self, NtStatus> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= ALIGNMENT) };
        let start = if capacity == 0 {
            NonNull::dangling()
        } else {
            let size = capacity
                .checked_mul(size_of::<T>())
                .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
            backend::allocate(size, tag)
                .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?
                .cast()
        };
        Ok(Self {
            start,
            length: 0,
            capacity,
            tag,
            _owns: PhantomData,
        })
    }

    /// A full vector whose elements are made first to last, each from its index.
    ///
    /// A function of its own: an element that is large is on the stack once, and only while the vector is made.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    #[inline(never)]
    pub fn try_from_fn(
        tag: Tag,
        length: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<Self, NtStatus> {
        let mut vector = Self::try_with_capacity(tag, length)?;
        for index in 0..length {
            // SAFETY: `index` is less than the capacity, so the place is within the allocation.
            let place = unsafe { vector.start.add(index) };
            // SAFETY: the place is allocated, aligned, and holds no value yet.
            unsafe { place.write(make(index)) };
            vector.length = index + 1;
        }
        Ok(vector)
    }

    /// Appends `value`.
    ///
    /// # Errors
    /// Gives `value` back when the vector is full.
    pub const fn push(&mut self, value: T) -> Result<(), T> {
        if self.length == self.capacity {
            return Err(value);
        }
        // SAFETY: `length` is less than the capacity, so the place is within the allocation.
        let place = unsafe { self.start.add(self.length) };
        // SAFETY: the place is allocated, aligned, and holds no value yet.
        unsafe { place.write(value) };
        self.length += 1;
        Ok(())
    }
}

impl<T: FromZeros> PoolVec<T> {
    /// A full vector whose elements are zeros: the pool's own, so that nothing is written.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_zeroed(tag: Tag, length: usize) -> Result<Self, NtStatus> {
        let mut vector = Self::try_with_capacity(tag, length)?;
        // `ExAllocatePool2` gives zeros, and zeros are a value of such a type.
        vector.length = length;
        Ok(vector)
    }
}

impl<T: Copy> PoolVec<T> {
    /// A full vector with a copy of `source`.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_copy_of(tag: Tag, source: &[T]) -> Result<Self, NtStatus> {
        let mut vector = Self::try_with_capacity(tag, source.len())?;
        // SAFETY: the new allocation has room for all of `source` and overlaps nothing.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), vector.start.as_ptr(), source.len()) };
        vector.length = source.len();
        Ok(vector)
    }
}

impl<T> Deref for PoolVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the first `length` elements are initialized and owned by the vector.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T> DerefMut for PoolVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the vector is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl<T> AsRef<[T]> for PoolVec<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T> AsMut<[T]> for PoolVec<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T> Drop for PoolVec<T> {
    fn drop(&mut self) {
        let elements = ptr::from_mut::<[T]>(self);
        // SAFETY: the elements are initialized and never used again.
        unsafe { elements.drop_in_place() };
        if self.capacity > 0 {
            let size = self.capacity * size_of::<T>();
            // SAFETY: `try_with_capacity` allocated this with this size and tag.
            unsafe { backend::free(self.start.cast(), size, self.tag) };
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for PoolVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        <[T]>::fmt(self, f)
    }
}

/// The kernel's pool.
#[cfg(windows)]
mod backend {
    use core::ptr::NonNull;

    use super::Tag;

    /// `POOL_FLAG_NON_PAGED`: not executable. `ExAllocatePool2` zeroes what it gives.
    const POOL_FLAG_NON_PAGED: u64 = 0x40;

    pub(super) fn allocate(size: usize, tag: Tag) -> Option<NonNull<u8>> {
        let size = u64::try_from(size).ok()?;
        // SAFETY: `ExAllocatePool2` may be called at IRQL <= `DISPATCH_LEVEL` with any size and tag.
        let memory = unsafe { wdk_sys::ntddk::ExAllocatePool2(POOL_FLAG_NON_PAGED, size, tag.0) };
        NonNull::new(memory.cast())
    }

    /// # Safety
    /// `memory` came from `allocate` with the same tag and is not used again.
    pub(super) unsafe fn free(memory: NonNull<u8>, _size: usize, tag: Tag) {
        // SAFETY: forwarded from the caller.
        unsafe { wdk_sys::ntddk::ExFreePoolWithTag(memory.as_ptr().cast(), tag.0) };
    }
}

/// The program's heap, so that host tests and Miri can check what stands above.
#[cfg(not(windows))]
mod backend {
    extern crate std;

    use core::{alloc::Layout, ptr::NonNull};

    use super::{ALIGNMENT, Tag};

    pub(super) fn allocate(size: usize, _tag: Tag) -> Option<NonNull<u8>> {
        let layout = Layout::from_size_align(size, ALIGNMENT).ok()?;
        // SAFETY: no caller asks for zero bytes.
        NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
    }

    /// # Safety
    /// `memory` came from `allocate` with the same size and is not used again.
    pub(super) unsafe fn free(memory: NonNull<u8>, size: usize, _tag: Tag) {
        // SAFETY: `allocate` accepted the same size and alignment.
        let layout = unsafe { Layout::from_size_align_unchecked(size, ALIGNMENT) };
        // SAFETY: forwarded from the caller.
        unsafe { std::alloc::dealloc(memory.as_ptr(), layout) };
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::rc::Rc;

    use super::{PoolBox, PoolVec, Tag};

    const TAG: Tag = Tag::new(*b"Test");

    #[test]
    fn a_box_drops_its_value_once() {
        let witness = Rc::new(());
        let boxed = PoolBox::try_new(TAG, Rc::clone(&witness)).unwrap();
        assert_eq!(Rc::strong_count(&boxed), 2);
        drop(boxed);
        assert_eq!(Rc::strong_count(&witness), 1);
    }

    #[test]
    fn a_full_vector_gives_the_value_back() {
        let mut vector = PoolVec::try_with_capacity(TAG, 2).unwrap();
        assert_eq!(vector.push(1), Ok(()));
        assert_eq!(vector.push(2), Ok(()));
        assert_eq!(vector.push(3), Err(3));
        assert_eq!(*vector, [1, 2]);
    }

    #[test]
    fn a_vector_drops_each_element_once_even_when_it_is_not_full() {
        let witness = Rc::new(());
        let mut vector = PoolVec::try_with_capacity(TAG, 8).unwrap();
        vector.push(Rc::clone(&witness)).unwrap();
        vector.push(Rc::clone(&witness)).unwrap();
        drop(vector);
        assert_eq!(Rc::strong_count(&witness), 1);
    }

    #[test]
    fn a_zeroed_vector_is_full() {
        assert_eq!(*PoolVec::<u16>::try_zeroed(TAG, 3).unwrap(), [0; 3]);
    }

    #[test]
    fn a_copy_equals_its_source_and_an_empty_one_needs_no_memory() {
        assert_eq!(*PoolVec::try_copy_of(TAG, b"policy").unwrap(), *b"policy");
        assert_eq!(*PoolVec::<u8>::try_copy_of(TAG, b"").unwrap(), *b"");
    }
}
