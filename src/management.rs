//! Our objects in the filter engine: they exist while the base filtering engine (BFE) runs.
//!
//! `WaitingForBfe` ⇄ `Active`: the engine's callback asks for a run of [`follow_bfe`], which makes
//! the objects when the engine runs and forgets them when it has stopped.
//!
//! A filter whose callout is only needed for something that a policy, or who captures, may [want](Wanted)
//! exists while that is wanted: [`set_policy`] adds what a new policy needs before it comes into force, and
//! deletes what it does not need afterwards; [`set_capture`] does the same for a capture.

mod protection;

use core::sync::atomic::{AtomicBool, Ordering};

use kmdf::Driver;
use portcullis_proto::{
    Counter, DriverState, LifecycleStep,
    filter::{FilterReply, Name},
};
use wfp::{
    NtStatus, Result,
    bfe::{Listener, Subscription},
    cell::KernelCell,
    engine::{CatchAll, EngineSession, FilterId, Label, Transaction},
    irql::Passive,
    schema::BfeState,
    sync::WaitLock,
    wide,
    wide::Wide,
};

pub(crate) use self::protection::count as boot_filters;
use crate::{
    ask, boot,
    callouts::{self, Object, Wanted},
    device, lifecycle,
    policy::Successor,
    state::{self, tag},
    streams,
};

/// The name of the driver's service, by which tools find who a provider belongs to.
pub(crate) const SERVICE: Wide<'static> = wide!("Portcullis");
const NAME: Wide<'static> = wide!("Portcullis");
pub(crate) const DESCRIPTION: Wide<'static> = wide!("Application firewall");

/// Below the built-in universal sublayer, as callouts must be that coexist with `IPsec`; its weight
/// is not documented, and ours leaves room on both sides.
pub(crate) const SUBLAYER_WEIGHT: u16 = 0x1000;

/// What exists in the filter engine.
struct Management {
    subscription: Option<Subscription>,
    session: Option<EngineSession>,
    filters: Filters,
    /// What the policy in force wants.
    policy: Wanted,
    /// What who captures wants.
    capture: Wanted,
    /// The sublayer of the filters.
    place: Object,
    /// The sublayer of a protection at boot exists: it is the filters' place.
    is_protected: bool,
    /// The policy in force has come, or gone, while the engine could not be told of its protection at boot.
    is_pending: bool,
}

/// The identifier of each callout's filter.
type Filters = [Option<FilterId>; callouts::COUNT];

static MANAGEMENT: KernelCell<WaitLock<Management>> = KernelCell::new(tag::GLOBAL);
/// The engine has not been running at some time since this was last looked at.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Since the engine was not running there are no filters yet.
static WITHOUT_FILTERS: AtomicBool = AtomicBool::new(false);

/// A step that failed, with its status.
type Failure = (LifecycleStep, NtStatus);

/// Makes room for what will exist.
pub(crate) fn prepare(_driver: Driver, passive: Passive) -> Result {
    let nothing = Management {
        subscription: None,
        session: None,
        filters: [None; callouts::COUNT],
        policy: Wanted::NOTHING,
        capture: Wanted::NOTHING,
        place: Object::Sublayer,
        is_protected: false,
        is_pending: false,
    };
    MANAGEMENT.try_set(WaitLock::try_new(tag::GLOBAL, nothing)?, passive)?;
    Ok(())
}

/// Subscribes to the engine's state, then reads it; makes the objects if the engine runs.
///
/// At start a failure is the driver's. The work item is kept from trying again then; the
/// subscription is left to [`close`], which comes in any case.
pub(crate) fn subscribe(_driver: Driver, passive: Passive) -> Result {
    subscribe_and_follow(passive).inspect_err(|_| delete_filters(passive))
}

fn subscribe_and_follow(passive: Passive) -> Result {
    let management = MANAGEMENT.get().ok_or(NtStatus::DEVICE_NOT_READY)?;
    let mut management = management.lock(passive);
    management.subscription = Some(Subscription::new::<Bfe>(device::wdm()?, passive)?);
    management.follow(passive).map_err(|(_, status)| status)
}

/// The work item: makes the objects when the engine has come, forgets them when it has gone.
pub(crate) fn follow_bfe(passive: Passive) {
    if let Some(management) = MANAGEMENT.get() {
        // A failure has been recorded, and shows in the driver's state.
        let _ = management.lock(passive).follow(passive);
    }
}

/// Whether the engine stops, or has stopped, and its filters are not back: from any moment on data passes that is not shown.
/// Whoever puts something back into a stream, or takes it out, asks afterwards. At any IRQL.
pub(crate) fn is_blind() -> bool {
    INTERRUPTED.load(Ordering::SeqCst) || WITHOUT_FILTERS.load(Ordering::SeqCst)
}

