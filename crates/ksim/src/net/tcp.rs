//! A TCP connection as the stack follows it: both directions in order, and how it ends.

use std::ops::ControlFlow;

use wfp_schema::StreamFlags;

use super::indicate::{Filtering, StageId, StreamInjection};
use super::indicator::{Conversation, Details, Indicator};
use super::packet::{Packet, Tcp, tcp_flag};
use super::reassembly::{Flow, Reassembler};
use super::stream::{Course, Delivered, Disconnect, Waterfall};

/// A reset this far behind or ahead of what is expected still counts; packets may be missing.
const RESET_BEHIND: i32 = -(1 << 16);
const RESET_AHEAD: i32 = 1 << 22;
/// Blocked segments of a direction that are remembered, to know their retransmissions.
const MAX_BLOCKED: usize = 64;

/// The receive window of a connection about which nothing is deferred.
const WINDOW: usize = 0xffff;

/// One direction.
#[derive(Debug, Default)]
struct Half {
    reassembler: Reassembler,
    waterfall: Waterfall,
    disconnected: bool,
    /// A callout keeps the disconnect.
    end_kept: bool,
    fin_acknowledged: bool,
    /// Sequence numbers of segments that were blocked whole, first and behind the last.
    blocked: Vec<(u32, u32)>,
}

/// What a segment did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) delivered: Delivered,
    /// The connection is over, closed by both ends or reset.
    pub(super) ended: bool,
    /// A reset did not belong to the connection.
    pub(super) reset_ignored: bool,
}

/// A connection.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// Whether `ALE_FLOW_ESTABLISHED` has been indicated.
    pub(super) established: bool,
    /// The sequence number of the SYN that opened it, where that is known.
    pub(super) initial: Option<u32>,
    /// Set when it is over, for the end of the packet that ended it.
    pub(super) ended: bool,
    /// By sender: this host, the other.
    halves: [Half; 2],
}

/// What the methods need of the rest of the stack.
pub(super) struct Surroundings<'a, F> {
    pub(super) indicator: &'a mut Indicator<F>,
    pub(super) conversation: &'a Conversation,
    pub(super) details: Details<'a>,
}

impl<'a, F> Surroundings<'a, F> {
    /// The course of what a segment with these TCP flags brings.
    const fn course_of(&self, outbound: bool, tcp: Tcp) -> Course<'a> {
        let mut course = self.course(outbound, tcp.has(tcp_flag::PSH));
        if tcp.has(tcp_flag::URG) {
            course.flags = course.flags.union(if outbound {
                StreamFlags::SEND_EXPEDITED
            } else {
                StreamFlags::RECEIVE_EXPEDITED
            });
        }
        course
    }

    const fn course(&self, outbound: bool, push: bool) -> Course<'a> {
        let flags = match (outbound, push) {
            (true, _) => StreamFlags::SEND,
            (false, false) => StreamFlags::RECEIVE,
            (false, true) => StreamFlags::RECEIVE.union(StreamFlags::RECEIVE_PUSH),
        };
        Course {
            conversation: self.conversation,
            details: self.details,
            flags,
        }
    }
}

const fn disconnect_flag(outbound: bool) -> StreamFlags {
    if outbound {
        StreamFlags::SEND_DISCONNECT
    } else {
        StreamFlags::RECEIVE_DISCONNECT
    }
}

