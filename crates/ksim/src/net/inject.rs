//! What drivers send back into the stack, and the decisions that they delay.

use std::net::IpAddr;

pub use wfp_engine::InjectionPoint;

use super::card::set_ipv4_checksum;
use super::flow::{Flow, State};
use super::host::{Arrival, Entry, Host, Transit, dropped};
use super::indicate::{Filtering, InjectionMark, PacketId, StageId, StreamInjection};
use super::indicator::{Details, Point};
use super::key::Link;
use super::link::Frame;
use super::packet::{Fragment, Packet, Transport, protocol};
use super::report::{PacketReport, Reason};
use super::stream::Delivered;
use super::tcp::Surroundings;

/// Absorbed packets that are remembered; older ones count as dropped.
const MAX_ABSORBED: usize = 4096;
/// How often a packet may be injected, clones of clones included. Each driver of a chain injects it once or twice.
const MAX_HOPS: u32 = 64;

/// Where the packet comes in on its way up or down.
const fn entry(point: InjectionPoint) -> Entry {
    if point.is_transport() {
        Entry::Transport
    } else {
        Entry::Network
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
    /// sequence number and length, or else the oldest that differs only in the remote side and, of TCP, in the
    /// length: an address is translated, a large send is split. A packet that was changed in another of these
    /// stands for none.
    pub origin: Option<PacketId>,
    /// The link.
    pub link: Link,
    /// How many times what this packet was cloned from had been injected before, by whichever driver. A packet
    /// that goes round too often is dropped: drivers inject each other's packets without end.
    pub hops: u32,
}

/// What tells packets apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    outbound: bool,
    source: (u128, u16),
    destination: (u128, u16),
    protocol: u8,
    identification: u16,
    sequence: u32,
    length: usize,
}

impl Fingerprint {
    pub(super) const fn of(packet: &Packet<'_>, outbound: bool) -> Self {
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

    /// Of the packet that a frame carries, or of the frame itself.
    pub(super) fn of_frame(frame: &Frame<'_>, outbound: bool) -> Self {
        frame.packet().map_or_else(
            || Self {
                outbound,
                source: (number(frame.source), frame.ether_type),
                destination: (number(frame.destination), frame.vlan),
                protocol: 0,
                identification: 0,
                sequence: 0,
                length: frame.bytes.len(),
            },
            |packet| Self::of(&packet, outbound),
        )
    }
}

impl Fingerprint {
    /// What of it a driver leaves when it translates the remote side, or splits a large send.
    const fn kept(&self) -> Self {
        const NOWHERE: (u128, u16) = (0, 0);
        Self {
            source: if self.outbound { self.source } else { NOWHERE },
            destination: if self.outbound {
                NOWHERE
            } else {
                self.destination
            },
            length: if self.protocol == protocol::TCP {
                0
            } else {
                self.length
            },
            ..*self
        }
    }
}

/// A hardware address as a number.
fn number(mac: [u8; 6]) -> u128 {
    mac.iter()
        .fold(0, |number, &byte| number << 8 | u128::from(byte))
}

/// A packet that a callout keeps.
#[derive(Debug)]
pub(super) struct Absorbed {
    pub(super) id: PacketId,
    /// The other fragments of the datagram.
    pub(super) fragments: Vec<PacketId>,
    pub(super) fingerprint: Fingerprint,
    /// Fragments have no flow yet.
    pub(super) flow: Option<usize>,
    pub(super) outbound: bool,
    /// How often it has been injected.
    pub(super) hops: u32,
}

/// Who sends a packet that has no IP header yet, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// `endpointHandle`.
    pub endpoint: u64,
    /// `FWPS_TRANSPORT_SEND_PARAMS0.remoteAddress`.
    pub remote: IpAddr,
}

