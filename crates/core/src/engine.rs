//! What the driver's callouts call.
//!
//! A connection's way: [`authorize`](Portcullis::authorize) at `ALE_AUTH_CONNECT` or `ALE_AUTH_RECV_ACCEPT`,
//! [`flow_established`](Portcullis::flow_established) at `ALE_FLOW_ESTABLISHED`, then [`stream`](Portcullis::stream) or
//! [`datagrams`](Portcullis::datagrams) with the handle that WFP keeps as the flow's context, and
//! [`flow_deleted`](Portcullis::flow_deleted) once at the end. [`listen`](Portcullis::listen) and
//! [`endpoint_closed`](Portcullis::endpoint_closed) stand alone.
//!
//! All may be called on any number of processors at once, up to `DISPATCH_LEVEL`. Nothing allocates or waits but for
//! the lock of the flow at hand, and for that of the event ring. Without a policy there is no opinion about who may
//! connect, accept or listen ([`Decision::undecided`]), and everything else is permitted.

mod again;
mod asking;
mod content;
mod datagrams;
mod host;
mod packets;
mod redirect;
mod report;
mod resource;
mod streams;

pub use packets::{Discarded, IcmpError};
pub use streams::Treatment;

pub use asking::{Asked, Question};

use crate::ask::Subject;
use crate::connection::{Connection, Listener, TCP};
use crate::flow::{Flow, FlowHandle, FlowStorage, FlowTable, Transfer};
use crate::inspect::{AssemblyPool, AssemblySlot};
use crate::policy::{ContentState, Decision, Host, PolicyView};
use crate::redirect::Way;
use crate::statistics::Statistics;
use crate::stream::Edits;
use lock_api::RawMutex;
use portcullis_proto::Counter;
use portcullis_proto::event::{EventKind, EventRecord, HostSource, Operation};
use portcullis_proto::policy::Action;
pub use redirect::Detour;

/// Where the policy in force comes from.
pub trait PolicySource {
    /// The epoch of the policy in force: it rises whenever a policy is set or withdrawn. Called for every indication.
    fn epoch(&self) -> u64;

    /// Calls `with` with the policy in force, if there is one, and its epoch. The policy stays for the call.
    fn with<T>(&self, with: impl FnOnce(Option<PolicyView<'_>>, u64) -> T) -> T;

    /// A connection was decided, or decided again, under `policy` of this epoch: what the rule does to its packets begins,
    /// changes or ends. `false`: it cannot be done, and without it the connection may not be. Called with the flow's lock held.
    fn decided(
        &self,
        _policy: (&PolicyView<'_>, u64),
        _connection: &Connection<'_>,
        _decision: Decision,
    ) -> bool {
        true
    }

    /// A flow has ended: so does what is done to its packets. Called with the flow's lock held.
    fn ended(&self, _connection: &Connection<'_>) {}
}

/// The time.
pub trait Clock {
    /// Units of 100 ns since 1601-01-01 UTC (Windows system time).
    fn now(&self) -> u64;
}

/// Where events go.
pub trait EventSink {
    /// Takes an event, all set but its sequence number. `false`: it was dropped.
    fn write(&self, event: &EventRecord) -> bool;

    /// Whether somebody watches, who is to see every event, whatever the policy says of events.
    fn is_watched(&self) -> bool {
        false
    }

    /// Shows an event to who watches.
    fn watch(&self, _event: &EventRecord) {}
}

/// Data on its way in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indication {
    /// Which way.
    pub transfer: Transfer,
    /// Payload bytes in all. A piece of data that could not be mapped is missing from the iterator, not from here.
    pub bytes: u64,
    /// The sender will send no more (a FIN or a reset), or nothing more can be waited for.
    pub is_end: bool,
    /// Where it is looked at.
    pub look: Look,
}

/// Where data is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// In a classify.
    Inline,
    /// In a classify of a stream, which can have the data collected before it decides.
    Collecting,
    /// By a thread; the data waits meanwhile.
    OutOfBand,
}

/// What is to be done with a stream's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamVerdict {
    /// Let it through.
    Permit,
    /// Have it collected, and show all of it again with what follows. Only for [`Look::Collecting`].
    NeedMore,
    /// Reset the connection.
    DropConnection,
}

/// What is to be done with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramVerdict {
    /// Let it through.
    Permit,
    /// Discard it.
    Block,
}

