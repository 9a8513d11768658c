//! The commands, one file each.

pub mod image;
pub mod policy;
pub mod replay;
pub mod verify;

use std::process::ExitCode;

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
