//! What the stack tells about packets, flows and itself.

use wfp_schema::{Direction, LayerId};

use super::indicate::{End, PacketId, Ticks};
use super::key::Link;
use super::packet::Malformed;
use super::process::IdentityId;

/// A flow's place in [`Host::flows`](super::Host::flows).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowIndex(pub usize);

/// Why a packet did not simply pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A filter blocked this packet at the layer.
    Blocked(LayerId),
    /// Its flow was blocked earlier, at the layer: without the block this packet would not have been.
    FlowBlocked(LayerId),
    /// A callout absorbed it at the layer; it passes when the callout injects it again. Pending.
    Absorbed(LayerId),
    /// A callout pended the authorization of its flow, or has not completed it yet. Pending.
    AwaitsAuthorization,
    /// It is a piece of a datagram that is not complete. Pending.
    AwaitsFragments,
    /// Its datagram was discarded: overlapping, cut short, or more than the stack puts together.
    FragmentsDiscarded,
    /// It is for another host: neither end is local. It passes, nobody classifies it.
    Foreign,
    /// No socket wants it: it was answered by a reset or an ICMP error.
    NoEndpoint,
    /// Its interface is down, or the host sleeps.
    NoInterface,
    /// Drivers injected it again and again without end.
    InjectionLoop,
    /// It is not an IP packet. The stack drops it.
    Malformed(Malformed),
}

impl Reason {
    /// The layer at which that was decided, where it was at one.
    #[must_use]
    pub const fn layer(self) -> Option<LayerId> {
        match self {
            Self::Blocked(layer) | Self::FlowBlocked(layer) | Self::Absorbed(layer) => Some(layer),
            _ => None,
        }
    }

    /// Whether the packet's fate is decided later, see [`Host::settled`](super::Host::settled).
    #[must_use]
    pub const fn is_pending(self) -> bool {
        matches!(
            self,
            Self::Absorbed(_) | Self::AwaitsAuthorization | Self::AwaitsFragments
        )
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketReport {
    /// The packet.
    pub id: PacketId,
    /// Its flow, where it has one.
    pub flow: Option<FlowIndex>,
    /// Whether it passed. `false` for a packet whose fate is pending.
    pub passed: bool,
    /// Why not, or what is special about it.
    pub reason: Option<Reason>,
}

/// A flow: all packets between two endpoints on one link, as flow collectors count them.
///
/// There is one for each protocol, pair of addresses and pair of ports, however often the ports are used
/// again or the flow falls idle; the data flows that WFP knew meanwhile are in `handles`. ICMP has no
/// ports here: all its messages between two addresses are one flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowReport {
    /// IP protocol number.
    pub protocol: u8,
    /// This host's end.
    pub local: End,
    /// The other end.
    pub remote: End,
    /// The link, such as a VLAN id.
    pub link: Link,
    /// Who began the first of its data flows.
    pub direction: Direction,
    /// Packets, outbound and inbound, whatever became of them; fragments count each.
    pub packets: [u64; 2],
    /// Bytes of these packets from the IP header on, as long as they were on the wire.
    pub bytes: [u64; 2],
    /// Packets that passed, outbound and inbound.
    pub passed: [u64; 2],
    /// The layer of the first block, be it of a packet or of the flow.
    pub blocked_at: Option<LayerId>,
    /// Handles of its data flows, oldest first.
    pub handles: Vec<u64>,
    /// Owner of the local endpoint.
    pub identity: IdentityId,
    /// Arrival of its first packet.
    pub first_seen: Ticks,
    /// Arrival of its last packet.
    pub last_seen: Ticks,
}

/// What the stack met that no flow tells about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets given to the host.
    pub packets: u64,
    /// Packets that passed, including those whose fate was pending.
    pub passed: u64,
    /// Packets that are no IP packets.
    pub malformed: u64,
    /// Packets of which the capture holds only a part.
    pub cut: u64,
    /// Packets for other hosts.
    pub foreign: u64,
    /// Fragments.
    pub fragments: u64,
    /// Datagrams that were put together from fragments.
    pub reassembled: u64,
    /// Fragments of datagrams that never became complete.
    pub fragments_discarded: u64,
    /// Bytes of TCP streams that were skipped because the capture does not hold them.
    pub stream_bytes_skipped: u64,
    /// TCP resets that belong to no window and were ignored.
    pub resets_ignored: u64,
    /// Connections that were joined in the middle.
    pub joined_midway: u64,
    /// Data flows that ended since nothing came for the idle time-out.
    pub idle_timeouts: u64,
    /// Packets that no interface could take.
    pub unreachable: u64,
    /// Packets that were forwarded.
    pub forwarded: u64,
    /// Packets that were dropped since drivers injected them without end.
    pub injection_loops: u64,
    /// Injected packets.
    pub injected: u64,
    /// Injected packets that no absorbed packet was found for.
    pub injected_new: u64,
}
