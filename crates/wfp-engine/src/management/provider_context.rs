//! Provider contexts.

use super::{check_name, check_new, check_unused};
use crate::engine::Engine;
use crate::host::Host;
use crate::id::{ProviderContextId, SessionId};
use crate::lifetime::Lifetime;
use crate::object::ProviderContext;
use crate::objects::{Objects, ProviderContextObject};
use crate::security::{ObjectType, Securable, Secured};
use std::sync::Arc;
use wfp_schema::{Guid, NtStatus};

impl<H: Host> Engine<H> {
    /// Adds a provider context (`FwpmProviderContextAdd0`); returns its identifier.
    ///
    /// # Errors
    /// `FWP_NULL_DISPLAY_NAME`, `FWP_PROVIDER_NOT_FOUND`, `FWP_ALREADY_EXISTS`,
    /// `FWP_LIFETIME_MISMATCH`, `ACCESS_DENIED`; those of any change.
    pub fn add_provider_context(
        &self,
        session: SessionId,
        context: impl Into<Secured<ProviderContext>>,
    ) -> Result<ProviderContextId, NtStatus> {
        let Secured {
            object: mut context,
            security,
        } = context.into();
        self.write(
            session,
            |state, objects, author| {
                check_name(context.name.as_deref())?;
                let lifetime = Lifetime::of_new(context.persistent, author.dynamic)?;
                objects.check_provider(lifetime, context.provider)?;
                context.key = state.key_or_new(context.key);
                check_new(objects.provider_context(context.key).is_some())?;
                let links = [(ObjectType::Provider, context.provider)];
                author.check_add(objects, ObjectType::ProviderContext, &links)?;
                let object = ProviderContextObject {
                    context,
                    lifetime,
                    id: ProviderContextId::new(state.next()),
                };
                Ok((object, author.security(security)))
            },
            Ok,
            |writer, (object, security)| {
                let id = object.id;
                let what = Securable::Object(ObjectType::ProviderContext, object.context.key);
                writer.objects.set_security(what, security);
                writer.objects.insert_provider_context(object);
                id
            },
        )
    }

    /// Deletes a provider context by its key (`FwpmProviderContextDeleteByKey0`).
    ///
    /// # Errors
    /// `FWP_PROVIDER_CONTEXT_NOT_FOUND`; `FWP_IN_USE` while a filter names it;
    /// else as [`Engine::delete_provider`].
    pub fn delete_provider_context(&self, session: SessionId, key: Guid) -> Result<(), NtStatus> {
        self.delete_provider_context_by(session, |objects| objects.provider_context(key))
    }

    /// Deletes a provider context by its identifier (`FwpmProviderContextDeleteById0`).
    ///
    /// # Errors
    /// As [`Engine::delete_provider_context`].
    pub fn delete_provider_context_by_id(
        &self,
        session: SessionId,
        id: ProviderContextId,
    ) -> Result<(), NtStatus> {
        self.delete_provider_context_by(session, |objects| objects.provider_context_by_id(id))
    }

    fn delete_provider_context_by(
        &self,
        session: SessionId,
        find: impl FnOnce(&Objects<H>) -> Option<&Arc<ProviderContextObject>>,
    ) -> Result<(), NtStatus> {
        self.write(
            session,
            |_, objects, author| {
                let object = find(objects).ok_or(NtStatus::FWP_PROVIDER_CONTEXT_NOT_FOUND)?;
                let key = object.context.key;
                object.lifetime.check_delete(author.dynamic)?;
                author.check_delete(objects, ObjectType::ProviderContext, key)?;
                check_unused(objects.is_provider_context_used(key))?;
                Ok(key)
            },
            Ok,
            |writer, key| writer.objects.remove(ObjectType::ProviderContext, key),
        )
    }
}
