//! Gives a target hostile input for as long as is wanted: `portcullis-fuzz [TARGET|all] [SECONDS] [SEED]`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use portcullis_fuzz::TARGETS;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |place: usize| arguments.get(place).map(String::as_str);
    let wanted = argument(0).unwrap_or("all");
    let parsed = |place, or: u64| argument(place).map_or(Ok(or), str::parse);
    let (Ok(seconds), Ok(seed)) = (parsed(1, 10), parsed(2, 1)) else {
        eprintln!("error: portcullis-fuzz [TARGET|all] [SECONDS] [SEED]");
        return ExitCode::FAILURE;
    };
    let targets = || {
        let targets = TARGETS.iter();
        targets.filter(|target| wanted == "all" || wanted == target.name)
    };
    if targets().next().is_none() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("error: no target {wanted}: there are {}", names.join(", "));
        return ExitCode::FAILURE;
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
