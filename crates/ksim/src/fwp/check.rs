//! What a classify function may leave in `FWPS_CLASSIFY_OUT0` and in a stream's packet.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nc-fwpsk-fwps_callout_classify_fn2>

use std::cell::Cell;
use std::time::Instant;

use wfp_engine::{ClassifyCall, ClassifyOut};
use wfp_schema::flags::RuntimeFilterFlags;
use wfp_schema::{Action, ClassifyOutFlags, LayerId, LayerKind, Rights, StreamAction, StreamFlags};

use super::host::KernelHost;
use super::layout::kernel::{RawClassifyOut, RawStreamPacket};
use crate::cpu::{Callback, Cpu};
use crate::verifier::{
    ARGUMENT, CLASSIFY_ACTION, CLASSIFY_ALLOCATIONS, CLASSIFY_BLOCK_RIGHT, CLASSIFY_FLAGS,
    CLASSIFY_RIGHTS, CLASSIFY_STACK, CLASSIFY_TIME, Rule,
};

const PERMIT: u32 = Action::Permit.value();
const BLOCK: u32 = Action::Block.value();
const CONTINUE: u32 = Action::Continue.value();
const NONE: u32 = Action::None.value();

/// What a callout pended in a classify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pended {
    /// Nothing.
    No,
    /// The operation, by `FwpsPendOperation0`.
    Operation,
    /// The classify, by `FwpsPendClassify0`.
    Classify,
}

impl Pended {
    /// What was pended between two looks at [`Current::pends`](super::current::Current::pends).
    pub(super) const fn since(before: (bool, bool), after: (bool, bool)) -> Self {
        match (before, after) {
            ((false, _), (true, _)) => Self::Operation,
            ((_, false), (_, true)) => Self::Classify,
            _ => Self::No,
        }
    }
}

/// A classify that has returned.
pub(super) struct Returned<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) call: &'a ClassifyCall<'a, KernelHost>,
    /// What the callout found and left.
    pub(super) entry: RawClassifyOut,
    pub(super) exit: RawClassifyOut,
    /// What it pended.
    pub(super) pended: Pended,
    /// It referenced the packet in order to modify it.
    pub(super) modify: bool,
}

