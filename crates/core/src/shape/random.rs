//! Chance that can be repeated.

use core::sync::atomic::{AtomicU64, Ordering};

/// A generator (`SplitMix64`) that any number of processors use at once: equal seeds give equal numbers, in the order of
/// the calls.
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Random {
    /// The generator of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    #[must_use]
    pub fn next(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let state = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// The next number, below `bound`; 0 for 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        // The upper half of the product: even to one part in 2^64 / bound.
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).unwrap_or(0)
    }
}
