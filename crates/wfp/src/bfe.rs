//! The state of the base filtering engine (BFE), whose interface works only while it runs.

use core::{
    ffi::c_void,
    ptr::{self, NonNull},
};

use wdk_sys::HANDLE;
use wfp_schema::{BfeState, NtStatus};

use crate::{device::Device, irql::Passive};

/// Who hears of changes.
pub trait Listener: 'static {
    /// The state has changed. It may have changed again since: ask [`Subscription::state`] when
    /// acting on it.
    ///
    /// Called at IRQL <= `DISPATCH_LEVEL`, by the engine: leave the work to a work item. `None` is
    /// a state that this crate does not know.
    fn state_changed(state: Option<BfeState>);
}

/// A subscription to the state.
#[derive(Debug)]
#[must_use = "changes are heard of until the subscription is ended"]
pub struct Subscription {
    handle: NonNull<c_void>,
}

// SAFETY: the handle is not bound to a thread.
unsafe impl Send for Subscription {}
// SAFETY: a shared subscription offers nothing that uses the handle.
unsafe impl Sync for Subscription {}

impl Subscription {
    /// `FwpmBfeStateSubscribeChanges0`. Ask for the state afterwards: the change to running may
    /// have come before.
    ///
    /// # Errors
    /// Whatever WFP answers.
    pub fn new<L: Listener>(device: Device, _passive: Passive) -> Result<Self, NtStatus> {
        let mut handle: HANDLE = ptr::null_mut();
        // SAFETY: the callback is static and takes no context, the device is the driver's, and
        // the token says PASSIVE_LEVEL.
        let status = unsafe {
            wfp_sys::FwpmBfeStateSubscribeChanges0(
                device.as_ptr().cast(),
                Some(changed::<L>),
                ptr::null_mut(),
                &raw mut handle,
            )
        };
        NtStatus::from_i32(status).ok()?;
        NonNull::new(handle)
            .map(|handle| Self { handle })
            .ok_or(NtStatus::INVALID_HANDLE)
    }

    /// The state now; `None` is one that this crate does not know.
    ///
    /// A method, because WFP gives the state to subscribers only.
    #[must_use]
    #[allow(
        clippy::cast_sign_loss,
        clippy::unused_self,
        reason = "the states are not negative; a subscription is the right to ask"
    )]
    pub fn state(&self) -> Option<BfeState> {
        // SAFETY: a subscription exists, as the DDI page asks.
        let state = unsafe { wfp_sys::FwpmBfeStateGet0() };
        BfeState::from_u32(state as u32)
    }

    /// `FwpmBfeStateUnsubscribeChanges0`, which waits for a running [`Listener::state_changed`]:
    /// never call it from there.
    ///
    /// # Errors
    /// Whatever WFP answers; the subscription is gone all the same.
    pub fn end(self, _passive: Passive) -> Result<(), NtStatus> {
        // SAFETY: the handle is of a subscription that is not used again, and the token says
        // PASSIVE_LEVEL.
        let status = unsafe { wfp_sys::FwpmBfeStateUnsubscribeChanges0(self.handle.as_ptr()) };
        NtStatus::from_i32(status).ok()
    }
}

/// `FWPM_SERVICE_STATE_CHANGE_CALLBACK0` of every listener.
///
/// # Safety
/// Called by WFP.
#[allow(
    clippy::cast_sign_loss,
    reason = "the states are not negative; C makes enumerations signed"
)]
unsafe extern "C" fn changed<L: Listener>(
    _context: *mut c_void,
    state: wfp_sys::FWPM_SERVICE_STATE,
) {
    L::state_changed(BfeState::from_u32(state as u32));
}
