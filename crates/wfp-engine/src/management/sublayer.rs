//! Sublayers.

use super::{check_name, check_new, check_unused};
use crate::engine::Engine;
use crate::host::Host;
use crate::id::SessionId;
use crate::lifetime::Lifetime;
use crate::object::SubLayer;
use crate::objects::SubLayerObject;
use crate::security::{ObjectType, Securable, Secured};
use wfp_schema::{Guid, NtStatus};

/// Greatest number of sublayers.
const MAX_SUBLAYERS: usize = 1 << 16;

impl<H: Host> Engine<H> {
    /// Adds a sublayer (`FwpmSubLayerAdd0`); returns its key.
    ///
    /// # Errors
    /// `FWP_NULL_DISPLAY_NAME`, `FWP_ALREADY_EXISTS`, `FWP_PROVIDER_NOT_FOUND`,
    /// `FWP_LIFETIME_MISMATCH`, `FWP_TOO_MANY_SUBLAYERS`, `ACCESS_DENIED`; those
    /// of any change.
    pub fn add_sublayer(
        &self,
        session: SessionId,
        sublayer: impl Into<Secured<SubLayer>>,
    ) -> Result<Guid, NtStatus> {
        let Secured {
            object: mut sublayer,
            security,
        } = sublayer.into();
        self.write(
            session,
            |state, objects, author| {
                check_name(sublayer.name.as_deref())?;
                let lifetime = Lifetime::of_new(sublayer.persistent, author.dynamic)?;
                objects.check_provider(lifetime, sublayer.provider)?;
                sublayer.key = state.key_or_new(sublayer.key);
                check_new(objects.sublayer(sublayer.key).is_some())?;
                if objects.sublayer_count() >= MAX_SUBLAYERS {
                    return Err(NtStatus::FWP_TOO_MANY_SUBLAYERS);
                }
                let links = [(ObjectType::Provider, sublayer.provider)];
                author.check_add(objects, ObjectType::SubLayer, &links)?;
                let object = SubLayerObject {
                    sublayer,
                    lifetime,
                    sequence: state.next(),
                };
                Ok((object, author.security(security)))
            },
            Ok,
            |writer, (object, security)| {
                let key = object.sublayer.key;
                let what = Securable::Object(ObjectType::SubLayer, key);
                writer.objects.set_security(what, security);
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
            |_, objects, author| {
                let object = objects
                    .sublayer(key)
                    .ok_or(NtStatus::FWP_SUBLAYER_NOT_FOUND)?;
                object.lifetime.check_delete(author.dynamic)?;
                author.check_delete(objects, ObjectType::SubLayer, key)?;
                check_unused(objects.is_sublayer_used(key))
            },
            Ok,
            |writer, ()| writer.objects.remove(ObjectType::SubLayer, key),
        )
    }
}
