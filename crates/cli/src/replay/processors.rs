//! How frames come to the simulated processors, and what comes back from them.

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use ksim::Cpu;
use ksim::net::{FlowIndex, FlowReport, Setup, flow_hash};
use portcullis_proto::event::EventRecord;

use super::delivery::Delivery;
use super::interfaces::NamedLinks;
use super::{FrameReport, OwnedFrame, Plan, ReplayError, Shard};
use crate::ask;
use crate::capture::{self, CaptureError};
use crate::control::{self, ControlError, Wait};
use crate::live::Session;
use crate::simulation::{SimulatedDevice, Simulation, SimulationError};

/// A batch of frames on its way to a processor.
type Batch = Vec<(u64, OwnedFrame)>;

/// Frames between two looks at what the driver has put off.
const STRIDE: u64 = 64;
/// Frames between two looks at the driver's events: a frame makes four at most, and the driver keeps 4,096.
const EVENTS_STRIDE: u64 = 512;
/// Frames handed to another processor at once, and batches that may wait for it.
const BATCH: usize = 256;
const BATCHES: usize = 8;

/// What the processors give back.
#[derive(Default)]
pub(super) struct Results {
    pub(super) flows: Vec<FlowReport>,
    pub(super) events: Vec<EventRecord>,
    pub(super) frames: Vec<FrameReport>,
    pub(super) delivery: Delivery,
    pub(super) of_other_hosts: u64,
}

/// The replay's progress, shared by its processors.
pub(super) struct Tally<'a> {
    /// Which packets take which of the host's interfaces.
    pub(super) links: NamedLinks,
    pub(super) total: u64,
    pub(super) done: AtomicU64,
    pub(super) progress: &'a (dyn Fn(u64, u64) + Sync),
    pub(super) results: Mutex<Results>,
    /// What the driver captures.
    pub(super) session: Mutex<Option<Session>>,
}

impl Tally<'_> {
    /// Takes what the driver has captured by now.
    fn take_captured(&self, device: &SimulatedDevice) -> Result<(), ReplayError> {
        let mut session = self
            .session
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        session
            .as_mut()
            .map_or(Ok(()), |session| Ok(session.take(device, false)?))
    }

    fn advance(&self, frames: u64) {
        let done = self.done.fetch_add(frames, Ordering::Relaxed) + frames;
        (self.progress)(done, self.total);
    }

    fn add(&self, shard: &mut Shard<'_>, events: Vec<EventRecord>) {
        let mut results = self
            .results
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // The flows of all shards are one list.
        let before = results.flows.len();
        let frames = shard.take_frames().into_iter().map(|frame| FrameReport {
            flow: frame.flow.map(|FlowIndex(index)| FlowIndex(before + index)),
            ..frame
        });
        results.frames.extend(frames);
        results.flows.extend_from_slice(shard.flows());
        results.events.extend(events);
        results.delivery.add(shard.take_delivery());
        results.of_other_hosts += shard.of_other_hosts();
        drop(results);
    }
}

