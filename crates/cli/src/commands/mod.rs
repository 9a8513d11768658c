//! The commands, one file each.

/// Prints a line to standard output. That its reader has gone, as `head` does, is no error.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::commands::print(format_args!($($text)*))
    };
}

pub mod ask;
pub mod capture;
#[cfg(target_os = "linux")]
pub mod coverage;
#[cfg(windows)]
pub mod device;
pub mod image;
pub mod outputs;
pub mod policy;
pub mod proxy;
#[cfg(target_os = "linux")]
mod proxy_demo;
#[cfg(target_os = "linux")]
pub mod replay;
#[cfg(target_os = "linux")]
pub mod verify;

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use portcullis_policy::Diagnostic;

use crate::arguments::STANDARD_OUTPUT;
use crate::report::json::ErrorReport;

/// What [`say`] does. Any other failure ends the program: a report that is cut short must not look whole.
fn print(text: fmt::Arguments<'_>) {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error: standard output: {error}");
            std::process::exit(1);
        }
        Ok(()) | Err(_) => {}
    }
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All is well.
    Clean,
    /// The verifier found a violation or a leak.
    Violation,
    /// The input is bad, which the report for programs tells of as well.
    Refused,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Clean => Self::SUCCESS,
            Ending::Violation => Self::from(2),
            Ending::Refused => Self::FAILURE,
        }
    }
}

/// What a command says that needs the driver on this machine, where there cannot be one.
#[cfg(not(windows))]
fn no_driver(instead: &str) -> BadInput {
    BadInput::new(format!(
        "the driver runs on Windows, and this is another system: {instead}"
    ))
}

/// Bad input, in words; the exit status is 1.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BadInput {
    message: String,
    /// What is wrong with the policy, where that is why.
    diagnostics: Vec<Diagnostic>,
}

impl BadInput {
    /// Bad input that `error` tells about.
    pub fn new(error: impl fmt::Display) -> Self {
        Self {
            message: error.to_string(),
            diagnostics: Vec::new(),
        }
    }

    /// Says it: to people, and with `--json` to programs, where the report would be.
    pub fn tell(&self, json: Option<&Path>) {
        eprintln!("error: {self}");
        let Some(place) = json else { return };
        let report = ErrorReport {
            error: self.message.clone(),
            diagnostics: &self.diagnostics,
        };
        // Where the report cannot be written, neither can this.
        drop(write_json(place, &report));
    }
}

/// Writes a report for programs; "-" is standard output.
fn write_json(file: &Path, report: &impl serde::Serialize) -> Result<(), BadInput> {
    let text = serde_json::to_string_pretty(report).map_err(BadInput::new)?;
    if file == Path::new(STANDARD_OUTPUT) {
        say!("{text}");
        return Ok(());
    }
    std::fs::write(file, text + "\n")
        .map_err(|error| BadInput::new(format!("{}: {error}", file.display())))
}

/// Prints a report for programs.
fn print_json(report: &impl serde::Serialize) -> Result<(), BadInput> {
    write_json(Path::new(STANDARD_OUTPUT), report)
}
