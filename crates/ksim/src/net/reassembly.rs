//! Puts one direction of a TCP connection in order.
//!
//! Where segments overlap the data that came first wins. What arrives early waits, within bounds; a gap
//! that stays open because the capture lost a packet is skipped.

use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Data beyond this distance from what is expected belongs to no window that a host advertises.
const MAX_AHEAD: u32 = 16 << 20;
/// Early data that may wait for a gap to be filled.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// Early segments that may wait for a gap to be filled.
const MAX_WAITING_SEGMENTS: usize = 256;
/// Segments from far beyond the window after which the direction is taken up where they are.
const MAX_FAR_SEGMENTS: u8 = 8;
/// Acknowledgments of data behind a gap after which the gap is known to be the capture's. More than one,
/// as a capture may hold an acknowledgment before the data.
const GAP_ACKNOWLEDGMENTS: u8 = 3;

/// Whether the receiver of data wants more of it.
pub(super) type Flow = ControlFlow<()>;

/// Data that came early.
#[derive(Debug)]
struct Early {
    sequence: u32,
    bytes: Vec<u8>,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Reassembler {
    next: Option<u32>,
    /// Ordered, without overlaps, none empty, all beyond `next`.
    early: VecDeque<Early>,
    early_bytes: usize,
    fin: Option<u32>,
    finished: bool,
    far: u8,
    gap_acknowledgments: u8,
    skipped: u64,
}

/// How far `to` is ahead of `from`; negative if it is behind.
#[expect(clippy::cast_possible_wrap, reason = "sequence numbers wrap around")]
const fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a segment is shorter than an IP packet"
)]
const fn length(bytes: &[u8]) -> u32 {
    bytes.len() as u32
}

impl Reassembler {
    /// Starts at a sequence number, unless started.
    pub(super) fn start(&mut self, sequence: u32) {
        self.next.get_or_insert(sequence);
    }

    /// Whether the end of the stream has been reached.
    pub(super) const fn is_finished(&self) -> bool {
        self.finished
    }

    /// Bytes that were skipped since they never came.
    pub(super) const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether something waits for missing data.
    fn has_gap(&self) -> bool {
        !self.early.is_empty() || (self.fin.is_some() && !self.finished)
    }

    /// Keeps data that is not to be delivered yet, such as that of a SYN.
    pub(super) fn hold(&mut self, sequence: u32, bytes: &[u8]) {
        if self.next.is_some_and(|next| distance(next, sequence) >= 0) {
            self.keep(sequence, bytes);
        }
    }

    /// Takes a segment: `bytes` of the `wire_len` bytes that it had before the capture cut it, and the end
    /// of the stream behind them if `fin`. `deliver` gets what is now in order, with the sequence number of its first byte.
    pub(super) fn push(
        &mut self,
        sequence: u32,
        bytes: &[u8],
        wire_len: u32,
        fin: bool,
        deliver: &mut impl FnMut(u32, &[u8]) -> Flow,
    ) -> Flow {
        let next = *self.next.get_or_insert(sequence);
        let end = sequence.wrapping_add(wire_len);
        if fin && self.fin.is_none() && distance(next, end) >= 0 {
            self.fin = Some(end);
        }
        let ahead = distance(next, sequence);
        if self.finished || (wire_len == 0 && !fin) {
            return Flow::Continue(());
        }
        if ahead > 0 {
            return self.push_early(sequence, bytes, ahead.unsigned_abs(), deliver);
        }
        let known = (ahead.unsigned_abs() as usize).min(bytes.len());
        let fresh = &bytes[known..];
        let in_the_way = self
            .early
            .front()
            .is_some_and(|first| distance(next, first.sequence).unsigned_abs() < length(fresh));
        if in_the_way {
            self.keep(next, fresh);
        } else if !fresh.is_empty() {
            self.next = Some(next.wrapping_add(length(fresh)));
            self.progress();
            deliver(next, fresh)?;
        }
        self.drain(deliver)?;
        if bytes.len() < wire_len as usize {
            self.skip_cut(end, deliver)?;
        }
        Flow::Continue(())
    }

    fn push_early(
        &mut self,
        sequence: u32,
        bytes: &[u8],
        ahead: u32,
        deliver: &mut impl FnMut(u32, &[u8]) -> Flow,
    ) -> Flow {
        if ahead > MAX_AHEAD {
            self.far += 1;
            if self.far < MAX_FAR_SEGMENTS {
                return Flow::Continue(());
            }
            self.early.clear();
            self.early_bytes = 0;
            self.skipped += u64::from(ahead);
            self.next = Some(sequence.wrapping_add(length(bytes)));
            self.progress();
            deliver(sequence, bytes)?;
            return self.finish_at_fin();
        }
        self.keep(sequence, bytes);
        let too_much =
            self.early_bytes > MAX_WAITING_BYTES || self.early.len() > MAX_WAITING_SEGMENTS;
        // What a SYN brought may be next already.
        if too_much {
            self.skip_gap(deliver)
        } else {
            self.drain(deliver)
        }
    }

