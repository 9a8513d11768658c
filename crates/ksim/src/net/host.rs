//! The host: packets in, verdicts out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use wfp_schema::{ConditionFlags, Direction, IpVersion};

use super::card::Offload;
use super::flow::{Endpoint, EndpointKey, Flows, State};
use super::fragments::Fragments;
use super::group::Groups;
use super::indicate::{Filtering, InjectionMark, PacketData, PacketId, Ticks};
use super::indicator::Indicator;
use super::inject::Absorbed;
use super::interface::Interfaces;
use super::key::Link;
use super::link::{Frame, LinkLayers};
use super::local::LocalSide;
use super::packet::{Packet, Transport, icmp_is_error};
use super::path::Weight;
use super::pend::{Pended, PendedClassify};
use super::process::Processes;
use super::redirect::Redirection;
use super::report::{Counters, FlowIndex, FlowReport, PacketReport, Reason};
use super::switch::{Switch, SwitchState};

/// After this long without a packet a data flow without connection ends (ALE's default for unicast).
pub const IDLE_TIMEOUT: Ticks = 60 * 10_000_000;

/// What a host is made from.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a property of a host that has nothing to do with the others"
)]
pub struct Setup {
    /// Its addresses.
    pub local: LocalSide,
    /// Who owns its endpoints.
    pub processes: Processes,
    /// Which of several hosts that share a filter engine this is (one a processor): makes handles differ.
    pub shard: u16,
    /// Its network interfaces.
    pub interfaces: Interfaces,
    /// Which ports have a socket; a connection or datagram for another is answered by a reset or an error. `None`:
    /// whatever is addressed exists, as in a capture.
    pub sockets: Option<BTreeSet<(u8, u16)>>,
    /// Whether it forwards what is neither from nor for it: such packets come to `IPFORWARD`.
    pub forwarding: bool,
    /// Where it forwards to: prefixes with their lengths, and the link of each. What none matches goes out by the
    /// link that it came by. The longest prefix counts.
    pub routes: Vec<(std::net::IpAddr, u8, Link)>,
    /// Whether `IPFORWARD` shows the fragments of a datagram once more as a group.
    pub fragment_groups: bool,
    /// Whether both ends of a loopback flow are shown, as Windows does; otherwise the one that began it only, which
    /// suits a capture of traffic between hosts that are all taken for this one.
    pub both_halves: bool,
    /// Whether multicast and broadcast have the flows that ALE gives them; otherwise ordinary ones, so that each
    /// conversation of a capture stays apart.
    pub group_flows: bool,
    /// Whether IPv4 endpoints are IPv6 sockets that take both.
    pub dual_mode: bool,
    /// The virtual switch that its adapter is a port of.
    pub switch: Option<Switch>,
    /// Whether [`Host::output`] tells what leaves the stack.
    pub output: bool,
    /// Whether [`Host::journal`] tells what comes through the stack.
    pub journal: bool,
    /// What the network card does for the stack: it computes checksums of what is sent, and splits TCP data into segments of so many
    /// bytes. `None`: nothing.
    pub card: Option<u32>,
    /// The stack splits TCP data that it sends into segments of at least so many bytes, and hands down up to four of them in one
    /// net buffer list, as it does where the card does not split them. `None`: a packet comes in a list of its own.
    pub segments: Option<u32>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            local: LocalSide::default(),
            processes: Processes::default(),
            shard: 0,
            interfaces: Interfaces::default(),
            sockets: None,
            forwarding: false,
            routes: Vec::new(),
            fragment_groups: false,
            both_halves: true,
            group_flows: true,
            dual_mode: false,
            switch: None,
            output: false,
            journal: false,
            card: None,
            segments: None,
        }
    }
}

/// How a packet came to the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The link, such as a VLAN, of the local address. Equal addresses and ports on two links are two flows.
    pub link: Link,
    /// The link that an inbound packet really came by, if that is another.
    pub interface: Option<Link>,
    /// Whether `IPsec` secures it.
    pub ipsec: bool,
}

impl Arrival {
    /// By the link of the local address, without `IPsec`.
    #[must_use]
    pub const fn on(link: Link) -> Self {
        Self {
            link,
            interface: None,
            ipsec: false,
        }
    }
}

/// A host's network stack: one shard of it, for one processor.
///
/// Give it packets in the order of their time with [`packet`](Self::packet); it makes the indications that
/// Windows would make and says what became of each packet.
#[derive(Debug)]
pub struct Host<F> {
    pub(super) indicator: Indicator<F>,
    pub(super) setup: Setup,
    pub(super) flows: Flows,
    pub(super) reports: Vec<FlowReport>,
    pub(super) endpoints: BTreeMap<EndpointKey, Endpoint>,
    pub(super) fragments: Fragments,
    pub(super) groups: Groups,
    pub(super) forward_groups: super::forward::Groups,
    pub(super) link_layers: LinkLayers,
    pub(super) switch: Option<SwitchState>,
    pub(super) counters: Counters,
    pub(super) absorbed: VecDeque<Absorbed>,
    pub(super) pended: Vec<Pended>,
    pub(super) pended_classifies: Vec<PendedClassify>,
    /// What proxies said of their connections, by protocol and local end.
    pub(super) records: BTreeMap<(u8, std::net::IpAddr, u16), Redirection>,
    pub(super) settled: Vec<(PacketId, bool)>,
    /// Data flows that may fall idle: when to look, which flow, which of its handles.
    pub(super) idle: BinaryHeap<Reverse<(Ticks, usize, u64)>>,
    pub(super) now: Ticks,
    pub(super) asleep: bool,
    /// Flows that [`Host::finish_some`] has ended.
    pub(super) finished: usize,
    next_packet: u64,
    next_handle: u64,
}