/// Puts a new policy in force, with the filters that its effects and its protection at boot need.
///
/// The protection changes while the driver decides: before the policy if there is one already, else after it.
/// Without a policy the driver has no opinion, and the protection would decide about what the policy permits.
///
/// # Errors
/// A filter that the policy needs could not be added, or its protection not be changed. What was in force is then.
pub(crate) fn set_policy(new: Successor<'_>, passive: Passive) -> Result {
    let management = MANAGEMENT.get().ok_or(NtStatus::DEVICE_NOT_READY)?;
    let mut management = management.lock(passive);
    // The engine may have gone, and come again, since it was last looked at. A failure shows below.
    let _ = management.follow(passive);
    let before = management.policy;
    let wanted = new
        .view()
        .map_or(Wanted::NOTHING, |policy| Wanted::by(&policy));
    lifecycle::provide(wanted.effects(), passive)?;
    management.policy = before.union(wanted);
    let done = management.adapt(passive).and_then(|()| {
        if new.is_first() {
            let published = new.publish(passive);
            management
                .protect_as_in_force(passive)
                .inspect_err(|_| published.withdraw(passive))
        } else {
            let boot = new.view().and_then(|policy| policy.boot());
            management.protect(boot.as_ref(), passive)?;
            new.publish(passive);
            Ok(())
        }
    });
    // Too many filters do no harm, and what failed is recorded.
    management.policy = if done.is_ok() { wanted } else { before };
    let _ = management.adapt(passive);
    done
}

/// Adds the filters that a capture needs, or deletes them.
///
/// # Errors
/// They could not be added; then there is none. What cannot be deleted stays until something else changes,
/// and does no harm.
pub(crate) fn set_capture(is_on: bool, passive: Passive) -> Result {
    let management = MANAGEMENT.get().ok_or(NtStatus::DEVICE_NOT_READY)?;
    let mut management = management.lock(passive);
    let before = management.capture;
    management.capture = if is_on {
        Wanted::CAPTURE
    } else {
        Wanted::NOTHING
    };
    let done = management.adapt(passive);
    if is_on && done.is_err() {
        management.capture = before;
    }
    done
}

/// Tells whose a filter is.
///
/// # Errors
/// `STATUS_FWP_FILTER_NOT_FOUND`; `STATUS_DEVICE_NOT_READY` while the engine does not run.
pub(crate) fn describe_filter(id: u64, passive: Passive) -> Result<FilterReply> {
    let management = MANAGEMENT.get().ok_or(NtStatus::DEVICE_NOT_READY)?;
    let management = management.lock(passive);
    let session = management
        .session
        .as_ref()
        .ok_or(NtStatus::DEVICE_NOT_READY)?;
    let is_ours = management
        .filters
        .iter()
        .any(|filter| filter.is_some_and(|filter| filter.get() == id));
    let (key, name, provider) = session.filter(id, passive, |filter| {
        (filter.key, Name::new(filter.name.clone()), filter.provider)
    })?;
    // A provider may be gone by now.
    let provider = provider
        .and_then(|key| {
            session
                .provider_name(key, passive, |name| Name::new(name))
                .ok()
        })
        .unwrap_or_else(|| Name::new([]));
    let flags = if is_ours { FilterReply::OURS } else { 0 };
    Ok(FilterReply::new(flags, key.to_bytes(), name, provider))
}

/// Deletes the filters, so that no further traffic comes to the callouts.
pub(crate) fn delete_filters(passive: Passive) {
    // From here on the work item does nothing.
    state::begin_stopping();
    if let Some(management) = MANAGEMENT.get() {
        management.lock(passive).delete_filters(passive);
    }
}

/// Deletes the other objects, closes the session, and ends the subscription.
pub(crate) fn close(passive: Passive) {
    state::begin_stopping();
    let Some(management) = MANAGEMENT.get() else {
        return;
    };
    let mut locked = management.lock(passive);
    locked.delete_objects(passive);
    locked.sweep(passive);
    let subscription = locked.subscription.take();
    drop(locked);
    // Without the lock: this waits for the callback.
    if let Some(Err(status)) = subscription.map(|subscription| subscription.end(passive)) {
        failed((LifecycleStep::UnsubscribeBfe, status));
    }
    device::flush_work();
    // SAFETY: no callback comes any more, and no work item is about to run.
    drop(unsafe { MANAGEMENT.take(passive) });
}

/// Hears of the engine's changes.
struct Bfe;

