//! Breakpoints in a mapped image, and what happens when one is hit.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use pe_image::Image;

use super::Files;

const INT3: u8 = 0xcc;

/// An image whose instructions have breakpoints.
///
/// The trap handler looks at these without a lock, so they are never freed; there is one for each time that an image
/// is loaded while coverage is measured.
#[derive(Debug)]
struct Node {
    base: usize,
    /// The byte that was replaced at each address, where one was.
    replaced: Vec<Option<u8>>,
    hits: &'static [AtomicU8],
    /// Whether the image is still mapped.
    alive: AtomicBool,
    next: *const Self,
}

// SAFETY: `next` is null or a node that is never freed or changed; the rest may be shared.
unsafe impl Send for Node {}
// SAFETY: as above.
unsafe impl Sync for Node {}

/// The newest image.
static NEWEST: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

/// The process's own memory, through which breakpoints are removed: the pages of code are never writable.
static MEMORY: OnceLock<File> = OnceLock::new();

/// Keeps the breakpoints of an image known for as long as it is mapped.
#[derive(Debug)]
pub(crate) struct Watched(&'static Node);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.alive.store(false, Ordering::SeqCst);
    }
}

impl Watched {
    /// Puts breakpoints into `bytes`, the image that is about to be mapped at `base`, where the plan in `folder` says
    /// so and nothing ran yet. `None` when the folder has no plan for this image.
    pub(crate) fn new(
        folder: &Path,
        image: &Image,
        base: usize,
        bytes: &mut [u8],
    ) -> io::Result<Option<Self>> {
        let Some(files) = Files::of(folder, image).filter(|files| files.plan.exists()) else {
            return Ok(None);
        };
        let plan = fs::read(&files.plan)?;
        let hits = map(&files.hits, bytes.len())?;
        if MEMORY.get().is_none() {
            let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
            // Another thread may have been faster; its file is as good.
            drop(MEMORY.set(memory));
        }
        let mut replaced = vec![None; bytes.len()];
        let addresses = plan
            .chunks_exact(4)
            .filter_map(|bytes| bytes.first_chunk().copied())
            .map(u32::from_le_bytes);
        for address in addresses {
            let at = address as usize;
            if let (Some(byte), Some(slot), Some(hit)) =
                (bytes.get_mut(at), replaced.get_mut(at), hits.get(at))
                && hit.load(Ordering::Relaxed) == 0
            {
                *slot = Some(std::mem::replace(byte, INT3));
            }
        }
        let node = Box::leak(Box::new(Node {
            base,
            replaced,
            hits,
            alive: AtomicBool::new(true),
            next: ptr::null(),
        }));
        let mut newest = NEWEST.load(Ordering::SeqCst);
        loop {
            node.next = newest;
            match NEWEST.compare_exchange(newest, node, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Ok(Some(Self(node))),
                Err(other) => newest = other,
            }
        }
    }
}

/// Maps the file of hits; once mapped it stays so, like the nodes that use it.
fn map(file: &Path, size: usize) -> io::Result<&'static [AtomicU8]> {
    let file = OpenOptions::new().read(true).write(true).open(file)?;
    if file.metadata()?.len() < size as u64 {
        return Err(io::Error::other("the file of hits is another image's"));
    }
    // SAFETY: a fresh shared mapping has no preconditions.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `size` bytes that stay mapped, of a file that is at least as long, and are accessed atomically only.
    Ok(unsafe { std::slice::from_raw_parts(start.cast(), size) })
}

/// Called by the trap handler for a breakpoint after which the processor goes on at `rip`. If it is one of ours, it
/// is noted and removed; the instruction is to be run again from the address that is returned.
pub(crate) fn breakpoint(rip: usize) -> Option<usize> {
    let at = rip.checked_sub(1)?;
    let mut next: *const Node = NEWEST.load(Ordering::SeqCst);
    // SAFETY: null or a node, which is never freed.
    while let Some(node) = unsafe { next.as_ref() } {
        next = node.next;
        if !node.alive.load(Ordering::SeqCst) {
            continue;
        }
        let offset = at.wrapping_sub(node.base);
        let Some(&Some(byte)) = node.replaced.get(offset) else {
            continue;
        };
        node.hits.get(offset)?.store(1, Ordering::Relaxed);
        let memory = MEMORY.get()?.as_raw_fd();
        let address = libc::off_t::try_from(at).ok()?;
        // SAFETY: the file is open for good, and the byte is ours; the host writes it whatever the page's protection.
        let written = unsafe { libc::pwrite(memory, (&raw const byte).cast(), 1, address) };
        return (written == 1).then_some(at);
    }
    None
}
