//! Building portcullis.sys and checking what came out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::kit;
use crate::setup::Tools;
use crate::shell::{self, run, step};

/// The packages that only build for a Windows target.
pub(crate) const PACKAGES: &[&str] = &[
    "portcullis",
    "conformance-driver",
    "accounting-driver",
    "binding-driver",
    "deferring-driver",
    "editing-driver",
    "guarding-driver",
    "holding-driver",
    "mapping-driver",
    "marking-driver",
    "observing-driver",
    "pacing-driver",
    "recording-driver",
    "redirecting-driver",
    "resting-driver",
    "screening-driver",
    "watching-driver",
    "kmdf",
    "wfp",
    "wfp-sys",
];

/// The drivers of `examples/`.
const EXAMPLES: &[&str] = &[
    "accounting",
    "binding",
    "deferring",
    "editing",
    "guarding",
    "holding",
    "mapping",
    "marking",
    "observing",
    "pacing",
    "recording",
    "redirecting",
    "resting",
    "screening",
    "watching",
];

/// The KMDF version the driver asks for, as Cargo.toml's metadata has it.
pub(crate) const KMDF_VERSION: &str = "1.31";

/// A processor architecture of Windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// 64-bit x86
    #[value(name = "x86_64", alias = "x86-64", alias = "x64", alias = "amd64")]
    X86_64,
    /// 64-bit Arm; built and checked, not run
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

impl Arch {
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// As Rust names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Rust's target triple, which clang takes too.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-pc-windows-msvc",
            Self::Aarch64 => "aarch64-pc-windows-msvc",
        }
    }

    /// As the WDK's folders name it.
    pub(crate) const fn wdk_name(self) -> &'static str {
        match self {
            Self::X86_64 => "x64",
            Self::Aarch64 => "ARM64",
        }
    }

    /// What the WDK's headers are told of it.
    pub(crate) const fn wdk_defines(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["-D_WIN64", "-D_AMD64_", "-DAMD64"],
            Self::Aarch64 => &["-D_ARM64_", "-DARM64"],
        }
    }

    /// As llvm-dlltool names it.
    pub(crate) const fn dlltool_name(self) -> &'static str {
        match self {
            Self::X86_64 => "i386:x86-64",
            Self::Aarch64 => "arm64",
        }
    }

    /// As an image's header says it.
    pub(crate) const fn machine(self) -> pe_image::Machine {
        match self {
            Self::X86_64 => pe_image::Machine::X64,
            Self::Aarch64 => pe_image::Machine::Arm64,
        }
    }

    /// As INF files name it.
    pub(crate) const fn inf_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// Builds the driver for `arch`, checks the image, and returns it.
pub(crate) fn build(tools: &Tools, arch: Arch) -> anyhow::Result<PathBuf> {
    step(&format!("building portcullis.sys for {}", arch.name()));
    let image = build_in(tools, arch, &shell::root())?;
    check(&image, arch)?;
    Ok(image)
}

/// Builds the driver of the conformance tests, which do not ship it, and returns its image.
pub(crate) fn build_conformance(tools: &Tools) -> anyhow::Result<PathBuf> {
    step("building the conformance driver");
    let arch = Arch::X86_64;
    let root = shell::root();
    run(kit::cargo(tools, arch, "build", &root)?.args([
        "--package",
        "conformance-driver",
        "--features",
        "conformance-driver/image",
    ]))?;
    image(&root, arch, "conformance_driver.dll", "conformance.sys")
}

/// Builds the drivers of `examples/` for `arch`, checks the images, and returns their folder.
pub(crate) fn build_examples(tools: &Tools, arch: Arch) -> anyhow::Result<PathBuf> {
    step(&format!("building the example drivers for {}", arch.name()));
    let root = shell::root();
    let mut build = kit::cargo(tools, arch, "build", &root)?;
    for name in EXAMPLES {
        build.args(["--package", &format!("{name}-driver")]);
        build.args(["--features", &format!("{name}-driver/image")]);
    }
    run(&mut build)?;
    for name in EXAMPLES {
        let image = image(
            &root,
            arch,
            &format!("{name}_driver.dll"),
            &format!("{name}.sys"),
        )?;
        check(&image, arch)?;
    }
    Ok(output(&root, arch))
}

/// The folder of what was built in `checkout`.
fn output(checkout: &Path, arch: Arch) -> PathBuf {
    checkout
        .join(kit::OUTPUT)
        .join(arch.target())
        .join("release")
}

/// Builds the driver in `checkout`, this repository or a copy of it.
pub(crate) fn build_in(tools: &Tools, arch: Arch, checkout: &Path) -> anyhow::Result<PathBuf> {
    run(kit::cargo(tools, arch, "build", checkout)?.args(["--package", "portcullis", "--lib"]))?;
    image(checkout, arch, "portcullis.dll", "portcullis.sys")
}

/// Gives the library that was built in `checkout` the name of a driver.
fn image(checkout: &Path, arch: Arch, library: &str, name: &str) -> anyhow::Result<PathBuf> {
    let output = output(checkout, arch);
    let image = output.join(name);
    fs::copy(output.join(library), &image)
        .with_context(|| format!("no {library} in {}", output.display()))?;
    Ok(image)
}

/// Fails on an image that Windows would refuse, or that opens a door.
fn check(image: &Path, arch: Arch) -> anyhow::Result<()> {
    let file = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let facts = pe_image::Image::parse(&file).with_context(|| image.display().to_string())?;
    let expected = pe_image::Expectations {
        machine: Some(arch.machine()),
        exports: Some(kit::exports()?),
        kmdf: true,
    };
    let findings = pe_image::check(&facts, &expected);
    for finding in &findings {
        eprintln!("{}: {finding}", image.display());
    }
    if !findings.is_empty() {
        bail!("{} is not an image to ship", image.display());
    }
    Ok(())
}