/// One processor replays everything, reading the captures itself.
pub(super) fn in_place(
    cpu: &Cpu,
    device: &SimulatedDevice,
    setup: &Setup,
    plan: &Plan,
    tally: &Tally<'_>,
) -> Result<(), ReplayError> {
    let mut shard = Shard::new(cpu, setup.clone()).with_links(tally.links.clone());
    let mut events = Vec::new();
    let mut number = 0;
    let answers = Some(&plan.answers).filter(|answers| !answers.is_empty());
    let answer = |shard: &mut Shard<'_>| -> Result<(), ControlError> {
        let Some(answers) = answers else {
            return Ok(());
        };
        shard.settle(cpu);
        if ask::serve(device, &plan.rules, answers, Wait::No)? > 0 {
            shard.settle(cpu);
        }
        Ok(())
    };
    // Whoever reads questions is asked from then on.
    answer(&mut shard)?;
    for file in &plan.captures {
        let mut failed: Option<ReplayError> = None;
        capture::read(file, |frame| {
            shard.until(cpu, &frame);
            shard.frame(number, &frame);
            number += 1;
            failed = answer(&mut shard).err().map(ReplayError::from);
            if failed.is_none() && number % STRIDE == 0 {
                shard.settle(cpu);
                tally.advance(STRIDE);
                failed = tally.take_captured(device).err();
            }
            if failed.is_none() && number % EVENTS_STRIDE == 0 {
                let taken = control::take_events(device, &mut events);
                failed = taken.err().map(ReplayError::from);
            }
            if failed.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    while shard.finish_some(cpu) {
        control::take_events(device, &mut events)?;
        tally.take_captured(device)?;
    }
    tally.advance(number % STRIDE);
    tally.add(&mut shard, events);
    Ok(())
}

/// This thread reads the captures and gives each flow's packets to one processor, in order.
pub(super) fn spread(
    simulation: &Simulation,
    setup: &Setup,
    plan: &Plan,
    tally: &Tally<'_>,
) -> Result<(), ReplayError> {
    let (senders, receivers): (Vec<SyncSender<Batch>>, Vec<Receiver<Batch>>) =
        (0..plan.cpus).map(|_| sync_channel(BATCHES)).unzip();
    std::thread::scope(|scope| {
        let mut processors = Vec::new();
        for (index, receiver) in (0..).zip(receivers) {
            let setup = Setup {
                shard: u16::try_from(index).unwrap_or(u16::MAX),
                ..setup.clone()
            };
            processors.push(scope.spawn(move || {
                let work =
                    |cpu: &Cpu| from_batches(cpu, simulation.device(), setup, receiver, tally);
                simulation
                    .kernel
                    .on(index, work)
                    .map_err(SimulationError::from)?
            }));
        }
        let fed = feed(plan, senders);
        for processor in processors {
            match processor.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        fed.map_err(ReplayError::from)
    })
}

/// Reads the captures and hands their frames out; ends when all have been, or when a processor stopped taking them.
fn feed(plan: &Plan, senders: Vec<SyncSender<Batch>>) -> Result<(), CaptureError> {
    let mut batches: Vec<Batch> = senders
        .iter()
        .map(|_| Batch::with_capacity(BATCH))
        .collect();
    let mut number = 0;
    for file in &plan.captures {
        capture::read(file, |frame| {
            let hash = capture::ip_packet(&frame).map_or(0, flow_hash);
            let index = hash as usize % senders.len();
            batches[index].push((number, OwnedFrame::new(&frame)));
            number += 1;
            if batches[index].len() < BATCH
                || senders[index]
                    .send(std::mem::take(&mut batches[index]))
                    .is_ok()
            {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
    }
    for (sender, batch) in senders.into_iter().zip(batches) {
        // A processor that stopped tells why itself.
        drop(sender.send(batch));
    }
    Ok(())
}

fn from_batches(
    cpu: &Cpu,
    device: &SimulatedDevice,
    setup: Setup,
    receiver: Receiver<Batch>,
    tally: &Tally<'_>,
) -> Result<(), ReplayError> {
    let mut shard = Shard::new(cpu, setup).with_links(tally.links.clone());
    let mut events = Vec::new();
    for batch in receiver {
        for (number, frame) in &batch {
            shard.until(cpu, &frame.frame());
            shard.frame(*number, &frame.frame());
            if number % STRIDE == 0 {
                shard.settle(cpu);
                tally.take_captured(device)?;
            }
        }
        shard.settle(cpu);
        tally.take_captured(device)?;
        // One reader is enough, and keeps the events in order.
        if cpu.index() == 0 {
            control::take_events(device, &mut events)?;
        }
        tally.advance(batch.len() as u64);
    }
    while shard.finish_some(cpu) {
        control::take_events(device, &mut events)?;
    }
    tally.add(&mut shard, events);
    Ok(())
}
