//! Where the instructions of an image are.
//!
//! Tables lie between functions and must not be taken for code: only what control can reach from the start of a
//! function, or from the start of a line, is followed.

use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, OpKind};
use pe_image::{Image, ImageError};

use crate::symbols::Symbols;

/// What is known of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Byte {
    Unknown,
    First,
    Inner,
}

/// The bytes of `int 3`, which never gets a breakpoint: it is one, or padding.
const INT3: u8 = 0xcc;

/// The addresses of the instructions of `image` that belong to lines, relative to the image, in order.
pub(super) fn of(image: &Image, symbols: &Symbols) -> Result<Vec<u32>, ImageError> {
    let bytes = image.relocated(image.preferred_base)?;
    let mut walk = Walk {
        image,
        bytes: &bytes,
        known: vec![Byte::Unknown; bytes.len()],
        found: BTreeSet::new(),
    };
    // Functions first: a line is no instruction's start if it should lie in the middle of one that was found so.
    let functions: Vec<u32> = symbols.procedures().collect();
    walk.follow(functions);
    for span in symbols.spans() {
        walk.follow(vec![span.code.start]);
    }
    let mut in_lines = BTreeSet::new();
    for span in symbols.spans() {
        in_lines.extend(walk.found.range(span.code.clone()).copied());
    }
    Ok(in_lines.into_iter().collect())
}

struct Walk<'a> {
    image: &'a Image,
    bytes: &'a [u8],
    known: Vec<Byte>,
    found: BTreeSet<u32>,
}

impl Walk<'_> {
    /// Follows control from `starts` on.
    fn follow(&mut self, mut starts: Vec<u32>) {
        while let Some(start) = starts.pop() {
            let mut at = start;
            while let Some(next) = self.step(at, &mut starts) {
                at = next;
            }
        }
    }

    /// Takes in the instruction at `at`; returns the one behind it, if control can get there, and adds to `starts`
    /// where else it can get.
    fn step(&mut self, at: u32, starts: &mut Vec<u32>) -> Option<u32> {
        let executable = self.image.section_at(at)?.execute;
        let bytes = self.bytes.get(at as usize..)?;
        if !executable || self.known.get(at as usize) != Some(&Byte::Unknown) || bytes[0] == INT3 {
            return None;
        }
        let mut decoder = Decoder::with_ip(64, bytes, u64::from(at), DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        let inside = at as usize..at as usize + instruction.len();
        let place = self.known.get_mut(inside)?;
        if place.iter().any(|byte| *byte != Byte::Unknown) {
            return None;
        }
        place.fill(Byte::Inner);
        place[0] = Byte::First;
        self.found.insert(at);
        let is_direct = matches!(
            instruction.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        );
        if is_direct && let Ok(target) = u32::try_from(instruction.near_branch_target()) {
            starts.push(target);
        }
        let goes_on = matches!(
            instruction.flow_control(),
            FlowControl::Next
                | FlowControl::ConditionalBranch
                | FlowControl::Call
                | FlowControl::IndirectCall
        );
        u32::try_from(instruction.next_ip())
            .ok()
            .filter(|_| goes_on)
    }
}
