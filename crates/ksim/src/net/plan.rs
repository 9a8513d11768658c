//! Which fields and metadata a layer has, and where their values come from.
//!
//! All of it comes from the schema; a field that the stack knows nothing about is `FWP_EMPTY`.

use wfp_schema::{ConditionFlags, IpVersion, Layer, LayerId, LayerKind, MetadataFields};

/// The default compartment (`DEFAULT_COMPARTMENT_ID`).
pub(super) const COMPARTMENT: u32 = 1;

/// No layer of the stack has more fields.
pub(super) const MAX_FIELDS: usize = 40;

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Unknown,
    LocalAddress,
    RemoteAddress,
    LocalAddressType,
    RemoteAddressType,
    LocalPort,
    RemotePort,
    Protocol,
    EmbeddedProtocol,
    EmbeddedRemoteAddress,
    EmbeddedLocalAddressType,
    EmbeddedLocalPort,
    EmbeddedRemotePort,
    Luid(Which),
    Index(Which),
    Type(Which),
    Profile(Which),
    OriginalProfile,
    Tunnel(Which),
    OriginalIcmpType,
    Promiscuous,
    Zero,
    Flags,
    Direction,
    Application,
    User,
    Reauthorize,
    Compartment,
}

/// An interface of a classify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The one that has the local address.
    Local,
    /// The one that the packet came by, unknown of an outbound packet.
    Arrival,
    /// The one that the packet goes to, unknown of an inbound packet.
    NextHop,
}

impl Source {
    fn of(field: &str) -> Self {
        match field {
            "IP_LOCAL_ADDRESS" | "IP_SOURCE_ADDRESS" => Self::LocalAddress,
            "IP_REMOTE_ADDRESS" | "IP_DESTINATION_ADDRESS" => Self::RemoteAddress,
            "IP_LOCAL_ADDRESS_TYPE" => Self::LocalAddressType,
            "IP_DESTINATION_ADDRESS_TYPE" => Self::RemoteAddressType,
            "IP_LOCAL_PORT" | "ICMP_TYPE" => Self::LocalPort,
            "IP_REMOTE_PORT" | "ICMP_CODE" => Self::RemotePort,
            "IP_PROTOCOL" => Self::Protocol,
            "EMBEDDED_PROTOCOL" => Self::EmbeddedProtocol,
            "EMBEDDED_REMOTE_ADDRESS" => Self::EmbeddedRemoteAddress,
            "EMBEDDED_LOCAL_ADDRESS_TYPE" => Self::EmbeddedLocalAddressType,
            "EMBEDDED_LOCAL_PORT" => Self::EmbeddedLocalPort,
            "EMBEDDED_REMOTE_PORT" => Self::EmbeddedRemotePort,
            "IP_LOCAL_INTERFACE" => Self::Luid(Which::Local),
            "IP_ARRIVAL_INTERFACE" | "IP_PHYSICAL_ARRIVAL_INTERFACE" => Self::Luid(Which::Arrival),
            "IP_NEXTHOP_INTERFACE" | "IP_FORWARD_INTERFACE" | "IP_PHYSICAL_NEXTHOP_INTERFACE" => {
                Self::Luid(Which::NextHop)
            }
            "INTERFACE_INDEX" => Self::Index(Which::Local),
            "ARRIVAL_INTERFACE_INDEX" | "SOURCE_INTERFACE_INDEX" => Self::Index(Which::Arrival),
            "NEXTHOP_INTERFACE_INDEX" | "DESTINATION_INTERFACE_INDEX" => {
                Self::Index(Which::NextHop)
            }
            "INTERFACE_TYPE" => Self::Type(Which::Local),
            "ARRIVAL_INTERFACE_TYPE" => Self::Type(Which::Arrival),
            "NEXTHOP_INTERFACE_TYPE" => Self::Type(Which::NextHop),
            "PROFILE_ID" | "CURRENT_PROFILE_ID" | "LOCAL_INTERFACE_PROFILE_ID" => {
                Self::Profile(Which::Local)
            }
            "ARRIVAL_INTERFACE_PROFILE_ID" => Self::Profile(Which::Arrival),
            "NEXTHOP_INTERFACE_PROFILE_ID" => Self::Profile(Which::NextHop),
            "ORIGINAL_PROFILE_ID" => Self::OriginalProfile,
            // No interface is a tunnel.
            "TUNNEL_TYPE" => Self::Tunnel(Which::Local),
            "ARRIVAL_TUNNEL_TYPE" => Self::Tunnel(Which::Arrival),
            "NEXTHOP_TUNNEL_TYPE" => Self::Tunnel(Which::NextHop),
            "ORIGINAL_ICMP_TYPE" => Self::OriginalIcmpType,
            "ALE_PROMISCUOUS_MODE" => Self::Promiscuous,
            // No sub-interface, no socket property.
            "SUB_INTERFACE_INDEX"
            | "NEXTHOP_SUB_INTERFACE_INDEX"
            | "SOURCE_SUB_INTERFACE_INDEX"
            | "DESTINATION_SUB_INTERFACE_INDEX"
            | "SIO_FIREWALL_SOCKET_PROPERTY"
            | "SIO_FIREWALL_SYSTEM_PORT" => Self::Zero,
            "FLAGS" => Self::Flags,
            "DIRECTION" => Self::Direction,
            "ALE_APP_ID" | "ALE_ORIGINAL_APP_ID" => Self::Application,
            "ALE_USER_ID" => Self::User,
            "REAUTHORIZE_REASON" => Self::Reauthorize,
            "COMPARTMENT_ID" => Self::Compartment,
            _ => Self::Unknown,
        }
    }
}

