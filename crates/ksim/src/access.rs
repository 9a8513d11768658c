//! Memory that a driver names by address.
//!
//! An [`In`] or [`Out`] is an allegation: the driver says that a value lies, or may be put, there. NULL is told
//! apart; any other bad address traps where it is used and stops the simulated machine, as it would stop Windows.
//! The addresses come into being as arguments of a driver's calls and as members of structures read through
//! them, so nothing of ours is ever borrowed behind them. Use them with no lock held: the access may trap.

use std::fmt;
use std::ptr;

/// Data for which every bit pattern is a value and which may be copied byte by byte.
///
/// # Safety
/// That must be true of the type, and of each of its members.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($ty:ty),* $(,)?) => { $(
        // SAFETY: an integer or address, or a `repr(C)` structure of nothing else.
        unsafe impl $crate::access::Plain for $ty {}
    )* };
}
pub(crate) use plain;

plain!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

// SAFETY: an address.
unsafe impl<T> Plain for *mut T {}
// SAFETY: an address.
unsafe impl<T> Plain for In<T> {}
// SAFETY: an address.
unsafe impl<T> Plain for Out<T> {}
// SAFETY: an array of such data.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Where a driver says that a `T` can be read. May be NULL.
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

/// Where a driver says that a `T` may be read and written. May be NULL.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}
impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

// SAFETY: an address is a number; what lies there is the driver's, on whichever processor.
unsafe impl<T> Send for In<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Out<T> {}
// SAFETY: as above; both are copied, never borrowed.
unsafe impl<T> Sync for In<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Out<T> {}

impl<T> PartialEq for Out<T> {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}
impl<T> Eq for Out<T> {}

impl<T> fmt::Debug for In<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

impl<T> fmt::Debug for Out<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

impl<T> In<T> {
    /// An address of a test's, as a driver would name it.
    ///
    /// # Safety
    /// `address` is NULL or stays readable, and is not written by us meanwhile, as long as the result is used.
    #[cfg(test)]
    pub(crate) const unsafe fn new(address: *const T) -> Self {
        Self(address)
    }

    /// What lies `bytes` further.
    pub(crate) const fn skip(self, bytes: usize) -> Self {
        Self(self.0.wrapping_byte_add(bytes))
    }

    /// The address that a structure of the driver's holds as a number, such as in a union.
    pub(crate) fn member(address: u64) -> Self {
        Self(ptr::with_exposed_provenance(
            usize::try_from(address).unwrap_or(0),
        ))
    }

    /// No address.
    pub(crate) const fn null() -> Self {
        Self(ptr::null())
    }

    pub(crate) const fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The address as a number.
    pub(crate) fn address(self) -> usize {
        self.0 as usize
    }
}

impl<T: Plain> In<T> {
    /// What lies there; `None` for NULL.
    pub(crate) const fn get(self) -> Option<T> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: not NULL, alleged by the driver to be readable (a trap otherwise), and any bytes are a `T`.
        Some(unsafe { self.0.read_unaligned() })
    }

    /// The `index`-th element of the array that begins here; `None` for NULL.
    pub(crate) fn at(self, index: usize) -> Option<T> {
        Self(self.0.wrapping_add(usize::from(!self.0.is_null()) * index)).get()
    }
}

impl In<u8> {
    /// Copies the `into.len()` bytes that lie there; the address must not be NULL unless there are none.
    pub(crate) fn copy_to(self, into: &mut [u8]) {
        debug_assert!(
            !self.0.is_null() || into.is_empty(),
            "callers tell NULL apart"
        );
        if !into.is_empty() {
            // SAFETY: the driver's memory (a trap otherwise) does not overlap ours, which has this length.
            unsafe { ptr::copy_nonoverlapping(self.0, into.as_mut_ptr(), into.len()) };
        }
    }
}

impl<T> Out<T> {
    /// An address of ours, as a driver would name it.
    ///
    /// # Safety
    /// `address` is NULL or stays valid for reads and writes, unborrowed, as long as the result is used.
    pub(crate) const unsafe fn new(address: *mut T) -> Self {
        Self(address)
    }

    /// No address.
    pub(crate) const fn null() -> Self {
        Self(ptr::null_mut())
    }

    pub(crate) const fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The address as a number.
    pub(crate) fn address(self) -> usize {
        self.0 as usize
    }

    /// The same place, for reading.
    pub(crate) const fn as_in(self) -> In<T> {
        In(self.0)
    }

    /// The place `offset` bytes behind this one, where a `U` lies.
    pub(crate) const fn offset<U>(self, offset: usize) -> Out<U> {
        Out(self.0.wrapping_byte_add(offset).cast())
    }
}

impl<T: Plain> Out<T> {
    /// What lies there; `None` for NULL.
    pub(crate) const fn get(self) -> Option<T> {
        self.as_in().get()
    }

    /// Puts `value` there; does nothing and says `false` for NULL.
    pub(crate) const fn set(self, value: T) -> bool {
        if self.0.is_null() {
            return false;
        }
        // SAFETY: not NULL, and alleged by the driver to be writable (a trap otherwise).
        unsafe { self.0.write_unaligned(value) };
        true
    }
}

impl Out<u8> {
    /// Writes `bytes` there; the address must not be NULL unless there are none.
    pub(crate) fn copy_from(self, bytes: &[u8]) {
        debug_assert!(
            !self.0.is_null() || bytes.is_empty(),
            "callers tell NULL apart"
        );
        if !bytes.is_empty() {
            // SAFETY: the driver's memory (a trap otherwise) does not overlap ours, which has this length.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.0, bytes.len()) };
        }
    }
}

/// The longest string that is read from a driver, in UTF-16 units.
const LONGEST_STRING: usize = 0x8000;

impl In<u16> {
    /// The NUL-terminated UTF-16 string that begins there; `None` for NULL.
    pub(crate) fn string(self) -> Option<String> {
        let mut units = Vec::new();
        while units.len() < LONGEST_STRING {
            match self.at(units.len())? {
                0 => break,
                unit => units.push(unit),
            }
        }
        Some(String::from_utf16_lossy(&units))
    }
}

/// A value on the heap that a driver reads and writes through its address.
#[derive(Debug)]
pub(crate) struct Shared<T: Plain>(ptr::NonNull<T>);

// SAFETY: owned memory that is only copied in and out, never borrowed.
unsafe impl<T: Plain> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Shared<T> {}

impl<T: Plain> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ptr::NonNull::from(Box::leak(Box::new(value))))
    }

    /// Its address, as the driver gets it.
    pub(crate) const fn out(&self) -> Out<T> {
        Out(self.0.as_ptr())
    }

    pub(crate) const fn get(&self) -> T {
        // SAFETY: owned, aligned and initialized; the driver's concurrent writes are its own bug.
        unsafe { self.0.read() }
    }

    pub(crate) const fn set(&self, value: T) {
        // SAFETY: owned and aligned.
        unsafe { self.0.write(value) };
    }
}

impl<T: Plain> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: owned; a stale use by the driver then finds addresses that trap.
        unsafe { ptr::write_bytes(self.0.as_ptr(), POISON, 1) };
        // SAFETY: made by `Box` in `new` and not freed before.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// An address that is kept in a register or a field of 64 bits.
#[allow(
    clippy::cast_possible_truncation,
    reason = "this crate is for 64-bit hosts only"
)]
pub(crate) const fn address(word: u64) -> usize {
    word as usize
}

/// What freed memory is filled with: as an address it is not canonical and traps.
pub(crate) const POISON: u8 = 0xdd;
