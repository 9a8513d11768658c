//! Builds indications from what the stack knows and hands them to [`Filtering`].
//!
//! Which fields and metadata a layer has comes from the schema; a field that the stack knows nothing about
//! is `FWP_EMPTY`.

use wfp_schema::codes::AddressType;
use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, Direction, IpVersion, Layer, LayerId, LayerKind, MetadataFields};

use super::indicate::{
    End, Filtering, FlowInfo, Indication, Outcome, PacketData, StageId, StreamOutcome,
    StreamSegment, Token, Value,
};
use super::metadata::{FragmentData, Metadata};
use super::packet::{ip_addr, protocol};
use super::process::{Identity, IdentityId, Processes};

/// No layer of the stack has more fields.
const MAX_FIELDS: usize = 40;

/// `ifType` of an Ethernet interface and of a software loopback interface (IANA).
const IF_TYPE_ETHERNET: u32 = 6;
const IF_TYPE_LOOPBACK: u32 = 24;

/// The default compartment (`DEFAULT_COMPARTMENT_ID`).
const COMPARTMENT: u32 = 1;

/// Interface indexes: loopback is 1 on every Windows system, the first real interface is given 2.
const LOOPBACK_INTERFACE: u32 = 1;
const FIRST_INTERFACE: u32 = 2;

const ETHERNET_MTU: u32 = 1500;

/// The two ends of a flow as the layers show them.
#[derive(Clone, Copy, Debug)]
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
    /// The network profile when the flow was authorized.
    pub(super) original_profile: Option<u32>,
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
}

impl Details<'_> {
    pub(super) const fn new(direction: Direction) -> Self {
        Self {
            direction,
            flags: ConditionFlags::NONE,
            reauthorize: ReauthorizeReason::NONE,
            original_profile: None,
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
        }
    }
}

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Unknown,
    LocalAddress,
    RemoteAddress,
    LocalAddressType,
    RemoteAddressType,
    LocalPort,
    RemotePort,
    Protocol,
    InterfaceLuid,
    InterfaceIndex,
    InterfaceType,
    Zero,
    Flags,
    Direction,
    Application,
    User,
    Reauthorize,
    Profile,
    OriginalProfile,
    Compartment,
}

impl Source {
    fn of(field: &str) -> Self {
        match field {
            "IP_LOCAL_ADDRESS" => Self::LocalAddress,
            "IP_REMOTE_ADDRESS" => Self::RemoteAddress,
            "IP_LOCAL_ADDRESS_TYPE" => Self::LocalAddressType,
            "IP_DESTINATION_ADDRESS_TYPE" => Self::RemoteAddressType,
            "IP_LOCAL_PORT" => Self::LocalPort,
            "IP_REMOTE_PORT" => Self::RemotePort,
            "IP_PROTOCOL" => Self::Protocol,
            "IP_LOCAL_INTERFACE" | "IP_ARRIVAL_INTERFACE" | "IP_NEXTHOP_INTERFACE" => {
                Self::InterfaceLuid
            }
            "INTERFACE_INDEX" | "ARRIVAL_INTERFACE_INDEX" | "NEXTHOP_INTERFACE_INDEX" => {
                Self::InterfaceIndex
            }
            "INTERFACE_TYPE" | "ARRIVAL_INTERFACE_TYPE" | "NEXTHOP_INTERFACE_TYPE" => {
                Self::InterfaceType
            }
            // No tunnel, no sub-interface, promiscuous mode off, no socket property.
            "TUNNEL_TYPE"
            | "ARRIVAL_TUNNEL_TYPE"
            | "NEXTHOP_TUNNEL_TYPE"
            | "SUB_INTERFACE_INDEX"
            | "NEXTHOP_SUB_INTERFACE_INDEX"
            | "ALE_PROMISCUOUS_MODE"
            | "SIO_FIREWALL_SOCKET_PROPERTY"
            | "SIO_FIREWALL_SYSTEM_PORT" => Self::Zero,
            "FLAGS" => Self::Flags,
            "DIRECTION" => Self::Direction,
            "ALE_APP_ID" | "ALE_ORIGINAL_APP_ID" => Self::Application,
            "ALE_USER_ID" => Self::User,
            "REAUTHORIZE_REASON" => Self::Reauthorize,
            "ORIGINAL_PROFILE_ID" => Self::OriginalProfile,
            profile if profile.ends_with("PROFILE_ID") => Self::Profile,
            "COMPARTMENT_ID" => Self::Compartment,
            _ => Self::Unknown,
        }
    }
}