/// A layer's identifier, its fields and its metadata.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) id: LayerId,
    pub(super) fields: [Source; MAX_FIELDS],
    pub(super) count: usize,
    pub(super) metadata: MetadataFields,
    /// Flags of the conversation that the layer shows.
    pub(super) flags: ConditionFlags,
    /// Whether IPv4 traffic of dual-mode sockets may come here with mapped addresses.
    pub(super) is_ale: bool,
    /// The discard layer, where the layer has one that is in use.
    pub(super) discard: Option<(LayerId, MetadataFields)>,
}

impl Plan {
    pub(super) fn of(point: Point, version: IpVersion) -> Option<Self> {
        let kind = point.kind();
        let layer = Layer::of(kind, version).or_else(|| Layer::unversioned(kind))?;
        let mut fields = [Source::Unknown; MAX_FIELDS];
        let count = layer.fields().len().min(MAX_FIELDS);
        for (source, field) in fields.iter_mut().zip(layer.fields()) {
            *source = Source::of(field.name());
        }
        // The page on filtering condition flags names the layers of each.
        let mut flags = ConditionFlags::IS_LOOPBACK;
        if matches!(
            point,
            Point::InboundTransport
                | Point::OutboundTransport
                | Point::Datagram
                | Point::Bind
                | Point::Accept
                | Point::Connect
        ) {
            flags |= ConditionFlags::IS_RAW_ENDPOINT;
        }
        if matches!(
            point,
            Point::InboundPacket | Point::InboundTransport | Point::Accept | Point::Connect
        ) {
            flags |= ConditionFlags::IS_IPSEC_SECURED;
        }
        // The discard layers of STREAM are reserved for future use.
        let twin = layer.twin().filter(|_| point != Point::Stream);
        Some(Self {
            id: layer.id(),
            fields,
            count,
            metadata: layer.metadata(),
            flags,
            is_ale: point.is_ale(),
            discard: twin.map(|twin| (twin.id(), twin.metadata())),
        })
    }
}

macro_rules! points {
    ($($point:ident = $kind:ident,)*) => {
        /// The IP and ALE layers that the stack indicates.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Point {
            $($point,)*
        }

        impl Point {
            pub(super) const ALL: &'static [Self] = &[$(Self::$point),*];

            const fn kind(self) -> LayerKind {
                match self {
                    $(Self::$point => LayerKind::$kind,)*
                }
            }
        }
    };
}

points! {
    InboundPacket = InboundIpPacket,
    OutboundPacket = OutboundIpPacket,
    Forward = IpForward,
    InboundTransport = InboundTransport,
    OutboundTransport = OutboundTransport,
    InboundTransportFast = InboundTransportFast,
    OutboundTransportFast = OutboundTransportFast,
    InboundIcmpError = InboundIcmpError,
    OutboundIcmpError = OutboundIcmpError,
    Stream = Stream,
    StreamPacket = StreamPacket,
    Datagram = DatagramData,
    BindRedirect = AleBindRedirect,
    Bind = AleResourceAssignment,
    Listen = AleAuthListen,
    Accept = AleAuthRecvAccept,
    ConnectRedirect = AleConnectRedirect,
    Connect = AleAuthConnect,
    Established = AleFlowEstablished,
    Closure = AleEndpointClosure,
    Release = AleResourceRelease,
}

impl Point {
    /// Whether callouts may change there what was asked for.
    pub(super) const fn redirects(self) -> bool {
        matches!(self, Self::BindRedirect | Self::ConnectRedirect)
    }

    const fn is_ale(self) -> bool {
        matches!(
            self,
            Self::BindRedirect
                | Self::Bind
                | Self::Listen
                | Self::Accept
                | Self::ConnectRedirect
                | Self::Connect
                | Self::Established
                | Self::Closure
                | Self::Release
        )
    }
}
