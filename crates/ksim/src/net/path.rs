//! A packet's way through the layers, in Windows's order.
//!
//! - inbound: `INBOUND_IPPACKET`, `INBOUND_TRANSPORT`, ALE if the flow is new, `STREAM_PACKET` and `STREAM`, or
//!   `DATAGRAM_DATA`; an ICMP error comes to `INBOUND_ICMP_ERROR` instead of ALE;
//! - outbound: the redirect layers and ALE if the flow is new, `STREAM` or `DATAGRAM_DATA`, `STREAM_PACKET`,
//!   `OUTBOUND_TRANSPORT`, `OUTBOUND_IPPACKET`; an ICMP error begins at `OUTBOUND_ICMP_ERROR`.

use wfp_engine::FastLayers;
use wfp_schema::Direction;
use wfp_schema::codes::AddressType;

use super::flow::State;
use super::host::{Arrival, Entry, Host, Transit, dropped, has_ale};
use super::indicate::{Filtering, Outcome};
use super::indicator::{Conversation, Details, Point};
use super::key::is_connection;
use super::packet::{Packet, Tcp, Transport, tcp_flag};
use super::report::{PacketReport, Reason};
use super::tcp::{Connection, Surroundings};

/// What a packet counts for in its flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl<F: Filtering> Host<F> {
    /// Takes a packet that is no fragment; which way it goes is found out.
    pub(super) fn whole(&mut self, transit: &Transit<'_>, weight: Weight) -> PacketReport {
        let found = self.find_or_open(transit.packet, transit.arrival, false);
        let Some((flow, outbound)) = found else {
            return self.forward(transit);
        };
        let entry = &self.flows.all[flow];
        let side = entry.side(outbound);
        let report = &mut self.reports[entry.report.0];
        report.packets[side] += weight.packets;
        report.bytes[side] += weight.bytes;
        report.last_seen = self.now;
        let transit = Transit {
            outbound,
            ..*transit
        };
        self.pass(flow, &transit, Entry::Whole, weight.packets)
    }

    /// Sends a packet through the stack and says what became of it. What this end of a loopback flow has sent the
    /// other receives.
    pub(super) fn pass(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        from: Entry,
        packets: u64,
    ) -> PacketReport {
        let result = if transit.outbound {
            self.outbound(flow, transit, from)
        } else {
            self.inbound(flow, transit, from)
        };
        let entry = &mut self.flows.all[flow];
        if transit.outbound || !entry.to_group {
            entry.last_seen = self.now;
        }
        let (index, side, peer) = (entry.report, entry.side(transit.outbound), entry.peer);
        if entry
            .connection
            .as_ref()
            .is_some_and(|connection| connection.ended)
        {
            self.close(flow, State::Closed);
        }
        match result {
            Ok(()) => {
                if let Some(peer) = peer.filter(|_| transit.outbound) {
                    return self.receive(flow, peer, transit, packets);
                }
                self.reports[index.0].passed[side] += packets;
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
                    self.reports[index.0].blocked_at.get_or_insert(layer);
                }
                if let Reason::Absorbed(_) = reason {
                    self.absorb(Some(flow), transit);
                }
                dropped(transit.id, Some(index), reason)
            }
        }
    }

    /// The second half of a loopback packet's way.
    fn receive(
        &mut self,
        flow: usize,
        peer: usize,
        transit: &Transit<'_>,
        packets: u64,
    ) -> PacketReport {
        let received = Transit {
            outbound: false,
            mark: None,
            frame: None,
            arrival: Arrival::on(transit.arrival.link),
            ..*transit
        };
        let rewritten = self.translated(flow, transit.packet, true);
        match rewritten.as_deref().map(Packet::parse) {
            Some(Ok(packet)) => {
                let received = Transit {
                    packet: &packet,
                    ..received
                };
                self.pass(peer, &received, Entry::Whole, packets)
            }
            _ => self.pass(peer, &received, Entry::Whole, packets),
        }
    }

    fn inbound(&mut self, flow: usize, transit: &Transit<'_>, from: Entry) -> Result<(), Reason> {
        let rewritten = self.translated(flow, transit.packet, false);
        let packet = rewritten.as_deref().map(Packet::parse).and_then(Result::ok);
        let changed = packet.as_ref().map(|packet| Transit { packet, ..*transit });
        let transit = changed.as_ref().unwrap_or(transit);
        let result = self.inbound_as(flow, transit, from);
        self.passage(Some(flow), transit, changed.is_some(), result);
        result
    }

    fn inbound_as(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        from: Entry,
    ) -> Result<(), Reason> {
        self.admit(flow, transit)?;
        let opening = self.opens(flow, transit);
        if opening {
            if self.is_closed(flow) {
                return self.refuse(flow, transit, from);
            }
            // A socket listens before anybody can reach it.
            self.bind(flow, transit)?;
        }
        self.notice(flow, transit);
        if from != Entry::Transport {
            self.at_packet_layer(flow, transit, Point::InboundPacket, opening)?;
        }
        self.at_transport(flow, transit, opening)?;
        if !has_ale(transit.packet, transit.packet.version) {
            return self.icmp_error(flow, transit);
        }
        self.authorize_or_recheck(flow, transit, opening)?;
        self.stream_packet(flow, transit)?;
        self.payload(flow, transit, from)
    }

    /// Looks at what the flow has become before the packet does anything.
    pub(super) fn admit(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        match transit.packet.transport {
            Transport::Tcp(tcp) => self.admit_segment(flow, transit, tcp),
            _ if is_connection(entry.conversation.protocol) => match entry.state {
                State::Blocked(layer) => Err(Reason::FlowBlocked(layer)),
                State::Pended => Err(Reason::FlowBlocked(self.authorizing_layer(flow))),
                _ => Ok(()),
            },
            _ => self.admit_datagram(flow, transit),
        }
    }

    fn admit_segment(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        tcp: Tcp,
    ) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let same_side = (entry.direction == Direction::Outbound) == transit.outbound;
        let again = match entry.state {
            State::New => false,
            State::Pended => return Err(Reason::FlowBlocked(self.authorizing_layer(flow))),
            // A host that was refused does not send its SYN again; the peer of one that drops SYNs does.
            State::Blocked(layer) => {
                let repeated = transit.outbound && entry.syn == Some(tcp.sequence);
                if !tcp.opens() || repeated {
                    return Err(Reason::FlowBlocked(layer));
                }
                true
            }
            State::Closed => tcp.opens(),
            State::Live => {
                tcp.opens()
                    && entry.connection.as_ref().is_some_and(|connection| {
                        let repeated = same_side && connection.initial == Some(tcp.sequence);
                        let simultaneous = !same_side && !connection.established;
                        !repeated && !simultaneous
                    })
            }
        };
        if again {
            if entry.state == State::Live {
                self.close(flow, State::New);
            }
            let entry = &mut self.flows.all[flow];
            entry.state = State::New;
            entry.direction = transit.direction();
        }
        if tcp.opens() {
            self.flows.all[flow].syn = Some(tcp.sequence);
        }
        Ok(())
    }

    fn admit_datagram(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let now = self.now;
        let entry = &mut self.flows.all[flow];
        match entry.state {
            State::Live if now >= entry.expires() => {
                self.counters.idle_timeouts += 1;
                self.close(flow, State::New);
                self.flows.all[flow].direction = transit.direction();
                Ok(())
            }
            // Nothing is remembered of a refused datagram: the next one asks again. Answers to it would
            // not have come.
            State::Blocked(layer) if entry.direction != transit.direction() => {
                Err(Reason::FlowBlocked(layer))
            }
            State::Pended => Err(Reason::FlowBlocked(self.authorizing_layer(flow))),
            State::Blocked(_) => {
                entry.state = State::New;
                Ok(())
            }
            State::New => {
                entry.direction = transit.direction();
                Ok(())
            }
            State::Live | State::Closed => Ok(()),
        }
    }

    /// Whether the packet asks ALE for its flow.
    pub(super) fn opens(&self, flow: usize, transit: &Transit<'_>) -> bool {
        let entry = &self.flows.all[flow];
        let reset =
            matches!(transit.packet.transport, Transport::Tcp(tcp) if tcp.has(tcp_flag::RST));
        entry.state == State::New && has_ale(transit.packet, entry.conversation.version) && !reset
    }

    pub(super) fn authorize_or_recheck(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        opening: bool,
    ) -> Result<(), Reason> {
        if opening {
            self.authorize(flow, transit)
        } else if self.flows.all[flow].state == State::Live {
            self.recheck(flow, transit)
        } else {
            Ok(())
        }
    }

    /// The conversation as this packet's layers show it: ICMP has its own type and code in each packet.
    pub(super) fn shown(&self, flow: usize, transit: &Transit<'_>) -> Conversation {
        let mut conversation = self.flows.all[flow].conversation;
        if let Transport::Icmp(icmp) = transit.packet.transport {
            conversation.local_port = u16::from(icmp.kind);
            conversation.remote_port = u16::from(icmp.code);
        }
        // Whoever answers a group, or a flow with loose source mapping, is shown as who he is.
        if self.flows.all[flow].admits_others && !transit.outbound {
            conversation.remote = transit.packet.source;
            conversation.remote_port = transit.packet.source_port;
            conversation.remote_type = AddressType::Unicast;
        }
        conversation
    }

    /// What a layer that shows the packet says about it.
    pub(super) fn details<'p>(
        &self,
        flow: usize,
        transit: &Transit<'p>,
        point: Point,
    ) -> Details<'p> {
        let entry = &self.flows.all[flow];
        let packet = transit.packet;
        // An ICMP socket has its data at the ICMP header.
        let header = match packet.transport {
            Transport::Icmp(_) => 0,
            _ => packet.transport_header_len,
        };
        // Outbound an IP header size means a raw socket that wrote the header itself.
        let raw = entry.conversation.raw && point == Point::Datagram;
        let (offset, header_sizes) = match (point, transit.outbound) {
            (Point::InboundPacket, _) => (packet.ip_header_len, (packet.ip_header_len, 0)),
            (Point::OutboundPacket, _) => (0, (packet.ip_header_len, packet.transport_header_len)),
            (_, false) => (
                packet.ip_header_len + header,
                (packet.ip_header_len, header),
            ),
            (_, true) => (
                packet.ip_header_len,
                (
                    if raw { packet.ip_header_len } else { 0 },
                    packet.transport_header_len,
                ),
            ),
        };
        let icmp_id_and_sequence = match packet.transport {
            Transport::Icmp(icmp) => icmp.id_and_sequence,
            _ => None,
        };
        Details {
            flow_handle: entry.handle,
            endpoint_handle: entry.endpoint_handle,
            parent_endpoint_handle: entry.parent_endpoint_handle,
            header_sizes: Some(header_sizes),
            icmp_id_and_sequence,
            packet: Some(transit.data(offset)),
            arrival: entry.arrival,
            next_hop: entry.next_hop,
            original_profile: entry.original_profile,
            ..Details::new(transit.direction())
        }
    }

    /// Classifies at one of the four layers that see every packet.
    pub(super) fn at_packet_layer(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        point: Point,
        opening: bool,
    ) -> Result<(), Reason> {
        let version = transit.packet.version;
        if !self.indicator.wants(point, version) {
            return Ok(());
        }
        let conversation = self.shown(flow, transit);
        let mut details = self.details(flow, transit, point);
        details.ale_classify_required = opening;
        if matches!(
            point,
            Point::InboundTransportFast | Point::OutboundTransportFast
        ) {
            details.packet = None;
        }
        if point == Point::InboundPacket {
            details.flags = transit.flags;
        }
        let layer = self.indicator.layer(point, version);
        match self.indicator.classify(point, &conversation, &details) {
            Outcome::Permit => Ok(()),
            Outcome::Absorb | Outcome::Pend => Err(Reason::Absorbed(layer)),
            Outcome::Block => {
                if matches!(transit.packet.transport, Transport::Tcp(tcp) if tcp.opens()) {
                    // A connection whose SYN was dropped never begins.
                    self.kill(flow, layer);
                }
                Err(Reason::Blocked(layer))
            }
        }
    }

    /// Classifies at the transport layer, and at the fast one, which has no fields and no data.
    pub(super) fn at_transport(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        opening: bool,
    ) -> Result<(), Reason> {
        let (point, fast) = if transit.outbound {
            (Point::OutboundTransport, Point::OutboundTransportFast)
        } else {
            (Point::InboundTransport, Point::InboundTransportFast)
        };
        let when = self.indicator.options.fast_layers;
        if when == FastLayers::Before {
            self.at_packet_layer(flow, transit, fast, opening)?;
        }
        self.at_packet_layer(flow, transit, point, opening)?;
        if when == FastLayers::Behind {
            self.at_packet_layer(flow, transit, fast, opening)?;
        }
        Ok(())
    }

    /// Shows a segment of a connection to `STREAM_PACKET`, handshake and pure acknowledgments too.
    pub(super) fn stream_packet(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
    ) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let version = entry.conversation.version;
        if !is_connection(entry.conversation.protocol)
            || entry.handle == 0
            || !self.indicator.wants(Point::StreamPacket, version)
        {
            return Ok(());
        }
        let conversation = self.shown(flow, transit);
        let details = self.details(flow, transit, Point::StreamPacket);
        let layer = self.indicator.layer(Point::StreamPacket, version);
        match self
            .indicator
            .classify(Point::StreamPacket, &conversation, &details)
        {
            Outcome::Permit => Ok(()),
            Outcome::Block => Err(Reason::Blocked(layer)),
            Outcome::Absorb | Outcome::Pend => Err(Reason::Absorbed(layer)),
        }
    }

    pub(super) fn payload(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        entry: Entry,
    ) -> Result<(), Reason> {
        match transit.packet.transport {
            // The stream was indicated when the segment first came by.
            Transport::Tcp(_) if entry == Entry::Transport && transit.outbound => Ok(()),
            Transport::Tcp(tcp) => self.segment(flow, transit, tcp),
            _ if is_connection(transit.packet.protocol) => self.opaque_segment(flow, transit),
            _ => self.datagram(flow, transit),
        }
    }

    fn datagram(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        let version = entry.conversation.version;
        if entry.state != State::Live || !has_ale(transit.packet, version) {
            return Ok(());
        }
        if self.indicator.wants(Point::Datagram, version) {
            let conversation = self.shown(flow, transit);
            let details = self.details(flow, transit, Point::Datagram);
            let layer = self.indicator.layer(Point::Datagram, version);
            match self
                .indicator
                .classify(Point::Datagram, &conversation, &details)
            {
                Outcome::Permit => {}
                Outcome::Block => return Err(Reason::Blocked(layer)),
                Outcome::Absorb | Outcome::Pend => return Err(Reason::Absorbed(layer)),
            }
        }
        if !transit.outbound {
            let data = transit.packet.payload();
            // A socket that has not asked for merged datagrams gets each by itself.
            let size = transit.offload.datagram_size().unwrap_or(usize::MAX);
            if data.len() <= size {
                self.received(flow, data);
            } else {
                data.chunks(size).for_each(|data| self.received(flow, data));
            }
        }
        Ok(())
    }

    /// A segment of which the capture holds too little to follow it.
    fn opaque_segment(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let entry = &self.flows.all[flow];
        if entry
            .connection
            .as_ref()
            .is_none_or(|connection| connection.established)
        {
            return Ok(());
        }
        self.establish(flow, transit)?;
        if let Some(connection) = &mut self.flows.all[flow].connection {
            connection.established = true;
        }
        Ok(())
    }

    fn segment(&mut self, flow: usize, transit: &Transit<'_>, tcp: Tcp) -> Result<(), Reason> {
        let entry = &mut self.flows.all[flow];
        let Some(mut connection) = entry.connection.take() else {
            return Ok(());
        };
        let result = self.segment_of(&mut connection, flow, transit, tcp);
        // Refused meanwhile: the flow keeps no connection.
        if self.flows.all[flow].state == State::Live {
            self.flows.all[flow].connection = Some(connection);
        } else {
            self.counters.stream_bytes_skipped += connection.skipped();
        }
        result
    }

    fn segment_of(
        &mut self,
        connection: &mut Connection,
        flow: usize,
        transit: &Transit<'_>,
        tcp: Tcp,
    ) -> Result<(), Reason> {
        if !connection.established && establishes(tcp, transit, self.flows.all[flow].direction) {
            self.establish(flow, transit)?;
            connection.established = true;
        }
        let entry = &self.flows.all[flow];
        let conversation = entry.conversation;
        let details = Details {
            flow_handle: entry.handle,
            ..Details::new(entry.direction)
        };
        let mut around = Surroundings {
            indicator: &mut self.indicator,
            conversation: &conversation,
            details,
        };
        let step = connection.segment(&mut around, transit.packet, tcp, transit.outbound);
        self.counters.resets_ignored += u64::from(step.reset_ignored);
        connection.ended |= step.ended;
        let layer = self.indicator.layer(Point::Stream, conversation.version);
        let delivered = step.delivered;
        if delivered.dropped {
            self.indicator.aborted(details.flow_handle);
            self.kill(flow, layer);
            return Err(Reason::Blocked(layer));
        }
        if delivered.disconnect == super::stream::Disconnect::Blocked
            || (delivered.passed == 0 && delivered.blocked > 0)
        {
            return Err(Reason::Blocked(layer));
        }
        Ok(())
    }
}

/// Whether the segment completes the handshake, as far as the capture shows one.
const fn establishes(tcp: Tcp, transit: &Transit<'_>, direction: Direction) -> bool {
    if tcp.has(tcp_flag::RST) {
        return false;
    }
    match (direction, transit.outbound) {
        // The answer to our SYN, or anything that implies it.
        (Direction::Outbound, false) => tcp.has(tcp_flag::ACK),
        // The SYN and its answer do not complete it; what follows does, even if the capture lacks the rest.
        _ => !tcp.has(tcp_flag::SYN),
    }
}
