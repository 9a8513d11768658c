//! Who holds a net buffer list that a driver made, and what may be made of one that is indicated.

use wfp_schema::{CalloutFlags, NtStatus};

/// Who holds a list. From a successful injection until its completion the stack does: meanwhile the driver may
/// neither change nor free nor inject it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Holder<S> {
    /// The driver that made it.
    #[default]
    Driver,
    /// The stack, which got it in this state.
    Stack(S),
}

/// In which state a list comes back to its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// It was never handed over.
    NeverLent,
    /// As it was handed over.
    Untouched,
    /// Somebody changed it meanwhile.
    Changed,
}

impl<S: PartialEq> Holder<S> {
    /// The stack gets the list in the state `now`. `false` if it has it already.
    pub fn hand_over(&mut self, now: S) -> bool {
        let was_drivers = matches!(self, Self::Driver);
        *self = Self::Stack(now);
        was_drivers
    }

    /// The driver gets the list back, in the state `now`.
    pub fn take_back(&mut self, now: &S) -> Returned {
        match std::mem::replace(self, Self::Driver) {
            Self::Driver => Returned::NeverLent,
            Self::Stack(then) if then == *now => Returned::Untouched,
            Self::Stack(_) => Returned::Changed,
        }
    }

    /// Whether the driver may free it.
    pub const fn is_drivers(&self) -> bool {
        matches!(self, Self::Driver)
    }
}

/// Whether a callout with these flags may clone what is indicated to it.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/ns-fwpsk-fwps_callout2_>
///
/// # Errors
/// `INVALID_PARAMETER` for one that takes frames in batches.
pub const fn clone_of_indicated(flags: CalloutFlags) -> Result<(), NtStatus> {
    if flags.contains(CalloutFlags::ALLOW_L2_BATCH_CLASSIFY) {
        Err(NtStatus::INVALID_PARAMETER)
    } else {
        Ok(())
    }
}
