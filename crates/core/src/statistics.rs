//! Counters.

use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_proto::Counter;

/// One count for each [`Counter`].
///
/// Plain shared atomics: what is counted here happens once a connection or when something goes wrong. What happens for
/// every packet is counted in its flow, under the flow's own lock.
#[derive(Debug)]
pub struct Statistics([AtomicU64; Counter::COUNT]);

impl Statistics {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::COUNT])
    }

    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `number` at once.
    pub fn add(&self, counter: Counter, number: u64) {
        if let Some(count) = self.0.get(counter.index()) {
            count.fetch_add(number, Ordering::Relaxed);
        }
    }

    /// The present count.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0
            .get(counter.index())
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// All counts, by [`Counter::index`]; each is exact, together they need not be of one instant.
    #[must_use]
    pub fn snapshot(&self) -> [u64; Counter::COUNT] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

impl Default for Statistics {
    fn default() -> Self {
        Self::new()
    }
}
