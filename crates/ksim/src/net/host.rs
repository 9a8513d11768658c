//! The host: packets in, verdicts out.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use wfp_schema::codes::AddressType;
use wfp_schema::{ConditionFlags, Direction, IpVersion};

use super::flow::{Endpoint, EndpointKey, Flow, Flows, State};
use super::fragments::{Fragments, Taken};
use super::indicate::{Filtering, InjectionMark, Outcome, PacketData, PacketId, Ticks};
use super::indicator::{Conversation, Details, Indicator, Point};
use super::inject::{Absorbed, Pended};
use super::key::{FlowKey, Link, sender_begins};
use super::local::LocalSide;
use super::packet::{Fragment, Packet, Transport, icmp_is_error, ip_addr};
use super::process::{IdentityId, Processes};
use super::report::{Counters, FlowIndex, FlowReport, PacketReport, Reason};

/// After this long without a packet a data flow without connection ends (ALE's default for unicast).
pub const IDLE_TIMEOUT: Ticks = 60 * 10_000_000;

/// What a host is made from.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Its addresses.
    pub local: LocalSide,
    /// Who owns its endpoints.
    pub processes: Processes,
    /// Which of several hosts that share a filter engine this is (one a processor): makes handles differ.
    pub shard: u16,
}

/// A host's network stack: one shard of it, for one processor.
///
/// Give it packets in the order of their time with [`packet`](Self::packet); it makes the indications that
/// Windows would make and says what became of each packet.
#[derive(Debug)]
pub struct Host<F> {
    pub(super) indicator: Indicator<F>,
    local: LocalSide,
    pub(super) flows: Flows,
    pub(super) reports: Vec<FlowReport>,
    pub(super) endpoints: BTreeMap<EndpointKey, Endpoint>,
    pub(super) fragments: Fragments,
    pub(super) counters: Counters,
    pub(super) absorbed: VecDeque<Absorbed>,
    pub(super) pended: Vec<Pended>,
    pub(super) settled: Vec<(PacketId, bool)>,
    /// Data flows that may fall idle: when to look, which flow, which of its handles.
    pub(super) idle: VecDeque<(Ticks, usize, u64)>,
    pub(super) now: Ticks,
    /// Flows that [`Host::finish_some`] has ended.
    pub(super) finished: usize,
    next_packet: u64,
    next_handle: u64,
}

/// A packet on its way through the stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transit<'p> {
    pub(super) id: PacketId,
    pub(super) packet: &'p Packet<'p>,
    pub(super) outbound: bool,
    /// `IS_REASSEMBLED` for a datagram made of fragments.
    pub(super) flags: ConditionFlags,
    pub(super) mark: Option<InjectionMark>,
}

impl<'p> Transit<'p> {
    pub(super) const fn direction(&self) -> Direction {
        if self.outbound {
            Direction::Outbound
        } else {
            Direction::Inbound
        }
    }

    /// The packet as a layer shows it that has its data at `offset`.
    pub(super) const fn data(&self, offset: usize) -> PacketData<'p> {
        PacketData {
            bytes: self.packet.bytes,
            offset,
            id: self.id,
            injection: self.mark,
        }
    }
}

/// Where a packet comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// From the wire, or from an application.
    Whole,
    /// Injected at the network layer.
    Network,
    /// Injected at the transport layer.
    Transport,
}

/// What a packet counts for in its flow.
#[derive(Clone, Copy, Debug)]
struct Weight {
    packets: u64,
    bytes: u64,
}

impl<F: Filtering> Host<F> {
    /// A host that has seen nothing yet.
    pub fn new(filtering: F, setup: Setup) -> Self {
        Self {
            indicator: Indicator::new(filtering, setup.processes),
            local: setup.local,
            flows: Flows::default(),
            reports: Vec::new(),
            endpoints: BTreeMap::new(),
            fragments: Fragments::default(),
            counters: Counters::default(),
            absorbed: VecDeque::new(),
            pended: Vec::new(),
            settled: Vec::new(),
            idle: VecDeque::new(),
            now: 0,
            finished: 0,
            next_packet: 0,
            next_handle: u64::from(setup.shard) << 48,
        }
    }

