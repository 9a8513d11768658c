//! Classifying: which filters match, what their callouts answer, what that comes to.

use crate::arbitration::{
    Answer, Arbiter, ClassifyOut, DecidedBy, Decision, SubLayerDecision, Verdict,
};
use crate::callout::{CalloutView, Registered};
use crate::engine::Engine;
use crate::filter::FilterEntry;
use crate::flow::{ContextUse, Flow};
use crate::host::Host;
use crate::record::{Call, Outcome, Recorder, Step};
use crate::value::Value;
use std::fmt;
use wfp_schema::{Action, CalloutFlags, ClassifyOutFlags, FilterFlags, Guid, LayerId, Rights};

/// What is to be classified.
pub struct Request<'a, H: Host> {
    /// The layer.
    pub layer: LayerId,
    /// The values of the layer's fields, by index. Missing ones count as [`Value::Empty`].
    pub values: &'a [Value<'a>],
    /// The flow that the traffic belongs to, at layers that have flows.
    pub flow: Option<&'a Flow<H>>,
    /// Flags that callouts find in [`ClassifyOut::flags`].
    pub flags: ClassifyOutFlags,
}

impl<'a, H: Host> Request<'a, H> {
    /// Traffic without a flow.
    #[must_use]
    pub const fn new(layer: LayerId, values: &'a [Value<'a>]) -> Self {
        Self {
            layer,
            values,
            flow: None,
            flags: ClassifyOutFlags::NONE,
        }
    }

    /// The same traffic, of this flow.
    #[must_use]
    pub const fn on_flow(mut self, flow: &'a Flow<H>) -> Self {
        self.flow = Some(flow);
        self
    }
}

impl<H: Host> Clone for Request<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Host> Copy for Request<'_, H> {}

impl<H: Host> fmt::Debug for Request<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("layer", &self.layer)
            .field("values", &self.values)
            .field("flow", &self.flow)
            .field("flags", &self.flags)
            .finish()
    }
}

/// A call of a callout's classify function, for the host to make.
pub struct ClassifyCall<'a, H: Host> {
    /// The callout.
    pub callout: CalloutView<'a, H>,
    /// The filter that matched.
    pub filter: &'a FilterEntry<H>,
    /// The callout's context of the flow at this layer, 0 for none.
    pub flow_context: u64,
    /// The layer.
    pub layer: LayerId,
}

impl<H: Host> fmt::Debug for ClassifyCall<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClassifyCall")
            .field("callout", &self.callout)
            .field("filter", &self.filter.id())
            .field("flow_context", &self.flow_context)
            .field("layer", &self.layer)
            .finish()
    }
}

/// What came of asking for a filter's callout.
pub(crate) enum Asked {
    /// It is not registered.
    Unregistered,
    /// It wants only flows that have its context.
    NotOnFlow,
    /// The filter was deleted meanwhile.
    Deleted,
    /// It was called with this flow context.
    Called(u64),
}

