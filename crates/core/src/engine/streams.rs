//! What the driver has to know of a flow to edit its stream, or to hold it.

use super::again::decision;
use super::{Parts, PolicySource, Portcullis};
use crate::flow::{Flow, FlowHandle, Transfer};
use crate::stream::{CourseHandle, Edits, Reach, STREAM_EFFECTS};
use portcullis_proto::Counter;
use portcullis_proto::effect::EffectSet;
use portcullis_proto::event::EventKind;

/// How a stream's data is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// As it comes.
    Plain,
    /// It is edited, inline as long as that goes.
    Edit(CourseHandle),
    /// It goes out of band from now on.
    OutOfBand(CourseHandle),
    /// There is no room for what a rule demands.
    NoRoom,
}

impl<P: Parts> Portcullis<P> {
    /// Whether a rule of the policy in force edits streams, or takes them out of band.
    pub fn treats_streams(&self) -> bool {
        self.effects_in_force().intersects(STREAM_EFFECTS)
    }

    fn effects_in_force(&self) -> EffectSet {
        self.policy
            .with(|policy, _| policy.map_or(EffectSet::NONE, |policy| policy.effect_set()))
    }

    /// How data of a flow is to be treated, `counted` bytes of which have been [inspected](Self::stream). `open` gives the stream
    /// a slot when it needs one for the first time; it is told the system's flow and which directions have begun before.
    pub fn treatment(
        &self,
        handle: Option<FlowHandle>,
        transfer: Transfer,
        counted: u64,
        open: impl FnOnce(FlowHandle, u64, [bool; 2]) -> Option<CourseHandle>,
    ) -> Treatment {
        let Some(handle) = handle else {
            return Treatment::Plain;
        };
        let set = self.effects_in_force();
        self.flows
            .with(handle, |flow| {
                let may_be_edited = set.intersects(Edits::KINDS);
                let is_edited = flow.decision.effects.intersects(Edits::KINDS);
                let out_of_band = flow.decision.out_of_band;
                // The name by which a rule is chosen stands in what that rule may change.
                let is_pending = may_be_edited && flow.awaits_host(transfer);
                let needs = is_edited || out_of_band || is_pending;
                if flow.course.is_none() && needs {
                    let mut passed = [flow.sent.bytes, flow.received.bytes];
                    if let Some(passed) = passed.get_mut(transfer as usize) {
                        *passed = passed.saturating_sub(counted.max(flow.collected));
                    }
                    flow.course = open(handle, flow.system_id, passed.map(|bytes| bytes > 0));
                }
                match flow.course {
                    None if is_edited => Treatment::NoRoom,
                    None => Treatment::Plain,
                    Some(course) if out_of_band || is_pending => Treatment::OutOfBand(course),
                    Some(course) => Treatment::Edit(course),
                }
            })
            .unwrap_or(Treatment::Plain)
    }

    /// A direction of a flow's stream has been changed at so many places.
    pub fn stream_edited(&self, handle: FlowHandle, transfer: Transfer, changes: u64) {
        if changes == 0 {
            return;
        }
        self.statistics.add(Counter::StreamsRewritten, changes);
        self.tell_of_flow(handle, |flow| {
            let is_first = flow.changes == [0; 2];
            if let Some(count) = flow.changes.get_mut(transfer as usize) {
                *count = count.saturating_add(changes);
            }
            is_first.then_some((EventKind::StreamEdited, flow.changes))
        });
    }

    /// A direction of a flow's stream has gone out of band.
    pub fn went_out_of_band(&self, handle: FlowHandle, transfer: Transfer) {
        self.tell_of_flow(handle, |_| {
            Some((EventKind::OutOfBand, [transfer as u64 + 1, 0]))
        });
    }

    /// Makes an event of what `what` says of a flow, if its events are made.
    fn tell_of_flow(
        &self,
        handle: FlowHandle,
        what: impl FnOnce(&mut Flow) -> Option<(EventKind, [u64; 2])>,
    ) {
        self.with_flow(handle, |flow, news| {
            if let Some((kind, value)) = what(flow).filter(|_| flow.reported) {
                let event = self.note(news, kind, flow.decision, flow.epoch);
                event.value = value.map(Into::into);
            }
        });
    }

    /// Nothing is collected any more of what the stack was told to collect last: it passes.
    pub fn stop_collecting(&self, handle: FlowHandle) {
        self.flows.with(handle, |flow| flow.collected = 0);
    }

    /// Takes the slot of a flow's stream from it: the flow ends.
    pub fn take_course(&self, handle: FlowHandle) -> Option<CourseHandle> {
        self.flows.with(handle, |flow| flow.course.take()).flatten()
    }

    /// Calls `with` with what the policy in force changes in a direction of a flow, also if that is another than the flow was
    /// decided by last: while one policy follows another, no data goes unchanged that both change.
    pub fn with_edits<T>(
        &self,
        handle: FlowHandle,
        transfer: Transfer,
        with: impl FnOnce(&Edits<'_>) -> T,
    ) -> T {
        self.policy.with(|policy, now| {
            let known = self.flows.with(handle, |flow| {
                let decision = if flow.epoch == now {
                    flow.decision
                } else {
                    decision(policy.as_ref(), flow, flow.host())
                };
                (decision, transfer.is_initiators(flow.direction))
            });
            let edits = known.and_then(|(decision, is_initiators)| {
                let kinds = decision.effects;
                let rule = decision.rule.filter(|_| kinds.intersects(Edits::KINDS))?;
                Some(Edits::new(policy?, rule, kinds, transfer, is_initiators).in_epoch(now))
            });
            with(&edits.unwrap_or(Edits::NONE))
        })
    }

    /// How far back what may follow the data of a stream that was last [inspected](Self::stream) matters.
    pub fn reach(&self, handle: FlowHandle, transfer: Transfer) -> Reach {
        let known = self.flows.with(handle, |flow| {
            if flow.awaits_host(transfer) {
                return Err(Reach::Host);
            }
            let state = flow.contents.get(transfer as usize).copied();
            Ok(state.filter(|_| flow.decision.content_dependent))
        });
        match known {
            None | Some(Ok(None)) => Reach::Bytes(0),
            Some(Err(reach)) => reach,
            Some(Ok(Some(state))) => self.policy.with(|policy, _| {
                Reach::Bytes(
                    policy
                        .map_or(0, |policy| policy.content_depth(state))
                        .into(),
                )
            }),
        }
    }
}
