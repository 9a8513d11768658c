//! `portcullis replay`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::{BadInput, Ending, policy, write_json};
use crate::arguments::{Replay, ReplayOptions, STANDARD_OUTPUT};
use crate::ask::Answers;
use crate::replay::{Outcome, Plan, ReplayError, run as replay};
use crate::report::json::ReplayReport;
use crate::report::{events, table};
use crate::simulation;

/// A policy that permits everything, for a replay without one.
const PERMIT_ALL: &str = "default = \"permit\"\n";

/// Runs the command.
///
/// # Errors
/// A capture, policy, driver or option that is not usable. A driver that stops the machine is a violation.
pub fn run(arguments: &Replay) -> Result<Ending, BadInput> {
    let answers = Answers {
        script: arguments.answer.clone(),
        terminal: false,
    };
    let policy = arguments.policy.as_deref();
    run_with(&arguments.captures, policy, &arguments.options, answers)
}

/// Replays captures; `answers` says who answers the driver's questions.
pub(super) fn run_with(
    captures: &[PathBuf],
    policy: Option<&Path>,
    arguments: &ReplayOptions,
    answers: Answers,
) -> Result<Ending, BadInput> {
    if !answers.is_empty() && arguments.cpus != 1 {
        return Err(BadInput::new(
            "questions are answered on one processor: leave --cpus out",
        ));
    }
    let compiled = match policy {
        Some(file) => policy::compile_for(file, true, &arguments.interface)?,
        None => permit_all()?,
    };
    answers.check(&compiled.rule_names).map_err(BadInput::new)?;
    let plan = Plan {
        captures: captures.to_vec(),
        policy: Some(compiled.blob),
        local: arguments.local.clone(),
        processes: arguments.process.clone(),
        interfaces: arguments.interface.clone(),
        driver: simulation::driver_image(arguments.driver.as_deref()).map_err(BadInput::new)?,
        pdb: simulation::program_database(arguments.driver.as_deref()).map_err(BadInput::new)?,
        cpus: arguments.cpus,
        write: arguments.write.clone(),
        annotate: arguments.annotate.clone(),
        rules: compiled.rule_names.clone(),
        capture: None,
        answers,
    };
    let bar = progress_bar();
    let outcome = replay(&plan, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let json = arguments.json.as_deref();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return failed(&error, json),
    };
    let (rules, warnings) = (&compiled.rule_names, &compiled.warnings);
    if let Some(file) = json {
        let report = ReplayReport::new(&outcome, rules, warnings, arguments.events);
        write_json(file, &report)?;
    }
    if json != Some(Path::new(STANDARD_OUTPUT)) {
        show(&outcome, rules, arguments.events);
    }
    Ok(ending(&outcome))
}

/// How a replay ends that did not come to its end: a driver that stops the machine is a violation.
pub(super) fn failed(error: &ReplayError, json: Option<&Path>) -> Result<Ending, BadInput> {
    let told = BadInput::new(error);
    if error.stopped_the_machine() {
        told.tell(json);
        return Ok(Ending::Violation);
    }
    Err(told)
}

/// How a replay ends that came to its end.
pub(super) const fn ending(outcome: &Outcome) -> Ending {
    if outcome.verifier.is_clean() {
        Ending::Clean
    } else {
        Ending::Violation
    }
}

pub(super) fn permit_all() -> Result<portcullis_policy::Compiled, BadInput> {
    let options = portcullis_policy::Options {
        file_name: "(built in)".to_owned(),
        events_all: true,
        ..portcullis_policy::Options::default()
    };
    portcullis_policy::compile(PERMIT_ALL, &options)
        .map_err(|_| BadInput::new("the built-in policy is not valid"))
}

pub(super) fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} packets, {per_sec}")
    {
        bar.set_style(style);
    }
    bar
}

/// Tells how the local side was found, if it was not given.
pub(super) fn show_local_side(outcome: &Outcome) {
    if let Some(discovery) = &outcome.discovery {
        let found: Vec<String> = discovery.found.iter().map(ToString::to_string).collect();
        let found = if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(", ")
        };
        say!("Local side, found in the traffic: {found}");
    }
}

fn show(outcome: &Outcome, rules: &[String], with_events: bool) {
    show_local_side(outcome);
    if with_events {
        for event in &outcome.events {
            say!("{}", events::line(event, rules));
        }
    }
    say!("{}", table::flows(&outcome.flows, rules));
    say!("{}", table::callouts(&outcome.callouts));
    let others = match outcome.of_other_hosts {
        0 => String::new(),
        count => format!(", {count} of other hosts"),
    };
    say!(
        "{} packets in {:.3} s: {} passed, {} blocked, {} without IP{others}",
        outcome.frames,
        outcome.duration.as_secs_f64(),
        outcome.passed,
        outcome.blocked(),
        outcome.not_ip
    );
    let counters = table::counters(outcome);
    if !counters.is_empty() {
        say!("The driver's counters:\n{}", counters.trim_end());
    }
    say!("{}", table::verifier(&outcome.verifier));
}
