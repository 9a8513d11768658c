//! Time: batches of calls between two looks at the clock.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Nanoseconds of one call: the median of all batches, the best and the worst batch.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Nanoseconds {
    pub(crate) median: f64,
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
}

impl Nanoseconds {
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let (first, last) = (
            samples.first().copied().unwrap_or(0.0),
            samples.last().copied().unwrap_or(0.0),
        );
        Self {
            median: samples.get(samples.len() / 2).copied().unwrap_or(0.0),
            minimum: first,
            maximum: last,
        }
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Batches that count.
    pub(crate) batches: usize,
    /// Calls in a batch.
    pub(crate) calls: u32,
    /// Batches before those that count.
    pub(crate) warm_up: usize,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        batches: 201,
        calls: 512,
        warm_up: 20,
    };
    pub(crate) const QUICK: Self = Self {
        batches: 21,
        calls: 512,
        warm_up: 3,
    };

    /// Runs `batch`, which makes `self.calls` calls and says how long they took.
    pub(crate) fn measure(self, mut batch: impl FnMut(u32) -> Duration) -> Nanoseconds {
        for _ in 0..self.warm_up {
            batch(self.calls);
        }
        let samples = (0..self.batches)
            .map(|_| batch(self.calls).as_secs_f64() * 1e9 / f64::from(self.calls))
            .collect();
        Nanoseconds::of(samples)
    }
}

/// How long `work` takes.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}
