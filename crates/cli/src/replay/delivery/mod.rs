//! What the receiving ends of a replay got, where that is not what the capture has.
//!
//! Each packet that passed is in the capture that is written. It is the frame as it was, unless
//!
//! - a driver changed it, or made it: then it is what was injected, behind the link header of the frame that it stands for;
//! - it waited, because it was asked about or shaped: then it stands where it went on, with that time;
//! - its connection's data was held, changed or blocked: then segments are made of what was let go, when it was, with
//!   numbers that fit ([`connection`]).

mod connection;
mod segment;

use std::collections::{HashMap, HashSet};

use ksim::net::packet::{Packet, Transport};
use ksim::net::{PacketId, Passage, Reason};
use ksim::time::UNIX_EPOCH;
use wfp_schema::{IpVersion, Layer, LayerKind};

use self::connection::{Connection, Plan};
use super::OwnedFrame;
use crate::capture::{Frame, LinkType};

/// A frame that is not in the capture as it is.
#[derive(Debug)]
pub(super) struct Made {
    /// The frame of the capture behind which it stands.
    pub(super) after: u64,
    frame: OwnedFrame,
}

impl Made {
    pub(super) fn frame(&self) -> Frame<'_> {
        self.frame.frame()
    }
}

/// What is to be written instead of frames of the capture.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// In the order in which it is written.
    pub(super) made: Vec<Made>,
    /// Frames that passed, and came to nobody as they are.
    pub(super) left_out: HashSet<u64>,
}

impl Delivery {
    /// With what another processor has.
    pub(super) fn add(&mut self, other: Self) {
        self.made.extend(other.made);
        self.made.sort_by_key(|made| made.after);
        self.left_out.extend(other.left_out);
    }
}

/// A frame of the capture, by its place in it.
#[derive(Debug)]
struct Place {
    number: u64,
    frame: OwnedFrame,
    /// Where its packet begins.
    packet_at: usize,
}

impl Place {
    fn packet(&self) -> &[u8] {
        self.frame.data.get(self.packet_at..).unwrap_or_default()
    }

    fn link_header(&self) -> &[u8] {
        self.frame.data.get(..self.packet_at).unwrap_or_default()
    }

    /// Puts its link header in the place of the latest before packets of its IP version.
    fn leave_link(&self, links: &mut [Option<LinkHeader>; 2]) {
        let link = &mut links[version(self.packet())];
        let (kind, bytes) = link.get_or_insert_with(|| (self.frame.link, Vec::new()));
        *kind = self.frame.link;
        bytes.clear();
        bytes.extend_from_slice(self.link_header());
    }

    /// A frame like it, with another packet.
    fn with(&self, time: u64, packet: &[u8]) -> OwnedFrame {
        made(self.frame.link, self.link_header(), time, packet)
    }
}

/// What is before an IP packet, which says of which version it is.
type LinkHeader = (LinkType, Vec<u8>);

/// 0 for an IPv4 packet, 1 for an IPv6 one.
fn version(packet: &[u8]) -> usize {
    usize::from(packet.first().is_none_or(|first| first >> 4 != 4))
}

fn made(link: LinkType, header: &[u8], time: u64, packet: &[u8]) -> OwnedFrame {
    let data = [header, packet].concat();
    OwnedFrame {
        link,
        time,
        original_length: u32::try_from(data.len()).unwrap_or(u32::MAX),
        data,
    }
}

/// Follows what comes through one processor's stack.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    delivery: Delivery,
    connections: HashMap<u64, Connection>,
    /// Connections with news that no packet has told of.
    touched: Vec<u64>,
    aborted: Vec<u64>,
    /// Frames whose fate is open.
    kept: HashMap<PacketId, Place>,
    /// What is written for them when they pass, where that is known.
    plans: HashMap<PacketId, Plan>,
    /// The latest link headers of what this host sent, and of what it got, of each IP version.
    links: [[Option<LinkHeader>; 2]; 2],
    /// The latest link header of either, before packets of each IP version.
    seen: [Option<LinkHeader>; 2],
    /// The latest frame and its time.
    at: (u64, u64),
}

