//! The base filtering engine's state: starting, stopping, who is told, and
//! what survives.

use crate::engine::Engine;
use crate::host::{Host, Wait};
use crate::id::{FilterId, ProviderContextId, SubscriptionId};
use crate::lifetime::Lifetime;
use crate::object::{Callout, Filter, Provider, ProviderContext, SubLayer};
use crate::objects::{
    CalloutObject, Objects, ProviderContextObject, ProviderObject, SubLayerObject,
};
use crate::rundown::Rundown;
use crate::security::{Securable, SecurityDescriptor};
use crate::sync::lock;
use crate::table::Table;
use crate::transaction::{Author, Writer};
use std::sync::Arc;
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{BfeState, FilterFlags, NtStatus};

/// The objects that are kept while the base filtering engine, or the system, is down.
#[derive(Clone, Debug, Default)]
pub struct BootStore {
    /// Persistent providers.
    pub providers: Vec<Provider>,
    /// Persistent provider contexts.
    pub provider_contexts: Vec<ProviderContext>,
    /// Persistent sublayers.
    pub sublayers: Vec<SubLayer>,
    /// Persistent callouts.
    pub callouts: Vec<Callout>,
    /// Persistent and boot-time filters.
    pub filters: Vec<Filter>,
    /// The security descriptors of these objects, of containers and of the engine.
    pub security: Vec<(Securable, SecurityDescriptor)>,
}

type Callback = Box<dyn Fn(BfeState) + Send + Sync>;

/// Someone who is told of changes.
pub(crate) struct Subscriber {
    callback: Callback,
    running: Rundown,
}

impl<H: Host> Engine<H> {
    /// The state (`FwpmBfeStateGet0`).
    pub fn bfe_state(&self) -> BfeState {
        lock(&self.state).bfe
    }

    /// Has every change of state told to `callback` (`FwpmBfeStateSubscribeChanges0`).
    pub fn subscribe(&self, callback: impl Fn(BfeState) + Send + Sync + 'static) -> SubscriptionId {
        let mut state = lock(&self.state);
        let id = SubscriptionId::new(state.next());
        state.subscribers.insert(
            id,
            Arc::new(Subscriber {
                callback: Box::new(callback),
                running: Rundown::default(),
            }),
        );
        id
    }

    /// Ends a subscription (`FwpmBfeStateUnsubscribeChanges0`); afterwards the
    /// callback does not run. Never call it from the callback.
    ///
    /// # Errors
    /// `INVALID_HANDLE` if there is no such subscription.
    pub fn unsubscribe(&self, id: SubscriptionId) -> Result<(), NtStatus> {
        let subscriber = lock(&self.state)
            .subscribers
            .remove(&id)
            .ok_or(NtStatus::INVALID_HANDLE)?;
        subscriber.running.close();
        while subscriber.running.running() > 0 {
            self.host.wait(Wait::Subscriber);
        }
        Ok(())
    }

    /// Starts the base filtering engine: `START_PENDING`, its objects, `RUNNING`.
    /// Nothing happens unless it is stopped.
    pub fn start_bfe(&self) {
        if self.change_state(BfeState::Stopped, BfeState::StartPending) {
            self.load_persistent();
            self.change_state(BfeState::StartPending, BfeState::Running);
        }
    }

    /// Stops the base filtering engine: `STOP_PENDING`, in which sessions can
    /// still be used, then `STOPPED`. Nothing happens unless it is running.
    ///
    /// Sessions are aborted; static and dynamic objects are gone.
    pub fn stop_bfe(&self) {
        if self.begin_stop_bfe() {
            self.finish_stop_bfe();
        }
    }

    /// The first half of [`Engine::stop_bfe`]: subscribers are told, and may clean up.
    pub fn begin_stop_bfe(&self) -> bool {
        self.change_state(BfeState::Running, BfeState::StopPending)
    }

    /// The second half of [`Engine::stop_bfe`].
    pub fn finish_stop_bfe(&self) {
        self.unload();
        self.change_state(BfeState::StopPending, BfeState::Stopped);
    }

    /// What would survive a restart of the system now.
    pub fn boot_store(&self) -> BootStore {
        let state = lock(&self.state);
        if state.bfe == BfeState::Stopped {
            state.store.clone()
        } else {
            BootStore::of(&state.objects)
        }
    }

    /// Changes the state and tells the subscribers; false if it isn't `from`.
    fn change_state(&self, from: BfeState, to: BfeState) -> bool {
        let subscribers: Vec<_> = {
            let mut state = lock(&self.state);
            if state.bfe != from {
                return false;
            }
            state.bfe = to;
            if to == BfeState::StartPending && !self.options.start_pending_is_told {
                return true;
            }
            state.subscribers.values().cloned().collect()
        };
        for subscriber in subscribers {
            if let Some(_running) = subscriber.running.enter() {
                (subscriber.callback)(to);
            }
        }
        true
    }

    /// Puts the boot-time filters in force, when the system boots.
    pub(crate) fn load_boot_time(&self) {
        let store = lock(&self.state).store.clone();
        if store.filters.is_empty() {
            return;
        }
        let mut writer = Writer::of_system(self.host.now(), Objects::built_in(&self.options));
        self.load(&mut writer, &store, Lifetime::BootTime);
        let mut state = lock(&self.state);
        // Until the base filtering engine starts there are no objects to manage.
        state.outliving = writer
            .objects
            .filters()
            .filter(|entry| entry.is_in_force())
            .cloned()
            .collect();
        let added = writer.surviving();
        let table = Table::default().after(&writer.objects, &added, &[], &self.options);
        drop(state);
        self.table.store(Arc::new(table));
        self.count_generation(&writer.layers);
    }

