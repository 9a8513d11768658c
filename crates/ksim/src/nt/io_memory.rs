//! Memory that the I/O manager and the framework lend to a driver.
//!
//! A [`Guarded`] block ends at a page that nobody may touch, so that a driver that runs over its end faults at
//! the very access. The few bytes between the block's end and the guard page (its end is 16-byte aligned) hold a
//! pattern that [`Guarded::intact`] checks.

use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize};

const PAGE: usize = 4096;
const ALIGN: usize = 16;
/// Fills the bytes between a block's end and its guard page.
const PATTERN: u8 = 0xa5;

/// A zeroed block of memory with a guard page behind it, freed when dropped.
#[derive(Debug)]
pub(crate) struct Guarded {
    base: *mut u8,
    mapped: usize,
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping is owned by this value alone and can be used and unmapped from any thread.
unsafe impl Send for Guarded {}
// SAFETY: shared references only copy bytes in and out; the simulated driver races with them as it would with a
// real kernel, and no Rust reference into the block is ever made.
unsafe impl Sync for Guarded {}

impl Guarded {
    /// Maps a zeroed block of `len` bytes (at least one byte is mapped).
    ///
    /// # Panics
    /// When the host has no memory left.
    pub(crate) fn new(len: usize) -> Self {
        let padded = len.max(1).next_multiple_of(ALIGN);
        let body = padded.next_multiple_of(PAGE);
        let mapped = body + PAGE;
        // SAFETY: a fresh anonymous mapping has no preconditions.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(
            base,
            libc::MAP_FAILED,
            "no memory for a block of {len} bytes"
        );
        let base: *mut u8 = base.cast();
        // SAFETY: `body` lies within the mapping just made.
        let guard = unsafe { base.add(body) };
        // SAFETY: the last page of our own mapping, which nothing uses.
        let protected = unsafe { libc::mprotect(guard.cast(), PAGE, libc::PROT_NONE) };
        assert_eq!(protected, 0, "the guard page");
        // SAFETY: `body - padded` is at most `body`.
        let start = unsafe { base.add(body - padded) };
        // SAFETY: `len <= padded`, so this is within the block or one past it.
        let slack = unsafe { start.add(len) };
        // SAFETY: the slack's bytes are mapped, writable and nobody else's.
        unsafe { slack.write_bytes(PATTERN, padded - len) };
        Self {
            base,
            mapped,
            start,
            len,
        }
    }

    /// A block that holds `bytes`.
    pub(crate) fn holding(bytes: &[u8]) -> Self {
        let block = Self::new(bytes.len());
        block.write(0, bytes);
        block
    }

    /// Where it is.
    pub(crate) fn address(&self) -> usize {
        self.start as usize
    }

    /// Its length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(
            offset <= self.len && bytes.len() <= self.len - offset,
            "a write within the block"
        );
        // SAFETY: the range lies within the block, as just checked.
        let to = unsafe { self.start.add(offset) };
        // SAFETY: as above; the source is a live slice of other memory.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies `len` bytes from `offset`.
    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "a read within the block"
        );
        let mut bytes = vec![0; len];
        // SAFETY: the range lies within the block, as just checked.
        let from = unsafe { self.start.add(offset) };
        // SAFETY: as above; the destination was just made with this length.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
        bytes
    }

    /// Writes a plain value at `offset`.
    pub(crate) fn put<const N: usize>(&self, offset: usize, value: [u8; N]) {
        self.write(offset, &value);
    }

    /// The naturally aligned number at `offset`, which the driver may be changing.
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: aligned and within the block, as `slot` checks; every access of ours through it is atomic.
        unsafe { AtomicU32::from_ptr(self.slot(offset)) }
    }

    /// The naturally aligned word at `offset`, which the driver may be changing.
    pub(crate) fn atomic_usize(&self, offset: usize) -> &AtomicUsize {
        // SAFETY: aligned and within the block, as `slot` checks; every access of ours through it is atomic.
        unsafe { AtomicUsize::from_ptr(self.slot(offset)) }
    }

    fn slot<T>(&self, offset: usize) -> *mut T {
        assert!(
            offset <= self.len && size_of::<T>() <= self.len - offset,
            "a slot within the block"
        );
        let slot = self.start.wrapping_add(offset).cast::<T>();
        assert!(slot.is_aligned(), "a slot at a multiple of its size");
        slot
    }

    /// From now on nobody may touch the block, not even to read it. Its address stays taken.
    pub(crate) fn revoke(&self) {
        // SAFETY: our own mapping; whoever touches it from now on traps, which is what is wanted.
        unsafe { libc::mprotect(self.base.cast(), self.mapped, libc::PROT_NONE) };
    }

    /// Whether the bytes right behind the block are untouched.
    pub(crate) fn intact(&self) -> bool {
        let padded = self.len.max(1).next_multiple_of(ALIGN);
        (self.len..padded).all(|offset| {
            // SAFETY: `offset < padded`, which is mapped.
            let at = unsafe { self.start.add(offset) };
            // SAFETY: as above; a byte has no alignment or validity to break.
            let byte = unsafe { at.read_volatile() };
            byte == PATTERN
        })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this base and size, and nobody keeps an address of a dropped block.
        unsafe { libc::munmap(self.base.cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::Guarded;

    #[test]
    fn a_block_is_zeroed_and_keeps_what_is_written() {
        let block = Guarded::new(100);
        assert_eq!(block.read(0, 100), vec![0; 100]);
        block.write(97, b"abc");
        assert_eq!(block.read(97, 3), b"abc");
        assert!(block.intact());
    }

    #[test]
    fn a_byte_behind_the_end_is_noticed() {
        let block = Guarded::new(1);
        // SAFETY: one byte behind a block of one byte is still mapped: its end is 16-byte aligned.
        let behind = unsafe { (block.address() as *mut u8).add(1) };
        // SAFETY: as above.
        unsafe { behind.write(0) };
        assert!(!block.intact());
    }
}
