//! Packets that somebody else sends round and round.
//!
//! A packet that another driver injects is looked at like any other. If that driver copies what we inject and injects it again,
//! nothing marks the copy as ours, and the two would go on for ever. So packets that others injected are remembered by what stays
//! the same from round to round; one that comes too often is let through as it is.

use core::sync::atomic::{AtomicU64, Ordering};

use super::header::Layout;

/// Packets that are remembered.
const PLACES: usize = 256;
/// How often a packet may come within [`WINDOW`].
const MOST: u64 = 8;
/// 100-nanosecond units: a round takes far less.
const WINDOW: u64 = 10_000_000;

/// The packets remembered.
///
/// In each place are a fingerprint of 32 bits, a time of 24 bits and a count of 8 bits. A packet displaces another of the same
/// place, which only means that its rounds are counted anew.
pub struct Hops([AtomicU64; PLACES]);

impl Hops {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; PLACES])
    }

    /// Notes that somebody else injected this packet. Whether it has come too often.
    #[must_use]
    pub fn note(&self, first: &[u8], layout: &Layout, now: u64) -> bool {
        let hash = fingerprint(first, layout);
        let time = (now / (WINDOW / 16)) & 0xFF_FFFF;
        let place = usize::try_from(hash % PLACES as u64).unwrap_or(0);
        let Some(place) = self.0.get(place) else {
            return false;
        };
        let print = hash >> 32;
        let kept = place.load(Ordering::Relaxed);
        let is_same =
            kept >> 32 == print && time.wrapping_sub(kept >> 8 & 0xFF_FFFF) & 0xFF_FFFF <= 16;
        let count = if is_same {
            (kept & 0xFF).min(MOST) + 1
        } else {
            1
        };
        place.store(print << 32 | time << 8 | count, Ordering::Relaxed);
        count > MOST
    }
}

impl Default for Hops {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Hops {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Hops").finish_non_exhaustive()
    }
}

/// A hash (FNV-1a) of what of a packet stays the same from round to round: not what edits change (traffic class, hop limit,
/// addresses) or depends on it (checksums), but length, protocol, identification, ports, sequence numbers and the first data.
fn fingerprint(first: &[u8], layout: &Layout) -> u64 {
    const BASIS: u64 = 0xCBF2_9CE4_8422_2325;
    const PRIME: u64 = 0x100_0000_01B3;

    let checksum = layout.checksum_at();
    let identification = if layout.is_v6 { 0..0 } else { 4..6 };
    let fixed = first.get(identification).unwrap_or_default();
    let transport = first.get(layout.header..).unwrap_or_default();
    let places = (layout.header..).zip(transport.iter().take(64));
    let kept = places.filter(|(at, _)| checksum.is_none_or(|sum| *at != sum && *at != sum + 1));
    let bytes = (layout.total as u64).to_le_bytes();
    let all = bytes.iter().chain(fixed).chain(kept.map(|(_, byte)| byte));
    all.fold(BASIS ^ u64::from(layout.protocol), |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}
