//! The command line.

mod files;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use self::values::{NamedInterface, Ports, Prefix, Process, SimulatedInterface};

use self::values::protocol;
use crate::ask::Answer;

/// What stands for standard output where a file is named.
pub const STANDARD_OUTPUT: &str = "-";

/// Network policy for Windows, and the means to see what it does
///
/// With --json a command reports to programs: docs/json.md says what. What fails is reported there too, as `error`.
///
/// Exit status: 0 clean, 1 bad input, 2 the verifier found a violation or a leak.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[cfg(target_os = "linux")]
    /// Replay captures through the driver in the simulated kernel and show what it decided
    ///
    /// Exit status: 0 clean, 1 bad input, 2 the verifier found a violation or a leak.
    Replay(Replay),
    /// Write what the driver captures: packets at the network layers, with what was decided about each
    ///
    /// Every packet has a comment: the verdict, the rule, the flow, the application, and if it was discarded by whom.
    /// What was blocked before it was a packet is there too, on an interface of its own.
    ///
    /// It is the driver on this machine, on Windows, until Ctrl+C; with --replay, on Linux, the driver in the simulated
    /// kernel.
    ///
    /// Exit status: 0 clean, 1 bad input or no driver, 2 the verifier found a violation or a leak.
    Capture(Capture),
    /// Answer the questions of rules with `action = "ask"`
    ///
    /// Each question is asked at the terminal, unless an option answers it.
    ///
    /// It is the driver on this machine that asks, on Windows, until the program is ended; with captures, on Linux, the
    /// driver in the simulated kernel, through which they are replayed. No time passes there meanwhile: what waits in vain
    /// for an answer goes on when the capture's time has come.
    ///
    /// Exit status: 0 clean, 1 bad input or no driver, 2 the verifier found a violation or a leak.
    Ask(Ask),
    /// Check or compile a policy
    #[command(subcommand)]
    Policy(Policy),
    /// Take the connections and datagrams that a policy redirects, and pass them on to where they were to go
    ///
    /// The program registers itself with the driver for TCP and UDP, learns of each connection and each datagram where it was
    /// to go, connects or sends there on its behalf, and copies both ways. It says what became of each connection, and of each
    /// exchange of datagrams that has been quiet for a minute. When it ends, the policy's `redirect_default` decides.
    Proxy(Proxy),
    /// Say what a driver image is: sections, flags, imports, KMDF version
    Image(Image),
    #[cfg(target_os = "linux")]
    /// Load, exercise and unload a WFP driver under the verifier
    ///
    /// The driver is started, its devices are opened and asked for what they do not know, recorded traffic runs on
    /// every processor while the filter engine stops and starts, and the driver is unloaded; with --seed or several
    /// processors also all of that at the same time. A violation names the rule, the call with its arguments, and
    /// the driver's stack, with functions and lines when FILE.pdb lies beside FILE.sys.
    ///
    /// Exit status: 0 clean, 1 bad input, 2 the verifier found a violation or a leak.
    Verify(Verify),
    #[cfg(target_os = "linux")]
    /// Measure which lines of a driver run, over any number of runs
    ///
    /// Between `prepare` and `report`, everything that loads the driver into a simulated kernel with the environment
    /// variable `KSIM_COVERAGE=FOLDER` adds to what ran: this program and tests.
    #[command(subcommand)]
    Coverage(Coverage),
    /// Say what the driver on this machine is doing: its state, its callouts and its counters
    #[cfg(windows)]
    Status {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the driver's events as they come
    #[cfg(windows)]
    Events {
        /// The policy in force, for the names of its rules
        #[arg(short, long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// Print them as JSON, one a line
        #[arg(long)]
        json: bool,
    },
}

