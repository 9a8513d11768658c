//! Flows, packets and their injection, what is pended, the base filtering engine.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::objects::message;

/// What is done with a flow.
pub mod flow {
    /// `FwpsFlowAssociateContext0`.
    pub const ASSOCIATE: u32 = 1;
    /// `FwpsFlowRemoveContext0`.
    pub const REMOVE: u32 = 2;
    /// `FwpsFlowAbort0`.
    pub const ABORT: u32 = 3;
    /// `FwpsStreamContinue0`; `context` holds the stream flags.
    pub const CONTINUE: u32 = 4;
}

/// Kinds of handles.
pub mod handle {
    /// `FwpsInjectionHandleCreate0`.
    pub const INJECTION: u32 = 1;
    /// `FwpsRedirectHandleCreate0`.
    pub const REDIRECT: u32 = 2;
}

/// How what is pended is completed.
pub mod completion {
    /// `FwpsCompleteOperation0` without a packet.
    pub const OPERATION: u32 = 1;
    /// `FwpsCompleteClassify0`.
    pub const CLASSIFY: u32 = 2;
}

/// Where a packet is injected.
pub mod point {
    /// `FwpsInjectNetworkSendAsync0`.
    pub const NETWORK_SEND: u32 = 1;
    /// `FwpsInjectNetworkReceiveAsync0`.
    pub const NETWORK_RECEIVE: u32 = 2;
    /// `FwpsInjectTransportSendAsync1`.
    pub const TRANSPORT_SEND: u32 = 3;
    /// `FwpsInjectTransportReceiveAsync0`.
    pub const TRANSPORT_RECEIVE: u32 = 4;
    /// `FwpsInjectForwardAsync0`.
    pub const FORWARD: u32 = 5;
    /// `FwpsStreamInjectAsync0`.
    pub const STREAM: u32 = 6;
}

/// What is done about the base filtering engine's state.
pub mod bfe {
    /// `FwpmBfeStateSubscribeChanges0`.
    pub const SUBSCRIBE: u32 = 1;
    /// `FwpmBfeStateUnsubscribeChanges0`.
    pub const UNSUBSCRIBE: u32 = 2;
    /// `FwpmBfeStateGet0`; the value is the state.
    pub const STATE: u32 = 3;
}

/// Classifies that hold.
pub mod signal {
    /// Lets one go on that holds, or the next that would.
    pub const RELEASE: u32 = 1;
    /// Asks: the value is how many hold.
    pub const HELD: u32 = 2;
}

message! {
    /// A call about a flow.
    FlowContext {
        /// [`flow`].
        what: u32,
        /// Layer.
        layer: u32,
        /// Callout.
        callout: u32,
        /// [`DISPATCH`](crate::DISPATCH) or 0.
        irql: u32,
        /// Flow.
        flow: u64,
        /// Context.
        context: u64,
    }
    /// Makes a handle.
    HandleCreate {
        /// [`handle`].
        kind: u32,
        /// Slot of the handle.
        slot: u32,
        /// `ADDRESS_FAMILY`.
        family: u32,
        /// `FWPS_INJECTION_TYPE_*`.
        flags: u32,
        /// [`DISPATCH`](crate::DISPATCH) or 0.
        irql: u32,
        /// Nothing.
        reserved: u32,
        /// The provider's key of a redirect handle.
        provider: [u8; 16],
    }
    /// `FwpsInjectionHandleDestroy0` or `FwpsRedirectHandleDestroy0`.
    HandleDestroy {
        /// [`handle`].
        kind: u32,
        /// Slot of the handle.
        slot: u32,
    }
    /// Completes what a classify has pended.
    Complete {
        /// [`completion`].
        kind: u32,
        /// Slot of the pended operation or classify.
        slot: u32,
        /// `actionType` for a classify.
        action: u32,
        /// `FWPS_RIGHT_*` for a classify.
        rights: u32,
    }
    /// Makes a packet of one net buffer with these bytes.
    MakePacket {
        /// Slot of the packet.
        slot: u32,
        /// How many of `bytes` count.
        length: u32,
        /// The slot of a packet that this is linked behind, plus 1; 0 for none.
        behind: u32,
        /// Whether it is linked as a further net buffer of that packet, not as a further list.
        same_list: u32,
        /// The packet.
        bytes: [u8; 512],
    }
    /// Injects a packet.
    Inject {
        /// [`point`].
        point: u32,
        /// Slot of the injection handle.
        handle: u32,
        /// Slot of the packet, plus 1; 0 for none.
        packet: u32,
        /// `flags`.
        flags: u32,
        /// `ADDRESS_FAMILY`.
        family: u32,
        /// Interface to receive from.
        interface: u32,
        /// Whether `completionFn` is NULL.
        no_completion: u32,
        /// [`DISPATCH`](crate::DISPATCH) or 0.
        irql: u32,
        /// Injection context.
        context: u64,
        /// Flow, or endpoint.
        flow: u64,
        /// Callout of a stream.
        callout: u32,
        /// Layer of a stream.
        layer: u32,
        /// `FWPS_STREAM_FLAG_*`.
        stream_flags: u32,
        /// Whether the handle is destroyed right after. The second value is the status of that, the third one how
        /// many completions had run when it returned.
        destroy: u32,
        /// The slot of a packet, plus 1, that the completion injects likewise; 0 for none.
        again: u32,
        /// Nothing.
        reserved: u32,
        /// Bytes of a stream.
        length: u64,
        /// Remote address of what is sent.
        remote: [u8; 16],
    }
    /// About the base filtering engine.
    Bfe {
        /// [`bfe`].
        what: u32,
        /// [`DISPATCH`](crate::DISPATCH) or 0.
        irql: u32,
    }
    /// About classifies that hold.
    Signal {
        /// [`signal`].
        what: u32,
    }
    /// Takes what the driver has recorded, oldest first.
    TakeRecords {
        /// Nothing.
        reserved: u32,
    }
}
