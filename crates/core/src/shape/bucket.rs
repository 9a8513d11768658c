//! How much may pass: a token bucket.

/// 100-nanosecond units in a second.
const SECOND: u64 = 10_000_000;
/// Longest time that a packet waits, in 100-nanosecond units: what would wait longer is dropped, whatever the queue holds.
pub const MAX_WAIT: u64 = 10 * SECOND;

/// A limit of how much passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second, at least 1.
    pub bytes_per_second: u64,
    /// Bytes that may pass at once.
    pub burst: u64,
    /// Bytes that may wait.
    pub queue: u64,
}

impl Rate {
    /// How long so many bytes take, in 100-nanosecond units.
    fn time(&self, bytes: u64) -> u64 {
        let time =
            u128::from(bytes) * u128::from(SECOND) / u128::from(self.bytes_per_second.max(1));
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    /// How many bytes pass in so long.
    fn bytes(&self, time: u64) -> u64 {
        let bytes = u128::from(time) * u128::from(self.bytes_per_second) / u128::from(SECOND);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// A token bucket, kept as the time at which it will be full again: one that is idle costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// A full one.
    pub const FULL: Self = Self { full_at: 0 };

    /// Takes the tokens of a packet of `length` bytes that comes at `now`. When they are there; `None` if too much waits for
    /// tokens before it.
    pub fn take(&mut self, rate: &Rate, length: u64, now: u64) -> Option<u64> {
        let (cost, burst) = (rate.time(length), rate.time(rate.burst));
        // The tokens that it needs are there when no more than the rest is missing to a full bucket. A packet that is larger
        // than the bucket waits for a full one.
        let leaves = self
            .full_at
            .saturating_sub(burst.saturating_sub(cost))
            .max(now);
        let wait = leaves - now;
        // It and what waits before it take as long as it waits, less what is in the bucket already.
        let is_full = rate.queue == 0 || rate.bytes(wait) > rate.queue;
        if wait > MAX_WAIT || (wait > 0 && is_full) {
            return None;
        }
        self.full_at = self.full_at.max(leaves).saturating_add(cost);
        Some(leaves)
    }
}
