//! The waterfall of a stream layer: what callouts in turn permit, withhold or ask for.
//!
//! Data comes in order, a piece at a time. A stage sees what the stages before it permitted; blocked data
//! is gone for all after it. A stage that needs more data has what it was shown collected and shown again
//! with what followed; data that the stack has accepted meanwhile waits here.

use wfp_engine::EnforcedBeyondData;
use wfp_schema::{ClassifyOutFlags, StreamAction, StreamFlags};

use super::indicate::{Filtering, StageId, StreamInjection, StreamSegment, Verdict};
use super::indicator::{Conversation, Details, Indicator, Point};

/// The flags of a disconnect among these.
fn end_of(flags: StreamFlags) -> StreamFlags {
    let end = StreamFlags::SEND_DISCONNECT | StreamFlags::RECEIVE_DISCONNECT;
    StreamFlags::from_bits(flags.bits() & end.bits())
}

/// Data that the stack collects for one stage (documented limit).
const MAX_COLLECTED: usize = 8 << 20;

/// What became of a disconnect; the greater counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Disconnect {
    /// It passed, or there is none.
    #[default]
    Passed,
    /// A stage keeps it, as it keeps the data before.
    Kept,
    /// A stage blocked it.
    Blocked,
}

/// What became of a piece of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    /// Bytes that passed all stages, wait in one, or are kept by a callout.
    pub(super) passed: usize,
    /// Bytes that a stage blocked.
    pub(super) blocked: usize,
    /// What became of a disconnect.
    pub(super) disconnect: Disconnect,
    /// Whether a stage asked for the connection to be dropped.
    pub(super) dropped: bool,
    /// Whether the end of the direction was injected.
    pub(super) end_injected: bool,
}

/// What a stage has been shown without an answer, and what it missed.
#[derive(Debug)]
struct Stage {
    id: StageId,
    collected: Vec<u8>,
    /// Collect until there are this many bytes.
    wanted: usize,
    missed: u64,
    allowed: bool,
    deferred: bool,
    /// Whether its callout keeps data in order to inject it, and so the end too.
    keeps: bool,
    /// A verdict about data that is still to come, and about how much of it.
    ahead: Option<(Verdict, usize)>,
}

/// The state of one direction of a stream in the waterfall.
#[derive(Debug, Default)]
pub(super) struct Waterfall {
    stages: Vec<Stage>,
}

/// The connection and the direction that a piece belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course<'a> {
    pub(super) conversation: &'a Conversation,
    pub(super) details: Details<'a>,
    pub(super) flags: StreamFlags,
}

/// One pass of data through the stages.
struct Pass<'a, F> {
    indicator: &'a mut Indicator<F>,
    course: &'a Course<'a>,
    order: &'a [StageId],
    flags: StreamFlags,
    delivered: Delivered,
}

impl<F: Filtering> Pass<'_, F> {
    /// A piece, or the end, has passed all stages.
    fn release(&mut self, bytes: &[u8]) {
        let flow_handle = self.course.details.flow_handle;
        self.indicator.release(flow_handle, self.flags, bytes);
    }

    fn ask(
        &mut self,
        id: StageId,
        bytes: &[u8],
        missed_bytes: u64,
        out_flags: ClassifyOutFlags,
    ) -> super::indicate::StreamOutcome {
        let segment = StreamSegment {
            stage: id,
            flags: self.flags,
            bytes,
            missed_bytes,
            out_flags,
        };
        self.indicator
            .classify_stream(self.course.conversation, &self.course.details, &segment)
    }
}

impl Waterfall {
    /// Sends data down.
    pub(super) fn data<F: Filtering>(
        &mut self,
        indicator: &mut Indicator<F>,
        course: &Course<'_>,
        bytes: &[u8],
    ) -> Delivered {
        if !indicator.wants(Point::Stream, course.conversation.version) {
            indicator.release(course.details.flow_handle, course.flags, bytes);
            return Delivered {
                passed: bytes.len(),
                ..Delivered::default()
            };
        }
        let caught_up = self.catch_up(indicator, course);
        if caught_up.dropped {
            return caught_up;
        }
        self.with_order(indicator, course, course.flags, |waterfall, pass| {
            waterfall.run(pass, 0, bytes, false);
        })
    }