/// A layer's identifier, its fields and its metadata.
#[derive(Clone, Copy, Debug)]
struct Plan {
    id: LayerId,
    fields: [Source; MAX_FIELDS],
    count: usize,
    metadata: MetadataFields,
}

impl Plan {
    fn of(kind: LayerKind, version: IpVersion) -> Option<Self> {
        let layer = Layer::of(kind, version)?;
        let mut fields = [Source::Unknown; MAX_FIELDS];
        let count = layer.fields().len().min(MAX_FIELDS);
        for (source, field) in fields.iter_mut().zip(layer.fields()) {
            *source = Source::of(field.name());
        }
        Some(Self {
            id: layer.id(),
            fields,
            count,
            metadata: layer.metadata(),
        })
    }
}

/// The layers that the stack indicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    InboundPacket,
    OutboundPacket,
    InboundTransport,
    OutboundTransport,
    Stream,
    Datagram,
    Bind,
    Listen,
    Accept,
    Connect,
    Established,
    Closure,
    Release,
}

const POINTS: [(Point, LayerKind); 13] = [
    (Point::InboundPacket, LayerKind::InboundIpPacket),
    (Point::OutboundPacket, LayerKind::OutboundIpPacket),
    (Point::InboundTransport, LayerKind::InboundTransport),
    (Point::OutboundTransport, LayerKind::OutboundTransport),
    (Point::Stream, LayerKind::Stream),
    (Point::Datagram, LayerKind::DatagramData),
    (Point::Bind, LayerKind::AleResourceAssignment),
    (Point::Listen, LayerKind::AleAuthListen),
    (Point::Accept, LayerKind::AleAuthRecvAccept),
    (Point::Connect, LayerKind::AleAuthConnect),
    (Point::Established, LayerKind::AleFlowEstablished),
    (Point::Closure, LayerKind::AleEndpointClosure),
    (Point::Release, LayerKind::AleResourceRelease),
];

/// The way from the stack to [`Filtering`].
#[derive(Debug)]
pub(super) struct Indicator<F> {
    pub(super) filtering: F,
    pub(super) processes: Processes,
    /// The network profile, once one is known.
    pub(super) profile: Option<u32>,
    plans: Vec<[Plan; 2]>,
    stages: Vec<StageId>,
}

impl<F: Filtering> Indicator<F> {
    pub(super) fn new(filtering: F, processes: Processes) -> Self {
        let plans = POINTS
            .iter()
            .map(|&(point, kind)| {
                debug_assert_eq!(POINTS[point as usize].0, point);
                let plan =
                    |version| Plan::of(kind, version).expect("the schema has every IP layer");
                [plan(IpVersion::V4), plan(IpVersion::V6)]
            })
            .collect();
        Self {
            filtering,
            processes,
            profile: None,
            plans,
            stages: Vec::new(),
        }
    }

    fn plan(&self, point: Point, version: IpVersion) -> &Plan {
        &self.plans[point as usize][version as usize]
    }

    /// The layer's identifier.
    pub(super) fn layer(&self, point: Point, version: IpVersion) -> LayerId {
        self.plan(point, version).id
    }

    /// Whether anybody wants to see the layer.
    pub(super) fn wants(&self, point: Point, version: IpVersion) -> bool {
        self.filtering.wants(self.layer(point, version))
    }

    /// The number that changes with the layer's filters.
    pub(super) fn epoch(&self, point: Point, version: IpVersion) -> u64 {
        self.filtering.epoch(self.layer(point, version))
    }

