//! Every call that can fail is made to fail, each in a process of its own.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::Measured;
use super::run::{FaultsEntry, seed};
use crate::arguments::{PoolGuard, Verify};
use crate::commands::coverage::{self, CoverageEntry};
use crate::commands::{BadInput, Ending, print_json};

/// A run that takes longer hangs.
const LONGEST: Duration = Duration::from_mins(2);
/// How often it is looked whether a run has ended.
const INTERVAL: Duration = Duration::from_millis(2);

/// What is read of a run's JSON.
#[derive(Debug, Default, Deserialize)]
struct RunEntry {
    #[serde(flatten)]
    faults: FaultsEntry,
    #[serde(default)]
    verifier: FindingsEntry,
    bugcheck: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct FindingsEntry {
    violations: Vec<FindingEntry>,
    leaks: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct FindingEntry {
    rule: String,
    message: String,
}

impl RunEntry {
    /// What was found, in words; `None` if nothing.
    fn finding(&self) -> Option<String> {
        let violation = self.verifier.violations.first();
        violation
            .map(|violation| format!("{}: {}", violation.rule, violation.message))
            .or_else(|| self.bugcheck.clone())
            .or_else(|| {
                let leaks = self.verifier.leaks.len();
                (leaks > 0).then(|| format!("{leaks} leaks"))
            })
    }
}

/// A call whose failure the driver does not survive.
#[derive(Debug, Serialize)]
struct Failure {
    nth: u64,
    call: Option<String>,
    finding: String,
    /// The shortest command that repeats it.
    command: String,
}

/// The sweep, for JSON.
#[derive(Debug, Serialize)]
struct Sweep<'a> {
    calls: u64,
    clean: u64,
    failures: &'a [Failure],
    #[serde(skip_serializing_if = "Option::is_none")]
    coverage: Option<Vec<CoverageEntry<'a>>>,
}

/// Makes every fallible call of the scenario fail in turn.
pub(super) fn run(
    arguments: &Verify,
    file: &Path,
    measured: Option<&Measured<'_>>,
) -> Result<Ending, BadInput> {
    let program = std::env::current_exe().map_err(BadInput::new)?;
    let child = |nth| Run {
        program: &program,
        arguments,
        file,
        coverage: measured.map(Measured::folder),
        nth,
    };
    let plain = child(0).await_end().map_err(BadInput::new)?;
    if let Some(finding) = plain.finding() {
        return Err(BadInput::new(format!(
            "the scenario is not clean to begin with: {finding}"
        )));
    }
    let calls = plain.faults.fallible_calls;
    let (next, failures) = (AtomicU64::new(1), Mutex::new(Vec::new()));
    let bar = progress_bar(calls);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let nth = next.fetch_add(1, Ordering::Relaxed)
                    && nth <= calls
                {
                    if let Some(failure) = child(nth).failure() {
                        bar.suspend(|| eprintln!("{failure}"));
                        lock(&failures).push(failure);
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut failures = std::mem::take(&mut *lock(&failures));
    failures.sort_by_key(|failure| failure.nth);
    let clean = calls - u64::try_from(failures.len()).unwrap_or(calls);
    let covered = measured.map(Measured::finish).transpose()?;
    if arguments.json {
        print_json(&Sweep {
            calls,
            clean,
            failures: &failures,
            coverage: covered.as_ref().map(coverage::entries),
        })?;
    } else {
        for failure in &failures {
            say!("{failure}");
        }
        say!("{calls} calls, {clean} clean");
        if let Some(files) = &covered {
            say!("{}", coverage::table(files).trim_end());
        }
    }
    Ok(if failures.is_empty() {
        Ending::Clean
    } else {
        Ending::Violation
    })
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let call = self.call.as_deref().unwrap_or("a call");
        write!(
            f,
            "{}: {call} failed: {}\n  {}",
            self.nth, self.finding, self.command
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn progress_bar(calls: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(calls);
    if let Ok(style) =
        ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} calls, {eta} left")
    {
        bar.set_style(style);
    }
    bar
}

/// A run of the scenario in which the `nth` fallible call fails; 0 is none.
#[derive(Debug, Clone, Copy)]
struct Run<'a> {
    program: &'a Path,
    arguments: &'a Verify,
    file: &'a Path,
    coverage: Option<&'a Path>,
    nth: u64,
}

impl Run<'_> {
    /// The arguments of its command.
    fn command(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let option = |name: &str, value: String| [name.to_owned(), value];
        let mut words = vec!["verify".to_owned(), path(self.file)];
        words.extend(option("--fail-nth", self.nth.to_string()));
        words.extend(option(
            "--seed",
            seed(self.arguments).unwrap_or(0).to_string(),
        ));
        if self.arguments.cpus != 1 {
            words.extend(option("--cpus", self.arguments.cpus.to_string()));
        }
        if self.arguments.pool != PoolGuard::End {
            words.extend(option("--pool", self.arguments.pool.name().to_owned()));
        }
        if let Some(policy) = &self.arguments.policy {
            words.extend(option("--policy", path(policy)));
        }
        for interface in &self.arguments.interface {
            words.extend(option("--interface", interface.to_string()));
        }
        if let Some(pdb) = &self.arguments.pdb {
            words.extend(option("--pdb", path(pdb)));
        }
        words
    }

    /// What its failure leads to, if that is anything bad.
    fn failure(&self) -> Option<Failure> {
        let (call, finding) = match self.await_end() {
            Ok(run) => (run.faults.failed_call.clone(), run.finding()?),
            Err(error) => (None, error),
        };
        let words = self.command();
        let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        Some(Failure {
            nth: self.nth,
            call,
            finding,
            command: format!("portcullis {}", quoted.join(" ")),
        })
    }

    /// Runs it to its end; in words why it has none.
    fn await_end(&self) -> Result<RunEntry, String> {
        let output = Output::new();
        let mut command = Command::new(self.program);
        if let Some(folder) = self.coverage {
            command.env(ksim::coverage::VARIABLE, folder);
        }
        let mut child = command
            .args(self.command())
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(output.writer()?)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        if !ends_in_time(&mut child)? {
            return Err(format!("hangs: it did not end in {} s", LONGEST.as_secs()));
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        if !matches!(status.code(), Some(0..=2)) {
            return Err(format!("the run ended with {status}"));
        }
        let text = output.read()?;
        let run: RunEntry =
            serde_json::from_str(&text).map_err(|error| format!("the run's report: {error}"))?;
        run.error.clone().map_or(Ok(run), Err)
    }
}

/// Waits for a process for as long as a run may take, then ends it.
fn ends_in_time(child: &mut Child) -> Result<bool, String> {
    let begun = Instant::now();
    loop {
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        if ended.is_some() {
            return Ok(true);
        }
        if begun.elapsed() > LONGEST {
            drop(child.kill());
            drop(child.wait());
            return Ok(false);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// A file for what a run prints: a pipe that nobody reads would fill up.
struct Output(PathBuf);

impl Output {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-verify-{}-{number}.json", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn writer(&self) -> Result<std::fs::File, String> {
        std::fs::File::create(&self.0).map_err(|error| format!("{}: {error}", self.0.display()))
    }

    fn read(&self) -> Result<String, String> {
        std::fs::read_to_string(&self.0).map_err(|error| format!("{}: {error}", self.0.display()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
