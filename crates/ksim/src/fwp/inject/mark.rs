//! By what an injected packet is known when it is indicated again.

use std::collections::VecDeque;

use wfp_engine::Provenance;
use wfp_schema::codes::PacketInjectionState;

use crate::net::InjectionMark;

/// Where an injected packet came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) handle: usize,
    pub(super) context: usize,
    /// Where in a driver it was injected.
    pub(super) site: usize,
    /// The mark of what it was cloned from.
    pub(super) previous: Option<InjectionMark>,
}

/// Marks that are remembered: older packets have long left the stack.
const KEPT: usize = 0x1_0000;

/// The marks given so far; numbers begin at 1.
#[derive(Debug, Default)]
pub(super) struct Marks {
    kept: VecDeque<Mark>,
    forgotten: u64,
}

impl Marks {
    pub(super) fn add(&mut self, mark: Mark) -> InjectionMark {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
            self.forgotten += 1;
        }
        self.kept.push_back(mark);
        InjectionMark(self.forgotten + self.kept.len() as u64)
    }

    fn get(&self, mark: InjectionMark) -> Option<Mark> {
        let index = mark.0.checked_sub(self.forgotten + 1)?;
        self.kept.get(usize::try_from(index).ok()?).copied()
    }

    /// The injections by which a packet came to `mark`, the last one first.
    pub(super) fn history(&self, mark: Option<InjectionMark>) -> impl Iterator<Item = Mark> {
        std::iter::successors(mark.and_then(|mark| self.get(mark)), |mark| {
            self.get(mark.previous?)
        })
    }

    /// The state of a packet with this mark as `handle` sees it, and the injection context where it has one.
    pub(super) fn state(
        &self,
        mark: Option<InjectionMark>,
        handle: usize,
    ) -> (PacketInjectionState, usize) {
        let history = self.history(mark);
        let state = Provenance::of(history.map(|mark| (mark.handle, mark.context)), &handle);
        (state.of_packet(), state.context().unwrap_or(0))
    }
}
