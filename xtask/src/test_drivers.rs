//! The drivers in C that tests run: each as it should be, and once for each mistake that it can make.

use std::fs;
use std::path::{Path, PathBuf};

use crate::driver::Arch;
use crate::kit;
use crate::setup::Tools;
use crate::shell::{path, program, run, step};

/// Where they are, in a checkout.
const OUTPUT: &str = "target/test-drivers";

/// Tells the tests where they are.
pub(crate) const VARIABLE: &str = "PORTCULLIS_TEST_DRIVERS";

/// A driver of tests/drivers/NAME/NAME.c.
struct TestDriver {
    name: &'static str,
    /// The framework's version; `None` for a driver without it.
    kmdf: Option<&'static str>,
    /// Each is a macro `BUG_…` of the source and makes one mistake.
    bugs: &'static [&'static str],
}

const DRIVERS: &[TestDriver] = &[
    TestDriver {
        name: "gate",
        kmdf: None,
        bugs: &[
            "LEAK_CALLOUT",
            "LEAK_DEVICE",
            "FREE_TWICE",
            "RIGHTS",
            "BLOCK_KEEPS_RIGHT",
            "COMPLETE_TWICE",
            "LOST_REQUEST",
            "PENDING_UNMARKED",
            "CANCEL_LEFT",
            "CANCEL_LOCK",
            "TOUCH_COMPLETED",
        ],
    },
    TestDriver {
        name: "editor",
        kmdf: Some("1.9"),
        bugs: &[
            "LEAK_FLOW",
            "KEEP_CONTEXTS",
            "LEAK_CLONE",
            "FREE_INJECTED",
            "FORGET_HANDLE",
            "SECOND",
        ],
    },
    TestDriver {
        name: "warden",
        kmdf: Some("1.15"),
        bugs: &[
            "NEVER_COMPLETE",
            "COMPLETE_TWICE",
            "NO_ABSORB",
            "PEND_AGAIN",
        ],
    },
    TestDriver {
        name: "usher",
        kmdf: None,
        bugs: &[
            "NEVER_APPLY",
            "KEEP_HANDLE",
            "THREAD_LEFT",
            "THREAD_EARLY",
            "DEEP_STACK",
            "DEEP_UNLOAD",
        ],
    },
];

/// Builds them all, and returns their folder.
pub(crate) fn build(tools: &Tools) -> anyhow::Result<PathBuf> {
    step("building the test drivers in C");
    let output = path(OUTPUT);
    fs::create_dir_all(&output)?;
    let libraries = kit::system_libraries(tools, Arch::X86_64)?;
    for driver in DRIVERS {
        let entry = driver
            .kmdf
            .map(|version| framework_entry(tools, version, &output))
            .transpose()?;
        make(tools, driver, None, entry.as_deref(), &libraries, &output)?;
        for bug in driver.bugs {
            make(
                tools,
                driver,
                Some(bug),
                entry.as_deref(),
                &libraries,
                &output,
            )?;
        }
    }
    Ok(output)
}

/// The entry point of drivers for this version of the framework, as an object file.
fn framework_entry(tools: &Tools, version: &str, output: &Path) -> anyhow::Result<PathBuf> {
    let object = output.join(format!("WdfDriverEntry-{version}.obj"));
    run(kit::compiler(tools, Arch::X86_64, Some(version))
        .arg("-o")
        .arg(&object)
        .arg(path("kit/stub/WdfDriverEntry.c")))?;
    Ok(object)
}

fn make(
    tools: &Tools,
    driver: &TestDriver,
    bug: Option<&str>,
    entry: Option<&Path>,
    libraries: &Path,
    output: &Path,
) -> anyhow::Result<()> {
    let name = bug.map_or_else(
        || driver.name.to_owned(),
        |bug| format!("{}-{}", driver.name, bug.to_lowercase().replace('_', "-")),
    );
    let object = output.join(format!("{name}.obj"));
    let mut compile = kit::compiler(tools, Arch::X86_64, driver.kmdf);
    compile.args([
        "-g",
        "-gcodeview",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Wno-unused-value",
        "-Wno-multichar",
        "-Wno-four-char-constants",
    ]);
    if let Some(bug) = bug {
        compile.arg(format!("-DBUG_{bug}"));
    }
    run(compile.arg("-o").arg(&object).arg(
        path("tests/drivers")
            .join(driver.name)
            .join(format!("{}.c", driver.name)),
    ))?;
    let mut link = program(&tools.llvm.link);
    link.args([
        "/NOLOGO",
        "/DRIVER",
        "/NODEFAULTLIB",
        "/SUBSYSTEM:NATIVE",
        "/RELEASE",
        "/OPT:REF",
        "/DEBUG",
        "/NXCOMPAT",
        "/DYNAMICBASE",
    ])
    .arg(if entry.is_some() {
        "/ENTRY:FxDriverEntry"
    } else {
        "/ENTRY:DriverEntry"
    })
    .arg(format!(
        "/OUT:{}",
        output.join(format!("{name}.sys")).display()
    ))
    .arg(&object)
    .args(entry);
    for library in ["ntoskrnl", "hal", "ndis", "fwpkclnt"] {
        link.arg(libraries.join(format!("{library}.lib")));
    }
    if entry.is_some() {
        link.arg(path("target/kit/Lib/wdf/kmdf/x64/1.31/WdfLdr.lib"));
    }
    run(&mut link)
}
