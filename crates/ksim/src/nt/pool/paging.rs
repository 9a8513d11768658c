//! Which pages of paged pool can be accessed.
//!
//! As under Driver Verifier's forced IRQL checking, all paged pool is paged out when a processor goes up to
//! `DISPATCH_LEVEL`, and a page comes back when it is touched by a processor below it. At `DISPATCH_LEVEL` the touch
//! is a fault that nobody serves.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use super::PAGE;
use crate::loader::memory::{Protection, Region};

/// What a page is.
mod state {
    /// No block's, or a guard page.
    pub(super) const NONE: u8 = 0;
    pub(super) const OUT: u8 = 1;
    pub(super) const IN: u8 = 2;
}

/// The state of every page of a region; may be used by a trap handler.
#[derive(Debug)]
pub(super) struct Paging {
    states: Box<[AtomicU8]>,
    /// Pages from this one on were never used.
    used: AtomicUsize,
    /// Whether any page is in.
    any_in: AtomicBool,
}

impl Paging {
    /// For a region of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            states: (0..size / PAGE).map(|_| AtomicU8::default()).collect(),
            used: AtomicUsize::new(0),
            any_in: AtomicBool::new(false),
        }
    }

    /// The pages of these bytes of the region belong to a block, and are in; or to none any more.
    pub(super) fn set(&self, bytes: Range<usize>, allocated: bool) {
        let pages = bytes.start / PAGE..bytes.end.div_ceil(PAGE);
        self.used.fetch_max(pages.end, Ordering::SeqCst);
        let state = if allocated { state::IN } else { state::NONE };
        for page in self.states.get(pages).unwrap_or(&[]) {
            page.store(state, Ordering::SeqCst);
        }
        if allocated {
            self.any_in.store(true, Ordering::SeqCst);
        }
    }

    /// Makes the page at `offset` of `region` accessible, if it is a block's.
    pub(super) fn page_in(&self, region: &Region, offset: usize) -> bool {
        let Some(page) = self.states.get(offset / PAGE) else {
            return false;
        };
        if page.load(Ordering::SeqCst) == state::NONE {
            return false;
        }
        page.store(state::IN, Ordering::SeqCst);
        self.any_in.store(true, Ordering::SeqCst);
        // Also if it is in: another processor may be about to take it out.
        region
            .protect(offset / PAGE * PAGE, PAGE, Protection::ReadWrite)
            .is_ok()
    }

    /// Makes every page inaccessible.
    pub(super) fn page_out(&self, region: &Region) {
        if !self.any_in.swap(false, Ordering::SeqCst) {
            return;
        }
        let used = self.used.load(Ordering::SeqCst).min(self.states.len());
        for (number, page) in self.states.iter().enumerate().take(used) {
            let was_in =
                page.compare_exchange(state::IN, state::OUT, Ordering::SeqCst, Ordering::SeqCst);
            if was_in.is_ok()
                && region
                    .protect(number * PAGE, PAGE, Protection::None)
                    .is_err()
            {
                // The host has no more mappings: the page stays accessible.
                page.store(state::IN, Ordering::SeqCst);
            }
        }
    }
}
