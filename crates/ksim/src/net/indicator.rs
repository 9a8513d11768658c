//! Builds indications from what the stack knows and hands them to [`Filtering`].

use std::net::IpAddr;

use wfp_engine::{DiscardPosition, DualModeLayer, Options, UserIdType};
use wfp_schema::{Direction, IpVersion, LayerId, MetadataFields};

use super::indicate::{
    End, Filtering, Indication, Outcome, PacketData, StageId, StreamInjection, StreamOutcome,
    StreamSegment, Token, Value,
};
use super::interface::{Interface, Interfaces};
use super::journal::Passage;
use super::key::Link;
use super::metadata::{Discard, Metadata};
use super::output::Output;
use super::plan::{COMPARTMENT, MAX_FIELDS, Plan, Source, Which};
use super::process::{Identity, Processes};
use super::redirect::Redirection;

pub(super) use super::conversation::{Conversation, Details, Embedded};
pub(super) use super::plan::Point;

/// The way from the stack to [`Filtering`].
#[derive(Debug)]
pub(super) struct Indicator<F> {
    pub(super) filtering: F,
    pub(super) processes: Processes,
    pub(super) interfaces: Interfaces,
    pub(super) options: Options,
    /// What has left the stack, if anybody wants to know.
    pub(super) output: Option<Vec<Output>>,
    /// What has come through the stack, if anybody wants to know.
    pub(super) journal: Option<Vec<Passage>>,
    plans: Vec<[Plan; 2]>,
    stages: Vec<StageId>,
}

