//! Replacing literals.

use super::window::{Insert, Step, Window};
use crate::flow::Transfer;
use crate::policy::{Effect, Effects, PolicyView, RuleIndex};

/// The replacements of a rule for one direction.
///
/// At each place of the stream the first of them, in the order of the rule, whose literal is there applies; what it
/// puts there is not looked at again.
#[derive(Clone, Copy)]
pub(super) struct Replacements<'p> {
    effects: Effects<'p>,
    transfer: Transfer,
    /// The bytes with which a literal begins.
    first: [u64; 4],
}

impl<'p> Replacements<'p> {
    pub(super) fn new(policy: &PolicyView<'p>, rule: RuleIndex, transfer: Transfer) -> Self {
        let mut replacements = Self {
            effects: policy.effects_of(Some(rule)),
            transfer,
            first: [0; 4],
        };
        for (find, _) in replacements.each() {
            if let Some(byte) = find.first()
                && let Some(word) = replacements.first.get_mut(usize::from(byte >> 6))
            {
                *word |= 1 << (byte & 63);
            }
        }
        replacements
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == [0; 4]
    }

    fn each(&self) -> impl Iterator<Item = (&'p [u8], &'p [u8])> + use<'p> {
        let transfer = self.transfer;
        self.effects.each().filter_map(move |effect| match effect {
            Effect::Replace {
                transfers,
                find,
                with,
            } if transfers.contain(transfer) => Some((find, with)),
            _ => None,
        })
    }

    fn may_begin(&self, byte: u8) -> bool {
        self.first
            .get(usize::from(byte >> 6))
            .is_some_and(|word| word >> (byte & 63) & 1 == 1)
    }

    /// What becomes of the bytes of `window`; `last`: nothing comes after them.
    pub(super) fn step(&self, window: &Window<'_>, last: bool) -> Step<'p> {
        let mut at = 0;
        for piece in window.pieces() {
            for &byte in piece {
                if self.may_begin(byte) {
                    let step = self.step_at(&window.from(at), last);
                    match step {
                        Step::Keep(_) => {}
                        _ if at > 0 => return Step::Keep(at),
                        step => return step,
                    }
                }
                at += 1;
            }
        }
        match at {
            0 => Step::More,
            all => Step::Keep(all),
        }
    }

    /// What becomes of the first byte of `window`.
    fn step_at(&self, window: &Window<'_>, last: bool) -> Step<'p> {
        for (find, with) in self.each() {
            let length = find.len().min(window.len());
            let is_there = (0..length).all(|at| window.at(at) == find.get(at).copied());
            match (is_there, length == find.len()) {
                (true, true) => return Step::Replace(length, Insert::bytes(with)),
                (true, false) if !last => return Step::More,
                _ => {}
            }
        }
        Step::Keep(1)
    }
}
