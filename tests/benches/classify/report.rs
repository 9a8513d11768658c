//! What was measured, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::kinds::Cost;
use crate::replay::Replay;
use crate::steps::Instructions;
use crate::timing::Nanoseconds;
use crate::{policies, traffic};

/// A row's figures.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    /// From the network stack's question to its answer.
    pub(crate) whole: Nanoseconds,
    /// The driver's classify function alone; `None` where calls can't be repeated, or where there is no driver.
    pub(crate) driver: Option<Nanoseconds>,
    /// `None`: not available here.
    pub(crate) instructions: Option<Instructions>,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Life {
    pub(crate) repetitions: usize,
    pub(crate) start: Nanoseconds,
    pub(crate) stop: Nanoseconds,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    processor: String,
    processors: usize,
    profile: &'static str,
    quick: bool,
    policy_seed: u64,
    traffic_seed: u64,
    pub(crate) rows: Vec<Measured>,
    pub(crate) kinds: Vec<Cost>,
    pub(crate) life: Option<Life>,
    pub(crate) replay: Option<Replay>,
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = information
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown processor", |(_, name)| name);
        Self {
            processor: processor.to_owned(),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            profile: if cfg!(debug_assertions) {
                "debug: these figures mean nothing"
            } else {
                "release"
            },
            quick,
            policy_seed: policies::SEED,
            traffic_seed: traffic::SEED,
            rows: Vec::new(),
            kinds: Vec::new(),
            life: None,
            replay: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} processors; profile {}{}; seeds: policies {:#x}, traffic {:#x}",
            self.processor,
            self.processors,
            self.profile,
            if self.quick { ", quick" } else { "" },
            self.policy_seed,
            self.traffic_seed
        )?;
        if !self.rows.is_empty() {
            self.write_rows(f)?;
        }
        if !self.kinds.is_empty() {
            self.write_kinds(f)?;
        }
        if let Some(Life {
            repetitions,
            start,
            stop,
        }) = &self.life
        {
            writeln!(
                f,
                "\nStart and stop, milliseconds, {repetitions} times: median (minimum to maximum)"
            )?;
            for (what, time) in [("load and start", start), ("stop and unload", stop)] {
                let Nanoseconds {
                    median,
                    minimum,
                    maximum,
                } = time;
                writeln!(
                    f,
                    "  {what:<16} {median:7.2} ({minimum:.2} to {maximum:.2})"
                )?;
            }
        }
        self.replay
            .as_ref()
            .map_or(Ok(()), |replay| write_replay(f, replay))
    }
}

impl Report {
    fn write_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nOne classify: median (minimum to maximum) of nanoseconds, and instructions"
        )?;
        writeln!(
            f,
            "{:<48}{:>26}{:>26}{:>8}{:>8}",
            "", "whole", "driver", "whole", "driver"
        )?;
        let time = |time: &Nanoseconds| {
            let Nanoseconds {
                median,
                minimum,
                maximum,
            } = time;
            format!("{median:.0} ns ({minimum:.0} to {maximum:.0})")
        };
        for Measured {
            name,
            whole,
            driver,
            instructions,
        } in &self.rows
        {
            let driver = driver.as_ref().map_or_else(|| "-".to_owned(), time);
            let [in_all, in_driver] = instructions
                .map_or(["n/a".to_owned(), "n/a".to_owned()], |count| {
                    [count.whole, count.driver].map(|count| count.to_string())
                });
            writeln!(
                f,
                "{name:<48}{:>26}{driver:>26}{in_all:>8}{in_driver:>8}",
                time(whole)
            )?;
        }
        if self.rows.iter().any(|row| row.instructions.is_none()) {
            writeln!(f, "n/a: not available here; counting needs ptrace(2)")?;
        }
        Ok(())
    }
}

impl Report {
    fn write_kinds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nKinds of rules, ns a unit through the whole machine, medians: with the rule, without, and the difference"
        )?;
        for Cost {
            name,
            unit,
            with,
            without,
        } in &self.kinds
        {
            writeln!(
                f,
                "{name:<28}{unit:<12}{:>9.0}{:>9.0}{:>9.0}",
                with.median,
                without.median,
                with.median - without.median
            )?;
        }
        Ok(())
    }
}

fn write_replay(f: &mut fmt::Formatter<'_>, replay: &Replay) -> fmt::Result {
    let Replay {
        packets,
        flows,
        bytes,
        per_second,
        per_second_range: [slowest, fastest],
        ..
    } = replay;
    writeln!(
        f,
        "\nReplay: {packets} packets of {} bytes on average, {flows} flows, {:.2} classifies a packet, one processor",
        bytes / packets,
        replay.classifies
    )?;
    writeln!(
        f,
        "  {per_second:.0} packets a second ({slowest:.0} to {fastest:.0}); {:.0} with start and stop and \
        all",
        replay.per_second_in_all
    )?;
    let whole = 1e9 / per_second;
    writeln!(
        f,
        "  {whole:.0} ns a packet: reading {:.0}, stack and filter engine {:.0}, driver and its calls {:.0}",
        replay.reading,
        replay.without_driver - replay.reading,
        whole - replay.without_driver
    )
}
