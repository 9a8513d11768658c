//! The stand-in WDK: from `kit/` to a folder laid out as the real one, and Cargo's settings to build with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::Context as _;

use crate::driver::{self, Arch, KMDF_VERSION};
use crate::setup::{self, Rust, Tools};
use crate::shell::{self, path, program, run};

/// The version that the folders of the stand-in are named by; no real SDK has it.
const SDK_VERSION: &str = "10.0.26100.0";

/// Where the driver's builds go, in a checkout.
pub(crate) const OUTPUT: &str = "target/driver";

/// Makes the stand-in WDK's root for `arch` and returns it. One root holds every architecture.
///
/// A file that would not change keeps its time stamp, by which later steps see what is new.
fn root(tools: &Tools, arch: Arch, checkout: &Path) -> anyhow::Result<PathBuf> {
    let kit = checkout.join("kit");
    let root = checkout.join("target/kit");
    let kmdf_name = format!("wdf/kmdf/{KMDF_VERSION}");
    let system = root
        .join("Lib")
        .join(SDK_VERSION)
        .join("km")
        .join(arch.wdk_name());
    let framework = root
        .join("Lib/wdf/kmdf")
        .join(arch.wdk_name())
        .join(KMDF_VERSION);
    for folder in [&system, &framework, &root.join("Include/wdf/kmdf")] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    link(
        &kit.join("include"),
        &root.join("Include").join(SDK_VERSION),
    )?;
    link(
        &kit.join("include").join(&kmdf_name),
        &root.join("Include").join(&kmdf_name),
    )?;
    let scratch = root.join("scratch");
    fs::create_dir_all(&scratch)?;
    for name in ["ntoskrnl", "hal", "ndis", "fwpkclnt"] {
        import_library(tools, arch, name, &scratch, &system)?;
    }
    import_library(tools, arch, "WdfLdr", &scratch, &framework)?;
    static_library(
        tools,
        arch,
        ("WdfDriverEntry", "WdfDriverEntry"),
        &scratch,
        &framework,
    )?;
    static_library(
        tools,
        arch,
        ("BufferOverflowFastFailK", "BufferOverflowFastFailK"),
        &scratch,
        &system,
    )?;
    // wdk-build links these; what is in the real ones is not needed here.
    static_library(tools, arch, ("wmilib", "empty"), &scratch, &system)?;
    if arch == Arch::Aarch64 {
        static_library(tools, arch, ("arm64rt", "empty"), &scratch, &system)?;
    }
    Ok(root)
}

fn link(to: &Path, at: &Path) -> anyhow::Result<()> {
    if fs::read_link(at).is_ok_and(|target| target == to) {
        return Ok(());
    }
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at)?;
    }
    std::os::unix::fs::symlink(to, at).with_context(|| format!("cannot link {}", at.display()))
}

/// Moves `made` into `folder` unless the same is there.
fn install(made: &Path, folder: &Path, name: &str) -> anyhow::Result<()> {
    let place = folder.join(name);
    let new = fs::read(made).with_context(|| format!("cannot read {}", made.display()))?;
    if fs::read(&place).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::rename(made, &place).with_context(|| format!("cannot write {}", place.display()))
}

/// kit/lib/NAME.def → NAME.lib.
fn import_library(
    tools: &Tools,
    arch: Arch,
    name: &str,
    scratch: &Path,
    folder: &Path,
) -> anyhow::Result<()> {
    let library = format!("{name}.lib");
    let made = scratch.join(&library);
    run(program(&tools.llvm.dlltool)
        .args(["-m", arch.dlltool_name(), "-d"])
        .arg(path("kit/lib").join(format!("{name}.def")))
        .arg("-l")
        .arg(&made))?;
    install(&made, folder, &library)
}

