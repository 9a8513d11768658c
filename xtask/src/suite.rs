//! Test programs: built by Cargo, run one by one, with what became of each test.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::driver;
use crate::shell::{cargo, run};
use crate::test_drivers;

/// Tells the build of the `portcullis` program, and the tests, which driver image to take.
pub(crate) const DRIVER_VARIABLE: &str = "PORTCULLIS_SYS";
/// Tells the conformance suite which image its driver is.
const CONFORMANCE_VARIABLE: &str = "PORTCULLIS_CONFORMANCE_SYS";
/// Tells the tests of the example drivers which folder their images are in.
const EXAMPLES_VARIABLE: &str = "PORTCULLIS_EXAMPLES";
/// Tells tests how the filter engine answers what documentation leaves open.
const OPTIONS_VARIABLE: &str = "PORTCULLIS_OPTIONS";

/// Tells tests which part of each sweep over failing calls they run.
const SWEEP_VARIABLE: &str = "PORTCULLIS_SWEEP";

/// A test program that says nothing for so long hangs: no test takes a third of it.
const SILENCE: Duration = Duration::from_mins(10);

/// The images that tests run.
#[derive(Debug)]
pub(crate) struct Images {
    /// portcullis.sys.
    pub(crate) driver: PathBuf,
    /// The driver of the conformance tests.
    pub(crate) conformance: PathBuf,
    /// The folder of the example drivers.
    pub(crate) examples: PathBuf,
    /// The folder of the drivers in C.
    pub(crate) test_drivers: PathBuf,
}

/// A program of tests.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) package: String,
    pub(crate) target: String,
    folder: PathBuf,
    executable: PathBuf,
}

/// What became of a program's tests: whether each passed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) tests: BTreeMap<String, bool>,
    /// Whether the program ended well.
    pub(crate) ended_well: bool,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

impl Outcome {
    pub(crate) fn passed(&self) -> usize {
        self.tests.values().filter(|passed| **passed).count()
    }
}

fn with_images<'c>(command: &'c mut Command, images: &Images) -> &'c mut Command {
    command
        .env(DRIVER_VARIABLE, &images.driver)
        .env(CONFORMANCE_VARIABLE, &images.conformance)
        .env(EXAMPLES_VARIABLE, &images.examples)
        .env(test_drivers::VARIABLE, &images.test_drivers)
}

/// Every package of the workspace but those of drivers.
fn host_packages(command: &mut Command) -> &mut Command {
    command.arg("--workspace");
    for package in driver::PACKAGES {
        command.args(["--exclude", package]);
    }
    command
}

/// Builds the test programs of `packages`; without any, those of all host packages.
pub(crate) fn build(images: &Images, packages: &[&str]) -> anyhow::Result<Vec<Program>> {
    let mut command = cargo();
    command.args([
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    if packages.is_empty() {
        host_packages(&mut command);
    }
    for package in packages {
        command.args(["--package", package]);
    }
    let mut child = with_images(&mut command, images)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut programs = Vec::new();
    for line in BufReader::new(output).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?)?;
        programs.extend(program_of(&message));
    }
    if !child.wait()?.success() {
        bail!("the tests do not build");
    }
    Ok(programs)
}

/// The program that a message of Cargo tells of.
fn program_of(message: &serde_json::Value) -> Option<Program> {
    let executable = message["executable"].as_str()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    let package = std::fs::read_to_string(folder.join("Cargo.toml")).ok()?;
    let name = package
        .lines()
        .find_map(|line| line.strip_prefix("name = "))?;
    let target = &message["target"];
    Some(Program {
        package: name.trim_matches('"').to_owned(),
        target: target["name"].as_str()?.to_owned(),
        folder: folder.to_path_buf(),
        executable: executable.into(),
    })
}

impl Program {
    /// Whether it is this target of this package.
    pub(crate) fn is(&self, package: &str, target: &str) -> bool {
        self.package == package && self.target == target
    }

