//! Net buffer lists and their injection.

use super::{Area, rules};

rules! {
    Area::Injection;

    /// A net buffer that was changed and not put back, or touched after it was handed over.
    NBL_STATE = Error, "nbl-state", "a net buffer list is given back as it was received, and not touched after it was handed over", "NdisRetreatNetBufferDataStart; FwpsInjectNetworkSendAsync0";
}
