//! Callouts at run time: registering, unregistering, and calls in progress.

use crate::engine::Engine;
use crate::host::{Host, Wait};
use crate::id::CalloutId;
use crate::options::RunningCallout;
use crate::rundown::{Rundown, Running};
use crate::sync::lock;
use arc_swap::{ArcSwapOption, Guard};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use wfp_schema::{CalloutFlags, Guid, NtStatus};

/// Greatest number of registered callouts.
const MAX_REGISTERED: usize = 100_000;

/// What a driver registers, `FWPS_CALLOUT0` and its successors.
pub struct Registration<H: Host> {
    /// The callout's key.
    pub key: Guid,
    /// What it tolerates and wants.
    pub flags: CalloutFlags,
    /// Whether it has a flow delete function, without which it can have no flow contexts.
    pub has_flow_delete: bool,
    /// What the host keeps for it.
    pub host: H::Callout,
}

/// A registered callout, as the host sees it in calls.
pub struct CalloutView<'a, H: Host> {
    id: CalloutId,
    registration: &'a Registration<H>,
}

impl<H: Host> Clone for CalloutView<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Host> Copy for CalloutView<'_, H> {}

impl<'a, H: Host> CalloutView<'a, H> {
    /// Its identifier.
    #[must_use]
    pub const fn id(&self) -> CalloutId {
        self.id
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> Guid {
        self.registration.key
    }

    /// What it tolerates and wants.
    #[must_use]
    pub const fn flags(&self) -> CalloutFlags {
        self.registration.flags
    }

    /// What the host keeps for it.
    #[must_use]
    pub const fn host(&self) -> &'a H::Callout {
        &self.registration.host
    }
}

impl<H: Host> fmt::Debug for CalloutView<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CalloutView")
            .field("id", &self.id)
            .field("key", &self.key())
            .finish_non_exhaustive()
    }
}

/// A registration in force.
pub(crate) struct Registered<H: Host> {
    id: CalloutId,
    registration: Registration<H>,
    running: Rundown,
    contexts: Mutex<Contexts>,
    unregistering: AtomicBool,
}

/// The flow contexts of a callout.
#[derive(Default)]
struct Contexts {
    count: usize,
    /// No new ones: the callout is being unregistered, or has tried to be.
    refused: bool,
}

impl<H: Host> Registered<H> {
    pub(crate) const fn id(&self) -> CalloutId {
        self.id
    }

    pub(crate) const fn registration(&self) -> &Registration<H> {
        &self.registration
    }

    pub(crate) const fn view(&self) -> CalloutView<'_, H> {
        CalloutView {
            id: self.id,
            registration: &self.registration,
        }
    }

    /// Begins a call of one of its functions.
    pub(crate) fn enter(&self) -> Option<Running<'_>> {
        self.running.enter()
    }

    /// Counts a flow context, unless none is accepted any more.
    pub(crate) fn add_context(&self) -> bool {
        let mut contexts = lock(&self.contexts);
        if contexts.refused {
            return false;
        }
        contexts.count += 1;
        true
    }

    /// Uncounts a flow context.
    pub(crate) fn drop_context(&self) {
        let mut contexts = lock(&self.contexts);
        contexts.count = contexts.count.saturating_sub(1);
    }
}

/// The place of a callout, registered or not: what filters refer to.
pub(crate) struct Slot<H: Host> {
    id: CalloutId,
    key: Guid,
    registered: ArcSwapOption<Registered<H>>,
}

impl<H: Host> Slot<H> {
    pub(crate) const fn id(&self) -> CalloutId {
        self.id
    }

    pub(crate) fn registered(&self) -> Guard<Option<Arc<Registered<H>>>> {
        self.registered.load()
    }
}

/// Every slot that anything refers to, and which are registered.
pub(crate) struct Slots<H: Host> {
    by_key: HashMap<Guid, Weak<Slot<H>>>,
    registered: BTreeMap<CalloutId, Arc<Slot<H>>>,
    next: u32,
}

impl<H: Host> Default for Slots<H> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            registered: BTreeMap::new(),
            next: FIRST_ID,
        }
    }
}

/// Windows' built-in callouts have the lowest identifiers.
const FIRST_ID: u32 = 0x100;

impl<H: Host> Slots<H> {
    /// The slot of a key: the one that is there, or a new one.
    fn slot(&mut self, key: Guid) -> Arc<Slot<H>> {
        if let Some(slot) = self.by_key.get(&key).and_then(Weak::upgrade) {
            return slot;
        }
        self.by_key.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot {
            id: CalloutId::new(self.next),
            key,
            registered: ArcSwapOption::empty(),
        });
        self.next = self.next.wrapping_add(1).max(FIRST_ID);
        self.by_key.insert(key, Arc::downgrade(&slot));
        slot
    }
}

