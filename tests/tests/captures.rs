//! The nDPI captures through the real portcullis.sys: the same flows, packet counts and host names as nDPI finds.
//!
//! Every difference has an explanation in [`explained`], and every explanation a difference, as many times as it says.
//! `docs/captures.md` tells more. The captures are no part of the project; without them the test is skipped.

mod compare;
mod expected;
mod explained;
mod found;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use compare::{Difference, Score};
use explained::{EXPLANATIONS, explanation};

/// Captures in the folder. With more or fewer the explanations would not add up.
const CAPTURES: usize = 126;

/// Where the captures are: beside the project.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures")
}

/// The captures, the largest first, so that no processor is left with one at the end.
fn captures() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder()) else {
        return Vec::new();
    };
    let files = entries.map(|entry| entry.expect("the folder can be read").path());
    let is_capture = |file: &PathBuf| expected::file_of(file).exists();
    let mut captures: Vec<PathBuf> = files.filter(is_capture).collect();
    captures.sort_by_key(|file| {
        (
            std::cmp::Reverse(file.metadata().map_or(0, |about| about.len())),
            file.clone(),
        )
    });
    captures
}

struct Compared {
    capture: String,
    score: Score,
    differences: Vec<Difference>,
}

fn compare_one(capture: &Path, policy: &[u8]) -> Compared {
    let name = capture
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let (score, differences) = compare::compare(
        &name,
        &expected::read(capture),
        found::replay(capture, policy),
        &found::first_segments(capture),
    );
    Compared {
        capture: name,
        score,
        differences,
    }
}

/// Compares all captures, as many at a time as there are processors, each in a kernel of its own.
fn compare_all(captures: &[PathBuf]) -> Vec<Compared> {
    let options = portcullis_policy::Options {
        file_name: "(test)".to_owned(),
        events_all: true,
        ..portcullis_policy::Options::default()
    };
    let policy = portcullis_policy::compile("default = \"permit\"\n", &options)
        .expect("a valid policy")
        .blob;
    let next = AtomicUsize::new(0);
    let compared = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(capture) = captures.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = compare_one(capture, &policy);
                    compared.lock().expect("nobody panics with it").push(one);
                }
            });
        }
    });
    let mut compared = compared.into_inner().expect("all threads ended well");
    compared.sort_by(|one, other| one.capture.cmp(&other.capture));
    compared
}

#[test]
fn the_ndpi_captures_have_the_flows_packets_and_hosts_that_ndpi_finds() {
    let captures = captures();
    if captures.is_empty() {
        println!("SKIPPED: the nDPI captures are not beside the project");
        return;
    }
    assert_eq!(
        captures.len(),
        CAPTURES,
        "captures in {}",
        folder().display()
    );
    let mut total = Score::default();
    let mut unexplained = Vec::new();
    let mut times = [0; EXPLANATIONS.len()];
    for one in compare_all(&captures) {
        let mut reasons = Vec::new();
        for difference in &one.differences {
            match explanation(difference) {
                Some(index) => {
                    times[index] += 1;
                    reasons.push(EXPLANATIONS[index].name);
                }
                None => unexplained.push(difference.to_string()),
            }
        }
        reasons.sort_unstable();
        reasons.dedup();
        println!("{:<45} {} {}", one.capture, one.score, reasons.join("; "));
        total.add(one.score);
    }
    println!("{:<45} {total}", format!("{CAPTURES} captures"));
    for (explanation, times) in EXPLANATIONS.iter().zip(times) {
        println!("{times:>4} × {}: {}", explanation.name, explanation.reason);
    }
    assert!(
        unexplained.is_empty(),
        "differences without an explanation:\n{}",
        unexplained.join("\n")
    );
    for (explanation, times) in EXPLANATIONS.iter().zip(times) {
        assert_eq!(
            times, explanation.times,
            "how often \"{}\" explains a difference",
            explanation.name
        );
    }
}
