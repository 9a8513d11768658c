//! The redirect layers: what is asked for is shown, and what callouts made of it is done.
//!
//! The application goes on using the ends that it knows. The layers, and the wire, see the ends that the redirectors
//! chose: packets are rewritten on their way.

use std::net::IpAddr;

use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, Direction};

use super::flow::{EndpointKey, Flow, Redirected, State};
use super::host::{Host, Transit};
use super::indicate::{End, Filtering, Outcome};
use super::indicator::{Conversation, Details, Point};
use super::key::FlowKey;
use super::packet::{Packet, Transport};
use super::redirect::{Redirection, Request};
use super::report::Reason;
use super::rewrite::rewritten;

const fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u128,
        IpAddr::V6(address) => address.to_bits(),
    }
}

const fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

/// The end as the wire knows it: an IPv4-mapped address is an IPv4 one. Only a dual-mode socket has such an address.
const fn unmapped(end: End) -> End {
    End {
        address: end.address.to_canonical(),
        ..end
    }
}

impl<F: Filtering> Host<F> {
    /// What a proxy says of its next connection from a local end: that it serves a connection with these redirect
    /// records (`SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS`).
    pub fn set_redirect_records(&mut self, protocol: u8, local: End, records: Redirection) {
        self.records
            .insert((protocol, local.address, local.port), records);
    }

    /// The redirect records of a connection that was redirected to a socket of this host, by the handle of either
    /// end's flow (`SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS`).
    #[must_use]
    pub fn redirect_records(&self, flow_handle: u64) -> Option<&Redirection> {
        let entry = &self.flows.all[self.flow_with(flow_handle)?];
        let of = |entry: &Flow| entry.redirection.is_some();
        let redirected = if of(entry) {
            Some(entry)
        } else {
            entry.peer.map(|peer| &self.flows.all[peer])
        };
        redirected?
            .redirection
            .as_ref()
            .map(|redirected| &redirected.redirection)
    }

    /// Shows a bind to `ALE_BIND_REDIRECT`. `Some` if it does not go on.
    pub(super) fn bind_redirect(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        endpoint: Option<EndpointKey>,
    ) -> Option<Reason> {
        let conversation = self.flows.all[flow].conversation;
        let point = Point::BindRedirect;
        let local = self
            .indicator
            .end_of(point, &conversation, conversation.local_end());
        let nowhere = End {
            address: unspecified(local.address),
            port: 0,
        };
        let redirection = Redirection::new(Request::of(local, nowhere));
        let decided = self.ask_redirectors(flow, transit, point, redirection, endpoint);
        let redirection = match decided {
            Ok(redirection) => redirection?,
            Err(reason) => return Some(reason),
        };
        let to = unmapped(redirection.current().local);
        let local = conversation.local_end();
        if to == local || to.address.is_ipv4() != local.address.is_ipv4() {
            return None;
        }
        match endpoint.and_then(|key| self.endpoints.get_mut(&key)) {
            Some(endpoint) => {
                endpoint.conversation.local = bits(to.address);
                endpoint.conversation.local_port = to.port;
                endpoint.moved = Some(Box::new(redirection));
            }
            None => self.move_flow(flow, redirection),
        }
        None
    }

    /// Lets a flow begin where its endpoint was moved to.
    pub(super) fn follow_endpoint(&mut self, flow: usize, key: EndpointKey) {
        let moved = self
            .endpoints
            .get(&key)
            .and_then(|endpoint| endpoint.moved.clone());
        if let Some(redirection) = moved {
            self.move_flow(flow, *redirection);
        }
    }