impl<F: Filtering> Host<F> {
    /// What an endpoint sends, with the IP header that the stack gives it. `None` if there is no such endpoint, or it is of
    /// the other IP version.
    #[must_use]
    pub fn with_ip_header(&self, sender: Sender, segment: &[u8]) -> Option<Vec<u8>> {
        let of = |flow: &&Flow| flow.endpoint_handle == sender.endpoint;
        let flow = self.flows.all.iter().rfind(of)?;
        let conversation = &flow.conversation;
        let length = u16::try_from(segment.len()).ok()?.to_be_bytes();
        let header = match (conversation.local_end().address, sender.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let total = u16::try_from(20 + segment.len()).ok()?.to_be_bytes();
                let mut header = [
                    [0x45, 0, total[0], total[1]],
                    [0; 4],
                    [64, conversation.protocol, 0, 0],
                    local.octets(),
                    remote.octets(),
                ]
                .concat();
                set_ipv4_checksum(&mut header, 20);
                header
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => [
                &[
                    0x60,
                    0,
                    0,
                    0,
                    length[0],
                    length[1],
                    conversation.protocol,
                    64,
                ][..],
                &local.octets(),
                &remote.octets(),
            ]
            .concat(),
            _ => return None,
        };
        Some([&header, segment].concat())
    }

    pub(super) fn absorb(&mut self, flow: Option<usize>, transit: &Transit<'_>) {
        // An injected packet that is absorbed again is still waited for as its origin.
        self.remember(Absorbed {
            id: transit.id,
            fragments: Vec::new(),
            fingerprint: Fingerprint::of(transit.packet, transit.outbound),
            flow,
            outbound: transit.outbound,
            hops: transit.hops,
        });
    }

