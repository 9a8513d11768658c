//! Adding and deleting providers, sublayers, callouts and filters.

use crate::callout::Slot;
use crate::condition;
use crate::engine::Engine;
use crate::filter::{FilterEntry, FilterRecord};
use crate::host::Host;
use crate::id::{CalloutId, FilterId, SessionId};
use crate::lifetime::Lifetime;
use crate::object::{Callout, Filter, Provider, SubLayer};
use crate::objects::{CalloutObject, Objects, ProviderObject, SubLayerObject};
use crate::transaction::Writer;
use crate::weight;
use std::sync::Arc;
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{Action, FilterFlags, Guid, Layer, NtStatus, sublayer};

/// Greatest number of sublayers.
const MAX_SUBLAYERS: usize = 1 << 16;

/// A filter that has passed every check, its callout's apart.
pub(crate) struct Accepted<H: Host> {
    record: FilterRecord,
    slot: Option<Arc<Slot<H>>>,
}

impl<H: Host> Engine<H> {
    /// Adds a provider (`FwpmProviderAdd0`); returns its key.
    ///
    /// # Errors
    /// `FWP_NULL_DISPLAY_NAME`, `FWP_ALREADY_EXISTS`, `FWP_LIFETIME_MISMATCH`,
    /// and those of any change: `FWP_INCOMPATIBLE_TXN` in a read-only
    /// transaction, `FWP_TIMEOUT`, `FWP_TXN_ABORTED`, `FWP_SESSION_ABORTED`,
    /// `INVALID_HANDLE`.
    pub fn add_provider(
        &self,
        session: SessionId,
        mut provider: Provider,
    ) -> Result<Guid, NtStatus> {
        self.write(
            session,
            |state, objects, dynamic| {
                check_name(provider.name.as_deref())?;
                let lifetime = Lifetime::of_new(provider.persistent, dynamic)?;
                provider.key = state.key_or_new(provider.key);
                check_new(objects.provider(provider.key).is_some())?;
                Ok(ProviderObject {
                    provider,
                    lifetime,
                    disabled: false,
                })
            },
            Ok,
            |writer, object| {
                let key = object.provider.key;
                writer.objects.insert_provider(object);
                key
            },
        )
    }

    /// Deletes a provider (`FwpmProviderDeleteByKey0`).
    ///
    /// # Errors
    /// `FWP_PROVIDER_NOT_FOUND`; `FWP_IN_USE` while an object names it;
    /// `FWP_BUILTIN_OBJECT`; in a dynamic session `FWP_WRONG_SESSION` and
    /// `FWP_DYNAMIC_SESSION_IN_PROGRESS`; those of any change.
    pub fn delete_provider(&self, session: SessionId, key: Guid) -> Result<(), NtStatus> {
        self.write(
            session,
            |_, objects, dynamic| {
                let object = objects
                    .provider(key)
                    .ok_or(NtStatus::FWP_PROVIDER_NOT_FOUND)?;
                object.lifetime.check_delete(dynamic)?;
                check_unused(objects.is_provider_used(key))
            },
            Ok,
            |writer, ()| writer.objects.remove_provider(key),
        )
    }

    /// Adds a sublayer (`FwpmSubLayerAdd0`); returns its key.
    ///
    /// # Errors
    /// `FWP_NULL_DISPLAY_NAME`, `FWP_ALREADY_EXISTS`, `FWP_PROVIDER_NOT_FOUND`,
    /// `FWP_LIFETIME_MISMATCH`, `FWP_TOO_MANY_SUBLAYERS`; those of any change.
    pub fn add_sublayer(
        &self,
        session: SessionId,
        mut sublayer: SubLayer,
    ) -> Result<Guid, NtStatus> {
        self.write(
            session,
            |state, objects, dynamic| {
                check_name(sublayer.name.as_deref())?;
                let lifetime = Lifetime::of_new(sublayer.persistent, dynamic)?;
                objects.check_provider(lifetime, sublayer.provider)?;
                sublayer.key = state.key_or_new(sublayer.key);
                check_new(objects.sublayer(sublayer.key).is_some())?;
                if objects.sublayer_count() >= MAX_SUBLAYERS {
                    return Err(NtStatus::FWP_TOO_MANY_SUBLAYERS);
                }
                Ok(SubLayerObject {
                    sublayer,
                    lifetime,
                    sequence: state.next(),
                })
            },
            Ok,
            |writer, object| {
                let key = object.sublayer.key;
                writer.objects.insert_sublayer(object);
                key
            },
        )
    }

