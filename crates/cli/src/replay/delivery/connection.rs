//! A connection as its ends see it whose data rules hold, change or block: which segments there are then, and which numbers
//! they have.

use std::collections::VecDeque;

use ksim::net::packet::{Packet, Tcp, tcp_flag};

use super::made;
use super::segment::{Segment, Template};
use crate::capture::LinkType;
use crate::replay::OwnedFrame;

/// Places of a direction that are remembered for acknowledgments to come.
const MAX_MARKS: usize = 1024;
/// Early packets that are remembered: as many as the stack lets wait.
const MAX_EARLY: usize = 256;
/// The least data that a segment has room for: TCP's default.
const LEAST_SEGMENT: usize = 536;
/// The most: what an IP packet has room for behind the longest headers.
const MOST_SEGMENT: usize = 65_535 - 200;

/// What is written for a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The packet.
    AsItIs,
    /// These segments, or nothing.
    Segments(Vec<Segment>),
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Side {
    /// The number behind what has arrived in order, once something has.
    next: Option<u32>,
    /// The number behind what is written.
    out: u32,
    /// What has arrived and was not let go, while nothing is changed.
    held: VecDeque<u8>,
    end_held: bool,
    /// Something else was let go than what arrived.
    changed: bool,
    /// What was let go and is not written, with its numbers.
    fresh: Vec<(u32, Vec<u8>)>,
    end_is_fresh: bool,
    /// Numbers of what arrived, and the numbers of what was written by then.
    marks: VecDeque<(u32, u32)>,
    /// Packets whose data came early: which, and where it ends.
    early: Vec<(u64, u32)>,
    /// Where the data of early packets ends that were left out.
    owed: Option<u32>,
    template: Template,
}

/// A connection.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// By sender: this host, the other.
    sides: [Side; 2],
    /// Whether something has arrived or was let go since the last packet.
    has_news: bool,
    /// Whether packets are written anew rather than copied.
    rewrites: bool,
}

/// How far `to` is ahead of `from`; negative if it is behind.
#[expect(clippy::cast_possible_wrap, reason = "sequence numbers wrap around")]
const fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

