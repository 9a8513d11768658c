//! A small world around an engine: a host that remembers what callouts are
//! told, a clock, and short names for what tests do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wfp_engine::{
    ADMINISTRATORS, Caller, Callout, CalloutId, CalloutView, ClassifyCall, ClassifyOut, Condition,
    EVERYONE, Engine, Filter, FilterEntry, FilterId, FilterRecord, Host, Options, Registration,
    Request, Session, SessionId, SubLayer, User, Value, Verdict, Wait, Weight,
};
use wfp_schema::{
    Action, CalloutFlags, FieldIndex, FilterFlags, Guid, IpVersion, Layer, LayerId, LayerKind,
    NotifyType, NtStatus, Rights,
};

/// What a callout of the tests has been told, and how it answers.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) notified: Mutex<Vec<(NotifyType, FilterId, u64)>>,
    pub(crate) deleted_contexts: Mutex<Vec<(LayerId, u64)>>,
    /// Notifications fail.
    pub(crate) refuses: AtomicBool,
    /// Written to a filter's context when it is added, unless zero.
    pub(crate) rewrites: AtomicU64,
}

impl Told {
    pub(crate) fn kinds(&self) -> Vec<NotifyType> {
        let notified = self.notified.lock().unwrap();
        notified.iter().map(|(kind, _, _)| *kind).collect()
    }

    pub(crate) fn contexts(&self) -> Vec<u64> {
        let deleted = self.deleted_contexts.lock().unwrap();
        deleted.iter().map(|(_, context)| *context).collect()
    }
}

#[derive(Default)]
pub(crate) struct TestHost {
    clock: AtomicU64,
    waits: Mutex<Option<Sender<Wait>>>,
    manual_services: bool,
}

impl TestHost {
    /// A system on which no service starts by itself.
    pub(crate) fn with_manual_services() -> Self {
        Self {
            manual_services: true,
            ..Self::default()
        }
    }

    pub(crate) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.clock.fetch_add(by, Ordering::SeqCst);
    }

    /// Hears of every wait from now on.
    pub(crate) fn hear_waits(&self) -> Receiver<Wait> {
        let (sender, receiver) = channel();
        *self.waits.lock().unwrap() = Some(sender);
        receiver
    }
}

impl Host for TestHost {
    type Callout = Arc<Told>;
    type Filter = ();

    fn make_filter(&self, _: &FilterRecord) {}

    fn notify(
        &self,
        callout: &CalloutView<'_, Self>,
        notify_type: NotifyType,
        filter: &FilterEntry<Self>,
        context: &mut u64,
    ) -> NtStatus {
        let told = callout.host();
        let entry = (notify_type, filter.id(), *context);
        told.notified.lock().unwrap().push(entry);
        let rewrites = told.rewrites.load(Ordering::SeqCst);
        if notify_type == NotifyType::AddFilter && rewrites != 0 {
            *context = rewrites;
        }
        if told.refuses.load(Ordering::SeqCst) {
            NtStatus::UNSUCCESSFUL
        } else {
            NtStatus::SUCCESS
        }
    }

    fn flow_delete(&self, callout: &CalloutView<'_, Self>, layer: LayerId, context: u64) {
        let told = callout.host();
        told.deleted_contexts.lock().unwrap().push((layer, context));
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.clock.load(Ordering::SeqCst))
    }

    fn wait(&self, wait: Wait) {
        if let Some(waits) = &*self.waits.lock().unwrap() {
            let _ = waits.send(wait);
        }
        match wait {
            Wait::Transaction { until: Some(until) } => {
                let until = u64::try_from(until.as_millis()).unwrap();
                self.clock.fetch_max(until, Ordering::SeqCst);
            }
            _ => std::thread::yield_now(),
        }
    }

    fn service_starts_automatically(&self, _: &str) -> bool {
        !self.manual_services
    }
}

pub(crate) type Out<'a> = &'a mut ClassifyOut;

/// A callout that has been registered and added.
pub(crate) struct TestCallout {
    pub(crate) key: Guid,
    pub(crate) id: CalloutId,
    pub(crate) told: Arc<Told>,
}

pub(crate) struct World {
    pub(crate) engine: Engine<TestHost>,
    pub(crate) session: SessionId,
    keys: AtomicU64,
}

#[allow(clippy::unnecessary_wraps, reason = "a display name may be missing")]
pub(crate) fn name() -> Option<String> {
    Some("test".to_owned())
}

pub(crate) fn layer(kind: LayerKind) -> &'static Layer {
    Layer::of(kind, IpVersion::V4).unwrap()
}

