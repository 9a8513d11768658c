//! What the driver has seen.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::objects::message;
use crate::script::OPERATIONS;

/// What was called.
pub mod kind {
    /// `classifyFn`.
    pub const CLASSIFY: u32 = 1;
    /// `notifyFn`.
    pub const NOTIFY: u32 = 2;
    /// `flowDeleteFn`.
    pub const FLOW_DELETE: u32 = 3;
    /// An injection's `completionFn`.
    pub const COMPLETION: u32 = 4;
    /// The callback for the base filtering engine's state.
    pub const BFE_STATE: u32 = 5;
}

message! {
    /// One call of one of the driver's functions.
    Record {
        /// [`kind`].
        kind: u32,
        /// Slot of the callout.
        callout: u32,
        /// The level it was called at.
        irql: u32,
        /// Layer of a classify or of a flow's context.
        layer: u32,
        /// Identifier of the filter, or of the callout whose context is deleted.
        id: u64,
        /// `filter->context`; the context of an injection's completion.
        filter_context: u64,
        /// Context of the flow.
        flow_context: u64,
        /// `FWPS_METADATA_FIELD_*` that are there.
        metadata: u64,
        /// Flow.
        flow: u64,
        /// Endpoint.
        endpoint: u64,
        /// Completion handle.
        completion: u64,
        /// Bytes of the packet or of the stream.
        length: u64,
        /// Bytes that a stream's callout has missed.
        missed: u64,
        /// `NOTIFY`: type. `BFE_STATE`: state. `COMPLETION`: status of the list. Stream: flags.
        number: u32,
        /// `NOTIFY`: whether there was a key.
        keyed: u32,
        /// `actionType` on entry.
        action: u32,
        /// `rights` on entry.
        rights: u32,
        /// Field `FLAGS`; all ones where the layer has none or it is empty.
        flags: u32,
        /// Field `REAUTHORIZE_REASON`, likewise.
        reauthorize_reason: u32,
        /// Field `DIRECTION`, likewise.
        direction: u32,
        /// Field `IP_PROTOCOL`, likewise.
        protocol: u32,
        /// Field `IP_LOCAL_PORT`, likewise.
        local_port: u32,
        /// Field `IP_REMOTE_PORT`, likewise.
        remote_port: u32,
        /// `FWP_DATA_TYPE` of field `IP_LOCAL_ADDRESS`.
        local_address_type: u32,
        /// Field `IP_REMOTE_ADDRESS` of an IPv4 layer, likewise.
        remote_address: u32,
        /// `FWPS_CLASSIFY_OUT_FLAG_*` on entry.
        out_flags: u32,
        /// Nothing.
        reserved: u32,
        /// Metadata: module that discards.
        discard_module: u32,
        /// Metadata: why.
        discard_reason: u32,
        /// Statuses of the step's operations.
        operations: [u32; OPERATIONS],
        /// Values of the step's operations.
        values: [u64; OPERATIONS],
        /// The first bytes of the packet or of the stream.
        bytes: [u8; 32],
    }
}
