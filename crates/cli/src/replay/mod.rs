//! Replaying captures through the driver.

mod decisions;
mod delivery;
mod interfaces;
mod local;
mod processors;
mod shard;
mod write;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use ksim::net::{Discovery, FlowIndex, FlowReport, Identity, Interfaces, Processes, Setup};
use ksim::{Config, Cpu, Report};
use portcullis_core::policy::RuleIndex;
use portcullis_core::{Effect, PolicyView};
use portcullis_proto::counter::Counter;
use portcullis_proto::event::EventRecord;
use portcullis_proto::status::{CalloutStatus, StatusReply};

use self::processors::{Results, Tally, in_place, spread};
pub use decisions::{Decided, Decisions, address};
pub use interfaces::NamedLinks;
pub(crate) use interfaces::luids;
pub use shard::{Fate, FrameReport, Shard};

use crate::arguments::{Process, SimulatedInterface};
use crate::ask::Answers;
use crate::capture::{self, CaptureError, Frame};
use crate::control::{self, ControlError};
use crate::live::{self, CaptureOptions, Captured, Session};
use crate::simulation::{Simulation, SimulationError};

/// What to replay, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The captures, in order.
    pub captures: Vec<PathBuf>,
    /// The compiled policy; none permits everything.
    pub policy: Option<Vec<u8>>,
    /// Addresses and prefixes of the local host; found out when empty.
    pub local: Vec<String>,
    /// Who owns local endpoints.
    pub processes: Vec<Process>,
    /// The local host's network interfaces.
    pub interfaces: Vec<SimulatedInterface>,
    /// The driver image.
    pub driver: Vec<u8>,
    /// Its program database, for names in reports.
    pub pdb: Option<Vec<u8>>,
    /// Simulated processors.
    pub cpus: u32,
    /// Where the frames that passed go.
    pub write: Option<PathBuf>,
    /// Where all frames go, with what was decided about each as its comment.
    pub annotate: Option<PathBuf>,
    /// The rules' names, for comments.
    pub rules: Vec<String>,
    /// What the driver is to capture meanwhile.
    pub capture: Option<CaptureOptions>,
    /// Who answers the driver's questions; on one processor only.
    pub answers: Answers,
}

/// Why a replay did not take place, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A capture.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The machine or the driver.
    #[error(transparent)]
    Simulation(#[from] SimulationError),
    /// The driver's control device.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// An option.
    #[error("{0}")]
    Option(String),
    /// What the driver captures.
    #[error(transparent)]
    Live(#[from] live::CaptureError),
    /// The capture that is written.
    #[error("{}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ReplayError {
    /// Whether the driver did what stops a machine: a fault of its own, not of the input.
    #[must_use]
    pub const fn stopped_the_machine(&self) -> bool {
        matches!(
            self,
            Self::Simulation(SimulationError::Bugcheck(_))
                | Self::Control(ControlError::Stopped(_))
                | Self::Live(live::CaptureError::Control(ControlError::Stopped(_)))
        )
    }
}

/// A flow as the stack counted it, with what the driver decided.
#[derive(Debug, Clone)]
pub struct Flow {
    /// What the stack counted.
    pub report: FlowReport,
    /// What the driver decided.
    pub decided: Decided,
}

impl Flow {
    /// Whether anything of it was blocked.
    #[must_use]
    pub const fn blocked(&self) -> bool {
        self.report.blocked_at.is_some()
    }

    /// The rule behind its verdict; `None` is the default action.
    #[must_use]
    pub const fn rule(&self) -> Option<u32> {
        match (self.blocked(), self.decided.blocked_by) {
            (true, Some(rule)) => rule,
            _ => self.decided.rule,
        }
    }
}

/// Everything that a replay showed.
#[derive(Debug)]
pub struct Outcome {
    /// How the local side was found; `None` when it was given.
    pub discovery: Option<Discovery>,
    /// The names and LUIDs of the interfaces that were named.
    pub interfaces: Vec<(String, u64)>,
    /// The flows, in the order of their first packets.
    pub flows: Vec<Flow>,
    /// The driver's events, in order.
    pub events: Vec<EventRecord>,
    /// The driver's status at the end.
    pub status: StatusReply,
    /// Its callouts at the end.
    pub callouts: Vec<CalloutStatus>,
    /// Its counters at the end.
    pub statistics: Vec<(Counter, u64)>,
    /// The verifier's verdict after the driver was unloaded.
    pub verifier: Report,
    /// Frames read.
    pub frames: u64,
    /// Frames that hold no IP packet.
    pub not_ip: u64,
    /// Frames that passed, those without IP and of other hosts among them.
    pub passed: u64,
    /// Frames with IP of which this host is no end: they pass.
    pub of_other_hosts: u64,
    /// What the driver has captured, if it was to.
    pub captured: Option<Captured>,
    /// How long the packets took to replay, without reading the captures for the local side and without start and
    /// stop.
    pub duration: Duration,
}

impl Outcome {
    /// Frames that were blocked.
    #[must_use]
    pub const fn blocked(&self) -> u64 {
        self.frames - self.passed
    }
}

#[derive(Debug)]
struct OwnedFrame {
    link: capture::LinkType,
    time: u64,
    original_length: u32,
    data: Vec<u8>,
}

impl OwnedFrame {
    fn new(frame: &Frame<'_>) -> Self {
        let Frame {
            link,
            time,
            original_length,
            data,
        } = *frame;
        Self {
            link,
            time,
            original_length,
            data: data.to_vec(),
        }
    }

    fn frame(&self) -> Frame<'_> {
        Frame {
            link: self.link,
            time: self.time,
            original_length: self.original_length,
            data: &self.data,
        }
    }
}

