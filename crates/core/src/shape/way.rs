//! When a packet of one way of a flow may go on.
//!
//! All that is waited for is computed when a packet comes: the bytes that wait before a packet follow from how long it has to
//! wait. So nothing has to be counted back when packets leave.

use super::bucket::{Bucket, MAX_WAIT, Rate};
use super::random::Random;
use crate::policy::Effect;
use portcullis_proto::effect::MILLION;

/// What a rule does to how packets flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The limit of each way.
    pub rate: Option<Rate>,
    /// The number of the limit, if all flows of the rule share it.
    pub shared: Option<u16>,
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
        shared: None,
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
                shared,
            } => {
                self.rate = Some(Rate {
                    bytes_per_second,
                    burst,
                    queue,
                });
                self.shared = shared;
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
    /// Its own bucket.
    bucket: Bucket,
    /// When the last packet goes on: none overtakes another.
    last: u64,
    /// Packets that wait.
    waiting: u32,
}

impl Way {
    /// Nothing has come yet.
    pub const NEW: Self = Self {
        bucket: Bucket::FULL,
        last: 0,
        waiting: 0,
    };

    /// A packet of `length` bytes comes at `now`; `shared` is the bucket of all flows of its rule, where they share one. If it is
    /// to wait, say so with [`wait`](Self::wait) once it does.
    #[must_use]
    pub fn arrive(
        &self,
        shape: &Shape,
        shared: Option<&mut Bucket>,
        length: u64,
        now: u64,
        random: &Random,
    ) -> (Fate, Self) {
        let mut next = *self;
        if shape.loss > 0 && random.below(MILLION) < u64::from(shape.loss) {
            return (Fate::Lost, next);
        }
        let there = shape.rate.as_ref().map_or(Some(now), |rate| {
            let bucket = shared.unwrap_or(&mut next.bucket);
            bucket.take(rate, length, now)
        });
        let Some(there) = there else {
            return (Fate::Full, next);
        };
        let jitter = if shape.jitter > 0 {
            random.below(shape.jitter + 1)
        } else {
            0
        };
        let leaves = there
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
