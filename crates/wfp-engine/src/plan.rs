//! The filters that match, for callers that arbitrate by themselves.
//!
//! At the stream layers callouts act in a waterfall: each sees the bytes that
//! the one before it permitted, and may ask for more, or decide about a part
//! of them. How many bytes that are only the stack that holds the stream
//! knows. So it gets a [`Plan`]: the filters in order, to be asked one by one
//! as often as the stream demands.

use crate::arbitration::{Answer, ClassifyOut, Decision};
use crate::classify::{Asked, ClassifyCall, Request};
use crate::engine::Engine;
use crate::filter::FilterEntry;
use crate::flow::Flow;
use crate::host::Host;
use crate::id::CalloutId;
use crate::table::LayerTable;
use std::fmt;
use std::sync::Arc;
use wfp_schema::{Action, ClassifyOutFlags, LayerId, Rights};

/// The filters of one layer that match the same values, heaviest first.
///
/// Keep it, to [`refill`](Engine::plan) it for the next indication without allocating.
pub struct Plan<H: Host> {
    layer: LayerId,
    table: Option<Arc<LayerTable<H>>>,
    stages: Vec<(u32, u32)>,
}

impl<H: Host> Default for Plan<H> {
    fn default() -> Self {
        Self {
            layer: LayerId::new(0),
            table: None,
            stages: Vec::new(),
        }
    }
}

impl<H: Host> fmt::Debug for Plan<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("layer", &self.layer)
            .field("stages", &self.stages.len())
            .finish_non_exhaustive()
    }
}

/// What a stage of a plan came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The filter itself decides, or stands in for a callout that is not registered.
    Static(Decision),
    /// The callout was called and its answer counts as this.
    Called(Answer),
    /// Nothing: an inspection filter without its callout, a callout that wants
    /// other flows, or a filter that was deleted meanwhile.
    Skipped,
}

impl<H: Host> Plan<H> {
    /// Number of stages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.stages.len()
    }

    /// Whether no filter matches.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// The filter of a stage.
    #[must_use]
    pub fn filter(&self, stage: usize) -> Option<&FilterEntry<H>> {
        let (sublayer, filter) = *self.stages.get(stage)?;
        let sublayer = self.table.as_deref()?.sublayers.get(sublayer as usize)?;
        sublayer.filters.get(filter as usize).map(Arc::as_ref)
    }

    /// The callout of a stage.
    #[must_use]
    pub fn callout(&self, stage: usize) -> Option<CalloutId> {
        self.filter(stage)?.record.callout
    }

    /// The first stage of the next sublayer: where to go on once `stage` has decided.
    #[must_use]
    pub fn next_sublayer(&self, stage: usize) -> usize {
        let Some(&(sublayer, _)) = self.stages.get(stage) else {
            return self.stages.len();
        };
        let same = self.stages[stage..]
            .iter()
            .take_while(|(other, _)| *other == sublayer)
            .count();
        stage + same
    }
}

impl<H: Host> Engine<H> {
    /// Fills `plan` with the filters that match.
    pub fn plan(&self, request: &Request<'_, H>, plan: &mut Plan<H>) {
        plan.layer = request.layer;
        plan.stages.clear();
        plan.table = self.table.load().layer_arc(request.layer);
        for (sublayer_at, sublayer) in (0..).zip(plan.table.iter().flat_map(|t| &t.sublayers)) {
            let matching = sublayer.matching(request.values);
            plan.stages
                .extend(matching.map(|(rank, _)| (sublayer_at, rank)));
        }
    }

    /// Whether a stage's callout can have the stream's connection dropped
    /// (`FWPS_STREAM_ACTION_DROP_CONNECTION`): that of an inspection filter
    /// can't; that of a terminating one is
    /// [`Options::terminating_drops_connection`](crate::Options::terminating_drops_connection).
    #[must_use]
    pub fn may_drop_connection(&self, plan: &Plan<H>, stage: usize) -> bool {
        match plan.filter(stage).map(|filter| filter.record.action()) {
            Some(Action::CalloutUnknown) => true,
            Some(Action::CalloutTerminating) => self.options.terminating_drops_connection,
            _ => false,
        }
    }

    /// Asks the filter of one stage. `flags` are those that the callout finds,
    /// such as `NO_MORE_DATA`; `out` is what it left.
    ///
    /// Stream layers ignore rights, so the callout finds the right to write, and
    /// no decision.
    pub fn ask_stage<F>(
        &self,
        plan: &Plan<H>,
        stage: usize,
        flow: Option<&Flow<H>>,
        flags: ClassifyOutFlags,
        mut call: F,
    ) -> (Stage, Option<ClassifyOut>)
    where
        F: FnMut(&ClassifyCall<'_, H>, &mut ClassifyOut),
    {
        let Some(filter) = plan.filter(stage) else {
            return (Stage::Skipped, None);
        };
        let action = filter.record.filter.action;
        let by_itself = match action {
            Action::Permit => Some(Decision::Permit),
            Action::Block => Some(Decision::Block),
            _ => None,
        };
        if let Some(decision) = by_itself {
            return (Stage::Static(decision), None);
        }
        let mut out = ClassifyOut {
            action: self.options.initial_action_type,
            rights: Rights::ACTION_WRITE,
            flags,
            filter_id: filter.id(),
            out_context: 0,
        };
        match self.ask(filter, plan.layer, flow, &mut out, &mut call) {
            Asked::Unregistered => {
                let stage = self
                    .without_callout(action, filter.record.filter.flags)
                    .map_or(Stage::Skipped, |(decision, _)| Stage::Static(decision));
                (stage, None)
            }
            Asked::NotOnFlow | Asked::Deleted => (Stage::Skipped, None),
            Asked::Called(_) => (
                Stage::Called(Answer::normalized(action, out.action, &self.options)),
                Some(out),
            ),
        }
    }
}