    /// Runs it and shows what it prints; with a `filter`, the tests it names only.
    pub(crate) fn run(&self, images: &Images, filter: Option<&str>) -> anyhow::Result<Outcome> {
        println!("\n{} {}", self.package, self.target);
        let mut command = self.command(images);
        command.args(filter);
        follow(&mut command, SILENCE, |line| println!("{line}"))
    }

    /// Runs it under `options` with a part of its sweeps, such as `3/16`, and shows what it prints only if a test
    /// fails.
    pub(crate) fn run_under(
        &self,
        images: &Images,
        options: &str,
        sweep: &str,
    ) -> anyhow::Result<Outcome> {
        let mut command = self.command(images);
        command
            .env(OPTIONS_VARIABLE, options)
            .env(SWEEP_VARIABLE, sweep);
        let mut printed = String::new();
        let outcome = follow(&mut command, SILENCE, |line| {
            printed += line;
            printed.push('\n');
        })?;
        if !outcome.ended_well {
            println!(
                "{} {} under {options}\n{printed}",
                self.package, self.target
            );
        }
        Ok(outcome)
    }

    fn command(&self, images: &Images) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder);
        with_images(&mut command, images);
        command
    }
}

/// Runs a test program to its end and reads its lines; one that prints none for as long as `silence` is stopped.
fn follow(
    command: &mut Command,
    silence: Duration,
    mut show: impl FnMut(&str),
) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let output = child
        .stdout
        .take()
        .context("a test program has no output")?;
    let (read, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(output)
            .split(b'\n')
            .try_for_each(|line| read.send(line))
    });
    let mut outcome = Outcome::default();
    loop {
        let line = match lines.recv_timeout(silence) {
            Ok(line) => line?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let silence = silence.as_secs_f32();
                show(&format!(
                    "it is stopped: it has printed nothing for {silence} s"
                ));
                child.kill()?;
                break;
            }
        };
        let line = String::from_utf8_lossy(&line);
        show(&line);
        if let Some((name, passed)) = result_of(&line) {
            outcome.tests.insert(name.to_owned(), passed);
        }
    }
    outcome.ended_well = child.wait()?.success();
    outcome.elapsed = start.elapsed();
    Ok(outcome)
}

/// The test that a line tells of, and whether it passed.
fn result_of(line: &str) -> Option<(&str, bool)> {
    let (test, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = test.split(' ').next()?;
    match result.split([',', ' ']).next()? {
        "ok" => Some((name, true)),
        "FAILED" => Some((name, false)),
        _ => None,
    }
}

/// Runs the examples in the documentation.
pub(crate) fn examples(images: &Images, filter: Option<&str>) -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["test", "--doc"]);
    host_packages(&mut command);
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    run(with_images(&mut command, images))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::{follow, result_of};

    #[test]
    fn a_test_program_that_hangs_is_stopped_and_has_failed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo test quick ... ok; exec sleep 600"]);
        let (start, mut shown) = (Instant::now(), Vec::new());
        let outcome = follow(&mut command, Duration::from_millis(500), |line| {
            shown.push(line.to_owned());
        });
        let outcome = outcome.unwrap();
        assert!(start.elapsed() < Duration::from_mins(5));
        assert_eq!(outcome.passed(), 1);
        assert!(!outcome.ended_well);
        assert!(shown[1].contains("printed nothing for 0.5 s"), "{shown:?}");
    }

    #[test]
    fn lines_of_a_test_program_tell_what_became_of_tests() {
        let line = "test flows::flw_01_no_context ... ok";
        assert_eq!(result_of(line), Some(("flows::flw_01_no_context", true)));
        assert_eq!(result_of("test a - should panic ... ok"), Some(("a", true)));
        assert_eq!(result_of("test a ... FAILED"), Some(("a", false)));
        assert_eq!(result_of("test a ... ignored, no tool"), None);
        assert_eq!(result_of("test result: ok. 3 passed; 0 failed"), None);
    }
}
