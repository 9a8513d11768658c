//! `portcullis verify`: any WFP driver through its life, with traffic, under the verifier.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;

use ksim::net::{LocalSide, Setup};
use ksim::{Bugcheck, Caller, Config, Cpu, Kernel, LoadError, LoadOptions, OpenError, Report};
use serde::Serialize;
use wfp_schema::NtStatus;

use super::{BadInput, Ending};
use crate::arguments::Verify;
use crate::capture;
use crate::replay::{Fate, Shard};
use crate::report::json::VerifierEntry;
use crate::report::table;

/// Recorded traffic of one host: TLS, HTTP, DNS and ping over IPv4 and IPv6.
const TRAFFIC: &[u8] = include_bytes!("../../../../tests/captures/web.pcap");
/// That host's addresses.
const LOCAL: [[u16; 8]; 2] = [
    [0, 0, 0, 0, 0, 0xffff, 0xc000, 0x020a],
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10],
];

/// What happened, for JSON.
#[derive(Debug, Serialize)]
struct Verification {
    driver: String,
    steps: Vec<String>,
    verifier: VerifierEntry,
    bugcheck: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, or is no driver that can be loaded.
pub fn run(arguments: &Verify) -> Result<Ending, BadInput> {
    let Some(file) = &arguments.file else {
        return list_rules(arguments.json);
    };
    let name = file
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let image = std::fs::read(file)
        .map_err(|error| BadInput::new(format!("{}: {error}", file.display())))?;
    let config = Config {
        processors: arguments.cpus,
        ..Config::default()
    };
    let kernel = Kernel::new(&config).map_err(BadInput::new)?;
    let mut steps = Steps {
        quiet: arguments.json,
        done: Vec::new(),
        not_started: None,
    };
    let driver = load(&kernel, &image, &name, &mut steps)
        .map_err(|error| BadInput::new(format!("{}: {error}", file.display())))?;
    let ended = exercise(&kernel, driver, &mut steps);
    let (report, bugcheck) = match ended {
        Ok(report) => (report, None),
        Err(bugcheck) => (kernel.verifier().report(), Some(bugcheck)),
    };
    if let Some(bugcheck) = &bugcheck {
        steps.add(format!("the machine stopped: {bugcheck}"));
    }
    let clean = report.is_clean() && bugcheck.is_none();
    let not_started = steps.not_started.filter(|_| clean);
    if arguments.json {
        let verification = Verification {
            driver: name,
            steps: steps.done,
            verifier: VerifierEntry::from(&report),
            bugcheck: bugcheck.map(|bugcheck| bugcheck.to_string()),
        };
        say!(
            "{}",
            serde_json::to_string_pretty(&verification).map_err(BadInput::new)?
        );
    } else {
        say!("{}", table::verifier(&report));
    }
    if let Some(status) = not_started {
        return Err(BadInput::new(format!("the driver did not start: {status}")));
    }
    Ok(if clean {
        Ending::Clean
    } else {
        Ending::Violation
    })
}

/// A rule of the verifier, for JSON.
#[derive(Debug, Serialize)]
struct RuleEntry {
    name: &'static str,
    area: &'static str,
    severity: &'static str,
    text: &'static str,
    source: &'static str,
}

/// Lists the verifier's rules.
fn list_rules(json: bool) -> Result<Ending, BadInput> {
    let rules = || ksim::verifier::rules::all();
    if json {
        let entries: Vec<RuleEntry> = rules()
            .map(|rule| RuleEntry {
                name: rule.name,
                area: rule.area.name(),
                severity: rule.severity.name(),
                text: rule.text,
                source: rule.source,
            })
            .collect();
        let text = serde_json::to_string_pretty(&entries).map_err(BadInput::new)?;
        say!("{text}");
    } else {
        let width = rules().map(|rule| rule.name.len()).max().unwrap_or(0);
        for rule in rules() {
            let (severity, name) = (rule.severity.name(), rule.name);
            say!(
                "{severity:7}  {name:width$}  {}  [{}]",
                rule.text,
                rule.source
            );
        }
    }
    Ok(Ending::Clean)
}

/// Loads the driver. Imports that are not simulated are told of, and stop the machine only when they are called.
fn load(
    kernel: &Kernel,
    image: &[u8],
    name: &str,
    steps: &mut Steps,
) -> Result<ksim::Driver, LoadError> {
    let mut options = LoadOptions {
        trap_unsimulated: false,
        ..LoadOptions::named(name)
    };
    match kernel.load(image, &options) {
        Err(LoadError::Unresolved(imports)) => {
            steps.add(format!("not simulated: {}", imports.join(", ")));
            options.trap_unsimulated = true;
            kernel.load(image, &options)
        }
        loaded => loaded,
    }
}

/// What was done so far, told as it happens.
struct Steps {
    quiet: bool,
    done: Vec<String>,
    /// Why the driver did not start, if it did not.
    not_started: Option<NtStatus>,
}

impl Steps {
    fn add(&mut self, step: String) {
        if !self.quiet {
            say!("{step}");
        }
        self.done.push(step);
    }
}

/// Starts the driver, opens its devices, lets traffic through it while the filter engine stops and starts, and
/// unloads it.
fn exercise(kernel: &Kernel, driver: ksim::Driver, steps: &mut Steps) -> Result<Report, Bugcheck> {
    let status = driver.start()?;
    steps.add(format!("started: {status}"));
    if !status.is_success() {
        steps.not_started = Some(status);
        return driver.unload();
    }
    let handles = open_devices(kernel, steps)?;
    traffic(kernel, steps, "with the filter engine running")?;
    kernel.on(0, |_| kernel.bfe().stop())?;
    traffic(kernel, steps, "with the filter engine stopped")?;
    kernel.on(0, |_| kernel.bfe().start())?;
    traffic(kernel, steps, "with the filter engine running again")?;
    for handle in handles {
        handle.close()?;
    }
    let report = driver.unload()?;
    steps.add("unloaded".to_owned());
    Ok(report)
}

fn open_devices(kernel: &Kernel, steps: &mut Steps) -> Result<Vec<ksim::FileHandle>, Bugcheck> {
    let mut handles = Vec::new();
    for name in kernel.io().names() {
        match kernel.open(&name, Caller::administrator()) {
            Ok(handle) => {
                steps.add(format!("opened {name}"));
                // A code that no driver has: to be refused, whatever comes with it.
                let refused = handle.ioctl(0xffff_fffc, &[0xff; 64], 64)?;
                steps.add(format!("an unknown control code: {}", refused.status));
                handles.push(handle);
            }
            Err(OpenError::Bugcheck(bugcheck)) => return Err(bugcheck),
            Err(error) => steps.add(format!("{name}: {error}")),
        }
    }
    Ok(handles)
}

/// Replays the recorded traffic; every processor gets all of it.
fn traffic(kernel: &Kernel, steps: &mut Steps, when: &str) -> Result<(), Bugcheck> {
    let mut local = LocalSide::default();
    for address in LOCAL {
        local.insert(IpAddr::from(address).to_canonical());
    }
    let (mut passed, mut blocked) = (0, 0);
    for index in 0..kernel.processors() {
        let shard = u16::try_from(index).unwrap_or(u16::MAX);
        let setup = Setup {
            local: local.clone(),
            shard,
            ..Setup::default()
        };
        let fates = kernel.on(index, |cpu| replay(cpu, setup))?;
        passed += fates.iter().filter(|fate| **fate == Fate::Passed).count();
        blocked += fates.iter().filter(|fate| **fate == Fate::Blocked).count();
    }
    steps.add(format!(
        "traffic {when}: {passed} packets passed, {blocked} blocked"
    ));
    Ok(())
}

fn replay(cpu: &Cpu, setup: Setup) -> Vec<Fate> {
    let mut shard = Shard::new(cpu, setup);
    let mut number = 0;
    let read = capture::read_from(Path::new("recorded traffic"), TRAFFIC, |frame| {
        shard.frame(number, &frame);
        shard.settle(cpu);
        number += 1;
        ControlFlow::Continue(())
    });
    debug_assert!(read.is_ok(), "the recorded traffic is well-formed");
    shard.finish(cpu);
    shard
        .take_fates()
        .into_iter()
        .map(|(_, fate)| fate)
        .collect()
}
