//! Filters.

use super::{check_name, check_new};
use crate::callout::Slot;
use crate::condition;
use crate::engine::Engine;
use crate::filter::{FilterEntry, FilterRecord};
use crate::host::Host;
use crate::id::{FilterId, SessionId};
use crate::lifetime::Lifetime;
use crate::object::Filter;
use crate::objects::Objects;
use crate::security::{ObjectType, Securable, Secured};
use crate::transaction::{Author, Writer};
use crate::weight;
use std::sync::Arc;
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{Action, FilterFlags, Guid, Layer, NtStatus, sublayer};

/// A filter that has passed every check, its callout's apart.
pub(crate) struct Accepted<H: Host> {
    record: FilterRecord,
    slot: Option<Arc<Slot<H>>>,
}

impl<H: Host> Engine<H> {
    /// Adds a filter (`FwpmFilterAdd0`); returns its identifier. Its callout, if
    /// registered, is asked first and may refuse it.
    ///
    /// # Errors
    /// `FWP_NULL_DISPLAY_NAME`; `FWP_LAYER_NOT_FOUND`, `FWP_SUBLAYER_NOT_FOUND`,
    /// `FWP_PROVIDER_NOT_FOUND`, `FWP_CALLOUT_NOT_FOUND`,
    /// `FWP_PROVIDER_CONTEXT_NOT_FOUND`; `FWP_ALREADY_EXISTS`;
    /// [`Options::illegal_filter_flags`](crate::Options::illegal_filter_flags), `FWP_INVALID_WEIGHT`, `FWP_INVALID_ACTION_TYPE`,
    /// `FWP_ACTION_INCOMPATIBLE_WITH_SUBLAYER`, `FWP_LIFETIME_MISMATCH`,
    /// [`Options::callout_of_other_layer`](crate::Options::callout_of_other_layer);
    /// of conditions `FWP_CONDITION_NOT_FOUND`, `FWP_TYPE_MISMATCH`,
    /// `FWP_MATCH_TYPE_MISMATCH`, `FWP_INVALID_RANGE`, `FWP_INVALID_NET_MASK`,
    /// `FWP_DUPLICATE_CONDITION`, `INVALID_SECURITY_DESCR`; `ACCESS_DENIED`;
    /// `FWP_CALLOUT_NOTIFICATION_FAILED`; those of any change.
    pub fn add_filter(
        &self,
        session: SessionId,
        filter: impl Into<Secured<Filter>>,
    ) -> Result<FilterId, NtStatus> {
        let Secured {
            object: mut filter,
            security,
        } = filter.into();
        self.write(
            session,
            |state, objects, author| {
                check_name(filter.name.as_deref())?;
                if filter.flags.contains(FilterFlags::DISABLED) {
                    return Err(self.options.illegal_filter_flags);
                }
                filter.key = state.key_or_new(filter.key);
                let id = FilterId::new(state.next());
                let accepted = self.accept_filter(objects, filter, author, id)?;
                Ok((accepted, author.security(security)))
            },
            |(accepted, security)| {
                let in_force = accepted.record.lifetime != Lifetime::BootTime;
                Ok((self.make_entry(accepted, in_force)?, security))
            },
            |writer, (entry, security)| {
                let id = entry.id();
                let what = Securable::Object(ObjectType::Filter, entry.record.key());
                writer.objects.set_security(what, security);
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
            |_, objects, author| {
                let entry = find(objects).ok_or(NtStatus::FWP_FILTER_NOT_FOUND)?;
                entry.record.lifetime.check_delete(author.dynamic)?;
                author.check_delete(objects, ObjectType::Filter, entry.record.key())?;
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

    /// Checks a filter that has a key.
    pub(crate) fn accept_filter(
        &self,
        objects: &Objects<H>,
        mut filter: Filter,
        author: &Author,
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
        if !filter.action.is_filter_action() {
            return Err(NtStatus::FWP_INVALID_ACTION_TYPE);
        }
        if filter.sublayer == sublayer::INSPECTION && filter.action != Action::CalloutInspection {
            return Err(NtStatus::FWP_ACTION_INCOMPATIBLE_WITH_SUBLAYER);
        }
        let boot_time = filter.flags.contains(FilterFlags::BOOTTIME);
        let persistent = boot_time || filter.flags.contains(FilterFlags::PERSISTENT);
        let lifetime = match Lifetime::of_new(persistent, author.dynamic)? {
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
            Some(callout)
        } else {
            None
        };
        let provider_context = if filter.flags.contains(FilterFlags::HAS_PROVIDER_CONTEXT) {
            let object = objects
                .provider_context(filter.provider_context)
                .ok_or(NtStatus::FWP_PROVIDER_CONTEXT_NOT_FOUND)?;
            lifetime.check_reference(filter.provider, object.lifetime, object.context.provider)?;
            Some(Arc::clone(object))
        } else {
            None
        };
        let conditions = condition::check(layer, &filter.conditions, &self.options)?;
        let effective_weight =
            weight::effective(filter.weight, &conditions, self.options.auto_weight)?;
        check_new(objects.filter_by_key(filter.key).is_some())?;
        let links = [
            (ObjectType::Provider, filter.provider),
            (ObjectType::Layer, Some(filter.layer)),
            (ObjectType::SubLayer, Some(filter.sublayer)),
            (
                ObjectType::Callout,
                callout.map(|object| object.callout.key),
            ),
            (
                ObjectType::ProviderContext,
                provider_context.as_ref().map(|object| object.context.key),
            ),
        ];
        author.check_add(objects, ObjectType::Filter, &links)?;
        let shows_provider_context = callout.is_some_and(|object| {
            let uses = ManagementCalloutFlags::USES_PROVIDER_CONTEXT;
            object.callout.flags.contains(uses)
        });
        let slot = callout.map(|object| Arc::clone(&object.slot));
        Ok(Accepted {
            record: FilterRecord {
                id,
                layer: layer.id(),
                sublayer_weight: sublayer.sublayer.weight,
                effective_weight,
                conditions,
                callout: slot.as_deref().map(Slot::id),
                provider_context,
                shows_provider_context,
                lifetime,
                filter,
            },
            slot,
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
