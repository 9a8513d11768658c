//! What a machine needs to build the driver, and how it gets it.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::driver::Arch;
use crate::shell::{self, find, program, step};

/// The LLVM tools that stand in for Microsoft's, by absolute path.
#[derive(Debug, Clone)]
pub(crate) struct Llvm {
    pub(crate) clang: PathBuf,
    pub(crate) link: PathBuf,
    pub(crate) dlltool: PathBuf,
    pub(crate) lib: PathBuf,
    /// The folder that holds libclang, for bindgen.
    pub(crate) libclang: PathBuf,
}

/// Which Rust builds the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rust {
    /// rustup's, with its library for the Windows targets.
    Target,
    /// Debian's web toolchain, which brings the library's source.
    DebianSource,
}

/// Everything the driver's build uses.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) llvm: Llvm,
    pub(crate) rust: Rust,
}

const LLVM_PACKAGES: &[&str] = &["clang-19", "libclang-19-dev", "lld-19", "llvm-19"];
const RUST_PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev",
    "rust-web-src",
    "rust-web-llvm",
];

/// Where Debian's web toolchain is.
pub(crate) const DEBIAN_CARGO: &str = "/usr/bin/cargo";
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LIBRARY_SOURCE: &str = "/usr/lib/rustlib/src/rust/library";

/// Installs what is missing, and asks nothing.
pub(crate) fn install() -> anyhow::Result<Tools> {
    let llvm = match find_llvm() {
        Ok(llvm) => llvm,
        Err(missing) => {
            install_packages(LLVM_PACKAGES, &missing)?;
            find_llvm().map_err(|missing| {
                anyhow::anyhow!(
                    "still missing after the installation: {}",
                    missing.join(", ")
                )
            })?
        }
    };
    let rust = match find_rust() {
        Some(rust) => rust,
        None => install_rust()?,
    };
    Ok(Tools { llvm, rust })
}

/// Says what is there and what is missing.
pub(crate) fn check() -> anyhow::Result<()> {
    let llvm = find_llvm();
    match &llvm {
        Ok(llvm) => println!("LLVM: {}", llvm.clang.display()),
        Err(missing) => println!(
            "LLVM: missing {}; {}",
            missing.join(", "),
            how_to_install(LLVM_PACKAGES)
        ),
    }
    let rust = find_rust();
    match rust {
        Some(Rust::Target) => println!("Rust for the driver: rustup's Windows targets"),
        Some(Rust::DebianSource) => {
            println!("Rust for the driver: {DEBIAN_RUSTC}, library built from source");
        }
        None => println!(
            "Rust for the driver: missing; rustup target add {}",
            targets().join(" ")
        ),
    }
    if llvm.is_err() || rust.is_none() {
        bail!("run `cargo xtask setup`");
    }
    Ok(())
}

fn targets() -> Vec<&'static str> {
    Arch::ALL.iter().map(|arch| arch.target()).collect()
}

/// The tools, or the names of those that are missing.
fn find_llvm() -> Result<Llvm, Vec<&'static str>> {
    let mut missing = Vec::new();
    let mut tool = |name: &'static str, names: &[&str]| {
        find(names).unwrap_or_else(|| {
            missing.push(name);
            PathBuf::new()
        })
    };
    let clang = tool("clang", &["clang-19", "clang"]);
    let link = tool("lld-link", &["lld-link-19", "lld-link"]);
    let dlltool = tool("llvm-dlltool", &["llvm-dlltool-19", "llvm-dlltool"]);
    let lib = tool("llvm-lib", &["llvm-lib-19", "llvm-lib"]);
    let libclang = [
        "/usr/lib/llvm-19/lib",
        "/usr/lib64",
        "/usr/lib",
        "/opt/homebrew/opt/llvm/lib",
    ]
    .iter()
    .map(PathBuf::from)
    .find(|folder| {
        ["libclang.so", "libclang-19.so", "libclang.dylib"]
            .iter()
            .any(|file| folder.join(file).exists())
    })
    .unwrap_or_else(|| {
        missing.push("libclang");
        PathBuf::new()
    });
    if missing.is_empty() {
        Ok(Llvm {
            clang,
            link,
            dlltool,
            lib,
            libclang,
        })
    } else {
        Err(missing)
    }
}

fn find_rust() -> Option<Rust> {
    // A target's library lies below the sysroot whichever tool put it there.
    let sysroot = shell::output(program("rustc").args(["--print", "sysroot"])).ok()?;
    let has = |target: &str| {
        PathBuf::from(sysroot.trim())
            .join("lib/rustlib")
            .join(target)
            .join("lib")
            .is_dir()
    };
    if Arch::ALL.iter().all(|arch| has(arch.target())) {
        return Some(Rust::Target);
    }
    let source = [DEBIAN_CARGO, DEBIAN_RUSTC, DEBIAN_LIBRARY_SOURCE]
        .iter()
        .all(|place| PathBuf::from(place).exists());
    source.then_some(Rust::DebianSource)
}

fn install_rust() -> anyhow::Result<Rust> {
    step("adding the driver's targets to Rust");
    let added = find(&["rustup"]).is_some()
        && shell::run(program("rustup").args(["target", "add"]).args(targets())).is_ok();
    if added && find_rust() == Some(Rust::Target) {
        return Ok(Rust::Target);
    }
    eprintln!(
        "rustup gives no Windows targets here; taking Debian's Rust with the library's source"
    );
    install_packages(
        RUST_PACKAGES,
        &["a Rust that builds for x86_64-pc-windows-msvc"],
    )?;
    find_rust().context("no Rust that builds for Windows, although its packages are installed")
}

fn install_packages(packages: &[&str], missing: &[&str]) -> anyhow::Result<()> {
    if find(&["apt-get"]).is_none() {
        bail!(
            "missing: {}; {}",
            missing.join(", "),
            how_to_install(packages)
        );
    }
    step(&format!("installing {}", packages.join(" ")));
    let apt = |arguments: &[&str]| {
        let mut command = match find(&["sudo"]) {
            Some(sudo) if !is_root() => {
                let mut command = program(sudo);
                command.args([
                    "--non-interactive",
                    "env",
                    "DEBIAN_FRONTEND=noninteractive",
                    "apt-get",
                ]);
                command
            }
            _ => {
                let mut command = program("apt-get");
                command.env("DEBIAN_FRONTEND", "noninteractive");
                command
            }
        };
        command.args(arguments);
        shell::run(&mut command)
    };
    apt(&["update", "-qq"]).with_context(|| how_to_install(packages))?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(packages);
    apt(&install).with_context(|| how_to_install(packages))
}

fn is_root() -> bool {
    shell::output(program("id").arg("-u")).is_ok_and(|user| user.trim() == "0")
}

/// The command that installs `packages`' contents on this system.
fn how_to_install(packages: &[&str]) -> String {
    let managers: &[(&str, &str)] = &[
        ("dnf", "sudo dnf install clang clang-devel lld llvm"),
        ("pacman", "sudo pacman -S clang lld llvm"),
        ("zypper", "sudo zypper install clang clang-devel lld llvm"),
        ("apk", "apk add clang clang-dev lld llvm"),
        ("brew", "brew install llvm lld"),
    ];
    let command = managers
        .iter()
        .find(|(manager, _)| find(&[manager]).is_some())
        .map_or_else(
            || format!("sudo apt-get install {}", packages.join(" ")),
            |(_, command)| (*command).to_owned(),
        );
    format!("install with: {command}")
}
