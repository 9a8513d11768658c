//! Flows whose packets a rule mirrors to the capture.

use super::Ends;
use core::net::IpAddr;
use lock_api::{Mutex, RawMutex};

/// Flows in one bucket. When there are more, the oldest is forgotten.
const WAYS: usize = 8;

/// Some mirrored flows, by the hash of their ends.
pub struct MirrorBucket<R>(Mutex<R, [u64; WAYS]>);

impl<R: RawMutex> MirrorBucket<R> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new([0; WAYS]))
    }
}

impl<R: RawMutex> Default for MirrorBucket<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// The mirrored flows. Two flows are told apart by 64 bits of a hash: a packet too many may be mirrored, none too few,
/// but for those of flows that were forgotten because there are too many.
pub struct MirrorTable<S> {
    buckets: S,
}

impl<S> MirrorTable<S> {
    /// An empty table over these buckets.
    pub const fn new(buckets: S) -> Self {
        Self { buckets }
    }

    /// From now on the flow's packets are mirrored.
    pub fn insert<R: RawMutex>(&self, ends: &Ends)
    where
        S: AsRef<[MirrorBucket<R>]>,
    {
        self.with(ends, |flows, hash| {
            if !flows.contains(&hash) {
                flows.rotate_right(1);
                flows[0] = hash;
            }
        });
    }

    /// No more.
    pub fn remove<R: RawMutex>(&self, ends: &Ends)
    where
        S: AsRef<[MirrorBucket<R>]>,
    {
        self.with(ends, |flows, hash| {
            for flow in flows.iter_mut().filter(|flow| **flow == hash) {
                *flow = 0;
            }
        });
    }

    /// Whether the packets of these ends are mirrored.
    pub fn contains<R: RawMutex>(&self, ends: &Ends) -> bool
    where
        S: AsRef<[MirrorBucket<R>]>,
    {
        self.with(ends, |flows, hash| flows.contains(&hash))
            .unwrap_or(false)
    }

    fn with<R: RawMutex, T>(
        &self,
        ends: &Ends,
        with: impl FnOnce(&mut [u64; WAYS], u64) -> T,
    ) -> Option<T>
    where
        S: AsRef<[MirrorBucket<R>]>,
    {
        let hash = hash(ends);
        let buckets = self.buckets.as_ref();
        let bucket = buckets.get(usize::try_from(hash >> 1).ok()? % buckets.len().max(1))?;
        Some(with(&mut bucket.0.lock(), hash))
    }
}

/// A number for these ends, never 0. An ICMP message's type and code take no part: those of question and answer differ.
fn hash(ends: &Ends) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let has_ports = !matches!(ends.protocol, 1 | 58);
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ u64::from(ends.protocol);
    for end in [ends.local, ends.remote] {
        let (high, low) = match end.address {
            IpAddr::V4(v4) => (4, u64::from(v4.to_bits())),
            IpAddr::V6(v6) => {
                let number = v6.to_bits();
                let half = |shift: u32| u64::try_from(number >> shift & u128::from(u64::MAX));
                (half(64).unwrap_or(0), half(0).unwrap_or(0))
            }
        };
        let port = if has_ports { u64::from(end.port) } else { 0 };
        for part in [high, low, port] {
            hash = (hash ^ part).wrapping_mul(PRIME);
            hash ^= hash >> 29;
        }
    }
    hash | 1
}
