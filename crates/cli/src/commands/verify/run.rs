//! One run of the scenario.

use std::path::{Path, PathBuf};

use ksim::sched::Schedule;
use ksim::{Config, Kernel, LoadError, LoadOptions};
use portcullis_policy::Diagnostic;
use serde::{Deserialize, Serialize};

use super::Measured;
use super::scenario::{Scenario, Steps};
use crate::arguments::Verify;
use crate::commands::coverage::{self, CoverageEntry};
use crate::commands::{BadInput, Ending, policy, print_json};
use crate::report::json::VerifierEntry;
use crate::report::table;

/// What happened, for JSON.
#[derive(Debug, Serialize)]
struct Verification<'a> {
    driver: String,
    seed: Option<u64>,
    steps: Vec<String>,
    #[serde(flatten)]
    faults: FaultsEntry,
    verifier: VerifierEntry,
    bugcheck: Option<String>,
    /// Why nothing could be said of the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What the policy's author is warned of.
    diagnostics: &'a [Diagnostic],
    #[serde(skip_serializing_if = "Option::is_none")]
    coverage: Option<Vec<CoverageEntry<'a>>>,
}

/// What a sweep reads of a run's JSON.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct FaultsEntry {
    /// How many calls were made that can fail.
    pub(super) fallible_calls: u64,
    /// The call that was made to fail last: function and place.
    pub(super) failed_call: Option<String>,
}

/// Runs the scenario on the driver in `file`.
pub(super) fn run(
    arguments: &Verify,
    file: &Path,
    measured: Option<&Measured<'_>>,
) -> Result<Ending, BadInput> {
    let name = file
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let named =
        |error: &dyn std::fmt::Display| BadInput::new(format!("{}: {error}", file.display()));
    let image = std::fs::read(file).map_err(|error| named(&error))?;
    let policy = arguments
        .policy
        .as_deref()
        .map(|file| policy::compile_for(file, arguments.json, &arguments.interface))
        .transpose()?;
    let seed = seed(arguments);
    let config = Config {
        processors: arguments.cpus,
        pool: arguments.pool.into(),
        seed: seed.unwrap_or_else(|| Config::default().seed),
        schedule: seed.map_or_else(Schedule::free, Schedule::seeded),
        ..Config::default()
    };
    let kernel = Kernel::new(&config).map_err(BadInput::new)?;
    let mut steps = Steps::new(arguments.json);
    let mut options = LoadOptions {
        pdb: program_database(arguments, file)?,
        ..LoadOptions::named(&name)
    };
    if let Some(measured) = measured {
        options.coverage = Some(measured.folder().to_owned());
    }
    let driver = load(&kernel, &image, options, &mut steps).map_err(|error| named(&error))?;
    if let Some(nth) = arguments.fail_nth {
        kernel.faults().fail_nth(nth);
    } else if let Some(seed) = arguments.fail_random {
        kernel.faults().fail_random(seed, arguments.fail_one_in);
    }
    let scenario = Scenario {
        kernel: &kernel,
        policy: policy.as_ref().map(|compiled| compiled.blob.clone()),
        interfaces: &arguments.interface,
        concurrent: seed.is_some() || arguments.cpus > 1,
    };
    let ended = scenario.run(driver, &mut steps);
    let (report, bugcheck) = match ended {
        Ok(report) => (report, None),
        Err(bugcheck) => (kernel.verifier().report(), Some(bugcheck)),
    };
    if let Some(bugcheck) = &bugcheck {
        steps.add(format!("the machine stopped: {bugcheck}"));
    }
    let faults = FaultsEntry {
        fallible_calls: kernel.faults().calls(),
        failed_call: kernel.faults().failed_call(),
    };
    let clean = report.is_clean() && bugcheck.is_none();
    // A driver may refuse to start when a call fails.
    let excused = !clean || faults.failed_call.is_some();
    let not_started = steps.not_started().filter(|_| !excused);
    let error = not_started.map(|status| format!("the driver did not start: {status}"));
    let covered = measured.map(Measured::finish).transpose()?;
    if arguments.json {
        let verification = Verification {
            driver: name,
            seed,
            steps: steps.into_done(),
            faults,
            verifier: VerifierEntry::from(&report),
            bugcheck: bugcheck.map(|bugcheck| bugcheck.to_string()),
            error: error.clone(),
            diagnostics: policy.as_ref().map_or(&[], |compiled| &compiled.warnings),
            coverage: covered.as_ref().map(coverage::entries),
        };
        print_json(&verification)?;
    } else {
        if let Some(call) = &faults.failed_call {
            say!("made to fail: {call}");
        }
        say!("{}", table::verifier(&report));
        if let Some(files) = &covered {
            say!("{}", coverage::table(files).trim_end());
        }
    }
    Ok(match error {
        Some(error) => {
            BadInput::new(error).tell(None);
            Ending::Refused
        }
        None if clean => Ending::Clean,
        None => Ending::Violation,
    })
}

/// The seed of the schedule. A run in which calls fail is to be repeatable.
pub(super) fn seed(arguments: &Verify) -> Option<u64> {
    let faults =
        arguments.fail_each || arguments.fail_nth.is_some() || arguments.fail_random.is_some();
    arguments.seed.or_else(|| faults.then_some(0))
}

/// The program database that was named, or the one that lies beside the image.
fn program_database(arguments: &Verify, file: &Path) -> Result<Option<Vec<u8>>, BadInput> {
    let read = |file: &PathBuf| {
        std::fs::read(file).map_err(|error| BadInput::new(format!("{}: {error}", file.display())))
    };
    if let Some(file) = &arguments.pdb {
        return read(file).map(Some);
    }
    let beside = file.with_extension("pdb");
    if beside.exists() {
        read(&beside).map(Some)
    } else {
        Ok(None)
    }
}

/// Loads the driver. Imports that are not simulated are told of, and stop the machine only when they are called.
fn load(
    kernel: &Kernel,
    image: &[u8],
    options: LoadOptions,
    steps: &mut Steps,
) -> Result<ksim::Driver, LoadError> {
    let mut options = LoadOptions {
        trap_unsimulated: false,
        ..options
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
