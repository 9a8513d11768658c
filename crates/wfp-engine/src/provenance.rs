//! Who has acted on something before: the one rule behind
//! `FWPS_PACKET_INJECTION_STATE` and `FWPS_CONNECTION_REDIRECT_STATE`.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/ne-fwpsk-fwps_packet_injection_state_>
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/ne-fwpsk-fwps_connection_redirect_state_>

use wfp_schema::codes::{ConnectionRedirectState, PacketInjectionState};

/// What the one who asks learns, and with which context it acted itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance<C> {
    /// Nobody has acted.
    Untouched,
    /// The one who asks acted last.
    BySelf(C),
    /// Others have acted, the one who asks has not.
    ByOther,
    /// The one who asks acted, and others have since.
    PreviouslyBySelf(C),
}

impl<C> Provenance<C> {
    /// What `own` learns from those who acted, the last one first.
    pub fn of<T: PartialEq>(last_first: impl IntoIterator<Item = (T, C)>, own: &T) -> Self {
        let mut others = false;
        for (who, context) in last_first {
            match (who == *own, others) {
                (true, false) => return Self::BySelf(context),
                (true, true) => return Self::PreviouslyBySelf(context),
                (false, _) => others = true,
            }
        }
        if others {
            Self::ByOther
        } else {
            Self::Untouched
        }
    }

    /// The state of a packet, where those who act inject it.
    #[must_use]
    pub const fn of_packet(&self) -> PacketInjectionState {
        match self {
            Self::Untouched => PacketInjectionState::NotInjected,
            Self::BySelf(_) => PacketInjectionState::InjectedBySelf,
            Self::ByOther => PacketInjectionState::InjectedByOther,
            Self::PreviouslyBySelf(_) => PacketInjectionState::PreviouslyInjectedBySelf,
        }
    }

    /// The state of a connection, where those who act redirect it.
    #[must_use]
    pub const fn of_connection(&self) -> ConnectionRedirectState {
        match self {
            Self::Untouched => ConnectionRedirectState::NotRedirected,
            Self::BySelf(_) => ConnectionRedirectState::RedirectedBySelf,
            Self::ByOther => ConnectionRedirectState::RedirectedByOther,
            Self::PreviouslyBySelf(_) => ConnectionRedirectState::PreviouslyRedirectedBySelf,
        }
    }

    /// The context with which the one who asks acted last.
    #[must_use]
    pub fn context(self) -> Option<C> {
        match self {
            Self::BySelf(context) | Self::PreviouslyBySelf(context) => Some(context),
            Self::Untouched | Self::ByOther => None,
        }
    }
}