/// `portcullis replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// Captures, pcap or pcapng, also gzip-compressed; replayed one after the other
    #[arg(required = true, value_name = "CAPTURE")]
    pub captures: Vec<PathBuf>,
    /// The policy, a TOML file; without one everything is permitted and shown
    #[arg(short, long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// How.
    #[command(flatten)]
    pub options: ReplayOptions,
    /// Answer the questions of a rule ("*": of every rule): RULE=permit|block|none; without any the rules' defaults decide
    #[arg(long, value_name = "RULE=ANSWER")]
    pub answer: Vec<Answer>,
}

/// How captures are replayed, and what is written of it.
#[derive(Debug, Args)]
pub struct ReplayOptions {
    /// An address or prefix of the local host; found out from the traffic when not given
    #[arg(long, value_name = "ADDR[/LENGTH]")]
    pub local: Vec<String>,
    /// The application behind a local endpoint: ADDR:PORT=PATH[,SID]
    #[arg(long, value_name = "ADDR:PORT=PATH[,SID]")]
    pub process: Vec<Process>,
    /// A network interface of the local host, for rules with `interface` and `interface_type`: its name, its type as
    /// `interface_type` has it, and the local addresses that it has; what has no other address is on an Ethernet interface
    #[arg(long, value_name = "NAME=TYPE[,ADDR[/LENGTH]]...")]
    pub interface: Vec<SimulatedInterface>,
    /// The driver to run, instead of the portcullis.sys in this program
    #[arg(long, value_name = "FILE.sys")]
    pub driver: Option<PathBuf>,
    /// Simulated processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Write the report as JSON ("-" is standard output, and replaces the tables): totals, flows, callouts, counters, the
    /// verifier's verdict, with --events the events
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write what the receiving ends got, as pcapng: what passed, as rules changed it and when it went on
    #[arg(long, value_name = "OUT.pcapng")]
    pub write: Option<PathBuf>,
    /// Write all packets, as pcapng, each with what was decided about it as its comment
    #[arg(long, value_name = "OUT.pcapng")]
    pub annotate: Option<PathBuf>,
    /// Show the driver's events as well
    #[arg(long)]
    pub events: bool,
}

/// `portcullis ask`.
#[derive(Debug, Args)]
pub struct Ask {
    /// Captures to replay, one after the other; without any, the driver on this machine asks
    #[cfg(target_os = "linux")]
    #[arg(value_name = "CAPTURE")]
    pub captures: Vec<PathBuf>,
    /// The policy, a TOML file: with captures the one in force, else its rules' names are shown
    #[arg(short, long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// How to replay.
    #[cfg(target_os = "linux")]
    #[command(flatten)]
    pub options: ReplayOptions,
    /// Answer the questions of a rule ("*": of every rule): RULE=permit|block|none
    #[arg(long, value_name = "RULE=ANSWER")]
    pub answer: Vec<Answer>,
    /// Answer by this file: RULE=permit|block|none a line
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// Permit whatever is asked about
    #[arg(long, conflicts_with_all = ["block_all", "answers"])]
    pub permit_all: bool,
    /// Block whatever is asked about
    #[arg(long, conflicts_with = "answers")]
    pub block_all: bool,
}

/// `portcullis capture`.
#[derive(Debug, Args)]
pub struct Capture {
    /// Where the packets go, as pcapng; the file has this name when it is whole
    #[arg(short, long, value_name = "OUT.pcapng")]
    pub write: PathBuf,
    /// The policy, a TOML file: with --replay the one in force, else its rules' names are written
    #[arg(short, long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// What to replay.
    #[cfg(target_os = "linux")]
    #[command(flatten)]
    pub simulated: Simulated,
    /// Only packets from or to this address or prefix; up to 8
    #[arg(long, value_name = "ADDR[/LENGTH]")]
    pub address: Vec<Prefix>,
    /// Only packets from or to this port, or these; up to 8
    #[arg(long, value_name = "N[-M]")]
    pub port: Vec<Ports>,
    /// Only packets of this protocol: tcp, udp, icmp, icmpv6 or a number; up to 8
    #[arg(long, value_name = "NAME", value_parser = protocol)]
    pub protocol: Vec<u8>,
    /// Bytes kept of each packet
    #[arg(long, value_name = "BYTES", default_value_t = 65_535, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub snap: u32,
    /// Size of the driver's ring, in bytes: what does not fit until it is read is dropped and counted
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, value_parser = clap::value_parser!(u32).range(65_536..=67_108_864))]
    pub ring: u32,
    /// At most so many packets
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// At most so long after the first packet
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
    /// Write what was captured, blocked and dropped as JSON ("-" is standard output, and replaces the text)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What `portcullis capture` replays.