/// The sequence numbers that so many bytes take.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Side {
    /// So many bytes have arrived, or the end, which takes a number too.
    fn advance(&mut self, sequence: u32, by: u32) {
        let next = *self.next.get_or_insert_with(|| {
            self.out = sequence;
            self.marks.push_back((sequence, sequence));
            sequence
        });
        // What the capture lacks is lacking in what is written.
        self.out = self.out.wrapping_add(sequence.wrapping_sub(next));
        self.next = Some(sequence.wrapping_add(by));
    }

    fn arrived(&mut self, sequence: u32, bytes: &[u8]) {
        self.advance(sequence, length(bytes.len()));
        if !self.changed {
            self.held.extend(bytes);
        }
    }

    fn end_arrived(&mut self, sequence: u32) {
        self.advance(sequence, 1);
        self.end_held = true;
    }

    /// Early data that ends there was left out: it is written when it is let go.
    fn owe(&mut self, end: u32) {
        let later = |owed: u32| if distance(owed, end) > 0 { end } else { owed };
        self.owed = Some(self.owed.map_or(end, later));
    }

    fn released(&mut self, bytes: &[u8], end: bool) {
        if !self.changed {
            let is_next = self.held.len() >= bytes.len()
                && self.held.iter().zip(bytes).all(|(held, byte)| held == byte);
            if is_next {
                self.held.drain(..bytes.len());
            } else {
                self.changed = true;
                self.held.clear();
            }
        }
        if !bytes.is_empty() {
            match self.fresh.last_mut() {
                Some((at, data)) if at.wrapping_add(length(data.len())) == self.out => {
                    data.extend_from_slice(bytes);
                }
                _ => self.fresh.push((self.out, bytes.to_vec())),
            }
            self.out = self.out.wrapping_add(length(bytes.len()));
        }
        if end {
            self.out = self.out.wrapping_add(1);
        }
        self.end_is_fresh |= end;
        self.end_held &= !end;
    }

    /// Whether what was let go is what arrived, all of it.
    fn is_straight(&self) -> bool {
        let has = |end: u32| self.next.is_some_and(|next| distance(next, end) <= 0);
        !self.changed
            && self.held.is_empty()
            && !self.end_held
            && self.next.is_none_or(|next| next == self.out)
            && self.owed.is_none_or(has)
    }

    /// The number that one of what arrived has in what is written, as far as that is written.
    fn number(&self, original: u32) -> u32 {
        let behind = self
            .marks
            .partition_point(|&(arrived, _)| distance(arrived, original) >= 0);
        let Some(&(arrived, written)) = self.marks.get(behind.saturating_sub(1)) else {
            return original;
        };
        let here = written.wrapping_add(original.wrapping_sub(arrived));
        let most = self.marks.get(behind).map_or(self.out, |&(_, next)| next);
        if distance(most, here) > 0 { most } else { here }
    }

    /// Remembers how far both have come.
    fn mark(&mut self, rewrites: bool) {
        let Some(next) = self.next else { return };
        if !rewrites {
            self.marks.clear();
        }
        match self.marks.back_mut() {
            Some((arrived, written)) if *arrived == next => *written = self.out,
            _ => self.marks.push_back((next, self.out)),
        }
        if self.marks.len() > MAX_MARKS {
            self.marks.pop_front();
        }
        self.early.retain(|&(_, end)| distance(next, end) > 0);
    }

    fn forget(&mut self) {
        self.fresh.clear();
        self.end_is_fresh = false;
    }

    /// The segments of what was let go and is not written.
    fn segments(&mut self, acknowledgment: u32, flags: u8, push: u8) -> Vec<Segment> {
        let most = self.template.longest.clamp(LEAST_SEGMENT, MOST_SEGMENT);
        let mut segments: Vec<Segment> = Vec::new();
        for (at, data) in std::mem::take(&mut self.fresh) {
            let mut sequence = at;
            for data in data.chunks(most) {
                segments.push(Segment {
                    sequence,
                    acknowledgment,
                    flags,
                    data: data.to_vec(),
                });
                sequence = sequence.wrapping_add(length(data.len()));
            }
        }
        if let Some(last) = segments.last_mut() {
            last.flags |= push;
        }
        if std::mem::take(&mut self.end_is_fresh) {
            let end = self.out.wrapping_sub(1);
            match segments.last_mut() {
                Some(last) if last.sequence.wrapping_add(length(last.data.len())) == end => {
                    last.flags |= tcp_flag::FIN;
                }
                _ => segments.push(Segment {
                    sequence: end,
                    acknowledgment,
                    flags: flags | tcp_flag::FIN,
                    data: Vec::new(),
                }),
            }
        }
        segments
    }
}

impl Connection {
    const fn of(outbound: bool) -> usize {
        if outbound { 0 } else { 1 }
    }

    pub(super) fn arrived(&mut self, outbound: bool, sequence: u32, bytes: &[u8]) {
        self.has_news = true;
        self.sides[Self::of(outbound)].arrived(sequence, bytes);
    }

    pub(super) fn end_arrived(&mut self, outbound: bool, sequence: u32) {
        self.has_news = true;
        self.sides[Self::of(outbound)].end_arrived(sequence);
    }

    pub(super) fn released(&mut self, outbound: bool, bytes: &[u8], end: bool) {
        self.has_news = true;
        self.sides[Self::of(outbound)].released(bytes, end);
    }

    /// Whether something has arrived or was let go that no packet was asked about.
    pub(super) const fn has_news(&self) -> bool {
        self.has_news
    }

    /// A packet of a direction comes behind this link header.
    pub(super) fn comes_by(&mut self, outbound: bool, link: LinkType, header: &[u8]) {
        let template = &mut self.sides[Self::of(outbound)].template;
        template.link = Some(link);
        template.link_header.clear();
        template.link_header.extend_from_slice(header);
    }

    /// A frame of a segment, with the headers of the latest packet of its direction.
    pub(super) fn frame(&self, outbound: bool, segment: &Segment, time: u64) -> Option<OwnedFrame> {
        let template = &self.sides[Self::of(outbound)].template;
        let packet = super::segment::packet(&template.headers, segment)?;
        Some(made(template.link?, &template.link_header, time, &packet))
    }

