//! The management objects: one consistent state of all of them.
//!
//! The maps share structure, so that a copy costs nothing: a transaction works
//! on its own, a reader keeps the one it began with.

use crate::callout::Slot;
use crate::filter::FilterEntry;
use crate::host::Host;
use crate::id::{CalloutId, FilterId, ProviderContextId};
use crate::lifetime::Lifetime;
use crate::object::{Callout, Provider, ProviderContext, SubLayer};
use crate::options::Options;
use crate::security::{ObjectType, Securable, SecurityDescriptor};
use rpds::RedBlackTreeMapSync as Map;
use std::fmt;
use std::sync::Arc;
use wfp_schema::{Guid, Layer, LayerId, NtStatus, provider, sublayer};

/// A provider that has been added.
#[derive(Clone, Debug)]
pub struct ProviderObject {
    /// As it was described, with its key.
    pub provider: Provider,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Its service does not start with the system, so its persistent objects were not loaded.
    pub disabled: bool,
}

/// A provider context that has been added.
#[derive(Clone, Debug)]
pub struct ProviderContextObject {
    /// As it was described, with its key.
    pub context: ProviderContext,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Its run-time identifier.
    pub id: ProviderContextId,
}

/// A sublayer that has been added.
#[derive(Clone, Debug)]
pub struct SubLayerObject {
    /// As it was described, with its key.
    pub sublayer: SubLayer,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Its number in the order of adding.
    pub(crate) sequence: u64,
}

/// A callout that has been added; it may or may not be registered.
pub struct CalloutObject<H: Host> {
    /// As it was described, with its key.
    pub callout: Callout,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// The layer whose filters may name it.
    pub layer: LayerId,
    pub(crate) slot: Arc<Slot<H>>,
}

impl<H: Host> CalloutObject<H> {
    /// Its run-time identifier.
    #[must_use]
    pub fn id(&self) -> CalloutId {
        self.slot.id()
    }

    /// Whether it is registered in the kernel now.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.slot.registered().is_some()
    }
}

impl<H: Host> fmt::Debug for CalloutObject<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CalloutObject")
            .field("callout", &self.callout)
            .field("lifetime", &self.lifetime)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// A consistent view of every management object.
pub struct Objects<H: Host> {
    providers: Map<Guid, Arc<ProviderObject>>,
    provider_contexts: Map<Guid, Arc<ProviderContextObject>>,
    sublayers: Map<Guid, Arc<SubLayerObject>>,
    callouts: Map<Guid, Arc<CalloutObject<H>>>,
    filters: Map<FilterId, Arc<FilterEntry<H>>>,
    filter_keys: Map<Guid, FilterId>,
    security: Map<Securable, SecurityDescriptor>,
    options: Arc<Options>,
}

impl<H: Host> Clone for Objects<H> {
    fn clone(&self) -> Self {
        Self {
            providers: self.providers.clone(),
            provider_contexts: self.provider_contexts.clone(),
            sublayers: self.sublayers.clone(),
            callouts: self.callouts.clone(),
            filters: self.filters.clone(),
            filter_keys: self.filter_keys.clone(),
            security: self.security.clone(),
            options: Arc::clone(&self.options),
        }
    }
}

impl<H: Host> fmt::Debug for Objects<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("providers", &self.providers.size())
            .field("provider_contexts", &self.provider_contexts.size())
            .field("sublayers", &self.sublayers.size())
            .field("callouts", &self.callouts.size())
            .field("filters", &self.filters.size())
            .finish_non_exhaustive()
    }
}

/// Weight of the built-in sublayers other than the universal one and the
/// inspection sublayer, which is the lightest.
const BUILT_IN_WEIGHT: u16 = 0xC000;

