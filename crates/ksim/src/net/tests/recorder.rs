//! A filter engine that writes down what it is shown and answers as told.

use std::collections::BTreeMap;
use std::fmt;

use wfp_engine::{FastLayers, Options};
use wfp_schema::{ClassifyOutFlags, LayerId, LayerKind, MetadataFields, StreamFlags};

use crate::net::{
    ClassifyOptions, Discard, Filtering, FlowInfo, Host, Indication, InjectionMark, LinkMetadata,
    LocalSide, Outcome, PacketId, Redirection, Setup, StageId, StreamOutcome, StreamSegment, Value,
};

use super::build::ip;

/// One thing that the stack told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// The layer without its IP version, `FLOW_CREATED` or `FLOW_ENDED`.
    pub(super) what: String,
    pub(super) layer: Option<LayerId>,
    /// Integer fields by name; addresses of IPv6 by their low 64 bits.
    pub(super) fields: BTreeMap<&'static str, u64>,
    /// Names of a virtual switch and of what is at its ports, by field.
    pub(super) names: BTreeMap<&'static str, String>,
    pub(super) present: MetadataFields,
    pub(super) link: LinkMetadata,
    pub(super) flow_handle: u64,
    pub(super) endpoint_handle: u64,
    pub(super) parent_endpoint_handle: u64,
    pub(super) completion_handle: u64,
    pub(super) application: String,
    /// The packet from the net buffer's offset on.
    pub(super) data: Option<Vec<u8>>,
    pub(super) packet: Option<PacketId>,
    pub(super) mark: Option<InjectionMark>,
    pub(super) pend_handle: u64,
    pub(super) discard: Option<Discard>,
    /// The packets chained behind the packet.
    pub(super) chain: usize,
    /// Redirect records, or the redirection of a connection.
    pub(super) redirection: Option<Redirection>,
}

/// A piece of a stream that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) stage: u64,
    pub(super) flags: StreamFlags,
    pub(super) bytes: Vec<u8>,
    pub(super) missed: u64,
    pub(super) out_flags: ClassifyOutFlags,
}

type StreamAnswer = Box<dyn FnMut(&Piece) -> StreamOutcome>;
type Redirector = Box<dyn FnMut(LayerKind, &mut Redirection) -> Outcome>;

/// The layers that are indicated for ordinary traffic whatever else there is; most tests are about these.
const ORDINARY: &[LayerKind] = &[
    LayerKind::InboundIpPacket,
    LayerKind::OutboundIpPacket,
    LayerKind::InboundTransport,
    LayerKind::OutboundTransport,
    LayerKind::Stream,
    LayerKind::DatagramData,
    LayerKind::AleResourceAssignment,
    LayerKind::AleAuthListen,
    LayerKind::AleAuthRecvAccept,
    LayerKind::AleAuthConnect,
    LayerKind::AleFlowEstablished,
    LayerKind::AleEndpointClosure,
    LayerKind::AleResourceRelease,
];

pub(super) struct Recorder {
    pub(super) shown: Vec<Shown>,
    pub(super) pieces: Vec<Piece>,
    pub(super) answers: BTreeMap<LayerKind, Outcome>,
    /// What discard layers answer.
    pub(super) discard_answer: Outcome,
    /// The layers that somebody wants to see; `None` stands for all of them, discard layers included.
    pub(super) wanted: Option<Vec<LayerKind>>,
    pub(super) redirector: Option<Redirector>,
    /// An offload that a callout at a layer does not tolerate.
    pub(super) intolerant: Option<(LayerKind, wfp_engine::Offload)>,
    pub(super) options: Options,
    pub(super) classify_options: ClassifyOptions,
    pub(super) stages: u64,
    pub(super) stream: StreamAnswer,
    pub(super) epoch: u64,
    pub(super) live: Vec<u64>,
    pub(super) next_flow: u64,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("shown", &self.shown)
            .finish_non_exhaustive()
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            shown: Vec::new(),
            pieces: Vec::new(),
            answers: BTreeMap::new(),
            discard_answer: Outcome::Permit,
            wanted: Some(ORDINARY.to_vec()),
            redirector: None,
            intolerant: None,
            options: Options::default(),
            classify_options: ClassifyOptions::default(),
            stages: 1,
            stream: Box::new(|_| StreamOutcome::PERMIT),
            epoch: 0,
            live: Vec::new(),
            next_flow: 100,
        }
    }
}

