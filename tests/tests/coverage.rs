//! What of the driver ran is told line by line, whichever machine or process ran it.

use std::path::{Path, PathBuf};

use ksim::coverage::{Coverage, Lines};
use ksim::{Config, Kernel, LoadOptions, PoolMode};
use portcullis_tests::image;
use wfp_schema::NtStatus;

/// The program database beside the image; `None`, and loudly so, when only the image is there.
fn program_database() -> Option<Vec<u8>> {
    let image = std::env::var_os("PORTCULLIS_SYS").map(PathBuf::from)?;
    let file = image.with_extension("pdb");
    std::fs::read(&file).ok()
}

/// How many lines of the source file ran, of how many.
fn ran(coverage: &Coverage, file: &str) -> (usize, usize) {
    let files = coverage.files().expect("the folder is there");
    let lines = files.iter().find(|(path, _)| path.ends_with(file));
    let (_, lines) = lines.unwrap_or_else(|| panic!("{file} has code"));
    (Lines::covered(lines), Lines::count(lines))
}

/// Starts the driver on a new machine and unloads it again if it has started.
fn start_and_stop(folder: &Path, fails: bool) {
    let config = Config {
        pool: PoolMode::Fast,
        ..Config::default()
    };
    let kernel = Kernel::new(&config).expect("memory and threads");
    let options = LoadOptions {
        coverage: Some(folder.to_owned()),
        ..LoadOptions::named("portcullis.sys")
    };
    let driver = kernel
        .load(image::portcullis(), &options)
        .expect("the driver is simulated");
    if fails {
        // Late enough for DriverEntry itself to run: the framework binds and makes the driver object first.
        kernel.faults().fail_nth(6);
    }
    let status = driver.start().expect("the machine goes on");
    assert_eq!(status == NtStatus::SUCCESS, !fails);
    assert!(driver.unload().expect("the machine goes on").is_clean());
}

#[test]
fn lines_ran_when_their_code_ran_and_two_machines_add_up() {
    let Some(pdb) = program_database() else {
        println!("SKIPPED: PORTCULLIS_SYS names no image with a program database beside it");
        return;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("coverage");
    let coverage = Coverage::new(&folder, image::portcullis(), &pdb).expect("the image's database");
    coverage.prepare().expect("the folder can be written");
    assert_eq!(ran(&coverage, "/portcullis/src/lib.rs").0, 0);

    start_and_stop(&folder, true);
    let (failed, count) = ran(&coverage, "/portcullis/src/lib.rs");
    assert!(0 < failed && failed < count, "{failed} of {count}");
    let (management, _) = ran(&coverage, "/portcullis/src/management.rs");

    start_and_stop(&folder, false);
    let (both, _) = ran(&coverage, "/portcullis/src/lib.rs");
    assert!(both > failed, "the unload routine ran for the first time");
    assert!(ran(&coverage, "/portcullis/src/management.rs").0 > management);
    let (tls, lines) = ran(&coverage, "/core/src/inspect/tls.rs");
    assert!(tls == 0 && lines > 10, "no packet was looked at");
}
