//! The `portcullis` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use portcullis_cli::arguments::{Arguments, Command};
#[cfg(windows)]
use portcullis_cli::commands::device;
use portcullis_cli::commands::{ask, capture, image, policy, proxy};
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
    let ending = match &arguments.command {
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
            error.tell(arguments.command.json());
            ExitCode::FAILURE
        }
    }
}
