//! ICMP errors, and what the stack answers to packets that no socket wants.

use wfp_schema::{Direction, IpVersion};

use super::host::{Entry, Host, Transit};
use super::indicate::{Filtering, Outcome, PacketId};
use super::indicator::{Details, Embedded, Point};
use super::key::{FlowKey, is_connection};
use super::metadata::Discard;
use super::packet::{Packet, Transport, ip_addr, protocol, tcp_flag};
use super::report::Reason;

/// Bytes of an ICMP error before the packet that it quotes.
const ICMP_HEADER: usize = 8;
/// Bytes of a packet that an ICMP error quotes, beyond its IP header (RFC 792).
const QUOTED: usize = 8;

impl<F: Filtering> Host<F> {
    /// Shows an ICMP error to the layer for its direction.
    pub(super) fn icmp_error(&mut self, flow: usize, transit: &Transit<'_>) -> Result<(), Reason> {
        let packet = transit.packet;
        let point = if transit.outbound {
            Point::OutboundIcmpError
        } else {
            Point::InboundIcmpError
        };
        if !self.indicator.wants(point, packet.version) {
            return Ok(());
        }
        let at = packet.ip_header_len + ICMP_HEADER;
        let quoted = packet.bytes.get(at..).map(Packet::parse);
        let quoted = quoted.and_then(Result::ok);
        let conversation = self.shown(flow, transit);
        // The quoted packet is one that whoever gets the error had sent.
        let embedded = quoted.map(|quoted| Embedded {
            protocol: quoted.protocol,
            remote: quoted.destination,
            local_type: self.address_type(ip_addr(quoted.version, quoted.source)),
            local_port: quoted.source_port,
            remote_port: quoted.destination_port,
        });
        let about = quoted.and_then(|quoted| {
            let (key, _) = FlowKey::of(&quoted, transit.arrival.link);
            self.flows.find(&key)
        });
        let endpoint_handle = about.map_or(0, |about| self.flows.all[about].endpoint_handle);
        let (offset, header_sizes) = if transit.outbound {
            (packet.ip_header_len, (0, ICMP_HEADER))
        } else {
            // The IP header is reached by the first of the two alone.
            (at.min(packet.bytes.len()), (at, ICMP_HEADER))
        };
        let details = Details {
            endpoint_handle,
            header_sizes: Some(header_sizes),
            embedded,
            packet: Some(transit.data(offset)),
            ..Details::new(transit.direction())
        };
        let layer = self.indicator.layer(point, packet.version);
        match self.indicator.classify(point, &conversation, &details) {
            Outcome::Permit => Ok(()),
            Outcome::Block => Err(Reason::Blocked(layer)),
            Outcome::Absorb | Outcome::Pend => Err(Reason::Absorbed(layer)),
        }
    }

    /// Whether nobody has a socket for the flow. Only TCP and UDP have ports that can be closed.
    pub(super) fn is_closed(&self, flow: usize) -> bool {
        let Some(sockets) = &self.setup.sockets else {
            return false;
        };
        let entry = &self.flows.all[flow];
        let conversation = &entry.conversation;
        let has_ports = matches!(conversation.protocol, protocol::TCP | protocol::UDP);
        let socket = (conversation.protocol, conversation.local_port);
        entry.direction == Direction::Inbound
            && has_ports
            && !sockets.contains(&socket)
            && !self
                .endpoints
                .contains_key(&self.endpoint_key(conversation))
    }

