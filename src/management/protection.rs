//! The protection at boot comes and goes with the policy: in which order, and what becomes of it when a step fails.

use core::sync::atomic::{AtomicU32, Ordering};

use portcullis_core::{PolicySource, boot::Boot};
use portcullis_proto::{EventKind, EventRecord, LifecycleStep};
use wfp::{NtStatus, Result, irql::Passive, schema::BfeState};

use super::{Management, add_filter, failed};
use crate::{
    boot,
    callouts::{self, Object},
    state,
};

/// How many filters this instance has added for the protection at boot.
static PROTECTION: AtomicU32 = AtomicU32::new(0);

/// How many filters this instance has added for the protection at boot.
pub(crate) fn count() -> u32 {
    PROTECTION.load(Ordering::Relaxed)
}

impl Management {
    /// Changes the protection at boot with the policy; `None` takes it away. While the engine is not running it is told
    /// later.
    ///
    /// # Errors
    /// What the engine answers; then the filters are as they were.
    pub(super) fn protect(&mut self, boot: Option<&Boot<'_>>, passive: Passive) -> Result {
        if self.session.is_none() {
            self.is_pending = true;
            return Ok(());
        }
        let done = match boot {
            Some(boot) => self.protect_by(boot, passive),
            None => self.unprotect(passive),
        };
        if done.is_ok() {
            self.is_pending = false;
        }
        done.inspect_err(|&status| failed((LifecycleStep::ChangeBootFilters, status)))
    }

    /// The same, as the policy in force says.
    pub(super) fn protect_as_in_force(&mut self, passive: Passive) -> Result {
        state::core().map_or(Ok(()), |core| {
            core.policy().with(|policy, _| {
                let boot = policy.and_then(|policy| policy.boot());
                self.protect(boot.as_ref(), passive)
            })
        })
    }

    /// The policy in force was set while the engine was not there: its protection at boot is due.
    ///
    /// A failure is recorded. What held before holds on, until the next policy or the engine's next start.
    pub(super) fn catch_up(&mut self, passive: Passive) {
        if self.is_pending {
            let _ = self.protect_as_in_force(passive);
        }
    }

    /// First the driver's filters move to where those of the protection will be: there they are the heaviest. So at no
    /// time do filters that know nothing of the policy decide about traffic that it permits.
    fn protect_by(&mut self, boot: &Boot<'_>, passive: Passive) -> Result {
        let had_room = self.is_protected;
        let done = boot::make_room(passive)
            .inspect(|()| self.is_protected = true)
            .and_then(|()| self.move_filters(Object::BootSublayer, passive))
            .and_then(|()| boot::replace(boot, passive));
        match done {
            Ok(count) => {
                tell(count);
                Ok(())
            }
            Err(status) => {
                if !had_room && self.is_protected {
                    self.take_room_away(passive);
                }
                Err(status)
            }
        }
    }

    /// The other way round: once its filters are gone, what is left of the protection harms nobody, and is taken away
    /// on the next occasion if it cannot be now.
    fn unprotect(&mut self, passive: Passive) -> Result {
        if !self.is_protected {
            return Ok(());
        }
        boot::delete_filters(passive)?;
        tell(boot::Count::default());
        self.take_room_away(passive);
        Ok(())
    }

    /// Takes provider and sublayer of the protection away, which has no filters.
    fn take_room_away(&mut self, passive: Passive) {
        let done = self
            .move_filters(Object::Sublayer, passive)
            .and_then(|()| boot::remove(passive));
        match done {
            Ok(()) => self.is_protected = false,
            Err(status) => failed((LifecycleStep::ChangeBootFilters, status)),
        }
    }

    /// At the end, when the driver's own filters are gone: takes away what is left of a protection that is not wanted.
    pub(super) fn sweep(&self, passive: Passive) {
        let is_running = self
            .subscription
            .as_ref()
            .is_some_and(|subscription| subscription.state() == Some(BfeState::Running));
        if is_running
            && self.is_protected
            && !is_wanted()
            && let Err(status) = boot::remove(passive)
        {
            failed((LifecycleStep::ChangeBootFilters, status));
        }
    }

    /// Moves the driver's filters to another sublayer, all at once.
    fn move_filters(&mut self, place: Object, passive: Passive) -> Result {
        if self.place == place {
            return Ok(());
        }
        let session = self.session.as_mut().ok_or(NtStatus::DEVICE_NOT_READY)?;
        let transaction = session.transaction(passive)?;
        let mut filters = self.filters;
        for filter in filters.iter().flatten() {
            transaction.delete_filter(*filter)?;
        }
        for (entry, filter) in callouts::entries().zip(&mut filters) {
            if filter.is_some() {
                *filter = Some(add_filter(&transaction, entry, place)?);
            }
        }
        transaction.commit()?;
        self.place = place;
        self.keep(&filters, true);
        Ok(())
    }
}

/// Whether a protection at boot is to stay: the policy says so, or there has been none, so that an earlier one holds.
fn is_wanted() -> bool {
    state::core().is_some_and(|core| {
        !core.policy().was_set()
            || core
                .policy()
                .with(|policy, _| policy.is_some_and(|policy| policy.boot().is_some()))
    })
}

/// Tells of a changed protection at boot.
fn tell(count: boot::Count) {
    PROTECTION.store(count.all(), Ordering::Relaxed);
    if let Some(core) = state::core() {
        let event = EventRecord {
            kind: EventKind::ProtectionChanged.raw(),
            time: wfp::time::system_time().into(),
            value: [
                u64::from(count.persistent).into(),
                u64::from(count.boot_time).into(),
            ],
            ..EventRecord::default()
        };
        state::write_event(core, &event);
    }
}