impl<H: Host> Objects<H> {
    /// The built-in objects.
    pub(crate) fn built_in(options: &Options) -> Self {
        let mut objects = Self {
            providers: Map::new_sync(),
            provider_contexts: Map::new_sync(),
            sublayers: Map::new_sync(),
            callouts: Map::new_sync(),
            filters: Map::new_sync(),
            filter_keys: Map::new_sync(),
            security: Map::new_sync(),
            options: Arc::new(options.clone()),
        };
        for &(name, key) in provider::ALL {
            objects.insert_provider(ProviderObject {
                provider: Provider {
                    key,
                    name: Some(name.to_owned()),
                    ..Provider::default()
                },
                lifetime: Lifetime::BuiltIn,
                disabled: false,
            });
        }
        for (&(name, key), sequence) in sublayer::ALL.iter().zip(0..) {
            objects.insert_sublayer(SubLayerObject {
                sublayer: SubLayer {
                    key,
                    name: Some(name.to_owned()),
                    weight: match key {
                        sublayer::INSPECTION => 0,
                        sublayer::UNIVERSAL => options.universal_weight,
                        _ => BUILT_IN_WEIGHT,
                    },
                    ..SubLayer::default()
                },
                lifetime: Lifetime::BuiltIn,
                sequence,
            });
        }
        objects
    }

    /// The settings of the engine that they belong to.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Every provider, by key.
    pub fn providers(&self) -> impl Iterator<Item = &Arc<ProviderObject>> {
        self.providers.values()
    }

    /// Every provider context, by key.
    pub fn provider_contexts(&self) -> impl Iterator<Item = &Arc<ProviderContextObject>> {
        self.provider_contexts.values()
    }

    /// Every sublayer, by key.
    pub fn sublayers(&self) -> impl Iterator<Item = &Arc<SubLayerObject>> {
        self.sublayers.values()
    }

    /// Every callout, by key.
    pub fn callouts(&self) -> impl Iterator<Item = &Arc<CalloutObject<H>>> {
        self.callouts.values()
    }

    /// Every filter, in the order of adding.
    pub fn filters(&self) -> impl Iterator<Item = &Arc<FilterEntry<H>>> {
        self.filters.values()
    }

    /// The provider with this key.
    #[must_use]
    pub fn provider(&self, key: Guid) -> Option<&Arc<ProviderObject>> {
        self.providers.get(&key)
    }

    /// The provider context with this key.
    #[must_use]
    pub fn provider_context(&self, key: Guid) -> Option<&Arc<ProviderContextObject>> {
        self.provider_contexts.get(&key)
    }

    /// The provider context with this identifier.
    #[must_use]
    pub fn provider_context_by_id(
        &self,
        id: ProviderContextId,
    ) -> Option<&Arc<ProviderContextObject>> {
        self.provider_contexts
            .values()
            .find(|object| object.id == id)
    }

    /// The security descriptor that was set for something.
    #[must_use]
    pub fn security(&self, what: Securable) -> Option<&SecurityDescriptor> {
        self.security.get(&what)
    }

    /// The sublayer with this key.
    #[must_use]
    pub fn sublayer(&self, key: Guid) -> Option<&Arc<SubLayerObject>> {
        self.sublayers.get(&key)
    }

    /// The callout with this key.
    #[must_use]
    pub fn callout(&self, key: Guid) -> Option<&Arc<CalloutObject<H>>> {
        self.callouts.get(&key)
    }

    /// The callout with this identifier.
    #[must_use]
    pub fn callout_by_id(&self, id: CalloutId) -> Option<&Arc<CalloutObject<H>>> {
        self.callouts.values().find(|callout| callout.id() == id)
    }

    /// The filter with this identifier.
    #[must_use]
    pub fn filter(&self, id: FilterId) -> Option<&Arc<FilterEntry<H>>> {
        self.filters.get(&id)
    }

    /// The filter with this key.
    #[must_use]
    pub fn filter_by_key(&self, key: Guid) -> Option<&Arc<FilterEntry<H>>> {
        self.filters.get(self.filter_keys.get(&key)?)
    }

    pub(crate) fn insert_provider(&mut self, object: ProviderObject) {
        self.providers
            .insert_mut(object.provider.key, Arc::new(object));
    }

    pub(crate) fn insert_provider_context(&mut self, object: ProviderContextObject) {
        self.provider_contexts
            .insert_mut(object.context.key, Arc::new(object));
    }

    pub(crate) fn insert_sublayer(&mut self, object: SubLayerObject) {
        self.sublayers
            .insert_mut(object.sublayer.key, Arc::new(object));
    }

    pub(crate) fn insert_callout(&mut self, object: CalloutObject<H>) {
        self.callouts
            .insert_mut(object.callout.key, Arc::new(object));
    }