impl Recorder {
    /// One that wants to see every layer but the fast ones.
    pub(super) fn of_everything() -> Self {
        Self {
            wanted: None,
            options: Options {
                fast_layers: FastLayers::Never,
                ..Options::default()
            },
            ..Self::default()
        }
    }

    /// What has been told since the last call, without versions.
    pub(super) fn take(&mut self) -> Vec<String> {
        self.shown.drain(..).map(|shown| shown.what).collect()
    }

    pub(super) fn last(&self, what: &str) -> &Shown {
        self.shown
            .iter()
            .rev()
            .find(|shown| shown.what == what)
            .expect("was shown")
    }

    pub(super) fn count(&self, what: &str) -> usize {
        self.shown.iter().filter(|shown| shown.what == what).count()
    }

    /// The data of all pieces in a direction.
    pub(super) fn heard(&self, flags: StreamFlags) -> Vec<u8> {
        let of = self
            .pieces
            .iter()
            .filter(|piece| piece.flags.contains(flags));
        of.flat_map(|piece| piece.bytes.clone()).collect()
    }

    fn flow_event(&mut self, what: &str, flow_handle: u64) {
        self.shown.push(Shown {
            what: what.to_owned(),
            layer: None,
            fields: BTreeMap::new(),
            names: BTreeMap::new(),
            present: MetadataFields::NONE,
            link: LinkMetadata::NONE,
            flow_handle,
            endpoint_handle: 0,
            parent_endpoint_handle: 0,
            completion_handle: 0,
            application: String::new(),
            data: None,
            packet: None,
            mark: None,
            pend_handle: 0,
            discard: None,
            chain: 0,
            redirection: None,
        });
    }

    fn note(&mut self, indication: &Indication<'_>) {
        let layer = indication.layer.layer().expect("a known layer");
        assert_eq!(
            layer.fields().len(),
            indication.values.len(),
            "{layer:?} has all its fields"
        );
        let mut fields = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (field, value) in layer.fields().iter().zip(indication.values) {
            let expected = field.data_type(layer.version());
            // Open questions: the type of a user, the width of a tenant.
            let is_other = matches!(value, Value::TokenInformation(_))
                || field.name() == "VSWITCH_TENANT_NETWORK_ID"
                    && self.options.wide_tenant_network_id
                    && matches!(value, Value::Uint32(_));
            assert!(
                *value == Value::Empty || is_other || value.data_type() == expected,
                "{} of {layer:?} is {value:?}",
                field.name()
            );
            let number = match *value {
                Value::Uint8(number) => Some(u64::from(number)),
                Value::Uint16(number) => Some(u64::from(number)),
                Value::Uint32(number) => Some(u64::from(number)),
                Value::Uint64(number) => Some(number),
                Value::ByteArray6(bytes) => Some(
                    bytes
                        .iter()
                        .fold(0, |all, &byte| all << 8 | u64::from(byte)),
                ),
                Value::ByteArray16(bytes) => {
                    let low = u128::from_be_bytes(*bytes) & u128::from(u64::MAX);
                    u64::try_from(low).ok()
                }
                _ => None,
            };
            fields.extend(number.map(|number| (field.name(), number)));
            if let Value::ByteBlob(name) = value
                && field.name().starts_with("VSWITCH")
            {
                let units: Vec<_> = name
                    .chunks(2)
                    .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
                    .collect();
                let text = String::from_utf16(&units).expect("UTF-16");
                let text = text.strip_suffix('\0').expect("ends with zero");
                names.insert(field.name(), text.to_owned());
            }
        }
        let metadata = indication.metadata;
        let allowed = layer.metadata();
        assert!(
            allowed.contains(metadata.present),
            "{layer:?}: {:?}",
            metadata.present.without(allowed)
        );
        if metadata.present.contains(MetadataFields::FLOW_HANDLE) {
            assert!(
                self.live.contains(&metadata.flow_handle),
                "{layer:?} shows a flow that is over"
            );
        }
        self.shown.push(Shown {
            what: if layer.is_discard() {
                format!("{}_DISCARD", layer.kind().name())
            } else {
                layer.kind().name().to_owned()
            },
            layer: Some(indication.layer),
            fields,
            names,
            present: metadata.present,
            link: metadata.link,
            flow_handle: metadata.flow_handle,
            endpoint_handle: metadata.endpoint_handle,
            parent_endpoint_handle: metadata.parent_endpoint_handle,
            completion_handle: metadata.completion_handle,
            application: metadata.process.application().to_owned(),
            data: indication
                .packet
                .map(|packet| packet.bytes[packet.offset..].to_vec()),
            packet: indication.packet.map(|packet| packet.id),
            mark: indication.packet.and_then(|packet| packet.injection),
            pend_handle: indication.pend_handle,
            discard: metadata
                .present
                .contains(MetadataFields::DISCARD_REASON)
                .then_some(metadata.discard),
            chain: indication.chain.len(),
            redirection: metadata.redirection.cloned(),
        });
    }
}

