//! What a classify function returns and does.

use super::{Area, rules};

rules! {
    Area::Classify;

    /// A classify wrote what it had no right to write.
    CLASSIFY_RIGHTS = Error, "classify-rights", "without FWPS_RIGHT_ACTION_WRITE a callout only vetoes a permit", "FWPS_CALLOUT_CLASSIFY_FN2";
    /// A classify returned an action that its layer or filter does not have.
    CLASSIFY_ACTION = Error, "classify-action", "a callout returns an action that its filter's type and its layer allow", "FWPS_ACTION0; FWPS_CALLOUT_CLASSIFY_FN2";
    /// A block without the WRITE right cleared, or unknown flags.
    CLASSIFY_BLOCK_RIGHT = Warning, "classify-block-right", "a callout that blocks clears FWPS_RIGHT_ACTION_WRITE", "FWPS_CALLOUT_CLASSIFY_FN2";
    /// Flags of classifyOut that do not fit.
    CLASSIFY_FLAGS = Error, "classify-flags", "ABSORB goes with BLOCK, and only at layers that have it", "FWPS_CLASSIFY_OUT0";
    /// A classify ran for long.
    CLASSIFY_TIME = Warning, "classify-time", "a classify function takes no more than 100 ms of processor time, more often than once", "Callout Driver Programming Considerations: keep execution at DISPATCH_LEVEL short";
    /// A classify used much of the stack.
    CLASSIFY_STACK = Warning, "classify-stack", "a classify function uses no more than 8 KB of the 24 KB kernel stack", "Using the Kernel Stack; classify functions run at the bottom of the network stack";
    /// A classify waited.
    CLASSIFY_BLOCKING = Error, "classify-blocking", "a classify function does not wait", "Callout Driver Programming Considerations";
    /// A classify allocated often.
    CLASSIFY_ALLOCATIONS = Warning, "classify-allocations", "a classify function makes no more than 8 allocations of pool", "Callout Driver Programming Considerations";
}
