//! The programs that run on this machine: `portcullis` and what is shown and measured with it.

use std::path::PathBuf;

use crate::conformance::{Breadth, Conformance};
use crate::driver::{self, Arch};
use crate::setup;
use crate::shell::{cargo, path, run, step};
use crate::suite::{self, DRIVER_VARIABLE, Images};

/// Builds the driver and the program that holds it; returns the program.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let image = driver::build(&setup::install()?, Arch::X86_64)?;
    step("building the portcullis program");
    run(cargo()
        .args(["build", "--release", "--package", "portcullis-cli"])
        .env(DRIVER_VARIABLE, &image))?;
    Ok(path("target/release/portcullis"))
}

/// Replays a recorded capture under the example policy.
pub(crate) fn demo() -> anyhow::Result<()> {
    let program = build()?;
    step("portcullis replay tests/captures/web.pcap --policy examples/policy.toml");
    run(crate::shell::program(program).args([
        "replay",
        "tests/captures/web.pcap",
        "--policy",
        "examples/policy.toml",
    ]))
}

/// Runs the tests of the host's crates, those on the real driver among them; with a `filter`, the tests it names only,
/// else those on drivers also under other options of the filter engine.
pub(crate) fn test(images: &Images, filter: Option<&str>) -> anyhow::Result<()> {
    let programs = suite::build(images, &[])?;
    let mut conformance = Conformance::default();
    for program in &programs {
        let outcome = program.run(images, filter)?;
        conformance.note(program, &outcome);
    }
    suite::examples(images, filter)?;
    if filter.is_none() {
        conformance.cover(&programs, images, Breadth::EverySetting)?;
        conformance.report(false)
    } else {
        conformance.failures()
    }
}

/// The folder that the driver's program database names in the place of this checkout.
const SOURCES: &str = "/portcullis";
/// In this environment variable the tests find the folder for what ran.
const COVERAGE_VARIABLE: &str = "KSIM_COVERAGE";

/// Runs the end-to-end tests, and those of the program, and shows which lines of the driver's crates ran.
pub(crate) fn coverage() -> anyhow::Result<()> {
    let program = build()?;
    let image = driver::build(&setup::install()?, Arch::X86_64)?;
    let folder = path("target/coverage");
    let coverage = |command: &str| {
        let mut run = crate::shell::program(&program);
        run.args(["coverage", command]).arg(&folder).arg(&image);
        run
    };
    run(&mut coverage("prepare"))?;
    step("tests");
    run(cargo()
        .args(["test", "--package", "portcullis-tests"])
        .args(["--package", "portcullis-cli"])
        .env(DRIVER_VARIABLE, &image)
        .env(COVERAGE_VARIABLE, &folder))?;
    let lcov = folder.join("portcullis.lcov");
    step(&format!("what ran, also in {}", lcov.display()));
    let mut report = coverage("report");
    report.args(["--root", SOURCES, "--below", "src", "--below", "crates"]);
    run(report.arg("--uncovered").arg("--lcov").arg(lcov))
}

/// Writes the files of docs/ that are made from the code.
pub(crate) fn docs() -> anyhow::Result<()> {
    run(cargo()
        .args([
            "test",
            "--quiet",
            "--package",
            "ksim",
            "--test",
            "functions",
            "--package",
            "wfp-engine",
            "--test",
            "options",
        ])
        .env("PORTCULLIS_WRITE_DOCS", "1"))?;
    // What is said of the driver is read from the driver.
    let image = driver::build(&setup::install()?, Arch::X86_64)?;
    run(cargo()
        .args([
            "test",
            "--quiet",
            "--package",
            "portcullis-tests",
            "--test",
            "product",
            "--",
            "offloads::",
        ])
        .env(DRIVER_VARIABLE, image)
        .env("PORTCULLIS_WRITE_DOCS", "1"))
}

/// Runs the benchmark program, then the filter engine's own unless only some rows or JSON are asked for.
pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    let image = driver::build(&setup::install()?, Arch::X86_64)?;
    step("building the benchmarks");
    run(cargo()
        .args([
            "bench",
            "--package",
            "portcullis-tests",
            "--bench",
            "classify",
            "--",
        ])
        .args(arguments)
        .env(DRIVER_VARIABLE, image))?;
    if arguments.is_empty() {
        step("the filter engine by itself");
        run(cargo().args(["bench", "--package", "wfp-engine", "--bench", "engine"]))?;
    }
    Ok(())
}
