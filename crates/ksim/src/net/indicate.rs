//! What the stack asks of the Windows Filtering Platform: indications out, outcomes back.
//!
//! [`Filtering`] is implemented by whoever knows filters and callouts. A [`Host`](super::Host) owns its
//! implementation and calls it from one thread, so an implementation may keep scratch memory of its own.

use wfp_engine::Options;
use wfp_schema::{ClassifyOutFlags, Direction, IpVersion, LayerId, StreamAction, StreamFlags};

pub use wfp_engine::{Token, Value};

use super::card::Offload;
use super::metadata::Metadata;
use super::redirect::Redirection;

/// Time in units of 100 nanoseconds; the epoch is the caller's.
pub type Ticks = u64;

/// A packet of a [`Host`](super::Host), numbered from 0 in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub u64);

impl PacketId {
    /// An injected packet that stands for no packet of the host.
    pub const NONE: Self = Self(u64::MAX);
}

/// The packet of an indication, `layerData` where that is a net buffer list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketData<'a> {
    /// The IP packet from its IP header to its end, as far as it was captured. At the layers of the data
    /// link it is the frame, from its link header.
    pub bytes: &'a [u8],
    /// Where the net buffer's data starts in `bytes`.
    pub offset: usize,
    /// Which packet of the host it is; an injected one has the id of its origin where that is known.
    pub id: PacketId,
    /// Given at [`Host::inject`](super::Host::inject); `None` for packets of the stack and the wire.
    pub injection: Option<InjectionMark>,
    /// What the network card is left to do with it, or has done.
    pub offload: Offload,
    /// Packets of the same flow behind it in its net buffer list, a net buffer each, whose data starts at the same offset. At
    /// most [`MAX_MORE`].
    pub more: &'a [Vec<u8>],
}

/// Most packets behind the first one of a net buffer list.
pub const MAX_MORE: usize = 3;

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
    /// The packets that are chained behind `packet`, one net buffer list each: the other fragments of a
    /// fragment group at `IPFORWARD`. Their data starts at `packet`'s offset. Empty otherwise.
    pub chain: &'a [&'a [u8]],
    /// Names a pend of this classify: for [`Host::complete`](super::Host::complete) where the layer shows a
    /// `COMPLETION_HANDLE` (`FwpsPendOperation0`), for [`Host::complete_classify`](super::Host::complete_classify)
    /// where it allows `FwpsPendClassify0`. 0 where nothing may be pended, as in a reauthorization.
    pub pend_handle: u64,
}

impl<'a> Indication<'a> {
    /// An indication without a packet that can't be pended.
    #[must_use]
    pub const fn new(layer: LayerId, values: &'a [Value<'a>], metadata: &'a Metadata<'a>) -> Self {
        Self {
            layer,
            values,
            metadata,
            packet: None,
            chain: &[],
            pend_handle: 0,
        }
    }
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
    /// Pended: `FwpsPendOperation0` or `FwpsPendClassify0` succeeded for the indication's
    /// [`pend_handle`](Indication::pend_handle). Only meaningful if that is not 0.
    Pend,
}

/// What callouts set with `FwpsClassifyOptionSet0` while a flow was authorized (`FWP_CLASSIFY_OPTION_TYPE`).
/// `None` leaves the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassifyOptions {
    /// `MULTICAST_STATE`: whether outbound multicast and broadcast admits answers; it does by default.
    pub multicast_state: Option<bool>,
    /// `LOOSE_SOURCE_MAPPING`: whether answers of other peers belong to the flow; they don't by default.
    pub loose_source_mapping: Option<bool>,
    /// `UNICAST_LIFETIME` in seconds, 60 by default.
    pub unicast_lifetime: Option<u32>,
    /// `MCAST_BCAST_LIFETIME` in seconds, 4 by default.
    pub group_lifetime: Option<u32>,
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
    /// The callout keeps what it blocks, to inject it, or has injected something in its place.
    pub is_kept: bool,
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
            is_kept: false,
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
            is_kept: false,
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

/// Data that a callout injected into a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInjection {
    /// The stage of the callout.
    pub stage: StageId,
    /// Direction and kind of the data, and whether the direction ends behind it.
    pub flags: StreamFlags,
    /// The data.
    pub bytes: Vec<u8>,
}

impl StreamInjection {
    /// Data that the callout of `stage` injected.
    #[must_use]
    pub fn new(stage: StageId, flags: StreamFlags, bytes: &[u8]) -> Self {
        Self {
            stage,
            flags,
            bytes: bytes.to_vec(),
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

    /// Whether every callout at the layer tolerates an offload, so that it stays on.
    fn keeps_offload(&self, layer: LayerId, offload: wfp_engine::Offload) -> bool {
        let _ = (layer, offload);
        true
    }

    /// Classifies at a layer other than `STREAM`.
    fn classify(&mut self, indication: &Indication<'_>) -> Outcome;

    /// Classifies at `ALE_CONNECT_REDIRECT` or `ALE_BIND_REDIRECT`. `redirection` is the layer data: what was asked
    /// for and, once callouts changed it (`FwpsApplyModifiedLayerData0`), what they made of it.
    fn redirect(&mut self, indication: &Indication<'_>, redirection: &mut Redirection) -> Outcome {
        let _ = redirection;
        self.classify(indication)
    }

    /// The run-time identifier of the filter that decided the last block or absorb, 0 if that is not known: a
    /// discard layer shows it.
    fn blocking_filter(&self) -> u64 {
        0
    }

    /// Takes what callouts set with `FwpsClassifyOptionSet0` during the last classify of an authorization.
    fn classify_options(&mut self) -> ClassifyOptions {
        ClassifyOptions::default()
    }

    /// What the engine makes of open questions; asked once, when the host is made.
    fn options(&self) -> Options {
        Options::default()
    }

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

    /// Takes what callouts have injected into one direction of a stream since the last call: at `stage`, or at any.
    /// What comes after it in the stream has to wait for it.
    fn stream_injected(
        &mut self,
        flow_handle: u64,
        outbound: bool,
        stage: Option<StageId>,
    ) -> Vec<StreamInjection> {
        let _ = (flow_handle, outbound, stage);
        Vec::new()
    }

    /// A data flow begins: called before the classify that authorizes it. The result is its handle, not 0
    /// and unlike that of any other flow of the kernel.
    fn flow_created(&mut self, flow: &FlowInfo) -> u64;

    /// The data flow is over: its contexts are to be removed. Called exactly once for each handle.
    fn flow_ended(&mut self, flow_handle: u64);

    /// A redirected connection is over, or never came to be: what redirectors gave along for it is not needed any more.
    fn redirection_ended(&mut self, redirection: &Redirection) {
        let _ = redirection;
    }

    /// A number that changes when filters of a layer change. An authorized flow is reauthorized at the
    /// layer that authorized it by its next packet after a change.
    fn epoch(&self, layer: LayerId) -> u64 {
        let _ = layer;
        0
    }
}
