//! What makes packets belong together, and which end of a flow began it.

use std::net::IpAddr;

use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};
use wfp_schema::IpVersion;

use super::indicator::Conversation;
use super::packet::{Packet, Transport, icmp_family, ip_addr, protocol, tcp_flag};

/// The link that a packet was seen on, such as a VLAN id; links have flows of their own.
pub type Link = u16;

/// A flow's key, the same for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowKey {
    low: u128,
    high: u128,
    ports: u32,
    rest: u32,
}

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.low);
        state.write_u128(self.high);
        state.write_u64(u64::from(self.ports) << 32 | u64::from(self.rest));
    }
}

const fn halves(high: u16, low: u16) -> u32 {
    (high as u32) << 16 | low as u32
}

impl FlowKey {
    /// The packet's key, and whether its source is the key's low end.
    pub(super) fn of(packet: &Packet<'_>, link: Link) -> (Self, bool) {
        let version = u32::from(matches!(packet.version, IpVersion::V6));
        let rest = u32::from(link) << 16 | version << 8 | u32::from(packet.protocol);
        let source = (packet.source, packet.source_port);
        let destination = (packet.destination, packet.destination_port);
        let forward = source <= destination;
        let (low, high) = if forward {
            (source, destination)
        } else {
            (destination, source)
        };
        let ports = match packet.transport {
            // ALE tells ICMP flows apart by type, code and identifier.
            Transport::Icmp(icmp) => {
                let kind = u16::from_be_bytes([icmp_family(packet.version, icmp.kind), icmp.code]);
                halves(
                    kind,
                    icmp.id_and_sequence.map_or(0, |both| (both >> 16) as u16),
                )
            }
            _ => halves(low.1, high.1),
        };
        (
            Self {
                low: low.0,
                high: high.0,
                ports,
                rest,
            },
            forward,
        )
    }

    /// The key of packets between the ends of a conversation that has ports or none, and whether the local end is
    /// the key's low end.
    pub(super) fn between(conversation: &Conversation) -> (Self, bool) {
        let version = u32::from(matches!(conversation.version, IpVersion::V6));
        let rest = u32::from(conversation.link) << 16 | version << 8;
        let local = (conversation.local, conversation.local_end().port);
        let remote = (conversation.remote, conversation.remote_end().port);
        let forward = local <= remote;
        let (low, high) = if forward {
            (local, remote)
        } else {
            (remote, local)
        };
        let key = Self {
            low: low.0,
            high: high.0,
            ports: halves(low.1, high.1),
            rest: rest | u32::from(conversation.protocol),
        };
        (key, forward)
    }

    /// The key of the entry that reports the flow: addresses, protocol and ports.
    pub(super) const fn reported(self, transport: Transport) -> Self {
        match transport {
            Transport::Icmp(_) => Self { ports: 0, ..self },
            _ => self,
        }
    }
}

/// Whether the packet's sender is the one who began the flow, judged by the flow's first packet.
///
/// TCP: who sends SYN begins, who sends SYN and ACK answers. A connection that is joined in the middle was
/// begun by the end with the ephemeral port: if only one port is below 1024 that end is the server,
/// otherwise if only one is 32768 or above that end is the client. In all other cases and for all other
/// protocols the first sender begins, as in ALE.
#[must_use]
pub const fn sender_begins(packet: &Packet<'_>) -> bool {
    let Transport::Tcp(tcp) = packet.transport else {
        return true;
    };
    if tcp.has(tcp_flag::SYN) {
        return !tcp.has(tcp_flag::ACK);
    }
    let (source, destination) = (packet.source_port, packet.destination_port);
    match (source < 1024, destination < 1024) {
        (false, true) => true,
        (true, false) => false,
        _ => source >= 32768 || destination < 32768,
    }
}

/// A number that spreads packets over processors: equal for all packets between two addresses, whichever
/// way they go, so that a [`Host`](super::Host) per processor sees whole flows.
///
/// Ports are not in it: only the first fragment of a datagram has them, and fragments must meet the rest
/// of their flow. Bytes that are not an IP packet give 0.
#[must_use]
pub fn flow_hash(bytes: &[u8]) -> u32 {
    Packet::parse(bytes).map_or(0, |packet| {
        let mut hasher = FxHasher::default();
        hasher.write_u128(packet.source.min(packet.destination));
        hasher.write_u128(packet.source.max(packet.destination));
        (hasher.finish() >> 32) as u32
    })
}

/// The two ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// IP protocol number.
    pub protocol: u8,
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port.
    pub destination: (IpAddr, u16),
    /// Whether the source is the one who began the flow, see [`sender_begins`].
    pub source_begins: bool,
}

impl Ends {
    /// The ends of a packet; `None` if the bytes are no IP packet.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let packet = Packet::parse(bytes).ok()?;
        Some(Self {
            protocol: packet.protocol,
            source: (ip_addr(packet.version, packet.source), packet.source_port),
            destination: (
                ip_addr(packet.version, packet.destination),
                packet.destination_port,
            ),
            source_begins: sender_begins(&packet),
        })
    }
}

/// Whether the protocol has connections rather than datagrams.
pub(super) const fn is_connection(protocol: u8) -> bool {
    protocol == protocol::TCP
}
