//! What drivers send back into the stack, and the decisions that they delay.

use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, Direction, StreamFlags};

use super::flow::State;
use super::host::{Entry, Host, Transit};
use super::indicate::{Filtering, InjectionMark, Outcome, PacketId, StageId, Ticks};
use super::indicator::{Details, Point};
use super::key::Link;
use super::packet::{Fragment, Packet, Transport};
use super::redirect::{Completion, Request};
use super::report::{PacketReport, Reason};
use super::stream::Delivered;
use super::tcp::Surroundings;

/// Absorbed packets that are remembered; older ones count as dropped.
const MAX_ABSORBED: usize = 4096;

/// Where an injected packet comes in, and which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectionPoint {
    /// `FwpsInjectNetworkSendAsync0`: on from `OUTBOUND_IPPACKET`.
    NetworkSend,
    /// `FwpsInjectNetworkReceiveAsync0`: on from `INBOUND_IPPACKET`.
    NetworkReceive,
    /// `FwpsInjectTransportSendAsync0`: on from ALE and `DATAGRAM_DATA`, TCP from `OUTBOUND_TRANSPORT`.
    TransportSend,
    /// `FwpsInjectTransportReceiveAsync0`: on from `INBOUND_TRANSPORT`.
    TransportReceive,
    /// `FwpsInjectForwardAsync0`: on its way to another host, no layer sees it.
    Forward,
    /// `FwpsInjectMacSendAsync0`: a frame, on from the outbound layers of the data link.
    MacSend,
    /// `FwpsInjectMacReceiveAsync0`: a frame, on from the inbound layers of the data link.
    MacReceive,
}

impl InjectionPoint {
    const fn outbound(self) -> bool {
        matches!(
            self,
            Self::NetworkSend | Self::TransportSend | Self::Forward | Self::MacSend
        )
    }

    const fn entry(self) -> Entry {
        match self {
            Self::TransportSend | Self::TransportReceive => Entry::Transport,
            _ => Entry::Network,
        }
    }
}

/// A packet that a driver injects.
#[derive(Clone, Copy, Debug)]
pub struct Injection<'a> {
    /// Where it comes in.
    pub point: InjectionPoint,
    /// The packet from its IP header; a frame from its link header.
    pub bytes: &'a [u8],
    /// Shown with each indication of it.
    pub mark: InjectionMark,
    /// The absorbed packet that it stands for, if known (a clone knows its parent). Otherwise it is the
    /// oldest absorbed packet of the same direction with the same addresses, ports, identification, TCP
    /// sequence number and length; a packet that was changed in one of these stands for none.
    pub origin: Option<PacketId>,
    /// The link.
    pub link: Link,
    /// How many times what this packet was cloned from had been injected before, by whichever driver. A packet
    /// that goes round too often is dropped: drivers inject each other's packets without end.
    pub hops: u32,
}

/// What tells packets apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    outbound: bool,
    source: (u128, u16),
    destination: (u128, u16),
    protocol: u8,
    identification: u16,
    sequence: u32,
    length: usize,
}

impl Fingerprint {
    const fn of(packet: &Packet<'_>, outbound: bool) -> Self {
        let sequence = match packet.transport {
            Transport::Tcp(tcp) => tcp.sequence,
            Transport::Icmp(icmp) => match icmp.id_and_sequence {
                Some(number) => number,
                None => 0,
            },
            _ => 0,
        };
        Self {
            outbound,
            source: (packet.source, packet.source_port),
            destination: (packet.destination, packet.destination_port),
            protocol: packet.protocol,
            identification: packet.identification,
            sequence,
            length: packet.wire_len,
        }
    }
}

/// A packet that a callout keeps.
#[derive(Debug)]
pub(super) struct Absorbed {
    pub(super) id: PacketId,
    /// The other fragments of the datagram.
    pub(super) fragments: Vec<PacketId>,
    fingerprint: Fingerprint,
    /// Fragments have no flow yet.
    flow: Option<usize>,
    outbound: bool,
}

/// An operation that a callout keeps.
#[derive(Debug)]
pub(super) struct Pended {
    completion_handle: u64,
    flow: usize,
    id: PacketId,
    outbound: bool,
    fingerprint: Fingerprint,
    bytes: Vec<u8>,
    fragments: Vec<PacketId>,
}

impl Pended {
    pub(super) fn new(completion_handle: u64, flow: usize, transit: &Transit<'_>) -> Self {
        Self {
            completion_handle,
            flow,
            id: transit.id,
            outbound: transit.outbound,
            fingerprint: Fingerprint::of(transit.packet, transit.outbound),
            bytes: transit.packet.bytes.to_vec(),
            fragments: Vec::new(),
        }
    }
}

impl Pended {
    /// The packet alone, once its operation is over.
    fn into_absorbed(self) -> Absorbed {
        Absorbed {
            id: self.id,
            fragments: self.fragments,
            fingerprint: self.fingerprint,
            flow: Some(self.flow),
            outbound: self.outbound,
        }
    }
}