impl Recorder {
    /// What came of frame `number`, packet `id`, which stays open if `is_pending`.
    pub(super) fn frame(
        &mut self,
        number: u64,
        frame: &Frame<'_>,
        packet_at: usize,
        id: PacketId,
        is_pending: bool,
        journal: Vec<Passage>,
    ) {
        self.at = (number, frame.time);
        let place = Place {
            number,
            frame: OwnedFrame::new(frame),
            packet_at,
        };
        place.leave_link(&mut self.seen);
        self.follow(journal, Some((id, &place)));
        if is_pending {
            self.kept.insert(id, place);
        }
    }

    /// What came through the stack at `now`, which is the machine's time, and which packets are open no more.
    pub(super) fn settled(
        &mut self,
        now: u64,
        journal: Vec<Passage>,
        settled: &[(PacketId, bool)],
    ) {
        let ticks = now.saturating_sub(UNIX_EPOCH);
        if ticks > self.at.1 / 100 {
            self.at.1 = ticks * 100;
        }
        self.follow(journal, None);
        for (id, _) in settled {
            self.kept.remove(id);
            self.plans.remove(id);
        }
    }

    pub(super) fn take(&mut self) -> Delivery {
        std::mem::take(&mut self.delivery)
    }

    fn follow(&mut self, journal: Vec<Passage>, current: Option<(PacketId, &Place)>) {
        for passage in journal {
            match passage {
                Passage::Arrived {
                    flow_handle,
                    outbound,
                    sequence,
                    bytes,
                } => self
                    .connection(flow_handle)
                    .arrived(outbound, sequence, &bytes),
                Passage::EndArrived {
                    flow_handle,
                    outbound,
                    sequence,
                } => self.connection(flow_handle).end_arrived(outbound, sequence),
                Passage::Released {
                    flow_handle,
                    outbound,
                    bytes,
                    end,
                } => self.connection(flow_handle).released(outbound, &bytes, end),
                Passage::Aborted { flow_handle } => self.aborted.push(flow_handle),
                Passage::Packet {
                    id,
                    flow_handle,
                    outbound,
                    bytes,
                    result,
                } => {
                    let kept = self.kept.remove(&id);
                    let current = current.filter(|&(current, _)| current == id);
                    let place = current.map(|(_, place)| place).or(kept.as_ref());
                    let passed = Passed {
                        id,
                        flow_handle,
                        outbound,
                        bytes: bytes.as_deref(),
                        place,
                        result,
                        is_now: current.is_some(),
                    };
                    self.packet(&passed);
                    if let Some(place) = kept
                        && result.is_err_and(Reason::is_pending)
                    {
                        self.kept.insert(id, place);
                    }
                }
                Passage::Pieces(ids) => {
                    let numbers = ids.iter().filter_map(|id| self.kept.get(id));
                    let numbers = numbers.map(|place| place.number);
                    self.delivery.left_out.extend(numbers);
                }
            }
        }
        for flow in std::mem::take(&mut self.touched) {
            self.write_news(flow);
        }
        for flow in std::mem::take(&mut self.aborted) {
            if let Some(connection) = self.connections.remove(&flow) {
                let reset = connection.frame(true, &connection.reset(), self.at.1);
                self.push(reset);
            }
        }
    }

    /// The link header before packets of this one's IP version that go its way, or else the other.
    fn link(&self, outbound: bool, packet: &[u8]) -> Option<&LinkHeader> {
        let [sent, received] = &self.links;
        let links = if outbound { sent } else { received };
        let version = version(packet);
        links[version].as_ref().or(self.seen[version].as_ref())
    }

    fn connection(&mut self, flow: u64) -> &mut Connection {
        self.touched.push(flow);
        self.connections.entry(flow).or_default()
    }

    fn packet(&mut self, passed: &Passed<'_>) {
        if let (Some(place), Ok(())) = (passed.place, passed.result) {
            let [sent, received] = &mut self.links;
            let links = if passed.outbound { sent } else { received };
            place.leave_link(links);
        }
        let Some(base) = passed.bytes.or_else(|| passed.place.map(Place::packet)) else {
            return;
        };
        let plan = self.plan(passed, base);
        match passed.result {
            Ok(()) => {
                let plan = self.plans.remove(&passed.id).or(plan);
                self.write(passed, base, plan.unwrap_or(Plan::AsItIs));
            }
            Err(reason) if reason.is_pending() => {
                if let Some(plan) = plan {
                    self.plans.insert(passed.id, plan);
                }
            }
            // What was let go of it before the rest was blocked.
            Err(Reason::Blocked(layer)) if is_stream(layer) => {
                if let Some(Plan::Segments(mut segments)) = plan {
                    segments.retain(|segment| !segment.data.is_empty());
                    self.write(passed, base, Plan::Segments(segments));
                }
            }
            Err(_) => {}
        }
    }

