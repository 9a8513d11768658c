//! A machine with one driver that is not ours.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use ksim::{
    Bugcheck, Caller, Config, Driver, FileHandle, IoResult, Kernel, LoadOptions, PoolMode, Report,
};
use wfp_engine::Options;
use wfp_schema::NtStatus;

use super::test_drivers::{Built, built};
use crate::control::alive;
use crate::net::Net;
use crate::world::{assert_clean, with_options};

/// Ports that a processor sends from in turn.
const PORTS: u16 = 8_000;

/// A machine, a driver that has started on it, and a host with packets on its first processor.
#[derive(Debug)]
pub struct Machine {
    /// The machine.
    pub kernel: Kernel,
    /// The host.
    pub net: Net,
    driver: Option<Driver>,
    /// The names in the object manager before the driver was there.
    names: Vec<String>,
}

impl Machine {
    /// A machine on which the driver `name` of `tests/drivers` has started.
    #[must_use]
    pub fn with(name: &str) -> Self {
        Self::with_built(&Config::default(), &built(name, None))
    }

    /// The same with the driver that makes this mistake.
    #[must_use]
    pub fn with_bug(name: &str, bug: &str) -> Self {
        Self::with_built(&Config::default(), &built(name, Some(bug)))
    }

    /// A machine made like this, on which the driver has started.
    #[must_use]
    pub fn with_built(config: &Config, driver: &Built) -> Self {
        let machine = Self::loaded(config, driver);
        assert_eq!(machine.start(), NtStatus::SUCCESS, "DriverEntry");
        machine
    }

    /// A machine on which the driver has started; `answer` gives the answers to open questions that matter to the test.
    #[must_use]
    pub fn answering(driver: &Built, answer: impl FnOnce(&mut Options)) -> Self {
        let machine = Self::loaded_answering(&Config::default(), driver, answer);
        assert_eq!(machine.start(), NtStatus::SUCCESS, "DriverEntry");
        machine
    }

    /// A machine on which the driver is loaded and has not started; [`with_options`] says how the filter engine answers
    /// open questions.
    #[must_use]
    pub fn loaded(config: &Config, driver: &Built) -> Self {
        Self::loaded_answering(config, driver, |_| ())
    }

    fn loaded_answering(
        config: &Config,
        driver: &Built,
        answer: impl FnOnce(&mut Options),
    ) -> Self {
        let mut config = with_options(config);
        answer(&mut config.fwp.options);
        let kernel = Kernel::new(&config).expect("memory and threads");
        let net = Net::new(&kernel, 0);
        let names = kernel.io().names();
        let loaded = load(&kernel, driver);
        Self {
            kernel,
            net,
            driver: Some(loaded),
            names,
        }
    }

    /// Loads and starts a driver where the one before was unloaded.
    pub fn load_again(&mut self, driver: &Built) {
        assert!(self.driver.is_none(), "the one before is unloaded");
        self.driver = Some(load(&self.kernel, driver));
        assert_eq!(self.start(), NtStatus::SUCCESS, "DriverEntry");
    }

    /// Loads and starts another driver beside it.
    #[must_use]
    pub fn beside(&self, driver: &Built) -> Driver {
        let other = load(&self.kernel, driver);
        assert_eq!(alive(other.start()), NtStatus::SUCCESS, "DriverEntry");
        other
    }

    /// Starts the driver.
    #[must_use]
    pub fn start(&self) -> NtStatus {
        alive(self.driver.as_ref().expect("it is loaded").start())
    }

    /// Opens its device.
    #[must_use]
    pub fn open(&self, path: &str) -> FileHandle {
        self.open_as(path, Caller::administrator())
            .unwrap_or_else(|status| panic!("{path}: {status}"))
    }

    /// Opens its device as somebody.
    ///
    /// # Errors
    /// The status with which it is refused.
    pub fn open_as(&self, path: &str, caller: Caller) -> Result<FileHandle, NtStatus> {
        match self.kernel.open(path, caller) {
            Ok(handle) => Ok(handle),
            Err(ksim::OpenError::Status(status)) => Err(status),
            Err(ksim::OpenError::Bugcheck(bugcheck)) => panic!("{bugcheck}"),
        }
    }