/// kit/stub/SOURCE.c → NAME.lib.
fn static_library(
    tools: &Tools,
    arch: Arch,
    (name, source): (&str, &str),
    scratch: &Path,
    folder: &Path,
) -> anyhow::Result<()> {
    let object = format!("{source}.obj");
    let library = format!("{name}.lib");
    let mut compile = compiler(tools, arch, Some(KMDF_VERSION));
    compile
        .arg("-o")
        .arg(scratch.join(&object))
        .arg(path("kit/stub").join(format!("{source}.c")));
    run(&mut compile)?;
    // The library records the object's path as given: a bare name, so that it is the same everywhere.
    run(program(&tools.llvm.lib).current_dir(scratch).args([
        "/nologo",
        &format!("/out:{library}"),
        &object,
    ]))?;
    install(&scratch.join(&library), folder, &library)
}

/// clang, set up to compile C for the kernel against the kit's headers; with `kmdf`, against that version's too.
pub(crate) fn compiler(tools: &Tools, arch: Arch, kmdf: Option<&str>) -> Command {
    let include = path("kit/include");
    let mut compile = program(&tools.llvm.clang);
    compile
        .arg(format!("--target={}", arch.target()))
        .args([
            "-c",
            "-O2",
            "-std=c17",
            "-fms-compatibility",
            "-fms-extensions",
            "-ffreestanding",
            "-fno-builtin",
        ])
        .args([
            "-fno-stack-protector",
            "-fshort-wchar",
            "-mno-implicit-float",
            "-Wall",
            "-Werror",
        ])
        .args([
            "-Wno-unknown-pragmas",
            "-Wno-microsoft",
            "-Wno-unused-variable",
            "-D_KERNEL_MODE",
        ])
        .args(arch.wdk_defines());
    for folder in ["km/crt", "km", "shared"] {
        compile.arg("-I").arg(include.join(folder));
    }
    if let Some(version) = kmdf {
        let minor = version.strip_prefix("1.").unwrap_or(version);
        compile
            .arg("-DKMDF_VERSION_MAJOR=1")
            .arg(format!("-DKMDF_VERSION_MINOR={minor}"));
        // A version that differs in little has the headers that differ, and takes the others from the newest.
        for version in [version, KMDF_VERSION] {
            compile
                .arg("-I")
                .arg(include.join(format!("wdf/kmdf/{version}")));
        }
    }
    compile
}

/// Makes the kit's libraries for `arch`; the folder of the system's.
pub(crate) fn system_libraries(tools: &Tools, arch: Arch) -> anyhow::Result<PathBuf> {
    let root = root(tools, arch, &shell::root())?;
    Ok(root
        .join("Lib")
        .join(SDK_VERSION)
        .join("km")
        .join(arch.wdk_name()))
}

/// What the real libraries export, by module, as kit/lib holds it.
pub(crate) fn exports() -> anyhow::Result<pe_image::ExportLists> {
    let mut lists = pe_image::ExportLists::new();
    for entry in fs::read_dir(path("kit/lib"))? {
        let definition = fs::read_to_string(entry?.path())?;
        let words = definition
            .lines()
            .map(|line| line.split(';').next().unwrap_or_default().trim());
        let mut module = String::new();
        for line in words.filter(|line| !line.is_empty() && *line != "EXPORTS") {
            match line.strip_prefix("LIBRARY ") {
                Some(name) => module = name.trim().trim_matches('"').to_ascii_lowercase(),
                None => drop(
                    lists
                        .entry(module.clone())
                        .or_default()
                        .insert(line.to_owned()),
                ),
            }
        }
    }
    Ok(lists)
}

