//! A machine with the conformance driver in it, and what rows say about it.

mod session;

use conformance_messages::{
    Bfe, Complete, FlowContext, HandleCreate, Notify, Open, Record, Register, Reply, STEPS, Script,
    Signal, Step, Unregister, flow, handle, kind, signal,
};
use ksim::fwp::KernelHost;
use ksim::net::{PacketId, Processes, Setup};
use ksim::{Config, Driver, Kernel, Report};
use portcullis_tests::Net;
use portcullis_tests::control::alive;
use portcullis_tests::world::{assert_clean, load, with_options};
use std::cell::{Cell, RefCell, RefMut};
use wfp_engine::{Engine, NoMatch, Options};
use wfp_schema::{Action, Guid, IpVersion, Layer, LayerKind, NtStatus};
use zerocopy::FromZeros as _;

use crate::agent::{Agent, image};

pub(crate) use self::session::{Session, asking, filter};

/// A status of success.
pub(crate) const OK: NtStatus = NtStatus::SUCCESS;

/// A machine, the driver, a host on processor 0, and a session that is not dynamic.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) kernel: Kernel,
    net: RefCell<Net>,
    pub(crate) agent: Agent,
    driver: Driver,
    options: Options,
    log: RefCell<Vec<Record>>,
    keys: Cell<u128>,
    sessions: Cell<u32>,
    callouts: Cell<u32>,
    ports: Cell<u16>,
}

/// The IPv4 layer of this kind.
pub(crate) fn v4(kind: LayerKind) -> &'static Layer {
    Layer::of(kind, IpVersion::V4).expect("a layer with versions")
}

/// The layer of this kind, which has no IP version.
pub(crate) fn unversioned(kind: LayerKind) -> &'static Layer {
    Layer::unversioned(kind).expect("a layer without versions")
}

/// The IPv6 layer of this kind.
pub(crate) fn v6(kind: LayerKind) -> &'static Layer {
    Layer::of(kind, IpVersion::V6).expect("a layer with versions")
}

/// The IPv4 layer that shows what is discarded at the layer of this kind.
pub(crate) fn discard_v4(kind: LayerKind) -> &'static Layer {
    v4(kind).twin().expect("a layer with a discard layer")
}

