//! `portcullis verify`: any WFP driver through its life, with traffic, under the verifier.

mod rules;
mod run;
mod scenario;
mod sweep;

use super::{BadInput, Ending};
use crate::arguments::Verify;

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, or is no driver that can be loaded.
pub fn run(arguments: &Verify) -> Result<Ending, BadInput> {
    match &arguments.file {
        None => rules::list(arguments.json),
        Some(file) if arguments.fail_each => sweep::run(arguments, file),
        Some(file) => run::run(arguments, file),
    }
}
