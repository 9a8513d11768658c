//! Contexts that callouts associate with data flows.
//!
//! A context is a number that WFP hands back to classify functions of the same flow and, once,
//! to the flow's deletion. This crate's advice: make it a handle into a table with generations,
//! never a pointer; then nothing that arrives late can be dangling.

use core::num::NonZeroU64;

use wfp_schema::{LayerId, NtStatus};

/// A data flow, as `FLOW_HANDLE` metadata names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId(NonZeroU64);

impl FlowId {
    /// The flow with this handle.
    #[must_use]
    pub const fn new(handle: NonZeroU64) -> Self {
        Self(handle)
    }

    /// The handle.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// The run-time identifier of a registered callout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CalloutId(u32);

impl CalloutId {
    /// The callout with this identifier, which WFP gave it.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Where a context is: one callout may have one context per flow and layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Association {
    /// The flow.
    pub flow: FlowId,
    /// The layer whose classifies get the context.
    pub layer: LayerId,
    /// The callout that gets it.
    pub callout: CalloutId,
}

/// Why a context was not associated. Nobody will be told of its deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssociateError {
    /// The callout has a context for this flow and layer; remove it first.
    Exists,
    /// Another status, among them `STATUS_INVALID_PARAMETER` for a callout that takes no contexts.
    Failed(NtStatus),
}

/// Associates `context`; the callout's `flow_deleted` will get it exactly once, possibly before
/// this returns.
///
/// # Errors
/// See [`AssociateError`].
pub fn associate(at: Association, context: NonZeroU64) -> Result<(), AssociateError> {
    // SAFETY: `FwpsFlowAssociateContext0` takes numbers and checks them itself.
    let status = unsafe {
        wfp_sys::FwpsFlowAssociateContext0(
            at.flow.get(),
            at.layer.get(),
            at.callout.get(),
            context.get(),
        )
    };
    // STATUS_OBJECT_NAME_EXISTS passes NT_SUCCESS.
    match NtStatus::from_i32(status) {
        NtStatus::SUCCESS => Ok(()),
        NtStatus::OBJECT_NAME_EXISTS => Err(AssociateError::Exists),
        status => Err(AssociateError::Failed(status)),
    }
}

/// How a context's removal went. In no case may the caller use what the context stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// `flow_deleted` has run within the call.
    Done,
    /// A classify has the context; `flow_deleted` runs after it.
    Pending,
    /// There is no such context, or its flow has ended: `flow_deleted` has run or is running.
    Absent,
    /// Another status.
    Failed(NtStatus),
}

/// Removes a context. `flow_deleted` may run within this call: hold no lock that it takes.
#[must_use]
pub fn remove(at: Association) -> Removal {
    // SAFETY: `FwpsFlowRemoveContext0` takes numbers and checks them itself.
    let status =
        unsafe { wfp_sys::FwpsFlowRemoveContext0(at.flow.get(), at.layer.get(), at.callout.get()) };
    // STATUS_PENDING passes NT_SUCCESS.
    match NtStatus::from_i32(status) {
        NtStatus::SUCCESS => Removal::Done,
        NtStatus::PENDING => Removal::Pending,
        NtStatus::UNSUCCESSFUL => Removal::Absent,
        status => Removal::Failed(status),
    }
}

/// Ends a flow: its connection is torn down, and contexts are removed as at any end.
///
/// # Errors
/// Whatever WFP answers; the flow goes on then.
pub fn abort(flow: FlowId) -> Result<(), NtStatus> {
    // SAFETY: `FwpsFlowAbort0` takes a number and checks it itself.
    NtStatus::from_i32(unsafe { wfp_sys::FwpsFlowAbort0(flow.get()) }).ok()
}
