//! Blocks on the program's heap, between patterns; freed ones are kept for a while to see whether they change.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{HashSet, VecDeque};
use std::ops::Range;

use super::{ALIGNMENT, Block, CANARY, Damage, PAGE};
use crate::access::POISON;

/// Bytes of pattern in front of a block that does not begin on a page, and behind every block at least.
const MARGIN: usize = 16;
/// How many bytes of freed blocks are kept.
const KEPT: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct Heap {
    live: HashSet<(usize, usize)>,
    freed: VecDeque<Block>,
    freed_bytes: usize,
}

/// Blocks below a page all begin on a cache line, so that every alignment that can be asked for is met.
const CACHE_LINE: usize = 64;

/// The layout of a block of `size` bytes with its margins, and where in it the block begins.
fn layout(size: usize) -> Option<(Layout, usize)> {
    let alignment = if size >= PAGE { PAGE } else { CACHE_LINE };
    let front = MARGIN.next_multiple_of(alignment);
    let total = front + size.next_multiple_of(ALIGNMENT) + MARGIN;
    Some((Layout::from_size_align(total, alignment).ok()?, front))
}

/// The bytes before and behind a block that hold the pattern.
pub(super) fn slack(address: usize, size: usize) -> [Range<usize>; 2] {
    let end = address + size.max(1).next_multiple_of(ALIGNMENT) + MARGIN;
    [address - MARGIN..address, address + size..end]
}

impl Heap {
    pub(super) fn allocate(&mut self, size: usize) -> Option<usize> {
        let (layout, front) = layout(size)?;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            return None;
        }
        let (start, end) = (start as usize, start as usize + layout.size());
        let address = start + front;
        // What is between them the pool fills.
        super::fill(start, front, CANARY);
        super::fill(address + size, end - address - size, CANARY);
        self.live.insert((address, size));
        Some(address)
    }

    /// Poisons a block and keeps it; returns what had changed in blocks that are given up for it.
    pub(super) fn free(&mut self, block: &Block) -> Vec<Damage> {
        super::fill(block.address, block.size, POISON);
        self.freed.push_back(*block);
        self.freed_bytes += block.size;
        let mut damage = Vec::new();
        while self.freed_bytes > KEPT
            && let Some(oldest) = self.freed.pop_front()
        {
            self.freed_bytes -= oldest.size;
            damage.extend(changed(&oldest));
            let size = oldest.size.max(1);
            self.live.remove(&(oldest.address, size));
            release(oldest.address, size);
        }
        damage
    }

    /// What has changed in freed blocks; each is reported once.
    pub(super) fn audit(&self) -> Vec<Damage> {
        let damage: Vec<Damage> = self.freed.iter().filter_map(changed).collect();
        for found in &damage {
            super::fill(found.block.address, found.block.size, POISON);
        }
        damage
    }
}

/// The first byte of a freed block that changed.
fn changed(block: &Block) -> Option<Damage> {
    /// Bytes that are looked at together; every block begins at a multiple of them.
    const WORD: usize = size_of::<u64>();
    let words = block.size / WORD;
    let intact = (0..words).take_while(|word| {
        // SAFETY: a freed block's memory is ours until it is released.
        let value = unsafe { ((block.address + word * WORD) as *const u64).read_volatile() };
        value == u64::from_ne_bytes([POISON; WORD])
    });
    let offset = (intact.count() * WORD..block.size).find(|offset| {
        // SAFETY: as above.
        let byte = unsafe { ((block.address + offset) as *const u8).read_volatile() };
        byte != POISON
    })?;
    Some(Damage {
        block: *block,
        offset: offset.cast_signed(),
        after_free: true,
    })
}

fn release(address: usize, size: usize) {
    if let Some((layout, front)) = layout(size) {
        // SAFETY: allocated with this layout, and nothing refers to it any more.
        unsafe { dealloc((address - front) as *mut u8, layout) };
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        for (address, size) in self.live.drain() {
            release(address, size);
        }
    }
}