fn add(total: &mut Delivered, more: Delivered) -> Flow {
    total.passed += more.passed;
    total.blocked += more.blocked;
    total.disconnect = total.disconnect.max(more.disconnect);
    total.end_injected |= more.end_injected;
    total.dropped |= more.dropped;
    if total.dropped {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

impl Half {
    fn give_up<F: Filtering>(
        &mut self,
        around: &mut Surroundings<'_, F>,
        outbound: bool,
        all: bool,
        total: &mut Delivered,
    ) {
        let Self {
            reassembler,
            waterfall,
            ..
        } = self;
        let course = around.course(outbound, false);
        let mut deliver = |sequence, bytes: &[u8]| {
            let flow_handle = course.details.flow_handle;
            around
                .indicator
                .arrived(flow_handle, outbound, sequence, bytes);
            add(total, waterfall.data(around.indicator, &course, bytes))
        };
        let _stopped = if all {
            reassembler.skip_all(&mut deliver)
        } else {
            reassembler.skip_gap(&mut deliver)
        };
    }
}

impl Connection {
    /// A connection that was opened by the SYN with this sequence number, if that was seen.
    pub(super) fn new(initial: Option<u32>) -> Self {
        Self {
            initial,
            ..Self::default()
        }
    }

    /// What stages have allowed counts for both directions.
    fn agree(&mut self) {
        let [sent, received] = &mut self.halves;
        sent.waterfall.allow_as(&received.waterfall);
        received.waterfall.allow_as(&sent.waterfall);
    }

    fn side(outbound: bool) -> usize {
        usize::from(!outbound)
    }

    /// Takes a segment of an authorized connection.
    pub(super) fn segment<F: Filtering>(
        &mut self,
        around: &mut Surroundings<'_, F>,
        packet: &Packet<'_>,
        tcp: Tcp,
        outbound: bool,
    ) -> Step {
        let mut step = Step::default();
        if tcp.has(tcp_flag::RST) {
            return self.reset(around, tcp, outbound);
        }
        if tcp.has(tcp_flag::SYN) {
            let reassembler = &mut self.halves[Self::side(outbound)].reassembler;
            reassembler.start(tcp.sequence.wrapping_add(1));
            reassembler.hold(tcp.sequence.wrapping_add(1), packet.payload());
            return step;
        }
        if tcp.has(tcp_flag::ACK) {
            let half = &mut self.halves[Self::side(!outbound)];
            half.fin_acknowledged |= half.reassembler.fin_acknowledged(tcp.acknowledgment);
            if half.reassembler.acknowledged(tcp.acknowledgment) {
                half.give_up(around, !outbound, false, &mut step.delivered);
                self.disconnect(around, !outbound, &mut step.delivered);
            }
        }
        self.data(around, packet, tcp, outbound, &mut step.delivered);
        self.disconnect(around, outbound, &mut step.delivered);
        if !step.delivered.dropped && self.is_over() {
            self.give_up(around, &mut step.delivered);
            step.ended = true;
        }
        step
    }

    /// Whether both ends have closed, and each knows it of the other.
    pub(super) fn is_over(&self) -> bool {
        self.halves
            .iter()
            .all(|half| half.fin_acknowledged && !half.end_kept)
    }

    fn data<F: Filtering>(
        &mut self,
        around: &mut Surroundings<'_, F>,
        packet: &Packet<'_>,
        tcp: Tcp,
        outbound: bool,
        total: &mut Delivered,
    ) {
        if total.dropped {
            return;
        }
        self.agree();
        let Half {
            reassembler,
            waterfall,
            blocked,
            end_kept,
            ..
        } = &mut self.halves[Self::side(outbound)];
        let (bytes, wire_len) = (packet.payload(), packet.payload_wire_len);
        #[expect(clippy::cast_possible_truncation, reason = "shorter than an IP packet")]
        let wire_len = wire_len as u32;
        let range = (tcp.sequence, tcp.sequence.wrapping_add(wire_len));
        let within = |&(from, to): &(u32, u32)| {
            let room = to.wrapping_sub(from);
            range.0.wrapping_sub(from) <= room && range.1.wrapping_sub(from) <= room
        };
        if wire_len > 0 && blocked.iter().any(within) {
            total.blocked += bytes.len();
        }
        let mut here = Delivered::default();
        let course = around.course_of(outbound, tcp);
        let _stopped = reassembler.push(
            tcp.sequence,
            bytes,
            wire_len,
            tcp.has(tcp_flag::FIN),
            &mut |sequence, bytes| {
                let flow_handle = course.details.flow_handle;
                around
                    .indicator
                    .arrived(flow_handle, outbound, sequence, bytes);
                add(&mut here, waterfall.data(around.indicator, &course, bytes))
            },
        );
        *end_kept &= !here.end_injected;
        if here.passed == 0 && here.blocked > 0 && blocked.len() < MAX_BLOCKED {
            blocked.push(range);
        }
        let _stopped = add(total, here);
    }

    /// Indicates the end of a direction once everything before it has been.
    fn disconnect<F: Filtering>(
        &mut self,
        around: &mut Surroundings<'_, F>,
        outbound: bool,
        total: &mut Delivered,
    ) {
        self.agree();
        let half = &mut self.halves[Self::side(outbound)];
        if half.reassembler.is_finished() && !half.disconnected && !total.dropped {
            half.disconnected = true;
            let course = around.course(outbound, false);
            let behind = half.reassembler.next().unwrap_or(0);
            let flow_handle = course.details.flow_handle;
            let indicator = &mut *around.indicator;
            indicator.end_arrived(flow_handle, outbound, behind.wrapping_sub(1));
            let delivered =
                half.waterfall
                    .disconnect(around.indicator, &course, disconnect_flag(outbound));
            half.end_kept = delivered.disconnect == Disconnect::Kept;
            let _stopped = add(total, delivered);
        }
    }

    fn reset<F: Filtering>(
        &mut self,
        around: &mut Surroundings<'_, F>,
        tcp: Tcp,
        outbound: bool,
    ) -> Step {
        let half = &mut self.halves[Self::side(outbound)];
        let belongs = half.reassembler.next().is_none_or(|next| {
            #[expect(clippy::cast_possible_wrap, reason = "sequence numbers wrap around")]
            let distance = tcp.sequence.wrapping_sub(next) as i32;
            (RESET_BEHIND..RESET_AHEAD).contains(&distance)
        });
        // The answer to a SYN for a closed port may come with sequence number 0.
        let answers_syn = tcp.sequence == 0 && tcp.has(tcp_flag::ACK);
        if !belongs && !answers_syn {
            return Step {
                reset_ignored: true,
                ..Step::default()
            };
        }
        if self.established {
            let flag = if outbound {
                StreamFlags::SEND_ABORT
            } else {
                StreamFlags::RECEIVE_ABORT
            };
            let course = around.course(outbound, false);
            half.waterfall.abort(around.indicator, &course, flag);
        }
        Step {
            ended: true,
            ..Step::default()
        }
    }

    /// Gives up all gaps: nothing more comes.
    pub(super) fn give_up<F: Filtering>(
        &mut self,
        around: &mut Surroundings<'_, F>,
        total: &mut Delivered,
    ) {
        for outbound in [true, false] {
            if !total.dropped {
                self.halves[Self::side(outbound)].give_up(around, outbound, true, total);
                self.disconnect(around, outbound, total);
            }
        }
    }

    /// Goes on after a `DEFER` of a stage for received data.
    pub(super) fn resume<F: Filtering>(
        &mut self,
        around: &mut Surroundings<'_, F>,
        stage: StageId,
    ) -> Delivered {
        let course = around.course(false, false);
        self.halves[Self::side(false)]
            .waterfall
            .resume(around.indicator, &course, stage)
    }

    /// Sends injected data to the stages after the one that injected it.
    pub(super) fn inject<F: Filtering>(
        &mut self,
        around: &mut Surroundings<'_, F>,
        injection: &StreamInjection,
    ) -> Delivered {
        let outbound = injection.flags.contains(StreamFlags::SEND);
        let course = around.course(outbound, false);
        let half = &mut self.halves[Self::side(outbound)];
        let delivered = half.waterfall.inject(around.indicator, &course, injection);
        half.end_kept &= !delivered.end_injected;
        delivered
    }

    /// Bytes that the host can still take: what a stage deferred fills its window.
    pub(super) fn window(&self) -> usize {
        let waiting = self.halves[Self::side(false)].waterfall.deferred();
        WINDOW.saturating_sub(waiting)
    }

    /// Bytes of both directions that were skipped.
    pub(super) fn skipped(&self) -> u64 {
        self.halves
            .iter()
            .map(|half| half.reassembler.skipped())
            .sum()
    }
}
