//! Places are named by the program database that the linker wrote.
#![allow(missing_docs, reason = "tests name what they show")]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::Path;
use std::process::Command;

use ksim::{Config, Kernel, LoadError, LoadOptions};

const SOURCE: &str = "\
__attribute__((noinline)) int touch(volatile int *where) {
    return *where;
}
int DriverEntry(void *driver, void *path) {
    return touch((int *)16) + 1;
}
";

/// Builds a driver and its program database; `None` where the tools are missing.
fn build(folder: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .output()
            .ok()?;
        output.status.success().then_some(())
    };
    std::fs::write(folder.join("touch.c"), SOURCE).ok()?;
    run(
        "clang-19",
        &[
            "--target=x86_64-pc-windows-msvc",
            "-O1",
            "-g",
            "-gcodeview",
            "-c",
            "touch.c",
        ],
    )?;
    let options = [
        "/driver",
        "/subsystem:native",
        "/nodefaultlib",
        "/entry:DriverEntry",
        "/debug",
        "/out:touch.sys",
    ];
    run("lld-link-19", &[&options[..], &["touch.o"]].concat())?;
    Some((
        std::fs::read(folder.join("touch.sys")).ok()?,
        std::fs::read(folder.join("touch.pdb")).ok()?,
    ))
}

#[test]
fn a_bug_check_names_functions_and_lines() {
    let folder = std::env::temp_dir().join(format!("ksim-symbols-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let built = build(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    let Some((image, pdb)) = built else {
        eprintln!("SKIPPED: clang-19 and lld-link-19 are needed to build a driver with symbols");
        return;
    };
    let kernel = Kernel::new(&Config::default()).unwrap();
    let options = LoadOptions {
        pdb: Some(pdb),
        ..LoadOptions::named("touch.sys")
    };
    let bugcheck = kernel.load(&image, &options).unwrap().start().unwrap_err();
    assert!(
        bugcheck.message.contains("(touch, touch.c:2)"),
        "{bugcheck}"
    );
    let [innermost, caller] = &bugcheck.stack[..] else {
        panic!("{bugcheck}");
    };
    assert!(innermost.ends_with("(touch, touch.c:2)"), "{bugcheck}");
    assert!(caller.contains("(DriverEntry+"), "{bugcheck}");
    assert!(caller.ends_with("touch.c:5)"), "{bugcheck}");

    // Another image's program database is refused rather than believed.
    let mut builder = pe_image::build::Builder::x64();
    builder.code(&[0xc3]);
    assert!(
        kernel.load(&builder.build(), &options).is_ok(),
        "this image does not say which one it has"
    );
    let options = LoadOptions {
        pdb: Some(b"nonsense".to_vec()),
        ..options
    };
    assert!(matches!(
        kernel.load(&image, &options),
        Err(LoadError::Symbols(_))
    ));
}
