//! `portcullis policy`.

use std::io::IsTerminal as _;
use std::path::Path;

use portcullis_policy::{Compiled, Diagnostic, Options};

use super::{BadInput, Ending};
use crate::arguments::Policy;

/// Runs the command.
///
/// # Errors
/// An invalid policy, or a file that cannot be read or written.
pub fn run(command: &Policy) -> Result<Ending, BadInput> {
    match command {
        #[cfg(windows)]
        Policy::Set { file, events } => super::device::set_policy(&compile(file, *events)?),
        #[cfg(windows)]
        Policy::Clear => super::device::clear_policy(),
        Policy::Check { file, json } => check(file, *json),
        Policy::Compile { file, output } => {
            let compiled = compile(file, false)?;
            std::fs::write(output, &compiled.blob)
                .map_err(|error| BadInput::new(format!("{}: {error}", output.display())))?;
            say!(
                "{}: {} rules, {} bytes",
                output.display(),
                compiled.rule_names.len(),
                compiled.blob.len()
            );
            Ok(Ending::Clean)
        }
    }
}

fn check(file: &Path, json: bool) -> Result<Ending, BadInput> {
    if !json {
        let compiled = compile(file, false)?;
        say!(
            "{}: {} rules, no error",
            file.display(),
            compiled.rule_names.len()
        );
        return Ok(Ending::Clean);
    }
    let text = read(file)?;
    let result = portcullis_policy::compile(&text, &options(file, false));
    let (diagnostics, valid) = match result {
        Ok(compiled) => (compiled.warnings, true),
        Err(diagnostics) => (diagnostics, false),
    };
    say!(
        "{}",
        serde_json::to_string_pretty(&diagnostics).map_err(BadInput::new)?
    );
    if valid {
        Ok(Ending::Clean)
    } else {
        Err(BadInput::new(format!(
            "{}: not a valid policy",
            file.display()
        )))
    }
}

fn read(file: &Path) -> Result<String, BadInput> {
    std::fs::read_to_string(file)
        .map_err(|error| BadInput::new(format!("{}: {error}", file.display())))
}

fn options(file: &Path, events_all: bool) -> Options {
    Options {
        file_name: file.display().to_string(),
        events_all,
    }
}

/// Compiles the policy in `file`; its warnings go to standard error.
///
/// # Errors
/// An invalid policy, with every error in it, or a file that cannot be read.
pub fn compile(file: &Path, events_all: bool) -> Result<Compiled, BadInput> {
    let text = read(file)?;
    match portcullis_policy::compile(&text, &options(file, events_all)) {
        Ok(compiled) => {
            if !compiled.warnings.is_empty() {
                eprintln!("{}", render(&compiled.warnings, &text));
            }
            Ok(compiled)
        }
        Err(diagnostics) => {
            eprintln!("{}", render(&diagnostics, &text));
            let errors = diagnostics
                .iter()
                .filter(|found| found.severity == portcullis_policy::Severity::Error);
            Err(BadInput::new(format!(
                "{}: {} errors",
                file.display(),
                errors.count()
            )))
        }
    }
}

/// The names of a policy's rules, if one is named.
///
/// # Errors
/// As those of [`compile`].
#[cfg(windows)]
pub(super) fn rule_names(file: Option<&Path>) -> Result<Vec<String>, BadInput> {
    let compiled = file.map(|file| compile(file, false)).transpose()?;
    Ok(compiled.map_or_else(Vec::new, |compiled| compiled.rule_names))
}

fn render(diagnostics: &[Diagnostic], text: &str) -> String {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    portcullis_policy::render(diagnostics, text, color)
}