    /// What is written for a packet, frame `number`, that brought the news. Early ones that were to be copied and are
    /// not any more are added to `left_out`.
    pub(super) fn pass(
        &mut self,
        number: Option<u64>,
        packet: &Packet<'_>,
        tcp: Tcp,
        outbound: bool,
        left_out: &mut Vec<u64>,
    ) -> Plan {
        let here = Self::of(outbound);
        self.sides[here].template.note(packet);
        let had_news = std::mem::take(&mut self.has_news);
        self.begin(left_out);
        if !self.rewrites {
            let side = &mut self.sides[here];
            let end = tcp.sequence.wrapping_add(length(packet.payload_wire_len));
            // Of what comes first nothing may be in order.
            let is_early = side.next.is_none_or(|next| distance(next, end) > 0);
            if !had_news
                && is_early
                && packet.payload_wire_len > 0
                && let Some(number) = number
                && side.early.len() < MAX_EARLY
            {
                side.early.push((number, end));
            }
            return Plan::AsItIs;
        }
        let acknowledgment = self.sides[1 - here].number(tcp.acknowledgment);
        let side = &mut self.sides[here];
        let flags = tcp.flags & !(tcp_flag::FIN | tcp_flag::PSH);
        let mut segments = side.segments(acknowledgment, flags, tcp.flags & tcp_flag::PSH);
        let is_bare = packet.payload_wire_len == 0 && !tcp.has(tcp_flag::FIN);
        if segments.is_empty() && (is_bare || tcp.has(tcp_flag::SYN)) {
            segments.push(Segment {
                sequence: side.number(tcp.sequence),
                acknowledgment,
                flags: tcp.flags,
                data: Vec::new(),
            });
        } else if segments.is_empty() {
            let end = tcp.sequence.wrapping_add(length(packet.payload_wire_len));
            if side.next.is_none_or(|next| distance(next, end) > 0) {
                side.owe(end);
            }
        }
        self.end();
        match &segments[..] {
            [only]
                if only.sequence == tcp.sequence
                    && only.acknowledgment == tcp.acknowledgment
                    && only.flags == tcp.flags
                    && only.data == packet.payload()
                    && !packet.is_cut() =>
            {
                Plan::AsItIs
            }
            _ => Plan::Segments(segments),
        }
    }

    /// What is to be written without a packet that brought it, or before the one that did: of the direction that it does
    /// not go, and of both if `all`. Each with whether this host sends it.
    pub(super) fn others(
        &mut self,
        outbound: bool,
        all: bool,
        left_out: &mut Vec<u64>,
    ) -> Vec<(bool, Segment)> {
        self.begin(left_out);
        self.has_news &= !all;
        if !self.rewrites {
            return Vec::new();
        }
        let mut written = Vec::new();
        for outbound in [outbound, !outbound].into_iter().skip(usize::from(!all)) {
            let here = Self::of(outbound);
            let acknowledged = self.sides[here].template.acknowledgment;
            let acknowledgment = self.sides[1 - here].number(acknowledged);
            let segments = self.sides[here].segments(acknowledgment, tcp_flag::ACK, tcp_flag::PSH);
            written.extend(segments.into_iter().map(|segment| (outbound, segment)));
        }
        if all {
            self.end();
        }
        written
    }

    /// The reset that the other end gets of a connection that was aborted.
    pub(super) fn reset(&self) -> Segment {
        let [sent, received] = &self.sides;
        Segment {
            sequence: sent.next.map_or(sent.template.behind, |_| sent.out),
            acknowledgment: received.number(sent.template.acknowledgment),
            flags: tcp_flag::RST | tcp_flag::ACK,
            data: Vec::new(),
        }
    }

    /// Notices that something is not as it came, from here on.
    fn begin(&mut self, left_out: &mut Vec<u64>) {
        if self.rewrites {
            return;
        }
        if self.sides.iter().all(Side::is_straight) {
            for side in &mut self.sides {
                side.forget();
                side.mark(false);
            }
            return;
        }
        self.rewrites = true;
        for side in &mut self.sides {
            for (number, end) in std::mem::take(&mut side.early) {
                left_out.push(number);
                side.owe(end);
            }
        }
    }

    /// Notices that everything is as it came again.
    fn end(&mut self) {
        self.rewrites = !self.sides.iter().all(Side::is_straight);
        for side in &mut self.sides {
            side.mark(true);
        }
    }
}
