//! `cargo xtask bench`: what a classify costs in Portcullis and in `WinDivert`, how fast captures are replayed, and how
//! long the driver takes to start and to stop.
//!
//! All of it happens in the simulated kernel. `docs/performance.md` explains the rows.
#![forbid(unsafe_code)]

mod kinds;
mod machine;
mod policies;
#[path = "../../../crates/core/tests/shared/quic.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the core's tests")]
mod quic;
mod replay;
mod report;
mod rounds;
mod rows;
mod steps;
mod timing;
mod traffic;
mod windivert;

use std::path::{Path, PathBuf};

use clap::Parser;

use report::{Life, Measured, Report};
use rows::{Images, ROWS, Row};
use timing::{Effort, Nanoseconds, timed};

/// Measures Portcullis in the simulated kernel.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench --")]
struct Arguments {
    /// Measures only what has one of these in its name: a row's name, a kind's, "replay" or "start".
    filter: Vec<String>,
    /// Prints JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Measures a tenth as long: for a look, not for figures to keep.
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
    /// Executes one call of a row between two stops, for the process that counts its instructions.
    #[arg(long, hide = true)]
    steps_of: Option<String>,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|part| name.contains(part))
    }
}

/// Where fetched and generated files go.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned()
}

fn main() {
    let arguments = Arguments::parse();
    let mut images = Images {
        portcullis: portcullis_tests::image::portcullis().to_vec(),
        windivert: None,
    };
    if ROWS
        .iter()
        .any(|row| row.needs_windivert() && arguments.wants(row.name))
    {
        match portcullis_tests::foreign::windivert::find(&directory()) {
            Ok(image) => images.windivert = Some(image),
            Err(reason) => eprintln!("SKIPPED: the rows of WinDivert: {reason}"),
        }
    }
    if let Some(row) = &arguments.steps_of {
        steps::execute(row, &images);
    }
    let effort = if arguments.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    let mut report = Report::new(arguments.quick);
    for row in ROWS.iter().filter(|row| arguments.wants(row.name)) {
        eprintln!("{} …", row.name);
        report.rows.extend(measure(row, &images, effort));
    }
    let rounds = if arguments.quick { 11 } else { 101 };
    report.kinds = kinds::measure(rounds, |name| arguments.wants(name));
    if arguments.wants("start and stop") {
        eprintln!("start and stop …");
        report.life = Some(life(&images.portcullis, effort));
    }
    if arguments.wants("replay") {
        eprintln!("replay …");
        let (packets, repetitions) = if arguments.quick {
            (100_000, 1)
        } else {
            (1_000_000, 5)
        };
        report.replay = Some(replay::measure(
            &images.portcullis,
            &directory(),
            packets,
            repetitions,
        ));
    }
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report).expect("plain data")
        );
    } else {
        print!("{report}");
    }
}

fn measure(row: &Row, images: &Images, effort: Effort) -> Option<Measured> {
    let [whole, driver] = row.on_machine(images, |subject, _| {
        let mut one_by_one = |calls| {
            let mut time = std::time::Duration::ZERO;
            subject.run(calls, &mut |work| time = timed(work));
            time
        };
        let whole = effort.measure(&mut one_by_one);
        let mut can = false;
        let driver = effort.measure(|calls| {
            let mut time = std::time::Duration::ZERO;
            can = subject.run_inside(calls, &mut |work| time = timed(work));
            time
        });
        [Some(whole), (can && row.has_driver()).then_some(driver)]
    })?;
    let instructions = steps::count(row.name)
        .inspect_err(|error| eprintln!("instructions: {error}"))
        .ok();
    Some(Measured {
        name: row.name,
        whole: whole?,
        driver,
        instructions,
    })
}

fn life(image: &[u8], effort: Effort) -> Life {
    let repetitions = effort.batches.max(20);
    let times: Vec<_> = (0..repetitions).map(|_| rows::life(image)).collect();
    let milliseconds = |which: usize| {
        Nanoseconds::of(
            times
                .iter()
                .map(|times| times[which].as_secs_f64() * 1e3)
                .collect(),
        )
    };
    Life {
        repetitions,
        start: milliseconds(0),
        stop: milliseconds(1),
    }
}
