//! Contexts of flows.

use super::{Area, rules};

rules! {
    Area::Flow;

    /// A context for a layer that the callout is not at.
    FLOW_LAYER = Error, "flow-layer", "a context is associated for the layer of its callout, which has flows", "FwpsFlowAssociateContext0";
    /// A context that is not there was removed.
    FLOW_REMOVED_TWICE = Warning, "flow-removed-twice", "a flow's context is removed once", "FwpsFlowRemoveContext0: STATUS_UNSUCCESSFUL";
}