/// Why a flow is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFollowed {
    /// The flow was decided for good, and goes on unwatched.
    Unwatched,
    /// The flow must not go on unwatched: abort it (`FwpsFlowAbort0`).
    MustAbort,
}

/// The event that a call makes, if it makes one. It is sent when no lock is held.
type News = Option<EventRecord>;

/// What a driver decides with.
pub trait Parts {
    /// The lock of flows and QUIC connections.
    type Mutex: RawMutex;
    /// The storage for flows.
    type Flows: FlowStorage<Self::Mutex>;
    /// The storage for [QUIC connections](crate::inspect::quic) whose host name is sought.
    type Assemblies: AsRef<[AssemblySlot<Self::Mutex>]>;
    /// Where the policy in force comes from.
    type Policy: PolicySource;
    /// Where events go.
    type Events: EventSink;
    /// What time it is.
    type Clock: Clock;
}

/// The decisions of a driver: policy, flows, events and counters in one place.
pub struct Portcullis<P: Parts> {
    flows: FlowTable<P::Mutex, P::Flows>,
    assemblies: AssemblyPool<P::Mutex, P::Assemblies>,
    statistics: Statistics,
    policy: P::Policy,
    events: P::Events,
    clock: P::Clock,
}

impl<P: Parts> Portcullis<P> {
    /// Puts the parts together.
    pub const fn new(
        flows: FlowTable<P::Mutex, P::Flows>,
        assemblies: AssemblyPool<P::Mutex, P::Assemblies>,
        policy: P::Policy,
        events: P::Events,
        clock: P::Clock,
    ) -> Self {
        Self {
            flows,
            assemblies,
            statistics: Statistics::new(),
            policy,
            events,
            clock,
        }
    }

    /// The followed flows.
    pub const fn flows(&self) -> &FlowTable<P::Mutex, P::Flows> {
        &self.flows
    }

    /// The QUIC connections whose host name is sought.
    pub const fn assemblies(&self) -> &AssemblyPool<P::Mutex, P::Assemblies> {
        &self.assemblies
    }

    /// The counters.
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The policy source.
    pub const fn policy(&self) -> &P::Policy {
        &self.policy
    }

    /// The event sink.
    pub const fn events(&self) -> &P::Events {
        &self.events
    }

    /// Decides a connection at `ALE_AUTH_CONNECT` or `ALE_AUTH_RECV_ACCEPT`.
    ///
    /// `is_reauthorization`: WFP asks again about a connection it asked about before. The answer is made anew. A flow
    /// whose host is known then decides for itself at its next indication. If its packets take another interface than
    /// before, whatever it remembers is decided again by that one.
    ///
    /// If the host matters and no further flow can be followed, the host will never be known: the connection is decided
    /// without it. A rule that asks decides by its default; see [`authorize_or_ask`](Self::authorize_or_ask).
    pub fn authorize(
        &self,
        operation: Operation,
        connection: &Connection<'_>,
        is_reauthorization: bool,
    ) -> Decision {
        self.authorize_on(Way::Straight, operation, connection, is_reauthorization)
    }

    /// [`authorize`](Self::authorize), of a connection that came this way. Its remote side is where it was to go, before
    /// anybody redirected it.
    ///
    /// A connection whose rule sends it to a proxy, and that goes straight all the same, because no proxy is there or
    /// something failed, is blocked unless the rule says otherwise.
    pub fn authorize_on(
        &self,
        way: Way,
        operation: Operation,
        connection: &Connection<'_>,
        is_reauthorization: bool,
    ) -> Decision {
        self.authorize_or_ask(way, operation, connection, is_reauthorization, |question| {
            Asked::Decided(question.decision.ask.otherwise)
        })
    }