impl Returned<'_> {
    fn report(&self, rule: &Rule, what: &str) {
        let callout = self.call.callout;
        let function = callout.host().classify.address();
        let verifier = self.cpu.machine().verifier();
        let message = format!(
            "{what} (classifyFn {}, callout {}, layer {}, action {:#x} -> {:#x}, rights {:#x} -> {:#x}, flags {:#x})",
            verifier.place(function),
            callout.id(),
            self.call.layer,
            self.entry.action,
            self.exit.action,
            self.entry.rights,
            self.exit.rights,
            self.exit.flags,
        );
        verifier.violation_by(
            self.cpu,
            Callback::new("classifyFn", function),
            rule,
            message,
        );
    }

    const fn filter_action(&self) -> Action {
        self.call.filter.record().action()
    }

    const fn had_right(&self) -> bool {
        Rights::from_bits(self.entry.rights).contains(Rights::ACTION_WRITE)
    }

    const fn kept_right(&self) -> bool {
        Rights::from_bits(self.exit.rights).contains(Rights::ACTION_WRITE)
    }

    /// Checks what a callout at a layer other than STREAM left.
    pub(super) fn check(&self) {
        let (entry, exit) = (self.entry, self.exit);
        if exit == entry
            && self.pended == Pended::No
            && !self.modify
            && self.filter_action() != Action::CalloutTerminating
        {
            return;
        }
        self.check_rights();
        self.check_action();
        self.check_flags();
    }

    fn check_rights(&self) {
        let (entry, exit) = (self.entry, self.exit);
        if exit.rights & !entry.rights != 0 {
            self.report(
                &CLASSIFY_RIGHTS,
                "a right was set that the callout did not have",
            );
        }
        let inspection = self.filter_action() == Action::CalloutInspection;
        if exit.action != entry.action && exit.action != BLOCK && !self.had_right() && !inspection {
            self.report(
                &CLASSIFY_RIGHTS,
                "actionType was written without FWPS_RIGHT_ACTION_WRITE",
            );
        }
        if exit.action == BLOCK && self.had_right() && self.kept_right() && !inspection {
            self.report(
                &CLASSIFY_BLOCK_RIGHT,
                "FWPS_RIGHT_ACTION_WRITE is left set with FWP_ACTION_BLOCK",
            );
        }
        let clear = self
            .call
            .filter
            .record()
            .runtime_flags()
            .contains(RuntimeFilterFlags::CLEAR_ACTION_RIGHT);
        if exit.action == PERMIT && self.had_right() && self.kept_right() && clear {
            self.report(
                &CLASSIFY_RIGHTS,
                "FWPS_RIGHT_ACTION_WRITE is left set though the filter has CLEAR_ACTION_RIGHT",
            );
        }
        if self.modify && self.kept_right() {
            self.report(
                &CLASSIFY_RIGHTS,
                "FWPS_RIGHT_ACTION_WRITE is left set though the packet was referenced in order to modify it",
            );
        }
    }

    fn check_action(&self) {
        let (entry, exit) = (self.entry, self.exit);
        let written = exit.action != entry.action;
        match self.filter_action() {
            Action::CalloutTerminating if exit.action != PERMIT && exit.action != BLOCK => {
                self.report(
                    &CLASSIFY_ACTION,
                    "a terminating callout neither permitted nor blocked, which blocks",
                );
            }
            Action::CalloutInspection
                if written && exit.action != CONTINUE && exit.action != NONE =>
            {
                self.report(
                    &CLASSIFY_ACTION,
                    "an inspection callout decided, which counts for nothing",
                );
            }
            _ if written && ![PERMIT, BLOCK, CONTINUE, NONE].contains(&exit.action) => {
                self.report(
                    &CLASSIFY_ACTION,
                    "actionType is no action that a callout returns",
                );
            }
            _ => {}
        }
        if written
            && exit.action == BLOCK
            && self.pended != Pended::Classify
            && never_blocks(self.call.layer)
        {
            self.report(&CLASSIFY_ACTION, "the layer is not for blocking");
        }
        if self.pended != Pended::No && exit.action != BLOCK {
            self.report(
                &CLASSIFY_ACTION,
                "an operation was pended without FWP_ACTION_BLOCK",
            );
        }
    }

    fn check_flags(&self) {
        let (entry, exit) = (self.entry, self.exit);
        let set = ClassifyOutFlags::from_bits(exit.flags & !entry.flags);
        if !set.without(ClassifyOutFlags::ABSORB).is_empty() {
            self.report(
                &CLASSIFY_FLAGS,
                "a flag was set that is not the callout's to set",
            );
        }
        if ClassifyOutFlags::from_bits(exit.flags).contains(ClassifyOutFlags::ABSORB) {
            if exit.action != BLOCK {
                self.report(&CLASSIFY_FLAGS, "ABSORB without FWP_ACTION_BLOCK");
            }
            if self.pended == Pended::No
                && !self
                    .call
                    .layer
                    .layer()
                    .is_some_and(wfp_schema::Layer::may_absorb)
            {
                self.report(&CLASSIFY_FLAGS, "ABSORB at a layer that does not have it");
            }
        } else if self.pended == Pended::Operation {
            self.report(&CLASSIFY_FLAGS, "an operation was pended without ABSORB");
        }
        let own = |out: &RawClassifyOut| (out.out_context, out.filter_id, out.reserved);
        if own(&entry) != own(&exit) {
            self.report(
                &CLASSIFY_FLAGS,
                "a member was written that belongs to the system",
            );
        }
    }

    /// Checks what a stream callout left; what it asked for, if that is an action at all.
    pub(super) fn check_stream(
        &self,
        packet: &RawStreamPacket,
        flags: StreamFlags,
        length: usize,
        found: ClassifyOutFlags,
    ) -> Option<StreamAction> {
        let Some(action) = StreamAction::from_u32(packet.action) else {
            self.report(
                &ARGUMENT,
                &format!(
                    "streamAction {} is no FWPS_STREAM_ACTION_TYPE",
                    packet.action
                ),
            );
            return None;
        };
        let end = StreamFlags::RECEIVE_DISCONNECT | StreamFlags::SEND_DISCONNECT;
        let complaint = match action {
            StreamAction::None => {
                let decides = self.filter_action() != Action::CalloutInspection;
                if decides && ![PERMIT, BLOCK, CONTINUE].contains(&self.exit.action) {
                    self.report(&CLASSIFY_ACTION, "a stream callout assigned no actionType");
                }
                None
            }
            StreamAction::NeedMoreData if !found.is_empty() => {
                Some("NEED_MORE_DATA though the callout was told that it must decide")
            }
            StreamAction::NeedMoreData if packet.bytes_required == 0 => {
                Some("NEED_MORE_DATA with countBytesRequired 0")
            }
            StreamAction::Defer if flags.contains(StreamFlags::SEND) => {
                Some("DEFER of outbound data")
            }
            StreamAction::Defer if flags.intersects(end) => Some("DEFER of the end of a stream"),
            _ => None,
        };
        if let Some(complaint) = complaint {
            self.report(&ARGUMENT, complaint);
        }
        if packet.bytes_enforced > length {
            self.report(
                &ARGUMENT,
                &format!(
                    "countBytesEnforced is {} of {length}",
                    packet.bytes_enforced
                ),
            );
        }
        Some(action)
    }
}

