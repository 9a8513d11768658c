//! What is done with a driver: started, its devices opened and asked, traffic on every processor while the filter
//! engine stops and starts, unloaded in the middle of traffic.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;

use ksim::net::{Interfaces, LocalSide, Setup};
use ksim::sched::Program;
use ksim::{Bugcheck, Caller, Cpu, Driver, FileHandle, Kernel, OpenError, Report};
use portcullis_proto::device::WIN32_PATH;
use wfp_schema::NtStatus;

use crate::arguments::SimulatedInterface;
use crate::capture;
use crate::control::{self, ControlError};
use crate::replay::{Fate, NamedLinks, Shard};
use crate::simulation::SimulatedDevice;

/// Recorded traffic of one host: TLS, HTTP, DNS and ping over IPv4 and IPv6.
const TRAFFIC: &[u8] = include_bytes!("../../../../../tests/captures/web.pcap");
/// That host's addresses.
const LOCAL: [[u16; 8]; 2] = [
    [0, 0, 0, 0, 0, 0xffff, 0xc000, 0x020a],
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10],
];

/// What was done so far, told as it happens.
#[derive(Debug)]
pub(super) struct Steps {
    quiet: bool,
    done: Vec<String>,
    /// Why the driver did not start, if it did not.
    not_started: Option<NtStatus>,
}

impl Steps {
    /// Nothing was done. `quiet` ones are not told.
    pub(super) const fn new(quiet: bool) -> Self {
        Self {
            quiet,
            done: Vec::new(),
            not_started: None,
        }
    }

    /// This was done.
    pub(super) fn add(&mut self, step: String) {
        if !self.quiet {
            say!("{step}");
        }
        self.done.push(step);
    }

    /// Why the driver did not start, if it did not.
    pub(super) const fn not_started(&self) -> Option<NtStatus> {
        self.not_started
    }

    /// Everything that was done.
    pub(super) fn into_done(self) -> Vec<String> {
        self.done
    }
}

/// A machine, and what is done on it.
#[derive(Debug)]
pub(super) struct Scenario<'a> {
    /// The machine.
    pub(super) kernel: &'a Kernel,
    /// What is put into force if the driver is Portcullis.
    pub(super) policy: Option<Vec<u8>>,
    /// The interfaces that it names.
    pub(super) interfaces: &'a [SimulatedInterface],
    /// Whether traffic, requests, the filter engine and the unload come at the same time.
    pub(super) concurrent: bool,
}

/// Packets that passed and that were blocked.
#[derive(Debug, Default, Clone, Copy)]
struct Fates {
    passed: usize,
    blocked: usize,
}