#[derive(Debug, Args)]
pub struct Simulated {
    /// Replay this capture through the driver in the simulated kernel, and write what the driver captures; may be given
    /// more than once. Without it, the driver on this machine captures
    #[arg(long, value_name = "CAPTURE")]
    pub replay: Vec<PathBuf>,
    /// An address or prefix of the local host; found out from the traffic when not given
    #[arg(long, value_name = "ADDR[/LENGTH]", requires = "replay")]
    pub local: Vec<String>,
    /// The application behind a local endpoint: ADDR:PORT=PATH[,SID]
    #[arg(long, value_name = "ADDR:PORT=PATH[,SID]", requires = "replay")]
    pub process: Vec<Process>,
    /// A network interface of the local host: its name, its type, and the local addresses that it has
    #[arg(long, value_name = "NAME=TYPE[,ADDR[/LENGTH]]...", requires = "replay")]
    pub interface: Vec<SimulatedInterface>,
    /// The driver to run, instead of the portcullis.sys in this program
    #[arg(long, value_name = "FILE.sys", requires = "replay")]
    pub driver: Option<PathBuf>,
    /// Simulated processors
    #[arg(long, value_name = "N", default_value_t = 1, requires = "replay", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
}

/// `portcullis policy`.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Say whether a policy is valid, with every error and warning in it
    ///
    /// Exit status: 0 valid, whatever is warned of, 1 not.
    Check {
        /// The policy, a TOML file
        file: PathBuf,
        /// The LUID of a network interface that the policy names; without any, on another system than Windows, whatever
        /// is written is taken for a name
        #[arg(long, value_name = "NAME=LUID")]
        interface: Vec<NamedInterface>,
        /// Print how many rules there are and the warnings, or the errors, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Compile a policy into the form that the driver takes
    Compile {
        /// The policy, a TOML file
        file: PathBuf,
        /// The LUID of a network interface that the policy names; without any, on Windows, this machine's are meant
        #[arg(long, value_name = "NAME=LUID")]
        interface: Vec<NamedInterface>,
        /// Where the compiled policy goes
        #[arg(short, long, value_name = "BLOB")]
        output: PathBuf,
    },
    /// Put a policy into force in the driver on this machine
    #[cfg(windows)]
    Set {
        /// The policy, a TOML file
        file: PathBuf,
        /// Every decision makes events, not only those of rules with `log`
        #[arg(long)]
        events: bool,
    },
    /// Withdraw the policy that is in force: everything is permitted
    #[cfg(windows)]
    Clear,
}

/// `portcullis proxy`.
#[derive(Debug, Args)]
pub struct Proxy {
    /// Where to listen, as the policy's `redirect` says; may be given more than once
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "demo")]
    pub listen: Vec<SocketAddr>,
    /// Show it in the simulated kernel: a connection and a datagram through the driver, to a real proxy and real servers
    #[arg(long)]
    pub demo: bool,
    /// The driver to run, instead of the portcullis.sys in this program
    #[arg(long, value_name = "FILE.sys", requires = "demo")]
    pub driver: Option<PathBuf>,
}