    /// Answers a packet that no socket wants, unless a callout blocks at the discard layer.
    ///
    /// A SYN: `INBOUND_IPPACKET`, `INBOUND_TRANSPORT_DISCARD`, and a reset goes out. A datagram: `INBOUND_IPPACKET`,
    /// `INBOUND_IPPACKET_DISCARD`, and an ICMP error goes out.
    pub(super) fn refuse(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        from: Entry,
    ) -> Result<(), Reason> {
        if from != Entry::Transport {
            self.at_packet_layer(flow, transit, Point::InboundPacket, false)?;
        }
        let connection = is_connection(transit.packet.protocol);
        let (point, discard) = if connection {
            (Point::InboundTransport, Discard::ENDPOINT_NOT_FOUND)
        } else {
            (Point::InboundPacket, Discard::PORT_UNREACHABLE)
        };
        let conversation = self.shown(flow, transit);
        let details = self.details(flow, transit, point);
        let outcome = self
            .indicator
            .discard(point, &conversation, &details, discard);
        if outcome == Outcome::Permit {
            let answer = match transit.packet.transport {
                Transport::Tcp(_) => reset(transit.packet),
                _ => unreachable(transit.packet),
            };
            self.answer(flow, transit, &answer);
        }
        Err(Reason::NoEndpoint)
    }

    /// Sends a packet that the stack made.
    fn answer(&mut self, flow: usize, transit: &Transit<'_>, bytes: &[u8]) {
        let Ok(packet) = Packet::parse(bytes) else {
            return;
        };
        let transit = Transit {
            outbound: true,
            ..Transit::new(PacketId::NONE, transit.arrival, &packet, true)
        };
        let is_error = matches!(packet.transport, Transport::Icmp(_));
        if is_error && self.icmp_error(flow, &transit).is_err() {
            return;
        }
        for point in [Point::OutboundTransport, Point::OutboundPacket] {
            if self.at_packet_layer(flow, &transit, point, false).is_err() {
                return;
            }
        }
        self.sent(bytes);
    }
}

/// The IP header of an answer to a packet, for `length` bytes of a protocol. Checksums are left to offload: 0.
fn header(to: &Packet<'_>, protocol: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(60);
    match to.version {
        IpVersion::V4 => {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + length).to_be_bytes());
            bytes.extend([0, 0, 0, 0, 128, protocol, 0, 0]);
            bytes.extend(&to.destination.to_be_bytes()[12..]);
            bytes.extend(&to.source.to_be_bytes()[12..]);
        }
        IpVersion::V6 => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([protocol, 128]);
            bytes.extend(to.destination.to_be_bytes());
            bytes.extend(to.source.to_be_bytes());
        }
    }
    bytes
}

/// The reset that answers a segment for a closed port (RFC 9293, 3.5.2).
fn reset(to: &Packet<'_>) -> Vec<u8> {
    let Transport::Tcp(tcp) = to.transport else {
        return Vec::new();
    };
    let ends =
        u32::from(tcp.flags & tcp_flag::SYN != 0) + u32::from(tcp.flags & tcp_flag::FIN != 0);
    let length = u32::try_from(to.payload_wire_len).unwrap_or(0) + ends;
    let (sequence, acknowledgment, flags) = if tcp.has(tcp_flag::ACK) {
        (tcp.acknowledgment, 0, tcp_flag::RST)
    } else {
        (
            0,
            tcp.sequence.wrapping_add(length),
            tcp_flag::RST | tcp_flag::ACK,
        )
    };
    let mut bytes = header(to, protocol::TCP, 20);
    bytes.extend(to.destination_port.to_be_bytes());
    bytes.extend(to.source_port.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledgment.to_be_bytes());
    bytes.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// The ICMP error that answers a datagram for a closed port.
fn unreachable(to: &Packet<'_>) -> Vec<u8> {
    let quoted = &to.bytes[..to.bytes.len().min(to.ip_header_len + QUOTED)];
    // Destination unreachable, port unreachable.
    let (number, kind, code) = match to.version {
        IpVersion::V4 => (protocol::ICMP, 3, 3),
        IpVersion::V6 => (protocol::ICMPV6, 1, 4),
    };
    let mut bytes = header(to, number, ICMP_HEADER + quoted.len());
    bytes.extend([kind, code, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(quoted);
    bytes
}
