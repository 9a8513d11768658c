//! What the stack asks of the Windows Filtering Platform: indications out, outcomes back.
//!
//! [`Filtering`] is implemented by whoever knows filters and callouts. A [`Host`](super::Host) owns its
//! implementation and calls it from one thread, so an implementation may keep scratch memory of its own.

use wfp_schema::{
    ClassifyOutFlags, Direction, IpVersion, LayerId, MetadataFields, StreamAction, StreamFlags,
};

pub use wfp_engine::{Token, Value};

use super::process::Identity;

/// Time in units of 100 nanoseconds; the epoch is the caller's.
pub type Ticks = u64;

/// A packet of a [`Host`](super::Host), numbered from 0 in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub u64);

impl PacketId {
    /// An injected packet that stands for no packet of the host.
    pub const NONE: Self = Self(u64::MAX);
}

/// What comes with an indication besides the field values
/// (`FWPS_INCOMING_METADATA_VALUES0`). A member means something only if its bit is in `present`.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    /// Which members are valid.
    pub present: MetadataFields,
    /// The number that [`Filtering::flow_created`] gave.
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

/// The packet of an indication, `layerData` where that is a net buffer list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketData<'a> {
    /// The IP packet from its IP header to its end, as far as it was captured.
    pub bytes: &'a [u8],
    /// Where the net buffer's data starts in `bytes`.
    pub offset: usize,
    /// Which packet of the host it is; an injected one has the id of its origin where that is known.
    pub id: PacketId,
    /// Given at [`Host::inject`](super::Host::inject); `None` for packets of the stack and the wire.
    pub injection: Option<InjectionMark>,
}

/// What the implementer of [`Filtering`] wants to be told about a packet that it injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InjectionMark(pub u64);

/// One classify of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Indication<'a> {
    /// The layer.
    pub layer: LayerId,
    /// Field values, by the layer's field indexes.
    pub values: &'a [Value<'a>],
    /// Metadata.
    pub metadata: &'a Metadata<'a>,
    /// The packet, where the layer shows one and one exists.
    pub packet: Option<PacketData<'a>>,
}

/// Permit or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Let it go on.
    Permit,
    /// Stop it here.
    Block,
}

/// The result of a classify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Let it go on.
    Permit,
    /// Stop it here.
    Block,
    /// Blocked with `FWPS_CLASSIFY_OUT_FLAG_ABSORB`: a callout keeps the packet and may inject it later.
    Absorb,
    /// Absorbed, and `FwpsPendOperation0` succeeded for the indication's completion handle.
    Pend,
}

/// A callout's place in the waterfall of a stream, named by the implementer of [`Filtering`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StageId(pub u64);

/// A piece of a stream, `FWPS_STREAM_CALLOUT_IO_PACKET0` on entry.
#[derive(Clone, Copy, Debug)]
pub struct StreamSegment<'a> {
    /// Whose classify this is.
    pub stage: StageId,
    /// Direction and kind; either `RECEIVE` or `SEND` is set.
    pub flags: StreamFlags,
    /// The data in order; empty for a disconnect or an abort.
    pub bytes: &'a [u8],
    /// Bytes that stages before this one have withheld since its last call.
    pub missed_bytes: u64,
    /// `BUFFER_LIMIT_REACHED` or `NO_MORE_DATA`, to be shown in `FWPS_CLASSIFY_OUT0.flags`.
    pub out_flags: ClassifyOutFlags,
}

/// The result of a stream classify, `FWPS_STREAM_CALLOUT_IO_PACKET0` on return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamOutcome {
    /// What becomes of the first [`bytes_enforced`](Self::bytes_enforced) bytes, if `action` is `None`.
    pub verdict: Verdict,
    /// What the callout wants instead of a verdict.
    pub action: StreamAction,
    /// Bytes that the verdict is about; 0 or more than indicated is all of them.
    pub bytes_enforced: usize,
    /// With `NEED_MORE_DATA`: how many bytes more.
    pub bytes_required: usize,
}

impl StreamOutcome {
    /// Permits everything indicated.
    pub const PERMIT: Self = Self::all(Verdict::Permit);
    /// Blocks everything indicated.
    pub const BLOCK: Self = Self::all(Verdict::Block);

    /// A verdict about everything indicated.
    #[must_use]
    pub const fn all(verdict: Verdict) -> Self {
        Self::first(verdict, 0)
    }

    /// A verdict about the first `bytes_enforced` bytes; the rest is indicated again.
    #[must_use]
    pub const fn first(verdict: Verdict, bytes_enforced: usize) -> Self {
        Self {
            verdict,
            action: StreamAction::None,
            bytes_enforced,
            bytes_required: 0,
        }
    }

    /// A stream action without a verdict.
    #[must_use]
    pub const fn action(action: StreamAction) -> Self {
        Self {
            verdict: Verdict::Permit,
            action,
            bytes_enforced: 0,
            bytes_required: 0,
        }
    }

    /// `NEED_MORE_DATA`: at least `bytes_required` bytes more.
    #[must_use]
    pub const fn need(bytes_required: usize) -> Self {
        Self {
            bytes_required,
            ..Self::action(StreamAction::NeedMoreData)
        }
    }
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Its address.
    pub address: std::net::IpAddr,
    /// Its port, 0 where the protocol has none.
    pub port: u16,
}

/// A data flow that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// IP version.
    pub version: IpVersion,
    /// IP protocol number.
    pub protocol: u8,
    /// Direction of its first packet.
    pub direction: Direction,
    /// This host's end.
    pub local: End,
    /// The other end.
    pub remote: End,
}

/// The filter engine as the stack sees it.
pub trait Filtering {
    /// Whether any filter is at the layer. The stack does not build indications for the others.
    fn wants(&self, layer: LayerId) -> bool;

    /// Classifies at a layer other than `STREAM`.
    fn classify(&mut self, indication: &Indication<'_>) -> Outcome;

    /// Names the stages of a stream layer for a flow: what is asked in turn, heaviest first (a sublayer,
    /// or one callout's filter). A stage sees only what those before it permitted. `stages` is empty on
    /// entry; leaving it empty permits everything.
    fn stream_stages(&mut self, layer: LayerId, flow_handle: u64, stages: &mut Vec<StageId>) {
        let _ = (layer, flow_handle);
        stages.push(StageId(0));
    }

    /// Classifies a piece of a stream for one stage.
    fn classify_stream(
        &mut self,
        indication: &Indication<'_>,
        segment: &StreamSegment<'_>,
    ) -> StreamOutcome;

    /// A data flow begins: called before the classify that authorizes it. The result is its handle, not 0
    /// and unlike that of any other flow of the kernel.
    fn flow_created(&mut self, flow: &FlowInfo) -> u64;

    /// The data flow is over: its contexts are to be removed. Called exactly once for each handle.
    fn flow_ended(&mut self, flow_handle: u64);

    /// A number that changes when filters of a layer change. An authorized flow is reauthorized at the
    /// layer that authorized it by its next packet after a change.
    fn epoch(&self, layer: LayerId) -> u64 {
        let _ = layer;
        0
    }
}
