//! Callouts as management objects.

use super::{check_name, check_new, check_unused};
use crate::engine::Engine;
use crate::host::Host;
use crate::id::{CalloutId, SessionId};
use crate::lifetime::Lifetime;
use crate::object::Callout;
use crate::objects::{CalloutObject, Objects};
use crate::security::{ObjectType, Securable, Secured};
use crate::transaction::Author;
use std::sync::Arc;
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{Guid, Layer, NtStatus};

impl<H: Host> Engine<H> {
    /// Adds a callout (`FwpmCalloutAdd0`); returns its identifier, the one that
    /// registering the key gives too.
    ///
    /// # Errors
    /// `FWP_NULL_DISPLAY_NAME`, `FWP_INVALID_FLAGS`, `FWP_LAYER_NOT_FOUND`,
    /// `FWP_PROVIDER_NOT_FOUND`, `FWP_LIFETIME_MISMATCH`, `FWP_ALREADY_EXISTS`,
    /// `ACCESS_DENIED`; those of any change.
    pub fn add_callout(
        &self,
        session: SessionId,
        callout: impl Into<Secured<Callout>>,
    ) -> Result<CalloutId, NtStatus> {
        let Secured {
            object: mut callout,
            security,
        } = callout.into();
        self.write(
            session,
            |state, objects, author| {
                check_name(callout.name.as_deref())?;
                callout.key = state.key_or_new(callout.key);
                let object = self.accept_callout(objects, callout, author)?;
                Ok((object, author.security(security)))
            },
            Ok,
            |writer, (object, security)| {
                let id = object.id();
                let what = Securable::Object(ObjectType::Callout, object.callout.key);
                writer.objects.set_security(what, security);
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
            |_, objects, author| {
                let object = find(objects).ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)?;
                object.lifetime.check_delete(author.dynamic)?;
                author.check_delete(objects, ObjectType::Callout, object.callout.key)?;
                check_unused(objects.is_callout_used(object.id()))?;
                Ok(object.callout.key)
            },
            Ok,
            |writer, key| writer.objects.remove(ObjectType::Callout, key),
        )
    }

    /// Checks a callout that has a key.
    pub(crate) fn accept_callout(
        &self,
        objects: &Objects<H>,
        callout: Callout,
        author: &Author,
    ) -> Result<CalloutObject<H>, NtStatus> {
        const ALLOWED: ManagementCalloutFlags =
            ManagementCalloutFlags::PERSISTENT.union(ManagementCalloutFlags::USES_PROVIDER_CONTEXT);
        if !callout.flags.without(ALLOWED).is_empty() {
            return Err(NtStatus::FWP_INVALID_FLAGS);
        }
        let layer = Layer::by_key(callout.layer).ok_or(NtStatus::FWP_LAYER_NOT_FOUND)?;
        let persistent = callout.flags.contains(ManagementCalloutFlags::PERSISTENT);
        let lifetime = Lifetime::of_new(persistent, author.dynamic)?;
        objects.check_provider(lifetime, callout.provider)?;
        check_new(objects.callout(callout.key).is_some())?;
        let links = [
            (ObjectType::Provider, callout.provider),
            (ObjectType::Layer, Some(callout.layer)),
        ];
        author.check_add(objects, ObjectType::Callout, &links)?;
        let slot = self.slot(callout.key);
        Ok(CalloutObject {
            callout,
            lifetime,
            layer: layer.id(),
            slot,
        })
    }
}
