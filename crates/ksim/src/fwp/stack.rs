//! What a driver asks of the network stack outside of a classify.
//!
//! The functions that inject, complete or abort return at once, as on Windows; what they ask for waits here until
//! whoever runs the stack takes it with [`Machine::take_stack_requests`](crate::kernel::Machine::take_stack_requests).

use crate::net::{
    Completion, InjectionMark, InjectionPoint, PacketId, Request, Sender, StageId, StreamInjection,
};

/// A packet that a driver injects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectedPacket {
    /// Where it comes in.
    pub point: InjectionPoint,
    /// The packet from its IP header, as it was when the function was called.
    pub bytes: Vec<u8>,
    /// Who sends the packet, if the stack is to give it its IP header: then the bytes begin with the transport's.
    pub sender: Option<Sender>,
    /// To be shown with the packet when it is indicated.
    pub mark: InjectionMark,
    /// The packet that it was cloned from, if it was.
    pub origin: Option<PacketId>,
    /// How many times what it was cloned from had been injected before.
    pub hops: u32,
    /// The processor whose stack takes it: that of the packet that it was cloned from, or of the endpoint that sends it,
    /// else the one on which the function was called.
    pub processor: u32,
}

/// Data that a driver injects into a stream; only what is lighter than the callout sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectedStreamData {
    /// The flow.
    pub flow_handle: u64,
    /// What, and by whom.
    pub injection: StreamInjection,
}

/// Something that a driver asks of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StackRequest {
    /// Take this packet.
    Inject(InjectedPacket),
    /// Take this data.
    InjectStream(InjectedStreamData),
    /// The operation with this completion handle may go on (`FwpsCompleteOperation0`).
    Complete {
        /// The completion handle that the indication showed.
        completion_handle: u64,
    },
    /// The classify with this pend handle is decided (`FwpsCompleteClassify0`).
    CompleteClassify {
        /// The pend handle of the indication.
        pend_handle: u64,
        /// How.
        completion: Completion,
        /// Versions of the layer data that were applied since the classify, oldest first.
        changes: Vec<Request>,
    },
    /// Abort this flow (`FwpsFlowAbort0`).
    AbortFlow {
        /// The flow.
        flow_handle: u64,
    },
    /// Indicate the deferred stream again (`FwpsStreamContinue0`).
    ContinueStream {
        /// The flow.
        flow_handle: u64,
        /// The stage of the callout that deferred it.
        stage: StageId,
    },
}
