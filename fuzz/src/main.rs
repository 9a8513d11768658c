//! Gives a target hostile input for as long as is wanted: `portcullis-fuzz [TARGET|all] [SECONDS] [SEED]`; or writes what
//! another fuzzer can begin with: `portcullis-fuzz seeds TARGET FOLDER`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use portcullis_fuzz::{TARGETS, Target};

const USAGE: &str =
    "portcullis-fuzz [TARGET|all] [SECONDS] [SEED], or portcullis-fuzz seeds TARGET FOLDER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |place: usize| arguments.get(place).map(String::as_str);
    if let (Some("seeds"), Some(name), Some(folder)) = (argument(0), argument(1), argument(2)) {
        return write_seeds(name, Path::new(folder));
    }
    let wanted = argument(0).unwrap_or("all");
    let parsed = |place, or: u64| argument(place).map_or(Ok(or), str::parse);
    let (Ok(seconds), Ok(seed)) = (parsed(1, 10), parsed(2, 1)) else {
        eprintln!("error: {USAGE}");
        return ExitCode::FAILURE;
    };
    let targets = || {
        let targets = TARGETS.iter();
        targets.filter(|target| wanted == "all" || wanted == target.name)
    };
    if targets().next().is_none() {
        return no_target(wanted);
    }
    // What a failure says is printed once, with its input.
    std::panic::set_hook(Box::new(|_| {}));
    let mut ending = ExitCode::SUCCESS;
    for target in targets() {
        let mut fuzzer = target.fuzzer(seed);
        let begun = Instant::now();
        let mut inputs = 0_u64;
        while begun.elapsed() < Duration::from_secs(seconds) {
            if let Err(failure) = fuzzer.run(100, target.run) {
                let file = std::env::temp_dir().join(format!("fuzz-{}-{seed}", target.name));
                eprintln!(
                    "{}: seed {seed}, input {}: {} ({})",
                    target.name,
                    failure.after,
                    failure.message,
                    file.display()
                );
                if let Err(error) = std::fs::write(&file, &failure.input) {
                    eprintln!("error: {}: {error}", file.display());
                }
                ending = ExitCode::FAILURE;
                break;
            }
            inputs += 100;
        }
        println!(
            "{}: seed {seed}, {inputs} inputs in {} s",
            target.name,
            begun.elapsed().as_secs()
        );
    }
    ending
}

fn no_target(name: &str) -> ExitCode {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    eprintln!("error: no target {name}: there are {}", names.join(", "));
    ExitCode::FAILURE
}

/// Writes a target's seeds into a folder, a file each, and beside it the words of its format as libFuzzer reads them.
fn write_seeds(name: &str, folder: &Path) -> ExitCode {
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        return no_target(name);
    };
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), seed)?;
        }
        std::fs::write(folder.with_extension("dict"), dictionary(target))
    };
    if let Err(error) = write() {
        eprintln!("error: {}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn dictionary(target: &Target) -> String {
    // libFuzzer takes no empty file.
    let mut text = format!("# {}\n", target.name);
    for word in target.dictionary {
        text.push('"');
        for byte in *word {
            // Writing into a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
        text.push_str("\"\n");
    }
    text
}