    /// Deletes a sublayer (`FwpmSubLayerDeleteByKey0`).
    ///
    /// # Errors
    /// `FWP_SUBLAYER_NOT_FOUND`; `FWP_IN_USE` while a filter is in it; else as
    /// [`Engine::delete_provider`].
    pub fn delete_sublayer(&self, session: SessionId, key: Guid) -> Result<(), NtStatus> {
        self.write(
            session,
            |_, objects, dynamic| {
                let object = objects
                    .sublayer(key)
                    .ok_or(NtStatus::FWP_SUBLAYER_NOT_FOUND)?;
                object.lifetime.check_delete(dynamic)?;
                check_unused(objects.is_sublayer_used(key))
            },
            Ok,
            |writer, ()| writer.objects.remove_sublayer(key),
        )
    }

    /// Adds a callout (`FwpmCalloutAdd0`); returns its identifier, the one that
    /// registering the key gives too.
    ///
    /// # Errors
    /// `FWP_NULL_DISPLAY_NAME`, `FWP_INVALID_FLAGS`, `FWP_LAYER_NOT_FOUND`,
    /// `FWP_PROVIDER_NOT_FOUND`, `FWP_LIFETIME_MISMATCH`, `FWP_ALREADY_EXISTS`;
    /// those of any change.
    pub fn add_callout(
        &self,
        session: SessionId,
        mut callout: Callout,
    ) -> Result<CalloutId, NtStatus> {
        self.write(
            session,
            |state, objects, dynamic| {
                check_name(callout.name.as_deref())?;
                callout.key = state.key_or_new(callout.key);
                self.accept_callout(objects, callout, dynamic)
            },
            Ok,
            |writer, object| {
                let id = object.id();
                writer.objects.insert_callout(object);
                id
            },
        )
    }

    /// Deletes a callout by its key (`FwpmCalloutDeleteByKey0`). It stays
    /// registered if it is.
    ///
    /// # Errors
    /// `FWP_CALLOUT_NOT_FOUND`; `FWP_IN_USE` while a filter names it; else as
    /// [`Engine::delete_provider`].
    pub fn delete_callout(&self, session: SessionId, key: Guid) -> Result<(), NtStatus> {
        self.delete_callout_by(session, |objects| objects.callout(key))
    }

    /// Deletes a callout by its identifier (`FwpmCalloutDeleteById0`).
    ///
    /// # Errors
    /// As [`Engine::delete_callout`].
    pub fn delete_callout_by_id(&self, session: SessionId, id: CalloutId) -> Result<(), NtStatus> {
        self.delete_callout_by(session, |objects| objects.callout_by_id(id))
    }