    /// Decides a listener at `ALE_AUTH_LISTEN`.
    pub fn listen(&self, listener: &Listener<'_>) -> Decision {
        self.listen_or_ask(listener, |question| {
            Asked::Decided(question.decision.ask.otherwise)
        })
    }

    /// Begins to follow a flow at `ALE_FLOW_ESTABLISHED`. The handle is to become the flow's context, at the STREAM
    /// callout for TCP and at the DATAGRAM callout for anything else; if that fails, say so with
    /// [`flow_abandoned`](Self::flow_abandoned).
    ///
    /// The connection's `flow` is given back by [`FlowTable::for_each`].
    ///
    /// # Errors
    /// [`NotFollowed`]: the table is full.
    pub fn flow_established(&self, connection: &Connection<'_>) -> Result<FlowHandle, NotFollowed> {
        self.flow_answered(connection, None)
    }

    /// [`flow_established`](Self::flow_established) for a flow about which somebody was asked: the answer holds wherever
    /// a rule asks about it again. [`flow_deleted`](Self::flow_deleted) tells when it is needed no more.
    ///
    /// # Errors
    /// [`NotFollowed`]: the table is full.
    pub fn flow_answered(
        &self,
        connection: &Connection<'_>,
        answer: Option<Action>,
    ) -> Result<FlowHandle, NotFollowed> {
        let host = Host::of(connection);
        let (decision, epoch, is_reported) = self.policy.with(|policy, epoch| {
            policy.map_or_else(
                || (Decision::permit(), epoch, self.events.is_watched()),
                |policy| {
                    let decision = policy.decide(connection, host).settled(answer);
                    // It was decided before; if the policy is another now, its packets are treated by it.
                    let _ = self.policy.decided((&policy, epoch), connection, decision);
                    (decision, epoch, self.is_reported(Some(&policy), decision))
                },
            )
        });
        let inserted = self.flows.insert(connection, |flow| {
            flow.decision = decision;
            flow.answer = answer;
            flow.epoch = epoch;
            flow.reported = is_reported;
            flow.host_source = (host == Host::Never).then_some(HostSource::NotRecognized);
            if flow.connection().application.is_truncated() {
                self.statistics.count(Counter::PathTruncated);
            }
        });
        let Some(handle) = inserted else {
            self.statistics.count(Counter::FlowTableFull);
            return Err(self.not_followed(connection, answer));
        };
        self.statistics.count(Counter::FlowsCreated);
        if decision.host_dependent {
            self.statistics.count(Counter::PendingHost);
        }
        Ok(handle)
    }

    /// A flow's context could not be associated: the flow is not followed after all. Whether it may go on all the same.
    #[must_use]
    pub fn flow_abandoned(&self, handle: FlowHandle) -> NotFollowed {
        self.statistics.count(Counter::FlowAssociateFailed);
        let mut closed = None;
        let removed = self.flows.remove(handle, |flow| {
            self.assemblies.release(&mut flow.quic);
            self.leave_endpoint(flow, &mut closed);
            self.not_followed(&flow.connection(), flow.answer)
        });
        // Without a flow it has ended already.
        let Some(verdict) = removed else {
            return NotFollowed::Unwatched;
        };
        self.statistics.count(Counter::FlowsDeleted);
        if let Some(event) = &closed {
            self.send(event);
        }
        verdict
    }

    /// What is to become of a flow that cannot be followed. Its host will never be known, nothing is found in its data,
    /// and nothing is changed in it: it goes on if the policy has no use for any of that.
    fn not_followed(&self, connection: &Connection<'_>, answer: Option<Action>) -> NotFollowed {
        let may_go_on = self.policy.with(|policy, _| {
            policy.is_none_or(|policy| {
                let decision = policy.decide(connection, Host::Never).settled(answer);
                let is_edited =
                    connection.protocol == TCP && decision.effects.intersects(Edits::KINDS);
                decision.is_permit() && !decision.content_dependent && !is_edited
            })
        });
        if may_go_on {
            return NotFollowed::Unwatched;
        }
        self.statistics.count(Counter::FlowRefused);
        NotFollowed::MustAbort
    }

