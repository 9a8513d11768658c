//! What a callout answers, and does before.

use conformance_messages::{OPERATIONS, Operation, Step, operation};
use wfp_schema::{Action, ClassifyOutFlags, Layer, Rights, StreamAction};
use zerocopy::FromZeros as _;

use crate::world::Callout;

/// The action, with the right as it was found: a soft decision.
pub(crate) fn soft(action: Action) -> Step {
    let mut step = Step::new_zeroed();
    step.action = action.value();
    step
}

/// The action, for good.
pub(crate) fn hard(action: Action) -> Step {
    let mut step = soft(action);
    step.clear_rights = Rights::ACTION_WRITE.bits();
    step
}

/// Permits.
pub(crate) fn permit() -> Step {
    soft(Action::Permit)
}

/// Blocks for good.
pub(crate) fn block() -> Step {
    hard(Action::Block)
}

/// Blocks for good and leaves no trace.
pub(crate) fn absorb() -> Step {
    let mut step = block();
    step.flags = ClassifyOutFlags::ABSORB.bits();
    step
}

/// Has no opinion.
pub(crate) fn proceed() -> Step {
    soft(Action::Continue)
}

/// Leaves everything as it was found.
pub(crate) fn silent() -> Step {
    Step::new_zeroed()
}

/// Permits or blocks the first `bytes` of a stream's indication.
pub(crate) const fn first(bytes: u64, answer: Step) -> Step {
    let mut step = answer;
    step.enforced = bytes;
    step
}

/// Answers by a stream action.
pub(crate) fn stream(action: StreamAction) -> Step {
    let mut step = soft(Action::None);
    step.stream_action = action.value();
    step
}

/// Wants so many bytes more.
pub(crate) fn need(bytes: u32) -> Step {
    let mut step = stream(StreamAction::NeedMoreData);
    step.required = bytes;
    step
}

/// What is added to a step.
pub(crate) trait Doing {
    /// Makes this call before it answers, after those that it makes already.
    fn doing(self, made: Operation) -> Self;
}

impl Doing for Step {
    fn doing(mut self, made: Operation) -> Self {
        let free = self
            .operations
            .iter_mut()
            .find(|operation| operation.code == operation::NONE);
        *free.unwrap_or_else(|| panic!("a step has {OPERATIONS} operations")) = made;
        self
    }
}

/// A call with a slot.
pub(crate) fn with_slot(code: u32, slot: u32) -> Operation {
    let mut made = Operation::new_zeroed();
    made.code = code;
    made.slot = slot;
    made
}

/// Associates a context for a callout at a layer with the flow of the classify.
pub(crate) fn associate(callout: &Callout, layer: &Layer, context: u64) -> Operation {
    Operation {
        code: operation::ASSOCIATE,
        slot: 0,
        a: layer.id().get().into(),
        b: callout.id.into(),
        c: context,
    }
}

/// Redirects the connection to an IPv4 address and port, with a redirect handle and context.
pub(crate) fn redirect(
    address: std::net::Ipv4Addr,
    port: u16,
    slot: u32,
    context: u64,
) -> Operation {
    Operation {
        code: operation::MODIFY,
        slot,
        a: u64::from(port) << 32 | u64::from(address.to_bits()),
        b: context,
        c: 0,
    }
}
