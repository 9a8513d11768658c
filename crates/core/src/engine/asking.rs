//! Decisions that somebody is asked about, and looking at flows again when the policy has changed.

use super::{EventSink, Parts, PolicySource, Portcullis, report};
use crate::connection::{Connection, Listener};
use crate::policy::{Decision, Host, PolicyView};
use crate::redirect::Way;
use portcullis_proto::Counter;
use portcullis_proto::event::{EventKind, EventRecord, Operation};
use portcullis_proto::policy::Action;

/// An operation about which somebody is to be asked.
#[derive(Debug)]
pub struct Question<'e> {
    /// The decision, whose action is [`Action::Ask`].
    pub decision: Decision,
    /// The question, all but its number and its deadline.
    pub event: &'e mut EventRecord,
    /// Whether it makes events.
    pub is_reported: bool,
}

/// What becomes of such an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It was answered before, or it cannot be asked about: this is the verdict.
    Decided(Action),
    /// It is held, or was held before. The answer comes later.
    Held,
    /// It is not decided here: the same operation is authorized once more, and asked about there. It passes here, and nothing
    /// is told.
    Elsewhere,
}

impl<P: Parts> Portcullis<P> {
    /// [`authorize_on`](Self::authorize_on) for who can ask: `ask` is called if the rule that matches says so. Where it holds
    /// the operation the decision's action stays [`Action::Ask`].
    pub fn authorize_or_ask(
        &self,
        way: Way,
        operation: Operation,
        connection: &Connection<'_>,
        is_reauthorization: bool,
        ask: impl FnOnce(Question<'_>) -> Asked,
    ) -> Decision {
        let decide = |policy: PolicyView<'_>, epoch| {
            let mut decision = policy.decide(connection, Host::of(connection));
            if decision.host_dependent && self.flows.is_full() && !is_reauthorization {
                decision = policy.decide(connection, Host::Never);
            }
            if way == Way::Straight && operation == Operation::Connect {
                self.require_proxy(&policy, connection, &mut decision);
            }
            if !self.policy.decided((&policy, epoch), connection, decision) {
                decision.action = Action::Block;
            }
            decision
        };
        let describe = |event: &mut EventRecord| {
            report::authorize(event, operation, connection, is_reauthorization);
            if let Way::Redirected(target) = way {
                report::target(event, target);
            }
        };
        let decision = self.decide_or_ask(decide, describe, ask);
        if is_reauthorization && decision.action == Action::Permit {
            self.follow_interface(connection);
        }
        decision
    }

    /// Whether a flow with this identifier of the system's is followed.
    #[must_use]
    pub fn is_followed(&self, system_flow: u64) -> bool {
        self.flows.find(system_flow).is_some()
    }

    /// The packets of a followed flow may take another interface than before: then it is decided by that.
    #[inline(never)]
    fn follow_interface(&self, connection: &Connection<'_>) {
        let Some(handle) = self.flows.find(connection.flow) else {
            return;
        };
        self.with_flow(handle, |flow, news| {
            if flow.interface == connection.interface {
                return;
            }
            flow.interface = connection.interface;
            let matters = self
                .policy
                .with(|policy, _| policy.is_some_and(|policy| policy.asks_for_interfaces()));
            if matters {
                self.statistics.count(Counter::FlowsMoved);
                self.decide_again(flow, false, news);
            }
        });
    }

    /// [`listen`](Self::listen) for who can ask; as [`authorize_or_ask`](Self::authorize_or_ask).
    pub fn listen_or_ask(
        &self,
        listener: &Listener<'_>,
        ask: impl FnOnce(Question<'_>) -> Asked,
    ) -> Decision {
        self.decide_or_ask(
            |policy, _| policy.decide_listener(listener),
            |event| report::listener(event, listener),
            ask,
        )
    }

    fn decide_or_ask(
        &self,
        decide: impl FnOnce(PolicyView<'_>, u64) -> Decision,
        describe: impl FnOnce(&mut EventRecord),
        ask: impl FnOnce(Question<'_>) -> Asked,
    ) -> Decision {
        let (decision, epoch, is_reported) = self.policy.with(|policy, epoch| {
            let Some(policy) = policy else {
                self.statistics.count(Counter::NoPolicy);
                return (Decision::undecided(), epoch, self.events.is_watched());
            };
            let decision = decide(policy, epoch);
            (decision, epoch, self.is_reported(Some(&policy), decision))
        });
        let asks = decision.action == Action::Ask;
        if !asks && !is_reported {
            self.count_decision(decision);
            return decision;
        }
        let mut news = None;
        let event = self.note(&mut news, EventKind::Authorize, decision, epoch);
        describe(event);
        let mut settled = decision;
        if asks {
            let question = Question {
                decision,
                event: &mut *event,
                is_reported,
            };
            match ask(question) {
                Asked::Decided(action) => {
                    settled = decision.settled(Some(action));
                    event.kind = EventKind::Authorize.raw();
                    event.verdict = action.raw();
                }
                Asked::Held => {}
                Asked::Elsewhere => return decision.settled(Some(Action::Permit)),
            }
        }
        // What is held makes its events when that is certain, and before it can be answered.
        if settled.action != Action::Ask {
            self.count_decision(settled);
            if is_reported {
                self.send(event);
            }
        }
        settled
    }

    /// Puts an event of the caller's own into the sink.
    pub fn report(&self, event: &EventRecord) {
        self.send(event);
    }

    /// Decides every followed flow by the policy in force, if it was decided by another. `end` is called for each one that
    /// may not go on, with the system's identifier of it and no lock held: the flow is to be aborted (`FwpsFlowAbort0`).
    ///
    /// Each query of a DNS flow is decided for itself, so these go on.
    pub fn reexamine(&self, mut end: impl FnMut(u64)) {
        self.flows.for_each(|followed| {
            let is_ended = self.with_flow(followed.handle, |flow, news| {
                if flow.epoch == self.policy.epoch() || flow.dropped || flow.is_dns() {
                    return false;
                }
                self.decide_again(flow, false, news);
                flow.dropped = flow.is_blocked();
                flow.dropped
            });
            if is_ended == Some(true) {
                self.statistics.count(Counter::FlowsEnded);
                end(followed.system_flow);
            }
        });
    }
}
