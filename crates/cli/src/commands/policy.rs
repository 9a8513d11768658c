//! `portcullis policy`.

use std::collections::HashSet;
use std::io::IsTerminal as _;
use std::path::Path;

use portcullis_policy::{Compiled, Diagnostic, Interfaces, Options};
use serde::Serialize;

use super::{BadInput, Ending};
#[cfg(target_os = "linux")]
use crate::arguments::SimulatedInterface;
use crate::arguments::{NamedInterface, Policy};

/// Runs the command.
///
/// # Errors
/// An invalid policy, or a file that cannot be read or written.
pub fn run(command: &Policy) -> Result<Ending, BadInput> {
    match command {
        #[cfg(windows)]
        Policy::Set { file, events } => {
            super::device::set_policy(&compile(file, *events, of_machine(&[]))?)
        }
        #[cfg(windows)]
        Policy::Clear => super::device::clear_policy(),
        Policy::Check {
            file,
            interface,
            json,
        } => {
            // A policy that is of another machine is checked all the same.
            let interfaces = match of_machine(interface) {
                Interfaces::Named(named) if named.is_empty() => Interfaces::Unchecked,
                interfaces => interfaces,
            };
            check(file, interfaces, *json)
        }
        Policy::Compile {
            file,
            interface,
            output,
        } => {
            let compiled = compile(file, false, of_machine(interface))?;
            std::fs::write(output, &compiled.blob)
                .map_err(|error| BadInput::new(format!("{}: {error}", output.display())))?;
            say!(
                "{}: {}, {} bytes",
                output.display(),
                count(compiled.rule_names.len(), "rule"),
                compiled.blob.len()
            );
            Ok(Ending::Clean)
        }
    }
}

/// The interfaces that were named, else those of this machine if it is one with the driver.
fn of_machine(named: &[NamedInterface]) -> Interfaces {
    #[cfg(windows)]
    if named.is_empty() {
        return Interfaces::OfSystem(portcullis_win32::interface_luid);
    }
    let pair = |named: &NamedInterface| (named.name.clone(), named.luid);
    Interfaces::Named(named.iter().map(pair).collect())
}

/// Checks that no interface is named twice.
fn check_names(interfaces: &Interfaces) -> Result<(), BadInput> {
    let Interfaces::Named(named) = interfaces else {
        return Ok(());
    };
    let mut seen = HashSet::new();
    let twice = named.iter().find(|(name, _)| !seen.insert(name.as_str()));
    twice.map_or(Ok(()), |(name, _)| {
        Err(BadInput::new(format!(
            "--interface: \"{name}\" is named twice"
        )))
    })
}

/// So many of something, as one says it.
fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// What is said of a valid policy, for programs.
#[derive(Debug, Serialize)]
struct PolicyReport<'a> {
    rules: usize,
    /// Warnings, since it is valid.
    diagnostics: &'a [Diagnostic],
}

fn check(file: &Path, interfaces: Interfaces, json: bool) -> Result<Ending, BadInput> {
    let compiled = compile(file, false, interfaces)?;
    let rules = compiled.rule_names.len();
    if json {
        super::print_json(&PolicyReport {
            rules,
            diagnostics: &compiled.warnings,
        })?;
    } else {
        say!("{}: {}, no error", file.display(), count(rules, "rule"));
    }
    Ok(Ending::Clean)
}

fn read(file: &Path) -> Result<String, BadInput> {
    std::fs::read_to_string(file)
        .map_err(|error| BadInput::new(format!("{}: {error}", file.display())))
}

fn options(file: &Path, events_all: bool, interfaces: Interfaces) -> Options {
    Options {
        file_name: file.display().to_string(),
        events_all,
        interfaces,
    }
}

/// [`compile`] for a simulated host with these interfaces.
///
/// # Errors
/// As those of [`compile`].
#[cfg(target_os = "linux")]
pub(super) fn compile_for(
    file: &Path,
    events_all: bool,
    interfaces: &[SimulatedInterface],
) -> Result<Compiled, BadInput> {
    let named = crate::replay::luids(interfaces);
    compile(file, events_all, Interfaces::Named(named))
}

/// Compiles the policy in `file`, which may name these interfaces; its warnings go to standard error.
///
/// # Errors
/// An invalid policy, with every error in it, or a file that cannot be read.
pub fn compile(
    file: &Path,
    events_all: bool,
    interfaces: Interfaces,
) -> Result<Compiled, BadInput> {
    check_names(&interfaces)?;
    let text = read(file)?;
    match portcullis_policy::compile(&text, &options(file, events_all, interfaces)) {
        Ok(compiled) => {
            if !compiled.warnings.is_empty() {
                eprintln!("{}", render(&compiled.warnings, &text));
            }
            Ok(compiled)
        }
        Err(diagnostics) => {
            eprintln!("{}", render(&diagnostics, &text));
            if let Some(more) = diagnostics
                .len()
                .checked_sub(MOST_SHOWN)
                .filter(|more| *more > 0)
            {
                eprintln!("and {more} more");
            }
            let errors = diagnostics
                .iter()
                .filter(|found| found.severity == portcullis_policy::Severity::Error);
            Err(BadInput {
                message: format!("{}: {}", file.display(), count(errors.count(), "error")),
                diagnostics,
            })
        }
    }
}

/// The names of a policy's rules, if one is named.
///
/// # Errors
/// As those of [`compile`].
#[cfg(windows)]
pub(super) fn rule_names(file: Option<&Path>) -> Result<Vec<String>, BadInput> {
    let compiled = file
        .map(|file| compile(file, false, Interfaces::Unchecked))
        .transpose()?;
    Ok(compiled.map_or_else(Vec::new, |compiled| compiled.rule_names))
}

/// Diagnostics that are shown to people: a file that is no policy has one for each of its lines.
const MOST_SHOWN: usize = 20;

fn render(diagnostics: &[Diagnostic], text: &str) -> String {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let shown = &diagnostics[..diagnostics.len().min(MOST_SHOWN)];
    portcullis_policy::render(shown, text, color)
}