impl Listener for Bfe {
    fn state_changed(state: Option<BfeState>) {
        if state != Some(BfeState::Running) {
            INTERRUPTED.store(true, Ordering::SeqCst);
        }
        device::enqueue_bfe_work();
    }
}

impl Management {
    /// Brings the objects in line with the engine's state.
    fn follow(&mut self, passive: Passive) -> core::result::Result<(), Failure> {
        if state::is_stopping() {
            return Ok(());
        }
        if INTERRUPTED.load(Ordering::SeqCst) {
            // In this order, so that one of the two says so until the filters are back.
            WITHOUT_FILTERS.store(true, Ordering::SeqCst);
            INTERRUPTED.store(false, Ordering::SeqCst);
            if self.session.is_some() {
                // The engine took session and objects along when it stopped; it may be back already.
                state::count(Counter::BfeStopped);
                self.lose(passive);
            }
        }
        let is_running = self
            .subscription
            .as_ref()
            .is_some_and(|subscription| subscription.state() == Some(BfeState::Running));
        match (is_running, &self.session) {
            (true, Some(_)) => Ok(()),
            (true, None) => {
                state::count(Counter::BfeStarted);
                state::set(DriverState::Starting);
                // What the new filters show first can be asked about.
                ask::with_engine();
                let added = self.add_objects(passive);
                if added.is_ok() {
                    WITHOUT_FILTERS.store(false, Ordering::SeqCst);
                    self.catch_up(passive);
                } else {
                    ask::without_engine(passive);
                }
                state::set(match added {
                    Ok(()) => DriverState::Active,
                    Err(_) => DriverState::Degraded,
                });
                added.inspect_err(|&failure| failed(failure))
            }
            (false, _) => {
                self.lose(passive);
                state::set(DriverState::WaitingForBfe);
                Ok(())
            }
        }
    }

    /// The engine has stopped: nobody enforces answers, and nobody shows what passes.
    fn lose(&mut self, passive: Passive) {
        ask::without_engine(passive);
        self.forget(passive);
        streams::interrupted();
    }

    /// Opens a session and adds everything in one transaction. When it fails, there is nothing.
    fn add_objects(&mut self, passive: Passive) -> core::result::Result<(), Failure> {
        let mut session = EngineSession::open_dynamic(&label(NAME), passive)
            .map_err(|status| (LifecycleStep::OpenSession, status))?;
        match add_all(&mut session, self.wanted(), passive) {
            Ok((place, filters)) => {
                self.place = place;
                self.is_protected = place == Object::BootSublayer;
                self.keep(&filters, true);
                self.session = Some(session);
                Ok(())
            }
            Err(failure) => {
                let _ = session.close(passive);
                Err(failure)
            }
        }
    }

    /// What is wanted of the callouts.
    const fn wanted(&self) -> Wanted {
        self.policy.union(self.capture)
    }

    /// Adds the filters that are wanted and deletes those that are not, in one transaction. Without a session there is
    /// nothing to do yet. When it fails, nothing has changed.
    fn adapt(&mut self, passive: Passive) -> Result {
        let wanted = self.wanted();
        let is_right = |(entry, filter): (callouts::Entry, &Option<FilterId>)| {
            entry.is_wanted(wanted) == filter.is_some()
        };
        // A session that the engine's stop has ended is opened anew soon, and gets its filters then.
        if !INTERRUPTED.load(Ordering::SeqCst)
            && !state::is_stopping()
            && !callouts::entries().zip(&self.filters).all(is_right)
            && let Some(session) = &mut self.session
        {
            let filters = change_filters(session, self.filters, wanted, self.place, passive)
                .inspect_err(|&status| failed((LifecycleStep::AddFilters, status)))?;
            self.keep(&filters, true);
        }
        Ok(())
    }

    /// Keeps the filters' identifiers, and whether the callouts' objects exist, also for status replies.
    fn keep(&mut self, filters: &Filters, is_added: bool) {
        self.filters = *filters;
        for (entry, filter) in callouts::entries().zip(filters) {
            entry.set_objects(is_added, filter.map_or(0, FilterId::get));
        }
    }

    /// Deletes the filters; if that fails, closes the session, which deletes them too.
    fn delete_filters(&mut self, passive: Passive) {
        let filters = self.filters;
        let Some(session) = &mut self.session else {
            return;
        };
        let deleted = session.transaction(passive).and_then(|transaction| {
            for filter in filters.into_iter().flatten() {
                transaction.delete_filter(filter)?;
            }
            transaction.commit()
        });
        match deleted {
            Ok(()) => self.keep(&[None; callouts::COUNT], true),
            Err(status) => {
                failed((LifecycleStep::DeleteFilters, status));
                self.forget(passive);
            }
        }
    }

