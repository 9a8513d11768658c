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
}
