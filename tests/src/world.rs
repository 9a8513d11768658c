//! A machine with the driver in it.

use std::collections::BTreeMap;

use ksim::fwp::KernelHost;
use ksim::net::{Processes, Setup};
use ksim::{Caller, Config, Driver, Kernel, LoadOptions, Report};
use portcullis_proto::status::{CalloutStatus, StatusReply};
use portcullis_proto::{CALLOUTS, CalloutKind, Counter, DriverState, EventRecord, Family};
use wfp_engine::{Engine, Options};
use wfp_schema::{BfeState, Guid, NtStatus};

use crate::control::{Device, alive};
use crate::image;
use crate::net::Net;

/// The digits that the keys of our objects begin with; the last sixteen bits tell them apart.
const KEYS: u128 = 0xF995_210D_E7AE_41BC_B37D_5960_E38A_0000;

/// A machine, the driver, its device, and a host on processor 0.
#[derive(Debug)]
pub struct World {
    /// The machine.
    pub kernel: Kernel,
    /// The host.
    pub net: Net,
    device: Option<Device>,
    driver: Option<Driver>,
}

impl World {
    /// A machine on which the driver has started, without a policy.
    #[must_use]
    pub fn new() -> Self {
        Self::with_config(&Config::default())
    }

    /// A machine made like this, on which the driver has started.
    #[must_use]
    pub fn with_config(config: &Config) -> Self {
        let mut world = Self::boot(config);
        assert_eq!(world.start(), NtStatus::SUCCESS, "DriverEntry");
        world
    }

    /// The same as [`boot_answering`](Self::boot_answering), on which the driver has started.
    #[must_use]
    pub fn answering(answer: impl FnOnce(&mut Options)) -> Self {
        let mut world = Self::boot_answering(&Config::default(), answer);
        assert_eq!(world.start(), NtStatus::SUCCESS, "DriverEntry");
        world
    }

    /// A machine on which the driver enforces this policy.
    #[must_use]
    pub fn with_policy(toml: &str) -> Self {
        let world = Self::new();
        world.set_policy(toml);
        world
    }

    /// A machine without the driver; [`with_options`] says how the filter engine answers open questions.
    #[must_use]
    pub fn boot(config: &Config) -> Self {
        Self::boot_answering(config, |_| ())
    }

    /// The same; `answer` gives the answers that matter to the test.
    #[must_use]
    pub fn boot_answering(config: &Config, answer: impl FnOnce(&mut Options)) -> Self {
        let mut config = with_options(config);
        answer(&mut config.fwp.options);
        let kernel = Kernel::new(&config).expect("memory and threads");
        let net = Net::new(&kernel, 0);
        Self {
            kernel,
            net,
            device: None,
            driver: None,
        }
    }

    /// The machine after a restart, without the driver: what the filter engine had stored is all that is left. The
    /// base filtering engine does not run yet. This machine may have been shut down, or have lost its power.
    #[must_use]
    pub fn rebooted(&self, config: &Config) -> Self {
        let mut config = config.clone();
        config.fwp.boot_store = self.engine().boot_store();
        config.fwp.bfe_running = false;
        Self::boot(&config)
    }

    /// Loads and starts the driver. When its entry succeeds, its device is open.
    pub fn start(&mut self) -> NtStatus {
        let driver = load(&self.kernel, "portcullis.sys", image::portcullis());
        let status = alive(driver.start());
        self.driver = Some(driver);
        if status.is_success() {
            self.device = Some(self.open(Caller::administrator()));
        }
        status
    }

