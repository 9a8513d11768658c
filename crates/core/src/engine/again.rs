//! Deciding a followed flow again.

use super::{News, Parts, PolicySource, Portcullis};
use crate::flow::Flow;
use crate::policy::{ContentState, Decision, Host, PolicyView};
use portcullis_proto::Counter;
use portcullis_proto::event::EventKind;
use portcullis_proto::policy::Action;

/// What a policy, if there is one, decides about a flow that is meant for this host.
pub(super) fn decision(policy: Option<&PolicyView<'_>>, flow: &Flow, host: Host<'_>) -> Decision {
    policy.map_or(Decision::permit(), |policy| {
        let decision = policy.decide(&flow.connection(), host);
        decision.settled(flow.answer)
    })
}

impl<P: Parts> Portcullis<P> {
    /// Decides a flow with what is known now: its host was found, or found to be none (`found`), or the policy changed.
    /// `news` is the event that tells of it.
    pub(super) fn decide_again(&self, flow: &mut Flow, found: bool, news: &mut News) {
        self.policy
            .with(|policy, epoch| self.decide_by((policy.as_ref(), epoch), flow, found, news));
    }

    /// [`decide_again`](Self::decide_again) by the policy of this epoch.
    pub(super) fn decide_by(
        &self,
        (policy, epoch): (Option<&PolicyView<'_>>, u64),
        flow: &mut Flow,
        found: bool,
        news: &mut News,
    ) {
        let before = flow.decision;
        let decision = decision(policy, flow, flow.host());
        let has_changed = (decision.action, decision.rule) != (before.action, before.rule);
        let is_reported = self.is_reported(policy, decision);
        flow.decision = decision;
        if let Some(policy) = policy
            && !self
                .policy
                .decided((policy, epoch), &flow.connection(), decision)
        {
            flow.decision.action = Action::Block;
        }
        if flow.epoch != epoch {
            self.statistics.count(Counter::FlowsRedecided);
            // Another policy has other literals: what the old one's began with is forgotten.
            flow.contents = [ContentState::START; 2];
            flow.content = None;
            flow.epoch = epoch;
        }
        flow.reported |= is_reported;
        if let Some(policy) = policy
            && self.decide_by_content(flow, policy, news)
        {
            return;
        }
        let has_name = found && !flow.host_name().is_empty();
        let kind = if has_name {
            EventKind::HostName
        } else {
            EventKind::Reauthorize
        };
        if is_reported && (has_name || has_changed) {
            self.note(news, kind, decision, epoch);
        }
    }

    /// Whether a flow's data has yet to be decided about: its host was found, the policy changed, or rules look for contents.
    pub(super) fn is_undecided(&self, flow: &Flow, found: bool) -> bool {
        found || flow.decision.content_dependent || flow.epoch != self.policy.epoch()
    }
}