impl<F: Filtering> Indicator<F> {
    pub(super) fn new(filtering: F, processes: Processes, interfaces: Interfaces) -> Self {
        let plans = Point::ALL
            .iter()
            .map(|&point| {
                let plan =
                    |version| Plan::of(point, version).expect("the schema has every IP layer");
                [plan(IpVersion::V4), plan(IpVersion::V6)]
            })
            .collect();
        Self {
            options: filtering.options(),
            output: None,
            journal: None,
            filtering,
            processes,
            interfaces,
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

    /// The version whose layers see the conversation: IPv4 traffic of a dual-mode socket may be shown to ALE as
    /// IPv6.
    fn shown_as(&self, point: Point, conversation: &Conversation) -> IpVersion {
        let mapped = conversation.dual
            && match self.options.dual_mode_layer {
                DualModeLayer::V4 => false,
                DualModeLayer::V6Mapped => self.plan(point, conversation.version).is_ale,
                DualModeLayer::V6Redirect => point.redirects(),
            };
        if mapped {
            IpVersion::V6
        } else {
            conversation.version
        }
    }

    /// The identifier of the layer that sees the conversation.
    pub(super) fn layer_of(&self, point: Point, conversation: &Conversation) -> LayerId {
        self.layer(point, self.shown_as(point, conversation))
    }

    /// Whether anybody wants to see the conversation there.
    pub(super) fn wants_of(&self, point: Point, conversation: &Conversation) -> bool {
        self.wants(point, self.shown_as(point, conversation))
    }

    /// The number that changes with the filters of the layer that sees the conversation.
    pub(super) fn epoch_of(&self, point: Point, conversation: &Conversation) -> u64 {
        self.epoch(point, self.shown_as(point, conversation))
    }

    /// An end of the conversation as the layer's data have it.
    pub(super) fn end_of(&self, point: Point, conversation: &Conversation, end: End) -> End {
        match (self.shown_as(point, conversation), end.address) {
            (IpVersion::V6, IpAddr::V4(address)) => End {
                address: address.to_ipv6_mapped().into(),
                ..end
            },
            _ => end,
        }
    }

    /// Classifies at a layer; permits if nobody wants to see it. What is blocked is shown to the discard layer.
    pub(super) fn classify(
        &mut self,
        point: Point,
        conversation: &Conversation,
        details: &Details<'_>,
    ) -> Outcome {
        let version = self.shown_as(point, conversation);
        let plan = &self.plans[point as usize][version as usize];
        if !self.filtering.wants(plan.id) {
            return Outcome::Permit;
        }
        let (id, discard) = (plan.id, plan.discard);
        let outcome = self.show(
            point,
            id,
            version,
            conversation,
            details,
            Filtering::classify,
        );
        if outcome == Outcome::Block && discard.is_some() {
            let filter_id = self.filtering.blocking_filter();
            let policy = Discard {
                filter_id,
                ..Discard::POLICY
            };
            self.discard(point, conversation, details, policy);
        }
        outcome
    }

    /// Classifies at a redirect layer.
    pub(super) fn redirect(
        &mut self,
        point: Point,
        conversation: &Conversation,
        details: &Details<'_>,
        redirection: &mut Redirection,
    ) -> Outcome {
        let version = self.shown_as(point, conversation);
        let id = self.layer(point, version);
        if !self.filtering.wants(id) {
            return Outcome::Permit;
        }
        let records = redirection.clone();
        let details = Details {
            redirection: records.is_proxied().then_some(&records),
            ..*details
        };
        self.show(
            point,
            id,
            version,
            conversation,
            &details,
            |filtering, indication| filtering.redirect(indication, redirection),
        )
    }

    /// Shows what is discarded to the discard layer of a layer. A callout's block there can only keep the stack
    /// from answering.
    pub(super) fn discard(
        &mut self,
        point: Point,
        conversation: &Conversation,
        details: &Details<'_>,
        discard: Discard,
    ) -> Outcome {
        let version = self.shown_as(point, conversation);
        let Some((id, _)) = self.plan(point, version).discard else {
            return Outcome::Permit;
        };
        if !self.filtering.wants(id) {
            return Outcome::Permit;
        }
        let details = Details {
            completion_handle: 0,
            discard: Some(discard),
            packet: self.discarded_packet(point, details),
            ..*details
        };
        self.show(
            point,
            id,
            version,
            conversation,
            &details,
            Filtering::classify,
        )
    }

    /// The packet as a discard layer shows it: at the network layers its data begins where the stack stopped.
    fn discarded_packet<'p>(&self, point: Point, details: &Details<'p>) -> Option<PacketData<'p>> {
        let packet = details.packet?;
        let (ip_header_size, _) = details.header_sizes.unwrap_or_default();
        let offset = match (point, self.options.discard_position) {
            (Point::InboundPacket | Point::OutboundPacket, DiscardPosition::TransportHeader) => {
                ip_header_size
            }
            (Point::InboundPacket | Point::OutboundPacket, DiscardPosition::IpHeader) => 0,
            _ => packet.offset,
        };
        Some(PacketData { offset, ..packet })
    }

