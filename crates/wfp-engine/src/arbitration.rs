//! How decisions of filters and sublayers combine into one.

use crate::id::{CalloutId, FilterId};
use crate::options::{NoMatch, Options};
use wfp_schema::{Action, ClassifyOutFlags, Guid, Rights};

/// What a classify comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The traffic goes on.
    Permit,
    /// The traffic is dropped, or the operation refused.
    Block,
}

impl Decision {
    /// The action type that stands for it.
    #[must_use]
    pub const fn action(self) -> Action {
        match self {
            Self::Permit => Action::Permit,
            Self::Block => Action::Block,
        }
    }
}

/// Which filter decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecidedBy {
    /// The filter.
    pub filter: FilterId,
    /// Its sublayer.
    pub sublayer: Guid,
    /// The callout that answered, if one was asked.
    pub callout: Option<CalloutId>,
}

/// The outcome of a classify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is to happen.
    pub decision: Decision,
    /// Nothing lighter could have overridden it.
    pub hard: bool,
    /// A callout blocked although a heavier sublayer had permitted for good.
    pub vetoed: bool,
    /// With a block: drop without a trace, so no discard layer is indicated.
    pub absorb: bool,
    /// Whose decision it is; `None` if no filter decided and the traffic is permitted for that.
    pub by: Option<DecidedBy>,
}

impl Verdict {
    /// No filter decided.
    pub const UNDECIDED: Self = Self::without_filter(NoMatch::Permit);

    /// What it comes to if no filter decided.
    #[must_use]
    pub const fn without_filter(no_match: NoMatch) -> Self {
        Self {
            decision: match no_match {
                NoMatch::Permit => Decision::Permit,
                NoMatch::Block => Decision::Block,
            },
            hard: false,
            vetoed: false,
            absorb: false,
            by: None,
        }
    }

    /// Whether the traffic goes on.
    #[must_use]
    pub const fn is_permit(&self) -> bool {
        matches!(self.decision, Decision::Permit)
    }
}

/// `FWPS_CLASSIFY_OUT0`: what a callout finds and what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifyOut {
    /// `actionType`: on entry the decision so far; whatever the callout wrote on exit.
    pub action: u32,
    /// Whether the callout may write an action; it takes the right from lighter filters by clearing it.
    pub rights: Rights,
    /// Flags from and to the callout.
    pub flags: ClassifyOutFlags,
    /// The filter. Belongs to the system.
    pub filter_id: FilterId,
    /// `outContext`. Belongs to the system.
    pub out_context: u64,
}

/// What a callout's answer counts as, given the action of its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It decides.
    Decision(Decision),
    /// The next filter is asked.
    Continue,
}

impl Answer {
    /// What the action type that a callout wrote counts as (`FWPS_ACTION0`).
    #[must_use]
    pub const fn normalized(filter_action: Action, answered: u32, options: &Options) -> Self {
        const BLOCK: u32 = Action::Block.value();
        const PERMIT: u32 = Action::Permit.value();
        const CONTINUE: u32 = Action::Continue.value();
        match (filter_action, answered) {
            (Action::CalloutInspection, _) => Self::Continue,
            (_, PERMIT) => Self::Decision(Decision::Permit),
            (_, BLOCK) | (Action::CalloutTerminating, _) => Self::Decision(Decision::Block),
            (_, CONTINUE) => Self::Continue,
            _ if options.unknown_answer_blocks => Self::Decision(Decision::Block),
            _ => Self::Continue,
        }
    }
}

/// What one sublayer decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubLayerDecision {
    pub(crate) decision: Decision,
    pub(crate) hard: bool,
    /// By a filter itself, not by a callout's answer.
    pub(crate) is_static: bool,
    pub(crate) absorb: bool,
    pub(crate) by: DecidedBy,
}

/// The decision so far while sublayers are evaluated from heavy to light.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arbiter {
    verdict: Verdict,
}

impl Arbiter {
    pub(crate) const fn new() -> Self {
        Self {
            verdict: Verdict::UNDECIDED,
        }
    }

    /// Whether the next callout may write an action.
    pub(crate) const fn writable(&self) -> bool {
        !self.verdict.hard
    }

    pub(crate) const fn is_hard_block(&self) -> bool {
        self.verdict.hard && !self.verdict.is_permit()
    }

    /// What the next callout finds.
    pub(crate) const fn entry(
        &self,
        options: &Options,
        filter: FilterId,
        flags: ClassifyOutFlags,
    ) -> ClassifyOut {
        ClassifyOut {
            action: match self.verdict.by {
                Some(_) => self.verdict.decision.action().value(),
                None => options.initial_action_type,
            },
            rights: if self.writable() {
                Rights::ACTION_WRITE
            } else {
                Rights::NONE
            },
            flags,
            filter_id: filter,
            out_context: 0,
        }
    }

    /// Adds the decision of the next lighter sublayer.
    pub(crate) fn combine(&mut self, next: &SubLayerDecision, options: &Options) {
        let current = &mut self.verdict;
        // Several callouts may block the same traffic; one that absorbs it is enough.
        current.absorb |= next.absorb;
        let veto = current.hard && current.is_permit() && next.decision == Decision::Block;
        if current.hard && !(veto && (!next.is_static || options.static_block_over_hard_permit)) {
            return;
        }
        current.vetoed |= veto && !next.is_static;
        current.decision = next.decision;
        current.hard = next.hard;
        current.by = Some(next.by);
    }

    pub(crate) const fn verdict(mut self, options: &Options) -> Verdict {
        if self.verdict.by.is_none() {
            return Verdict::without_filter(options.no_match);
        }
        self.verdict.absorb &= !self.verdict.is_permit();
        self.verdict
    }
}
