//! Sockets and endpoints: binds, their release, and what an endpoint has carried when it closes.

use super::{EventSink, News, Parts, PolicySource, Portcullis, report};
use crate::connection::{Connection, Socket};
use crate::endpoint::EndpointTotals;
use crate::flow::{Flow, FlowHandle};
use crate::policy::Decision;
use portcullis_proto::Counter;
use portcullis_proto::event::{EventKind, EventRecord};
use portcullis_proto::policy::Direction;
use zerocopy::little_endian::{U16, U64};

impl<P: Parts> Portcullis<P> {
    /// Decides a bind, at `ALE_RESOURCE_ASSIGNMENT`. Without a rule about binds that matches it is permitted.
    pub fn bind(&self, socket: &Socket<'_>) -> Decision {
        let (decision, epoch, is_reported) = self.policy.with(|policy, epoch| {
            let decision = policy.map_or(Decision::permit(), |policy| {
                policy.decide_socket(socket.protocol, &socket.listener)
            });
            (decision, epoch, self.is_observed(policy.as_ref(), decision))
        });
        if !decision.is_permit() {
            self.statistics.count(Counter::BindsBlocked);
        }
        if is_reported {
            self.make(EventKind::Authorize, decision, epoch, |event| {
                report::socket(event, socket);
            });
        }
        decision
    }

    /// What a bind had assigned is released, at `ALE_RESOURCE_RELEASE`.
    pub fn released(&self, socket: &Socket<'_>) {
        self.tell(EventKind::Released, |event| report::socket(event, socket));
    }

    /// Counts a followed flow to an endpoint of the system. To be called before the flow can end.
    pub fn flow_joins(&self, handle: FlowHandle, endpoint: u64) {
        let Some(endpoints) = self.flows.endpoints(endpoint).filter(|_| endpoint != 0) else {
            return;
        };
        self.flows.with(handle, |flow| {
            if endpoints.join(endpoint, flow.direction) {
                flow.endpoint = endpoint;
            } else {
                self.statistics.count(Counter::EndpointTableFull);
            }
        });
    }

    /// An endpoint closed, at `ALE_ENDPOINT_CLOSURE`. The connection's remote side is unspecified where it had none, and
    /// its direction is not looked at. `endpoint` is the system's handle, 0 if unknown.
    ///
    /// If one of its flows is still to end, its end is told then.
    pub fn endpoint_closed(&self, connection: &Connection<'_>, endpoint: u64) {
        self.statistics.count(Counter::EndpointsClosed);
        let totals = self
            .flows
            .endpoints(endpoint)
            .filter(|_| endpoint != 0)
            .map_or_else(
                || Some(EndpointTotals::default()),
                |endpoints| endpoints.close(endpoint),
            );
        if let Some(totals) = totals {
            self.tell(EventKind::EndpointClosed, |event| {
                report::endpoint(event, connection, &totals);
            });
        }
    }

    /// A flow leaves its endpoint. If that has closed before, and this was its last flow, `news` is the event that tells of
    /// it.
    pub(super) fn leave_endpoint(&self, flow: &Flow, news: &mut News) {
        let endpoints = self.flows.endpoints(flow.endpoint);
        let totals = endpoints
            .and_then(|endpoints| endpoints.leave(flow.endpoint, flow.sent, flow.received));
        let is_told = || self.is_told(false) || self.events.is_watched();
        if let Some(totals) = totals.filter(|_| is_told()) {
            let (kind, epoch) = (EventKind::EndpointClosed, self.policy.epoch());
            let event = self.note(news, kind, Decision::permit(), epoch);
            event.verdict = 0;
            report::endpoint(event, &flow.connection(), &totals);
            if totals.flows > 1 {
                event.remote_address = [0; 16];
                event.remote_port = U16::ZERO;
            }
        }
    }

    /// Whether the policy wants every event: of connections, or of what the layers show besides.
    pub(super) fn is_told(&self, is_observation: bool) -> bool {
        self.policy.with(|policy, _| {
            policy.is_some_and(|policy| {
                if is_observation {
                    policy.observes()
                } else {
                    policy.events_all()
                }
            })
        })
    }

    /// Sends an event without a decision, if the policy wants it.
    pub(super) fn tell(&self, kind: EventKind, fill: impl FnOnce(&mut EventRecord)) {
        if self.is_told(kind.is_observation()) {
            self.make(kind, Decision::permit(), self.policy.epoch(), |event| {
                event.verdict = 0;
                fill(event);
            });
        }
    }
}

impl EndpointTotals {
    /// Puts the totals into an event.
    pub(super) fn report(&self, event: &mut EventRecord) {
        event.direction = self.direction.map_or(0, Direction::raw);
        event.packets_sent = U64::new(self.sent.packets);
        event.packets_received = U64::new(self.received.packets);
        event.bytes_sent = U64::new(self.sent.bytes);
        event.bytes_received = U64::new(self.received.bytes);
        event.value = [U64::new(self.flows.into()), U64::ZERO];
    }
}
