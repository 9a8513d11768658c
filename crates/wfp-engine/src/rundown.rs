//! A count of running users that can be closed: once closed and idle, it stays so.

use std::sync::atomic::{AtomicUsize, Ordering};

const CLOSED: usize = 1 << (usize::BITS - 1);

/// Counts the calls that run, and stops new ones.
#[derive(Debug, Default)]
pub(crate) struct Rundown(AtomicUsize);

impl Rundown {
    /// Begins a call. `None` once closed.
    pub(crate) fn enter(&self) -> Option<Running<'_>> {
        if self.0.fetch_add(1, Ordering::Acquire) & CLOSED == 0 {
            Some(Running(self))
        } else {
            self.0.fetch_sub(1, Ordering::Release);
            None
        }
    }

    /// Lets no further call begin.
    pub(crate) fn close(&self) {
        self.0.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// The calls that run.
    pub(crate) fn running(&self) -> usize {
        self.0.load(Ordering::Acquire) & !CLOSED
    }
}

/// A call that runs.
#[derive(Debug)]
#[must_use]
pub(crate) struct Running<'a>(&'a Rundown);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}