    /// The filter engine that the host was made with.
    pub const fn filtering(&mut self) -> &mut F {
        &mut self.indicator.filtering
    }

    /// Who owns the host's endpoints.
    pub const fn processes(&self) -> &Processes {
        &self.indicator.processes
    }

    /// All flows so far, in the order of their first packets.
    pub fn flows(&self) -> &[FlowReport] {
        &self.reports
    }

    /// What the stack met that no flow tells about.
    pub fn counters(&self) -> Counters {
        let live = self
            .flows
            .all
            .iter()
            .filter_map(|flow| flow.connection.as_deref());
        let skipped: u64 = live.map(super::tcp::Connection::skipped).sum();
        Counters {
            stream_bytes_skipped: self.counters.stream_bytes_skipped + skipped,
            ..self.counters
        }
    }

    /// Takes what has become of packets whose fate was pending: which packet, and whether it passed.
    pub fn settled(&mut self) -> Vec<(PacketId, bool)> {
        std::mem::take(&mut self.settled)
    }

    /// A packet, from its IP header, that left or reached the host at `now`.
    pub fn packet(&mut self, now: Ticks, bytes: &[u8]) -> PacketReport {
        self.packet_on(now, 0, bytes)
    }

    /// A packet on a link, such as a VLAN. Equal addresses and ports on two links are two flows.
    pub fn packet_on(&mut self, now: Ticks, link: Link, bytes: &[u8]) -> PacketReport {
        let id = PacketId(self.next_packet);
        self.next_packet += 1;
        self.counters.packets += 1;
        self.advance_to(now);
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(malformed) => {
                self.counters.malformed += 1;
                return dropped(id, None, Reason::Malformed(malformed));
            }
        };
        self.counters.cut += u64::from(packet.is_cut());
        if let Some(fragment) = packet.fragment {
            return self.fragment(id, link, &packet, fragment, None);
        }
        let weight = Weight {
            packets: 1,
            bytes: packet.wire_len as u64,
        };
        self.whole(id, link, &packet, weight, ConditionFlags::NONE)
    }

    /// The host's network changes its profile, as when it joins a domain's network: `CURRENT_PROFILE_ID` and its like
    /// have this value from now on, and each flow is reauthorized by its next packet.
    ///
    /// What the numbers mean, Windows does not document; without a profile the fields are empty.
    pub const fn set_profile(&mut self, profile: u32) {
        self.indicator.profile = Some(profile);
    }

    /// Moves the clock: data flows fall idle, and fragments whose datagram stays incomplete are dropped.
    /// Packets move it too.
    pub fn advance_to(&mut self, now: Ticks) {
        self.now = self.now.max(now);
        let expired = self.fragments.expire(self.now);
        self.discard_fragments(&expired);
        while let Some(&(deadline, flow, handle)) = self.idle.front()
            && deadline <= self.now
        {
            self.idle.pop_front();
            let entry = &self.flows.all[flow];
            if entry.handle != handle {
                continue;
            }
            let deadline = entry.last_seen + IDLE_TIMEOUT;
            if deadline <= self.now {
                self.counters.idle_timeouts += 1;
                self.close(flow, State::New);
            } else {
                self.idle.push_back((deadline, flow, handle));
            }
        }
    }

    pub(super) fn discard_fragments(&mut self, ids: &[PacketId]) {
        self.counters.fragments_discarded += ids.len() as u64;
        for &id in ids {
            self.push_settled(id, false);
        }
    }

    /// A new number for an endpoint or an operation, unlike that of any other host of the engine.
    pub(super) const fn handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }

    pub(super) fn push_settled(&mut self, id: PacketId, passed: bool) {
        if id != PacketId::NONE {
            self.settled.push((id, passed));
        }
    }

    /// Takes a fragment from the wire, or one that a driver injects again.
    pub(super) fn fragment(
        &mut self,
        id: PacketId,
        link: Link,
        packet: &Packet<'_>,
        fragment: Fragment,
        mark: Option<InjectionMark>,
    ) -> PacketReport {
        self.counters.fragments += u64::from(mark.is_none());
        let Some(outbound) = self.source_is_local(packet) else {
            return self.foreign(id);
        };
        let transit = Transit {
            id,
            packet,
            outbound,
            flags: ConditionFlags::NONE,
            mark,
        };
        if !outbound && let Err(reason) = self.indicate_fragment(link, &transit, fragment) {
            if matches!(reason, Reason::Absorbed(_)) {
                self.absorb(None, &transit);
            }
            return dropped(id, None, reason);
        }
        match self.fragments.take(self.now, id, link, packet, fragment) {
            Taken::Waiting => dropped(id, None, Reason::AwaitsFragments),
            Taken::Discarded(mut ids) => {
                self.counters.fragments_discarded += 1;
                ids.retain(|&other| other != id);
                self.discard_fragments(&ids);
                dropped(id, None, Reason::FragmentsDiscarded)
            }
            Taken::Whole(datagram) => {
                self.counters.reassembled += 1;
                let Ok(packet) = Packet::parse(&datagram.bytes) else {
                    let mut ids = datagram.ids;
                    ids.retain(|&other| other != id);
                    self.counters.fragments_discarded += 1;
                    self.discard_fragments(&ids);
                    return dropped(id, None, Reason::FragmentsDiscarded);
                };
                // A fragment that a driver made up is not the capture's.
                let packets = datagram
                    .ids
                    .iter()
                    .filter(|&&id| id != PacketId::NONE)
                    .count() as u64;
                let weight = Weight {
                    packets,
                    bytes: datagram.wire_bytes as u64,
                };
                let report = self.whole(id, link, &packet, weight, ConditionFlags::IS_REASSEMBLED);
                self.settle_fragments(&report, &datagram.ids);
                report
            }
        }
    }

    /// The fragments of a datagram share the fate of the one that completed it.
    fn settle_fragments(&mut self, report: &PacketReport, ids: &[PacketId]) {
        let others = ids.iter().copied().filter(|&id| id != report.id);
        if report.reason.is_some_and(Reason::is_pending) {
            self.share_fate(report.id, others.collect());
        } else {
            let passed = report.passed;
            others.for_each(|id| self.push_settled(id, passed));
        }
    }

    /// The inbound network layer sees each fragment as a packet and once more as a fragment.
    fn indicate_fragment(
        &mut self,
        link: Link,
        transit: &Transit<'_>,
        fragment: Fragment,
    ) -> Result<(), Reason> {
        let packet = transit.packet;
        if !self.indicator.wants(Point::InboundPacket, packet.version) {
            return Ok(());
        }
        let conversation = self.conversation(packet, false, link);
        for flags in [ConditionFlags::NONE, ConditionFlags::IS_FRAGMENT] {
            let length = packet.wire_len - packet.ip_header_len;
            let details = Details {
                flags,
                header_sizes: Some((packet.ip_header_len, 0)),
                fragment: Some(super::metadata::FragmentData {
                    identification: fragment.identification,
                    offset: fragment.offset,
                    length: u32::try_from(length).unwrap_or(0),
                }),
                packet: Some(transit.data(packet.ip_header_len)),
                ..Details::new(Direction::Inbound)
            };
            let layer = self.indicator.layer(Point::InboundPacket, packet.version);
            match self
                .indicator
                .classify(Point::InboundPacket, &conversation, &details)
            {
                Outcome::Permit => {}
                Outcome::Block => return Err(Reason::Blocked(layer)),
                Outcome::Absorb | Outcome::Pend => return Err(Reason::Absorbed(layer)),
            }
        }
        Ok(())
    }

    const fn foreign(&mut self, id: PacketId) -> PacketReport {
        self.counters.foreign += 1;
        self.counters.passed += 1;
        PacketReport {
            id,
            flow: None,
            passed: true,
            reason: Some(Reason::Foreign),
        }
    }

    fn whole(
        &mut self,
        id: PacketId,
        link: Link,
        packet: &Packet<'_>,
        weight: Weight,
        flags: ConditionFlags,
    ) -> PacketReport {
        let Some((flow, outbound)) = self.find_or_open(packet, link) else {
            return self.foreign(id);
        };
        let transit = Transit {
            id,
            packet,
            outbound,
            flags,
            mark: None,
        };
        let report = &mut self.reports[self.flows.all[flow].report.0];
        let side = usize::from(!outbound);
        report.packets[side] += weight.packets;
        report.bytes[side] += weight.bytes;
        report.last_seen = self.now;
        self.pass(flow, &transit, Entry::Whole, weight.packets)
    }

    /// Sends a packet through the stack and says what became of it.
    pub(super) fn pass(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        entry: Entry,
        packets: u64,
    ) -> PacketReport {
        let result = if transit.outbound {
            self.outbound(flow, transit, entry)
        } else {
            self.inbound(flow, transit, entry)
        };
        let entry = &mut self.flows.all[flow];
        entry.last_seen = self.now;
        let index = entry.report;
        if entry
            .connection
            .as_ref()
            .is_some_and(|connection| connection.ended)
        {
            self.close(flow, State::Closed);
        }
        let report = &mut self.reports[index.0];
        match result {
            Ok(()) => {
                report.passed[usize::from(!transit.outbound)] += packets;
                self.counters.passed += packets;
                PacketReport {
                    id: transit.id,
                    flow: Some(index),
                    passed: true,
                    reason: None,
                }
            }
            Err(reason) => {
                if let Reason::Blocked(layer) = reason {
                    report.blocked_at.get_or_insert(layer);
                }
                if let Reason::Absorbed(_) = reason {
                    self.absorb(Some(flow), transit);
                }
                dropped(transit.id, Some(index), reason)
            }
        }
    }

    /// The packet's flow, made if it is new, and whether the packet is outbound; `None` if neither end is
    /// local.
    pub(super) fn find_or_open(
        &mut self,
        packet: &Packet<'_>,
        link: Link,
    ) -> Option<(usize, bool)> {
        let (key, forward) = FlowKey::of(packet, link);
        if let Some(flow) = self.flows.find(&key) {
            return Some((flow, self.flows.all[flow].low_is_local == forward));
        }
        let outbound = self.source_is_local(packet)?;
        let conversation = self.conversation(packet, outbound, link);
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
                link,
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
        let flow = Flow {
            conversation,
            report,
            low_is_local: outbound == forward,
            direction,
            state: State::New,
            handle: 0,
            endpoint_handle: 0,
            parent_endpoint_handle: 0,
            epoch: 0,
            profile: None,
            asked_in_profile: None,
            last_seen: self.now,
            syn: None,
            connection: None,
        };
        Some((self.flows.insert(key, reported, flow), outbound))
    }

    /// Whether a flow's first packet comes from this host; `None` if neither end is here. If both are, the
    /// flow is seen from the side of the one who began it.
    fn source_is_local(&self, packet: &Packet<'_>) -> Option<bool> {
        let source = ip_addr(packet.version, packet.source);
        let destination = ip_addr(packet.version, packet.destination);
        match (
            self.local.contains(source),
            self.local.contains(destination),
        ) {
            (true, true) => Some(sender_begins(packet)),
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => self.local.is_group(destination).then_some(false),
        }
    }

    fn address_type(&self, address: IpAddr) -> AddressType {
        if address.is_multicast() {
            AddressType::Multicast
        } else if self.local.is_group(address) {
            AddressType::Broadcast
        } else {
            AddressType::Unicast
        }
    }

    fn conversation(&self, packet: &Packet<'_>, outbound: bool, link: Link) -> Conversation {
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
            loopback: remote_address.is_loopback()
                || (self.local.contains(local_address) && self.local.contains(remote_address)),
            link,
            has_peer: true,
            identity: self.owner(local_address, local.1),
        }
    }

    fn owner(&self, address: IpAddr, port: u16) -> IdentityId {
        self.indicator.processes.owner(address, port)
    }
}

/// Whether ALE knows the packet: ICMP errors belong to other flows.
pub(super) const fn has_ale(packet: &Packet<'_>, version: IpVersion) -> bool {
    match packet.transport {
        Transport::Icmp(icmp) => !icmp_is_error(version, icmp.kind),
        _ => true,
    }
}

const fn dropped(id: PacketId, flow: Option<FlowIndex>, reason: Reason) -> PacketReport {
    PacketReport {
        id,
        flow,
        passed: false,
        reason: Some(reason),
    }
}