    /// Sends what was injected before on its way: nothing that comes now may overtake it.
    pub(super) fn catch_up<F: Filtering>(
        &mut self,
        indicator: &mut Indicator<F>,
        course: &Course<'_>,
    ) -> Delivered {
        let outbound = course.flags.contains(StreamFlags::SEND);
        let mut caught_up = Delivered::default();
        for injection in indicator.stream_injected(course.details.flow_handle, outbound, None) {
            let here = self.inject(indicator, course, &injection);
            caught_up.end_injected |= here.end_injected;
            caught_up.dropped |= here.dropped;
            if caught_up.dropped {
                break;
            }
        }
        caught_up
    }

    /// Ends the stream: what waits is decided, then each stage sees the disconnect.
    pub(super) fn disconnect<F: Filtering>(
        &mut self,
        indicator: &mut Indicator<F>,
        course: &Course<'_>,
        flag: StreamFlags,
    ) -> Delivered {
        if !indicator.wants(Point::Stream, course.conversation.version) {
            indicator.release(course.details.flow_handle, course.flags | flag, &[]);
            return Delivered::default();
        }
        let caught_up = self.catch_up(indicator, course);
        if caught_up.dropped || caught_up.end_injected {
            return caught_up;
        }
        let flushed = self.with_order(indicator, course, course.flags, |waterfall, pass| {
            for index in 0..pass.order.len() {
                waterfall.run(pass, index, &[], true);
            }
        });
        if flushed.dropped {
            return flushed;
        }
        let end = self.with_order(indicator, course, course.flags | flag, |waterfall, pass| {
            waterfall.end(pass, 0);
        });
        Delivered {
            passed: flushed.passed,
            blocked: flushed.blocked,
            ..end
        }
    }

    /// Shows the end of the stream to the stages from `index` on.
    fn end<F: Filtering>(&mut self, pass: &mut Pass<'_, F>, index: usize) {
        for &id in &pass.order[index..] {
            let stage = self.stage(id);
            if stage.is_some_and(|stage| self.stages[stage].allowed) {
                continue;
            }
            let missed = stage.map_or(0, |stage| std::mem::take(&mut self.stages[stage].missed));
            let outcome = pass.ask(id, &[], missed, ClassifyOutFlags::NO_MORE_DATA);
            self.injected_here(pass, id, true);
            match outcome.action {
                StreamAction::DropConnection => {
                    pass.delivered.dropped = true;
                    return;
                }
                StreamAction::AllowConnection => {}
                _ if outcome.verdict == Verdict::Block => {
                    if stage.is_some_and(|stage| self.stages[stage].keeps) {
                        let disconnect = &mut pass.delivered.disconnect;
                        *disconnect = Disconnect::Kept.max(*disconnect);
                    } else {
                        pass.delivered.disconnect = Disconnect::Blocked;
                    }
                    return;
                }
                _ => {}
            }
        }
        pass.release(&[]);
    }

    /// Tells every stage that the connection was reset; there is nothing to decide any more.
    pub(super) fn abort<F: Filtering>(
        &mut self,
        indicator: &mut Indicator<F>,
        course: &Course<'_>,
        flag: StreamFlags,
    ) {
        if indicator.wants(Point::Stream, course.conversation.version) {
            self.with_order(indicator, course, course.flags | flag, |_, pass| {
                for &id in pass.order {
                    pass.ask(id, &[], 0, ClassifyOutFlags::NO_MORE_DATA);
                }
            });
        }
        indicator.release(course.details.flow_handle, course.flags | flag, &[]);
        self.stages.clear();
    }

    /// Goes on after a `DEFER` of a stage (`FwpsStreamContinue0`).
    pub(super) fn resume<F: Filtering>(
        &mut self,
        indicator: &mut Indicator<F>,
        course: &Course<'_>,
        id: StageId,
    ) -> Delivered {
        let Some(stage) = self.stage(id).filter(|&stage| self.stages[stage].deferred) else {
            return Delivered::default();
        };
        self.stages[stage].deferred = false;
        self.with_order(indicator, course, course.flags, |waterfall, pass| {
            if let Some(index) = pass.order.iter().position(|&other| other == id) {
                waterfall.run(pass, index, &[], false);
            }
        })
    }

    /// Sends data that a stage's callout injected to the stages after it (`FwpsStreamInjectAsync0`), and the end of
    /// the stream if its flags say so.
    pub(super) fn inject<F: Filtering>(
        &mut self,
        indicator: &mut Indicator<F>,
        course: &Course<'_>,
        injection: &StreamInjection,
    ) -> Delivered {
        let from = |order: &[StageId]| {
            order
                .iter()
                .position(|&id| id == injection.stage)
                .map_or(0, |index| index + 1)
        };
        let end = end_of(injection.flags);
        let flags = injection.flags.without(end);
        let data = self.with_order(indicator, course, flags, |waterfall, pass| {
            let index = from(pass.order);
            if !injection.bytes.is_empty() {
                waterfall.run(pass, index, &injection.bytes, false);
            }
            if !end.is_empty() {
                for index in index..pass.order.len() {
                    waterfall.run(pass, index, &[], true);
                }
            }
        });
        if end.is_empty() || data.dropped {
            return data;
        }
        let ended = self.with_order(indicator, course, flags | end, |waterfall, pass| {
            let index = from(pass.order);
            waterfall.end(pass, index);
        });
        Delivered {
            passed: data.passed,
            blocked: data.blocked,
            end_injected: true,
            ..ended
        }
    }

