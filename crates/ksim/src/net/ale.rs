//! Application layer enforcement: who may connect, listen and accept, and how flows begin and end.

use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, Direction, LayerId};

use super::flow::{Endpoint, EndpointKey, State};
use super::host::{Host, IDLE_TIMEOUT, Transit};
use super::indicate::{Filtering, Outcome};
use super::indicator::{Conversation, Details, Indicator, Point};
use super::inject::Pended;
use super::key::is_connection;
use super::packet::Transport;
use super::report::Reason;
use super::tcp::{Connection, Surroundings};

/// The layer that authorizes flows of a direction.
pub(super) const fn authorizing_point(direction: Direction) -> Point {
    match direction {
        Direction::Outbound => Point::Connect,
        Direction::Inbound => Point::Accept,
    }
}

impl<F: Filtering> Host<F> {
    pub(super) fn authorizing_layer(&self, flow: usize) -> LayerId {
        let entry = &self.flows.all[flow];
        self.indicator.layer(
            authorizing_point(entry.direction),
            entry.conversation.version,
        )
    }

    /// Sees to the local endpoint: a connecting TCP socket is its flow's own; listening and datagram
    /// sockets are shared. Endpoints are bound (and listen) when the first packet shows that they exist; a shared
    /// one that was refused stays refused.
    pub(super) fn bind(&mut self, flow: usize) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let (conversation, direction) = (entry.conversation, entry.direction);
        let inbound = direction == Direction::Inbound;
        let connection = is_connection(conversation.protocol);
        if connection && !inbound && entry.endpoint_handle != 0 {
            // Bound by a packet that did not get as far as ALE.
            return Ok(());
        }
        let handle = self.handle();
        if connection && !inbound {
            let entry = &mut self.flows.all[flow];
            (entry.endpoint_handle, entry.parent_endpoint_handle) = (handle, 0);
            let Some(layer) = bound(&mut self.indicator, Point::Bind, &conversation, handle) else {
                return Ok(());
            };
            self.kill(flow, layer);
            return Err(Reason::Blocked(layer));
        }
        let indicator = &mut self.indicator;
        let endpoint = self
            .endpoints
            .entry(EndpointKey::of(&conversation))
            .or_insert_with(|| Endpoint {
                conversation,
                handle,
                blocked: bound(indicator, Point::Bind, &conversation, handle),
                listens: false,
                flows: 0,
                serves: false,
            });
        endpoint.serves |= inbound;
        if connection && !endpoint.listens && endpoint.blocked.is_none() {
            endpoint.listens = true;
            endpoint.blocked = bound(indicator, Point::Listen, &conversation, endpoint.handle);
        }
        let (blocked, shared) = (endpoint.blocked, endpoint.handle);
        let own = if connection { self.handle() } else { shared };
        let entry = &mut self.flows.all[flow];
        entry.endpoint_handle = own;
        entry.parent_endpoint_handle = if connection { shared } else { 0 };
        match blocked {
            None => Ok(()),
            Some(layer) => {
                entry.state = State::Blocked(layer);
                Err(Reason::Blocked(layer))
            }
        }
    }

    /// Asks whether the flow may be.
    pub(super) fn authorize(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let (conversation, direction) = (self.shown(flow, transit), entry.direction);
        let handle = self
            .indicator
            .filtering
            .flow_created(&conversation.info(direction));
        let report = entry.report;
        self.reports[report.0].handles.push(handle);
        let epoch = self
            .indicator
            .epoch(authorizing_point(direction), conversation.version);
        let profile = self.indicator.profile;
        let entry = &mut self.flows.all[flow];
        (entry.handle, entry.epoch) = (handle, epoch);
        (entry.profile, entry.asked_in_profile) = (profile, profile);
        let completion_handle = self.handle();
        let reauthorize = ReauthorizeReason::NONE;
        match self.ask(flow, transit, completion_handle, reauthorize) {
            Outcome::Permit => self.begin(flow, transit),
            Outcome::Block => {
                let layer = self.authorizing_layer(flow);
                self.kill(flow, layer);
                Err(Reason::Blocked(layer))
            }
            Outcome::Absorb => {
                let layer = self.authorizing_layer(flow);
                self.close(flow, State::New);
                Err(Reason::Absorbed(layer))
            }
            Outcome::Pend => {
                self.flows.all[flow].state = State::Pended;
                self.pended
                    .push(Pended::new(completion_handle, flow, transit));
                Err(Reason::AwaitsAuthorization)
            }
        }
    }

    /// Classifies at the layer that authorizes the flow.
    pub(super) fn ask(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        completion_handle: u64,
        reauthorize: ReauthorizeReason,
    ) -> Outcome {
        let direction = self.flows.all[flow].direction;
        let point = authorizing_point(direction);
        let conversation = self.shown(flow, transit);
        let mut details = self.details(flow, transit, point);
        details.direction = direction;
        details.completion_handle = completion_handle;
        details.reauthorize = reauthorize;
        if reauthorize != ReauthorizeReason::NONE {
            details.flags = ConditionFlags::IS_REAUTHORIZE;
            details.packet_direction = Some(transit.direction());
        }
        // connect() of TCP comes before any packet; what joins midway may go the other way.
        let connects = point == Point::Connect && is_connection(conversation.protocol);
        let crosses = transit.direction() != direction && reauthorize == ReauthorizeReason::NONE;
        if connects || crosses {
            details.packet = None;
            details.header_sizes = None;
        }
        self.indicator.classify(point, &conversation, &details)
    }

    /// The flow has been authorized.
    pub(super) fn begin(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &mut self.flows.all[flow];
        entry.state = State::Live;
        if is_connection(entry.conversation.protocol) {
            let initial = match transit.packet.transport {
                Transport::Tcp(tcp) if tcp.opens() => Some(tcp.sequence),
                Transport::Tcp(tcp) if tcp.has(super::packet::tcp_flag::SYN) => {
                    Some(tcp.acknowledgment.wrapping_sub(1))
                }
                _ => None,
            };
            self.counters.joined_midway += u64::from(initial.is_none());
            entry.connection = Some(Box::new(Connection::new(initial)));
            return Ok(());
        }
        let handle = entry.handle;
        let key = EndpointKey::of(&entry.conversation);
        if let Some(endpoint) = self.endpoints.get_mut(&key) {
            endpoint.flows += 1;
        }
        self.idle.push_back((self.now + IDLE_TIMEOUT, flow, handle));
        self.establish(flow, transit)
    }

    /// Indicates `ALE_FLOW_ESTABLISHED`. A block there ends the flow.
    pub(super) fn establish(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let (direction, version) = (entry.direction, entry.conversation.version);
        if !self.indicator.wants(Point::Established, version) {
            return Ok(());
        }
        let conversation = self.shown(flow, transit);
        let mut details = self.details(flow, transit, Point::Established);
        details.direction = direction;
        if transit.direction() != direction {
            details.packet = None;
        }
        if self
            .indicator
            .classify(Point::Established, &conversation, &details)
            == Outcome::Permit
        {
            return Ok(());
        }
        let layer = self.indicator.layer(Point::Established, version);
        self.kill(flow, layer);
        Err(Reason::Blocked(layer))
    }

    /// Asks again about a flow if the filters that authorized it have changed, or the network profile has.
    pub(super) fn recheck(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let point = authorizing_point(entry.direction);
        let epoch = self.indicator.epoch(point, entry.conversation.version);
        let profile = self.indicator.profile;
        let mut reason = ReauthorizeReason::NONE;
        if epoch != entry.epoch {
            reason = reason.union(ReauthorizeReason::POLICY_CHANGE);
        }
        if profile != entry.asked_in_profile {
            reason = reason.union(ReauthorizeReason::PROFILE_CROSSING);
        }
        if reason == ReauthorizeReason::NONE {
            return Ok(());
        }
        let entry = &mut self.flows.all[flow];
        (entry.epoch, entry.asked_in_profile) = (epoch, profile);
        let layer = self.authorizing_layer(flow);
        match self.ask(flow, transit, 0, reason) {
            Outcome::Permit => Ok(()),
            Outcome::Absorb | Outcome::Pend => Err(Reason::Absorbed(layer)),
            Outcome::Block => {
                self.kill(flow, layer);
                Err(Reason::Blocked(layer))
            }
        }
    }

    /// Ends a flow because of a block.
    pub(super) fn kill(&mut self, flow: usize, layer: LayerId) {
        let report = self.flows.all[flow].report;
        self.reports[report.0].blocked_at.get_or_insert(layer);
        self.close(flow, State::Blocked(layer));
    }

    /// Ends a flow: the endpoint closes, then the data flow goes with its contexts.
    pub(super) fn close(&mut self, flow: usize, state: State) {
        let entry = &mut self.flows.all[flow];
        let was_live = entry.state == State::Live;
        let (conversation, handle) = (entry.conversation, std::mem::take(&mut entry.handle));
        let (endpoint, parent) = (entry.endpoint_handle, entry.parent_endpoint_handle);
        entry.state = state;
        if let Some(connection) = entry.connection.take() {
            self.counters.stream_bytes_skipped += connection.skipped();
        }
        if is_connection(conversation.protocol) {
            self.flows.all[flow].endpoint_handle = 0;
            // A closure for each flow that was asked about, a release for each bind.
            if endpoint != 0 && handle != 0 {
                unbound(
                    &mut self.indicator,
                    Point::Closure,
                    &conversation,
                    endpoint,
                    parent,
                );
            }
            if endpoint != 0 && parent == 0 {
                unbound(
                    &mut self.indicator,
                    Point::Release,
                    &conversation,
                    endpoint,
                    0,
                );
            }
        } else if was_live {
            self.leave_endpoint(&conversation);
        }
        if handle != 0 {
            self.indicator.filtering.flow_ended(handle);
        }
    }

    /// A datagram socket that only ever asked closes with the last of its flows.
    fn leave_endpoint(&mut self, conversation: &Conversation) {
        let key = EndpointKey::of(conversation);
        let Some(endpoint) = self.endpoints.get_mut(&key) else {
            return;
        };
        endpoint.flows = endpoint.flows.saturating_sub(1);
        if endpoint.flows == 0
            && !endpoint.serves
            && let Some(endpoint) = self.endpoints.remove(&key)
        {
            close_endpoint(&mut self.indicator, &endpoint);
        }
    }

    /// Ends everything, as a shut-down would: what waits in streams is indicated, each flow ends, each
    /// endpoint closes, and pending packets are lost. The host may go on afterwards.
    pub fn finish(&mut self) {
        while self.finish_some(usize::MAX) {}
    }

    /// As [`finish`](Self::finish), but ends `most` flows, or closes `most` endpoints, and returns whether there is
    /// more to do: whoever reads what callouts report can do so in between.
    pub fn finish_some(&mut self, most: usize) -> bool {
        let from = self.finished;
        self.finished = from.saturating_add(most).min(self.flows.all.len());
        for flow in from..self.finished {
            self.finish_stream(flow);
            let entry = &self.flows.all[flow];
            let after = match entry.state {
                State::Live if entry.connection.is_some() => State::Closed,
                State::Live | State::Pended => State::New,
                other => other,
            };
            self.close(flow, after);
        }
        if self.finished < self.flows.all.len() {
            return true;
        }
        for _ in 0..most {
            let Some((_, endpoint)) = self.endpoints.pop_first() else {
                self.finished = 0;
                self.idle.clear();
                self.drop_pending();
                return false;
            };
            close_endpoint(&mut self.indicator, &endpoint);
        }
        true
    }

    fn finish_stream(&mut self, flow: usize) {
        let entry = &mut self.flows.all[flow];
        let Some(mut connection) = entry.connection.take() else {
            return;
        };
        let (conversation, direction, handle) = (entry.conversation, entry.direction, entry.handle);
        let details = Details {
            flow_handle: handle,
            ..Details::new(direction)
        };
        if connection.established {
            let mut around = Surroundings {
                indicator: &mut self.indicator,
                conversation: &conversation,
                details,
            };
            let mut delivered = super::stream::Delivered::default();
            connection.give_up(&mut around, &mut delivered);
        }
        self.flows.all[flow].connection = Some(connection);
    }
}