/// `portcullis image`.
#[derive(Debug, Args)]
pub struct Image {
    /// The driver image
    #[arg(value_name = "FILE.sys")]
    pub file: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// `portcullis verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The driver image
    #[arg(value_name = "FILE.sys", required_unless_present = "rules")]
    pub file: Option<PathBuf>,
    /// List the verifier's rules: severity, name, what must hold, where it is written
    #[arg(long, conflicts_with = "file")]
    pub rules: bool,
    /// Simulated processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Interleave processors as drawn from N: the same seed gives the same run
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Make every call that can fail fail in turn, each in a process of its own, on all cores
    #[arg(long, conflicts_with_all = ["fail_nth", "fail_random", "rules"])]
    pub fail_each: bool,
    /// Make the N-th call that can fail fail (with --seed 0 unless given)
    #[arg(long, value_name = "N", conflicts_with = "fail_random")]
    pub fail_nth: Option<u64>,
    /// Make calls fail at random, drawn from SEED
    #[arg(long, value_name = "SEED")]
    pub fail_random: Option<u64>,
    /// With --fail-random: one call in N fails
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub fail_one_in: u32,
    /// Where pool is guarded: behind each block, before it, or by patterns that are checked later
    #[arg(long, value_enum, default_value_t = PoolGuard::End)]
    pub pool: PoolGuard,
    /// Put this policy into force, when the driver is portcullis.sys
    #[arg(short, long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// A network interface that the policy names: its name, its type, and those of the host's addresses that it has; these
    /// are `192.0.2.10` and `2001:db8::10`
    #[arg(long, value_name = "NAME=TYPE[,ADDR[/LENGTH]]...", requires = "policy")]
    pub interface: Vec<SimulatedInterface>,
    /// The linker's program database, for functions and lines; FILE.pdb beside FILE.sys when not given
    #[arg(long, value_name = "FILE.pdb")]
    pub pdb: Option<PathBuf>,
    /// Write which lines of the driver ran, as lcov does, and show how many of each source file
    #[arg(long, value_name = "FILE.lcov", conflicts_with = "rules")]
    pub coverage: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// How pool is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PoolGuard {
    /// Each block ends at an inaccessible page
    End,
    /// Each block begins at an inaccessible page
    Start,
    /// Blocks lie between patterns
    Pattern,
}

impl PoolGuard {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Start => "start",
            Self::Pattern => "pattern",
        }
    }
}

#[cfg(target_os = "linux")]
impl From<PoolGuard> for ksim::PoolMode {
    fn from(guard: PoolGuard) -> Self {
        match guard {
            PoolGuard::End => Self::Special,
            PoolGuard::Start => Self::SpecialStart,
            PoolGuard::Pattern => Self::Fast,
        }
    }
}

/// `portcullis coverage`.
#[derive(Debug, Subcommand)]
pub enum Coverage {
    /// Make the folder's files for a driver: nothing ran yet
    Prepare(CoverageTarget),
    /// Say which lines of the driver ran
    Report(CoverageReport),
}

/// What coverage is measured of, and where it is kept.
#[derive(Debug, Args)]
pub struct CoverageTarget {
    /// Where it is kept what ran
    pub folder: PathBuf,
    /// The driver image
    #[arg(value_name = "FILE.sys")]
    pub file: PathBuf,
    /// The linker's program database; FILE.pdb beside FILE.sys when not given
    #[arg(long, value_name = "FILE.pdb")]
    pub pdb: Option<PathBuf>,
}

/// `portcullis coverage report`.
#[derive(Debug, Args)]
pub struct CoverageReport {
    /// The driver.
    #[command(flatten)]
    pub target: CoverageTarget,
    /// Only source files below this folder, named from there on
    #[arg(long, value_name = "PATH")]
    pub root: Option<String>,
    /// Only source files below this folder of the root; may be given more than once
    #[arg(long, value_name = "PATH", requires = "root")]
    pub below: Vec<String>,
    /// Write the report for programs, as lcov does
    #[arg(long, value_name = "FILE.lcov")]
    pub lcov: Option<PathBuf>,
    /// List the lines that did not run
    #[arg(long)]
    pub uncovered: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
