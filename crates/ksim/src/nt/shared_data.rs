//! `KUSER_SHARED_DATA`, which inlined kernel functions read at its fixed address.
//!
//! Nothing can be mapped there in a Linux process, so reads trap and are answered from here (see
//! [`trap`](crate::trap)). Offsets are those of x64 Windows 10.

use super::clock::TIME_INCREMENT;
use super::rtl::{BUILD, MAJOR, MINOR};
use crate::kernel::Machine;

const ADDRESS: usize = 0xffff_f780_0000_0000;
const SIZE: usize = 0x1000;

/// Whether `address` lies in the shared page.
pub(crate) const fn contains(address: usize) -> bool {
    address.wrapping_sub(ADDRESS) < SIZE
}

/// The `size` bytes at `address`, little-endian. Runs in a signal handler: no locks, no memory.
pub(crate) fn read(machine: &Machine, address: usize, size: usize) -> Option<u64> {
    let offset = address.wrapping_sub(ADDRESS);
    if !matches!(size, 1 | 2 | 4 | 8) || offset.checked_add(size)? > SIZE {
        return None;
    }
    let mut bytes = [0; 8];
    for (at, byte) in bytes.iter_mut().take(size).enumerate() {
        *byte = self::byte(machine, offset + at);
    }
    Some(u64::from_le_bytes(bytes))
}

/// The byte at `offset`.
fn byte(machine: &Machine, offset: usize) -> u8 {
    /// 2^24 times the milliseconds of a tick.
    const TICK_MULTIPLIER: u64 = (TIME_INCREMENT as u64) * (1 << 24) / 10_000;
    let now = machine.time().now();
    let uptime = now.saturating_sub(machine.boot_time());
    let tick = uptime / u64::from(TIME_INCREMENT);
    // Field, its bytes, its value; KSYSTEM_TIME repeats its high half.
    let fields: [(usize, usize, u64); 15] = [
        (0x4, 4, TICK_MULTIPLIER),
        (0x8, 8, uptime),
        (0x10, 4, uptime >> 32),
        (0x14, 8, now),
        (0x1c, 4, now >> 32),
        (0x260, 4, u64::from(BUILD)),
        (0x264, 4, 1),
        (0x268, 1, 1),
        (0x26c, 4, u64::from(MAJOR)),
        (0x270, 4, u64::from(MINOR)),
        (0x320, 8, tick),
        (0x328, 4, tick >> 32),
        (0x3c0, 4, u64::from(machine.processors())),
        (0x3c4, 1, 1),
        (0x2e8, 4, 0x10_0000),
    ];
    fields
        .into_iter()
        .find(|(start, size, _)| (*start..start + size).contains(&offset))
        .and_then(|(start, _, value)| value.to_le_bytes().get(offset - start).copied())
        .unwrap_or(0)
}