impl<F: Filtering> Host<F> {
    pub(super) fn absorb(&mut self, flow: Option<usize>, transit: &Transit<'_>) {
        // An injected packet that is absorbed again is still waited for as its origin.
        self.remember(Absorbed {
            id: transit.id,
            fragments: Vec::new(),
            fingerprint: Fingerprint::of(transit.packet, transit.outbound),
            flow,
            outbound: transit.outbound,
        });
    }

    fn remember(&mut self, absorbed: Absorbed) {
        if self.absorbed.len() == MAX_ABSORBED
            && let Some(oldest) = self.absorbed.pop_front()
        {
            self.settle(&oldest, false);
        }
        self.absorbed.push_back(absorbed);
    }

    /// Lets packets share the fate of one that is pending.
    pub(super) fn share_fate(&mut self, id: PacketId, others: Vec<PacketId>) {
        let absorbed = self
            .absorbed
            .iter_mut()
            .rev()
            .find(|absorbed| absorbed.id == id);
        if let Some(absorbed) = absorbed {
            absorbed.fragments.extend(others);
        } else if let Some(pended) = self.pended.iter_mut().find(|pended| pended.id == id) {
            pended.fragments.extend(others);
        }
    }

    fn settle(&mut self, absorbed: &Absorbed, passed: bool) {
        if absorbed.id == PacketId::NONE {
            return;
        }
        let ids = std::iter::once(absorbed.id).chain(absorbed.fragments.iter().copied());
        ids.for_each(|id| self.push_settled(id, passed));
        // What passes as a piece of a datagram is counted with that.
        if let Some(flow) = absorbed.flow
            && passed
        {
            let packets = 1 + absorbed.fragments.len() as u64;
            self.counters.passed += packets;
            let report = self.flows.all[flow].report;
            self.reports[report.0].passed[usize::from(!absorbed.outbound)] += packets;
        }
    }

    pub(super) fn drop_pending(&mut self) {
        while let Some(absorbed) = self.absorbed.pop_front() {
            self.settle(&absorbed, false);
        }
        for pended in std::mem::take(&mut self.pended) {
            self.settle(&pended.into_absorbed(), false);
        }
        let incomplete = self.fragments.drain();
        self.discard_fragments(&incomplete);
    }

    /// Takes a packet that a driver injects. It is indicated again from its point on, with its mark.
    ///
    /// If it stands for an absorbed packet, that packet shares its fate: see [`settled`](Self::settled).
    /// Injected packets are not counted in flows, their origins are.
    pub fn inject(&mut self, injection: &Injection<'_>) -> PacketReport {
        self.counters.injected += 1;
        let outbound = injection.point.outbound();
        let packet = match Packet::parse(injection.bytes) {
            Ok(packet) => packet,
            Err(malformed) => {
                let reason = Some(Reason::Malformed(malformed));
                return PacketReport {
                    id: PacketId::NONE,
                    flow: None,
                    passed: false,
                    reason,
                };
            }
        };
        let fingerprint = Fingerprint::of(&packet, outbound);
        let origin = self.absorbed.iter().position(|absorbed| {
            injection
                .origin
                .map_or(absorbed.fingerprint == fingerprint, |id| absorbed.id == id)
        });
        let origin = origin.and_then(|at| self.absorbed.remove(at));
        self.counters.injected_new += u64::from(origin.is_none());
        let id = origin
            .as_ref()
            .map_or(PacketId::NONE, |absorbed| absorbed.id);
        if let Some(fragment) = packet.fragment {
            return self.inject_fragment(injection, &packet, fragment, origin, id);
        }
        let Some((flow, _)) = self.find_or_open(&packet, injection.link) else {
            let passed = origin.is_some();
            if let Some(absorbed) = origin {
                self.settle(&absorbed, true);
            }
            return PacketReport {
                id,
                flow: None,
                passed,
                reason: Some(Reason::Foreign),
            };
        };
        let transit = Transit {
            id,
            packet: &packet,
            outbound,
            flags: ConditionFlags::NONE,
            mark: Some(injection.mark),
        };
        let mut report = self.pass(flow, &transit, injection.point.entry(), 0);
        if let Some(absorbed) = origin {
            if report.reason.is_some_and(Reason::is_pending) {
                self.share_fate(absorbed.id, absorbed.fragments);
            } else {
                self.settle(&absorbed, report.passed);
            }
        }
        report.id = id;
        report
    }

    /// An inbound fragment joins its datagram; an outbound one goes out as it is.
    fn inject_fragment(
        &mut self,
        injection: &Injection<'_>,
        packet: &Packet<'_>,
        fragment: Fragment,
        origin: Option<Absorbed>,
        id: PacketId,
    ) -> PacketReport {
        let report = if injection.point.outbound() {
            PacketReport {
                id,
                flow: None,
                passed: true,
                reason: None,
            }
        } else {
            self.fragment(id, injection.link, packet, fragment, Some(injection.mark))
        };
        if let Some(absorbed) = origin
            && !report.reason.is_some_and(Reason::is_pending)
        {
            self.settle(&absorbed, report.passed);
        }
        report
    }