impl Filtering for Recorder {
    fn wants(&self, layer: LayerId) -> bool {
        let layer = layer.layer().expect("a known layer");
        self.wanted
            .as_ref()
            .is_none_or(|wanted| wanted.contains(&layer.kind()) && !layer.is_discard())
    }

    fn keeps_offload(&self, layer: LayerId, offload: wfp_engine::Offload) -> bool {
        let layer = layer.layer().expect("a known layer");
        self.intolerant != Some((layer.kind(), offload))
    }

    fn classify(&mut self, indication: &Indication<'_>) -> Outcome {
        self.note(indication);
        let layer = indication.layer.layer().expect("a known layer");
        if layer.is_discard() {
            return self.discard_answer;
        }
        let answer = self.answers.get(&layer.kind()).copied();
        answer.unwrap_or(Outcome::Permit)
    }

    fn redirect(&mut self, indication: &Indication<'_>, redirection: &mut Redirection) -> Outcome {
        let outcome = self.classify(indication);
        let kind = indication.layer.layer().expect("a known layer").kind();
        self.redirector
            .as_mut()
            .map_or(outcome, |redirector| redirector(kind, redirection))
    }

    fn blocking_filter(&self) -> u64 {
        BLOCKING_FILTER
    }

    fn classify_options(&mut self) -> ClassifyOptions {
        self.classify_options
    }

    fn options(&self) -> Options {
        self.options.clone()
    }

    fn stream_stages(&mut self, _: LayerId, _: u64, stages: &mut Vec<StageId>) {
        stages.extend((0..self.stages).map(StageId));
    }

    fn classify_stream(
        &mut self,
        indication: &Indication<'_>,
        segment: &StreamSegment<'_>,
    ) -> StreamOutcome {
        if segment.stage == StageId(0) {
            self.note(indication);
        }
        let piece = Piece {
            stage: segment.stage.0,
            flags: segment.flags,
            bytes: segment.bytes.to_vec(),
            missed: segment.missed_bytes,
            out_flags: segment.out_flags,
        };
        let outcome = (self.stream)(&piece);
        self.pieces.push(piece);
        outcome
    }

    fn flow_created(&mut self, _: &FlowInfo) -> u64 {
        self.next_flow += 1;
        self.live.push(self.next_flow);
        self.flow_event("FLOW_CREATED", self.next_flow);
        self.next_flow
    }

    fn flow_ended(&mut self, flow_handle: u64) {
        let at = self.live.iter().position(|&live| live == flow_handle);
        self.live.remove(at.expect("ends once"));
        self.flow_event("FLOW_ENDED", flow_handle);
    }

    fn epoch(&self, _: LayerId) -> u64 {
        self.epoch
    }
}

/// The filter that blocks.
pub(super) const BLOCKING_FILTER: u64 = 4242;

/// The host `10.0.0.1` and `fd00::1`.
pub(super) fn host() -> Host<Recorder> {
    host_with(Recorder::default())
}

pub(super) fn host_with(recorder: Recorder) -> Host<Recorder> {
    Host::new(recorder, setup())
}

/// What that host is made from.
pub(super) fn setup() -> Setup {
    let mut local = LocalSide::default();
    local.insert(ip("10.0.0.1"));
    local.insert(ip("fd00::1"));
    Setup {
        local,
        ..Setup::default()
    }
}

/// A host that blocks (or whatever `outcome` is) at one layer.
pub(super) fn host_that(kind: LayerKind, outcome: Outcome) -> Host<Recorder> {
    let mut recorder = Recorder::default();
    recorder.answers.insert(kind, outcome);
    host_with(recorder)
}

/// A second in the stack's unit of time.
pub(super) const SECOND: u64 = 10_000_000;
