//! `portcullis capture`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use portcullis_proto::capture::{CapturePrefix, MAX_CAPTURE_LIST, StartCaptureRequest};
use portcullis_proto::policy::{Range16, map_v4};
use serde::Serialize;

use super::{BadInput, Ending, policy, replay};
use crate::arguments::{Capture, Prefix};
use crate::ask::Answers;
use crate::live::{CaptureOptions, Captured};
use crate::replay::{Outcome, Plan, run as replay_plan};
use crate::report::json::VerifierEntry;
use crate::report::table;
use crate::simulation;

/// Runs the command.
///
/// # Errors
/// A capture, policy, driver or option that is not usable, or a file that cannot be written; nothing is left of it then.
/// A driver that stops the machine is a violation.
pub fn run(arguments: &Capture) -> Result<Ending, BadInput> {
    let compiled = match &arguments.policy {
        Some(file) => policy::compile(file, true)?,
        None => replay::permit_all()?,
    };
    let plan = Plan {
        captures: arguments.replay.clone(),
        policy: Some(compiled.blob),
        local: arguments.local.clone(),
        processes: arguments.process.clone(),
        driver: simulation::driver_image(arguments.driver.as_deref()).map_err(BadInput::new)?,
        pdb: simulation::program_database(arguments.driver.as_deref()).map_err(BadInput::new)?,
        cpus: arguments.cpus,
        write: None,
        annotate: None,
        rules: compiled.rule_names,
        answers: Answers::default(),
        capture: Some(options(arguments)?),
    };
    let bar = replay::progress_bar();
    let outcome = replay_plan(&plan, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) if error.stopped_the_machine() => {
            eprintln!("error: {error}");
            return Ok(Ending::Violation);
        }
        Err(error) => return Err(BadInput::new(error)),
    };
    let captured = outcome.captured.clone().unwrap_or_default();
    let on_stdout = arguments.json.as_deref() == Some(Path::new("-"));
    if let Some(file) = &arguments.json {
        replay::write_json(file, &CaptureReport::new(arguments, &captured, &outcome))?;
    }
    if !on_stdout {
        show(arguments, &captured, &outcome);
    }
    Ok(if outcome.verifier.is_clean() {
        Ending::Clean
    } else {
        Ending::Violation
    })
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
struct CaptureReport<'a> {
    file: &'a Path,
    packets: u64,
    blocked: u64,
    rebuilt: u64,
    blocked_by: &'a BTreeMap<String, u64>,
    seen: u64,
    taken: u64,
    dropped: u64,
    lost: u64,
    verifier: VerifierEntry,
}

impl<'a> CaptureReport<'a> {
    fn new(arguments: &'a Capture, captured: &'a Captured, outcome: &Outcome) -> Self {
        Self {
            file: &arguments.write,
            packets: captured.packets,
            blocked: captured.blocked,
            rebuilt: captured.rebuilt,
            blocked_by: &captured.blocked_by,
            seen: captured.counts.seen.get(),
            taken: captured.counts.taken.get(),
            dropped: captured.counts.dropped.get(),
            lost: captured.lost,
            verifier: VerifierEntry::from(&outcome.verifier),
        }
    }
}

fn show(arguments: &Capture, captured: &Captured, outcome: &Outcome) {
    if let Some(discovery) = &outcome.discovery {
        let found: Vec<String> = discovery.found.iter().map(ToString::to_string).collect();
        say!("Local side, found in the traffic: {}", found.join(", "));
    }
    say!(
        "{}: {} packets, {} of them blocked, {} of these put together from what is known",
        arguments.write.display(),
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
    say!("{}", table::verifier(&outcome.verifier));
}
