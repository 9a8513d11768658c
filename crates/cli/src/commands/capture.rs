//! `portcullis capture`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use portcullis_proto::capture::{CapturePrefix, MAX_CAPTURE_LIST, StartCaptureRequest};
use portcullis_proto::policy::{Range16, map_v4};
use serde::Serialize;

use super::{BadInput, Ending};
use crate::arguments::{Capture, Prefix, STANDARD_OUTPUT};
use crate::live::{CaptureOptions, Captured};

/// Runs the command.
///
/// # Errors
/// No driver, or one that cannot be asked; a capture, policy, driver or option that is not usable; or a file that cannot
/// be written. Nothing is left of it then. A simulated driver that stops the machine is a violation.
pub fn run(arguments: &Capture) -> Result<Ending, BadInput> {
    let options = options(arguments)?;
    #[cfg(target_os = "linux")]
    if !arguments.simulated.replay.is_empty() {
        return replay::run(arguments, options);
    }
    live(arguments, options)
}

#[cfg(not(windows))]
fn live(_arguments: &Capture, _options: CaptureOptions) -> Result<Ending, BadInput> {
    Err(super::no_driver(
        "--replay CAPTURE captures what its traffic makes in the simulated kernel",
    ))
}

/// Until Ctrl+C, or it is enough.
#[cfg(windows)]
fn live(arguments: &Capture, options: CaptureOptions) -> Result<Ending, BadInput> {
    use crate::live::{Session, Stop};

    static STOP: Stop = Stop::new();

    let rules = super::policy::rule_names(arguments.policy.as_deref())?;
    let device = super::device::open()?;
    let session = Session::start(&device, options, rules).map_err(BadInput::new)?;
    portcullis_win32::on_interrupt(|| STOP.request()).map_err(BadInput::new)?;
    eprintln!("capturing to {}; Ctrl+C ends it", arguments.write.display());
    let captured = session.run(&device, &STOP).map_err(BadInput::new)?;
    report(arguments, &captured, None::<()>)?;
    Ok(Ending::Clean)
}

#[cfg(target_os = "linux")]
mod replay {
    //! A capture of the driver in the simulated kernel.

    use portcullis_policy::Diagnostic;
    use serde::Serialize;

    use super::{Capture, CaptureOptions, report};
    use crate::ask::Answers;
    use crate::commands::{BadInput, Ending, policy, replay};
    use crate::replay::{Plan, run as replay_plan};
    use crate::report::json::{self, LocalEntry, VerifierEntry};
    use crate::report::table;
    use crate::simulation;

    pub(super) fn run(arguments: &Capture, options: CaptureOptions) -> Result<Ending, BadInput> {
        let compiled = match &arguments.policy {
            Some(file) => policy::compile_for(file, true, &arguments.simulated.interface)?,
            None => replay::permit_all()?,
        };
        let simulated = &arguments.simulated;
        let driver = simulated.driver.as_deref();
        let plan = Plan {
            captures: simulated.replay.clone(),
            policy: Some(compiled.blob),
            local: simulated.local.clone(),
            processes: simulated.process.clone(),
            interfaces: simulated.interface.clone(),
            driver: simulation::driver_image(driver).map_err(BadInput::new)?,
            pdb: simulation::program_database(driver).map_err(BadInput::new)?,
            cpus: simulated.cpus,
            write: None,
            annotate: None,
            rules: compiled.rule_names.clone(),
            answers: Answers::default(),
            capture: Some(options),
        };
        let bar = replay::progress_bar();
        let outcome = replay_plan(&plan, &|done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return replay::failed(&error, arguments.json.as_deref()),
        };
        let captured = outcome.captured.clone().unwrap_or_default();
        let replayed = ReplayedEntry {
            local_side: json::local_side(&outcome),
            verifier: VerifierEntry::from(&outcome.verifier),
            diagnostics: &compiled.warnings,
        };
        if report(arguments, &captured, Some(replayed))? {
            replay::show_local_side(&outcome);
            say!("{}", table::verifier(&outcome.verifier));
        }
        Ok(replay::ending(&outcome))
    }