    /// Unloads the driver.
    ///
    /// # Errors
    /// Why the machine stopped.
    pub fn try_unload(&mut self) -> Result<Report, Bugcheck> {
        self.driver.take().expect("it is loaded").unload()
    }

    /// Unloads the driver.
    #[must_use]
    pub fn unload(&mut self) -> Report {
        alive(self.try_unload())
    }

    /// Unloads the driver while the processors but the first send: each has sent something before, and goes on until
    /// it is over. `exchange` sends on its host, from a port that is its own.
    #[must_use]
    pub fn unload_under_traffic(&mut self, exchange: impl Fn(&mut Net, u16) + Sync) -> Report {
        let kernel = self.kernel.clone();
        let sending: Vec<u32> = (1..kernel.processors()).collect();
        let begun = AtomicU32::new(0);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for (processor, first) in sending.iter().zip((20_000_u16..).step_by(PORTS.into())) {
                let (kernel, begun, is_over, exchange) = (&kernel, &begun, &is_over, &exchange);
                scope.spawn(move || {
                    let mut net = Net::new(kernel, *processor);
                    for round in 0.. {
                        exchange(&mut net, first + round % PORTS);
                        if round == 0 {
                            begun.fetch_add(1, Ordering::SeqCst);
                        }
                        if is_over.load(Ordering::SeqCst) {
                            break;
                        }
                    }
                });
            }
            while (begun.load(Ordering::SeqCst) as usize) < sending.len() {
                thread::yield_now();
            }
            let report = self.unload();
            is_over.store(true, Ordering::SeqCst);
            report
        })
    }

    /// Unloads the driver, which leaves nothing behind and has done nothing that it must not.
    pub fn end(mut self) {
        let report = self.unload();
        assert_clean(&report);
        assert!(self.kernel.filter_engine().registered_callouts().is_empty());
        assert_eq!(self.kernel.filter_engine().session_count(), 0);
        assert_eq!(
            self.kernel.io().names(),
            self.names,
            "left in the object manager"
        );
    }
}

fn load(kernel: &Kernel, driver: &Built) -> Driver {
    let options = LoadOptions {
        pdb: Some(driver.pdb.clone()),
        ..LoadOptions::named(&driver.name)
    };
    kernel
        .load(&driver.image, &options)
        .unwrap_or_else(|error| panic!("{}: {error}", driver.name))
}

/// The verifier found this rule broken.
///
/// # Panics
/// When it did not; what it found is shown.
pub fn assert_found(report: &Report, rule: &str) {
    let found = report
        .violations
        .iter()
        .any(|violation| violation.rule == rule);
    assert!(found, "{rule} was not found, but: {report:#?}");
}

/// A status that says that a call was answered.
#[must_use]
pub fn status(result: Result<IoResult, Bugcheck>) -> NtStatus {
    alive(result).status
}

/// A machine for sweeps, of which there are many: its pool has no guard pages.
#[must_use]
pub fn sweep_config() -> Config {
    Config {
        pool: PoolMode::Fast,
        ..Config::default()
    }
}

/// Runs `scenario` once for each call of it that can fail, with that call failing, on a machine of its own.
///
/// `scenario` must come to an end whatever fails, and leave nothing behind; which is checked here. Returns how many
/// calls were made to fail.
pub fn sweep(driver: &Built, scenario: impl Fn(&mut Machine)) -> u64 {
    /// More calls than any scenario makes.
    const MANY: u64 = 5_000;
    for nth in 1..MANY {
        let mut machine = Machine::loaded(&sweep_config(), driver);
        machine.kernel.faults().fail_nth(nth);
        if machine.start().is_success() {
            scenario(&mut machine);
        }
        let failed = machine.kernel.faults().failed_call();
        machine.kernel.faults().fail_nth(0);
        let report = machine.unload();
        assert!(
            report.is_clean(),
            "after the failure of {failed:?}: {report:#?}"
        );
        assert!(
            machine
                .kernel
                .filter_engine()
                .registered_callouts()
                .is_empty(),
            "{failed:?}"
        );
        if failed.is_none() {
            println!(
                "{}: {} calls, each made to fail in turn",
                driver.name,
                nth - 1
            );
            return nth - 1;
        }
    }
    panic!("the scenario makes more than {MANY} calls");
}
