//! What is asked for at a redirect layer, and decided later.
//!
//! DDI pages of
//! [`FwpsPendClassify0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpspendclassify0) and
//! [`FwpsCompleteClassify0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscompleteclassify0).

use core::{
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
};

use wfp_schema::{ClassifyOutFlags, NtStatus, Rights, flags::RuntimeFilterFlags};
use wfp_sys::FWPS_CLASSIFY_OUT0;

use super::{Call, Redirectable, WritableLayerData};
use crate::verdict::{Authorization, ClassifyOut, Verdict};

/// A classify that the system waits with.
///
/// It is completed exactly once: by one of its methods, or when it is dropped, which blocks. Then its handle is released.
/// The layer data borrows it, so it is applied before.
///
/// Everything here may be done on any thread, at IRQL <= `DISPATCH_LEVEL`. It is to be done before the callout is
/// unregistered.
#[must_use = "dropping it blocks what is asked for"]
pub struct PendedClassify<L: Redirectable> {
    handle: u64,
    /// The filter that called the callout.
    filter: u64,
    filter_flags: RuntimeFilterFlags,
    /// The rights with which the callout was called.
    rights: Rights,
    /// The answer as it was when the classify was pended.
    out: FWPS_CLASSIFY_OUT0,
    _layer: PhantomData<L>,
}

impl<L: Redirectable> PendedClassify<L> {
    /// Pends the classify of a call.
    ///
    /// # Errors
    /// As [`ClassifyHandle::pend`](super::ClassifyHandle::pend); the handle is still the caller's then.
    ///
    /// # Safety
    /// The handle is of the running classify with this call, and becomes the result's.
    pub(super) unsafe fn pend(handle: u64, call: &Call) -> Result<Self, NtStatus> {
        const {
            assert!(
                L::KIND.may_pend_classify(),
                "no classify can be pended at this layer"
            );
        }
        if !call.rights.contains(Rights::ACTION_WRITE) {
            return Err(NtStatus::FWP_CANNOT_PEND);
        }
        // SAFETY: handle, filter and answer are of the running classify.
        let status =
            unsafe { wfp_sys::FwpsPendClassify0(handle, call.filter, 0, call.out.as_ptr()) };
        NtStatus::from_i32(status).ok()?;
        Ok(Self {
            handle,
            filter: call.filter,
            filter_flags: call.filter_flags,
            rights: call.rights,
            // SAFETY: the answer is of the running classify.
            out: unsafe { call.out.read() },
            _layer: PhantomData,
        })
    }

    /// Layer data to be changed.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and whatever else WFP answers; nothing is to be applied then.
    pub fn writable(&mut self) -> Result<WritableLayerData<'_, L>, NtStatus> {
        let out = NonNull::from_mut(&mut self.out);
        // SAFETY: the classify is pended, the filter is the one that called the callout, and the copy of the answer is
        // borrowed exclusively.
        unsafe { WritableLayerData::acquire(self.handle, self.filter, out) }
    }

    /// Lets what is asked for go on, as it is or has been changed. Lighter sublayers are asked before it does.
    pub fn permit(self) {
        ManuallyDrop::new(self).decide(Authorization::Permit);
    }

    /// Refuses what is asked for.
    pub fn block(self) {
        drop(self);
    }

    /// Has every callout asked again, as if for the first time.
    pub fn ask_again(self) {
        // SAFETY: without an answer there is nothing to read; `self` is gone.
        unsafe { ManuallyDrop::new(self).complete(ptr::null()) };
    }

    /// Completes with a final answer, written as in a classify.
    fn decide(&mut self, verdict: Authorization) {
        let mut answer = ClassifyOut {
            action: self.out.actionType,
            // Those of the classify: acquiring layer data takes the copy's.
            rights: self.rights,
            flags: ClassifyOutFlags::from_bits(self.out.flags),
            stream: None,
        };
        verdict.write(self.filter_flags, &mut answer);
        let out = FWPS_CLASSIFY_OUT0 {
            actionType: answer.action,
            rights: answer.rights.bits(),
            flags: answer.flags.bits(),
            ..self.out
        };
        // SAFETY: the answer lives during the call; every caller gives `self` up.
        unsafe { self.complete(&raw const out) };
    }

    /// # Safety
    /// The last use of `self`. The answer lives during the call, or is NULL.
    unsafe fn complete(&mut self, out: *const FWPS_CLASSIFY_OUT0) {
        // SAFETY: forwarded from the caller; what borrowed the handle has been applied.
        unsafe { wfp_sys::FwpsCompleteClassify0(self.handle, 0, out) };
        // SAFETY: the handle was acquired once and is not used any more.
        unsafe { wfp_sys::FwpsReleaseClassifyHandle0(self.handle) };
    }
}

impl<L: Redirectable> Drop for PendedClassify<L> {
    fn drop(&mut self) {
        self.decide(Authorization::Block);
    }
}

impl<L: Redirectable> fmt::Debug for PendedClassify<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendedClassify").finish_non_exhaustive()
    }
}