    /// `FwpsCompleteOperation0` for the completion handle of a pended authorization.
    ///
    /// A pended connect is reauthorized at once (`IS_REAUTHORIZE`, reason `CLASSIFY_COMPLETION`): if
    /// permitted, the packet of a TCP connection goes on, while the packet of another protocol is flushed
    /// and passes if the driver injects it. A pended accept goes back to where it was: the driver injects
    /// the packet, and that is classified anew. `false` if there is no such operation.
    pub fn complete(&mut self, now: Ticks, completion_handle: u64) -> bool {
        self.advance_to(now);
        let Some(at) = self
            .pended
            .iter()
            .position(|pended| pended.completion_handle == completion_handle)
        else {
            return false;
        };
        let mut pended = self.pended.swap_remove(at);
        let (flow, outbound) = (pended.flow, pended.outbound);
        let bytes = std::mem::take(&mut pended.bytes);
        let absorbed = pended.into_absorbed();
        let Ok(packet) = Packet::parse(&bytes) else {
            return false;
        };
        let transit = Transit {
            id: absorbed.id,
            packet: &packet,
            outbound,
            flags: ConditionFlags::NONE,
            mark: None,
        };
        if self.flows.all[flow].direction == Direction::Inbound {
            self.close(flow, State::New);
            self.remember(absorbed);
            return true;
        }
        let outcome = self.ask(flow, &transit, 0, ReauthorizeReason::CLASSIFY_COMPLETION);
        if outcome != Outcome::Permit {
            let layer = self.authorizing_layer(flow);
            self.kill(flow, layer);
            self.settle(&absorbed, false);
        } else if self.begin(flow, &transit).is_err() {
            self.settle(&absorbed, false);
        } else if matches!(packet.transport, Transport::Tcp(_)) {
            let report = self.pass(flow, &transit, Entry::Whole, 0);
            if report.reason.is_some_and(Reason::is_pending) {
                self.share_fate(absorbed.id, absorbed.fragments);
            } else {
                self.settle(&absorbed, report.passed);
            }
        } else {
            self.remember(absorbed);
        }
        true
    }

    /// `FwpsCompleteClassify0` for the pend handle of a classify at a redirect layer or at
    /// `ALE_ENDPOINT_CLOSURE`. `changes` are versions of the layer data that were applied meanwhile, oldest first.
    /// `false` if there is no such classify.
    pub fn complete_classify(
        &mut self,
        now: Ticks,
        pend_handle: u64,
        completion: Completion,
        changes: &[Request],
    ) -> bool {
        self.advance_to(now);
        let _ = (pend_handle, completion, changes);
        false
    }

    /// `FwpsFlowAbort0`: resets the flow with this handle. `false` if there is none.
    pub fn abort(&mut self, flow_handle: u64) -> bool {
        let Some(flow) = self.flow_with(flow_handle) else {
            return false;
        };
        let entry = &self.flows.all[flow];
        let version = entry.conversation.version;
        let point = if entry.connection.is_some() {
            Point::Stream
        } else {
            Point::Datagram
        };
        let layer = self.indicator.layer(point, version);
        self.kill(flow, layer);
        true
    }

    /// `FwpsStreamContinue0`: goes on with a stream whose received data a stage deferred. `false` if there
    /// is no such flow.
    pub fn stream_continue(&mut self, flow_handle: u64, stage: StageId) -> bool {
        self.with_stream(flow_handle, |connection, around| {
            connection.resume(around, stage)
        })
    }

    /// `FwpsStreamInjectAsync0`: data for the stages after the injecting one. `flags` say which way, and
    /// whether the direction ends behind the data. `false` if there is no such flow.
    pub fn stream_inject(
        &mut self,
        flow_handle: u64,
        stage: StageId,
        flags: StreamFlags,
        bytes: &[u8],
    ) -> bool {
        let outbound = flags.contains(StreamFlags::SEND);
        self.with_stream(flow_handle, |connection, around| {
            connection.inject(around, stage, outbound, bytes)
        })
    }

    fn flow_with(&self, flow_handle: u64) -> Option<usize> {
        self.flows
            .all
            .iter()
            .position(|flow| flow.handle == flow_handle && flow_handle != 0)
    }

    fn with_stream(
        &mut self,
        flow_handle: u64,
        work: impl FnOnce(&mut super::tcp::Connection, &mut Surroundings<'_, F>) -> Delivered,
    ) -> bool {
        let Some(flow) = self.flow_with(flow_handle) else {
            return false;
        };
        let entry = &mut self.flows.all[flow];
        let Some(mut connection) = entry.connection.take() else {
            return false;
        };
        let conversation = entry.conversation;
        let details = Details {
            flow_handle,
            ..Details::new(entry.direction)
        };
        let mut around = Surroundings {
            indicator: &mut self.indicator,
            conversation: &conversation,
            details,
        };
        let delivered = work(&mut connection, &mut around);
        self.flows.all[flow].connection = Some(connection);
        if delivered.dropped {
            let layer = self.indicator.layer(Point::Stream, conversation.version);
            self.kill(flow, layer);
        }
        true
    }
}
