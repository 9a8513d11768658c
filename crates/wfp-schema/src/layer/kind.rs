//! What a layer is apart from its IP version.

use crate::MetadataFields;
use crate::field::{self, Field};
use crate::flags::L2MetadataFields;

/// Where in a packet the offset of a net buffer stands when it is indicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Header {
    /// At the header of the data link.
    Link,
    /// At the IP header.
    Ip,
    /// At the transport header.
    Transport,
    /// At the ICMP header.
    Icmp,
    /// At the IP header that an ICMP error quotes.
    EmbeddedIp,
    /// Behind the transport header; at the ICMP header of packets of ICMP sockets.
    Data,
}

/// What `layerData` points at. It may be NULL at any layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerData {
    /// Always NULL.
    None,
    /// `NET_BUFFER_LIST`, where a packet exists at all.
    NetBufferList {
        /// Where an inbound packet's offset stands.
        inbound: Header,
        /// Where an outbound packet's offset stands.
        outbound: Header,
    },
    /// `FWPS_STREAM_CALLOUT_IO_PACKET0`.
    StreamCalloutIoPacket,
    /// `FWPS_CONNECT_REQUEST0`.
    ConnectRequest,
    /// `FWPS_BIND_REQUEST0`.
    BindRequest,
}

/// Packets whose offset stands here, whichever way they go.
const fn packet(at: Header) -> LayerData {
    LayerData::NetBufferList {
        inbound: at,
        outbound: at,
    }
}

/// Packets that have passed a transport: inbound behind its header, outbound at it.
const TRANSPORT_PACKET: LayerData = LayerData::NetBufferList {
    inbound: Header::Data,
    outbound: Header::Transport,
};

const ABSORB: u8 = 1;
const PEND_OPERATION: u8 = 2;
const PEND_CLASSIFY: u8 = 4;
const REDIRECT: u8 = 8;

/// The facts about a kind.
struct Facts {
    fields: &'static [Field],
    metadata: MetadataFields,
    l2_metadata: L2MetadataFields,
    data: LayerData,
    abilities: u8,
}

macro_rules! metadata {
    ($($name:ident)*) => {
        MetadataFields::from_bits(0 $(| MetadataFields::$name.bits())*)
    };
}

macro_rules! l2_metadata {
    ($($name:ident)*) => {
        L2MetadataFields::from_bits(0 $(| L2MetadataFields::$name.bits())*)
    };
}

macro_rules! kinds {
    ($(
        $kind:ident $name:literal {
            fields: $fields:expr,
            metadata: [$($metadata:ident)*],
            $(l2: [$($l2:ident)*],)?
            data: $data:expr,
            can: $can:expr,
        }
    )*) => {
        /// What a layer is apart from its IP version; discard layers share their twin's kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum LayerKind {
            $(#[doc = concat!("`", $name, "`.")] $kind,)*
        }

        impl LayerKind {
            /// Every kind, in the order of the smallest layer identifier.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The header's name without prefix and version, such as `ALE_AUTH_CONNECT`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$kind => const {
                        &Facts {
                            fields: $fields,
                            metadata: metadata!($($metadata)*),
                            l2_metadata: l2_metadata!($($($l2)*)?),
                            data: $data,
                            abilities: $can,
                        }
                    },)*
                }
            }
        }
    };
}

impl LayerKind {
    /// The fields in the order of their indexes.
    #[must_use]
    pub const fn fields(self) -> &'static [Field] {
        self.facts().fields
    }

    /// The metadata that may be present at a regular layer of the kind.
    #[must_use]
    pub const fn metadata(self) -> MetadataFields {
        self.facts().metadata
    }

    /// The metadata of the data link that may be present.
    #[must_use]
    pub const fn l2_metadata(self) -> L2MetadataFields {
        self.facts().l2_metadata
    }

    /// What `layerData` points at.
    #[must_use]
    pub const fn data(self) -> LayerData {
        self.facts().data
    }

    /// Whether a block may be absorbed.
    #[must_use]
    pub const fn may_absorb(self) -> bool {
        self.facts().abilities & ABSORB != 0
    }

    /// Whether `FwpsPendOperation0` works at regular layers of the kind.
    #[must_use]
    pub const fn may_pend_operation(self) -> bool {
        self.facts().abilities & PEND_OPERATION != 0
    }

    /// Whether `FwpsPendClassify0` works at regular layers of the kind.
    #[must_use]
    pub const fn may_pend_classify(self) -> bool {
        self.facts().abilities & PEND_CLASSIFY != 0
    }

    /// Whether layer data may be changed.
    #[must_use]
    pub const fn may_redirect(self) -> bool {
        self.facts().abilities & REDIRECT != 0
    }

    /// Whether callouts answer with a stream action besides a verdict, and the
    /// rights of `FWPS_CLASSIFY_OUT0` mean nothing.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Stream)
    }
}