    /// Replaces what is in force at boot, or was left in force at the last stop, by
    /// the persistent objects.
    fn load_persistent(&self) {
        let (store, leftover) = {
            let mut state = lock(&self.state);
            let store = std::mem::take(&mut state.store);
            (store, std::mem::take(&mut state.outliving))
        };
        let mut writer = Writer::of_system(self.host.now(), Objects::built_in(&self.options));
        self.load(&mut writer, &store, Lifetime::Persistent);
        writer.replaces_all();
        writer.deleted.extend(leftover);
        self.publish(lock(&self.state), writer);
    }

    /// Adds stored objects. Filters of the lifetime `loaded` classify, others
    /// are only kept; those that their callout refuses are left out.
    fn load(&self, writer: &mut Writer<H>, store: &BootStore, loaded: Lifetime) {
        let system = Author::default();
        for (what, descriptor) in &store.security {
            writer.objects.set_security(*what, Some(descriptor.clone()));
        }
        for provider in &store.providers {
            let disabled = provider
                .service
                .as_deref()
                .map_or(self.options.provider_needs_service, |service| {
                    !self.host.service_starts_automatically(service)
                });
            writer.objects.insert_provider(ProviderObject {
                provider: provider.clone(),
                lifetime: Lifetime::Persistent,
                disabled,
            });
        }
        for context in &store.provider_contexts {
            let id = ProviderContextId::new(lock(&self.state).next());
            writer
                .objects
                .insert_provider_context(ProviderContextObject {
                    context: context.clone(),
                    lifetime: Lifetime::Persistent,
                    id,
                });
        }
        for sublayer in &store.sublayers {
            let sequence = lock(&self.state).next();
            writer.objects.insert_sublayer(SubLayerObject {
                sublayer: sublayer.clone(),
                lifetime: Lifetime::Persistent,
                sequence,
            });
        }
        for callout in &store.callouts {
            let accepted: Result<CalloutObject<H>, _> =
                self.accept_callout(&writer.objects, callout.clone(), &system);
            if let Ok(object) = accepted {
                writer.objects.insert_callout(object);
            }
        }
        for filter in &store.filters {
            let mut filter = filter.clone();
            let of_disabled_provider = filter
                .provider
                .and_then(|key| writer.objects.provider(key))
                .is_some_and(|provider| provider.disabled);
            let boot_time = filter.flags.contains(FilterFlags::BOOTTIME);
            // Before the base filtering engine starts nobody knows of services.
            let in_force = match loaded {
                Lifetime::BootTime => boot_time,
                _ => !boot_time && !of_disabled_provider,
            };
            if of_disabled_provider {
                filter.flags |= FilterFlags::DISABLED;
            }
            let id = FilterId::new(lock(&self.state).next());
            if let Ok(entry) = self
                .accept_filter(&writer.objects, filter, &system, id)
                .and_then(|accepted| self.make_entry(accepted, in_force))
            {
                writer.add_filter(Arc::new(entry));
            }
        }
    }

    /// Ends sessions and takes away what does not survive.
    fn unload(&self) {
        let mut state = lock(&self.state);
        while let Some(writer) = &state.writer {
            if writer.is_idle() {
                break;
            }
            drop(state);
            self.host.wait(Wait::Transaction { until: None });
            state = lock(&self.state);
        }
        let aborted = state.writer.take();
        for session in state.sessions.values_mut() {
            session.aborted = true;
            session.reading = None;
        }
        state.store = BootStore::of(&state.objects);
        let mut writer = Writer::of_system(self.host.now(), state.objects.clone());
        if self.options.filters_outlive_bfe {
            state.outliving = writer.objects.filters().cloned().collect();
            state.objects = Objects::built_in(&self.options);
            drop(state);
        } else {
            writer.remove_all(|lifetime| lifetime != Lifetime::BuiltIn);
            self.publish(state, writer);
        }
        if let Some(writer) = aborted {
            self.discard(writer);
        }
    }
}

impl BootStore {
    /// The objects that outlive the base filtering engine.
    fn of<H: Host>(objects: &Objects<H>) -> Self {
        let persistent = |lifetime| lifetime == Lifetime::Persistent;
        Self {
            providers: objects
                .providers()
                .filter(|object| persistent(object.lifetime))
                .map(|object| object.provider.clone())
                .collect(),
            provider_contexts: objects
                .provider_contexts()
                .filter(|object| persistent(object.lifetime))
                .map(|object| object.context.clone())
                .collect(),
            sublayers: objects
                .sublayers()
                .filter(|object| persistent(object.lifetime))
                .map(|object| object.sublayer.clone())
                .collect(),
            callouts: objects
                .callouts()
                .filter(|object| {
                    object
                        .callout
                        .flags
                        .contains(ManagementCalloutFlags::PERSISTENT)
                })
                .map(|object| object.callout.clone())
                .collect(),
            filters: objects
                .filters()
                .filter(|entry| entry.record.lifetime.outlives_bfe())
                .map(|entry| Filter {
                    flags: entry.record.filter.flags.without(FilterFlags::DISABLED),
                    ..entry.record.filter.clone()
                })
                .collect(),
            security: objects
                .secured()
                .filter(|(what, _)| {
                    let lifetime = objects.lifetime_of(**what);
                    lifetime.is_ok_and(Lifetime::outlives_bfe)
                })
                .map(|(what, descriptor)| (*what, descriptor.clone()))
                .collect(),
        }
    }
}
