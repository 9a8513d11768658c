//! Looking for literals in a flow's data, and deciding by them.

use super::{News, Parts, Portcullis};
use crate::flow::Flow;
use crate::policy::{ContentState, Decision, PolicyView};
use portcullis_proto::Counter;
use portcullis_proto::event::EventKind;

impl<P: Parts> Portcullis<P> {
    /// Looks for what rules look for in a flow's data, by the policy that has decided the flow. If it is there it decides the
    /// flow for good, or, while the host may still save it, as soon as that is known. `news` is the event that tells of it.
    pub(super) fn find_content<'d>(
        &self,
        policy: &PolicyView<'_>,
        flow: &mut Flow,
        state: &mut ContentState,
        data: impl IntoIterator<Item = &'d [u8]>,
        news: &mut News,
    ) {
        let mut found = flow.content;
        let connection = flow.connection();
        'data: for piece in data {
            let mut rest = piece;
            // Each match is of an earlier rule than the one before, and a rule that decides ends the search.
            while !rest.is_empty() {
                let limit = found.map_or(flow.decision.rule, |found| Some(found.rule));
                let (next, left) = policy.find_content(state, rest, &connection, limit);
                rest = left;
                found = next.or(found);
                if found.is_some() && !flow.decision.host_dependent {
                    break 'data;
                }
            }
        }
        flow.content = found;
        self.decide_by_content(flow, policy, news);
    }

    /// Decides a flow in whose data a literal was found, unless a rule before that permits it, or its host may yet.
    /// Whether that made an event.
    pub(super) fn decide_by_content(
        &self,
        flow: &mut Flow,
        policy: &PolicyView<'_>,
        news: &mut News,
    ) -> bool {
        if flow.decision.host_dependent {
            return false;
        }
        let Some(found) = flow.content.take() else {
            return false;
        };
        let comes_first = flow.decision.rule.is_none_or(|rule| found.rule < rule);
        if !flow.decision.is_permit() || !comes_first {
            return false;
        }
        self.statistics.count(Counter::ContentMatched);
        flow.decision = Decision::content(found);
        let is_reported = self.is_reported(Some(policy), flow.decision);
        flow.reported |= is_reported;
        if is_reported {
            let event = self.note(news, EventKind::Content, flow.decision, flow.epoch);
            event.value = [u64::from(found.content).into(), 0.into()];
        }
        is_reported
    }
}