impl Scenario<'_> {
    /// Takes the driver through its life.
    pub(super) fn run(&self, driver: Driver, steps: &mut Steps) -> Result<Report, Bugcheck> {
        let kernel = self.kernel;
        let status = driver.start()?;
        steps.add(format!("started: {status}"));
        if !status.is_success() {
            steps.not_started = Some(status);
            return driver.unload();
        }
        let handles = self.open_devices(steps)?;
        self.set_policy(steps)?;
        self.traffic(steps, "with the filter engine running")?;
        kernel.on(0, |_| kernel.bfe().stop())?;
        self.traffic(steps, "with the filter engine stopped")?;
        kernel.on(0, |_| kernel.bfe().start())?;
        self.traffic(steps, "with the filter engine running again")?;
        if self.concurrent {
            self.all_at_once(&handles)?;
            steps.add(
                "traffic, requests, and the filter engine stopping and starting at the same time"
                    .to_owned(),
            );
        }
        for handle in handles {
            handle.close()?;
        }
        let report = if self.concurrent {
            let report = self.unload_in_traffic(driver)?;
            steps.add("unloaded in the middle of traffic".to_owned());
            report
        } else {
            let report = driver.unload()?;
            steps.add("unloaded".to_owned());
            report
        };
        Ok(report)
    }

    fn open_devices(&self, steps: &mut Steps) -> Result<Vec<FileHandle>, Bugcheck> {
        let mut handles = Vec::new();
        for name in self.kernel.io().names() {
            match self.kernel.open(&name, Caller::administrator()) {
                Ok(handle) => {
                    steps.add(format!("opened {name}"));
                    let refused = unknown_request(&handle)?;
                    steps.add(format!("an unknown control code: {refused}"));
                    handles.push(handle);
                }
                Err(OpenError::Bugcheck(bugcheck)) => return Err(bugcheck),
                Err(error) => steps.add(format!("{name}: {error}")),
            }
        }
        Ok(handles)
    }

    /// Puts the policy into force, and asks Portcullis for everything that it tells.
    fn set_policy(&self, steps: &mut Steps) -> Result<(), Bugcheck> {
        let Some(policy) = &self.policy else {
            return Ok(());
        };
        let device = match self.kernel.open(WIN32_PATH, Caller::administrator()) {
            Ok(handle) => SimulatedDevice::new(handle),
            Err(OpenError::Bugcheck(bugcheck)) => return Err(bugcheck),
            Err(error) => {
                steps.add(format!("no policy was set: {error}"));
                return Ok(());
            }
        };
        let answer = |result: Result<(), ControlError>| match result {
            Ok(()) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        steps.add(format!(
            "set policy: {}",
            answer(control::set_policy(&device, policy))
        ));
        let asked = control::status(&device)
            .and_then(|_| control::statistics(&device))
            .and_then(|_| control::take_events(&device, &mut Vec::new()));
        steps.add(format!("status, statistics, events: {}", answer(asked)));
        self.kernel.bugcheck().map_or(Ok(()), Err)?;
        device.close()
    }

    /// Traffic on one processor after the other.
    fn traffic(&self, steps: &mut Steps, when: &str) -> Result<(), Bugcheck> {
        let mut sum = Fates::default();
        for index in 0..self.kernel.processors() {
            let fates = self.traffic_on(index)?;
            sum.passed += fates.passed;
            sum.blocked += fates.blocked;
        }
        let Fates { passed, blocked } = sum;
        steps.add(format!(
            "traffic {when}: {passed} packets passed, {blocked} blocked"
        ));
        Ok(())
    }

    /// Replays the recorded traffic on a processor.
    fn traffic_on(&self, index: u32) -> Result<Fates, Bugcheck> {
        let mut local = LocalSide::default();
        for address in LOCAL {
            local.insert(IpAddr::from(address).to_canonical());
        }
        let mut interfaces = Interfaces::default();
        let links = NamedLinks::new(self.interfaces, &mut interfaces, &mut local);
        let setup = Setup {
            local,
            interfaces,
            shard: u16::try_from(index).unwrap_or(u16::MAX),
            ..Setup::default()
        };
        let fates = self.kernel.on(index, |cpu| replay(cpu, setup, links))?;
        let count = |wanted: Fate| fates.iter().filter(|fate| **fate == wanted).count();
        Ok(Fates {
            passed: count(Fate::Passed),
            blocked: count(Fate::Blocked),
        })
    }

    /// A program for each processor that has traffic there.
    fn traffic_everywhere(&self) -> Vec<Program<'_, Result<(), Bugcheck>>> {
        (0..self.kernel.processors())
            .map(|index| -> Program<'_, _> { Box::new(move || self.traffic_on(index).map(drop)) })
            .collect()
    }

    fn all_at_once(&self, handles: &[FileHandle]) -> Result<(), Bugcheck> {
        let kernel = self.kernel;
        let mut programs = self.traffic_everywhere();
        programs.push(Box::new(move || {
            kernel.on(0, |_| kernel.bfe().stop())?;
            kernel.on(0, |_| kernel.bfe().start())
        }));
        for handle in handles {
            programs.push(Box::new(move || unknown_request(handle).map(drop)));
        }
        kernel.together(programs).into_iter().collect()
    }

    fn unload_in_traffic(&self, driver: Driver) -> Result<Report, Bugcheck> {
        let mut report = None;
        let mut programs = self.traffic_everywhere();
        let unloaded = &mut report;
        programs.push(Box::new(move || {
            *unloaded = Some(driver.unload()?);
            Ok(())
        }));
        let ended: Result<(), Bugcheck> = self.kernel.together(programs).into_iter().collect();
        ended?;
        Ok(report.unwrap_or_else(|| self.kernel.verifier().report()))
    }
}

/// A code that no driver has: to be refused, whatever comes with it.
fn unknown_request(handle: &FileHandle) -> Result<NtStatus, Bugcheck> {
    Ok(handle.ioctl(0xffff_fffc, &[0xff; 64], 64)?.status)
}

fn replay(cpu: &Cpu, setup: Setup, links: NamedLinks) -> Vec<Fate> {
    let mut shard = Shard::new(cpu, setup).with_links(links);
    let mut number = 0;
    let read = capture::read_from(Path::new("recorded traffic"), TRAFFIC, |frame| {
        shard.frame(number, &frame);
        shard.settle(cpu);
        number += 1;
        ControlFlow::Continue(())
    });
    debug_assert!(read.is_ok(), "the recorded traffic is well-formed");
    shard.finish(cpu);
    shard
        .take_frames()
        .into_iter()
        .map(|frame| frame.fate)
        .collect()
}
