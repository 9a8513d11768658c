//! Sessions: what an engine handle stands for.

use crate::engine::{Engine, State};
use crate::host::Host;
use crate::id::SessionId;
use crate::lifetime::Lifetime;
use crate::objects::Objects;
use crate::security::{Caller, Securable};
use crate::sync::lock;
use std::time::Duration;
use wfp_schema::{AccessRights, BfeState, Guid, NtStatus};

/// How long a session's calls wait for another session's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TransactionWait {
    /// [`Options::transaction_wait`](crate::Options::transaction_wait).
    #[default]
    Default,
    /// At most so long.
    Limit(Duration),
    /// For ever.
    Infinite,
}

/// `FWPM_SESSION0`.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its key; [`Guid::ZERO`] asks for one to be made.
    pub key: Guid,
    /// Whether the objects that it adds go when it ends.
    pub dynamic: bool,
    /// How long its calls wait for another session's transaction.
    pub transaction_wait: TransactionWait,
    /// Who opened it.
    pub caller: Caller,
}

impl Default for Session {
    /// A kernel session whose objects are static.
    fn default() -> Self {
        Self {
            key: Guid::ZERO,
            dynamic: false,
            transaction_wait: TransactionWait::Default,
            caller: Caller::Kernel,
        }
    }
}

impl Session {
    /// A kernel session whose objects go when it ends.
    #[must_use]
    pub fn dynamic() -> Self {
        Self {
            dynamic: true,
            ..Self::default()
        }
    }
}

/// A session that has been opened.
pub(crate) struct OpenSession<H: Host> {
    pub(crate) session: Session,
    /// The base filtering engine has stopped since.
    pub(crate) aborted: bool,
    /// Its transaction was aborted by force; the next call in it is told.
    pub(crate) transaction_aborted: bool,
    /// The view of its read-only transaction.
    pub(crate) reading: Option<Objects<H>>,
}

impl<H: Host> State<H> {
    /// The session, if it can be used.
    pub(crate) fn session(&mut self, id: SessionId) -> Result<&mut OpenSession<H>, NtStatus> {
        match self.sessions.get_mut(&id) {
            None => Err(NtStatus::INVALID_HANDLE),
            Some(session) if session.aborted => Err(NtStatus::FWP_SESSION_ABORTED),
            Some(session) => Ok(session),
        }
    }
}

impl<H: Host> Engine<H> {
    /// Opens a session (`FwpmEngineOpen0`).
    ///
    /// # Errors
    /// [`Options::open_without_bfe`](crate::Options::open_without_bfe) while the
    /// base filtering engine is not running; `ACCESS_DENIED`;
    /// `FWP_ALREADY_EXISTS` if the key is in use.
    pub fn open_session(&self, mut session: Session) -> Result<SessionId, NtStatus> {
        let mut state = lock(&self.state);
        if !matches!(state.bfe, BfeState::Running | BfeState::StopPending) {
            return Err(self.options.open_without_bfe);
        }
        let open = AccessRights::OPEN;
        state
            .objects
            .check_access(&session.caller, Securable::Engine, open)?;
        if session.key.is_zero() {
            session.key = state.new_key();
        } else if state
            .sessions
            .values()
            .any(|open| open.session.key == session.key)
        {
            return Err(NtStatus::FWP_ALREADY_EXISTS);
        }
        let id = SessionId::new(state.next());
        state.sessions.insert(
            id,
            OpenSession {
                session,
                aborted: false,
                transaction_aborted: false,
                reading: None,
            },
        );
        Ok(id)
    }

    /// Closes a session (`FwpmEngineClose0`): aborts its transaction, then
    /// deletes the objects of a dynamic one.
    ///
    /// # Errors
    /// `INVALID_HANDLE` if it is not open. A session that the base filtering
    /// engine's stop has aborted can, and must, still be closed.
    pub fn close_session(&self, id: SessionId) -> Result<(), NtStatus> {
        let (aborted, dynamic) = {
            let state = lock(&self.state);
            let open = state.sessions.get(&id).ok_or(NtStatus::INVALID_HANDLE)?;
            (open.aborted, open.session.dynamic)
        };
        if !aborted {
            match self.abort_transaction(id) {
                // The base filtering engine may have stopped meanwhile.
                Ok(())
                | Err(
                    NtStatus::FWP_NO_TXN_IN_PROGRESS
                    | NtStatus::FWP_TXN_ABORTED
                    | NtStatus::FWP_SESSION_ABORTED,
                ) => {}
                Err(status) => return Err(status),
            }
            if dynamic {
                self.delete_objects_of(id);
            }
        }
        lock(&self.state).sessions.remove(&id);
        Ok(())
    }

    /// How many sessions are open.
    pub fn session_count(&self) -> usize {
        lock(&self.state).sessions.len()
    }

    /// What a session sees: its transaction's state, else the committed one.
    ///
    /// # Errors
    /// `INVALID_HANDLE`, `FWP_SESSION_ABORTED`, `FWP_TXN_ABORTED`.
    pub fn objects(&self, id: SessionId) -> Result<Objects<H>, NtStatus> {
        self.view(id).map(|(objects, _)| objects)
    }

    /// What a session sees, and who sees it.
    pub(crate) fn view(&self, id: SessionId) -> Result<(Objects<H>, Caller), NtStatus> {
        let mut state = self.enter_session(id)?;
        let open = state.session(id)?;
        let caller = open.session.caller.clone();
        if let Some(reading) = &open.reading {
            return Ok((reading.clone(), caller));
        }
        let objects = match &state.writer {
            Some(writer) if writer.session == Some(id) => writer.objects.clone(),
            _ => state.objects.clone(),
        };
        Ok((objects, caller))
    }

    /// Every object that is in force, whoever asks.
    pub fn committed(&self) -> Objects<H> {
        lock(&self.state).objects.clone()
    }

    /// Deletes what a dynamic session has added, as one transaction without a time-out.
    fn delete_objects_of(&self, id: SessionId) {
        let lifetime = Lifetime::Dynamic(id);
        self.write_as_system(|writer| writer.remove_all(|other| other == lifetime));
    }
}
