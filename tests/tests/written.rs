//! What `portcullis replay --write` writes, read back packet for packet: recorded traffic through the real portcullis.sys.

mod captures;
mod kinds;
mod reader;
mod streams;
mod tshark;

use std::path::{Path, PathBuf};

use portcullis_cli::ask::Answers;
use portcullis_cli::live::CaptureOptions;
use portcullis_cli::replay::{Outcome, Plan, run};
use portcullis_proto::capture::StartCaptureRequest;
use portcullis_tests::capture::{Contents, contents};
use portcullis_tests::image;

use reader::{Frame, frames};

/// A replay, with the packets that went in and those that were written.
struct Replayed {
    outcome: Outcome,
    before: Vec<Frame>,
    after: Vec<Frame>,
    /// What the driver has captured, if it was to.
    captured: Option<Contents>,
    file: PathBuf,
}

/// One of the project's captures.
fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("captures")
        .join(name)
}

/// The captures beside the project, where they are.
fn all_shared() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures");
    let Ok(entries) = std::fs::read_dir(folder) else {
        println!("SKIPPED: the nDPI captures are not beside the project");
        return Vec::new();
    };
    let files = entries.map(|entry| entry.expect("the folder can be read").path());
    let is_capture = |file: &PathBuf| {
        file.extension()
            .is_some_and(|kind| kind == "pcap" || kind == "pcapng")
    };
    let mut captures: Vec<_> = files.filter(is_capture).collect();
    captures.sort();
    captures
}

/// How a capture is replayed, where that is not plainly.
#[derive(Clone, Copy, Default)]
struct How<'h> {
    /// What is answered when the driver asks.
    answers: &'h [&'h str],
    /// What the driver is to capture meanwhile.
    captures: Option<StartCaptureRequest>,
}

/// Replays a capture under a policy, for the test of this name.
fn replay(test: &str, capture: &Path, policy: &str, cpus: u32) -> Replayed {
    replay_with(test, capture, policy, cpus, How::default())
}

fn replay_with(test: &str, capture: &Path, policy: &str, cpus: u32, how: How<'_>) -> Replayed {
    let options = portcullis_policy::Options {
        file_name: "(test)".to_owned(),
        events_all: true,
        ..portcullis_policy::Options::default()
    };
    let compiled = portcullis_policy::compile(policy, &options)
        .unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let folder = std::env::temp_dir().join(format!("portcullis-written-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let name = capture.file_name().expect("a name").to_string_lossy();
    let file = folder.join(format!("{test}-{name}-{cpus}.written"));
    let of_driver = file.with_extension("captured");
    let script = how
        .answers
        .iter()
        .map(|answer| answer.parse().expect("an answer"));
    let plan = Plan {
        captures: vec![capture.to_path_buf()],
        policy: Some(compiled.blob),
        local: Vec::new(),
        processes: Vec::new(),
        interfaces: Vec::new(),
        driver: image::portcullis().to_vec(),
        pdb: None,
        cpus,
        write: Some(file.clone()),
        annotate: None,
        rules: compiled.rule_names,
        capture: how.captures.map(|request| CaptureOptions {
            file: of_driver.clone(),
            request,
            count: None,
            seconds: None,
        }),
        answers: Answers {
            script: script.collect(),
            terminal: false,
        },
    };
    let outcome = run(&plan, &|_, _| ()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let found = &outcome.verifier;
    assert!(
        found.is_clean(),
        "{name}: {:?} {:?}",
        found.violations,
        found.leaks
    );
    Replayed {
        outcome,
        before: frames(capture),
        after: frames(&file),
        captured: how.captures.map(|_| contents(&of_driver)),
        file,
    }
}
