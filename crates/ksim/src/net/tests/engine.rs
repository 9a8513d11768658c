//! The filter engine behind the stack: what the stack makes of an engine's decisions.

use std::time::Duration;

use wfp_engine::{
    Callout, CalloutView, ClassifyOut, Engine, Filter, FilterEntry, FilterId, FilterRecord,
    Host as EngineHost, Options, Registration, Request, Session, SessionId, Verdict, Wait, Weight,
};
use wfp_schema::{
    Action, CalloutFlags, Guid, IpVersion, Layer, LayerId, LayerKind, NotifyType, NtStatus,
};

use crate::net::{Discard, Filtering, FlowInfo, Indication, Outcome, StreamOutcome, StreamSegment};
use wfp_schema::MetadataFields;

/// A system that never waits.
#[derive(Debug, Default)]
pub(super) struct Quiet;

impl EngineHost for Quiet {
    type Callout = ();
    type Filter = ();

    fn make_filter(&self, _: &FilterRecord) {}

    fn notify(
        &self,
        _: &CalloutView<'_, Self>,
        _: NotifyType,
        _: &FilterEntry<Self>,
        _: &mut u64,
    ) -> NtStatus {
        NtStatus::SUCCESS
    }

    fn flow_delete(&self, _: &CalloutView<'_, Self>, _: LayerId, _: u64) {}

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wait(&self, _: Wait) {}

    fn service_starts_automatically(&self, _: &str) -> bool {
        false
    }
}

type Answer = Box<dyn FnMut(&mut ClassifyOut)>;

/// An engine with one callout a layer, which answers as told.
pub(super) struct Model {
    engine: Engine<Quiet>,
    session: SessionId,
    answer: Answer,
    keys: u128,
    flows: u64,
    blocking: u64,
    /// The layers that classified, discard layers with their reason.
    pub(super) seen: Vec<(String, Option<Discard>)>,
}

impl Model {
    pub(super) fn new() -> Self {
        let engine = Engine::new(Quiet, Options::default());
        engine.start_bfe();
        let session = engine.open_session(Session::default()).expect("a session");
        Self {
            engine,
            session,
            answer: Box::new(|_| {}),
            keys: 0x1000,
            flows: 0,
            blocking: 0,
            seen: Vec::new(),
        }
    }

    pub(super) fn answer(&mut self, answer: impl FnMut(&mut ClassifyOut) + 'static) {
        self.answer = Box::new(answer);
    }

    /// Adds a filter at a layer of IPv4; one whose action calls gets a callout of its own.
    pub(super) fn add(&mut self, layer: &'static Layer, action: Action, weight: u64) -> FilterId {
        let name = || Some("test".to_owned());
        let callout = [
            Action::CalloutTerminating,
            Action::CalloutInspection,
            Action::CalloutUnknown,
        ]
        .contains(&action)
        .then(|| {
            self.keys += 1;
            let key = Guid::from_u128(self.keys);
            let registration = Registration {
                key,
                flags: CalloutFlags::NONE,
                has_flow_delete: false,
                host: (),
            };
            self.engine.register(registration).expect("registers");
            let callout = Callout {
                key,
                name: name(),
                layer: layer.key(),
                ..Callout::default()
            };
            self.engine
                .add_callout(self.session, callout)
                .expect("a callout");
            key
        });
        let filter = Filter {
            name: name(),
            layer: layer.key(),
            action,
            callout: callout.unwrap_or_default(),
            weight: Weight::Exact(weight),
            ..Filter::default()
        };
        self.engine
            .add_filter(self.session, filter)
            .expect("a filter")
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.seen.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// A layer of IPv4.
pub(super) fn v4(kind: LayerKind) -> &'static Layer {
    Layer::of(kind, IpVersion::V4).expect("a layer")
}

impl Filtering for Model {
    fn wants(&self, layer: LayerId) -> bool {
        self.engine.has_filters(layer)
    }

    fn classify(&mut self, indication: &Indication<'_>) -> Outcome {
        let layer = indication.layer.layer().expect("a known layer");
        let discard = indication
            .metadata
            .present
            .contains(MetadataFields::DISCARD_REASON)
            .then_some(indication.metadata.discard);
        self.seen.push((layer.name().to_owned(), discard));
        let request = Request::new(indication.layer, indication.values);
        let answer = &mut self.answer;
        let verdict: Verdict = self.engine.classify(&request, |_, out| answer(out));
        self.blocking = verdict.by.map_or(0, |by| by.filter.get());
        match (verdict.is_permit(), verdict.absorb) {
            (true, _) => Outcome::Permit,
            (false, true) => Outcome::Absorb,
            (false, false) => Outcome::Block,
        }
    }

    fn classify_stream(&mut self, _: &Indication<'_>, _: &StreamSegment<'_>) -> StreamOutcome {
        StreamOutcome::PERMIT
    }

    fn flow_created(&mut self, _: &FlowInfo) -> u64 {
        self.flows += 1;
        self.flows
    }

    fn flow_ended(&mut self, _: u64) {}

    fn epoch(&self, layer: LayerId) -> u64 {
        self.engine.generation(layer)
    }

    fn blocking_filter(&self) -> u64 {
        self.blocking
    }
}