kinds! {
    InboundIpPacket "INBOUND_IPPACKET" {
        fields: field::inbound_ippacket::FIELDS,
        metadata: [IP_HEADER_SIZE COMPARTMENT_ID FRAGMENT_DATA],
        data: packet(Header::Transport),
        can: ABSORB,
    }
    OutboundIpPacket "OUTBOUND_IPPACKET" {
        fields: field::outbound_ippacket::FIELDS,
        metadata: [IP_HEADER_SIZE TRANSPORT_HEADER_SIZE COMPARTMENT_ID FRAGMENT_DATA PATH_MTU],
        data: packet(Header::Ip),
        can: ABSORB,
    }
    IpForward "IPFORWARD" {
        fields: field::ipforward::FIELDS,
        metadata: [COMPARTMENT_ID],
        data: packet(Header::Ip),
        can: 0,
    }
    InboundTransport "INBOUND_TRANSPORT" {
        fields: field::inbound_transport::FIELDS,
        metadata: [
            FLOW_HANDLE IP_HEADER_SIZE SYSTEM_FLAGS RESERVED TRANSPORT_HEADER_SIZE
            COMPARTMENT_ID TRANSPORT_ENDPOINT_HANDLE ALE_CLASSIFY_REQUIRED ICMP_ID_AND_SEQUENCE
        ],
        data: packet(Header::Data),
        can: ABSORB,
    }
    OutboundTransport "OUTBOUND_TRANSPORT" {
        fields: field::outbound_transport::FIELDS,
        metadata: [
            FLOW_HANDLE SYSTEM_FLAGS RESERVED TRANSPORT_HEADER_SIZE COMPARTMENT_ID
            TRANSPORT_ENDPOINT_HANDLE TRANSPORT_CONTROL_DATA REMOTE_SCOPE_ID
            ICMP_ID_AND_SEQUENCE
        ],
        data: packet(Header::Transport),
        can: ABSORB,
    }
    Stream "STREAM" {
        fields: field::stream::FIELDS,
        metadata: [FLOW_HANDLE SYSTEM_FLAGS],
        data: LayerData::StreamCalloutIoPacket,
        can: 0,
    }
    DatagramData "DATAGRAM_DATA" {
        fields: field::datagram_data::FIELDS,
        metadata: [
            FLOW_HANDLE IP_HEADER_SIZE SYSTEM_FLAGS TRANSPORT_HEADER_SIZE COMPARTMENT_ID
            TRANSPORT_ENDPOINT_HANDLE TRANSPORT_CONTROL_DATA REMOTE_SCOPE_ID
            ICMP_ID_AND_SEQUENCE
        ],
        data: TRANSPORT_PACKET,
        can: ABSORB,
    }
    InboundIcmpError "INBOUND_ICMP_ERROR" {
        fields: field::inbound_icmp_error::FIELDS,
        metadata: [IP_HEADER_SIZE TRANSPORT_HEADER_SIZE COMPARTMENT_ID TRANSPORT_ENDPOINT_HANDLE],
        data: packet(Header::EmbeddedIp),
        can: ABSORB,
    }
    OutboundIcmpError "OUTBOUND_ICMP_ERROR" {
        fields: field::outbound_icmp_error::FIELDS,
        metadata: [
            SYSTEM_FLAGS TRANSPORT_HEADER_SIZE COMPARTMENT_ID TRANSPORT_ENDPOINT_HANDLE
            TRANSPORT_CONTROL_DATA REMOTE_SCOPE_ID
        ],
        data: packet(Header::Icmp),
        can: ABSORB,
    }
    AleResourceAssignment "ALE_RESOURCE_ASSIGNMENT" {
        fields: field::ale_resource_assignment::FIELDS,
        metadata: [
            PROCESS_PATH TOKEN PROCESS_ID RESERVED COMPLETION_HANDLE TRANSPORT_ENDPOINT_HANDLE
            SUB_PROCESS_TAG
        ],
        data: LayerData::None,
        can: PEND_OPERATION,
    }
    AleAuthListen "ALE_AUTH_LISTEN" {
        fields: field::ale_auth_listen::FIELDS,
        metadata: [
            PROCESS_PATH TOKEN PROCESS_ID RESERVED COMPLETION_HANDLE TRANSPORT_ENDPOINT_HANDLE
            SUB_PROCESS_TAG
        ],
        data: LayerData::None,
        can: PEND_OPERATION,
    }
    AleAuthRecvAccept "ALE_AUTH_RECV_ACCEPT" {
        fields: field::ale_auth_recv_accept::FIELDS,
        metadata: [
            FLOW_HANDLE IP_HEADER_SIZE PROCESS_PATH TOKEN PROCESS_ID RESERVED
            TRANSPORT_HEADER_SIZE COMPARTMENT_ID COMPLETION_HANDLE TRANSPORT_ENDPOINT_HANDLE
            PACKET_DIRECTION PARENT_ENDPOINT_HANDLE ICMP_ID_AND_SEQUENCE SUB_PROCESS_TAG
        ],
        data: TRANSPORT_PACKET,
        can: ABSORB | PEND_OPERATION,
    }
    AleAuthConnect "ALE_AUTH_CONNECT" {
        fields: field::ale_auth_connect::FIELDS,
        metadata: [
            FLOW_HANDLE PROCESS_PATH TOKEN PROCESS_ID RESERVED TRANSPORT_HEADER_SIZE
            COMPARTMENT_ID COMPLETION_HANDLE TRANSPORT_ENDPOINT_HANDLE REMOTE_SCOPE_ID
            PACKET_DIRECTION PARENT_ENDPOINT_HANDLE ICMP_ID_AND_SEQUENCE SUB_PROCESS_TAG
            LOCAL_REDIRECT_TARGET_PID ORIGINAL_DESTINATION
        ],
        data: TRANSPORT_PACKET,
        can: ABSORB | PEND_OPERATION,
    }
    AleFlowEstablished "ALE_FLOW_ESTABLISHED" {
        fields: field::ale_flow_established::FIELDS,
        metadata: [
            FLOW_HANDLE PROCESS_PATH TOKEN PROCESS_ID RESERVED TRANSPORT_ENDPOINT_HANDLE
            PARENT_ENDPOINT_HANDLE ICMP_ID_AND_SEQUENCE SUB_PROCESS_TAG
        ],
        data: TRANSPORT_PACKET,
        can: ABSORB,
    }
    InboundMacFrameEthernet "INBOUND_MAC_FRAME_ETHERNET" {
        fields: field::inbound_mac_frame_ethernet::FIELDS,
        metadata: [],
        data: packet(Header::Ip),
        can: ABSORB,
    }
    OutboundMacFrameEthernet "OUTBOUND_MAC_FRAME_ETHERNET" {
        fields: field::outbound_mac_frame_ethernet::FIELDS,
        metadata: [],
        data: packet(Header::Link),
        can: ABSORB,
    }
    InboundMacFrameNative "INBOUND_MAC_FRAME_NATIVE" {
        fields: field::inbound_mac_frame_native::FIELDS,
        metadata: [],
        data: packet(Header::Link),
        can: ABSORB,
    }
    OutboundMacFrameNative "OUTBOUND_MAC_FRAME_NATIVE" {
        fields: field::outbound_mac_frame_native::FIELDS,
        metadata: [],
        data: packet(Header::Link),
        can: ABSORB,
    }
    NameResolutionCache "NAME_RESOLUTION_CACHE" {
        fields: field::name_resolution_cache::FIELDS,
        metadata: [],
        data: LayerData::None,
        can: 0,
    }
    AleResourceRelease "ALE_RESOURCE_RELEASE" {
        fields: field::ale_resource_release::FIELDS,
        metadata: [TOKEN PROCESS_ID COMPARTMENT_ID TRANSPORT_ENDPOINT_HANDLE SUB_PROCESS_TAG],
        data: LayerData::None,
        can: 0,
    }
    AleEndpointClosure "ALE_ENDPOINT_CLOSURE" {
        fields: field::ale_endpoint_closure::FIELDS,
        metadata: [
            TOKEN PROCESS_ID COMPARTMENT_ID TRANSPORT_ENDPOINT_HANDLE PARENT_ENDPOINT_HANDLE
            SUB_PROCESS_TAG
        ],
        data: LayerData::None,
        can: PEND_CLASSIFY,
    }
    AleConnectRedirect "ALE_CONNECT_REDIRECT" {
        fields: field::ale_connect_redirect::FIELDS,
        metadata: [
            TOKEN PROCESS_ID TRANSPORT_ENDPOINT_HANDLE PARENT_ENDPOINT_HANDLE
            ICMP_ID_AND_SEQUENCE LOCAL_REDIRECT_TARGET_PID REDIRECT_RECORD_HANDLE
            SUB_PROCESS_TAG
        ],
        data: LayerData::ConnectRequest,
        can: PEND_CLASSIFY | REDIRECT,
    }
    AleBindRedirect "ALE_BIND_REDIRECT" {
        fields: field::ale_bind_redirect::FIELDS,
        metadata: [
            TOKEN PROCESS_ID TRANSPORT_ENDPOINT_HANDLE LOCAL_REDIRECT_TARGET_PID SUB_PROCESS_TAG
        ],
        data: LayerData::BindRequest,
        can: PEND_CLASSIFY | REDIRECT,
    }
    StreamPacket "STREAM_PACKET" {
        fields: field::stream_packet::FIELDS,
        metadata: [
            FLOW_HANDLE IP_HEADER_SIZE SYSTEM_FLAGS TRANSPORT_HEADER_SIZE COMPARTMENT_ID
            TRANSPORT_ENDPOINT_HANDLE TRANSPORT_CONTROL_DATA REMOTE_SCOPE_ID
        ],
        data: TRANSPORT_PACKET,
        can: ABSORB,
    }
    IngressVSwitchEthernet "INGRESS_VSWITCH_ETHERNET" {
        fields: field::ingress_vswitch_ethernet::FIELDS,
        metadata: [],
        l2: [
            ETHERNET_MAC_HEADER_SIZE WIFI_OPERATION_MODE VSWITCH_SOURCE_PORT_ID
            VSWITCH_SOURCE_NIC_INDEX VSWITCH_PACKET_CONTEXT VSWITCH_DESTINATION_PORT_ID
        ],
        data: packet(Header::Link),
        can: ABSORB,
    }
    EgressVSwitchEthernet "EGRESS_VSWITCH_ETHERNET" {
        fields: field::egress_vswitch_ethernet::FIELDS,
        metadata: [],
        l2: [
            ETHERNET_MAC_HEADER_SIZE WIFI_OPERATION_MODE VSWITCH_SOURCE_PORT_ID
            VSWITCH_SOURCE_NIC_INDEX VSWITCH_PACKET_CONTEXT VSWITCH_DESTINATION_PORT_ID
        ],
        data: packet(Header::Link),
        can: ABSORB,
    }
    IngressVSwitchTransport "INGRESS_VSWITCH_TRANSPORT" {
        fields: field::ingress_vswitch_transport::FIELDS,
        metadata: [],
        l2: [
            WIFI_OPERATION_MODE VSWITCH_SOURCE_PORT_ID VSWITCH_SOURCE_NIC_INDEX
            VSWITCH_PACKET_CONTEXT VSWITCH_DESTINATION_PORT_ID
        ],
        data: packet(Header::Ip),
        can: 0,
    }
    EgressVSwitchTransport "EGRESS_VSWITCH_TRANSPORT" {
        fields: field::egress_vswitch_transport::FIELDS,
        metadata: [],
        l2: [
            WIFI_OPERATION_MODE VSWITCH_SOURCE_PORT_ID VSWITCH_SOURCE_NIC_INDEX
            VSWITCH_PACKET_CONTEXT VSWITCH_DESTINATION_PORT_ID
        ],
        data: packet(Header::Ip),
        can: 0,
    }
    InboundTransportFast "INBOUND_TRANSPORT_FAST" {
        fields: &[],
        metadata: [],
        data: LayerData::None,
        can: 0,
    }
    OutboundTransportFast "OUTBOUND_TRANSPORT_FAST" {
        fields: &[],
        metadata: [],
        data: LayerData::None,
        can: 0,
    }
    InboundMacFrameNativeFast "INBOUND_MAC_FRAME_NATIVE_FAST" {
        fields: &[],
        metadata: [],
        data: LayerData::None,
        can: 0,
    }
    OutboundMacFrameNativeFast "OUTBOUND_MAC_FRAME_NATIVE_FAST" {
        fields: &[],
        metadata: [],
        data: LayerData::None,
        can: 0,
    }
}
