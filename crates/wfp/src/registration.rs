//! Registering callouts with the filter engine.
//!
//! Registration is kernel state: it works before the base filtering engine runs, and survives
//! its stop. The classify functions are called once a filter names the callout's key.

use wfp_schema::{CalloutFlags, Guid, IpVersion, NtStatus};

use crate::{
    callout::{self, Callout},
    device::Device,
    flow::CalloutId,
    irql::{Passive, Patience},
};

/// A registered callout. It has to be [unregistered](Self::unregister) before the driver unloads:
/// a registration that is dropped stays, because calling into code that is gone is worse.
#[derive(Debug)]
#[must_use = "a callout stays registered until it is unregistered"]
pub struct Registration {
    id: CalloutId,
}

/// A callout that cannot be unregistered now.
#[derive(Debug)]
pub struct Busy {
    /// The callout, still registered.
    pub registration: Registration,
    /// `STATUS_DEVICE_BUSY`: flows have contexts of it. `STATUS_FWP_IN_USE`: another thread is
    /// at it. Remove the contexts and try again.
    pub status: NtStatus,
}

impl Registration {
    /// `FwpsCalloutRegister2`, for one IP version.
    ///
    /// # Errors
    /// `STATUS_FWP_ALREADY_EXISTS` if the key is registered, by whomever.
    pub fn register<C: Callout>(
        device: Device,
        version: IpVersion,
        key: Guid,
        flags: CalloutFlags,
        _passive: Passive,
    ) -> Result<Self, NtStatus> {
        let descriptor = callout::descriptor::<C>(version, key, flags);
        let mut id = 0;
        // SAFETY: the functions are static, the descriptor is copied, the device is the driver's,
        // and the token says PASSIVE_LEVEL.
        let status = unsafe {
            wfp_sys::FwpsCalloutRegister2(
                device.as_ptr().cast(),
                &raw const descriptor,
                &raw mut id,
            )
        };
        NtStatus::from_i32(status).ok()?;
        Ok(Self {
            id: CalloutId::new(id),
        })
    }

    /// The run-time identifier, the same that `FwpmCalloutAdd0` gives the callout's key.
    #[must_use]
    pub const fn id(&self) -> CalloutId {
        self.id
    }

    /// `FwpsCalloutUnregisterById0`. When it succeeds, no function of the callout runs any more.
    ///
    /// # Errors
    /// [`Busy`] with the registration; a callout that WFP does not know counts as unregistered.
    pub fn unregister(self, _passive: Passive) -> Result<(), Busy> {
        // SAFETY: the identifier is of a registered callout, and the token says PASSIVE_LEVEL.
        let status = unsafe { wfp_sys::FwpsCalloutUnregisterById0(self.id.get()) };
        match NtStatus::from_i32(status) {
            status if status.is_success() => Ok(()),
            NtStatus::FWP_CALLOUT_NOT_FOUND => Ok(()),
            status => Err(Busy {
                registration: self,
                status,
            }),
        }
    }

    /// Unregisters the callout, and does not return before that is done, however long it takes: a driver that is gone
    /// while WFP can call it is a crash, one that cannot be unloaded is not.
    ///
    /// `when_busy` is called with the status after each attempt that failed. It removes the contexts of flows that were
    /// established just before their filter went; who has no contexts has nothing to do.
    pub fn unregister_at_last(self, passive: Passive, mut when_busy: impl FnMut(NtStatus)) {
        let mut registration = self;
        let mut patience = Patience::new();
        while let Err(busy) = registration.unregister(passive) {
            registration = busy.registration;
            when_busy(busy.status);
            patience.wait(passive);
        }
    }
}
