//! Operations and classifies that are decided later, and layer data that is changed.

use super::{Area, rules};

rules! {
    Area::Pend;

    /// Completed twice, or without a pend.
    PEND_PROTOCOL = Error, "pend-protocol", "what was pended is completed exactly once", "FwpsCompleteOperation0; FwpsCompleteClassify0";
    /// Pended where that is not possible.
    PEND_REAUTHORIZATION = Warning, "pend-reauthorization", "a reauthorization is not pended", "FwpsPendOperation0: STATUS_FWP_CANNOT_PEND";
    /// Layer data that was acquired and not applied, or changed against the rules.
    LAYER_DATA = Error, "layer-data", "writable layer data is applied once, with changes to its writable members only", "FwpsAcquireWritableLayerDataPointer0; FwpsApplyModifiedLayerData0; FWPS_CONNECT_REQUEST0";
}
