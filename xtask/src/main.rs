//! The one entry point of the repository: `cargo xtask COMMAND`.
#![forbid(unsafe_code)]

mod checks;
mod conformance;
mod driver;
mod host;
mod kit;
mod package;
mod setup;
mod shell;
mod suite;
mod test_drivers;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::driver::Arch;

/// Sets up, builds, tests and packages Portcullis.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing: Debian packages and the driver's Rust target
    Setup {
        /// Only say what is missing; fail if anything is
        #[arg(long)]
        check: bool,
    },
    /// Build the driver (portcullis.sys), check its image, and build the portcullis program
    Build {
        /// Build the driver alone, for this architecture
        #[arg(long, value_enum)]
        arch: Option<Arch>,
        /// Build the driver of the conformance tests alone
        #[arg(long, conflicts_with = "arch")]
        conformance: bool,
    },
    /// Replay a recorded capture through the real driver and show what it decided
    Demo,
    /// Run everything that continuous integration runs: formatting, lints, image checks, tests
    Test {
        /// Only tests whose name contains this; skips formatting, lints and image checks
        filter: Option<String>,
    },
    /// Check formatting and lint everything: the host's crates, then the drivers' for Windows
    Lint {
        /// Lint the drivers' crates alone
        #[arg(long)]
        driver: bool,
    },
    /// Run the end-to-end tests and show which lines of the driver no test ran
    Coverage,
    /// Build the drivers of examples/
    Examples {
        #[arg(long, value_enum, default_value = "x86-64")]
        arch: Arch,
    },
    /// Build the drivers in C that tests run, in target/test-drivers
    TestDrivers,
    /// Write the files of docs/ that are made from the code
    Docs,
    /// Run the conformance suites, and the end-to-end tests under every pair of the engine's options, and print which
    /// rows of the list pass as a model and through the ABI
    Conformance {
        /// Print the table as JSON, behind what the tests print
        #[arg(long)]
        json: bool,
    },
    /// Measure the cost of a classify, of a replay, of start and stop
    Bench {
        /// Handed to the benchmark program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make the driver package for Windows in dist/, test-signed
    Package {
        #[arg(long, value_enum, default_value = "x86-64")]
        arch: Arch,
    },
    /// Remove everything that was built
    Clean,
}

fn main() -> ExitCode {
    let Some(command) = Arguments::parse().command else {
        // Alone, the command lists what there is; that is no error.
        drop(Arguments::command().print_help());
        return ExitCode::SUCCESS;
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup { check: true } => setup::check(),
        Command::Setup { check: false } => setup::install().map(drop),
        Command::Build {
            conformance: true, ..
        } => driver::build_conformance(&setup::install()?).map(drop),
        Command::Build {
            arch: Some(arch), ..
        } => driver::build(&setup::install()?, arch).map(drop),
        Command::Build { arch: None, .. } => host::build().map(drop),
        Command::Demo => host::demo(),
        Command::Test { filter } => checks::run_all(filter.as_deref()),
        Command::Lint { driver } => checks::lint(driver),
        Command::Coverage => host::coverage(),
        Command::Examples { arch } => driver::build_examples(&setup::install()?, arch).map(drop),
        Command::TestDrivers => test_drivers::build(&setup::install()?).map(drop),
        Command::Docs => host::docs(),
        Command::Conformance { json } => conformance::run(json),
        Command::Bench { arguments } => host::bench(&arguments),
        Command::Package { arch } => package::make(arch),
        Command::Clean => shell::clean(),
    }
}
