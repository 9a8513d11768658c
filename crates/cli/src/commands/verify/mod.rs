//! `portcullis verify`: any WFP driver through its life, with traffic, under the verifier.

mod rules;
mod run;
mod scenario;
mod sweep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ksim::coverage::{Coverage, Lines};

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
    let lcov = arguments.coverage.as_deref();
    let measured = lcov.map(|lcov| Measured::new(arguments, file, lcov));
    let measured = measured.transpose()?;
    if arguments.fail_each {
        sweep::run(arguments, file, measured.as_ref())
    } else {
        run::run(arguments, file, measured.as_ref())
    }
}

/// Which lines of a driver run while it is exercised.
struct Measured<'a> {
    folder: Folder,
    coverage: Coverage,
    lcov: &'a Path,
}

impl<'a> Measured<'a> {
    /// Nothing ran yet.
    fn new(arguments: &Verify, file: &Path, lcov: &'a Path) -> Result<Self, BadInput> {
        let folder = Folder::new();
        let coverage = coverage::open(&folder.0, file, arguments.pdb.as_deref())?;
        coverage.prepare().map_err(BadInput::new)?;
        Ok(Self {
            folder,
            coverage,
            lcov,
        })
    }

    /// Where it is kept what ran.
    fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// What ran, which is written as well.
    fn finish(&self) -> Result<BTreeMap<String, Lines>, BadInput> {
        let files = self.coverage.files().map_err(BadInput::new)?;
        coverage::write(self.lcov, &files)?;
        Ok(files)
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
