//! Which flow a packet belongs to.

use std::net::IpAddr;

use wfp_schema::codes::AddressType;
use wfp_schema::{Direction, IpVersion};

use super::flow::Flow;
use super::host::{Arrival, Host};
use super::indicate::Filtering;
use super::indicator::Conversation;
use super::key::{FlowKey, sender_begins};
use super::packet::{Packet, Transport, ip_addr, protocol};
use super::process::IdentityId;
use super::report::{FlowIndex, FlowReport};

impl<F: Filtering> Host<F> {
    /// The packet's flow, made if it is new, and whether the packet is outbound; `None` if neither end is
    /// local. Of a loopback packet it is the sender's half, or the receiver's if `receiving`.
    pub(super) fn find_or_open(
        &mut self,
        packet: &Packet<'_>,
        arrival: Arrival,
        receiving: bool,
    ) -> Option<(usize, bool)> {
        let (key, forward) = FlowKey::of(packet, arrival.link);
        if let Some(found) = self.flows.find(&key) {
            return Some(self.half_of(found, packet, forward, receiving));
        }
        let outbound = self.source_is_local(packet)?;
        if !outbound && let Some(flow) = self.admitting(packet, arrival.link) {
            return Some((flow, false));
        }
        let found = self.begin_flow(packet, arrival, key, forward, outbound);
        Some(self.half_of(found, packet, forward, receiving))
    }

    fn half_of(
        &self,
        found: usize,
        packet: &Packet<'_>,
        forward: bool,
        receiving: bool,
    ) -> (usize, bool) {
        let entry = &self.flows.all[found];
        if entry.redirection.is_some() {
            return (found, entry.sends(packet));
        }
        let sends = entry.low_is_local == forward;
        match entry.peer.filter(|_| entry.is_half) {
            None => (found, sends),
            Some(peer) if sends == receiving => (peer, !receiving),
            Some(_) => (found, !receiving),
        }
    }

    fn begin_flow(
        &mut self,
        packet: &Packet<'_>,
        arrival: Arrival,
        key: FlowKey,
        forward: bool,
        outbound: bool,
    ) -> usize {
        let conversation = self.conversation(packet, outbound, arrival);
        let direction = if sender_begins(packet) == outbound {
            Direction::Outbound
        } else {
            Direction::Inbound
        };
        let reported = key.reported(packet.transport);
        let known = if reported == key {
            None
        } else {
            self.flows.find_report(&reported)
        };
        let report = known.unwrap_or_else(|| {
            self.reports.push(FlowReport {
                protocol: packet.protocol,
                local: conversation.local_end(),
                remote: conversation.remote_end(),
                link: arrival.link,
                direction,
                packets: [0; 2],
                bytes: [0; 2],
                passed: [0; 2],
                blocked_at: None,
                handles: Vec::new(),
                identity: conversation.identity,
                first_seen: self.now,
                last_seen: self.now,
            });
            FlowIndex(self.reports.len() - 1)
        });
        let flow = Flow::new(
            conversation,
            report,
            outbound == forward,
            direction,
            self.now,
        );
        let index = self.flows.insert(key, reported, flow);
        let own_end =
            (packet.source, packet.source_port) == (packet.destination, packet.destination_port);
        if self.setup.both_halves && conversation.loopback && !own_end {
            let other = self.conversation(packet, !outbound, arrival);
            let direction = match direction {
                Direction::Outbound => Direction::Inbound,
                Direction::Inbound => Direction::Outbound,
            };
            let mut half = Flow::new(other, report, outbound != forward, direction, self.now);
            (half.mirrored, half.is_half, half.peer) = (true, true, Some(index));
            let peer = self.flows.push(half);
            let entry = &mut self.flows.all[index];
            (entry.is_half, entry.peer) = (true, Some(peer));
        }
        index
    }

    /// Whether a flow's first packet comes from this host; `None` if neither end is here. If both are, the
    /// flow is seen from the side of the one who began it.
    pub(super) fn source_is_local(&self, packet: &Packet<'_>) -> Option<bool> {
        let source = ip_addr(packet.version, packet.source);
        let destination = ip_addr(packet.version, packet.destination);
        match (
            self.setup.local.contains(source),
            self.setup.local.contains(destination),
        ) {
            (true, true) => Some(sender_begins(packet)),
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => self.setup.local.is_group(destination).then_some(false),
        }
    }

    pub(super) fn address_type(&self, address: IpAddr) -> AddressType {
        if address.is_multicast() {
            AddressType::Multicast
        } else if self.setup.local.is_group(address) {
            AddressType::Broadcast
        } else {
            AddressType::Unicast
        }
    }

    pub(super) fn conversation(
        &self,
        packet: &Packet<'_>,
        outbound: bool,
        arrival: Arrival,
    ) -> Conversation {
        let source = (packet.source, packet.source_port);
        let destination = (packet.destination, packet.destination_port);
        let (local, remote) = if outbound {
            (source, destination)
        } else {
            (destination, source)
        };
        let local_address = ip_addr(packet.version, local.0);
        let remote_address = ip_addr(packet.version, remote.0);
        let (local_port, remote_port) = match packet.transport {
            Transport::Icmp(icmp) => (u16::from(icmp.kind), u16::from(icmp.code)),
            _ => (local.1, remote.1),
        };
        Conversation {
            version: packet.version,
            protocol: packet.protocol,
            local: local.0,
            remote: remote.0,
            local_port,
            remote_port,
            local_type: self.address_type(local_address),
            remote_type: self.address_type(remote_address),
            loopback: self.is_loopback(local_address, remote_address),
            link: arrival.link,
            has_peer: true,
            any_address: false,
            raw: is_raw(packet.protocol),
            ipsec: arrival.ipsec,
            dual: self.setup.dual_mode && packet.version == IpVersion::V4,
            promiscuous: false,
            identity: self.owner(local_address, local.1),
        }
    }

    /// Whether both ends are this host. The sender of a DHCP request, which has no address yet, is no end.
    pub(super) fn is_loopback(&self, local: IpAddr, remote: IpAddr) -> bool {
        let here =
            |address: IpAddr| !address.is_unspecified() && self.setup.local.contains(address);
        remote.is_loopback() || (here(local) && here(remote))
    }

    pub(super) fn owner(&self, address: IpAddr, port: u16) -> IdentityId {
        self.indicator.processes.owner(address, port)
    }
}

/// Whether the protocol's endpoints are raw sockets: Windows has no other for it, nor speaks it by itself.
const fn is_raw(number: u8) -> bool {
    !matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 | protocol::IGMP
    )
}
