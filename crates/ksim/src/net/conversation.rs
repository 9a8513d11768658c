//! What an indication is about: the two ends of a flow, and what is special about this packet.

use wfp_schema::codes::AddressType;
use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, Direction, IpVersion};

use super::indicate::{End, FlowInfo, PacketData};
use super::key::Link;
use super::metadata::{Discard, FragmentData};
use super::packet::{ip_addr, protocol};
use super::process::IdentityId;
use super::redirect::Redirection;

/// The two ends of a flow as the layers show them.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Conversation {
    pub(super) version: IpVersion,
    pub(super) protocol: u8,
    pub(super) local: u128,
    pub(super) remote: u128,
    /// Port, or ICMP type.
    pub(super) local_port: u16,
    /// Port, or ICMP code.
    pub(super) remote_port: u16,
    pub(super) local_type: AddressType,
    pub(super) remote_type: AddressType,
    pub(super) loopback: bool,
    pub(super) link: u16,
    /// Whether there is a remote end; a socket alone has none.
    pub(super) has_peer: bool,
    /// Whether the socket is bound to every address: its local one is unknown.
    pub(super) any_address: bool,
    /// Whether the endpoint is a raw socket.
    pub(super) raw: bool,
    /// Whether `IPsec` secures the traffic.
    pub(super) ipsec: bool,
    /// Whether an IPv4 endpoint is an IPv6 socket that takes both.
    pub(super) dual: bool,
    /// Whether the socket receives what is not for the host.
    pub(super) promiscuous: bool,
    pub(super) identity: IdentityId,
}

impl Conversation {
    pub(super) const fn info(&self, direction: Direction) -> FlowInfo {
        FlowInfo {
            version: self.version,
            protocol: self.protocol,
            direction,
            local: self.local_end(),
            remote: self.remote_end(),
        }
    }

    pub(super) const fn local_end(&self) -> End {
        End {
            address: ip_addr(self.version, self.local),
            port: self.port(self.local_port),
        }
    }

    pub(super) const fn remote_end(&self) -> End {
        End {
            address: ip_addr(self.version, self.remote),
            port: self.port(self.remote_port),
        }
    }

    /// What a layer's flags may say of the conversation.
    pub(super) fn flags(&self) -> ConditionFlags {
        let mut flags = ConditionFlags::NONE;
        for (set, flag) in [
            (self.loopback, ConditionFlags::IS_LOOPBACK),
            (self.raw, ConditionFlags::IS_RAW_ENDPOINT),
            (self.ipsec, ConditionFlags::IS_IPSEC_SECURED),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }

    /// ICMP types and codes are ports only for layers.
    const fn port(&self, port: u16) -> u16 {
        if matches!(self.protocol, protocol::ICMP | protocol::ICMPV6) {
            0
        } else {
            port
        }
    }
}

/// What an indication says besides the conversation. 0 and `None` leave metadata out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Details<'a> {
    pub(super) direction: Direction,
    pub(super) flags: ConditionFlags,
    pub(super) reauthorize: ReauthorizeReason,
    pub(super) flow_handle: u64,
    pub(super) endpoint_handle: u64,
    pub(super) parent_endpoint_handle: u64,
    pub(super) completion_handle: u64,
    pub(super) ale_classify_required: bool,
    pub(super) header_sizes: Option<(usize, usize)>,
    pub(super) icmp_id_and_sequence: Option<u32>,
    pub(super) fragment: Option<FragmentData>,
    pub(super) packet_direction: Option<Direction>,
    pub(super) packet: Option<PacketData<'a>>,
    pub(super) chain: &'a [&'a [u8]],
    pub(super) include_header: &'a [u8],
    pub(super) redirection: Option<&'a Redirection>,
    /// The link that the packet came by, if that is not the local address's.
    pub(super) arrival: Option<Link>,
    /// The link that the packet goes to, if that is not the local address's.
    pub(super) next_hop: Option<Link>,
    /// The profile when the flow began.
    pub(super) original_profile: Option<u32>,
    /// The ICMP type that began the flow.
    pub(super) original_icmp_type: Option<u16>,
    pub(super) embedded: Option<Embedded>,
    pub(super) discard: Option<Discard>,
}

/// The packet that an ICMP error quotes, as the host saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Embedded {
    pub(super) protocol: u8,
    pub(super) remote: u128,
    pub(super) local_type: AddressType,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
}

impl Details<'_> {
    pub(super) const fn new(direction: Direction) -> Self {
        Self {
            direction,
            flags: ConditionFlags::NONE,
            reauthorize: ReauthorizeReason::NONE,
            flow_handle: 0,
            endpoint_handle: 0,
            parent_endpoint_handle: 0,
            completion_handle: 0,
            ale_classify_required: false,
            header_sizes: None,
            icmp_id_and_sequence: None,
            fragment: None,
            packet_direction: None,
            packet: None,
            chain: &[],
            include_header: &[],
            redirection: None,
            arrival: None,
            next_hop: None,
            original_profile: None,
            original_icmp_type: None,
            embedded: None,
            discard: None,
        }
    }
}
