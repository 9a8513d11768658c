//! One A64 instruction: branches, and the `adrp`, `ldr`, `blr` by which an import is called.

use super::Step;
use crate::Image;

/// What is known of the general registers along a straight line of code.
#[derive(Debug, Default)]
pub(super) struct Registers([Known; 32]);

#[derive(Debug, Clone, Copy, Default)]
enum Known {
    #[default]
    Nothing,
    /// The register holds this address.
    Address(u32),
    /// The register holds what lies at this address.
    LoadedFrom(u32),
}

/// What the instruction at `rva` does; `None` when there is none.
///
/// Encodings: Arm Architecture Reference Manual, C4.1 "A64 instruction set encoding".
pub(super) fn step(image: &Image, rva: u32, registers: &mut Registers) -> Option<Step> {
    let word = image.view.u32(rva)?;
    let mut step = Step {
        length: 4,
        ..Step::default()
    };
    let relative = |offset: i32| rva.checked_add_signed(offset);
    let (destination, source) = ((word & 0x1f) as usize, (word >> 5 & 0x1f) as usize);
    let known = |register: usize| registers.0.get(register).copied().unwrap_or_default();
    let mut result = None;
    if word & 0xfc00_0000 == 0x1400_0000 {
        // B
        step.branch = relative(signed(word, 0, 26) * 4);
        step.ends = true;
    } else if word & 0xfc00_0000 == 0x9400_0000 {
        // BL
        step.call = relative(signed(word, 0, 26) * 4);
    } else if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        // B.cond, CBZ, CBNZ
        step.branch = relative(signed(word, 5, 19) * 4);
    } else if word & 0x7e00_0000 == 0x3600_0000 {
        // TBZ, TBNZ
        step.branch = relative(signed(word, 5, 14) * 4);
    } else if word & 0xff9f_fc1f == 0xd61f_0000 && word & 0x0060_0000 != 0x0060_0000 {
        // BR, BLR, RET
        if let Known::LoadedFrom(slot) = known(source) {
            step.through = Some(slot);
        }
        step.ends = word & 0x0060_0000 != 0x0020_0000;
    } else if word & 0xffe0_001f == 0xd420_0000 {
        // BRK
        step.ends = true;
    } else if word & 0x9f00_0000 == 0x9000_0000 {
        // ADRP: a page relative to this one
        let pages = signed(word, 5, 19) * 4 + i32::try_from(word >> 29 & 3).unwrap_or(0);
        let page = pages
            .checked_mul(0x1000)
            .and_then(|offset| (rva & !0xfff).checked_add_signed(offset));
        result = Some(page.map_or(Known::Nothing, Known::Address));
    } else if word & 0xffc0_0000 == 0x9100_0000 {
        // ADD (immediate), 64-bit
        result = Some(match known(source) {
            Known::Address(address) => Known::Address(address.wrapping_add(word >> 10 & 0xfff)),
            _ => Known::Nothing,
        });
    } else if word & 0xffc0_0000 == 0xf940_0000 {
        // LDR (unsigned offset), 64-bit
        result = Some(match known(source) {
            Known::Address(address) => {
                Known::LoadedFrom(address.wrapping_add((word >> 10 & 0xfff) * 8))
            }
            _ => Known::Nothing,
        });
    }
    if let Some(slot) =
        result.and_then(|result| registers.0.get_mut(destination).map(|slot| (slot, result)))
    {
        *slot.0 = slot.1;
    }
    Some(step)
}

/// The signed field of `width` bits at bit `low`.
const fn signed(word: u32, low: u32, width: u32) -> i32 {
    ((word << (32 - width - low)).cast_signed()) >> (32 - width)
}
