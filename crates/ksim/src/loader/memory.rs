//! Address space: reserved, filled and protected a page at a time.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr;

/// A page of x64 memory, in bytes.
pub(crate) const PAGE: usize = 0x1000;

/// What may be done with a page. There is no writable and executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    None,
    Read,
    ReadWrite,
    ReadExecute,
}

impl Protection {
    const fn bits(self) -> libc::c_int {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Self::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        }
    }
}

/// A range of address space that belongs to us; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Region {
    start: *mut u8,
    size: usize,
}

// SAFETY: an address range; what lies there is accessed through raw pointers only.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size, and nothing of ours is borrowed there.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}

const ANONYMOUS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

impl Region {
    /// Reserves `size` bytes, rounded up to pages, that nobody can access yet.
    pub(crate) fn reserve(size: usize) -> io::Result<Self> {
        let size = size.next_multiple_of(PAGE);
        // SAFETY: a fresh anonymous mapping has no preconditions.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, ANONYMOUS, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            size,
        })
    }

    /// The first `size` bytes of `file`, shared with whoever else maps it.
    fn of_file(file: &OwnedFd, size: usize, protection: Protection) -> io::Result<Self> {
        // SAFETY: a fresh mapping has no preconditions.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                protection.bits(),
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            size,
        })
    }

    pub(crate) fn start(&self) -> usize {
        self.start as usize
    }

    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// The address `offset` bytes into the range, of which `length` bytes are in the range.
    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(
            offset
                .checked_add(length)
                .is_some_and(|end| end <= self.size),
            "inside the region"
        );
        // SAFETY: inside the mapping, as just asserted.
        unsafe { self.start.add(offset) }
    }

    /// Protects the pages of `offset..offset + length`; `offset` is a page's.
    pub(crate) fn protect(
        &self,
        offset: usize,
        length: usize,
        protection: Protection,
    ) -> io::Result<()> {
        let at = self.at(offset, length);
        // SAFETY: our own mapping; whoever uses memory there must reckon with its protection.
        let result = unsafe { libc::mprotect(at.cast(), length, protection.bits()) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The pages of `offset..offset + length` will all be used: the host may take large ones.
    pub(crate) fn expect_use(&self, offset: usize, length: usize) {
        let at = self.at(offset, length);
        // SAFETY: our own mapping; this is advice, which changes nothing but the time that it takes to touch it.
        unsafe { libc::madvise(at.cast(), length, libc::MADV_HUGEPAGE) };
    }

    /// Gives the pages of `offset..offset + length` back to the host and makes them inaccessible.
    pub(crate) fn discard(&self, offset: usize, length: usize) -> io::Result<()> {
        let at = self.at(offset, length);
        // SAFETY: replaces a part of our own mapping.
        let mapped = unsafe {
            libc::mmap(
                at.cast(),
                length,
                libc::PROT_NONE,
                ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Copies `bytes` to `offset`, where the pages are writable.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let at = self.at(offset, bytes.len());
        // SAFETY: inside our own mapping, which no reference points into.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }
}

/// Memory that is there twice: where it is written, and where it runs. No page of either is both writable and executable.
#[derive(Debug)]
pub(crate) struct Twin {
    writable: Region,
    executable: Region,
}

impl Twin {
    /// `size` bytes of zeros, rounded up to pages.
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        let size = size.next_multiple_of(PAGE);
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"code".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let length = libc::off_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: our own file.
        if unsafe { libc::ftruncate(file.as_raw_fd(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            writable: Region::of_file(&file, size, Protection::ReadWrite)?,
            executable: Region::of_file(&file, size, Protection::ReadExecute)?,
        })
    }

    pub(crate) const fn size(&self) -> usize {
        self.executable.size
    }

    /// Copies `bytes` to `offset`, where nothing runs yet; the address at which they run. What else is there may run
    /// meanwhile.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) -> usize {
        self.writable.write(offset, bytes);
        self.executable.start() + offset
    }
}

/// Copies the memory at `address` to `into`, as far as it is readable; returns how many bytes are.
///
/// For memory of which nothing is known, such as a faulting driver's stack.
pub(crate) fn probe(address: usize, into: &mut [u8]) -> usize {
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: into.len(),
    };
    // SAFETY: getpid has no preconditions.
    let own = unsafe { libc::getpid() };
    // SAFETY: the host checks the remote range, and the local one is `into`.
    let read = unsafe { libc::process_vm_readv(own, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).unwrap_or(0)
}
