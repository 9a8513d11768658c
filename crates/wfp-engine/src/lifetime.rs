//! How long objects live, and which may refer to which.

use crate::id::SessionId;
use wfp_schema::{Guid, NtStatus};

/// How long an object lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// For ever.
    BuiltIn,
    /// Until deleted; comes back when the base filtering engine starts.
    Persistent,
    /// A filter in force until the base filtering engine has started.
    BootTime,
    /// Until deleted, or until the base filtering engine stops.
    Static,
    /// Until deleted, or until the session ends.
    Dynamic(SessionId),
}

impl Lifetime {
    /// The lifetime of an object added with or without a persistence flag.
    ///
    /// # Errors
    /// `FWP_LIFETIME_MISMATCH`: a dynamic session adds nothing that outlives it.
    pub(crate) const fn of_new(
        persistent: bool,
        dynamic_session: Option<SessionId>,
    ) -> Result<Self, NtStatus> {
        match (persistent, dynamic_session) {
            (true, Some(_)) => Err(NtStatus::FWP_LIFETIME_MISMATCH),
            (true, None) => Ok(Self::Persistent),
            (false, Some(session)) => Ok(Self::Dynamic(session)),
            (false, None) => Ok(Self::Static),
        }
    }

    /// Whether the object is kept while the base filtering engine is stopped.
    pub(crate) const fn outlives_bfe(self) -> bool {
        matches!(self, Self::BuiltIn | Self::Persistent | Self::BootTime)
    }

    /// Whether an object of this lifetime and provider may refer to another.
    ///
    /// # Errors
    /// `FWP_LIFETIME_MISMATCH` if the other may go first.
    pub(crate) fn check_reference(
        self,
        provider: Option<Guid>,
        to: Self,
        to_provider: Option<Guid>,
    ) -> Result<(), NtStatus> {
        let allowed = match (self, to) {
            (Self::Dynamic(own), Self::Dynamic(other)) => own == other,
            (_, Self::BuiltIn) | (Self::Dynamic(_), _) => true,
            (Self::Static, to) => !matches!(to, Self::Dynamic(_)),
            (Self::Persistent | Self::BootTime | Self::BuiltIn, Self::Persistent) => {
                to_provider.is_none() || to_provider == provider
            }
            (Self::Persistent | Self::BootTime | Self::BuiltIn, _) => false,
        };
        if allowed {
            Ok(())
        } else {
            Err(NtStatus::FWP_LIFETIME_MISMATCH)
        }
    }

    /// Whether a session may delete an object of this lifetime.
    ///
    /// # Errors
    /// `FWP_BUILTIN_OBJECT`; in a dynamic session also `FWP_WRONG_SESSION` for
    /// another dynamic session's object and `FWP_DYNAMIC_SESSION_IN_PROGRESS`
    /// for one that is not dynamic.
    pub(crate) fn check_delete(self, dynamic_session: Option<SessionId>) -> Result<(), NtStatus> {
        match (self, dynamic_session) {
            (Self::BuiltIn, _) => Err(NtStatus::FWP_BUILTIN_OBJECT),
            (_, None) => Ok(()),
            (Self::Dynamic(owner), Some(session)) if owner == session => Ok(()),
            (Self::Dynamic(_), Some(_)) => Err(NtStatus::FWP_WRONG_SESSION),
            (_, Some(_)) => Err(NtStatus::FWP_DYNAMIC_SESSION_IN_PROGRESS),
        }
    }
}
