//! Operations that a callout delays until somebody has decided.
//!
//! [`Classify::pend`](crate::callout::Classify::pend) keeps a bind, a listen, a connect or an
//! accept; [`PendedOperation::complete`] lets the system go on with it. What that means differs
//! from layer to layer (DDI pages of `FwpsPendOperation0` and `FwpsCompleteOperation0`):
//!
//! - a connect is authorized again at once, which the callout has to have an answer for. A SYN
//!   goes out then; the datagram of another protocol is gone, unless the callout has kept a clone
//!   of it and injects that;
//! - an accept is forgotten. The callout injects the packet that it has cloned, which is
//!   classified anew; without that nothing was ever received;
//! - a bind or a listen is classified once more.
//!
//! A reauthorization cannot be pended.

use core::{
    ffi::c_void,
    fmt,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
};

use wdk_sys::HANDLE;
use wfp_schema::NtStatus;

use crate::list::CloneList;

/// An operation that the system waits with, `FwpsPendOperation0`'s completion context.
///
/// It is completed exactly once: by [`complete`](Self::complete), or when it is dropped. Both may
/// authorize the connection again before they return, so neither is done under a lock that a
/// classify takes.
#[must_use = "dropping it completes the operation"]
pub struct PendedOperation(NonNull<c_void>);

// SAFETY: the system's handle may be completed on any thread, at IRQL <= DISPATCH_LEVEL.
unsafe impl Send for PendedOperation {}
// SAFETY: a shared reference offers nothing.
unsafe impl Sync for PendedOperation {}

impl PendedOperation {
    /// Pends the operation of the classify in progress.
    ///
    /// # Errors
    /// `STATUS_FWP_CANNOT_PEND` for a reauthorization, `STATUS_FWP_TCPIP_NOT_READY`, and whatever
    /// else WFP answers; nothing is pended then.
    pub(crate) fn pend(completion_handle: NonNull<c_void>) -> Result<Self, NtStatus> {
        let mut context: HANDLE = ptr::null_mut();
        // SAFETY: the handle is that of the classify in progress, and the result has a place.
        let status =
            unsafe { wfp_sys::FwpsPendOperation0(completion_handle.as_ptr(), &raw mut context) };
        NtStatus::from_i32(status).ok()?;
        NonNull::new(context)
            .map(Self)
            .ok_or(NtStatus::UNSUCCESSFUL)
    }

    /// Lets the system go on.
    pub fn complete(self) {
        drop(self);
    }

    /// The same for an accept whose packet is injected next.
    pub fn complete_with(self, packet: &CloneList) {
        let context = ManuallyDrop::new(self).0;
        // SAFETY: the context is completed once, because `self` is gone; the clone lives during
        // the call.
        unsafe { wfp_sys::FwpsCompleteOperation0(context.as_ptr(), packet.as_ptr()) };
    }
}

impl Drop for PendedOperation {
    fn drop(&mut self) {
        // SAFETY: the context is completed once, because nothing is left of `self` after this.
        unsafe { wfp_sys::FwpsCompleteOperation0(self.0.as_ptr(), ptr::null_mut()) };
    }
}

impl fmt::Debug for PendedOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendedOperation").finish_non_exhaustive()
    }
}