/// The [shard](Setup::shard) of the host that has given something this number.
#[must_use]
pub(crate) fn shard_of(handle: u64) -> u32 {
    u32::try_from(handle >> 48).unwrap_or(0)
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
    /// How often it has been injected.
    pub(super) hops: u32,
    pub(super) arrival: Arrival,
    /// The frame that carries it, if that is known.
    pub(super) frame: Option<Frame<'p>>,
    /// What the network card is left to do, or has done.
    pub(super) offload: Offload,
    /// Packets behind it in its net buffer list.
    pub(super) more: &'p [Vec<u8>],
}

impl<'p> Transit<'p> {
    /// A packet of the wire or of an application.
    pub(super) const fn new(
        id: PacketId,
        arrival: Arrival,
        packet: &'p Packet<'p>,
        outbound: bool,
    ) -> Self {
        Self {
            id,
            packet,
            outbound,
            flags: ConditionFlags::NONE,
            mark: None,
            hops: 0,
            arrival,
            frame: None,
            offload: Offload::NONE,
            more: &[],
        }
    }

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
            offload: self.offload,
            more: self.more,
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

impl<F: Filtering> Host<F> {
    /// A host that has seen nothing yet.
    pub fn new(filtering: F, mut setup: Setup) -> Self {
        let processes = std::mem::take(&mut setup.processes);
        let interfaces = std::mem::take(&mut setup.interfaces);
        let mut indicator = Indicator::new(filtering, processes, interfaces);
        indicator.output = setup.output.then(Vec::new);
        indicator.journal = setup.journal.then(Vec::new);
        Self {
            link_layers: LinkLayers::new(indicator.options.fast_layers),
            switch: setup.switch.take().map(SwitchState::new),
            indicator,
            next_handle: u64::from(setup.shard) << 48,
            setup,
            flows: Flows::default(),
            reports: Vec::new(),
            endpoints: BTreeMap::new(),
            fragments: Fragments::default(),
            groups: Groups::default(),
            forward_groups: super::forward::Groups::default(),
            counters: Counters::default(),
            absorbed: VecDeque::new(),
            pended: Vec::new(),
            pended_classifies: Vec::new(),
            records: BTreeMap::new(),
            settled: Vec::new(),
            idle: BinaryHeap::new(),
            now: 0,
            asleep: false,
            finished: 0,
            next_packet: 0,
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
        self.packet_from(now, Arrival::on(link), bytes)
    }

    /// A packet and how it came.
    pub fn packet_from(&mut self, now: Ticks, arrival: Arrival, bytes: &[u8]) -> PacketReport {
        let id = self.next_id(now);
        self.enter(id, arrival, bytes, None)
    }

    /// The number of a packet that comes now.
    pub(super) fn next_id(&mut self, now: Ticks) -> PacketId {
        let id = PacketId(self.next_packet);
        self.next_packet += 1;
        self.counters.packets += 1;
        self.advance_to(now);
        id
    }

    pub(super) fn enter(
        &mut self,
        id: PacketId,
        arrival: Arrival,
        bytes: &[u8],
        frame: Option<Frame<'_>>,
    ) -> PacketReport {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(malformed) => {
                self.counters.malformed += 1;
                return dropped(id, None, Reason::Malformed(malformed));
            }
        };
        if let Some(report) = self.unreachable(id, arrival) {
            return report;
        }
        self.counters.cut += u64::from(packet.is_cut());
        if let Some(fragment) = packet.fragment {
            return self.fragment(id, arrival, &packet, fragment, None);
        }
        let weight = Weight {
            packets: 1,
            bytes: packet.wire_len as u64,
        };
        let transit = Transit {
            frame,
            ..Transit::new(id, arrival, &packet, false)
        };
        self.whole(&transit, weight)
    }

    /// What becomes of a packet that no interface takes or brings.
    pub(super) fn unreachable(&mut self, id: PacketId, arrival: Arrival) -> Option<PacketReport> {
        if !self.asleep && self.indicator.interfaces.of(arrival.link).up {
            return None;
        }
        self.counters.unreachable += 1;
        Some(dropped(id, None, Reason::NoInterface))
    }

    /// Moves the clock: data flows fall idle, and fragments whose datagram stays incomplete are dropped.
    /// Packets move it too.
    pub fn advance_to(&mut self, now: Ticks) {
        self.now = self.now.max(now);
        let expired = self.fragments.expire(self.now);
        self.discard_fragments(&expired);
        while let Some(&Reverse((deadline, flow, handle))) = self.idle.peek()
            && deadline <= self.now
        {
            self.idle.pop();
            let entry = &self.flows.all[flow];
            if entry.handle != handle {
                continue;
            }
            let deadline = entry.expires();
            if deadline <= self.now {
                self.counters.idle_timeouts += 1;
                self.close(flow, State::New);
            } else {
                self.idle.push(Reverse((deadline, flow, handle)));
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

    pub(super) const fn foreign(&mut self, id: PacketId) -> PacketReport {
        self.counters.foreign += 1;
        self.counters.passed += 1;
        PacketReport {
            id,
            flow: None,
            passed: true,
            reason: Some(Reason::Foreign),
        }
    }
}

/// Whether ALE knows the packet: ICMP errors belong to other flows.
pub(super) const fn has_ale(packet: &Packet<'_>, version: IpVersion) -> bool {
    match packet.transport {
        Transport::Icmp(icmp) => !icmp_is_error(version, icmp.kind),
        _ => true,
    }
}

pub(super) const fn dropped(id: PacketId, flow: Option<FlowIndex>, reason: Reason) -> PacketReport {
    PacketReport {
        id,
        flow,
        passed: false,
        reason: Some(reason),
    }
}
