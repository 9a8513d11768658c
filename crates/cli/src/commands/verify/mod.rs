//! `portcullis verify`: any WFP driver through its life, with traffic, under the verifier.

mod rules;
mod run;
mod scenario;
mod sweep;

use std::path::{Path, PathBuf};

use super::{BadInput, Ending, coverage};
use crate::arguments::Verify;

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, or is no driver that can be loaded.
pub fn run(arguments: &Verify) -> Result<Ending, BadInput> {
    let Some(file) = &arguments.file else {
        return rules::list(arguments.json);
    };
    let Some(lcov) = &arguments.coverage else {
        return exercise(arguments, file, None);
    };
    let folder = Folder::new();
    let coverage = coverage::open(&folder.0, file, arguments.pdb.as_deref())?;
    coverage.prepare().map_err(BadInput::new)?;
    let ending = exercise(arguments, file, Some(&folder.0))?;
    let files = coverage.files().map_err(BadInput::new)?;
    coverage::write(lcov, &files)?;
    if !arguments.json {
        say!("{}", coverage::table(&files).trim_end());
    }
    Ok(ending)
}

fn exercise(arguments: &Verify, file: &Path, coverage: Option<&Path>) -> Result<Ending, BadInput> {
    if arguments.fail_each {
        sweep::run(arguments, file, coverage)
    } else {
        run::run(arguments, file, coverage)
    }
}

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("portcullis-coverage-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