/// Replays `plan`. `progress` is called from time to time with the number of frames done and their total.
///
/// # Errors
/// [`ReplayError`]; the machine is gone then.
pub fn run(plan: &Plan, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Outcome, ReplayError> {
    let survey = local::survey(&plan.captures, plan.local.is_empty())?;
    let total = survey.frames;
    let (setup, links, discovery) = host(plan, survey.discovery)?;
    let boot_time = first_time(&plan.captures)?;
    let config = Config {
        processors: plan.cpus,
        boot_time,
        ..Config::default()
    };
    let simulation = Simulation::start(&plan.driver, plan.pdb.as_deref(), &config)?;
    if let Some(policy) = &plan.policy {
        control::set_policy(simulation.device(), policy)?;
    }
    let session = plan
        .capture
        .clone()
        .map(|options| Session::start(simulation.device(), options, plan.rules.clone()));
    let session = session.transpose()?;
    // The replay plays the part of every proxy that the policy names.
    let proxies = simulation.open_as(PROXY_PROCESS)?;
    for listens in redirect_targets(plan.policy.as_deref().unwrap_or_default()) {
        control::register_proxy(&proxies, listens, 0)?;
    }
    let tally = Tally {
        links,
        total,
        done: AtomicU64::new(0),
        progress,
        results: Mutex::default(),
        session: Mutex::new(session),
    };
    let begun = Instant::now();
    if plan.cpus == 1 {
        let work = |cpu: &Cpu| in_place(cpu, simulation.device(), &setup, plan, &tally);
        simulation
            .kernel
            .on(0, work)
            .map_err(SimulationError::from)??;
    } else {
        spread(&simulation, &setup, plan, &tally)?;
    }
    let duration = begun.elapsed();
    let session = tally.session.into_inner();
    let session = session.unwrap_or_else(std::sync::PoisonError::into_inner);
    let captured = session.map(|session| session.finish(simulation.device()));
    let captured = captured.transpose()?;
    let mut results = tally
        .results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    control::take_events(simulation.device(), &mut results.events)?;
    // More than one processor has read.
    results.events.sort_by_key(|event| event.sequence.get());
    let (status, callouts) = control::status(simulation.device())?;
    let statistics = control::statistics(simulation.device())?;
    proxies.close().map_err(SimulationError::from)?;
    let verifier = simulation.stop()?;
    results.frames.sort_unstable_by_key(|frame| frame.number);
    let count = |fate: Fate| {
        let frames = results.frames.iter().filter(|frame| frame.fate == fate);
        frames.count() as u64
    };
    let not_ip = count(Fate::NotIp);
    let passed = not_ip + count(Fate::Passed);
    in_order(&mut results);
    let flows = join(results.flows, &results.events);
    if let Some(file) = &plan.write {
        write::passed(&plan.captures, file, &results.frames, &results.delivery)?;
    }
    if let Some(file) = &plan.annotate {
        write::annotated(plan, file, &results.frames, &flows)?;
    }
    Ok(Outcome {
        discovery,
        interfaces: luids(&plan.interfaces),
        flows,
        status,
        callouts,
        statistics,
        verifier,
        frames: total,
        not_ip,
        passed,
        of_other_hosts: results.of_other_hosts,
        captured,
        events: results.events,
        duration,
    })
}

/// The host that is replayed, which of its interfaces packets take, and how its addresses were found, unless they were
/// given.
fn host(
    plan: &Plan,
    found: Discovery,
) -> Result<(Setup, NamedLinks, Option<Discovery>), ReplayError> {
    let (mut local, discovery) = if plan.local.is_empty() {
        (found.local.clone(), Some(found))
    } else {
        let named = local::named(&plan.local).map_err(ReplayError::Option)?;
        (named, None)
    };
    let mut interfaces = Interfaces::default();
    let links = NamedLinks::new(&plan.interfaces, &mut interfaces, &mut local);
    let setup = Setup {
        local,
        interfaces,
        processes: processes(&plan.processes)?,
        // A capture may be of several hosts, all of which are taken for this one, and shows each conversation.
        both_halves: false,
        group_flows: false,
        journal: plan.write.is_some(),
        ..Setup::default()
    };
    Ok((setup, links, discovery))
}

/// The process that proxies are of in a replay.
const PROXY_PROCESS: u32 = 0x7000;

/// Where a compiled policy sends connections.
fn redirect_targets(policy: &[u8]) -> BTreeSet<SocketAddr> {
    let Ok(view) = PolicyView::validate(policy) else {
        return BTreeSet::new();
    };
    (0..u32::try_from(view.rule_count()).unwrap_or(0))
        .flat_map(|rule| view.effects(Some(RuleIndex(rule))))
        .filter_map(|effect| match effect {
            Effect::Redirect { to, .. } => Some(SocketAddr::new(to.address, to.port)),
            _ => None,
        })
        .collect()
}

fn processes(assigned: &[Process]) -> Result<Processes, ReplayError> {
    let mut processes = Processes::default();
    for (index, process) in (0..).zip(assigned) {
        let user = process
            .user
            .as_deref()
            .unwrap_or("S-1-5-18")
            .parse()
            .map_err(|error| {
                ReplayError::Option(format!("--process {}: {error}", process.local))
            })?;
        // Process ids are multiples of four on Windows; the first ones are the system's own.
        let identity = Identity::new(&process.path, 1_000 + 4 * index, user);
        processes.assign(process.local, identity);
    }
    Ok(processes)
}

/// The time of the first frame, at which the machine boots.
fn first_time(captures: &[PathBuf]) -> Result<u64, CaptureError> {
    let mut first = None;
    for file in captures {
        capture::read(file, |frame| {
            first = Some(ksim::time::UNIX_EPOCH + frame.time / 100);
            ControlFlow::Break(())
        })?;
        if first.is_some() {
            break;
        }
    }
    Ok(first.unwrap_or_else(|| Config::default().boot_time))
}

/// Puts the flows in the order of their first packets. Those without any are of packets that the driver injected, which
/// count with what they stand for.
fn in_order(results: &mut Results) {
    let has_packets = |&index: &usize| results.flows[index].packets != [0, 0];
    let mut order: Vec<usize> = (0..results.flows.len()).filter(has_packets).collect();
    order.sort_by_key(|&index| results.flows[index].first_seen);
    let mut places = vec![None; results.flows.len()];
    for (place, &index) in order.iter().enumerate() {
        places[index] = Some(FlowIndex(place));
    }
    results.flows = order
        .iter()
        .map(|&index| results.flows[index].clone())
        .collect();
    for frame in &mut results.frames {
        frame.flow = frame.flow.and_then(|FlowIndex(index)| places[index]);
    }
}

/// Puts the stack's flows and the driver's decisions together.
fn join(reports: Vec<FlowReport>, events: &[EventRecord]) -> Vec<Flow> {
    let mut decisions = Decisions::default();
    for event in events {
        decisions.add(event);
    }
    reports
        .into_iter()
        .map(|report| {
            let mut decided = decisions.of_flow(&report.handles);
            if decided.blocked_by.is_none() {
                let any: IpAddr = if report.local.address.is_ipv4() {
                    [0; 4].into()
                } else {
                    [0; 16].into()
                };
                decided.blocked_by = decisions
                    .of_listen(report.local.address, report.local.port)
                    .or_else(|| decisions.of_listen(any, report.local.port));
            }
            Flow { report, decided }
        })
        .collect()
}