    /// Keeps the parts of a segment that nothing kept before covers.
    fn keep(&mut self, mut sequence: u32, mut bytes: &[u8]) {
        let mut at = self.early.partition_point(|early| {
            distance(early.sequence.wrapping_add(length(&early.bytes)), sequence) >= 0
        });
        while !bytes.is_empty() {
            let Some(later) = self.early.get(at) else {
                self.insert(at, sequence, bytes);
                return;
            };
            let room = distance(sequence, later.sequence);
            let covered_to = later.sequence.wrapping_add(length(&later.bytes));
            if room > 0 {
                let (head, _) = bytes.split_at((room.unsigned_abs() as usize).min(bytes.len()));
                self.insert(at, sequence, head);
                at += 1;
            }
            let covered = distance(sequence, covered_to).unsigned_abs() as usize;
            bytes = bytes.get(covered..).unwrap_or(&[]);
            sequence = covered_to;
            at += 1;
        }
    }

    fn insert(&mut self, at: usize, sequence: u32, bytes: &[u8]) {
        self.early_bytes += bytes.len();
        self.early.insert(
            at,
            Early {
                sequence,
                bytes: bytes.to_vec(),
            },
        );
    }

    /// Delivers what has become next.
    pub(super) fn drain(&mut self, deliver: &mut impl FnMut(u32, &[u8]) -> Flow) -> Flow {
        while let (Some(next), Some(first)) = (self.next, self.early.front()) {
            if distance(next, first.sequence) > 0 {
                break;
            }
            let Some(first) = self.early.pop_front() else {
                break;
            };
            self.early_bytes -= first.bytes.len();
            let known = distance(first.sequence, next).unsigned_abs() as usize;
            let fresh = first.bytes.get(known..).unwrap_or(&[]);
            if !fresh.is_empty() {
                self.next = Some(next.wrapping_add(length(fresh)));
                self.progress();
                deliver(next, fresh)?;
            }
        }
        self.finish_at_fin()
    }

    fn finish_at_fin(&mut self) -> Flow {
        if let (Some(next), Some(fin)) = (self.next, self.fin)
            && distance(next, fin) <= 0
            && !self.finished
        {
            self.finished = true;
            self.next = Some(fin.wrapping_add(1));
            self.early.clear();
            self.early_bytes = 0;
        }
        Flow::Continue(())
    }

    const fn progress(&mut self) {
        self.far = 0;
        self.gap_acknowledgments = 0;
    }

    /// Skips what the capture cut off the segment that ends at `end`, except what came otherwise.
    fn skip_cut(&mut self, end: u32, deliver: &mut impl FnMut(u32, &[u8]) -> Flow) -> Flow {
        while let Some(next) = self.next
            && distance(next, end) > 0
            && !self.finished
        {
            let to = self.early.front().map_or(end, |first| first.sequence);
            let to = if distance(to, end) < 0 { end } else { to };
            self.skipped += u64::from(distance(next, to).unsigned_abs());
            self.next = Some(to);
            self.drain(deliver)?;
        }
        Flow::Continue(())
    }

    /// Gives up the data before what waits, and delivers that.
    pub(super) fn skip_gap(&mut self, deliver: &mut impl FnMut(u32, &[u8]) -> Flow) -> Flow {
        let Some(next) = self.next else {
            return Flow::Continue(());
        };
        let to = self.early.front().map(|first| first.sequence).or(self.fin);
        if let Some(to) = to
            && distance(next, to) > 0
        {
            self.skipped += u64::from(distance(next, to).unsigned_abs());
            self.next = Some(to);
            self.progress();
        }
        self.drain(deliver)
    }

    /// Gives up every gap: nothing comes any more.
    pub(super) fn skip_all(&mut self, deliver: &mut impl FnMut(u32, &[u8]) -> Flow) -> Flow {
        while self.has_gap() {
            self.skip_gap(deliver)?;
        }
        Flow::Continue(())
    }

    /// Notes the receiver's acknowledgment. `true` if it shows that a gap is the capture's and not the
    /// network's: then [`Self::skip_gap`] is due.
    pub(super) fn acknowledged(&mut self, acknowledgment: u32) -> bool {
        let Some(next) = self.next else { return false };
        let beyond = match self.early.front() {
            Some(first) => first.sequence,
            None if self.has_gap() => self.fin.unwrap_or(next),
            None => return false,
        };
        if distance(beyond, acknowledgment) > 0 {
            self.gap_acknowledgments = self.gap_acknowledgments.saturating_add(1);
        }
        self.gap_acknowledgments >= GAP_ACKNOWLEDGMENTS
    }

    /// Whether the acknowledgment covers the end of the stream.
    pub(super) fn fin_acknowledged(&self, acknowledgment: u32) -> bool {
        self.fin
            .is_some_and(|fin| distance(fin, acknowledgment) > 0)
    }

    /// The sequence number expected next, once started.
    pub(super) const fn next(&self) -> Option<u32> {
        self.next
    }
}