    /// Shows a connection, or a first datagram, to `ALE_CONNECT_REDIRECT`.
    pub(super) fn connect_redirect(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
    ) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        if entry.direction != Direction::Outbound {
            return Ok(());
        }
        let point = Point::ConnectRedirect;
        let conversation = &entry.conversation;
        let (local, remote) = (conversation.local_end(), conversation.remote_end());
        let shown = |end| self.indicator.end_of(point, conversation, end);
        let asked = Request::of(shown(local), shown(remote));
        let proxied = (entry.conversation.protocol, local.address, local.port);
        let redirection = self.records.get(&proxied).map_or_else(
            || Redirection::new(asked),
            |records| Redirection::on_behalf(asked, records),
        );
        if let Some(redirection) = self.ask_redirectors(flow, transit, point, redirection, None)? {
            self.move_flow(flow, redirection);
        }
        Ok(())
    }

    /// What redirectors make of a request; `None` if nobody is asked.
    fn ask_redirectors(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        point: Point,
        mut redirection: Redirection,
        endpoint: Option<EndpointKey>,
    ) -> Result<Option<Redirection>, Reason> {
        let which = usize::from(point == Point::ConnectRedirect);
        if let Some(decided) = self.flows.all[flow].decided[which].take() {
            return Ok(Some(*decided));
        }
        let mut conversation = self.shown(flow, transit);
        conversation.has_peer = point == Point::ConnectRedirect;
        if !self.indicator.wants_of(point, &conversation) {
            return Ok(redirection.is_proxied().then_some(redirection));
        }
        let pend_handle = self.handle();
        let entry = &self.flows.all[flow];
        let endpoint_handle = endpoint
            .and_then(|key| self.endpoints.get(&key))
            .map_or(entry.endpoint_handle, |endpoint| endpoint.handle);
        let icmp_id_and_sequence = match transit.packet.transport {
            Transport::Icmp(icmp) => icmp.id_and_sequence,
            _ => None,
        };
        let details = Details {
            endpoint_handle,
            completion_handle: pend_handle,
            icmp_id_and_sequence,
            ..Details::new(Direction::Outbound)
        };
        match self
            .indicator
            .redirect(point, &conversation, &details, &mut redirection)
        {
            Outcome::Permit => Ok(Some(redirection)),
            Outcome::Pend => {
                Err(self.pend_redirection(pend_handle, point, redirection, flow, transit))
            }
            Outcome::Block | Outcome::Absorb => {
                let layer = self.indicator.layer_of(point, &conversation);
                self.indicator.filtering.redirection_ended(&redirection);
                self.kill(flow, layer);
                Err(Reason::Blocked(layer))
            }
        }
    }

    /// Gives a flow the ends that redirectors chose.
    fn move_flow(&mut self, flow: usize, redirection: Redirection) {
        let request = *redirection.current();
        let entry = &self.flows.all[flow];
        let mut conversation = entry.conversation;
        let original = entry
            .redirection
            .as_ref()
            .map_or(conversation, |redirected| redirected.original);
        let (local, remote) = (unmapped(request.local), unmapped(request.remote));
        let is_bind = redirection.original().remote.address.is_unspecified();
        let same_version =
            |end: End| end.address.is_ipv4() == conversation.local_end().address.is_ipv4();
        if !same_version(local) || !same_version(remote) {
            self.indicator.filtering.redirection_ended(&redirection);
            return;
        }
        if is_bind {
            conversation.local = bits(local.address);
            if original.local_end().port != 0 {
                conversation.local_port = local.port;
            }
        } else if redirection.is_redirected() {
            // The local side can't be changed at CONNECT_REDIRECT.
            conversation.remote = bits(remote.address);
            if original.remote_end().port != 0 {
                conversation.remote_port = remote.port;
            }
            conversation.remote_type = self.address_type(remote.address);
        } else if redirection.records().next().is_none() {
            return;
        }
        let (from, to) = (
            conversation.local_end().address,
            conversation.remote_end().address,
        );
        conversation.loopback = self.is_loopback(from, to);
        let entry = &mut self.flows.all[flow];
        entry.conversation = conversation;
        entry.redirection = Some(Box::new(Redirected {
            redirection,
            original,
        }));
        self.find_by_new_ends(flow, &conversation);
    }

    /// Lets packets between the new ends find the flow, and opens the other end if that is here.
    fn find_by_new_ends(&mut self, flow: usize, conversation: &Conversation) {
        let (key, local_is_low) = FlowKey::between(conversation);
        if !conversation.loopback || !self.setup.both_halves {
            self.flows.alias(key, flow);
            return;
        }
        let end = conversation.remote_end();
        let other = Conversation {
            local: conversation.remote,
            remote: conversation.local,
            local_port: conversation.remote_port,
            remote_port: conversation.local_port,
            local_type: conversation.remote_type,
            remote_type: conversation.local_type,
            identity: self.owner(end.address, end.port),
            ..*conversation
        };
        let report = self.flows.all[flow].report;
        let mut proxy = Flow::new(other, report, !local_is_low, Direction::Inbound, self.now);
        (proxy.mirrored, proxy.is_half, proxy.peer) = (true, true, Some(flow));
        let peer = self.flows.push(proxy);
        self.flows.alias(key, peer);
        self.flows.all[flow].peer = Some(peer);
    }

    /// Gives a flow that is over the ends back that its application knows.
    pub(super) fn restore(&mut self, flow: usize) {
        let Some(redirected) = self.flows.all[flow].redirection.take() else {
            return;
        };
        self.indicator
            .filtering
            .redirection_ended(&redirected.redirection);
        let entry = &mut self.flows.all[flow];
        let (key, _) = FlowKey::between(&entry.conversation);
        entry.conversation = redirected.original;
        let peer = if entry.is_half {
            None
        } else {
            entry.peer.take()
        };
        let (own, _) = FlowKey::between(&redirected.original);
        if key != own {
            self.flows.forget(&key);
        }
        if let Some(peer) = peer
            && self.flows.all[peer].state != State::Closed
        {
            self.close(peer, State::Closed);
        }
    }

    /// The packet with the ends that the layers see, if those differ from what it has.
    pub(super) fn translated(
        &self,
        flow: usize,
        packet: &Packet<'_>,
        outbound: bool,
    ) -> Option<Vec<u8>> {
        let entry = &self.flows.all[flow];
        entry.redirection.as_ref()?;
        let conversation = &entry.conversation;
        let local = (conversation.local, conversation.local_end().port);
        let remote = (conversation.remote, conversation.remote_end().port);
        let (source, destination) = if outbound {
            (local, remote)
        } else {
            (remote, local)
        };
        let is_so = (packet.source, packet.source_port) == source
            && (packet.destination, packet.destination_port) == destination;
        (!is_so).then(|| rewritten(packet, source, destination))
    }

    /// A connection that was redirected to a local process has to be one that the filters would also permit to where
    /// it was to go (`IS_HONORING_POLICY_AUTHORIZE`).
    pub(super) fn honors_policy(&mut self, flow: usize, transit: &Transit<'_>) -> bool {
        let entry = &self.flows.all[flow];
        let Some(redirected) = &entry.redirection else {
            return true;
        };
        if redirected.redirection.current().target_process == 0 {
            return true;
        }
        let conversation = redirected.original;
        let details = Details {
            flags: ConditionFlags::IS_HONORING_POLICY_AUTHORIZE,
            reauthorize: ReauthorizeReason::NONE,
            flow_handle: entry.handle,
            endpoint_handle: entry.endpoint_handle,
            ..Details::new(transit.direction())
        };
        self.indicator
            .classify(Point::Connect, &conversation, &details)
            == Outcome::Permit
    }
}
