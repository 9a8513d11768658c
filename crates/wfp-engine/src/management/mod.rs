//! Adding and deleting management objects, one type a file.

mod callout;
mod filter;
mod provider;
mod provider_context;
mod sublayer;

use crate::host::Host;
use crate::objects::Objects;
use crate::security::{Caller, ObjectType, Securable, SecurityDescriptor};
use crate::transaction::Author;
use wfp_schema::{AccessRights, Guid, NtStatus};

impl Author {
    /// Checks that the caller may add an object of a type that names others.
    fn check_add<H: Host>(
        &self,
        objects: &Objects<H>,
        object_type: ObjectType,
        links: &[(ObjectType, Option<Guid>)],
    ) -> Result<(), NtStatus> {
        let container = Securable::Container(object_type);
        objects.check_access(&self.caller, container, AccessRights::ADD)?;
        for (object_type, key) in links {
            if let Some(key) = key {
                let linked = Securable::Object(*object_type, *key);
                objects.check_access(&self.caller, linked, AccessRights::ADD_LINK)?;
            }
        }
        Ok(())
    }

    /// Checks that the caller may delete an object.
    fn check_delete<H: Host>(
        &self,
        objects: &Objects<H>,
        object_type: ObjectType,
        key: Guid,
    ) -> Result<(), NtStatus> {
        let object = Securable::Object(object_type, key);
        objects.check_access(&self.caller, object, AccessRights::DELETE)
    }

    /// The security descriptor of an object that the caller adds: a program
    /// owns what it adds.
    fn security(&self, given: Option<SecurityDescriptor>) -> Option<SecurityDescriptor> {
        let Caller::User(user) = &self.caller else {
            return given;
        };
        let mut descriptor = given.unwrap_or_default();
        descriptor.owner.get_or_insert_with(|| user.sid.clone());
        Some(descriptor)
    }
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
