//! One simulated processor's part of a replay: its packets through its host's network stack.

use std::collections::HashMap;

use ksim::Cpu;
use ksim::fwp::KernelFiltering;
use ksim::kernel::Machine;
use ksim::net::{FlowIndex, FlowReport, Host, LocalSide, PacketId, Reason, Setup};
use ksim::time::UNIX_EPOCH;
use wfp_schema::LayerId;

use super::delivery::{Delivery, Recorder};
use super::interfaces::NamedLinks;
use crate::capture::{self, Frame, LinkError, LinkType};

/// Flows that end, or endpoints that close, before somebody looks at the events: a flow makes four at most.
const FINISHED_AT_ONCE: usize = 512;
/// How long what waits may go on behind the last frame.
const LONGEST_DELAY: u64 = 60 * 10_000_000;

/// What happened to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It holds no IP packet: nobody decides about it, it passes.
    NotIp,
    /// It passed.
    Passed,
    /// It was blocked, or its flow was.
    Blocked,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameReport {
    /// The frame, by its place among all frames.
    pub number: u64,
    /// What happened to it.
    pub fate: Fate,
    /// Its flow, by its place among the shard's.
    pub flow: Option<FlowIndex>,
    /// Where it was blocked, if that is known.
    pub blocked_at: Option<LayerId>,
}

/// A processor's host with what it has replayed.
#[derive(Debug)]
pub struct Shard<'k> {
    machine: &'k Machine,
    host: Host<KernelFiltering>,
    /// The host's addresses, and which of its interfaces has which.
    local: LocalSide,
    links: NamedLinks,
    /// Frames whose fate is open, by the packet's number; as if they were blocked.
    open: HashMap<PacketId, FrameReport>,
    /// Frames that were decided since the last [`Shard::take_frames`].
    frames: Vec<FrameReport>,
    /// Frames with IP of which the host is no end.
    of_other_hosts: u64,
    /// What receiving ends got, if that is to be written.
    recorder: Option<Recorder>,
}

impl<'k> Shard<'k> {
    /// The host on `cpu`.
    pub fn new(cpu: &'k Cpu, setup: Setup) -> Self {
        let machine = cpu.machine();
        Self {
            machine,
            recorder: setup.journal.then(Recorder::default),
            local: setup.local.clone(),
            links: NamedLinks::default(),
            host: Host::new(machine.filtering(cpu.index()), setup),
            open: HashMap::new(),
            frames: Vec::new(),
            of_other_hosts: 0,
        }
    }

    /// The same, whose packets take these interfaces.
    #[must_use]
    pub fn with_links(self, links: NamedLinks) -> Self {
        Self { links, ..self }
    }

    /// Replays frame `number`: an Ethernet frame as it is, of other links the packet in it.
    pub fn frame(&mut self, number: u64, frame: &Frame<'_>) {
        let packet = capture::ip_packet(frame);
        let is_ethernet = frame.link == LinkType::ETHERNET;
        let now = UNIX_EPOCH + frame.time / 100;
        let named = packet
            .ok()
            .and_then(|packet| self.links.of(packet, &self.local));
        let link = named.unwrap_or_else(|| capture::vlan(frame));
        let report = match packet {
            Ok(packet) if is_ethernet => {
                self.machine.time().advance_to(now);
                // Whatever comes before it, the packet ends where the frame does.
                let at = frame.data.len() - packet.len();
                self.host.frame_on(now, link, frame.data, Some(at))
            }
            Ok(packet) => {
                self.machine.time().advance_to(now);
                self.host.packet_on(now, link, packet)
            }
            Err(LinkError::NotIp) if is_ethernet => {
                self.machine.time().advance_to(now);
                self.host.frame_on(now, link, frame.data, None)
            }
            Err(_) => {
                self.frames.push(FrameReport {
                    number,
                    fate: Fate::NotIp,
                    flow: None,
                    blocked_at: None,
                });
                return;
            }
        };
        let fate = match fate(report.passed) {
            Fate::Passed if packet.is_err() => Fate::NotIp,
            fate => fate,
        };
        let is_foreign = packet.is_ok() && report.reason == Some(Reason::Foreign);
        self.of_other_hosts += u64::from(is_foreign);
        let is_pending = report.reason.is_some_and(Reason::is_pending);
        if let Some(recorder) = &mut self.recorder {
            let at = frame.data.len() - packet.map_or(0, <[u8]>::len);
            let journal = self.host.journal();
            recorder.frame(number, frame, at, report.id, is_pending, journal);
        }
        let frame = FrameReport {
            number,
            fate,
            flow: report.flow,
            blocked_at: report.reason.and_then(Reason::layer),
        };
        if is_pending {
            self.open.insert(report.id, frame);
        } else {
            self.frames.push(frame);
        }
    }

    /// Lets the time pass until that of `frame`, if what happens meanwhile is to be written: what waits goes on when it is
    /// due.
    pub fn until(&mut self, cpu: &Cpu, frame: &Frame<'_>) {
        self.pass_time(cpu, UNIX_EPOCH + frame.time / 100);
    }

    fn pass_time(&mut self, cpu: &Cpu, until: u64) {
        if self.recorder.is_none() {
            return;
        }
        self.settle(cpu);
        while let Some(due) = self.machine.time().next_due()
            && due <= until
        {
            self.machine.time().advance_to(due);
            self.host.advance_to(due);
            self.settle(cpu);
        }
    }

    /// Lets the driver do what it put off, and gives what it injected back to the stack.
    pub fn settle(&mut self, cpu: &Cpu) {
        self.machine.run_pending(cpu);
        while self.machine.serve_stack(cpu, &mut self.host) {
            self.machine.run_pending(cpu);
        }
        let settled = self.host.settled();
        if let Some(recorder) = &mut self.recorder {
            let now = self.machine.time().now();
            recorder.settled(now, self.host.journal(), &settled);
        }
        for (packet, passed) in settled {
            if let Some(frame) = self.open.remove(&packet) {
                self.frames.push(FrameReport {
                    fate: fate(passed),
                    ..frame
                });
            }
        }
    }

    /// Ends every flow, as a shutdown does.
    pub fn finish(&mut self, cpu: &Cpu) {
        while self.finish_some(cpu) {}
    }

    /// As [`finish`](Self::finish), but a part of it, with which the driver's event ring does not overflow. Returns
    /// whether there is more to do.
    pub fn finish_some(&mut self, cpu: &Cpu) -> bool {
        let now = self.machine.time().now();
        self.pass_time(cpu, now + LONGEST_DELAY);
        self.settle(cpu);
        let more = self.host.finish_some(FINISHED_AT_ONCE);
        self.settle(cpu);
        if !more {
            // What is still open never passed.
            self.frames
                .extend(self.open.drain().map(|(_, frame)| frame));
        }
        more
    }

    /// The frames decided since the last call, in no order.
    pub fn take_frames(&mut self) -> Vec<FrameReport> {
        std::mem::take(&mut self.frames)
    }

    /// What receiving ends got since the last call, where that is not what the capture has.
    pub(super) fn take_delivery(&mut self) -> Delivery {
        self.recorder
            .as_mut()
            .map(Recorder::take)
            .unwrap_or_default()
    }

    /// Frames with IP so far of which the host is no end.
    pub(super) const fn of_other_hosts(&self) -> u64 {
        self.of_other_hosts
    }

    /// The flows so far.
    #[must_use]
    pub fn flows(&self) -> &[FlowReport] {
        self.host.flows()
    }
}

const fn fate(passed: bool) -> Fate {
    if passed { Fate::Passed } else { Fate::Blocked }
}
