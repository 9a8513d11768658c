//! How a callout answers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::objects::message;

/// How many steps a script has at most.
pub const STEPS: usize = 8;
/// How many operations a step has at most.
pub const OPERATIONS: usize = 4;

/// What a classify function does before it answers.
pub mod operation {
    /// Nothing.
    pub const NONE: u32 = 0;
    /// `FwpsFlowAssociateContext0`: flow of the metadata, `a` layer, `b` callout, `c` context.
    pub const ASSOCIATE: u32 = 1;
    /// `FwpsFlowRemoveContext0`: flow of the metadata, `a` layer, `b` callout.
    pub const REMOVE: u32 = 2;
    /// `FwpsFlowAbort0`: flow of the metadata.
    pub const ABORT_FLOW: u32 = 3;
    /// `FwpsPendOperation0` into the slot.
    pub const PEND_OPERATION: u32 = 4;
    /// `FwpsAcquireClassifyHandle0` and `FwpsPendClassify0` into the slot.
    pub const PEND_CLASSIFY: u32 = 5;
    /// `FwpsAcquireWritableLayerDataPointer0`.
    ///
    /// What it left of `classifyOut` is the value: the action, and the rights in the upper half. If `a` is not 0, the connection is redirected to that IPv4 address and, in its upper half,
    /// port, with redirect handle `slot` and redirect context `b`. Then `FwpsApplyModifiedLayerData0`.
    pub const MODIFY: u32 = 6;
    /// `FwpsQueryConnectionRedirectState0` with redirect handle `slot`; the value is the state and, in the upper half,
    /// the first four bytes of the context.
    pub const REDIRECT_STATE: u32 = 7;
    /// `FwpsAllocateCloneNetBufferList0` into packet `slot`. If `a` is not 0, from the IP header on.
    pub const CLONE: u32 = 8;
    /// `FwpsQueryPacketInjectionState0` with injection handle `slot`; the value is the state and, in the upper half, the
    /// context.
    pub const INJECTION_STATE: u32 = 9;
    /// `FwpsCloneStreamData0` into packet `slot`.
    pub const CLONE_STREAM: u32 = 10;
    /// Waits, at whatever level, until [`signal::RELEASE`](crate::signal::RELEASE).
    pub const HOLD: u32 = 11;
}

message! {
    /// A call in a classify; its status and value are in the [`Record`](crate::Record).
    Operation {
        /// [`operation`].
        code: u32,
        /// Slot.
        slot: u32,
        /// See [`operation`].
        a: u64,
        /// See [`operation`].
        b: u64,
        /// See [`operation`].
        c: u64,
    }
    /// One classify.
    Step {
        /// What is done before the answer.
        operations: [Operation; OPERATIONS],
        /// `actionType`; 0 leaves it as it is.
        action: u32,
        /// `FWPS_RIGHT_*` to take away.
        clear_rights: u32,
        /// `FWPS_CLASSIFY_OUT_FLAG_*` to set.
        flags: u32,
        /// `streamAction`.
        stream_action: u32,
        /// `countBytesEnforced`.
        enforced: u64,
        /// `countBytesRequired`.
        required: u32,
        /// Nothing.
        reserved: u32,
    }
    /// What a callout does, classify after classify; the last step is repeated.
    Script {
        /// Slot of the callout.
        callout: u32,
        /// How many of `steps` there are.
        count: u32,
        /// The steps.
        steps: [Step; STEPS],
    }
    /// How a callout's `notifyFn` answers.
    Notify {
        /// Slot of the callout.
        callout: u32,
        /// Whether `filter->context` is set when a filter is added.
        set_context: u32,
        /// Status for an addition.
        add_status: u32,
        /// Status for a deletion.
        delete_status: u32,
        /// The filter's context.
        context: u64,
    }
}
