//! A record of an arbitration, for tests and verifiers.

use crate::arbitration::{Answer, ClassifyOut, Decision, Verdict};
use crate::id::{CalloutId, FilterId};
use wfp_schema::Guid;

/// Something that wants to know each step of a classify.
pub trait Recorder {
    /// Whether steps are recorded at all; without, recording costs nothing.
    const ENABLED: bool;

    /// A filter that matched has been dealt with.
    fn step(&mut self, step: Step);

    /// The classify has ended.
    fn verdict(&mut self, verdict: Verdict);
}

/// Records nothing.
impl Recorder for () {
    const ENABLED: bool = false;
    fn step(&mut self, _: Step) {}
    fn verdict(&mut self, _: Verdict) {}
}

/// A filter that matched, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The filter's sublayer.
    pub sublayer: Guid,
    /// The filter.
    pub filter: FilterId,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a filter that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The filter itself decided.
    Static(Decision),
    /// Its callout is not registered; the filter decided in its place, or was skipped.
    Unregistered(Option<Decision>),
    /// Its callout wants to be asked about flows with its context only.
    NotOnFlow(CalloutId),
    /// It was deleted meanwhile.
    Deleted,
    /// Its callout was called.
    Called(Call),
}

/// A call of a callout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The callout.
    pub callout: CalloutId,
    /// The flow context it was given, 0 for none.
    pub flow_context: u64,
    /// What it found.
    pub entry: ClassifyOut,
    /// What it left.
    pub exit: ClassifyOut,
    /// What that counts as; a permit without the right to permit counts for nothing.
    pub answer: Answer,
}

/// Every step of one classify, in order.
#[derive(Clone, Debug, Default)]
pub struct Arbitration {
    /// The filters that matched and were evaluated.
    pub steps: Vec<Step>,
    /// The outcome, `None` until the classify has ended.
    pub verdict: Option<Verdict>,
}

impl Arbitration {
    /// The calls of callouts, in order.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.steps.iter().filter_map(|step| match &step.outcome {
            Outcome::Called(call) => Some(call),
            _ => None,
        })
    }
}

impl Recorder for Arbitration {
    const ENABLED: bool = true;

    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    fn verdict(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}