    /// Deletes what is left after the filters, and closes the session.
    fn delete_objects(&mut self, passive: Passive) {
        if let Some(session) = &mut self.session {
            let deleted = session.transaction(passive).and_then(|transaction| {
                for entry in callouts::entries() {
                    transaction.delete_callout(entry.callout_key())?;
                }
                transaction.delete_sublayer(callouts::key(Object::Sublayer))?;
                transaction.delete_provider(callouts::key(Object::Provider))?;
                transaction.commit()
            });
            if let Err(status) = deleted {
                // They go with the session.
                failed((LifecycleStep::DeleteObjects, status));
            }
        }
        self.forget(passive);
    }

    /// Closes the session, with which every object of ours goes.
    fn forget(&mut self, passive: Passive) {
        if let Some(Err(status)) = self.session.take().map(|session| session.close(passive)) {
            // After the engine's stop that is to be expected; the handle is gone all the same.
            state::record(LifecycleStep::CloseSession, status);
        }
        self.keep(&[None; callouts::COUNT], false);
    }
}

/// Adds and deletes filters in one transaction.
fn change_filters(
    session: &mut EngineSession,
    mut filters: Filters,
    wanted: Wanted,
    place: Object,
    passive: Passive,
) -> Result<Filters> {
    let transaction = session.transaction(passive)?;
    for (entry, filter) in callouts::entries().zip(filters.iter_mut()) {
        match (entry.is_wanted(wanted), *filter) {
            (true, None) => *filter = Some(add_filter(&transaction, entry, place)?),
            (false, Some(id)) => {
                transaction.delete_filter(id)?;
                *filter = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    transaction.commit()?;
    Ok(filters)
}

/// Everything in one transaction. The filters are where a protection at boot is, if there is one: an earlier instance,
/// or one before the system's start, has left it, and it is to hold until this one has a policy.
fn add_all(
    session: &mut EngineSession,
    wanted: Wanted,
    passive: Passive,
) -> core::result::Result<(Object, Filters), Failure> {
    let at = |step: LifecycleStep| move |status: NtStatus| (step, status);
    let transaction = session
        .transaction(passive)
        .map_err(at(LifecycleStep::BeginTransaction))?;
    transaction
        .add_provider(callouts::key(Object::Provider), &label(NAME), SERVICE)
        .map_err(at(LifecycleStep::AddProvider))?;
    transaction
        .add_sublayer(
            callouts::key(Object::Sublayer),
            &ours(NAME),
            SUBLAYER_WEIGHT,
        )
        .map_err(at(LifecycleStep::AddSublayer))?;
    for entry in callouts::entries() {
        let id = transaction
            .add_callout(entry.callout_key(), &ours(entry.name()), entry.layer_key())
            .map_err(at(LifecycleStep::AddCallouts))?;
        // One key is one callout, whoever names it first.
        if entry.id() != Some(id) {
            return Err((LifecycleStep::AddCallouts, NtStatus::INTERNAL_ERROR));
        }
    }
    let is_protected = boot::exists(&transaction).map_err(at(LifecycleStep::AddSublayer))?;
    let place = if is_protected {
        Object::BootSublayer
    } else {
        Object::Sublayer
    };
    let mut filters = [None; callouts::COUNT];
    let places = callouts::entries().zip(filters.iter_mut());
    for (entry, filter) in places.filter(|(entry, _)| entry.is_wanted(wanted)) {
        let added = add_filter(&transaction, entry, place);
        *filter = Some(added.map_err(at(LifecycleStep::AddFilters))?);
    }
    transaction
        .commit()
        .map_err(at(LifecycleStep::CommitTransaction))?;
    Ok((place, filters))
}

/// The callout's filter: everything at its layer.
fn add_filter(
    transaction: &Transaction<'_>,
    entry: callouts::Entry,
    place: Object,
) -> Result<FilterId> {
    transaction.add_filter(&CatchAll {
        key: entry.filter_key(),
        label: ours(entry.name()),
        layer: entry.layer_key(),
        sublayer: callouts::key(place),
        weight: entry.weight(),
        action: entry.action(),
        callout: entry.callout_key(),
        flags: entry.filter_flags(),
    })
}

const fn label(name: Wide<'static>) -> Label<'static> {
    Label {
        name,
        description: DESCRIPTION,
        provider: None,
    }
}

/// The label of what belongs to our provider.
const fn ours(name: Wide<'static>) -> Label<'static> {
    Label {
        provider: Some(callouts::key(Object::Provider)),
        ..label(name)
    }
}

fn failed((step, status): Failure) {
    state::count(Counter::EngineFailed);
    state::record(step, status);
}