    /// Data of a TCP flow, at STREAM. `data` is only asked for bytes while the flow's host name is sought, and where
    /// rules look for contents.
    ///
    /// While a flow's host is sought that decides, what its initiator says is collected where that can be done, so that nothing
    /// of it arrives before the decision. The sniffer bounds that: it gives up behind [`MAX_STREAM`](crate::inspect::MAX_STREAM).
    ///
    /// `handle` is the flow's context; without one, or with one that names no flow, the data passes.
    pub fn stream<'d>(
        &self,
        handle: Option<FlowHandle>,
        indication: Indication,
        data: impl IntoIterator<Item = &'d [u8], IntoIter: Clone>,
    ) -> StreamVerdict {
        let verdict = self.with_context(handle, |flow, news| {
            let verdict = self.judge_stream(flow, indication, data.into_iter(), news);
            if indication.look == Look::OutOfBand
                && let Some(event) = news
            {
                event.flags |= EventRecord::OUT_OF_BAND;
            }
            verdict
        });
        verdict.unwrap_or(StreamVerdict::Permit)
    }

    fn judge_stream<'d>(
        &self,
        flow: &mut Flow,
        indication: Indication,
        data: impl Iterator<Item = &'d [u8]> + Clone,
        news: &mut News,
    ) -> StreamVerdict {
        let (indication, seen) = flow.take_collected(indication);
        let data = behind(data, seen);
        flow.count(indication.transfer, indication.bytes);
        if flow.dropped {
            return StreamVerdict::DropConnection;
        }
        let found = flow.host_source.is_none() && self.sniff(flow, indication, data.clone());
        if self.is_undecided(flow, found) {
            // Decided and looked into by one policy: another that came in between would let it pass unseen.
            self.policy.with(|policy, epoch| {
                if found || flow.epoch != epoch {
                    self.decide_by((policy.as_ref(), epoch), flow, found, news);
                }
                if let Some(policy) = policy.filter(|_| flow.decision.content_dependent) {
                    let side = indication.transfer as usize;
                    let kept = flow.contents.get(side);
                    let mut state = kept.copied().unwrap_or(ContentState::START);
                    self.find_content(&policy, flow, &mut state, data, news);
                    if let Some(kept) = flow.contents.get_mut(side) {
                        *kept = state;
                    }
                }
            });
        }
        if flow.is_blocked() {
            flow.dropped = true;
            self.statistics.count(Counter::StreamsDropped);
            return StreamVerdict::DropConnection;
        }
        let may_collect = indication.look == Look::Collecting && !indication.is_end;
        if may_collect && indication.bytes > 0 && flow.awaits_host(indication.transfer) {
            flow.collected = seen.saturating_add(indication.bytes);
            self.statistics.count(Counter::StreamsCollected);
            return StreamVerdict::NeedMore;
        }
        StreamVerdict::Permit
    }

    /// A followed flow ended: `flowDeleteFn`. Returns what was answered about, if somebody was asked about the flow.
    #[allow(clippy::must_use_candidate, reason = "few ask")]
    pub fn flow_deleted(&self, handle: FlowHandle) -> Option<Subject> {
        let (mut ended, mut closed) = (None, None);
        let last = self.flows.remove(handle, |flow| {
            self.assemblies.release(&mut flow.quic);
            self.policy.ended(&flow.connection());
            if flow.reported {
                let kind = EventKind::FlowClosed;
                let event = self.note(&mut ended, kind, flow.decision, flow.epoch);
                report::flow(event, flow);
                event.value = flow.changes.map(Into::into);
            }
            self.leave_endpoint(flow, &mut closed);
            let subject = flow.answer.map(|_| Subject::connection(&flow.connection()));
            (flow.host_source.is_none(), subject)
        });
        let Some((is_unknown, subject)) = last else {
            self.statistics.count(Counter::FlowStale);
            return None;
        };
        self.statistics.count(Counter::FlowsDeleted);
        if is_unknown {
            self.statistics.count(Counter::HostNeverSent);
        }
        for event in [&ended, &closed].into_iter().flatten() {
            self.send(event);
        }
        subject
    }

    /// Whether a decision makes an event.
    fn is_reported(&self, policy: Option<&PolicyView<'_>>, decision: Decision) -> bool {
        policy.is_some_and(|policy| policy.events_all() || decision.log) || self.events.is_watched()
    }

    /// Whether a decision about something else than a connection makes an event.
    fn is_observed(&self, policy: Option<&PolicyView<'_>>, decision: Decision) -> bool {
        policy.is_some_and(|policy| policy.observes() || decision.log) || self.events.is_watched()
    }

    /// [`with_flow`](Self::with_flow) for a flow's context, which may be missing.
    fn with_context<T>(
        &self,
        handle: Option<FlowHandle>,
        with: impl FnOnce(&mut Flow, &mut News) -> T,
    ) -> Option<T> {
        let Some(handle) = handle else {
            self.statistics.count(Counter::FlowMissing);
            return None;
        };
        let result = self.with_flow(handle, with);
        if result.is_none() {
            self.statistics.count(Counter::FlowStale);
        }
        result
    }

    /// Calls `with` with the flow, under its lock, and sends the event that it makes after that. `None`: the handle names
    /// no followed flow.
    fn with_flow<T>(
        &self,
        handle: FlowHandle,
        with: impl FnOnce(&mut Flow, &mut News) -> T,
    ) -> Option<T> {
        let mut news = None;
        let result = self.flows.with(handle, |flow| {
            let result = with(flow, &mut news);
            if let Some(event) = &mut news {
                report::flow(event, flow);
            }
            result
        });
        if let Some(event) = &news {
            self.send(event);
        }
        result
    }

    fn count_decision(&self, decision: Decision) {
        self.statistics.count(match decision.action {
            Action::Permit => Counter::Permitted,
            Action::Block => Counter::Blocked,
            Action::Ask => Counter::Asked,
        });
        if decision.rule.is_none() && !decision.host_dependent {
            self.statistics.count(Counter::DefaultAction);
        }
    }

    /// Begins an event where it is to be. A function of its own: an event on its way to a place would take as much of the
    /// stack again, in every classify that may make one.
    #[inline(never)]
    fn note<'n>(
        &self,
        news: &'n mut News,
        kind: EventKind,
        decision: Decision,
        epoch: u64,
    ) -> &'n mut EventRecord {
        news.insert(report::event(kind, decision, epoch, self.clock.now()))
    }

    /// Makes an event and sends it. No lock is held.
    fn make(
        &self,
        kind: EventKind,
        decision: Decision,
        epoch: u64,
        fill: impl FnOnce(&mut EventRecord),
    ) {
        let mut news = None;
        let event = self.note(&mut news, kind, decision, epoch);
        fill(event);
        self.send(event);
    }

    fn send(&self, event: &EventRecord) {
        if self.events.is_watched() {
            self.events.watch(event);
            let is_logged = event.flags.get() & EventRecord::LOGGED != 0;
            if !is_logged && !self.is_told(event.is_observation()) {
                return;
            }
        }
        let counter = if self.events.write(event) {
            Counter::EventsWritten
        } else {
            Counter::EventsDropped
        };
        self.statistics.count(counter);
    }
}

/// What comes behind the first `seen` bytes of these pieces.
pub fn behind<'d>(
    pieces: impl Iterator<Item = &'d [u8]> + Clone,
    seen: u64,
) -> impl Iterator<Item = &'d [u8]> + Clone {
    let mut left = usize::try_from(seen).unwrap_or(usize::MAX);
    pieces.map(move |piece| {
        let here = left.min(piece.len());
        left -= here;
        piece.get(here..).unwrap_or_default()
    })
}