/// Asks about a bind or a listen; the layer if it was blocked. Nothing waits for a bind or a listen here, so
/// one that a callout pends does not happen.
fn bound<F: Filtering>(
    indicator: &mut Indicator<F>,
    point: Point,
    conversation: &Conversation,
    endpoint_handle: u64,
) -> Option<LayerId> {
    let details = Details {
        endpoint_handle,
        ..Details::new(Direction::Outbound)
    };
    let outcome = indicator.classify(point, &socket_of(conversation), &details);
    (outcome != Outcome::Permit).then(|| indicator.layer(point, conversation.version))
}

fn unbound<F: Filtering>(
    indicator: &mut Indicator<F>,
    point: Point,
    conversation: &Conversation,
    endpoint_handle: u64,
    parent_endpoint_handle: u64,
) {
    let details = Details {
        endpoint_handle,
        parent_endpoint_handle,
        ..Details::new(Direction::Outbound)
    };
    indicator.classify(point, conversation, &details);
}

fn close_endpoint<F: Filtering>(indicator: &mut Indicator<F>, endpoint: &Endpoint) {
    let conversation = socket_of(&endpoint.conversation);
    unbound(indicator, Point::Closure, &conversation, endpoint.handle, 0);
    unbound(indicator, Point::Release, &conversation, endpoint.handle, 0);
}

/// The conversation of a socket that has no peer.
const fn socket_of(conversation: &Conversation) -> Conversation {
    let mut socket = *conversation;
    socket.has_peer = false;
    socket
}
