//! Redirection of connections and binds: the layer data that callouts may change, version by version.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/network/using-bind-or-connect-redirection>

use wfp_schema::codes::ConnectionRedirectState;

use super::indicate::End;

/// `FWPS_CONNECT_REQUEST0` or `FWPS_BIND_REQUEST0`: what was asked for, then what each redirector made of it.
///
/// Also a flow's redirect records: who redirected it, from where, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    versions: Vec<Request>,
    /// Redirect records of the connection that a proxy serves with this one.
    inherited: Vec<Request>,
}

impl Redirection {
    /// What was asked for, changed by nobody.
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self {
            versions: vec![request],
            inherited: Vec::new(),
        }
    }

    /// What a proxy asks for, on behalf of a connection that was redirected to it
    /// (`SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS`).
    #[must_use]
    pub fn on_behalf(request: Request, records: &Self) -> Self {
        Self {
            versions: vec![request],
            inherited: records.records().copied().collect(),
        }
    }

    /// The same before anybody changed it.
    #[must_use]
    pub fn unchanged(&self) -> Self {
        Self {
            versions: vec![*self.original()],
            inherited: self.inherited.clone(),
        }
    }

    /// Who redirected it: the versions that redirectors made, oldest first, those of the connection that a proxy
    /// serves with this one before its own.
    #[must_use]
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Request> {
        self.inherited.iter().chain(&self.versions[1..])
    }

    /// Whether a proxy asks on behalf of a redirected connection.
    #[must_use]
    pub const fn is_proxied(&self) -> bool {
        !self.inherited.is_empty()
    }

    /// What `FwpsQueryConnectionRedirectState0` answers for a redirect handle, and the context that was given with
    /// it, where one is told.
    #[must_use]
    pub fn state(&self, redirect_handle: u64) -> (ConnectionRedirectState, Option<u64>) {
        let by_self = |record: &&Request| record.redirect_handle == redirect_handle;
        let handed: Vec<_> = self
            .records()
            .filter(|record| record.redirect_handle != 0)
            .collect();
        let own = handed.iter().copied().rfind(by_self);
        match (handed.last(), own) {
            (None, _) => (ConnectionRedirectState::NotRedirected, None),
            (Some(_), None) => (ConnectionRedirectState::RedirectedByOther, None),
            (Some(last), Some(own)) => {
                let state = if by_self(last) {
                    ConnectionRedirectState::RedirectedBySelf
                } else {
                    ConnectionRedirectState::PreviouslyRedirectedBySelf
                };
                (state, Some(own.context))
            }
        }
    }

    /// What was asked for, before anybody changed it.
    #[must_use]
    pub fn original(&self) -> &Request {
        &self.versions[0]
    }

    /// The newest version, which counts.
    #[must_use]
    pub fn current(&self) -> &Request {
        self.versions.last().unwrap_or(&self.versions[0])
    }

    /// All versions, the original first (`previousVersion` is the chain the other way).
    #[must_use]
    pub fn versions(&self) -> &[Request] {
        &self.versions
    }

    /// Adds a version (`FwpsApplyModifiedLayerData0`): layer data that was changed, or not.
    pub fn apply(&mut self, version: Request) {
        self.versions.push(version);
    }

    /// Whether the newest version differs from the original one.
    #[must_use]
    pub fn is_redirected(&self) -> bool {
        let (first, last) = (self.original(), self.current());
        first.local != last.local || first.remote != last.remote
    }
}

/// One version of a connect or bind request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// `localAddressAndPort`. A bind redirect may change it.
    pub local: End,
    /// `remoteAddressAndPort`. A connect redirect may change it; a bind has none: unspecified.
    pub remote: End,
    /// `portReservationToken`, 0 without a reservation.
    pub port_reservation_token: u64,
    /// `localRedirectTargetPID`: the process that a loopback redirect goes to, 0 without.
    pub target_process: u32,
    /// `localRedirectHandle` of the redirector, 0 without: tells redirectors apart.
    pub redirect_handle: u64,
    /// `localRedirectContext`, named by the implementer of [`Filtering`](super::Filtering), 0 without.
    pub context: u64,
    /// `localRedirectContextSize`, in bytes.
    pub context_size: u64,
    /// `modifierFilterId`: the filter whose callout made this version, 0 for the original.
    pub modifier_filter: u64,
}

impl Request {
    /// What an application asks for.
    #[must_use]
    pub const fn of(local: End, remote: End) -> Self {
        Self {
            local,
            remote,
            port_reservation_token: 0,
            target_process: 0,
            redirect_handle: 0,
            context: 0,
            context_size: 0,
            modifier_filter: 0,
        }
    }
}

/// How a pended classify goes on (`FwpsCompleteClassify0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// `classifyOut` permits: final.
    Permit,
    /// `classifyOut` blocks: final.
    Block,
    /// No `classifyOut`: the layer is classified again.
    Again,
}
