//! The `portcullis` program.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use portcullis_cli::arguments::{Arguments, Command, STANDARD_OUTPUT};
#[cfg(windows)]
use portcullis_cli::commands::device;
use portcullis_cli::commands::{ask, capture, image, outputs, policy, proxy};
#[cfg(target_os = "linux")]
use portcullis_cli::commands::{coverage, replay, verify};

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
    let command = &arguments.command;
    if let Err(error) = outputs::check(command) {
        // A file that must not be written is not told that.
        let printed = |place: &&Path| *place == Path::new(STANDARD_OUTPUT);
        error.tell(command.json().filter(printed));
        return ExitCode::FAILURE;
    }
    let ending = match command {
        #[cfg(target_os = "linux")]
        Command::Replay(arguments) => replay::run(arguments),
        Command::Capture(arguments) => capture::run(arguments),
        Command::Ask(arguments) => ask::run(arguments),
        Command::Policy(command) => policy::run(command),
        Command::Proxy(arguments) => proxy::run(arguments),
        Command::Image(arguments) => image::run(arguments),
        #[cfg(target_os = "linux")]
        Command::Verify(arguments) => verify::run(arguments),
        #[cfg(target_os = "linux")]
        Command::Coverage(command) => coverage::run(command),
        #[cfg(windows)]
        Command::Status { json } => device::status(*json),
        #[cfg(windows)]
        Command::Events { policy, json } => device::events(policy.as_deref(), *json),
    };
    match ending {
        Ok(ending) => ending.into(),
        Err(error) => {
            error.tell(command.json());
            ExitCode::FAILURE
        }
    }
}