    /// Classifies at a layer; permits if nobody wants to see it.
    pub(super) fn classify(
        &mut self,
        point: Point,
        conversation: &Conversation,
        details: &Details<'_>,
    ) -> Outcome {
        let plan = &self.plans[point as usize][conversation.version as usize];
        if !self.filtering.wants(plan.id) {
            return Outcome::Permit;
        }
        let known = Known::of(&self.processes, self.profile, conversation);
        let mut values = [Value::Empty; MAX_FIELDS];
        let values = fill(plan, &known, conversation, details, &mut values);
        let metadata = metadata(plan, &self.processes, conversation, details);
        self.filtering.classify(&Indication {
            packet: details.packet,
            pend_handle: details.completion_handle,
            ..Indication::new(plan.id, values, &metadata)
        })
    }

    /// Classifies a piece of a stream for one stage.
    pub(super) fn classify_stream(
        &mut self,
        conversation: &Conversation,
        details: &Details<'_>,
        segment: &StreamSegment<'_>,
    ) -> StreamOutcome {
        let plan = &self.plans[Point::Stream as usize][conversation.version as usize];
        let known = Known::of(&self.processes, self.profile, conversation);
        let mut values = [Value::Empty; MAX_FIELDS];
        let values = fill(plan, &known, conversation, details, &mut values);
        let metadata = metadata(plan, &self.processes, conversation, details);
        let indication = Indication::new(plan.id, values, &metadata);
        self.filtering.classify_stream(&indication, segment)
    }

    /// The stages of a flow's stream. Give the vector back with [`Self::recycle`].
    pub(super) fn stages(&mut self, conversation: &Conversation, flow_handle: u64) -> Vec<StageId> {
        let mut stages = std::mem::take(&mut self.stages);
        stages.clear();
        let layer = self.layer(Point::Stream, conversation.version);
        self.filtering
            .stream_stages(layer, flow_handle, &mut stages);
        stages
    }

    /// Takes a vector of stages back for the next piece of a stream.
    pub(super) fn recycle(&mut self, stages: Vec<StageId>) {
        self.stages = stages;
    }
}

const fn address(version: IpVersion, address: u128, bytes: &[u8; 16]) -> Value<'_> {
    match version {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "IPv4 is in the low 32 bits"
        )]
        IpVersion::V4 => Value::Uint32(address as u32),
        IpVersion::V6 => Value::ByteArray16(bytes),
    }
}

/// What values of a classify point at.
struct Known<'a> {
    identity: &'a Identity,
    token: Token<'a>,
    profile: Option<u32>,
    local: [u8; 16],
    remote: [u8; 16],
}

impl<'a> Known<'a> {
    fn of(processes: &'a Processes, profile: Option<u32>, conversation: &Conversation) -> Self {
        let identity = processes.identity(conversation.identity);
        Self {
            identity,
            token: identity.token(),
            profile,
            local: conversation.local.to_be_bytes(),
            remote: conversation.remote.to_be_bytes(),
        }
    }
}

fn interface(conversation: &Conversation) -> (u32, u32) {
    if conversation.loopback {
        (LOOPBACK_INTERFACE, IF_TYPE_LOOPBACK)
    } else {
        (
            FIRST_INTERFACE + u32::from(conversation.link),
            IF_TYPE_ETHERNET,
        )
    }
}