    fn delete_callout_by(
        &self,
        session: SessionId,
        find: impl FnOnce(&Objects<H>) -> Option<&Arc<CalloutObject<H>>>,
    ) -> Result<(), NtStatus> {
        self.write(
            session,
            |_, objects, dynamic| {
                let object = find(objects).ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)?;
                object.lifetime.check_delete(dynamic)?;
                check_unused(objects.is_callout_used(object.id()))?;
                Ok(object.callout.key)
            },
            Ok,
            |writer, key| writer.objects.remove_callout(key),
        )
    }

    /// Adds a filter (`FwpmFilterAdd0`); returns its identifier. Its callout, if
    /// registered, is asked first and may refuse it.
    ///
    /// # Errors
    /// `FWP_NULL_DISPLAY_NAME`; `FWP_LAYER_NOT_FOUND`, `FWP_SUBLAYER_NOT_FOUND`,
    /// `FWP_PROVIDER_NOT_FOUND`, `FWP_CALLOUT_NOT_FOUND`,
    /// `FWP_PROVIDER_CONTEXT_NOT_FOUND`; `FWP_ALREADY_EXISTS`;
    /// `FWP_INVALID_FLAGS`, `FWP_INVALID_WEIGHT`, `FWP_INVALID_ACTION_TYPE`,
    /// `FWP_ACTION_INCOMPATIBLE_WITH_SUBLAYER`, `FWP_LIFETIME_MISMATCH`,
    /// [`Options::callout_of_other_layer`](crate::Options::callout_of_other_layer);
    /// of conditions `FWP_CONDITION_NOT_FOUND`, `FWP_TYPE_MISMATCH`,
    /// `FWP_MATCH_TYPE_MISMATCH`, `FWP_INVALID_RANGE`, `FWP_INVALID_NET_MASK`,
    /// `INVALID_SECURITY_DESCR`; `FWP_CALLOUT_NOTIFICATION_FAILED`; those of any change.
    pub fn add_filter(&self, session: SessionId, mut filter: Filter) -> Result<FilterId, NtStatus> {
        self.write(
            session,
            |state, objects, dynamic| {
                check_name(filter.name.as_deref())?;
                if filter.flags.contains(FilterFlags::DISABLED) {
                    return Err(self.options.illegal_filter_flags);
                }
                filter.key = state.key_or_new(filter.key);
                self.accept_filter(objects, filter, dynamic, FilterId::new(state.next()))
            },
            |accepted| {
                let in_force = accepted.record.lifetime != Lifetime::BootTime;
                self.make_entry(accepted, in_force)
            },
            |writer, entry| {
                let id = entry.id();
                writer.add_filter(Arc::new(entry));
                id
            },
        )
    }

    /// Deletes a filter by its identifier (`FwpmFilterDeleteById0`). Its callout
    /// hears of it when the transaction has been committed and no call with the
    /// filter runs any more.
    ///
    /// # Errors
    /// `FWP_FILTER_NOT_FOUND`; else as [`Engine::delete_provider`].
    pub fn delete_filter(&self, session: SessionId, id: FilterId) -> Result<(), NtStatus> {
        self.delete_filter_by(session, |objects| objects.filter(id))
    }

    /// Deletes a filter by its key (`FwpmFilterDeleteByKey0`).
    ///
    /// # Errors
    /// As [`Engine::delete_filter`].
    pub fn delete_filter_by_key(&self, session: SessionId, key: Guid) -> Result<(), NtStatus> {
        self.delete_filter_by(session, |objects| objects.filter_by_key(key))
    }

    fn delete_filter_by(
        &self,
        session: SessionId,
        find: impl FnOnce(&Objects<H>) -> Option<&Arc<FilterEntry<H>>>,
    ) -> Result<(), NtStatus> {
        self.write(
            session,
            |_, objects, dynamic| {
                let entry = find(objects).ok_or(NtStatus::FWP_FILTER_NOT_FOUND)?;
                entry.record.lifetime.check_delete(dynamic)?;
                Ok(Arc::clone(entry))
            },
            Ok,
            Writer::delete_filter,
        )
    }

    /// Makes a filter, unless its callout refuses it.
    pub(crate) fn make_entry(
        &self,
        accepted: Accepted<H>,
        in_force: bool,
    ) -> Result<FilterEntry<H>, NtStatus> {
        let Accepted { record, slot } = accepted;
        let entry = FilterEntry::new(&self.host, record, slot, in_force);
        if in_force {
            self.notify_adding(&entry)?;
        }
        Ok(entry)
    }

    /// Checks a callout that has a key.
    pub(crate) fn accept_callout(
        &self,
        objects: &Objects<H>,
        callout: Callout,
        dynamic: Option<SessionId>,
    ) -> Result<CalloutObject<H>, NtStatus> {
        const ALLOWED: ManagementCalloutFlags =
            ManagementCalloutFlags::PERSISTENT.union(ManagementCalloutFlags::USES_PROVIDER_CONTEXT);
        if !callout.flags.without(ALLOWED).is_empty() {
            return Err(NtStatus::FWP_INVALID_FLAGS);
        }
        let layer = Layer::by_key(callout.layer).ok_or(NtStatus::FWP_LAYER_NOT_FOUND)?;
        let persistent = callout.flags.contains(ManagementCalloutFlags::PERSISTENT);
        let lifetime = Lifetime::of_new(persistent, dynamic)?;
        objects.check_provider(lifetime, callout.provider)?;
        check_new(objects.callout(callout.key).is_some())?;
        let slot = self.slot(callout.key);
        Ok(CalloutObject {
            callout,
            lifetime,
            layer: layer.id(),
            slot,
        })
    }

    /// Checks a filter that has a key.
    pub(crate) fn accept_filter(
        &self,
        objects: &Objects<H>,
        mut filter: Filter,
        dynamic: Option<SessionId>,
        id: FilterId,
    ) -> Result<Accepted<H>, NtStatus> {
        let layer = Layer::by_key(filter.layer).ok_or(NtStatus::FWP_LAYER_NOT_FOUND)?;
        if filter.sublayer.is_zero() {
            filter.sublayer = layer.default_sublayer();
        }
        let sublayer = objects
            .sublayer(filter.sublayer)
            .ok_or(NtStatus::FWP_SUBLAYER_NOT_FOUND)?;
        if !are_legal(filter.flags, filter.action) {
            return Err(self.options.illegal_filter_flags);
        }
        if filter.flags.contains(FilterFlags::HAS_PROVIDER_CONTEXT) {
            return Err(NtStatus::FWP_PROVIDER_CONTEXT_NOT_FOUND);
        }
        if !filter.action.is_filter_action() {
            return Err(NtStatus::FWP_INVALID_ACTION_TYPE);
        }
        if filter.sublayer == sublayer::INSPECTION && filter.action != Action::CalloutInspection {
            return Err(NtStatus::FWP_ACTION_INCOMPATIBLE_WITH_SUBLAYER);
        }
        let boot_time = filter.flags.contains(FilterFlags::BOOTTIME);
        let persistent = boot_time || filter.flags.contains(FilterFlags::PERSISTENT);
        let lifetime = match Lifetime::of_new(persistent, dynamic)? {
            Lifetime::Persistent if boot_time => Lifetime::BootTime,
            lifetime => lifetime,
        };
        objects.check_provider(lifetime, filter.provider)?;
        lifetime.check_reference(
            filter.provider,
            sublayer.lifetime,
            sublayer.sublayer.provider,
        )?;
        let callout = if filter.action.is_callout() {
            let callout = objects
                .callout(filter.callout)
                .ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)?;
            if callout.layer != layer.id() {
                return Err(self.options.callout_of_other_layer);
            }
            lifetime.check_reference(
                filter.provider,
                callout.lifetime,
                callout.callout.provider,
            )?;
            Some(Arc::clone(&callout.slot))
        } else {
            None
        };
        let conditions = condition::check(layer, &filter.conditions, &self.options)?;
        let effective_weight =
            weight::effective(filter.weight, &conditions, self.options.auto_weight)?;
        check_new(objects.filter_by_key(filter.key).is_some())?;
        Ok(Accepted {
            record: FilterRecord {
                id,
                layer: layer.id(),
                sublayer_weight: sublayer.sublayer.weight,
                effective_weight,
                conditions,
                callout: callout.as_deref().map(Slot::id),
                lifetime,
                filter,
            },
            slot: callout,
        })
    }
}

/// Whether a filter of this action may have these flags.
const fn are_legal(flags: FilterFlags, action: Action) -> bool {
    let both = FilterFlags::PERSISTENT.union(FilterFlags::BOOTTIME);
    let asks = matches!(action, Action::CalloutTerminating | Action::CalloutUnknown);
    flags.unknown().is_empty()
        && !flags.contains(both)
        && (asks || !flags.contains(FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED))
}

const fn check_name(name: Option<&str>) -> Result<(), NtStatus> {
    match name {
        Some(_) => Ok(()),
        None => Err(NtStatus::FWP_NULL_DISPLAY_NAME),
    }
}

const fn check_new(exists: bool) -> Result<(), NtStatus> {
    if exists {
        Err(NtStatus::FWP_ALREADY_EXISTS)
    } else {
        Ok(())
    }
}

const fn check_unused(used: bool) -> Result<(), NtStatus> {
    if used {
        Err(NtStatus::FWP_IN_USE)
    } else {
        Ok(())
    }
}