/// Locked access to the slots.
pub(crate) type SlotTable<H> = RwLock<Slots<H>>;

impl<H: Host> Engine<H> {
    /// Registers a callout (`FwpsCalloutRegister`), whatever the state of the
    /// base filtering engine. Filters that name it already are not notified.
    ///
    /// # Errors
    /// `FWP_ALREADY_EXISTS` if the key is registered; `FWP_TOO_MANY_CALLOUTS`.
    pub fn register(&self, registration: Registration<H>) -> Result<CalloutId, NtStatus> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.slot(registration.key);
        if slots.registered.contains_key(&slot.id) {
            return Err(NtStatus::FWP_ALREADY_EXISTS);
        }
        if slots.registered.len() >= MAX_REGISTERED {
            return Err(NtStatus::FWP_TOO_MANY_CALLOUTS);
        }
        slot.registered.store(Some(Arc::new(Registered {
            id: slot.id,
            registration,
            running: Rundown::default(),
            contexts: Mutex::default(),
            unregistering: AtomicBool::new(false),
        })));
        let id = slot.id;
        slots.registered.insert(id, slot);
        Ok(id)
    }

    /// Unregisters a callout (`FwpsCalloutUnregisterById0`). Once it has
    /// succeeded none of the callout's functions runs or will run.
    ///
    /// # Errors
    /// `FWP_CALLOUT_NOT_FOUND`; `FWP_IN_USE` while another thread unregisters
    /// it; `DEVICE_BUSY` while a flow has a context of it, and with
    /// [`RunningCallout::Busy`] while one of its functions runs.
    pub fn unregister_by_id(&self, id: CalloutId) -> Result<(), NtStatus> {
        let slot = self
            .registered_slots()
            .get(&id)
            .cloned()
            .ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)?;
        self.unregister(&slot)
    }

    /// Unregisters a callout (`FwpsCalloutUnregisterByKey0`).
    ///
    /// # Errors
    /// As [`Engine::unregister_by_id`].
    pub fn unregister_by_key(&self, key: Guid) -> Result<(), NtStatus> {
        let slot = self
            .registered_slots()
            .values()
            .find(|slot| slot.key == key)
            .cloned()
            .ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)?;
        self.unregister(&slot)
    }

    /// The identifiers and keys of the registered callouts, in the order of identifiers.
    pub fn registered_callouts(&self) -> Vec<(CalloutId, Guid)> {
        self.registered_slots()
            .iter()
            .map(|(id, slot)| (*id, slot.key))
            .collect()
    }

    /// How many of a callout's functions run now.
    pub fn running_calls(&self, id: CalloutId) -> usize {
        self.registration(id)
            .map_or(0, |registered| registered.running.running())
    }

    /// How many flow contexts a callout has.
    pub fn context_count(&self, id: CalloutId) -> usize {
        self.registration(id)
            .map_or(0, |registered| lock(&registered.contexts).count)
    }

    fn unregister(&self, slot: &Slot<H>) -> Result<(), NtStatus> {
        let registered = slot
            .registered
            .load_full()
            .ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)?;
        if registered.unregistering.swap(true, Ordering::AcqRel) {
            return Err(NtStatus::FWP_IN_USE);
        }
        {
            let mut contexts = lock(&registered.contexts);
            if contexts.count > 0 {
                contexts.refused |= !self.options.allow_association_after_busy;
                drop(contexts);
                registered.unregistering.store(false, Ordering::Release);
                return Err(NtStatus::DEVICE_BUSY);
            }
            if registered.running.running() > 0
                && self.options.unregister_while_running == RunningCallout::Busy
            {
                drop(contexts);
                registered.unregistering.store(false, Ordering::Release);
                return Err(NtStatus::DEVICE_BUSY);
            }
            contexts.refused = true;
        }
        registered.running.close();
        while registered.running.running() > 0 {
            self.host.wait(Wait::Callout(registered.id));
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slot.registered.store(None);
        slots.registered.remove(&registered.id);
        Ok(())
    }

    /// The registration of a callout.
    pub(crate) fn registration(&self, id: CalloutId) -> Option<Arc<Registered<H>>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.registered.get(&id)?.registered.load_full()
    }

    /// The slot of a key, made if there is none.
    pub(crate) fn slot(&self, key: Guid) -> Arc<Slot<H>> {
        self.slots
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .slot(key)
    }

    fn registered_slots(&self) -> BTreeMap<CalloutId, Arc<Slot<H>>> {
        self.slots
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .registered
            .clone()
    }
}
