//! Flows as the stack keeps them.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;
use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{Direction, LayerId};

use super::host::{Arrival, IDLE_TIMEOUT};
use super::indicate::Ticks;
use super::indicator::Conversation;
use super::key::{FlowKey, Link};
use super::packet::Packet;
use super::redirect::Redirection;
use super::report::FlowIndex;
use super::tcp::Connection;

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not authorized: the next packet asks for it.
    New,
    /// A callout pended the authorization.
    Pended,
    /// Authorized.
    Live,
    /// Blocked at the layer.
    Blocked(LayerId),
    /// A connection that is over.
    Closed,
}

/// A flow.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Flow {
    pub(super) conversation: Conversation,
    pub(super) report: FlowIndex,
    /// Whether the key's low end is the local one.
    pub(super) low_is_local: bool,
    pub(super) direction: Direction,
    pub(super) state: State,
    /// [`super::Filtering::flow_created`]'s number while the data flow lasts, else 0.
    pub(super) handle: u64,
    pub(super) endpoint_handle: u64,
    /// Whether the flow's own endpoint has been bound.
    pub(super) bound: bool,
    /// Whether its bind was asked about, so that there is something to release.
    pub(super) assigned: bool,
    pub(super) parent_endpoint_handle: u64,
    /// The epoch of the authorizing layer when it authorized.
    pub(super) epoch: u64,
    pub(super) last_seen: Ticks,
    /// Sequence number of the last SYN without ACK, to tell its repeats from a new connection.
    pub(super) syn: Option<u32>,
    pub(super) connection: Option<Box<Connection>>,
    /// Where packets that this end of a loopback flow sends are received.
    pub(super) peer: Option<usize>,
    /// Whether both ends of the flow have the same key.
    pub(super) is_half: bool,
    /// Whether the report counts it from the other end.
    pub(super) mirrored: bool,
    /// Whether its handle is that of all inbound multicast and broadcast.
    pub(super) is_global: bool,
    /// Whether it is outbound multicast or broadcast, which only outbound packets keep alive.
    pub(super) to_group: bool,
    /// Whether answers of others than its remote end belong to it.
    pub(super) admits_others: bool,
    /// How long it lasts without a packet.
    pub(super) lifetime: Ticks,
    /// Why it is to be authorized again.
    pub(super) reauthorize: ReauthorizeReason,
    pub(super) arrival: Option<Link>,
    pub(super) next_hop: Option<Link>,
    pub(super) original_profile: Option<u32>,
    pub(super) redirection: Option<Box<Redirected>>,
    /// What callouts made of the bind and of the connect, where that has been decided already.
    pub(super) decided: [Option<Box<Redirection>>; 2],
}

/// A flow whose layers show other ends than its application knows.
#[derive(Debug)]
pub(super) struct Redirected {
    pub(super) redirection: Redirection,
    /// What the application knows.
    pub(super) original: Conversation,
}

impl Flow {
    pub(super) const fn new(
        conversation: Conversation,
        report: FlowIndex,
        low_is_local: bool,
        direction: Direction,
        now: Ticks,
    ) -> Self {
        Self {
            conversation,
            report,
            low_is_local,
            direction,
            state: State::New,
            handle: 0,
            endpoint_handle: 0,
            bound: false,
            assigned: false,
            parent_endpoint_handle: 0,
            epoch: 0,
            last_seen: now,
            syn: None,
            connection: None,
            peer: None,
            is_half: false,
            mirrored: false,
            is_global: false,
            to_group: false,
            admits_others: false,
            lifetime: IDLE_TIMEOUT,
            reauthorize: ReauthorizeReason::NONE,
            arrival: None,
            next_hop: None,
            original_profile: None,
            redirection: None,
            decided: [None, None],
        }
    }

