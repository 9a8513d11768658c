//! The files that a command is to write, looked at before it does anything: a replay may take long, and what it reads is not to be
//! overwritten.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::BadInput;
use crate::arguments::Command;

/// Checks that each file that the command is to write can be written, and is neither read nor written otherwise.
///
/// # Errors
/// The file, and why not.
pub fn check(command: &Command) -> Result<(), BadInput> {
    let read = command.reads();
    let read = read.into_iter().filter(|file| file.exists());
    let read: Vec<PathBuf> = read.filter_map(place).collect();
    let mut before: Vec<(&str, PathBuf)> = Vec::new();
    for (option, file) in command.writes() {
        let name = file.display();
        let writable = can_be_written(file);
        writable.map_err(|error| BadInput::new(format!("{name}: {error}")))?;
        let Some(place) = place(file) else { continue };
        if read.contains(&place) {
            return Err(BadInput::new(format!(
                "{name}: {option} would overwrite it, and it is read"
            )));
        }
        if let Some((other, _)) = before.iter().find(|(_, taken)| *taken == place) {
            return Err(BadInput::new(format!(
                "{name}: {other} and {option} would both write it"
            )));
        }
        before.push((option, place));
    }
    Ok(())
}

/// The same for all names of a file, also of one that is not there yet; `None` of what is no file, such as a device or a pipe.
fn place(file: &Path) -> Option<PathBuf> {
    if let Ok(known) = file.metadata() {
        return file.canonicalize().ok().filter(|_| known.is_file());
    }
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder
        .unwrap_or_else(|| Path::new("."))
        .canonicalize()
        .ok()?;
    Some(folder.join(file.file_name()?))
}

/// Opens the file for writing, and leaves it as it was. A pipe is not touched: its reader would take that for its end.
fn can_be_written(file: &Path) -> std::io::Result<()> {
    match file.metadata() {
        Ok(known) if known.is_file() || known.is_dir() => {
            OpenOptions::new().append(true).open(file).map(drop)
        }
        Ok(_) => Ok(()),
        Err(_) => {
            File::create_new(file)?;
            std::fs::remove_file(file)
        }
    }
}