    fn show(
        &mut self,
        point: Point,
        id: LayerId,
        version: IpVersion,
        conversation: &Conversation,
        details: &Details<'_>,
        ask: impl FnOnce(&mut F, &Indication<'_>) -> Outcome,
    ) -> Outcome {
        let plan = &self.plans[point as usize][version as usize];
        let known = Known::of(
            &self.processes,
            &self.interfaces,
            self.options.user_id_type,
            version,
            conversation,
            details,
        );
        let mut values = [Value::Empty; MAX_FIELDS];
        let values = fill(plan, &known, conversation, details, &mut values);
        let metadata = metadata(plan, &known, details);
        let indication = Indication {
            packet: details.packet,
            chain: details.chain,
            pend_handle: details.completion_handle,
            ..Indication::new(id, values, &metadata)
        };
        ask(&mut self.filtering, &indication)
    }

    /// Classifies a piece of a stream for one stage.
    pub(super) fn classify_stream(
        &mut self,
        conversation: &Conversation,
        details: &Details<'_>,
        segment: &StreamSegment<'_>,
    ) -> StreamOutcome {
        let version = conversation.version;
        let plan = &self.plans[Point::Stream as usize][version as usize];
        let known = Known::of(
            &self.processes,
            &self.interfaces,
            self.options.user_id_type,
            version,
            conversation,
            details,
        );
        let mut values = [Value::Empty; MAX_FIELDS];
        let values = fill(plan, &known, conversation, details, &mut values);
        let metadata = metadata(plan, &known, details);
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

    /// Takes what was injected into a direction of a stream, at one stage or at any.
    pub(super) fn stream_injected(
        &mut self,
        flow_handle: u64,
        outbound: bool,
        stage: Option<StageId>,
    ) -> Vec<StreamInjection> {
        self.filtering.stream_injected(flow_handle, outbound, stage)
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
    version: IpVersion,
    identity: &'a Identity,
    token: Token<'a>,
    user_id_type: UserIdType,
    local: [u8; 16],
    remote: [u8; 16],
    quoted: [u8; 16],
    interface: Interface,
    arrival: Option<Interface>,
    next_hop: Option<Interface>,
}

/// `::ffff:0:0/96`, the prefix of IPv4-mapped addresses.
const MAPPED: u128 = 0xffff << 32;

impl<'a> Known<'a> {
    fn of(
        processes: &'a Processes,
        interfaces: &Interfaces,
        user_id_type: UserIdType,
        version: IpVersion,
        conversation: &Conversation,
        details: &Details<'_>,
    ) -> Self {
        let identity = processes.identity(conversation.identity);
        let prefix = if version == conversation.version {
            0
        } else {
            MAPPED
        };
        let interface = if conversation.loopback {
            Interface::LOOPBACK
        } else {
            interfaces.of(conversation.link)
        };
        let named = |link: Option<Link>| link.map(|link| interfaces.of(link));
        let outbound = details.packet_direction.unwrap_or(details.direction) == Direction::Outbound;
        Self {
            version,
            identity,
            token: identity.token(),
            user_id_type,
            local: (conversation.local | prefix).to_be_bytes(),
            remote: (conversation.remote | prefix).to_be_bytes(),
            quoted: details
                .embedded
                .map_or(0, |embedded| embedded.remote)
                .to_be_bytes(),
            interface,
            arrival: named(details.arrival).or_else(|| (!outbound).then_some(interface)),
            next_hop: named(details.next_hop).or_else(|| outbound.then_some(interface)),
        }
    }

    /// The zone of a link-local remote address, 0 without.
    const fn scope(&self) -> u32 {
        match self.version {
            IpVersion::V6 if self.remote[0] == 0xfe && self.remote[1] & 0xc0 == 0x80 => {
                self.interface.index
            }
            _ => 0,
        }
    }

    const fn which(&self, which: Which) -> Option<&Interface> {
        match which {
            Which::Local => Some(&self.interface),
            Which::Arrival => self.arrival.as_ref(),
            Which::NextHop => self.next_hop.as_ref(),
        }
    }
}

fn fill<'v, 'a>(
    plan: &Plan,
    known: &'a Known<'a>,
    conversation: &Conversation,
    details: &Details<'_>,
    values: &'v mut [Value<'a>; MAX_FIELDS],
) -> &'v [Value<'a>] {
    let of =
        |which, value: fn(&Interface) -> Value<'a>| known.which(which).map_or(Value::Empty, value);
    let profile = |profile: Option<u32>| profile.map_or(Value::Empty, Value::Uint32);
    let embedded =
        |value: &dyn Fn(Embedded) -> Value<'a>| details.embedded.map_or(Value::Empty, value);
    for (value, source) in values.iter_mut().zip(&plan.fields[..plan.count]) {
        *value = match *source {
            Source::Unknown => Value::Empty,
            Source::RemoteAddress | Source::RemotePort if !conversation.has_peer => Value::Empty,
            Source::LocalAddress if conversation.any_address => Value::Empty,
            Source::LocalAddress => address(known.version, conversation.local, &known.local),
            Source::RemoteAddress => address(known.version, conversation.remote, &known.remote),
            Source::LocalAddressType => Value::Uint8(conversation.local_type as u8),
            Source::RemoteAddressType => Value::Uint8(conversation.remote_type as u8),
            Source::LocalPort => Value::Uint16(conversation.local_port),
            Source::RemotePort => Value::Uint16(conversation.remote_port),
            Source::Protocol => Value::Uint8(conversation.protocol),
            Source::EmbeddedProtocol => embedded(&|quoted| Value::Uint8(quoted.protocol)),
            Source::EmbeddedRemoteAddress => {
                embedded(&|quoted| address(known.version, quoted.remote, &known.quoted))
            }
            Source::EmbeddedLocalAddressType => {
                embedded(&|quoted| Value::Uint8(quoted.local_type as u8))
            }
            Source::EmbeddedLocalPort => embedded(&|quoted| Value::Uint16(quoted.local_port)),
            Source::EmbeddedRemotePort => embedded(&|quoted| Value::Uint16(quoted.remote_port)),
            Source::Luid(which) => of(which, |interface| Value::Uint64(interface.luid())),
            Source::Index(which) => of(which, |interface| Value::Uint32(interface.index)),
            Source::Type(which) => of(which, |interface| Value::Uint32(interface.kind)),
            Source::Tunnel(which) => of(which, |_| Value::Uint32(0)),
            Source::Profile(which) => profile(known.which(which).and_then(|one| one.profile)),
            Source::OriginalProfile => {
                profile(details.original_profile.or(known.interface.profile))
            }
            Source::OriginalIcmpType => details
                .original_icmp_type
                .map_or(Value::Empty, Value::Uint16),
            Source::Promiscuous => Value::Uint32(u32::from(conversation.promiscuous)),
            Source::Zero => Value::Uint32(0),
            Source::Flags => {
                let flags = conversation.flags();
                let shown = flags.bits() & plan.flags.bits();
                Value::Uint32(details.flags.bits() | shown)
            }
            Source::Direction => Value::Uint32(details.direction.value()),
            Source::Application => Value::ByteBlob(known.identity.application_id()),
            Source::User => match known.user_id_type {
                UserIdType::TokenAccessInformation => Value::TokenAccessInformation(&known.token),
                UserIdType::TokenInformation => Value::TokenInformation(&known.token),
            },
            Source::Reauthorize => Value::Uint32(details.reauthorize.bits()),
            Source::Compartment => Value::Uint32(COMPARTMENT),
        };
    }
    &values[..plan.count]
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "headers are shorter than a packet"
)]
fn metadata<'a>(plan: &Plan, known: &Known<'a>, details: &Details<'a>) -> Metadata<'a> {
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
    let scope = known.scope();
    let redirected = details.redirection.is_some_and(Redirection::is_redirected);
    let target = details
        .redirection
        .map_or(0, |redirection| redirection.current().target_process);
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
        MetadataFields::IP_HEADER_SIZE | MetadataFields::TRANSPORT_HEADER_SIZE,
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
    add(scope != 0, MetadataFields::REMOTE_SCOPE_ID);
    add(
        !details.include_header.is_empty(),
        MetadataFields::TRANSPORT_HEADER_INCLUDE_HEADER,
    );
    add(redirected, MetadataFields::ORIGINAL_DESTINATION);
    add(target != 0, MetadataFields::LOCAL_REDIRECT_TARGET_PID);
    add(
        details.redirection.is_some(),
        MetadataFields::REDIRECT_RECORD_HANDLE,
    );
    let (ip_header_size, transport_header_size) = details.header_sizes.unwrap_or_default();
    let listed = match (details.discard, plan.discard) {
        (Some(_), Some((_, listed))) => {
            present |= MetadataFields::DISCARD_REASON;
            listed
        }
        _ => plan.metadata,
    };
    Metadata {
        present: MetadataFields::from_bits(present.bits() & listed.bits()),
        discard: details.discard.unwrap_or(Discard::POLICY),
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
        path_mtu: known.interface.mtu,
        remote_scope_id: scope,
        include_header: details.include_header,
        redirection: details.redirection,
        ..Metadata::nothing(known.identity)
    }
}
