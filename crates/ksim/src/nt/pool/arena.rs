//! Address space for blocks that end, or begin, at an inaccessible page.
//!
//! Every block has pages of its own and the page behind them, which stays inaccessible, as does the page before the
//! first block: so one is also before each block. Freed pages are given back
//! to the host and stay inaccessible; their addresses are used again, oldest first, only when many of a size have been
//! freed since, or the arena has none that were never used.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::paging::Paging;
use super::{ALIGNMENT, CANARY, PAGE};
use crate::loader::memory::{Protection, Region};

/// Address space reserved for each machine's nonpaged pool. It costs nothing until it is used.
pub(super) const NONPAGED_SIZE: usize = 16 << 30;
/// The same for paged pool.
pub(super) const PAGED_SIZE: usize = 1 << 30;

/// At which of its ends a block lies next to an inaccessible page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guarded {
    End,
    Start,
}

/// Pages of one block and the guard page behind them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The address of the first page.
    pub(super) start: usize,
    /// Bytes, the guard page included.
    pub(super) size: usize,
}

impl Run {
    /// The accessible bytes before and behind a block of `size` bytes at `address`.
    pub(super) const fn slack(&self, address: usize, size: usize) -> [Range<usize>; 2] {
        [
            self.start..address,
            address + size..self.start + self.size - PAGE,
        ]
    }
}

/// From this size on a block is worth large pages, in bytes: a table that its driver initializes.
const LARGE: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Arena {
    region: Region,
    guarded: Guarded,
    /// For paged pool, which pages are in.
    paging: Option<Paging>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Bytes from the start that were ever used.
    used: usize,
    /// Freed runs by size, oldest first.
    free: HashMap<usize, VecDeque<usize>>,
    /// Blocks that are not freed.
    live: usize,
}

/// So many freed runs of a size stay inaccessible at least, as long as there are other addresses.
const RESTING: usize = 4096;

impl Inner {
    /// Where a run of `total` bytes may be, in an arena of `size`.
    fn take(&mut self, total: usize, size: usize) -> Option<usize> {
        let has_more = self.used + total <= size;
        let least = if has_more { RESTING } else { 0 };
        let freed = self.free.get_mut(&total);
        let rested = freed.filter(|runs| runs.len() > least);
        if let Some(start) = rested.and_then(VecDeque::pop_front) {
            return Some(start);
        }
        if !has_more {
            return None;
        }
        let start = self.used;
        self.used += total;
        Some(start)
    }
}

/// So many blocks an arena may have whatever others in the process have: what a small driver's faults are is not a
/// matter of which other machines there are.
const GUARANTEED: usize = 256;

/// Blocks of all machines: each splits a mapping of the process twice, and the host allows so many mappings only.
static BLOCKS: AtomicUsize = AtomicUsize::new(0);

/// How many blocks the process may have.
fn most_blocks() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| {
        /// The host's default, and what is left to everything else in the process.
        const DEFAULT: usize = 65_530;
        const OTHERS: usize = 16_384;
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
        let limit = limit
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(DEFAULT);
        limit.saturating_sub(OTHERS) / 2
    })
}

impl Arena {
    pub(super) fn new(size: usize, guarded: Guarded, paged: bool) -> io::Result<Self> {
        Ok(Self {
            region: Region::reserve(size)?,
            guarded,
            paging: paged.then(|| Paging::new(size)),
            inner: Mutex::new(Inner {
                used: PAGE,
                ..Inner::default()
            }),
        })
    }

    /// At which end blocks are guarded.
    pub(super) const fn guarded(&self) -> Guarded {
        self.guarded
    }

    /// Makes the page at `address` accessible, if it is one of a block of paged pool. For a trap handler.
    pub(super) fn page_in(&self, address: usize) -> bool {
        self.paging.as_ref().is_some_and(|paging| {
            address
                .checked_sub(self.region.start())
                .is_some_and(|offset| paging.page_in(&self.region, offset))
        })
    }

    /// Makes all paged pool inaccessible.
    pub(super) fn page_out(&self) {
        if let Some(paging) = &self.paging {
            paging.page_out(&self.region);
        }
    }

    /// A block of `size` bytes whose end, rounded up to its alignment, is the end of its pages, or whose start is
    /// their start. `None` when the host has no more mappings or the arena no more addresses.
    pub(super) fn allocate(&self, size: usize, alignment: usize) -> Option<(usize, Run)> {
        let guaranteed = self.inner.lock().live < GUARANTEED;
        if BLOCKS.fetch_add(1, Ordering::Relaxed) >= most_blocks() && !guaranteed {
            BLOCKS.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let run = self.pages(size, alignment);
        if run.is_none() {
            BLOCKS.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.inner.lock().live += 1;
        }
        run
    }

    fn pages(&self, size: usize, alignment: usize) -> Option<(usize, Run)> {
        let padded = size.next_multiple_of(alignment.max(ALIGNMENT));
        let body = padded.next_multiple_of(PAGE);
        let total = body + PAGE;
        let start = self.inner.lock().take(total, self.region.size())?;
        self.region
            .protect(start, body, Protection::ReadWrite)
            .ok()?;
        if body >= LARGE {
            self.region.expect_use(start, body);
        }
        if let Some(paging) = &self.paging {
            paging.set(start..start + body, true);
        }
        let run = Run {
            start: self.region.start() + start,
            size: total,
        };
        let address = match self.guarded {
            Guarded::End => run.start + body - padded,
            Guarded::Start => run.start,
        };
        for slack in run.slack(address, size) {
            super::fill(slack.start, slack.len(), CANARY);
        }
        Some((address, run))
    }

    /// Makes the pages of a block inaccessible.
    pub(super) fn free(&self, run: Run) {
        let offset = run.start - self.region.start();
        if let Some(paging) = &self.paging {
            paging.set(offset..offset + run.size, false);
        }
        // Without it the block only stays accessible; its addresses are not used again then.
        if self.region.discard(offset, run.size).is_ok() {
            self.inner
                .lock()
                .free
                .entry(run.size)
                .or_default()
                .push_back(offset);
        }
        self.inner.lock().live -= 1;
        BLOCKS.fetch_sub(1, Ordering::Relaxed);
    }
}