    /// Opens the device once more.
    #[must_use]
    pub fn open(&self, caller: Caller) -> Device {
        Device::open(&self.kernel, caller).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The host's endpoints belong to these from now on; its flows are over.
    pub fn owned_by(&mut self, processes: Processes) {
        self.net = Net::owned(&self.kernel, 0, processes);
    }

    /// The host tells what leaves it from now on; its flows are over.
    #[must_use]
    pub fn with_output(mut self) -> Self {
        let setup = Setup {
            output: true,
            ..Setup::default()
        };
        self.net = Net::with_setup(&self.kernel, 0, setup);
        self
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &Device {
        self.device.as_ref().expect("the driver runs")
    }

    /// Puts a policy into force. Every decision makes events.
    pub fn set_policy(&self, toml: &str) {
        self.device().set_policy(toml);
    }

    /// The driver's status.
    #[must_use]
    pub fn status(&self) -> StatusReply {
        self.device().status().0
    }

    /// What the driver is doing.
    #[must_use]
    pub fn state(&self) -> DriverState {
        DriverState::from_raw(self.status().state.get()).expect("a state")
    }

    /// The status of one callout.
    #[must_use]
    pub fn callout(&self, kind: CalloutKind, family: Family) -> CalloutStatus {
        let place = CALLOUTS
            .iter()
            .position(|info| (info.kind, info.family) == (kind, family));
        self.device().status().1[place.expect("the table has every pair")]
    }

    /// A counter of the driver.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.device().counter(counter)
    }

    /// Takes the driver's events.
    #[must_use]
    pub fn events(&self) -> Vec<EventRecord> {
        self.device().events()
    }

    /// The filter engine.
    #[must_use]
    pub fn engine(&self) -> &Engine<KernelHost> {
        self.kernel.filter_engine()
    }

    /// Stops the base filtering engine and lets the driver hear of it.
    pub fn stop_bfe(&self) {
        alive(self.kernel.on(0, |_| self.kernel.bfe().stop()));
        self.await_bfe(BfeState::Stopped);
    }

    /// Starts the base filtering engine and lets the driver hear of it.
    pub fn start_bfe(&self) {
        alive(self.kernel.on(0, |_| self.kernel.bfe().start()));
        self.await_bfe(BfeState::Running);
    }

    /// Another processor may have taken over what was put off.
    fn await_bfe(&self, state: BfeState) {
        while self.kernel.bfe().state() != state {
            std::thread::yield_now();
        }
        alive(self.kernel.on(0, |_| ()));
    }

    /// Closes the device and unloads the driver, whether or not it has started.
    pub fn unload(&mut self) -> Report {
        if let Some(device) = self.device.take() {
            device.close();
        }
        self.unload_with_open_device()
    }

    /// Unloads the driver by force: whoever has opened the device keeps it open, which no system allows.
    pub fn unload_with_open_device(&mut self) -> Report {
        alive(self.driver.take().expect("the driver is loaded").unload())
    }

    /// The program that has opened the device ends; what it has asked for ends with it.
    pub fn abandon_device(&mut self) {
        drop(self.device.take());
    }

    /// Unloads the driver, which leaves nothing behind and has done nothing that it must not.
    pub fn end(mut self) {
        let report = self.unload();
        assert_clean(&report);
        self.assert_nothing_of_ours();
    }

    /// Nothing of the driver is in the filter engine or the object manager.
    pub fn assert_nothing_of_ours(&self) {
        let ours = our_objects(self.engine());
        assert!(ours.is_empty(), "left in the filter engine: {ours:?}");
        let names = self.kernel.io().names();
        assert!(
            names.iter().all(|name| !name.contains("portcullis")),
            "left in the object manager: {names:?}"
        );
        assert_eq!(self.engine().session_count(), 0, "sessions left open");
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Names the answers to what documentation leaves open that the tests of a run are given; see [`Options`].
pub const OPTIONS_VARIABLE: &str = "PORTCULLIS_OPTIONS";

/// The configuration with the options that [`OPTIONS_VARIABLE`] names, unless a test has options of its own.
#[must_use]
pub fn with_options(config: &Config) -> Config {
    let mut config = config.clone();
    if let Ok(named) = std::env::var(OPTIONS_VARIABLE)
        && config.fwp.options == Options::default()
    {
        config.fwp.options = named
            .parse()
            .unwrap_or_else(|error| panic!("{OPTIONS_VARIABLE}: {error}"));
    }
    config
}

/// Loads a driver.
#[must_use]
pub fn load(kernel: &Kernel, name: &str, image: &[u8]) -> Driver {
    kernel
        .load(image, &LoadOptions::named(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The driver was unloaded while its device was open, and nothing else is wrong. Windows would wait until the last handle is
/// closed; here only the verifier complains.
pub fn assert_unloaded_while_open(report: &Report) {
    assert!(report.leaks.is_empty(), "{:?}", report.leaks);
    let rules = report.violations.iter().map(|violation| violation.rule);
    let rules: Vec<&str> = rules.collect();
    assert_eq!(rules, ["unload-left"], "{:?}", report.violations);
}

/// The verifier found nothing.
pub fn assert_clean(report: &Report) {
    for violation in &report.violations {
        eprintln!("violation: {violation}");
    }
    for leak in &report.leaks {
        eprintln!("leak: {leak}");
    }
    assert!(report.is_clean(), "the verifier found something, see above");
}

/// The key of the provider.
#[must_use]
pub const fn provider_key() -> Guid {
    Guid::from_u128(KEYS | 1)
}

/// The key of the sublayer.
#[must_use]
pub const fn sublayer_key() -> Guid {
    Guid::from_u128(KEYS | 2)
}

/// The callouts whose filters exist whatever the policy, and whether or not somebody captures.
pub const ALWAYS_FILTERED: [CalloutKind; 7] = [
    CalloutKind::Connect,
    CalloutKind::RecvAccept,
    CalloutKind::Listen,
    CalloutKind::FlowEstablished,
    CalloutKind::Stream,
    CalloutKind::Datagram,
    CalloutKind::EndpointClosure,
];

/// Whether a callout's filter exists whatever is wanted.
#[must_use]
pub fn is_always_filtered(callout: &CalloutStatus) -> bool {
    ALWAYS_FILTERED
        .iter()
        .any(|kind| kind.raw() == callout.kind)
}

/// The key of the callout at this place of [`CALLOUTS`].
#[must_use]
pub const fn callout_key(place: usize) -> Guid {
    Guid::from_u128(KEYS | 0x100 | place as u128)
}

/// The key of that callout's filter.
#[must_use]
pub const fn filter_key(place: usize) -> Guid {
    Guid::from_u128(KEYS | 0x200 | place as u128)
}

/// Everything in the filter engine that has one of our keys, by what it is.
fn our_objects(engine: &Engine<KernelHost>) -> BTreeMap<Guid, &'static str> {
    let objects = engine.committed();
    let providers = objects
        .providers()
        .map(|object| (object.provider.key, "provider"));
    let sublayers = objects
        .sublayers()
        .map(|object| (object.sublayer.key, "sublayer"));
    let callouts = objects
        .callouts()
        .map(|object| (object.callout.key, "callout"));
    let filters = objects
        .filters()
        .map(|entry| (entry.record().key(), "filter"));
    let registered = engine
        .registered_callouts()
        .into_iter()
        .map(|(_, key)| (key, "registered callout"));
    let all = providers
        .chain(sublayers)
        .chain(callouts)
        .chain(filters)
        .chain(registered);
    all.filter(|(key, _)| key.to_u128() & !0xffff == KEYS)
        .collect()
}
