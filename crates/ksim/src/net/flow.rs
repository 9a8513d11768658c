//! Flows as the stack keeps them.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;
use wfp_schema::{Direction, LayerId};

use super::indicate::Ticks;
use super::indicator::Conversation;
use super::key::FlowKey;
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
    pub(super) parent_endpoint_handle: u64,
    /// The epoch of the authorizing layer when it authorized.
    pub(super) epoch: u64,
    /// The network profile when it was authorized, and when it was asked about last.
    pub(super) profile: Option<u32>,
    pub(super) asked_in_profile: Option<u32>,
    pub(super) last_seen: Ticks,
    /// Sequence number of the last SYN without ACK, to tell its repeats from a new connection.
    pub(super) syn: Option<u32>,
    pub(super) connection: Option<Box<Connection>>,
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
        self.all.push(flow);
        self.by_key.insert(key, self.all.len() - 1);
        self.all.len() - 1
    }
}

/// A local endpoint that outlives its flows: a listening socket, or a datagram socket.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) conversation: Conversation,
    pub(super) handle: u64,
    /// Whether the bind was blocked, or the listen.
    pub(super) blocked: Option<LayerId>,
    pub(super) listens: bool,
    /// Data flows of it that last.
    pub(super) flows: usize,
    /// Whether it was addressed by others: then it stays open when its flows end.
    pub(super) serves: bool,
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
