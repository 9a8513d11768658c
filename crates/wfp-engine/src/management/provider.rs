//! Providers.

use super::{check_name, check_new, check_unused};
use crate::engine::Engine;
use crate::host::Host;
use crate::id::SessionId;
use crate::lifetime::Lifetime;
use crate::object::Provider;
use crate::objects::ProviderObject;
use crate::security::{ObjectType, Securable, Secured};
use wfp_schema::{Guid, NtStatus};

impl<H: Host> Engine<H> {
    /// Adds a provider (`FwpmProviderAdd0`); returns its key.
    ///
    /// # Errors
    /// `FWP_NULL_DISPLAY_NAME`, `FWP_ALREADY_EXISTS`, `FWP_LIFETIME_MISMATCH`,
    /// `ACCESS_DENIED`, and those of any change: `FWP_INCOMPATIBLE_TXN` in a
    /// read-only transaction, `FWP_TIMEOUT`, `FWP_TXN_ABORTED`,
    /// `FWP_SESSION_ABORTED`, `INVALID_HANDLE`.
    pub fn add_provider(
        &self,
        session: SessionId,
        provider: impl Into<Secured<Provider>>,
    ) -> Result<Guid, NtStatus> {
        let Secured {
            object: mut provider,
            security,
        } = provider.into();
        self.write(
            session,
            |state, objects, author| {
                check_name(provider.name.as_deref())?;
                let lifetime = Lifetime::of_new(provider.persistent, author.dynamic)?;
                provider.key = state.key_or_new(provider.key);
                check_new(objects.provider(provider.key).is_some())?;
                author.check_add(objects, ObjectType::Provider, &[])?;
                let object = ProviderObject {
                    provider,
                    lifetime,
                    disabled: false,
                };
                Ok((object, author.security(security)))
            },
            Ok,
            |writer, (object, security)| {
                let key = object.provider.key;
                let what = Securable::Object(ObjectType::Provider, key);
                writer.objects.set_security(what, security);
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
    /// `FWP_DYNAMIC_SESSION_IN_PROGRESS`; `ACCESS_DENIED`; those of any change.
    pub fn delete_provider(&self, session: SessionId, key: Guid) -> Result<(), NtStatus> {
        self.write(
            session,
            |_, objects, author| {
                let object = objects
                    .provider(key)
                    .ok_or(NtStatus::FWP_PROVIDER_NOT_FOUND)?;
                object.lifetime.check_delete(author.dynamic)?;
                author.check_delete(objects, ObjectType::Provider, key)?;
                check_unused(objects.is_provider_used(key))
            },
            Ok,
            |writer, ()| writer.objects.remove(ObjectType::Provider, key),
        )
    }
}