    /// What is to be written for a segment; `None` for other packets, and where it is not known yet.
    fn plan(&mut self, passed: &Passed<'_>, base: &[u8]) -> Option<Plan> {
        let packet = Packet::parse(base).ok()?;
        let Transport::Tcp(tcp) = packet.transport else {
            return None;
        };
        if passed.flow_handle == 0 {
            return None;
        }
        let connection = self.connections.entry(passed.flow_handle).or_default();
        if let Some(place) = passed.place {
            connection.comes_by(passed.outbound, place.frame.link, place.link_header());
        }
        let is_pending = passed.result.is_err_and(Reason::is_pending);
        // Blocked before it came to the stream, or kept before: it has done nothing yet.
        if passed.result.is_err() && !connection.has_news() || self.plans.contains_key(&passed.id) {
            return None;
        }
        let number = passed.place.filter(|_| !is_pending);
        let number = number.map(|place| place.number);
        let mut left_out = Vec::new();
        let before = connection.others(passed.outbound, false, &mut left_out);
        let plan = connection.pass(number, &packet, tcp, passed.outbound, &mut left_out);
        self.delivery.left_out.extend(left_out);
        let (after, time) = self.at;
        let frames = before
            .iter()
            .filter_map(|(outbound, segment)| connection.frame(*outbound, segment, time));
        let made = frames.map(|frame| Made { after, frame });
        self.delivery.made.extend(made);
        Some(plan)
    }

    /// Writes what a packet has become.
    fn write(&mut self, passed: &Passed<'_>, base: &[u8], plan: Plan) {
        let packets = match plan {
            Plan::AsItIs if passed.is_now && passed.bytes.is_none() => return,
            Plan::AsItIs => vec![base.to_vec()],
            Plan::Segments(segments) => segments
                .iter()
                .filter_map(|segment| segment::packet(base, segment))
                .collect(),
        };
        let time = self.at.1;
        if let Some(place) = passed.place {
            self.delivery.left_out.insert(place.number);
        }
        for packet in packets {
            let mut frame = match (passed.place, self.link(passed.outbound, &packet)) {
                (Some(place), _) => place.with(time, &packet),
                (None, Some((link, header))) => made(*link, header, time, &packet),
                (None, None) => return,
            };
            if let Some(place) = passed.place
                && frame.data == place.frame.data
            {
                frame.original_length = place.frame.original_length;
            }
            self.push(Some(frame));
        }
    }

    /// Writes what was let go without a packet that brought it.
    fn write_news(&mut self, flow: u64) {
        let Some(connection) = self.connections.get_mut(&flow) else {
            return;
        };
        if !connection.has_news() {
            return;
        }
        let mut left_out = Vec::new();
        let written = connection.others(true, true, &mut left_out);
        self.delivery.left_out.extend(left_out);
        let (after, time) = self.at;
        let frames = written
            .iter()
            .filter_map(|(outbound, segment)| connection.frame(*outbound, segment, time));
        let made = frames.map(|frame| Made { after, frame });
        self.delivery.made.extend(made);
    }

    fn push(&mut self, frame: Option<OwnedFrame>) {
        let after = self.at.0;
        let made = frame.map(|frame| Made { after, frame });
        self.delivery.made.extend(made);
    }
}

/// A packet at the end of its way.
#[derive(Debug)]
struct Passed<'a> {
    id: PacketId,
    flow_handle: u64,
    outbound: bool,
    /// The packet, if it is not as it came.
    bytes: Option<&'a [u8]>,
    /// The frame that it stands for.
    place: Option<&'a Place>,
    result: Result<(), Reason>,
    /// Whether that is the frame that is replayed right now.
    is_now: bool,
}

fn is_stream(layer: wfp_schema::LayerId) -> bool {
    [IpVersion::V4, IpVersion::V6]
        .into_iter()
        .filter_map(|version| Layer::of(LayerKind::Stream, version))
        .any(|stream| stream.id() == layer)
}
