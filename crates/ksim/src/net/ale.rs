//! Application layer enforcement: who may connect, listen and accept, and how flows begin and end.

use std::cmp::Reverse;

use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, Direction, LayerId};

use super::flow::State;
use super::host::{Host, Transit};
use super::indicate::{Filtering, Outcome};
use super::indicator::{Conversation, Details, Point};
use super::key::is_connection;
use super::packet::Transport;
use super::pend::Closing;
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
        self.indicator
            .layer_of(authorizing_point(entry.direction), &entry.conversation)
    }

    /// Asks whether the flow may be.
    pub(super) fn authorize(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let (conversation, direction) = (self.shown(flow, transit), entry.direction);
        let report = entry.report;
        let is_global = self.is_global(&conversation, direction);
        let (handle, is_new) = if is_global {
            self.global_flow(&conversation)
        } else {
            let info = conversation.info(direction);
            (self.indicator.filtering.flow_created(&info), true)
        };
        self.reports[report.0].handles.push(handle);
        let epoch = self
            .indicator
            .epoch_of(authorizing_point(direction), &conversation);
        let profile = self.indicator.interfaces.of(conversation.link).profile;
        let entry = &mut self.flows.all[flow];
        (entry.handle, entry.epoch) = (handle, epoch);
        (entry.is_global, entry.original_profile) = (is_global, profile);
        entry.reauthorize = ReauthorizeReason::NONE;
        let completion_handle = self.handle();
        let outcome = if !is_new {
            let reason = ReauthorizeReason::NEW_INBOUND_MCAST_BCAST_PACKET;
            self.ask(flow, transit, 0, reason)
        } else if self.honors_policy(flow, transit) {
            self.ask(flow, transit, completion_handle, ReauthorizeReason::NONE)
        } else {
            Outcome::Block
        };
        match outcome {
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
                let point = authorizing_point(direction);
                Err(self.pend(completion_handle, point, None, Some((flow, transit))))
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
        if let Transport::Icmp(icmp) = transit.packet.transport {
            details.original_icmp_type = Some(u16::from(icmp.kind));
        }
        if let Some(redirected) = &self.flows.all[flow].redirection {
            let redirection = &redirected.redirection;
            details.redirection = Some(redirection);
            if redirection.is_redirected() {
                details.flags |= ConditionFlags::IS_CONNECTION_REDIRECTED;
            }
            if redirection.is_proxied() {
                details.flags |= ConditionFlags::IS_PROXY_CONNECTION;
            }
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
        let options = self.indicator.filtering.classify_options();
        self.customize(flow, options);
        let entry = &self.flows.all[flow];
        let (handle, expires) = (entry.handle, self.now.saturating_add(entry.lifetime));
        let key = self.endpoint_key(&entry.conversation);
        if let Some(endpoint) = self.endpoints.get_mut(&key) {
            endpoint.flows += 1;
        }
        self.idle.push(Reverse((expires, flow, handle)));
        let entry = &self.flows.all[flow];
        let version = entry.conversation.version;
        if entry.is_global && !self.groups.establish(version) {
            return Ok(());
        }
        self.establish(flow, transit)
    }

    /// Indicates `ALE_FLOW_ESTABLISHED`. A block there ends the flow.
    pub(super) fn establish(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let direction = entry.direction;
        if !self
            .indicator
            .wants_of(Point::Established, &entry.conversation)
        {
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
        let layer = self.indicator.layer_of(Point::Established, &conversation);
        self.kill(flow, layer);
        Err(Reason::Blocked(layer))
    }

    /// Asks again about a flow if the filters that authorized it have changed.
    pub(super) fn recheck(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let point = authorizing_point(entry.direction);
        let epoch = self.indicator.epoch_of(point, &entry.conversation);
        let mut reason = entry.reauthorize;
        if epoch == entry.epoch && reason == ReauthorizeReason::NONE {
            return Ok(());
        }
        if epoch != entry.epoch {
            reason |= ReauthorizeReason::POLICY_CHANGE;
        }
        let entry = &mut self.flows.all[flow];
        (entry.epoch, entry.reauthorize) = (epoch, ReauthorizeReason::NONE);
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
        let conversation = entry.conversation;
        let mut handle = std::mem::take(&mut entry.handle);
        let (endpoint, parent) = (entry.endpoint_handle, entry.parent_endpoint_handle);
        entry.state = state;
        entry.admits_others = false;
        entry.decided = [None, None];
        if std::mem::take(&mut entry.is_global) {
            // The data flow is that of others too.
            handle = 0;
        }
        if let Some(connection) = entry.connection.take() {
            self.counters.stream_bytes_skipped += connection.skipped();
        }
        if is_connection(conversation.protocol) {
            let entry = &mut self.flows.all[flow];
            (entry.endpoint_handle, entry.bound) = (0, false);
            let assigned = std::mem::take(&mut entry.assigned);
            let closing = Closing {
                conversation,
                endpoint,
                parent,
                release: assigned && parent == 0,
                flow_handle: handle,
            };
            // A closure for each flow that was asked about, a release for each bind.
            if endpoint != 0 && handle != 0 {
                self.close_endpoint(closing);
            } else {
                self.closed(&closing);
            }
            handle = 0;
        } else if was_live {
            self.leave_endpoint(&conversation);
        }
        if handle != 0 {
            self.indicator.filtering.flow_ended(handle);
        }
        self.restore(flow);
    }

    /// A datagram socket that only ever asked closes with the last of its flows.
    fn leave_endpoint(&mut self, conversation: &Conversation) {
        let key = self.endpoint_key(conversation);
        let Some(endpoint) = self.endpoints.get_mut(&key) else {
            return;
        };
        endpoint.flows = endpoint.flows.saturating_sub(1);
        if endpoint.flows == 0
            && !endpoint.serves
            && let Some(endpoint) = self.endpoints.remove(&key)
        {
            self.close_socket(&endpoint);
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
                self.end_global_flows();
                return false;
            };
            self.close_socket(&endpoint);
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
