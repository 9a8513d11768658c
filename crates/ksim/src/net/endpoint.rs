//! Endpoints: how they are bound and listen, and how they close.

use std::net::IpAddr;

use wfp_schema::codes::AddressType;
use wfp_schema::{ConditionFlags, Direction, IpVersion, LayerId};

use super::flow::{Endpoint, EndpointKey, State};
use super::host::{Host, Transit};
use super::indicate::{Filtering, Outcome, Ticks};
use super::indicator::{Conversation, Details, Point};
use super::key::{Link, is_connection};
use super::pend::Closing;
use super::report::Reason;

/// A socket that is bound without a packet that would show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Socket {
    /// IP version.
    pub version: IpVersion,
    /// IP protocol number.
    pub protocol: u8,
    /// The address, `None` for every one of the host.
    pub address: Option<IpAddr>,
    /// The port; the one that was chosen, if any was asked for.
    pub port: u16,
    /// Whether any port was asked for.
    pub any_port: bool,
    /// Whether it is a raw socket.
    pub raw: bool,
    /// Whether it receives what is not for the host (`SIO_RCVALL`).
    pub promiscuous: bool,
    /// Whether it listens for connections.
    pub listens: bool,
    /// The link of its address.
    pub link: Link,
}

/// What became of a [`Socket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is bound, and listens if it was to; this is its endpoint handle.
    Bound(u64),
    /// The layer blocked it.
    Blocked(LayerId),
    /// A callout pended it at the layer.
    Pended(LayerId),
}

impl<F: Filtering> Host<F> {
    /// Binds a socket, as an application does. Packets for it then find it bound.
    pub fn open(&mut self, now: Ticks, socket: &Socket) -> Opened {
        self.advance_to(now);
        let conversation = self.socket(socket);
        let key = EndpointKey::of(&conversation);
        if !self.endpoints.contains_key(&key) {
            let handle = self.handle();
            self.endpoints
                .insert(key, Endpoint::new(conversation, handle));
        }
        if let Some(endpoint) = self.endpoints.get_mut(&key) {
            endpoint.serves = true;
            endpoint.will_listen = socket.listens;
        }
        let mut flags = ConditionFlags::NONE;
        if socket.any_port {
            flags |= ConditionFlags::IS_WILDCARD_BIND;
        }
        self.ready(key, socket.listens, flags, None);
        let endpoint = &self.endpoints[&key];
        match (endpoint.blocked, endpoint.pended) {
            (Some(layer), _) => Opened::Blocked(layer),
            (None, Some(layer)) => Opened::Pended(layer),
            (None, None) => Opened::Bound(endpoint.handle),
        }
    }

