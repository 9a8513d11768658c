//! Transactions: one writer at a time, on a copy of the objects of its own.

use crate::engine::{Engine, State};
use crate::filter::FilterEntry;
use crate::host::{Host, Wait};
use crate::id::{FilterId, SessionId};
use crate::lifetime::Lifetime;
use crate::objects::Objects;
use crate::options::ReadTransaction;
use crate::security::{Caller, ObjectType, Securable};
use crate::session::TransactionWait;
use crate::sync::lock;
use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use wfp_schema::{AccessRights, CalloutFlags, Guid, Layer, LayerId, NotifyType, NtStatus};

/// The one transaction that writes.
pub(crate) struct Writer<H: Host> {
    /// `None`: the engine itself, for a session that ends or at start and stop.
    pub(crate) session: Option<SessionId>,
    /// Begun by the caller, rather than around a single call.
    explicit: bool,
    /// A call in it is under way.
    busy: bool,
    since: Duration,
    pub(crate) objects: Objects<H>,
    /// Layers whose filters have changed.
    pub(crate) layers: BTreeSet<LayerId>,
    /// No filter that was in force before stays so.
    replaces_all: bool,
    /// Filters that it added, whether or not it deleted them again.
    added: Vec<Arc<FilterEntry<H>>>,
    /// Filters that it deleted.
    pub(crate) deleted: Vec<Arc<FilterEntry<H>>>,
}

impl<H: Host> Writer<H> {
    const fn new(
        session: Option<SessionId>,
        explicit: bool,
        since: Duration,
        objects: Objects<H>,
    ) -> Self {
        Self {
            session,
            explicit,
            busy: false,
            since,
            objects,
            layers: BTreeSet::new(),
            replaces_all: false,
            added: Vec::new(),
            deleted: Vec::new(),
        }
    }

    /// The engine's own.
    pub(crate) const fn of_system(since: Duration, objects: Objects<H>) -> Self {
        Self::new(None, false, since, objects)
    }

    /// Whether it can be aborted now: no call in it is under way.
    pub(crate) const fn is_idle(&self) -> bool {
        self.explicit && !self.busy
    }

    /// Puts what it adds in the place of everything that is in force.
    pub(crate) fn replaces_all(&mut self) {
        self.replaces_all = true;
        self.layers.extend(Layer::all().iter().map(Layer::id));
    }

    /// Adds a filter that its callout has accepted.
    pub(crate) fn add_filter(&mut self, entry: Arc<FilterEntry<H>>) {
        self.layers.insert(entry.record.layer);
        self.added.push(Arc::clone(&entry));
        self.objects.insert_filter(entry);
    }

    /// Deletes a filter.
    pub(crate) fn delete_filter(&mut self, entry: Arc<FilterEntry<H>>) {
        self.layers.insert(entry.record.layer);
        self.objects.remove(ObjectType::Filter, entry.record.key());
        self.deleted.push(entry);
    }

    /// Deletes every object of the lifetimes that `goes` names, filters first.
    pub(crate) fn remove_all(&mut self, goes: impl Fn(Lifetime) -> bool) {
        let filters: Vec<_> = self
            .objects
            .filters()
            .filter(|entry| goes(entry.record.lifetime))
            .cloned()
            .collect();
        for entry in filters {
            self.delete_filter(entry);
        }
        // What may be named by others goes after them.
        let rest: Vec<(ObjectType, Guid)> = {
            let objects = &self.objects;
            let callouts = objects
                .callouts()
                .map(|object| (ObjectType::Callout, object.callout.key, object.lifetime));
            let sublayers = objects
                .sublayers()
                .map(|object| (ObjectType::SubLayer, object.sublayer.key, object.lifetime));
            let contexts = objects.provider_contexts().map(|object| {
                let key = object.context.key;
                (ObjectType::ProviderContext, key, object.lifetime)
            });
            let providers = objects
                .providers()
                .map(|object| (ObjectType::Provider, object.provider.key, object.lifetime));
            callouts
                .chain(sublayers)
                .chain(contexts)
                .chain(providers)
                .filter(|(_, _, lifetime)| goes(*lifetime))
                .map(|(object_type, key, _)| (object_type, key))
                .collect()
        };
        for (object_type, key) in rest {
            self.objects.remove(object_type, key);
        }
    }