/// Cargo, set up to build the driver for `arch` in `checkout` with the stand-in WDK.
///
/// `checkout` is this repository or a copy of it.
pub(crate) fn cargo(
    tools: &Tools,
    arch: Arch,
    subcommand: &str,
    checkout: &Path,
) -> anyhow::Result<Command> {
    let root = root(tools, arch, checkout)?;
    forget_stale(&root, arch, checkout)?;
    let target = arch.target();
    let lower = target.replace('-', "_");
    let mut command = match tools.rust {
        Rust::Target => shell::cargo(),
        Rust::DebianSource => {
            let mut command = program(setup::DEBIAN_CARGO);
            command
                .env("RUSTC", setup::DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .env_remove("RUSTUP_TOOLCHAIN");
            command
        }
    };
    command
        .current_dir(checkout)
        .args([subcommand, "--release", "--target", target, "--target-dir"])
        .arg(checkout.join(OUTPUT))
        .env("RUSTC_WRAPPER", checkout.join("kit/host/rustc-wrapper.sh"))
        .env("WDKContentRoot", root)
        .env("Version_Number", SDK_VERSION)
        .env("LIBCLANG_PATH", &tools.llvm.libclang)
        .env(
            format!("CARGO_TARGET_{}_LINKER", lower.to_uppercase()),
            checkout.join("kit/host/link.sh"),
        )
        .env("LLD_LINK", &tools.llvm.link)
        .env(format!("CC_{lower}"), &tools.llvm.clang)
        .env(format!("AR_{lower}"), &tools.llvm.lib)
        .env(format!("CFLAGS_{lower}"), "-fno-builtin -g0")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rust_flags(checkout).join("\u{1f}"),
        );
    if tools.rust == Rust::DebianSource {
        command.args([
            "-Zbuild-std=core,alloc",
            "-Zbuild-std-features=compiler-builtins-mem",
        ]);
    }
    Ok(command)
}

/// Removes what Cargo does not know to be out of date.
fn forget_stale(root: &Path, arch: Arch, checkout: &Path) -> anyhow::Result<()> {
    let folder = checkout.join(OUTPUT);
    // wdk-macros keeps what it read of the headers and doesn't look again.
    let headers = newest(&checkout.join("kit/include"))?;
    for build in fs::read_dir(folder.join("release/build"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let cache = build.path().join("out/wdk_macros_ast_fragments");
        if cache.exists() && modified(&cache.join("cached_function_info_map.json")) < headers {
            fs::remove_dir_all(&cache)?;
        }
    }
    // Nor does Cargo look at the kit's libraries: without its output it links again.
    let output = folder.join(arch.target()).join("release");
    let libraries = newest(&root.join("Lib"))?;
    for folder in [output.join("deps"), output] {
        for image in fs::read_dir(folder).into_iter().flatten().flatten() {
            let image = image.path();
            if image.extension().is_some_and(|ending| ending == "dll")
                && modified(&image) < libraries
            {
                fs::remove_file(image)?;
            }
        }
    }
    Ok(())
}

/// The time of the last change below `folder`.
fn newest(folder: &Path) -> anyhow::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        newest = newest.max(if path.is_dir() {
            self::newest(&path)?
        } else {
            modified(&path)
        });
    }
    Ok(newest)
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path)
        .and_then(|facts| facts.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The image's bytes depend on the sources alone: not on where they lie, nor on when it was linked.
fn rust_flags(checkout: &Path) -> Vec<String> {
    let home = std::env::home_dir().unwrap_or_default();
    let registry =
        std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Clink-arg=/RELEASE".to_owned(),
        "-Clink-arg=/Brepro".to_owned(),
        format!("--remap-path-prefix={}=/portcullis", checkout.display()),
        format!("--remap-path-prefix={}=/cargo", registry.display()),
    ]
}

/// Clippy over the crates that only build for Windows, where it belongs to the Rust that builds them.
pub(crate) fn lint(tools: &Tools) -> anyhow::Result<()> {
    if tools.rust == Rust::DebianSource {
        println!("SKIPPED: lints of the driver's crates: they need rustup's Windows targets");
        return Ok(());
    }
    let mut command = cargo(tools, Arch::X86_64, "clippy", &shell::root())?;
    for package in driver::PACKAGES {
        command.args(["--package", package]);
    }
    run(command.args([
        "--keep-going",
        "--features",
        "conformance-driver/image",
        "--",
        "-D",
        "warnings",
    ]))
}
