//! What continuous integration runs.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::driver::{self, Arch};
use crate::setup;
use crate::shell::{self, cargo, find, path, program, run, step};
use crate::suite::Images;
use crate::{host, kit, test_drivers};

/// Everything, in the order in which a fault is found soonest; with a `filter`, the tests it names only.
pub(crate) fn run_all(filter: Option<&str>) -> anyhow::Result<()> {
    let tools = setup::install()?;
    if filter.is_none() {
        formatting()?;
    }
    let image = driver::build(&tools, Arch::X86_64)?;
    if filter.is_none() {
        driver::build(&tools, Arch::Aarch64)?;
        driver::build_examples(&tools, Arch::Aarch64)?;
        same_bytes_twice(&tools, &image)?;
        lints(&tools, &image)?;
        dependencies()?;
    }
    let images = Images {
        driver: image,
        conformance: driver::build_conformance(&tools)?,
        examples: driver::build_examples(&tools, Arch::X86_64)?,
        test_drivers: test_drivers::build(&tools)?,
    };
    step("tests");
    host::test(&images, filter)
}

/// Formatting and lints; with `driver_only`, the lints of the drivers' crates.
pub(crate) fn lint(driver_only: bool) -> anyhow::Result<()> {
    let tools = setup::install()?;
    if driver_only {
        return kit::lint(&tools);
    }
    formatting()?;
    let image = driver::build(&tools, Arch::X86_64)?;
    lints(&tools, &image)
}

fn formatting() -> anyhow::Result<()> {
    step("formatting");
    run(cargo().args(["fmt", "--all", "--check"]))
}

/// A second build, of a copy of the sources in another folder, gives the same image.
fn same_bytes_twice(tools: &setup::Tools, first: &Path) -> anyhow::Result<()> {
    step("building a copy of the sources: the image must be the same");
    let copy = path("target/copy");
    let files = shell::output(program("git").args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let files: BTreeSet<&str> = files.lines().filter(|file| path(file).is_file()).collect();
    remove_others(&copy, &copy, &files)?;
    for file in files {
        let place = copy.join(file);
        let old = std::fs::read(&place).ok();
        let new = std::fs::read(path(file)).with_context(|| format!("cannot read {file}"))?;
        if old.as_ref() != Some(&new) {
            std::fs::create_dir_all(place.parent().unwrap_or(&copy))?;
            std::fs::copy(path(file), &place)
                .with_context(|| format!("cannot write {}", place.display()))?;
        }
    }
    let second = driver::build_in(tools, Arch::X86_64, &copy)?;
    for extension in ["sys", "pdb"] {
        let [first, second] = [first, &second].map(|image| image.with_extension(extension));
        let read = |file: &Path| {
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
        };
        if read(&first)? != read(&second)? {
            bail!(
                "{} and {} differ: the build is not reproducible",
                first.display(),
                second.display()
            );
        }
    }
    Ok(())
}

/// Removes what is in `folder`, of the copy `root`, and is none of `files`, but for what was built: files that there no
/// longer are must not stay in the copy.
fn remove_others(root: &Path, folder: &Path, files: &BTreeSet<&str>) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let place = entry?.path();
        let name = place.strip_prefix(root)?.to_string_lossy().into_owned();
        if place.is_dir() {
            if name != "target" {
                remove_others(root, &place, files)?;
            }
        } else if !files.contains(name.as_str()) {
            std::fs::remove_file(&place)
                .with_context(|| format!("cannot remove {}", place.display()))?;
        }
    }
    Ok(())
}

fn lints(tools: &setup::Tools, image: &Path) -> anyhow::Result<()> {
    step("lints");
    let mut host = cargo();
    host.args(["clippy", "--workspace", "--all-targets"])
        .env("PORTCULLIS_SYS", image);
    for package in driver::PACKAGES {
        host.args(["--exclude", package]);
    }
    run(host.args(["--", "-D", "warnings"]))?;
    windows_program(tools)?;
    kit::lint(tools)
}

/// Lints of the `portcullis` program as Windows has it, which is only compiled here.
fn windows_program(tools: &setup::Tools) -> anyhow::Result<()> {
    if tools.rust != setup::Rust::Target {
        println!("SKIPPED: lints of the program for Windows: they need rustup's Windows targets");
        return Ok(());
    }
    run(cargo().args([
        "clippy",
        "--package",
        "portcullis-cli",
        "--package",
        "portcullis-win32",
        "--target",
        Arch::X86_64.target(),
        "--",
        "-D",
        "warnings",
    ]))
}

/// Licences, bans and sources of the dependencies, where cargo-deny is installed.
fn dependencies() -> anyhow::Result<()> {
    if find(&["cargo-deny"]).is_none() && !home_has_cargo_deny() {
        println!(
            "SKIPPED: dependency checks: cargo-deny is not installed (cargo install --locked cargo-deny)"
        );
        return Ok(());
    }
    step("dependencies");
    run(program("cargo").args([
        "deny",
        "--all-features",
        "check",
        "licenses",
        "bans",
        "sources",
    ]))
}

fn home_has_cargo_deny() -> bool {
    std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .is_some_and(|home| home.join("bin/cargo-deny").is_file())
}