    /// What the report says besides of a capture in the simulated kernel.
    #[derive(Debug, Serialize)]
    struct ReplayedEntry<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        local_side: Option<Vec<LocalEntry>>,
        verifier: VerifierEntry,
        diagnostics: &'a [Diagnostic],
    }
}

/// What the driver is asked for.
fn options(arguments: &Capture) -> Result<CaptureOptions, BadInput> {
    let count = |option: &str, count: usize| {
        u8::try_from(count)
            .ok()
            .filter(|&count| usize::from(count) <= MAX_CAPTURE_LIST)
            .ok_or_else(|| {
                BadInput::new(format!(
                    "{option} is given {count} times, and at most {MAX_CAPTURE_LIST} times are possible"
                ))
            })
    };
    let mut request = StartCaptureRequest::new(arguments.snap, arguments.ring);
    request.address_count = count("--address", arguments.address.len())?;
    request.port_count = count("--port", arguments.port.len())?;
    request.protocol_count = count("--protocol", arguments.protocol.len())?;
    for (place, prefix) in request.addresses.iter_mut().zip(&arguments.address) {
        *place = mapped(*prefix);
    }
    for (place, ports) in request.ports.iter_mut().zip(&arguments.port) {
        *place = Range16 {
            first: ports.first.into(),
            last: ports.last.into(),
        };
    }
    for (place, protocol) in request.protocols.iter_mut().zip(&arguments.protocol) {
        *place = *protocol;
    }
    Ok(CaptureOptions {
        file: arguments.write.clone(),
        request,
        count: arguments.count,
        seconds: arguments.seconds,
    })
}

/// The prefix as the driver has it: IPv4 as IPv4-mapped IPv6.
const fn mapped(prefix: Prefix) -> CapturePrefix {
    let (address, length) = match prefix.address {
        IpAddr::V4(v4) => (map_v4(v4.octets()), prefix.length + 96),
        IpAddr::V6(v6) => (v6.octets(), prefix.length),
    };
    CapturePrefix {
        address,
        length,
        reserved: [0; 3],
    }
}

/// What was captured, for programs.
#[derive(Debug, Serialize)]
struct CaptureReport<'a, R> {
    file: &'a Path,
    packets: u64,
    blocked: u64,
    rebuilt: u64,
    blocked_by: &'a BTreeMap<String, u64>,
    seen: u64,
    taken: u64,
    dropped: u64,
    lost: u64,
    /// What there is to say besides of one in the simulated kernel.
    #[serde(flatten)]
    replayed: Option<R>,
}

impl<'a, R> CaptureReport<'a, R> {
    const fn new(file: &'a Path, captured: &'a Captured, replayed: Option<R>) -> Self {
        Self {
            file,
            packets: captured.packets,
            blocked: captured.blocked,
            rebuilt: captured.rebuilt,
            blocked_by: &captured.blocked_by,
            seen: captured.counts.seen.get(),
            taken: captured.counts.taken.get(),
            dropped: captured.counts.dropped.get(),
            lost: captured.lost,
            replayed,
        }
    }
}

/// Tells what was captured. Returns whether it is told as text.
fn report(
    arguments: &Capture,
    captured: &Captured,
    replayed: Option<impl Serialize>,
) -> Result<bool, BadInput> {
    if let Some(file) = &arguments.json {
        let report = CaptureReport::new(&arguments.write, captured, replayed);
        super::write_json(file, &report)?;
    }
    if arguments.json.as_deref() == Some(Path::new(STANDARD_OUTPUT)) {
        return Ok(false);
    }
    show(&arguments.write, captured);
    Ok(true)
}

fn show(file: &Path, captured: &Captured) {
    say!(
        "{}: {} packets, {} of them blocked, {} of these put together from what is known",
        file.display(),
        captured.packets,
        captured.blocked,
        captured.rebuilt
    );
    for (by, count) in &captured.blocked_by {
        say!("  {count} by {by}");
    }
    let counts = &captured.counts;
    say!(
        "The driver saw {} packets, took {} packets and decisions, and dropped {} of these because its ring was full",
        counts.seen.get(),
        counts.taken.get(),
        counts.dropped.get()
    );
}