    pub(crate) fn insert_filter(&mut self, entry: Arc<FilterEntry<H>>) {
        self.filter_keys.insert_mut(entry.record.key(), entry.id());
        self.filters.insert_mut(entry.id(), entry);
    }

    pub(crate) fn set_security(&mut self, what: Securable, to: Option<SecurityDescriptor>) {
        match to {
            Some(descriptor) => self.security.insert_mut(what, descriptor),
            None => {
                self.security.remove_mut(&what);
            }
        }
    }

    /// Every security descriptor that was set.
    pub(crate) fn secured(&self) -> impl Iterator<Item = (&Securable, &SecurityDescriptor)> {
        self.security.iter()
    }

    /// Removes an object and its security descriptor.
    pub(crate) fn remove(&mut self, object_type: ObjectType, key: Guid) {
        self.hide(object_type, key);
        self.set_security(Securable::Object(object_type, key), None);
    }

    /// Removes an object from a view.
    pub(crate) fn hide(&mut self, object_type: ObjectType, key: Guid) {
        match object_type {
            ObjectType::Provider => {
                self.providers.remove_mut(&key);
            }
            ObjectType::ProviderContext => {
                self.provider_contexts.remove_mut(&key);
            }
            ObjectType::SubLayer => {
                self.sublayers.remove_mut(&key);
            }
            ObjectType::Callout => {
                self.callouts.remove_mut(&key);
            }
            ObjectType::Filter => {
                if let Some(id) = self.filter_keys.get(&key).copied() {
                    self.filter_keys.remove_mut(&key);
                    self.filters.remove_mut(&id);
                }
            }
            // Layers are no part of a view: they never change.
            ObjectType::Layer => {}
        }
    }

    /// The keys of all objects of a type.
    pub(crate) fn keys(&self, object_type: ObjectType) -> Vec<Guid> {
        match object_type {
            ObjectType::Provider => self.providers.keys().copied().collect(),
            ObjectType::ProviderContext => self.provider_contexts.keys().copied().collect(),
            ObjectType::SubLayer => self.sublayers.keys().copied().collect(),
            ObjectType::Callout => self.callouts.keys().copied().collect(),
            ObjectType::Filter => self.filter_keys.keys().copied().collect(),
            ObjectType::Layer => Layer::all().iter().map(Layer::key).collect(),
        }
    }

    pub(crate) fn sublayer_count(&self) -> usize {
        self.sublayers.size()
    }

    /// Whether a lifetime and provider may refer to this provider.
    ///
    /// # Errors
    /// `FWP_PROVIDER_NOT_FOUND`, `FWP_LIFETIME_MISMATCH`.
    pub(crate) fn check_provider(
        &self,
        lifetime: Lifetime,
        provider: Option<Guid>,
    ) -> Result<(), NtStatus> {
        let Some(key) = provider else { return Ok(()) };
        let object = self.provider(key).ok_or(NtStatus::FWP_PROVIDER_NOT_FOUND)?;
        lifetime.check_reference(provider, object.lifetime, Some(key))
    }

    /// Whether any object names this provider.
    pub(crate) fn is_provider_used(&self, key: Guid) -> bool {
        let key = Some(key);
        self.sublayers.values().any(|o| o.sublayer.provider == key)
            || self
                .provider_contexts
                .values()
                .any(|o| o.context.provider == key)
            || self.callouts.values().any(|o| o.callout.provider == key)
            || self
                .filters
                .values()
                .any(|entry| entry.record.filter.provider == key)
    }

    /// Whether any filter names this provider context.
    pub(crate) fn is_provider_context_used(&self, key: Guid) -> bool {
        self.filters.values().any(|entry| {
            let context = entry.record.provider_context.as_ref();
            context.is_some_and(|object| object.context.key == key)
        })
    }

    /// Whether any filter is in this sublayer.
    pub(crate) fn is_sublayer_used(&self, key: Guid) -> bool {
        self.filters
            .values()
            .any(|entry| entry.record.filter.sublayer == key)
    }

    /// Whether any filter names this callout.
    pub(crate) fn is_callout_used(&self, id: CalloutId) -> bool {
        self.filters
            .values()
            .any(|entry| entry.record.callout == Some(id))
    }
}