    /// The filters that it leaves behind when committed, of those it added.
    pub(crate) fn surviving(&self) -> Vec<Arc<FilterEntry<H>>> {
        let gone: BTreeSet<FilterId> = self.deleted.iter().map(|entry| entry.id()).collect();
        self.added
            .iter()
            .filter(|entry| !gone.contains(&entry.id()))
            .cloned()
            .collect()
    }
}

/// On whose behalf a change is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Author {
    /// The session, if its objects go when it ends.
    pub(crate) dynamic: Option<SessionId>,
    pub(crate) caller: Caller,
}

impl<H: Host> Engine<H> {
    /// Begins an explicit transaction (`FwpmTransactionBegin0`).
    ///
    /// One that writes waits for another session's to end. One that only reads
    /// sees the objects as they are now until it ends; whether it waits too is
    /// [`Options::read_transaction`](crate::Options::read_transaction).
    ///
    /// # Errors
    /// `FWP_TXN_IN_PROGRESS` if the session has one; `ACCESS_DENIED`;
    /// `FWP_TIMEOUT`; `INVALID_HANDLE`, `FWP_SESSION_ABORTED`.
    pub fn begin_transaction(&self, session: SessionId, read_only: bool) -> Result<(), NtStatus> {
        {
            let mut state = self.lock_current();
            state.session(session)?.transaction_aborted = false;
            if state.has_transaction(session)? {
                return Err(NtStatus::FWP_TXN_IN_PROGRESS);
            }
            let mut rights = AccessRights::BEGIN_READ_TXN;
            if !read_only {
                rights |= AccessRights::BEGIN_WRITE_TXN;
            }
            let caller = state.session(session)?.session.caller.clone();
            state
                .objects
                .check_access(&caller, Securable::Engine, rights)?;
            if read_only && self.options.read_transaction == ReadTransaction::Snapshot {
                let objects = state.objects.clone();
                state.session(session)?.reading = Some(objects);
                return Ok(());
            }
        }
        let mut state = self.acquire(session, read_only)?;
        if read_only {
            let objects = state.objects.clone();
            state.session(session)?.reading = Some(objects);
            return Ok(());
        }
        let now = self.host.now();
        let objects = state.objects.clone();
        state.writer = Some(Writer::new(Some(session), true, now, objects));
        Ok(())
    }

    /// Commits an explicit transaction (`FwpmTransactionCommit0`): its changes
    /// take effect together.
    ///
    /// # Errors
    /// `FWP_NO_TXN_IN_PROGRESS`; `FWP_TXN_ABORTED` if it was aborted by force;
    /// `INVALID_HANDLE`, `FWP_SESSION_ABORTED`.
    pub fn commit_transaction(&self, session: SessionId) -> Result<(), NtStatus> {
        match self.end_transaction(session)? {
            (state, Some(writer)) => self.publish(state, writer),
            (state, None) => drop(state),
        }
        Ok(())
    }

    /// Aborts an explicit transaction (`FwpmTransactionAbort0`): nothing of it stays.
    ///
    /// # Errors
    /// As [`Engine::commit_transaction`].
    pub fn abort_transaction(&self, session: SessionId) -> Result<(), NtStatus> {
        let (state, writer) = self.end_transaction(session)?;
        drop(state);
        if let Some(writer) = writer {
            self.discard(writer);
        }
        Ok(())
    }

