//! When a packet of one way of a flow may go on.
//!
//! All that is waited for is computed when a packet comes: the bucket is kept as the time at which it will be full again, and the
//! bytes that wait before a packet follow from how long it has to wait. So nothing has to be counted back when packets leave, and
//! a way that is idle costs nothing.

use super::random::Random;
use crate::policy::Effect;
use portcullis_proto::effect::MILLION;

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

/// What a rule does to how packets flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The limit of each way.
    pub rate: Option<Rate>,
    /// How late each packet is, in 100-nanosecond units.
    pub delay: u64,
    /// How much later at most, at random.
    pub jitter: u64,
    /// How many packets in a [`MILLION`] are lost.
    pub loss: u32,
}

impl Shape {
    /// Nothing.
    pub const NONE: Self = Self {
        rate: None,
        delay: 0,
        jitter: 0,
        loss: 0,
    };

    /// Adds an effect; others than those that shape are passed over.
    pub fn add(&mut self, effect: &Effect<'_>) {
        match *effect {
            Effect::Rate {
                bytes_per_second,
                burst,
                queue,
            } => {
                self.rate = Some(Rate {
                    bytes_per_second,
                    burst,
                    queue,
                });
            }
            Effect::Delay {
                microseconds,
                jitter,
            } => {
                self.delay = u64::from(microseconds) * 10;
                self.jitter = u64::from(jitter) * 10;
            }
            Effect::Loss { per_million } => self.loss = per_million,
            _ => {}
        }
    }

    /// Whether it does anything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on at once.
    Now,
    /// It goes on at this time.
    At(u64),
    /// It is lost, by chance.
    Lost,
    /// The queue is full.
    Full,
}

/// The state of one way of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// When the bucket will be full.
    full_at: u64,
    /// When the last packet goes on: none overtakes another.
    last: u64,
    /// Packets that wait.
    waiting: u32,
}

impl Way {
    /// Nothing has come yet.
    pub const NEW: Self = Self {
        full_at: 0,
        last: 0,
        waiting: 0,
    };

    /// A packet of `length` bytes comes at `now`. If it is to wait, say so with [`wait`](Self::wait) once it does.
    #[must_use]
    pub fn arrive(&self, shape: &Shape, length: u64, now: u64, random: &Random) -> (Fate, Self) {
        let mut next = *self;
        if shape.loss > 0 && random.below(MILLION) < u64::from(shape.loss) {
            return (Fate::Lost, next);
        }
        let mut leaves = now;
        if let Some(rate) = shape.rate {
            let (cost, burst) = (rate.time(length), rate.time(rate.burst));
            // The tokens that it needs are there when no more than the rest is missing to a full bucket. A packet that is larger
            // than the bucket waits for a full one.
            leaves = next
                .full_at
                .saturating_sub(burst.saturating_sub(cost))
                .max(now);
            let wait = leaves - now;
            // It and what waits before it take as long as it waits, less what is in the bucket already.
            let is_full = rate.queue == 0 || rate.bytes(wait) > rate.queue;
            if wait > MAX_WAIT || (wait > 0 && is_full) {
                return (Fate::Full, next);
            }
            next.full_at = next.full_at.max(leaves).saturating_add(cost);
        }
        let jitter = if shape.jitter > 0 {
            random.below(shape.jitter + 1)
        } else {
            0
        };
        leaves = leaves
            .saturating_add(shape.delay)
            .saturating_add(jitter)
            .max(next.last);
        if leaves.saturating_sub(now) > 2 * MAX_WAIT {
            return (Fate::Full, *self);
        }
        next.last = leaves;
        if leaves <= now && next.waiting == 0 {
            return (Fate::Now, next);
        }
        (Fate::At(leaves), next)
    }

    /// A packet waits.
    pub const fn wait(&mut self) {
        self.waiting = self.waiting.saturating_add(1);
    }

    /// A packet that waited is gone.
    pub const fn leave(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// How many packets wait.
    #[must_use]
    pub const fn waiting(&self) -> u32 {
        self.waiting
    }
}
