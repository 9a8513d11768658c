//! A packet's way through the layers, in Windows's order.
//!
//! - inbound: `INBOUND_IPPACKET`, `INBOUND_TRANSPORT`, ALE if the flow is new, `STREAM` or `DATAGRAM_DATA`;
//! - outbound: ALE if the flow is new, `STREAM` or `DATAGRAM_DATA`, `OUTBOUND_TRANSPORT`,
//!   `OUTBOUND_IPPACKET`.

use wfp_schema::Direction;

use super::flow::State;
use super::host::{Entry, Host, IDLE_TIMEOUT, Transit, has_ale};
use super::indicate::{Filtering, Outcome};
use super::indicator::{Conversation, Details, Point};
use super::key::is_connection;
use super::packet::{Tcp, Transport, tcp_flag};
use super::report::Reason;
use super::tcp::{Connection, Surroundings};

impl<F: Filtering> Host<F> {
    pub(super) fn inbound(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        entry: Entry,
    ) -> Result<(), Reason> {
        self.admit(flow, transit)?;
        let opening = self.opens(flow, transit);
        if opening {
            // A socket listens before anybody can reach it.
            self.bind(flow)?;
        }
        if entry != Entry::Transport {
            self.at_packet_layer(flow, transit, Point::InboundPacket, opening)?;
        }
        self.at_packet_layer(flow, transit, Point::InboundTransport, opening)?;
        self.authorize_or_recheck(flow, transit, opening)?;
        self.payload(flow, transit, entry)
    }

    pub(super) fn outbound(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        entry: Entry,
    ) -> Result<(), Reason> {
        let mut opening = false;
        if entry != Entry::Network {
            self.admit(flow, transit)?;
            opening = self.opens(flow, transit);
            if opening {
                self.bind(flow)?;
            }
            self.authorize_or_recheck(flow, transit, opening)?;
            self.payload(flow, transit, entry)?;
            self.at_packet_layer(flow, transit, Point::OutboundTransport, opening)?;
        }
        self.at_packet_layer(flow, transit, Point::OutboundPacket, opening)
    }

    /// Looks at what the flow has become before the packet does anything.
    fn admit(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
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
            State::Live if now >= entry.last_seen + IDLE_TIMEOUT => {
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
    fn opens(&self, flow: usize, transit: &Transit<'_>) -> bool {
        let entry = &self.flows.all[flow];
        let reset =
            matches!(transit.packet.transport, Transport::Tcp(tcp) if tcp.has(tcp_flag::RST));
        entry.state == State::New && has_ale(transit.packet, entry.conversation.version) && !reset
    }

    fn authorize_or_recheck(
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
        let (offset, header_sizes) = match (point, transit.outbound) {
            (Point::InboundPacket, _) => (packet.ip_header_len, (packet.ip_header_len, 0)),
            (Point::OutboundPacket, _) => (0, (packet.ip_header_len, packet.transport_header_len)),
            (_, false) => (
                packet.ip_header_len + header,
                (packet.ip_header_len, header),
            ),
            // An IP header size here would mean a raw socket.
            (_, true) => (packet.ip_header_len, (0, packet.transport_header_len)),
        };
        let icmp_id_and_sequence = match packet.transport {
            Transport::Icmp(icmp) => icmp.id_and_sequence,
            _ => None,
        };
        Details {
            flow_handle: entry.handle,
            endpoint_handle: entry.endpoint_handle,
            parent_endpoint_handle: entry.parent_endpoint_handle,
            original_profile: entry.profile,
            header_sizes: Some(header_sizes),
            icmp_id_and_sequence,
            packet: Some(transit.data(offset)),
            ..Details::new(transit.direction())
        }
    }

    /// Classifies at one of the four layers that see every packet.
    fn at_packet_layer(
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

    fn payload(&mut self, flow: usize, transit: &Transit<'_>, entry: Entry) -> Result<(), Reason> {
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
        if entry.state != State::Live
            || !has_ale(transit.packet, version)
            || !self.indicator.wants(Point::Datagram, version)
        {
            return Ok(());
        }
        let conversation = self.shown(flow, transit);
        let details = self.details(flow, transit, Point::Datagram);
        let layer = self.indicator.layer(Point::Datagram, version);
        match self
            .indicator
            .classify(Point::Datagram, &conversation, &details)
        {
            Outcome::Permit => Ok(()),
            Outcome::Block => Err(Reason::Blocked(layer)),
            Outcome::Absorb | Outcome::Pend => Err(Reason::Absorbed(layer)),
        }
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
            self.kill(flow, layer);
            return Err(Reason::Blocked(layer));
        }
        if delivered.disconnect_blocked || (delivered.passed == 0 && delivered.blocked > 0) {
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
