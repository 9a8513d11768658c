//! Running the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit status.
    pub(crate) status: i32,
    /// Standard output.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) errors: String,
}

/// Runs the program with `arguments`.
pub(crate) fn portcullis<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("the program was built");
    Ran {
        status: output
            .status
            .code()
            .unwrap_or_else(|| panic!("the program was ended by a signal: {output:?}")),
        output: String::from_utf8(output.stdout).expect("the program prints UTF-8"),
        errors: String::from_utf8(output.stderr).expect("the program prints UTF-8"),
    }
}

/// Replays `capture` with `options` and returns the report, which is to be clean.
pub(crate) fn report(capture: &str, options: &[&str]) -> Value {
    let ran = portcullis(&[&["replay", capture, "--json", "-"], options].concat());
    assert_eq!((ran.status, ran.errors.as_str()), (0, ""), "{options:?}");
    serde_json::from_str(&ran.output).expect("the report is JSON and nothing else")
}

/// What the program printed, which is to be JSON and nothing else.
pub(crate) fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON: {error}\n{text}"))
}

/// The number right before `what` in `text`.
pub(crate) fn number_before(text: &str, what: &str) -> u64 {
    let (before, _) = text
        .split_once(what)
        .unwrap_or_else(|| panic!("no \"{what}\" in {text}"));
    let word = before.split_whitespace().next_back().unwrap_or_default();
    word.parse()
        .unwrap_or_else(|_| panic!("no number before \"{what}\" in {text}"))
}

fn project(path: &str) -> String {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    project.join(path).display().to_string()
}

/// One of the project's captures.
pub(crate) fn capture(name: &str) -> String {
    project(&format!("tests/captures/{name}"))
}

/// The example policy.
pub(crate) fn example_policy() -> String {
    example("policy.toml")
}

/// One of the example policies.
pub(crate) fn example(name: &str) -> String {
    project(&format!("examples/{name}"))
}

/// A place for a file of a test's own.
pub(crate) fn scratch(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("program");
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    folder.join(name).display().to_string()
}

/// A file of a test's own with these bytes.
pub(crate) fn scratch_file(name: &str, bytes: &[u8]) -> String {
    let file = scratch(name);
    std::fs::write(&file, bytes).expect("the file can be written");
    file
}

/// The driver in the program.
pub(crate) fn driver() -> Vec<u8> {
    portcullis_cli::simulation::driver_image(None)
        .expect("cargo xtask test builds the driver first")
}

/// The driver with another function in the place of the one that frees pool: with one that does nothing it leaks.
pub(crate) fn driver_that_frees_with(function: &str, name: &str) -> String {
    let mut image = driver();
    let frees = b"ExFreePoolWithTag\0";
    let places: Vec<usize> = (0..image.len())
        .filter(|&at| image[at..].starts_with(frees))
        .collect();
    assert_eq!(places.len(), 1, "the import's name is in the image once");
    let room = &mut image[places[0]..places[0] + frees.len()];
    room.fill(0);
    room[..function.len()].copy_from_slice(function.as_bytes());
    scratch_file(name, &image)
}