    /// Sends what a stage's callout has injected in the classify that has just returned to the stages after it: it comes
    /// before whatever the classify was about.
    fn injected_here<F: Filtering>(&mut self, pass: &mut Pass<'_, F>, id: StageId, last: bool) {
        let outbound = pass.flags.contains(StreamFlags::SEND);
        let flow_handle = pass.course.details.flow_handle;
        let injections = pass
            .indicator
            .stream_injected(flow_handle, outbound, Some(id));
        let Some(index) = pass.order.iter().position(|&other| other == id) else {
            return;
        };
        for injection in injections {
            let flags = std::mem::replace(&mut pass.flags, injection.flags);
            self.run(pass, index + 1, &injection.bytes, last);
            pass.flags = flags;
        }
    }

    /// Bytes that wait since a stage deferred them.
    pub(super) fn deferred(&self) -> usize {
        self.stages
            .iter()
            .filter(|stage| stage.deferred)
            .map(|stage| stage.collected.len())
            .sum()
    }

    fn with_order<F: Filtering>(
        &mut self,
        indicator: &mut Indicator<F>,
        course: &Course<'_>,
        flags: StreamFlags,
        work: impl FnOnce(&mut Self, &mut Pass<'_, F>),
    ) -> Delivered {
        let order = indicator.stages(course.conversation, course.details.flow_handle);
        let mut pass = Pass {
            indicator,
            course,
            order: &order,
            flags,
            delivered: Delivered::default(),
        };
        work(self, &mut pass);
        let delivered = pass.delivered;
        indicator.recycle(order);
        delivered
    }

    /// A connection that a stage has allowed in the other direction is allowed in this one too.
    pub(super) fn allow_as(&mut self, other: &Self) {
        for stage in other.stages.iter().filter(|stage| stage.allowed) {
            let known = self.stage_or_new(stage.id);
            self.stages[known].allowed = true;
        }
    }

    fn stage(&self, id: StageId) -> Option<usize> {
        self.stages.iter().position(|stage| stage.id == id)
    }

    fn stage_or_new(&mut self, id: StageId) -> usize {
        self.stage(id).unwrap_or_else(|| {
            self.stages.push(Stage {
                id,
                collected: Vec::new(),
                wanted: 0,
                missed: 0,
                allowed: false,
                deferred: false,
                keeps: false,
                ahead: None,
            });
            self.stages.len() - 1
        })
    }

    /// Shows data to the stages from `index` on.
    fn run<F: Filtering>(
        &mut self,
        pass: &mut Pass<'_, F>,
        index: usize,
        bytes: &[u8],
        last: bool,
    ) {
        if pass.delivered.dropped {
            return;
        }
        let Some(&id) = pass.order.get(index) else {
            pass.delivered.passed += bytes.len();
            if !bytes.is_empty() {
                pass.release(bytes);
            }
            return;
        };
        let Some(known) = self.stage(id) else {
            self.show(pass, index, bytes, last);
            return;
        };
        let state = &mut self.stages[known];
        if state.allowed {
            self.run(pass, index + 1, bytes, last);
            return;
        }
        if state.collected.is_empty() {
            self.show(pass, index, bytes, last);
            return;
        }
        state.collected.extend_from_slice(bytes);
        let enough = state.collected.len() >= state.wanted.min(MAX_COLLECTED);
        if (state.deferred || !enough) && !last {
            pass.delivered.passed += bytes.len();
            return;
        }
        state.deferred = false;
        let collected = std::mem::take(&mut state.collected);
        self.show(pass, index, &collected, last);
    }

    /// Asks a stage until it has decided about all of the bytes or wants to wait.
    fn show<F: Filtering>(
        &mut self,
        pass: &mut Pass<'_, F>,
        index: usize,
        mut bytes: &[u8],
        last: bool,
    ) {
        let id = pass.order[index];
        let inbound = pass.flags.contains(StreamFlags::RECEIVE);
        while !bytes.is_empty() && !pass.delivered.dropped {
            if let Some(verdict) = self.decided_ahead(id, bytes.len()) {
                let (decided, rest) = bytes.split_at(verdict.1);
                self.decide(pass, index, verdict.0, decided, last);
                bytes = rest;
                continue;
            }
            let missed = self
                .stage(id)
                .map_or(0, |stage| std::mem::take(&mut self.stages[stage].missed));
            let full = bytes.len() >= MAX_COLLECTED;
            let mut out_flags = ClassifyOutFlags::NONE;
            if full {
                out_flags |= ClassifyOutFlags::BUFFER_LIMIT_REACHED;
            }
            if last {
                out_flags |= ClassifyOutFlags::NO_MORE_DATA;
            }
            let outcome = pass.ask(id, bytes, missed, out_flags);
            self.injected_here(pass, id, false);
            let may_wait = !full && !last;
            match outcome.action {
                StreamAction::DropConnection => {
                    pass.delivered.dropped = true;
                    return;
                }
                StreamAction::AllowConnection => {
                    let stage = self.stage_or_new(id);
                    self.stages[stage].allowed = true;
                    self.run(pass, index + 1, bytes, last);
                    return;
                }
                StreamAction::NeedMoreData if may_wait => {
                    self.wait(pass, id, bytes, outcome.bytes_required.max(1), false);
                    return;
                }
                StreamAction::Defer if may_wait && inbound => {
                    self.wait(pass, id, bytes, 0, true);
                    return;
                }
                // Asking to wait where that is forbidden decides nothing, and nothing is a permit.
                StreamAction::NeedMoreData | StreamAction::Defer => {
                    self.run(pass, index + 1, bytes, last);
                    return;
                }
                StreamAction::None => {
                    let enforced = match outcome.bytes_enforced {
                        0 => bytes.len(),
                        enforced => enforced.min(bytes.len()),
                    };
                    let beyond = outcome.bytes_enforced.saturating_sub(bytes.len());
                    let next = EnforcedBeyondData::NextData;
                    if beyond > 0 && pass.indicator.options.enforced_beyond_data == next {
                        let stage = self.stage_or_new(id);
                        self.stages[stage].ahead = Some((outcome.verdict, beyond));
                    }
                    let (decided, rest) = bytes.split_at(enforced);
                    if outcome.is_kept && outcome.verdict == Verdict::Block {
                        self.keep(pass, id, index + 1, decided.len());
                    } else {
                        self.decide(pass, index, outcome.verdict, decided, last);
                    }
                    bytes = rest;
                }
            }
        }
    }

    /// A stage's callout keeps data in order to inject it, or has injected other data in its place.
    fn keep<F>(&mut self, pass: &mut Pass<'_, F>, id: StageId, from: usize, bytes: usize) {
        let stage = self.stage_or_new(id);
        self.stages[stage].keeps = true;
        self.withhold(pass, from, bytes);
        pass.delivered.blocked -= bytes;
        pass.delivered.passed += bytes;
    }

    /// What a stage has decided already about the next bytes, and how many they are.
    fn decided_ahead(&mut self, id: StageId, available: usize) -> Option<(Verdict, usize)> {
        let stage = self.stage(id)?;
        let (verdict, bytes) = self.stages[stage].ahead.take()?;
        if bytes > available {
            self.stages[stage].ahead = Some((verdict, bytes - available));
        }
        Some((verdict, bytes.min(available)))
    }

    /// Does what a stage decided about data.
    fn decide<F: Filtering>(
        &mut self,
        pass: &mut Pass<'_, F>,
        index: usize,
        verdict: Verdict,
        bytes: &[u8],
        last: bool,
    ) {
        match verdict {
            Verdict::Permit => self.run(pass, index + 1, bytes, last),
            Verdict::Block => self.withhold(pass, index + 1, bytes.len()),
        }
    }

    fn wait<F>(
        &mut self,
        pass: &mut Pass<'_, F>,
        id: StageId,
        bytes: &[u8],
        more: usize,
        defer: bool,
    ) {
        let known = self.stage_or_new(id);
        let state = &mut self.stages[known];
        state.collected.extend_from_slice(bytes);
        state.wanted = bytes.len().saturating_add(more);
        state.deferred = defer;
        pass.delivered.passed += bytes.len();
    }

    fn withhold<F>(&mut self, pass: &mut Pass<'_, F>, from: usize, bytes: usize) {
        pass.delivered.blocked += bytes;
        for &id in &pass.order[from..] {
            let stage = self.stage_or_new(id);
            self.stages[stage].missed += bytes as u64;
        }
    }
}
