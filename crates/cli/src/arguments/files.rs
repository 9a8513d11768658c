//! The files that a command reads and writes.

use std::path::{Path, PathBuf};

use super::{Command, Policy, STANDARD_OUTPUT};
#[cfg(target_os = "linux")]
use super::{Coverage, ReplayOptions};

impl Command {
    /// Where a report for programs goes, if one is wanted: a file or [`STANDARD_OUTPUT`].
    #[must_use]
    pub fn json(&self) -> Option<&Path> {
        let printed = match self {
            #[cfg(target_os = "linux")]
            Self::Replay(replay) => return replay.options.json.as_deref(),
            Self::Capture(capture) => return capture.json.as_deref(),
            #[cfg(target_os = "linux")]
            Self::Ask(ask) => return ask.options.json.as_deref(),
            #[cfg(target_os = "linux")]
            Self::Verify(verify) => verify.json,
            Self::Image(image) => image.json,
            Self::Policy(Policy::Check { json, .. }) => *json,
            #[cfg(windows)]
            Self::Status { json } | Self::Events { json, .. } => *json,
            _ => false,
        };
        printed.then(|| Path::new(STANDARD_OUTPUT))
    }

    /// The files that it reads.
    #[must_use]
    pub fn reads(&self) -> Vec<&Path> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Replay(replay) => {
                let options = [&replay.policy, &replay.options.driver];
                paths(&replay.captures, options)
            }
            #[cfg(target_os = "linux")]
            Self::Capture(capture) => {
                let options = [&capture.policy, &capture.simulated.driver];
                paths(&capture.simulated.replay, options)
            }
            #[cfg(not(target_os = "linux"))]
            Self::Capture(capture) => paths(&[], [&capture.policy]),
            #[cfg(target_os = "linux")]
            Self::Ask(ask) => {
                let options = [&ask.policy, &ask.answers, &ask.options.driver];
                paths(&ask.captures, options)
            }
            Self::Policy(Policy::Compile { file, .. }) => vec![file],
            #[cfg(target_os = "linux")]
            Self::Verify(verify) => paths(&[], [&verify.file, &verify.policy, &verify.pdb]),
            #[cfg(target_os = "linux")]
            Self::Coverage(Coverage::Report(report)) => {
                let target = &report.target;
                paths(std::slice::from_ref(&target.file), [&target.pdb])
            }
            _ => Vec::new(),
        }
    }

    /// The files that it writes, each with its option.
    #[must_use]
    pub fn writes(&self) -> Vec<(&'static str, &Path)> {
        let mut written = match self {
            #[cfg(target_os = "linux")]
            Self::Replay(replay) => replay.options.writes(),
            #[cfg(target_os = "linux")]
            Self::Ask(ask) => ask.options.writes(),
            Self::Capture(capture) => vec![("--write", capture.write.as_path())],
            Self::Policy(Policy::Compile { output, .. }) => vec![("--output", output.as_path())],
            #[cfg(target_os = "linux")]
            Self::Verify(verify) => option("--coverage", verify.coverage.as_ref()),
            #[cfg(target_os = "linux")]
            Self::Coverage(Coverage::Report(report)) => option("--lcov", report.lcov.as_ref()),
            _ => Vec::new(),
        };
        let json = self
            .json()
            .filter(|file| *file != Path::new(STANDARD_OUTPUT));
        written.extend(json.map(|file| ("--json", file)));
        written
    }
}

#[cfg(target_os = "linux")]
impl ReplayOptions {
    fn writes(&self) -> Vec<(&'static str, &Path)> {
        let mut written = option("--write", self.write.as_ref());
        written.extend(option("--annotate", self.annotate.as_ref()));
        written
    }
}

fn paths<'a, const N: usize>(
    files: &'a [PathBuf],
    more: [&'a Option<PathBuf>; N],
) -> Vec<&'a Path> {
    let more = more.into_iter().flatten();
    files.iter().chain(more).map(PathBuf::as_path).collect()
}

#[cfg(target_os = "linux")]
fn option<'a>(option: &'static str, file: Option<&'a PathBuf>) -> Vec<(&'static str, &'a Path)> {
    file.map(|file| (option, file.as_path()))
        .into_iter()
        .collect()
}