    pub(super) fn remember(&mut self, absorbed: Absorbed) {
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
        } else {
            self.pended_shares_fate(id, others);
        }
    }

    pub(super) fn settle(&mut self, absorbed: &Absorbed, passed: bool) {
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
            let entry = &self.flows.all[flow];
            self.reports[entry.report.0].passed[entry.side(absorbed.outbound)] += packets;
        }
    }

    pub(super) fn drop_pending(&mut self) {
        while let Some(absorbed) = self.absorbed.pop_front() {
            self.settle(&absorbed, false);
        }
        self.drop_pended();
        let incomplete = self.fragments.drain();
        self.discard_fragments(&incomplete);
    }

    /// Takes a packet that a driver injects. It is indicated again from its point on, with its mark.
    ///
    /// If it stands for an absorbed packet, that packet shares its fate: see [`settled`](Self::settled).
    /// Injected packets are not counted in flows, their origins are.
    pub fn inject(&mut self, injection: &Injection<'_>) -> PacketReport {
        self.counters.injected += 1;
        match injection.point {
            InjectionPoint::MacSend
            | InjectionPoint::MacReceive
            | InjectionPoint::VSwitchIngress => self.inject_frame(injection),
            _ => match Packet::parse(injection.bytes) {
                Ok(packet) => {
                    let outbound = injection.point.is_outbound();
                    let fingerprint = Fingerprint::of(&packet, outbound);
                    let origin = self.origin(injection, fingerprint);
                    self.inject_packet(injection, &packet, origin)
                }
                Err(malformed) => dropped(PacketId::NONE, None, Reason::Malformed(malformed)),
            },
        }
    }

    /// The absorbed packet that an injected one stands for.
    pub(super) fn origin(
        &mut self,
        injection: &Injection<'_>,
        fingerprint: Fingerprint,
    ) -> Option<Absorbed> {
        let find = |is_it: &dyn Fn(&Absorbed) -> bool| self.absorbed.iter().position(is_it);
        let like_it = || {
            find(&|absorbed| absorbed.fingerprint == fingerprint)
                .or_else(|| find(&|absorbed| absorbed.fingerprint.kept() == fingerprint.kept()))
        };
        let at = injection
            .origin
            .map_or_else(like_it, |id| find(&|absorbed| absorbed.id == id));
        self.counters.injected_new += u64::from(at.is_none());
        at.and_then(|at| self.absorbed.remove(at))
    }

    /// How often the packet has been injected, this time included; `None` if that is too often.
    pub(super) fn hop(
        &mut self,
        injection: &Injection<'_>,
        origin: Option<&Absorbed>,
    ) -> Option<u32> {
        let known = origin.map_or(0, |absorbed| absorbed.hops);
        let hops = injection.hops.max(known).saturating_add(1);
        if hops > MAX_HOPS {
            self.counters.injection_loops += 1;
            return None;
        }
        Some(hops)
    }

    /// Sends an injected packet through the stack.
    pub(super) fn inject_packet(
        &mut self,
        injection: &Injection<'_>,
        packet: &Packet<'_>,
        origin: Option<Absorbed>,
    ) -> PacketReport {
        let outbound = injection.point.is_outbound();
        let id = origin
            .as_ref()
            .map_or(PacketId::NONE, |absorbed| absorbed.id);
        let hops = self.hop(injection, origin.as_ref());
        let transit = Transit {
            mark: Some(injection.mark),
            hops: hops.unwrap_or(0),
            ..Transit::new(id, Arrival::on(injection.link), packet, outbound)
        };
        let mut report = if hops.is_none() {
            dropped(id, None, Reason::InjectionLoop)
        } else if injection.point == InjectionPoint::Forward {
            self.forwarded(&transit)
        } else if let Some(fragment) = packet.fragment {
            self.inject_fragment(&transit, fragment)
        } else {
            match self.find_or_open(packet, transit.arrival, !outbound) {
                Some((flow, _)) => self.pass(flow, &transit, entry(injection.point), 0),
                None => PacketReport {
                    id,
                    flow: None,
                    passed: origin.is_some(),
                    reason: Some(Reason::Foreign),
                },
            }
        };
        if let Some(absorbed) = origin {
            if report.reason.is_some_and(Reason::is_pending) {
                self.share_fate(absorbed.id, absorbed.fragments);
            } else {
                if report.passed {
                    self.indicator.pieces(&absorbed.fragments);
                }
                self.settle(&absorbed, report.passed);
            }
        }
        report.id = id;
        report
    }

    /// An inbound fragment joins its datagram; an outbound one goes out as it is.
    fn inject_fragment(&mut self, transit: &Transit<'_>, fragment: Fragment) -> PacketReport {
        if !transit.outbound {
            return self.fragment(
                transit.id,
                transit.arrival,
                transit.packet,
                fragment,
                transit.mark,
            );
        }
        self.sent(transit.packet.bytes);
        self.passage(None, transit, false, Ok(()));
        PacketReport {
            id: transit.id,
            flow: None,
            passed: true,
            reason: None,
        }
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
        if entry.connection.is_some() {
            self.indicator.aborted(flow_handle);
        }
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

    /// `FwpsStreamInjectAsync0`: data for the stages after the injecting one. `false` if there is no such flow.
    pub fn stream_inject(&mut self, flow_handle: u64, injection: &StreamInjection) -> bool {
        self.with_stream(flow_handle, |connection, around| {
            connection.inject(around, injection)
        })
    }

    /// Whether the flow with this handle is this host's.
    pub fn has_flow(&self, flow_handle: u64) -> bool {
        self.flow_with(flow_handle).is_some()
    }

    /// Bytes that a connection can still receive before a deferring callout goes on; `None` if there is no such
    /// connection.
    pub fn receive_window(&self, flow_handle: u64) -> Option<usize> {
        let flow = self.flow_with(flow_handle)?;
        let connection = self.flows.all[flow].connection.as_ref()?;
        Some(connection.window())
    }

    pub(super) fn flow_with(&self, flow_handle: u64) -> Option<usize> {
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
        let is_over = connection.is_over();
        self.flows.all[flow].connection = Some(connection);
        if delivered.dropped {
            let layer = self.indicator.layer(Point::Stream, conversation.version);
            self.indicator.aborted(flow_handle);
            self.kill(flow, layer);
        } else if is_over && delivered.end_injected {
            self.close(flow, State::Closed);
        }
        true
    }
}
