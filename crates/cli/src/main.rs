//! The `portcullis` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use portcullis_cli::arguments::{Arguments, Command};
use portcullis_cli::commands::{ask, capture, coverage, image, policy, replay, verify};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; bad options are bad input.
            drop(error.print());
            return if error.use_stderr() {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let ending = match &arguments.command {
        Command::Replay(arguments) => replay::run(arguments),
        Command::Capture(arguments) => capture::run(arguments),
        Command::Ask(arguments) => ask::run(arguments),
        Command::Policy(command) => policy::run(command),
        Command::Image(arguments) => image::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Coverage(command) => coverage::run(command),
    };
    match ending {
        Ok(ending) => ending.into(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
