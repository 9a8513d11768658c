//! Multicast and broadcast as ALE has them, and flows that strangers may answer.
//!
//! All inbound multicast and broadcast of an IP version is one global flow; a packet with ends that it has not had yet
//! is a reauthorization of it. Outbound, a flow lasts four seconds after its last outbound packet and admits what
//! anybody sends to its socket meanwhile.
//! <https://learn.microsoft.com/windows/win32/fwp/ale-multicast-broadcast-traffic>

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;
use wfp_schema::codes::AddressType;
use wfp_schema::{Direction, IpVersion};

use super::flow::State;
use super::host::{Host, IDLE_TIMEOUT};
use super::indicate::{ClassifyOptions, Filtering, Ticks};
use super::indicator::Conversation;
use super::key::Link;
use super::packet::Packet;

/// How long an outbound multicast or broadcast flow lasts.
const GROUP_LIFETIME: Ticks = 4 * SECOND;
const SECOND: Ticks = 10_000_000;

/// A socket that strangers may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Socket {
    version: IpVersion,
    protocol: u8,
    port: u16,
    link: Link,
}

/// The flows that are not between two ends only.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By socket, the flow that admits others.
    admitting: HashMap<Socket, usize, FxBuildHasher>,
    /// The flow of all inbound multicast and broadcast, by version; 0 while there is none.
    global: [u64; 2],
    established: [bool; 2],
}

impl Groups {
    /// Whether the global flow of a version is established now and was not before.
    pub(super) const fn establish(&mut self, version: IpVersion) -> bool {
        !std::mem::replace(&mut self.established[version as usize], true)
    }
}

const fn is_group(kind: AddressType) -> bool {
    matches!(kind, AddressType::Multicast | AddressType::Broadcast)
}

impl<F: Filtering> Host<F> {
    /// The flow that admits a packet which belongs to no other.
    pub(super) fn admitting(&self, packet: &Packet<'_>, link: Link) -> Option<usize> {
        if self.groups.admitting.is_empty() {
            return None;
        }
        let socket = Socket {
            version: packet.version,
            protocol: packet.protocol,
            port: packet.destination_port,
            link,
        };
        let flow = *self.groups.admitting.get(&socket)?;
        let entry = &self.flows.all[flow];
        let lasts = entry.state == State::Live && self.now < entry.expires();
        (lasts && entry.admits_others).then_some(flow)
    }

    /// Whether a flow that begins belongs to all inbound multicast and broadcast.
    pub(super) const fn is_global(
        &self,
        conversation: &Conversation,
        direction: Direction,
    ) -> bool {
        self.setup.group_flows
            && matches!(direction, Direction::Inbound)
            && is_group(conversation.local_type)
    }

    /// The handle of all inbound multicast and broadcast, and whether the flow is new.
    pub(super) fn global_flow(&mut self, conversation: &Conversation) -> (u64, bool) {
        let version = conversation.version as usize;
        if self.groups.global[version] != 0 {
            return (self.groups.global[version], false);
        }
        let info = conversation.info(Direction::Inbound);
        self.groups.global[version] = self.indicator.filtering.flow_created(&info);
        (self.groups.global[version], true)
    }

    pub(super) fn end_global_flows(&mut self) {
        self.groups.established = [false; 2];
        for handle in std::mem::take(&mut self.groups.global) {
            if handle != 0 {
                self.indicator.filtering.flow_ended(handle);
            }
        }
    }

    /// Sets how long an authorized flow lasts and who belongs to it.
    pub(super) fn customize(&mut self, flow: usize, options: ClassifyOptions) {
        let entry = &mut self.flows.all[flow];
        let conversation = &entry.conversation;
        let outbound = entry.direction == Direction::Outbound;
        entry.to_group = self.setup.group_flows && outbound && is_group(conversation.remote_type);
        let seconds = |seconds: u32| Ticks::from(seconds) * SECOND;
        if entry.to_group {
            entry.lifetime = options.group_lifetime.map_or(GROUP_LIFETIME, seconds);
            entry.admits_others = options.multicast_state.unwrap_or(true);
        } else {
            entry.lifetime = options.unicast_lifetime.map_or(IDLE_TIMEOUT, seconds);
            entry.admits_others = options.loose_source_mapping.unwrap_or(false);
        }
        if entry.admits_others {
            let socket = Socket {
                version: conversation.version,
                protocol: conversation.protocol,
                port: conversation.local_end().port,
                link: conversation.link,
            };
            self.groups.admitting.insert(socket, flow);
        }
    }
}
