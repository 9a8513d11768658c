//! How fast captures are replayed.

#![allow(
    clippy::cast_precision_loss,
    reason = "counts of packets are far below 2^52"
)]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ksim::net::{LocalSide, Setup};
use portcullis_cli::capture;
use portcullis_cli::replay::{Plan, Shard, run};
use serde::Serialize;

use crate::policies::{Events, Kind, policy};
use crate::timing::Nanoseconds;
use crate::{machine, traffic};

/// A replay of generated traffic on one processor.
#[derive(Debug, Serialize)]
pub(crate) struct Replay {
    pub(crate) packets: u64,
    pub(crate) flows: usize,
    pub(crate) bytes: u64,
    /// Packets per second: reading the capture and replaying, as `portcullis replay` says.
    pub(crate) per_second: f64,
    /// The slowest and the fastest repetition.
    pub(crate) per_second_range: [f64; 2],
    /// Packets per second with all that surrounds it: finding the local side, start and stop of the machine.
    pub(crate) per_second_in_all: f64,
    /// Nanoseconds a packet for reading the capture alone.
    pub(crate) reading: f64,
    /// Nanoseconds a packet for reading and the network stack, with filters but without a driver.
    pub(crate) without_driver: f64,
    /// Classifies of the driver's callouts for each packet.
    pub(crate) classifies: f64,
}

/// Replays `packets` generated packets `repetitions` times.
pub(crate) fn measure(
    image: &[u8],
    directory: &Path,
    packets: usize,
    repetitions: usize,
) -> Replay {
    std::fs::create_dir_all(directory).expect("the target directory");
    let file = directory.join("replay.pcap");
    let bytes = traffic::write(&file, packets).expect("the generated capture");
    let remote = machine::conversation(wfp_schema::IpVersion::V4, machine::TCP, 443).remote;
    let plan = Plan {
        captures: vec![file.clone()],
        policy: Some(policy(Kind::Endpoints, 10, remote, Events::All)),
        local: traffic::LOCAL.map(str::to_owned).to_vec(),
        processes: Vec::new(),
        interfaces: Vec::new(),
        driver: image.to_vec(),
        pdb: None,
        cpus: 1,
        write: None,
        annotate: None,
        rules: Vec::new(),
        capture: None,
        answers: portcullis_cli::ask::Answers::default(),
    };
    let mut rates = Vec::new();
    let mut in_all = Vec::new();
    let mut last = None;
    for _ in 0..repetitions.max(1) {
        let begun = Instant::now();
        let outcome = run(&plan, &|_, _| ()).expect("a replay");
        in_all.push(begun.elapsed().as_secs_f64());
        assert!(outcome.verifier.is_clean(), "{:#?}", outcome.verifier);
        assert_eq!(outcome.frames, packets as u64);
        rates.push(packets as f64 / outcome.duration.as_secs_f64());
        last = Some(outcome);
    }
    let outcome = last.expect("one repetition at least");
    let rate = Nanoseconds::of(rates);
    let classifies: u64 = outcome
        .callouts
        .iter()
        .map(|callout| callout.classify.get())
        .sum();
    let reading = per_packet(&plan.captures, packets, repetitions, read_only);
    let without_driver = per_packet(&plan.captures, packets, repetitions, stack_only);
    drop(std::fs::remove_file(&file));
    Replay {
        packets: outcome.frames,
        flows: outcome.flows.len(),
        bytes,
        per_second: rate.median,
        per_second_range: [rate.minimum, rate.maximum],
        per_second_in_all: packets as f64 / Nanoseconds::of(in_all).median,
        reading,
        without_driver,
        classifies: classifies as f64 / packets as f64,
    }
}

fn per_packet(
    captures: &[PathBuf],
    packets: usize,
    repetitions: usize,
    pass: fn(&[PathBuf]),
) -> f64 {
    let samples = (0..repetitions.max(1))
        .map(|_| crate::timing::timed(|| pass(captures)).as_secs_f64())
        .collect();
    Nanoseconds::of(samples).median * 1e9 / packets as f64
}

/// Reads the captures, and nothing else.
fn read_only(captures: &[PathBuf]) {
    for file in captures {
        capture::read(file, |frame| {
            black_box(capture::ip_packet(&frame).ok());
            ControlFlow::Continue(())
        })
        .expect("the generated capture");
    }
}

/// Reads the captures into a stack whose filters ask no callout.
fn stack_only(captures: &[PathBuf]) {
    let mut local = LocalSide::default();
    for address in traffic::LOCAL {
        local.insert(address.parse().expect("an address"));
    }
    let kernel = machine::without_driver();
    let pass = |cpu: &ksim::Cpu| {
        let mut shard = Shard::new(
            cpu,
            Setup {
                local,
                ..Setup::default()
            },
        );
        let mut number = 0;
        for file in captures {
            capture::read(file, |frame| {
                shard.frame(number, &frame);
                number += 1;
                ControlFlow::Continue(())
            })
            .expect("the generated capture");
        }
        shard.finish(cpu);
    };
    kernel.on(0, pass).expect("no bug check");
}