    /// Whether a packet of a redirected flow comes from this host's end, as the layers or the application know it.
    pub(super) fn sends(&self, packet: &Packet<'_>) -> bool {
        let source = (packet.source, packet.source_port);
        let is_end = |conversation: &Conversation| {
            source == (conversation.local, conversation.local_end().port)
        };
        is_end(&self.conversation)
            || self
                .redirection
                .as_ref()
                .is_some_and(|redirected| is_end(&redirected.original))
    }

    /// How its packets come.
    pub(super) const fn arrived(&self) -> Arrival {
        Arrival {
            link: self.conversation.link,
            interface: self.arrival,
            ipsec: self.conversation.ipsec,
        }
    }

    /// When it falls idle unless a packet comes.
    pub(super) const fn expires(&self) -> Ticks {
        self.last_seen.saturating_add(self.lifetime)
    }

    /// Which of the report's two counts a packet belongs to.
    pub(super) const fn side(&self, outbound: bool) -> usize {
        if outbound == self.mirrored { 1 } else { 0 }
    }
}

/// All flows of a host, by key and in the order of their first packets.
#[derive(Debug, Default)]
pub(super) struct Flows {
    by_key: HashMap<FlowKey, usize, FxBuildHasher>,
    reports: HashMap<FlowKey, FlowIndex, FxBuildHasher>,
    pub(super) all: Vec<Flow>,
}

impl Flows {
    pub(super) fn find(&self, key: &FlowKey) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    pub(super) fn find_report(&self, key: &FlowKey) -> Option<FlowIndex> {
        self.reports.get(key).copied()
    }

    pub(super) fn insert(&mut self, key: FlowKey, reported: FlowKey, flow: Flow) -> usize {
        if reported != key {
            self.reports.entry(reported).or_insert(flow.report);
        }
        let index = self.push(flow);
        self.by_key.insert(key, index);
        index
    }

    /// Adds a flow that is found by way of another.
    pub(super) fn push(&mut self, flow: Flow) -> usize {
        self.all.push(flow);
        self.all.len() - 1
    }

    /// Lets no packet with a key belong to a flow.
    pub(super) fn forget(&mut self, key: &FlowKey) {
        self.by_key.remove(key);
    }

    /// Lets packets with another key belong to a flow.
    pub(super) fn alias(&mut self, key: FlowKey, flow: usize) {
        self.by_key.insert(key, flow);
    }
}

/// A local endpoint that outlives its flows: a listening socket, or a datagram socket.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Endpoint {
    pub(super) conversation: Conversation,
    pub(super) handle: u64,
    pub(super) bound: bool,
    /// The layer that blocked the bind, or the listen.
    pub(super) blocked: Option<LayerId>,
    /// The layer at which a callout pended the bind or the listen.
    pub(super) pended: Option<LayerId>,
    /// Where a bind redirect put it.
    pub(super) moved: Option<Box<Redirection>>,
    pub(super) listens: bool,
    /// Whether it is to listen once it is bound.
    pub(super) will_listen: bool,
    /// Data flows of it that last.
    pub(super) flows: usize,
    /// Whether it was addressed by others: then it stays open when its flows end.
    pub(super) serves: bool,
}

impl Endpoint {
    /// One that is not bound yet.
    pub(super) const fn new(conversation: Conversation, handle: u64) -> Self {
        Self {
            conversation,
            handle,
            bound: false,
            blocked: None,
            pended: None,
            moved: None,
            listens: false,
            will_listen: false,
            flows: 0,
            serves: false,
        }
    }
}

/// Which endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct EndpointKey {
    pub(super) version: u32,
    pub(super) protocol: u8,
    pub(super) address: u128,
    pub(super) port: u16,
    pub(super) link: u16,
}

impl EndpointKey {
    pub(super) const fn of(conversation: &Conversation) -> Self {
        Self {
            version: conversation.version.value(),
            protocol: conversation.protocol,
            address: conversation.local,
            port: conversation.local_end().port,
            link: conversation.link,
        }
    }
}
