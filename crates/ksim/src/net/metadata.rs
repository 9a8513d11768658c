//! What comes with an indication besides the field values.

use wfp_schema::codes::DiscardModule;
use wfp_schema::flags::{L2Flags, L2MetadataFields};
use wfp_schema::{Direction, MetadataFields};

use super::process::Identity;
use super::redirect::Redirection;

/// `FWPS_INCOMING_METADATA_VALUES0`. A member means something only if its bit is in `present`.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    /// Which members are valid.
    pub present: MetadataFields,
    /// Who discarded the packet and why, at a discard layer.
    pub discard: Discard,
    /// The number that [`Filtering::flow_created`](super::Filtering::flow_created) gave.
    pub flow_handle: u64,
    /// Bytes of the IP header with its options or extension headers.
    pub ip_header_size: u32,
    /// Bytes of the transport header.
    pub transport_header_size: u32,
    /// Who owns the endpoint; holds the process path, the process id and the token.
    pub process: &'a Identity,
    /// Names a pend of this operation for [`Host::complete`](super::Host::complete).
    pub completion_handle: u64,
    /// The endpoint.
    pub endpoint_handle: u64,
    /// The listening endpoint of an accepted connection.
    pub parent_endpoint_handle: u64,
    /// The packet's direction, during a reauthorization.
    pub packet_direction: Direction,
    /// ICMP identifier (high half) and sequence number (low half), host order.
    pub icmp_id_and_sequence: u32,
    /// Which fragment of a datagram this is.
    pub fragment: FragmentData,
    /// The routing compartment, 1 unless there are several.
    pub compartment_id: u32,
    /// Largest IP packet that the path takes.
    pub path_mtu: u32,
    /// The interface that a packet came from, by its index.
    pub source_interface_index: u32,
    /// The interface that a packet goes to, by its index.
    pub destination_interface_index: u32,
    /// `SCOPE_ID` of the remote address: the zone of a link-local one, which is its interface, in the low 28 bits.
    pub remote_scope_id: u32,
    /// The IP header that a raw socket sent along (`headerIncludeHeader`).
    pub include_header: &'a [u8],
    /// A redirected connection: who is the target, where it was to go, who redirected it.
    pub redirection: Option<&'a Redirection>,
    /// What the layers of the data link tell.
    pub link: LinkMetadata,
}

impl<'a> Metadata<'a> {
    /// Metadata of which nothing is present.
    #[must_use]
    pub const fn nothing(process: &'a Identity) -> Self {
        Self {
            present: MetadataFields::NONE,
            discard: Discard::POLICY,
            flow_handle: 0,
            ip_header_size: 0,
            transport_header_size: 0,
            process,
            completion_handle: 0,
            endpoint_handle: 0,
            parent_endpoint_handle: 0,
            packet_direction: Direction::Outbound,
            icmp_id_and_sequence: 0,
            fragment: FragmentData {
                identification: 0,
                offset: 0,
                length: 0,
            },
            compartment_id: 0,
            path_mtu: 0,
            source_interface_index: 0,
            destination_interface_index: 0,
            remote_scope_id: 0,
            include_header: &[],
            redirection: None,
            link: LinkMetadata::NONE,
        }
    }
}

/// `FWPS_INCOMING_METADATA_VALUES0.fragmentMetadata`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentData {
    /// The datagram's identification.
    pub identification: u32,
    /// Offset of the fragment's data in the datagram, in bytes.
    pub offset: u16,
    /// Bytes of data in the fragment.
    pub length: u32,
}

/// `FWPS_DISCARD_METADATA0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Who discarded it.
    pub module: DiscardModule,
    /// Why, in the terms of the module.
    pub reason: u32,
    /// The filter that blocked it, 0 if none did.
    pub filter_id: u64,
}

impl Discard {
    /// A filter blocked it (`FWPS_DISCARD_FIREWALL_POLICY`).
    pub const POLICY: Self = Self::by(DiscardModule::General, 0);
    /// No endpoint wants the segment (`InetDiscardEndpointNotFound`).
    pub const ENDPOINT_NOT_FOUND: Self = Self::by(DiscardModule::Transport, 4);
    /// Nobody receives the protocol (`IpDiscardProtocolUnreachable`).
    pub const PROTOCOL_UNREACHABLE: Self = Self::by(DiscardModule::Network, 3);
    /// No endpoint wants the datagram (`IpDiscardPortUnreachable`).
    pub const PORT_UNREACHABLE: Self = Self::by(DiscardModule::Network, 4);

    const fn by(module: DiscardModule, reason: u32) -> Self {
        Self {
            module,
            reason,
            filter_id: 0,
        }
    }
}

/// The members that `currentL2MetadataValues` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkMetadata {
    /// Which members are valid.
    pub present: L2MetadataFields,
    /// `L2_FLAGS`.
    pub flags: L2Flags,
    /// Bytes of the Ethernet header with its VLAN tag.
    pub mac_header_size: u32,
    /// Bytes of the frame that follow its link header.
    pub frame_length: u16,
    /// The virtual switch's port that a frame came from.
    pub switch_source_port: u32,
    /// The network adapter behind that port.
    pub switch_source_nic: u16,
    /// The virtual switch's port that a frame goes to.
    pub switch_destination_port: u32,
}

impl LinkMetadata {
    /// Nothing of the data link.
    pub const NONE: Self = Self {
        present: L2MetadataFields::NONE,
        flags: L2Flags::NONE,
        mac_header_size: 0,
        frame_length: 0,
        switch_source_port: 0,
        switch_source_nic: 0,
        switch_destination_port: 0,
    };
}