impl<H: Host> Engine<H> {
    /// Classifies traffic at a layer: `call` is made for each callout that has a say.
    ///
    /// The engine holds no lock meanwhile, and the filters are those that were
    /// in force when it began, apart from ones whose deletion has been notified.
    pub fn classify<F>(&self, request: &Request<'_, H>, call: F) -> Verdict
    where
        F: FnMut(&ClassifyCall<'_, H>, &mut ClassifyOut),
    {
        self.classify_recorded(request, &mut (), call)
    }

    /// As [`Engine::classify`], with a record of each step.
    pub fn classify_recorded<R, F>(
        &self,
        request: &Request<'_, H>,
        recorder: &mut R,
        mut call: F,
    ) -> Verdict
    where
        R: Recorder,
        F: FnMut(&ClassifyCall<'_, H>, &mut ClassifyOut),
    {
        let table = self.table.load();
        let mut arbiter = Arbiter::new();
        for sublayer in table
            .layer(request.layer)
            .map_or(&[][..], |layer| &layer.sublayers)
        {
            let decision = sublayer.matching(request.values).find_map(|(_, filter)| {
                self.evaluate(filter, sublayer.key, request, &arbiter, recorder, &mut call)
            });
            if let Some(decision) = decision {
                arbiter.combine(&decision, &self.options);
                if self.options.stop_on_hard_block && arbiter.is_hard_block() {
                    break;
                }
            }
        }
        let verdict = arbiter.verdict(&self.options);
        recorder.verdict(verdict);
        verdict
    }

    /// What a filter that matches decides; `None` if the next one is to be asked.
    fn evaluate<R, F>(
        &self,
        filter: &FilterEntry<H>,
        sublayer: Guid,
        request: &Request<'_, H>,
        arbiter: &Arbiter,
        recorder: &mut R,
        call: &mut F,
    ) -> Option<SubLayerDecision>
    where
        R: Recorder,
        F: FnMut(&ClassifyCall<'_, H>, &mut ClassifyOut),
    {
        let record = &filter.record;
        let flags = record.filter.flags;
        let static_decision = |decision, hard| SubLayerDecision {
            decision,
            hard,
            is_static: true,
            absorb: false,
            by: DecidedBy {
                filter: record.id,
                sublayer,
                callout: None,
            },
        };
        let mut step = |outcome| {
            if R::ENABLED {
                recorder.step(Step {
                    sublayer,
                    filter: record.id,
                    outcome,
                });
            }
        };

        match record.filter.action {
            Action::Permit => {
                step(Outcome::Static(Decision::Permit));
                let hard = flags.contains(FilterFlags::CLEAR_ACTION_RIGHT);
                return Some(static_decision(Decision::Permit, hard));
            }
            Action::Block => {
                step(Outcome::Static(Decision::Block));
                return Some(static_decision(Decision::Block, true));
            }
            _ => {}
        }

        let entry = arbiter.entry(&self.options, record.id, request.flags);
        let mut out = entry;
        match self.ask(filter, request.layer, request.flow, &mut out, call) {
            Asked::Unregistered => {
                let decision = self.without_callout(record.filter.action, flags);
                step(Outcome::Unregistered(
                    decision.map(|(decision, _)| decision),
                ));
                decision.map(|(decision, hard)| static_decision(decision, hard))
            }
            Asked::NotOnFlow => {
                if let Some(callout) = record.callout {
                    step(Outcome::NotOnFlow(callout));
                }
                None
            }
            Asked::Deleted => {
                step(Outcome::Deleted);
                None
            }
            Asked::Called(flow_context) => {
                let mut answer =
                    Answer::normalized(record.filter.action, out.action, &self.options);
                if !arbiter.writable() && answer == Answer::Decision(Decision::Permit) {
                    answer = Answer::Continue;
                }
                if let (true, Some(callout)) = (R::ENABLED, record.callout) {
                    step(Outcome::Called(Call {
                        callout,
                        flow_context,
                        entry,
                        exit: out,
                        answer,
                    }));
                }
                let Answer::Decision(decision) = answer else {
                    return None;
                };
                Some(SubLayerDecision {
                    decision,
                    hard: !out.rights.contains(Rights::ACTION_WRITE),
                    is_static: false,
                    absorb: decision == Decision::Block
                        && out.flags.contains(ClassifyOutFlags::ABSORB),
                    by: DecidedBy {
                        filter: record.id,
                        sublayer,
                        callout: record.callout,
                    },
                })
            }
        }
    }

    /// What a filter decides whose callout is not registered, and whether that
    /// is hard; `None` if the filter is skipped.
    pub(crate) const fn without_callout(
        &self,
        action: Action,
        flags: FilterFlags,
    ) -> Option<(Decision, bool)> {
        if matches!(action, Action::CalloutInspection) {
            None
        } else if flags.contains(FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED) {
            let hard = flags.contains(FilterFlags::CLEAR_ACTION_RIGHT);
            Some((Decision::Permit, hard))
        } else {
            Some((Decision::Block, self.options.unregistered_block_is_hard))
        }
    }

    /// Calls a filter's callout, if it is there and wants to be called.
    pub(crate) fn ask<F>(
        &self,
        filter: &FilterEntry<H>,
        layer: LayerId,
        flow: Option<&Flow<H>>,
        out: &mut ClassifyOut,
        call: &mut F,
    ) -> Asked
    where
        F: FnMut(&ClassifyCall<'_, H>, &mut ClassifyOut),
    {
        let Some(slot) = &filter.slot else {
            return Asked::Unregistered;
        };
        let registered = slot.registered();
        let Some(registered) = registered.as_deref() else {
            return Asked::Unregistered;
        };
        let Some(_callout_runs) = registered.enter() else {
            return Asked::Unregistered;
        };
        let Some(_filter_runs) = filter.running.enter() else {
            return Asked::Deleted;
        };
        let context = flow.and_then(|flow| ContextUse::begin(self, flow, layer, registered.id()));
        if context.is_none() && is_conditional(registered) {
            return Asked::NotOnFlow;
        }
        let flow_context = context.as_ref().map_or(0, |context| context.value);
        call(
            &ClassifyCall {
                callout: registered.view(),
                filter,
                flow_context,
                layer,
            },
            out,
        );
        Asked::Called(flow_context)
    }
}

const fn is_conditional<H: Host>(registered: &Registered<H>) -> bool {
    registered
        .registration()
        .flags
        .contains(CalloutFlags::CONDITIONAL_ON_FLOW)
}