fn fill<'v, 'a>(
    plan: &Plan,
    known: &'a Known<'a>,
    conversation: &Conversation,
    details: &Details<'_>,
    values: &'v mut [Value<'a>; MAX_FIELDS],
) -> &'v [Value<'a>] {
    let (interface_index, interface_type) = interface(conversation);
    for (value, source) in values.iter_mut().zip(&plan.fields[..plan.count]) {
        *value = match source {
            Source::Unknown => Value::Empty,
            Source::RemoteAddress | Source::RemotePort if !conversation.has_peer => Value::Empty,
            Source::LocalAddress => address(conversation.version, conversation.local, &known.local),
            Source::RemoteAddress => {
                address(conversation.version, conversation.remote, &known.remote)
            }
            Source::LocalAddressType => Value::Uint8(conversation.local_type as u8),
            Source::RemoteAddressType => Value::Uint8(conversation.remote_type as u8),
            Source::LocalPort => Value::Uint16(conversation.local_port),
            Source::RemotePort => Value::Uint16(conversation.remote_port),
            Source::Protocol => Value::Uint8(conversation.protocol),
            // NET_LUID: the interface type in the upper 16 bits, the LUID index in the next 24.
            Source::InterfaceLuid => {
                Value::Uint64(u64::from(interface_type) << 48 | u64::from(interface_index) << 24)
            }
            Source::InterfaceIndex => Value::Uint32(interface_index),
            Source::InterfaceType => Value::Uint32(interface_type),
            Source::Zero => Value::Uint32(0),
            Source::Flags => {
                let loopback = if conversation.loopback {
                    ConditionFlags::IS_LOOPBACK
                } else {
                    ConditionFlags::NONE
                };
                Value::Uint32((details.flags | loopback).bits())
            }
            Source::Direction => Value::Uint32(details.direction.value()),
            Source::Application => Value::ByteBlob(known.identity.application_id()),
            Source::User => Value::TokenAccessInformation(&known.token),
            Source::Reauthorize => Value::Uint32(details.reauthorize.bits()),
            Source::Profile => known.profile.map_or(Value::Empty, Value::Uint32),
            Source::OriginalProfile => details.original_profile.map_or(Value::Empty, Value::Uint32),
            Source::Compartment => Value::Uint32(COMPARTMENT),
        };
    }
    &values[..plan.count]
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "headers are shorter than a packet"
)]
fn metadata<'a>(
    plan: &Plan,
    processes: &'a Processes,
    conversation: &Conversation,
    details: &Details<'_>,
) -> Metadata<'a> {
    let mut present = MetadataFields::PROCESS_PATH
        | MetadataFields::TOKEN
        | MetadataFields::PROCESS_ID
        | MetadataFields::COMPARTMENT_ID
        | MetadataFields::PATH_MTU;
    let mut add = |condition: bool, fields| {
        if condition {
            present |= fields;
        }
    };
    add(details.flow_handle != 0, MetadataFields::FLOW_HANDLE);
    add(
        details.endpoint_handle != 0,
        MetadataFields::TRANSPORT_ENDPOINT_HANDLE,
    );
    add(
        details.parent_endpoint_handle != 0,
        MetadataFields::PARENT_ENDPOINT_HANDLE,
    );
    add(
        details.completion_handle != 0,
        MetadataFields::COMPLETION_HANDLE,
    );
    add(
        details.ale_classify_required,
        MetadataFields::ALE_CLASSIFY_REQUIRED,
    );
    add(
        details.header_sizes.is_some(),
        MetadataFields::IP_HEADER_SIZE,
    );
    add(
        details.header_sizes.is_some(),
        MetadataFields::TRANSPORT_HEADER_SIZE,
    );
    add(
        details.icmp_id_and_sequence.is_some(),
        MetadataFields::ICMP_ID_AND_SEQUENCE,
    );
    add(details.fragment.is_some(), MetadataFields::FRAGMENT_DATA);
    add(
        details.packet_direction.is_some(),
        MetadataFields::PACKET_DIRECTION,
    );
    let (ip_header_size, transport_header_size) = details.header_sizes.unwrap_or_default();
    Metadata {
        present: MetadataFields::from_bits(present.bits() & plan.metadata.bits()),
        flow_handle: details.flow_handle,
        ip_header_size: ip_header_size as u32,
        transport_header_size: transport_header_size as u32,
        completion_handle: details.completion_handle,
        endpoint_handle: details.endpoint_handle,
        parent_endpoint_handle: details.parent_endpoint_handle,
        packet_direction: details.packet_direction.unwrap_or(details.direction),
        icmp_id_and_sequence: details.icmp_id_and_sequence.unwrap_or(0),
        fragment: details.fragment.unwrap_or_default(),
        compartment_id: COMPARTMENT,
        path_mtu: ETHERNET_MTU,
        ..Metadata::nothing(processes.identity(conversation.identity))
    }
}