    fn socket(&self, socket: &Socket) -> Conversation {
        let any = match socket.version {
            IpVersion::V4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpVersion::V6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        let address = socket.address.unwrap_or(any);
        let local = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        Conversation {
            version: socket.version,
            protocol: socket.protocol,
            local,
            remote: 0,
            local_port: socket.port,
            remote_port: 0,
            local_type: self.address_type(address),
            remote_type: AddressType::Unspecified,
            loopback: address.is_loopback(),
            link: socket.link,
            has_peer: false,
            any_address: address.is_unspecified(),
            raw: socket.raw,
            ipsec: false,
            dual: self.setup.dual_mode && socket.version == IpVersion::V4,
            promiscuous: socket.promiscuous,
            identity: self.owner(address, socket.port),
        }
    }

    /// Which endpoint a flow with this local end belongs to: one bound to its address, or one bound to all.
    pub(super) fn endpoint_key(&self, conversation: &Conversation) -> EndpointKey {
        let exact = EndpointKey::of(conversation);
        let any = EndpointKey {
            address: 0,
            ..exact
        };
        if !self.endpoints.contains_key(&exact) && self.endpoints.contains_key(&any) {
            any
        } else {
            exact
        }
    }

    /// Sees to the local endpoint: a connecting TCP socket is its flow's own; listening and datagram
    /// sockets are shared. Endpoints are bound (and listen) when the first packet shows that they exist; a shared
    /// one that was refused stays refused.
    pub(super) fn bind(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let (conversation, direction) = (entry.conversation, entry.direction);
        let inbound = direction == Direction::Inbound;
        let connection = is_connection(conversation.protocol);
        if connection && !inbound {
            return self.bind_own(flow, transit);
        }
        let key = self.endpoint_key(&conversation);
        if !self.endpoints.contains_key(&key) {
            let handle = self.handle();
            self.endpoints
                .insert(key, Endpoint::new(conversation, handle));
        }
        if let Some(endpoint) = self.endpoints.get_mut(&key) {
            endpoint.serves |= inbound;
            if let Some(layer) = endpoint.pended {
                return Err(Reason::FlowBlocked(layer));
            }
        }
        if !self.endpoints[&key].bound
            && self.endpoints[&key].blocked.is_none()
            && let Some(reason) = self.bind_redirect(flow, transit, Some(key))
        {
            return Err(reason);
        }
        self.ready(key, connection, ConditionFlags::NONE, Some((flow, transit)));
        let endpoint = &self.endpoints[&key];
        let (blocked, shared, pended) = (endpoint.blocked, endpoint.handle, endpoint.pended);
        if pended.is_some() {
            return Err(Reason::AwaitsAuthorization);
        }
        let own = if connection { self.handle() } else { shared };
        let entry = &mut self.flows.all[flow];
        entry.endpoint_handle = own;
        entry.parent_endpoint_handle = if connection { shared } else { 0 };
        match blocked {
            None => {
                self.follow_endpoint(flow, key);
                Ok(())
            }
            Some(layer) => {
                entry.state = State::Blocked(layer);
                if connection {
                    (entry.endpoint_handle, entry.parent_endpoint_handle) = (0, 0);
                }
                Err(Reason::Blocked(layer))
            }
        }
    }

    /// Binds the socket of a connection.
    fn bind_own(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        if self.flows.all[flow].bound {
            return Ok(());
        }
        if self.flows.all[flow].endpoint_handle == 0 {
            let handle = self.handle();
            let entry = &mut self.flows.all[flow];
            (entry.endpoint_handle, entry.parent_endpoint_handle) = (handle, 0);
        }
        if let Some(reason) = self.bind_redirect(flow, transit, None) {
            return Err(reason);
        }
        let entry = &mut self.flows.all[flow];
        entry.assigned = true;
        let (conversation, endpoint_handle) = (entry.conversation, entry.endpoint_handle);
        let completion_handle = self.handle();
        let details = Details {
            endpoint_handle,
            completion_handle,
            ..Details::new(Direction::Outbound)
        };
        match self.classify_socket(Point::Bind, &conversation, &details) {
            Outcome::Permit => {
                self.flows.all[flow].bound = true;
                Ok(())
            }
            Outcome::Pend => {
                let packet = Some((flow, transit));
                Err(self.pend(completion_handle, Point::Bind, None, packet))
            }
            Outcome::Block | Outcome::Absorb => {
                let layer = self.indicator.layer_of(Point::Bind, &conversation);
                self.kill(flow, layer);
                Err(Reason::Blocked(layer))
            }
        }
    }

    /// Lets a shared endpoint be bound and, if it is to, listen, as far as it has not yet.
    pub(super) fn ready(
        &mut self,
        key: EndpointKey,
        listens: bool,
        flags: ConditionFlags,
        packet: Option<(usize, &Transit<'_>)>,
    ) {
        for point in [Point::Bind, Point::Listen] {
            let endpoint = &self.endpoints[&key];
            let done = match point {
                Point::Bind => endpoint.bound,
                _ => endpoint.listens || !listens,
            };
            if done || endpoint.blocked.is_some() {
                continue;
            }
            let (conversation, endpoint_handle) = (endpoint.conversation, endpoint.handle);
            let completion_handle = self.handle();
            let details = Details {
                endpoint_handle,
                completion_handle,
                flags: if point == Point::Bind {
                    flags
                } else {
                    ConditionFlags::NONE
                },
                ..Details::new(Direction::Outbound)
            };
            let outcome = self.classify_socket(point, &conversation, &details);
            let layer = self.indicator.layer_of(point, &conversation);
            let Some(endpoint) = self.endpoints.get_mut(&key) else {
                return;
            };
            endpoint.bound = true;
            endpoint.listens |= point == Point::Listen;
            match outcome {
                Outcome::Permit => {}
                Outcome::Pend => {
                    endpoint.pended = Some(layer);
                    self.pend(completion_handle, point, Some(key), packet);
                    return;
                }
                Outcome::Block | Outcome::Absorb => endpoint.blocked = Some(layer),
            }
        }
    }

    /// Asks about a bind or a listen, which have no peer.
    pub(super) fn classify_socket(
        &mut self,
        point: Point,
        conversation: &Conversation,
        details: &Details<'_>,
    ) -> Outcome {
        self.indicator
            .classify(point, &without_peer(conversation), details)
    }

    /// Closes a shared endpoint.
    pub(super) fn close_socket(&mut self, endpoint: &Endpoint) {
        self.close_endpoint(Closing {
            conversation: without_peer(&endpoint.conversation),
            endpoint: endpoint.handle,
            parent: 0,
            release: endpoint.bound,
            flow_handle: 0,
        });
    }
}

/// The conversation of a socket that has no peer.
const fn without_peer(conversation: &Conversation) -> Conversation {
    let mut socket = *conversation;
    socket.has_peer = false;
    socket
}
