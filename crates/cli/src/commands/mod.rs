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
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Clean => Self::SUCCESS,
            Ending::Violation => Self::from(2),
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
#[error("{0}")]
pub struct BadInput(String);

impl BadInput {
    /// Bad input that `error` tells about.
    pub fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Writes a report for programs; "-" is standard output.
fn write_json(file: &Path, report: &impl serde::Serialize) -> Result<(), BadInput> {
    let text = serde_json::to_string_pretty(report).map_err(BadInput::new)?;
    if file == Path::new("-") {
        say!("{text}");
        return Ok(());
    }
    std::fs::write(file, text + "\n")
        .map_err(|error| BadInput::new(format!("{}: {error}", file.display())))
}