/// `ALE_AUTH_CONNECT_V4`.
pub(crate) fn connect() -> &'static Layer {
    v4(LayerKind::AleAuthConnect)
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&Config::default())
    }

    /// A port of the host that nothing has used.
    pub(crate) fn fresh_port(&self) -> u16 {
        let port = self.ports.get();
        self.ports.set(port + 1);
        port
    }

    /// With so many processors.
    pub(crate) fn with_processors(processors: u32) -> Self {
        Self::with(&Config {
            processors,
            ..Config::default()
        })
    }

    /// On which the base filtering engine does not run yet.
    pub(crate) fn without_bfe() -> Self {
        let mut config = Config::default();
        config.fwp.bfe_running = false;
        Self::with(&config)
    }

    /// On which open questions are answered like this, whatever the run answers.
    pub(crate) fn answering(answer: impl FnOnce(&mut Options)) -> Self {
        let mut config = with_options(&Config::default());
        answer(&mut config.fwp.options);
        Self::boot(config)
    }

    /// What a run answers. But traffic without a filter passes: rows count on it, and ARB-14 has its own machines.
    fn with(config: &Config) -> Self {
        let mut config = with_options(config);
        config.fwp.options.no_match = NoMatch::Permit;
        Self::boot(config)
    }

    /// The machine after it was started again, before its base filtering engine runs.
    pub(crate) fn rebooted(self) -> Self {
        let mut config = with_options(&Config::default());
        config.fwp.options = self.options.clone();
        config.fwp.boot_store = self.engine().boot_store();
        config.fwp.bfe_running = false;
        self.end();
        Self::boot(config)
    }

    fn boot(config: Config) -> Self {
        let kernel = Kernel::new(&config).expect("memory and threads");
        let driver = load(&kernel, "conformance.sys", image());
        assert_eq!(alive(driver.start()), OK, "DriverEntry");
        Self {
            net: RefCell::new(Net::new(&kernel, 0)),
            agent: Agent::open(&kernel),
            kernel,
            driver,
            options: config.fwp.options,
            log: RefCell::default(),
            keys: Cell::new(1),
            sessions: Cell::new(0),
            callouts: Cell::new(0),
            ports: Cell::new(40_000),
        }
    }

    /// The host's endpoints belong to these from now on; its flows are over.
    pub(crate) fn owned_by(&self, processes: Processes) {
        self.net.replace(Net::owned(&self.kernel, 0, processes));
    }

    /// The host is made anew from `setup`; its flows are over.
    pub(crate) fn set_up(&self, setup: Setup) {
        self.net.replace(Net::with_setup(&self.kernel, 0, setup));
    }

    /// The host.
    pub(crate) fn net(&self) -> RefMut<'_, Net> {
        self.net.borrow_mut()
    }

    /// What the run answers to questions that documentation leaves open.
    pub(crate) const fn options(&self) -> &Options {
        &self.options
    }

    /// The filter engine, to look into.
    pub(crate) fn engine(&self) -> &Engine<KernelHost> {
        self.kernel.filter_engine()
    }

    /// A key that nothing else has.
    pub(crate) fn key(&self) -> Guid {
        let number = self.keys.get();
        self.keys.set(number + 1);
        Guid::from_u128(0xC0F0_0000_0000_0000_0000_0000_0000_0000 | number)
    }

    /// Opens a session that is not dynamic.
    pub(crate) fn session(&self) -> Session<'_> {
        self.open(0).expect("the engine runs")
    }

    /// Opens a dynamic session.
    pub(crate) fn dynamic_session(&self) -> Session<'_> {
        self.open(FWPM_SESSION_FLAG_DYNAMIC)
            .expect("the engine runs")
    }

    /// Opens a session with these flags.
    pub(crate) fn open(&self, flags: u32) -> Result<Session<'_>, NtStatus> {
        self.open_with(flags, 0, Guid::ZERO)
    }

    /// Opens a session with these flags, patience in milliseconds, and key.
    pub(crate) fn open_with(
        &self,
        flags: u32,
        wait: u32,
        key: Guid,
    ) -> Result<Session<'_>, NtStatus> {
        let session = self.sessions.get();
        self.sessions.set(session + 1);
        let key = key.to_bytes();
        let status = self.agent.status(&Open {
            session,
            flags,
            wait,
            irql: 0,
            key,
        });
        status.ok().map(|()| Session {
            world: self,
            slot: session,
        })
    }

    /// Registers a callout without flow contexts.
    pub(crate) fn register(&self, key: Guid) -> Callout {
        self.register_with(key, 0, 0).expect("registers")
    }

    /// Registers a callout with these flags and [`option`]s.
    pub(crate) fn register_with(
        &self,
        key: Guid,
        flags: u32,
        options: u32,
    ) -> Result<Callout, NtStatus> {
        let slot = self.callouts.get();
        let key_bytes = key.to_bytes();
        let message = Register {
            callout: slot,
            flags,
            options,
            irql: 0,
            key: key_bytes,
        };
        let reply = self.agent.call(&message);
        NtStatus::from_u32(reply.status).ok()?;
        self.callouts.set(slot + 1);
        let id = u32::try_from(reply.values[0]).expect("callout identifiers have 32 bits");
        Ok(Callout {
            slot,
            id,
            key,
            layer: connect(),
        })
    }

    /// `FwpsCalloutUnregisterById0`.
    pub(crate) fn unregister(&self, id: u32) -> NtStatus {
        self.agent.status(&unregister_by_id(id))
    }

    /// `FwpsCalloutUnregisterByKey0`.
    pub(crate) fn unregister_by_key(&self, key: Guid) -> NtStatus {
        let key = key.to_bytes();
        self.agent.status(&Unregister {
            id: 0,
            reserved: 0,
            key,
        })
    }

    /// The callout answers so, classify after classify; the last answer is repeated.
    pub(crate) fn script(&self, callout: &Callout, answers: &[Step]) {
        let mut script = Script::new_zeroed();
        script.callout = callout.slot;
        script.count = u32::try_from(answers.len()).expect("a few");
        assert!(answers.len() <= STEPS, "a script is short");
        script.steps[..answers.len()].copy_from_slice(answers);
        self.agent.call(&script);
    }

    /// The callout's `notifyFn` answers with these statuses, and gives new filters this context.
    pub(crate) fn script_notify(
        &self,
        callout: &Callout,
        add: NtStatus,
        delete: NtStatus,
        context: Option<u64>,
    ) {
        self.agent.call(&Notify {
            callout: callout.slot,
            set_context: u32::from(context.is_some()),
            add_status: add.code(),
            delete_status: delete.code(),
            context: context.unwrap_or(0),
        });
    }

    /// Everything that the driver's functions were called with so far.
    pub(crate) fn log(&self) -> Vec<Record> {
        let mut log = self.log.borrow_mut();
        log.extend(self.agent.take_records());
        log.clone()
    }

    fn records(&self, kind: u32, callout: &Callout) -> Vec<Record> {
        let mut log = self.log();
        log.retain(|record| record.kind == kind && record.callout == callout.slot);
        log
    }

    /// The callout's classifies so far.
    pub(crate) fn classifies(&self, callout: &Callout) -> Vec<Record> {
        self.records(kind::CLASSIFY, callout)
    }

    /// The calls of the callout's `notifyFn` so far.
    pub(crate) fn notified(&self, callout: &Callout) -> Vec<Record> {
        self.records(kind::NOTIFY, callout)
    }

    /// The contexts that the callout's `flowDeleteFn` was given so far.
    pub(crate) fn deleted(&self, callout: &Callout) -> Vec<u64> {
        self.records(kind::FLOW_DELETE, callout)
            .iter()
            .map(|record| record.flow_context)
            .collect()
    }

    /// The completions of injections so far.
    pub(crate) fn completions(&self) -> Vec<Record> {
        let mut log = self.log();
        log.retain(|record| record.kind == kind::COMPLETION);
        log
    }

    /// The states of the base filtering engine that were announced so far.
    pub(crate) fn states(&self) -> Vec<u32> {
        let log = self.log();
        let states = log.iter().filter(|record| record.kind == kind::BFE_STATE);
        states.map(|record| record.number).collect()
    }

    /// `FwpsFlowAssociateContext0` outside of a classify.
    pub(crate) fn associate(&self, flow: u64, at: &Callout, context: u64) -> NtStatus {
        self.flow(flow::ASSOCIATE, flow, at, context)
    }

    /// `FwpsFlowRemoveContext0` outside of a classify.
    pub(crate) fn remove(&self, flow: u64, at: &Callout) -> NtStatus {
        self.flow(flow::REMOVE, flow, at, 0)
    }

    /// A call about a flow: see [`flow`].
    pub(crate) fn flow(&self, what: u32, flow: u64, at: &Callout, context: u64) -> NtStatus {
        let layer = u32::from(at.layer.id().get());
        self.agent.status(&FlowContext {
            what,
            layer,
            callout: at.id,
            irql: 0,
            flow,
            context,
        })
    }

    /// Makes an injection handle in a slot.
    pub(crate) fn injection_handle(&self, slot: u32, family: u32, flags: u32) {
        let provider = [0; 16];
        let kind = handle::INJECTION;
        let message = HandleCreate {
            kind,
            slot,
            family,
            flags,
            irql: 0,
            reserved: 0,
            provider,
        };
        assert_eq!(self.agent.status(&message), OK, "an injection handle");
    }

    /// Makes a redirect handle in a slot.
    pub(crate) fn redirect_handle(&self, slot: u32) {
        let provider = self.key().to_bytes();
        let kind = handle::REDIRECT;
        let message = HandleCreate {
            kind,
            slot,
            family: 0,
            flags: 0,
            irql: 0,
            reserved: 0,
            provider,
        };
        assert_eq!(self.agent.status(&message), OK, "a redirect handle");
    }

    /// Completes what is pended in a slot; what it brings about has happened.
    pub(crate) fn complete(&self, kind: u32, slot: u32, action: Action) -> Vec<(PacketId, bool)> {
        let message = Complete {
            kind,
            slot,
            action: action.value(),
            rights: 0,
        };
        assert_eq!(self.agent.status(&message), OK, "something is pended");
        self.net().settle()
    }

    /// About the state of the base filtering engine: see [`conformance_messages::bfe`].
    pub(crate) fn bfe(&self, what: u32) -> Reply {
        self.agent.call(&Bfe { what, irql: 0 })
    }

    /// Starts the base filtering engine; who asked has been told.
    pub(crate) fn start_bfe(&self) {
        let kernel = &self.kernel;
        alive(kernel.on(0, |_| kernel.bfe().start()));
    }

    /// Waits until a classify holds.
    pub(crate) fn await_held(&self) {
        let held = Signal { what: signal::HELD };
        while self.agent.call(&held).values[0] == 0 {
            std::thread::yield_now();
        }
    }

    /// Lets a classify go on that holds.
    pub(crate) fn release(&self) {
        self.agent.call(&Signal {
            what: signal::RELEASE,
        });
    }

    /// Unloads the driver; the verifier has found nothing.
    pub(crate) fn end(self) {
        assert_clean(&self.unload());
    }

    /// Unloads the driver; the verifier has found breaches of this rule, and nothing else.
    pub(crate) fn end_with(self, rule: &str) {
        let report = self.unload();
        let rules: Vec<_> = report.violations.iter().map(|found| found.rule).collect();
        assert!(
            !rules.is_empty() && rules.iter().all(|found| *found == rule),
            "{rules:?}"
        );
        assert!(report.leaks.is_empty(), "{:?}", report.leaks);
    }

    /// Unloads the driver; what the verifier has found.
    pub(crate) fn unload(self) -> Report {
        self.net().finish();
        self.agent.close();
        alive(self.driver.unload())
    }
}

/// The message that unregisters a callout by its identifier.
pub(crate) const fn unregister_by_id(id: u32) -> Unregister {
    Unregister {
        id,
        reserved: 0,
        key: [0; 16],
    }
}

/// `FWPM_SESSION_FLAG_DYNAMIC`.
pub(crate) const FWPM_SESSION_FLAG_DYNAMIC: u32 = 1;

/// A callout that the driver has registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callout {
    pub(crate) slot: u32,
    pub(crate) id: u32,
    pub(crate) key: Guid,
    pub(crate) layer: &'static Layer,
}

/// A callout as it is known at another layer.
pub(crate) const fn at(callout: Callout, layer: &'static Layer) -> Callout {
    Callout { layer, ..callout }
}