pub(crate) fn connect() -> &'static Layer {
    layer(LayerKind::AleAuthConnect)
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    /// A running engine and a static kernel session.
    pub(crate) fn with(options: Options) -> Self {
        let engine = Engine::new(TestHost::default(), options);
        engine.start_bfe();
        let session = engine.open_session(Session::default()).unwrap();
        Self {
            engine,
            session,
            keys: AtomicU64::new(0x1000),
        }
    }

    pub(crate) fn key(&self) -> Guid {
        Guid::from_u128(self.keys.fetch_add(1, Ordering::SeqCst).into())
    }

    pub(crate) fn sublayer(&self, weight: u16) -> Guid {
        let sublayer = SubLayer {
            name: name(),
            weight,
            ..SubLayer::default()
        };
        self.engine.add_sublayer(self.session, sublayer).unwrap()
    }

    pub(crate) fn register(&self, key: Guid, flags: CalloutFlags) -> (CalloutId, Arc<Told>) {
        let told = Arc::<Told>::default();
        let id = self
            .engine
            .register(Registration {
                key,
                flags,
                has_flow_delete: true,
                host: Arc::clone(&told),
            })
            .unwrap();
        (id, told)
    }

    pub(crate) fn add_callout(&self, key: Guid, layer: &Layer) -> CalloutId {
        let callout = Callout {
            key,
            name: name(),
            layer: layer.key(),
            ..Callout::default()
        };
        self.engine.add_callout(self.session, callout).unwrap()
    }

    pub(crate) fn callout_at(&self, layer: &Layer, flags: CalloutFlags) -> TestCallout {
        let key = self.key();
        let (id, told) = self.register(key, flags);
        assert_eq!(self.add_callout(key, layer), id);
        TestCallout { key, id, told }
    }

    pub(crate) fn callout(&self) -> TestCallout {
        self.callout_at(connect(), CalloutFlags::NONE)
    }

    pub(crate) fn add(&self, filter: Filter) -> FilterId {
        self.engine.add_filter(self.session, filter).unwrap()
    }

    pub(crate) fn classify(
        &self,
        call: impl FnMut(&ClassifyCall<'_, TestHost>, &mut ClassifyOut),
    ) -> Verdict {
        self.classify_at(connect(), &[], call)
    }

    pub(crate) fn classify_at(
        &self,
        layer: &Layer,
        values: &[(FieldIndex, Value<'_>)],
        call: impl FnMut(&ClassifyCall<'_, TestHost>, &mut ClassifyOut),
    ) -> Verdict {
        let values = values_of(layer, values);
        self.engine
            .classify(&Request::new(layer.id(), &values), call)
    }

    /// Whether traffic with these values hits a block filter.
    pub(crate) fn is_blocked(&self, values: &[(FieldIndex, Value<'_>)]) -> bool {
        !self.classify_at(connect(), values, no_call).is_permit()
    }
}

pub(crate) fn values_of<'a>(layer: &Layer, values: &[(FieldIndex, Value<'a>)]) -> Vec<Value<'a>> {
    let mut all = vec![Value::Empty; layer.fields().len()];
    for (index, value) in values {
        all[index.get()] = *value;
    }
    all
}

/// For traffic that must not reach a callout.
pub(crate) fn no_call(call: &ClassifyCall<'_, TestHost>, _: &mut ClassifyOut) {
    panic!("unexpected {call:?}");
}

/// A filter at `ALE_AUTH_CONNECT_V4`.
pub(crate) fn filter(action: Action) -> Filter {
    Filter {
        name: name(),
        layer: connect().key(),
        action,
        ..Filter::default()
    }
}

pub(crate) trait FilterExt {
    fn asking(self, callout: &TestCallout) -> Self;
    fn of(self, callout: Guid) -> Self;
    fn at(self, layer: &Layer) -> Self;
    fn within(self, sublayer: Guid) -> Self;
    fn weighing(self, weight: u64) -> Self;
    fn flagged(self, flags: FilterFlags) -> Self;
    fn when(self, conditions: Vec<Condition>) -> Self;
}

impl FilterExt for Filter {
    fn asking(self, callout: &TestCallout) -> Self {
        self.of(callout.key)
    }

    fn of(mut self, callout: Guid) -> Self {
        self.callout = callout;
        self
    }

    fn at(mut self, layer: &Layer) -> Self {
        self.layer = layer.key();
        self
    }

    fn within(mut self, sublayer: Guid) -> Self {
        self.sublayer = sublayer;
        self
    }

    fn weighing(mut self, weight: u64) -> Self {
        self.weight = Weight::Exact(weight);
        self
    }

    fn flagged(mut self, flags: FilterFlags) -> Self {
        self.flags = flags;
        self
    }

    fn when(mut self, conditions: Vec<Condition>) -> Self {
        self.conditions = conditions;
        self
    }
}

/// Answers: a callout permits or blocks and leaves lighter filters the right to override it…
pub(crate) const fn answer(out: Out<'_>, action: Action) {
    out.action = action.value();
}

/// …or takes it from them.
pub(crate) const fn answer_hard(out: Out<'_>, action: Action) {
    out.action = action.value();
    out.rights = Rights::NONE;
}

/// A program that runs as a user of these groups.
pub(crate) fn user(sid: &[u8], groups: &[&[u8]]) -> Caller {
    Caller::User(Arc::new(User {
        sid: sid.into(),
        groups: groups.iter().map(|group| (*group).into()).collect(),
    }))
}

/// A program of an administrator.
pub(crate) fn administrator() -> Caller {
    user(
        &[1, 1, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4],
        &[ADMINISTRATORS, EVERYONE],
    )
}