    /// Takes the session's transaction away; no writer if it only read.
    fn end_transaction(&self, session: SessionId) -> Result<Ended<'_, H>, NtStatus> {
        let mut state = self.enter_session(session)?;
        if state.session(session)?.reading.take().is_some() {
            return Ok((state, None));
        }
        if !state.has_transaction(session)? {
            return Err(NtStatus::FWP_NO_TXN_IN_PROGRESS);
        }
        let writer = state.writer.take();
        Ok((state, writer))
    }

    /// Makes a change in the session's transaction, or in one of its own.
    ///
    /// `prepare` checks against the objects and knows on whose behalf; `ask` may
    /// call the host, as no lock is held; `apply` can't fail.
    pub(crate) fn write<T, U, R>(
        &self,
        session: SessionId,
        prepare: impl FnOnce(&mut State<H>, &Objects<H>, &Author) -> Result<T, NtStatus>,
        ask: impl FnOnce(T) -> Result<U, NtStatus>,
        apply: impl FnOnce(&mut Writer<H>, U) -> R,
    ) -> Result<R, NtStatus> {
        let (prepared, explicit) = {
            let mut state = self.enter_session(session)?;
            if state.session(session)?.reading.is_some() {
                return Err(NtStatus::FWP_INCOMPATIBLE_TXN);
            }
            if !state.has_transaction(session)? {
                drop(state);
                state = self.acquire(session, false)?;
                let now = self.host.now();
                let objects = state.objects.clone();
                state.writer = Some(Writer::new(Some(session), false, now, objects));
            }
            let open = &state.session(session)?.session;
            let author = Author {
                dynamic: open.dynamic.then_some(session),
                caller: open.caller.clone(),
            };
            let Some(writer) = &mut state.writer else {
                return Err(NtStatus::FWP_TXN_ABORTED);
            };
            writer.busy = true;
            let explicit = writer.explicit;
            let objects = writer.objects.clone();
            let prepared = prepare(&mut state, &objects, &author);
            drop(state);
            (prepared, explicit)
        };
        let prepared = prepared.and_then(ask);
        let mut state = lock(&self.state);
        let Some(writer) = &mut state.writer else {
            return Err(NtStatus::FWP_TXN_ABORTED);
        };
        writer.busy = false;
        let result = prepared.map(|prepared| apply(writer, prepared));
        if !explicit
            && let Some(writer) = state.writer.take()
            && result.is_ok()
        {
            self.publish(state, writer);
        }
        result
    }

    /// Makes a change on the engine's own behalf: waits as long as it takes.
    pub(crate) fn write_as_system(&self, change: impl FnOnce(&mut Writer<H>)) {
        let mut state = self.lock_current();
        while state.writer.is_some() || self.is_read(&state) {
            drop(state);
            self.host.wait(Wait::Transaction { until: None });
            state = self.lock_current();
        }
        let mut writer = Writer::of_system(self.host.now(), state.objects.clone());
        change(&mut writer);
        self.publish(state, writer);
    }

    /// Locks the state for a call of a session, once no other call runs in its transaction.
    pub(crate) fn enter_session(
        &self,
        session: SessionId,
    ) -> Result<MutexGuard<'_, State<H>>, NtStatus> {
        loop {
            let mut state = self.lock_current();
            let open = state.session(session)?;
            if std::mem::take(&mut open.transaction_aborted) {
                return Err(NtStatus::FWP_TXN_ABORTED);
            }
            let busy = state.writer.as_ref().is_some_and(|writer| {
                writer.session == Some(session) && writer.explicit && writer.busy
            });
            if !busy {
                return Ok(state);
            }
            drop(state);
            self.host.wait(Wait::Transaction { until: None });
        }
    }

    /// Locks the state for a session's transaction once no other hinders it.
    fn acquire(
        &self,
        session: SessionId,
        read_only: bool,
    ) -> Result<MutexGuard<'_, State<H>>, NtStatus> {
        let start = self.host.now();
        loop {
            let mut state = self.lock_current();
            let wait = state.session(session)?.session.transaction_wait;
            let wait = match wait {
                TransactionWait::Default => Some(self.options.transaction_wait),
                TransactionWait::Limit(limit) => Some(limit),
                TransactionWait::Infinite => None,
            };
            if state.writer.is_none() && (read_only || !self.is_read(&state)) {
                return Ok(state);
            }
            drop(state);
            let until = wait.map(|wait| start.saturating_add(wait));
            if until.is_some_and(|until| self.host.now() >= until) {
                return Err(NtStatus::FWP_TIMEOUT);
            }
            self.host.wait(Wait::Transaction { until });
        }
    }

    /// Whether a session is in an explicit transaction.
    pub(crate) fn is_in_transaction(&self, session: SessionId) -> Result<bool, NtStatus> {
        self.enter_session(session)?.has_transaction(session)
    }

    /// Whether transactions that only read keep others from writing.
    fn is_read(&self, state: &State<H>) -> bool {
        self.options.read_transaction == ReadTransaction::SharedLock
            && state.sessions.values().any(|open| open.reading.is_some())
    }

    /// Locks the state, without a user session's transaction that has been open for too long.
    fn lock_current(&self) -> MutexGuard<'_, State<H>> {
        loop {
            let mut state = lock(&self.state);
            let Some(writer) = self.take_expired(&mut state) else {
                return state;
            };
            drop(state);
            self.discard(writer);
        }
    }

    fn take_expired(&self, state: &mut State<H>) -> Option<Writer<H>> {
        let writer = state.writer.as_ref()?;
        let held = self.host.now().saturating_sub(writer.since);
        if !writer.is_idle() || held < self.options.transaction_hold {
            return None;
        }
        let open = state.sessions.get_mut(&writer.session?)?;
        if open.session.caller == Caller::Kernel {
            return None;
        }
        open.transaction_aborted = true;
        state.writer.take()
    }

    /// Makes the changes of a transaction effective, and tells the callouts.
    pub(crate) fn publish(&self, mut state: MutexGuard<'_, State<H>>, writer: Writer<H>) {
        let added = writer.surviving();
        state.objects = writer.objects;
        let table = if writer.replaces_all {
            Arc::default()
        } else {
            self.table.load_full()
        };
        let table = table.after(&state.objects, &added, &writer.deleted, &self.options);
        self.table.store(Arc::new(table));
        self.count_generation(&writer.layers);
        drop(state);
        for entry in added {
            self.notify(&entry, NotifyType::AddFilterPostCommit);
        }
        for entry in writer.deleted {
            self.notify_deleted(&entry);
        }
    }

    /// Undoes a transaction.
    pub(crate) fn discard(&self, writer: Writer<H>) {
        if self.options.notify_delete_on_abort {
            for entry in writer.added {
                self.notify_deleted(&entry);
            }
        }
    }

    /// Asks the callout of a filter that is being added.
    pub(crate) fn notify_adding(&self, entry: &FilterEntry<H>) -> Result<(), NtStatus> {
        self.notify(entry, NotifyType::AddFilter)
            .ok()
            .map_err(|_| NtStatus::FWP_CALLOUT_NOTIFICATION_FAILED)
    }

    /// Tells the callout of a filter that it is gone, once no call with it runs where that is waited for.
    fn notify_deleted(&self, entry: &FilterEntry<H>) {
        entry.running.close();
        if !entry.is_in_force() {
            return;
        }
        while self.options.deletion_waits && entry.running.running() > 0 {
            self.host.wait(Wait::Filter(entry.id()));
        }
        self.notify(entry, NotifyType::DeleteFilter);
    }

    fn notify(&self, entry: &FilterEntry<H>, notify_type: NotifyType) -> NtStatus {
        let Some(slot) = &entry.slot else {
            return NtStatus::SUCCESS;
        };
        let registered = slot.registered();
        let Some(registered) = registered.as_deref() else {
            return NtStatus::SUCCESS;
        };
        let unwanted = notify_type == NotifyType::AddFilterPostCommit
            && !registered
                .registration()
                .flags
                .contains(CalloutFlags::ENABLE_COMMIT_ADD_NOTIFY);
        let Some(_running) = registered.enter().filter(|_| !unwanted) else {
            return NtStatus::SUCCESS;
        };
        let mut context = entry.context();
        let status = self
            .host
            .notify(&registered.view(), notify_type, entry, &mut context);
        entry.set_context(context);
        status
    }
}

/// The locked state, and the transaction that was taken out of it if it was one that writes.
type Ended<'a, H> = (MutexGuard<'a, State<H>>, Option<Writer<H>>);

impl<H: Host> State<H> {
    /// Whether the session is in an explicit transaction.
    fn has_transaction(&mut self, session: SessionId) -> Result<bool, NtStatus> {
        let reading = self.session(session)?.reading.is_some();
        Ok(reading
            || self
                .writer
                .as_ref()
                .is_some_and(|writer| writer.explicit && writer.session == Some(session)))
    }
}