/// Layers at which a block makes no sense (after the fact), or is only for security failures.
fn never_blocks(layer: LayerId) -> bool {
    layer.layer().is_some_and(|layer| {
        matches!(
            layer.kind(),
            LayerKind::AleFlowEstablished
                | LayerKind::AleResourceRelease
                | LayerKind::AleEndpointClosure
        )
    })
}

/// The engine's form of what a callout left.
pub(super) const fn answer(exit: &RawClassifyOut, out: &mut ClassifyOut) {
    out.action = exit.action;
    out.rights = Rights::from_bits(exit.rights);
    out.flags = ClassifyOutFlags::from_bits(exit.flags);
}

/// What one call of a classify function may cost: processor time in nanoseconds, stack in bytes, allocations.
const MOST_TIME: u64 = 100_000_000;
const MOST_STACK: usize = 0x2000;
const MOST_ALLOCATIONS: u32 = 8;

/// What a classify function costs.
pub(super) struct Cost {
    began: Began,
}

/// When a function was called.
///
/// Asking for a thread's processor time is a system call, and takes longer than most classifies. So the time of the
/// clock on the wall, which is cheap and never less, is looked at first, and the processor's is asked for once in a
/// [`GRAIN`].
struct Began {
    wall: Instant,
    processor: u64,
}

/// Nanoseconds by which a call's processor time may be taken for longer than it was.
const GRAIN: u64 = MOST_TIME / 100;

thread_local! {
    /// When this thread's processor time was last asked for, and what it was.
    static LAST: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

impl Began {
    fn now() -> Self {
        let wall = Instant::now();
        let is_fresh =
            |last: &(Instant, u64)| wall.duration_since(last.0).as_nanos() < GRAIN.into();
        let (_, processor) = LAST.get().filter(is_fresh).unwrap_or_else(|| {
            let last = (wall, thread_time());
            LAST.set(Some(last));
            last
        });
        Self { wall, processor }
    }

    /// Processor time in nanoseconds since then; 0 if it is surely no more than `most`.
    fn longer_than(&self, most: u64) -> u64 {
        if self.wall.elapsed().as_nanos() <= most.into() {
            return 0;
        }
        thread_time().saturating_sub(self.processor)
    }
}

impl Cost {
    /// Before the function is called.
    pub(super) fn begin(cpu: &Cpu) -> Self {
        cpu.machine().fwp.current(cpu).take_allocations();
        Self {
            began: Began::now(),
        }
    }

    /// After `calls` calls.
    pub(super) fn check(&self, cpu: &Cpu, calls: u32, call: &ClassifyCall<'_, KernelHost>) {
        let calls = calls.max(1);
        let report = |rule: &Rule, what: &str| {
            let function = call.callout.host().classify.address();
            let verifier = cpu.machine().verifier();
            let message = format!(
                "{what} (classifyFn {}, callout {}, layer {})",
                verifier.place(function),
                call.callout.id(),
                call.layer
            );
            verifier.violation_by(cpu, Callback::new("classifyFn", function), rule, message);
        };
        let time = self.began.longer_than(MOST_TIME) / u64::from(calls);
        // Once does not count: a host that is held up itself takes the time for the thread's.
        let function = call.callout.host().classify.address();
        if time > MOST_TIME && !cpu.machine().fwp.slow.lock().insert(function) {
            report(
                &CLASSIFY_TIME,
                &format!("{} ms of processor time", time / 1_000_000),
            );
        }
        let stack = cpu.left_stack();
        if stack > MOST_STACK {
            report(&CLASSIFY_STACK, &format!("{stack} bytes of stack"));
        }
        let allocations = cpu.machine().fwp.current(cpu).take_allocations() / calls;
        if allocations > MOST_ALLOCATIONS {
            report(&CLASSIFY_ALLOCATIONS, &format!("{allocations} allocations"));
        }
    }
}

/// Nanoseconds that this thread has run.
pub(super) fn thread_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a clock that exists, and a place for its time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}
