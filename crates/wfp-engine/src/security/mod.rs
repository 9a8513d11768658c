//! Who may do what with which object.
//!
//! Kernel callers need no right. For user-mode callers each object has a
//! security descriptor; what it doesn't say is inherited from the container of
//! its type, and that container's from the filter engine.
//!
//! <https://learn.microsoft.com/windows/win32/fwp/access-control>

mod descriptor;

pub use descriptor::{AccessEntry, AccessList, SecurityDescriptor};
pub(crate) use descriptor::{grants_match, is_valid};

use crate::engine::Engine;
use crate::host::Host;
use crate::id::SessionId;
use crate::lifetime::Lifetime;
use crate::objects::Objects;
use std::sync::Arc;
use wfp_schema::{AccessRights, Guid, Layer, NtStatus};

/// The types of management objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectType {
    /// Providers.
    Provider,
    /// Provider contexts.
    ProviderContext,
    /// Sublayers.
    SubLayer,
    /// Layers.
    Layer,
    /// Callouts.
    Callout,
    /// Filters.
    Filter,
}

/// What a security descriptor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Securable {
    /// The filter engine.
    Engine,
    /// The container of all objects of a type: what a NULL key stands for.
    Container(ObjectType),
    /// An object.
    Object(ObjectType, Guid),
}

impl Securable {
    const fn parent(self) -> Option<Self> {
        match self {
            Self::Engine => None,
            Self::Container(_) => Some(Self::Engine),
            Self::Object(object_type, _) => Some(Self::Container(object_type)),
        }
    }
}

/// The identity of a user-mode caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's SID.
    pub sid: Box<[u8]>,
    /// The SIDs of the user's enabled groups.
    pub groups: Vec<Box<[u8]>>,
}

impl User {
    fn is(&self, sid: &[u8]) -> bool {
        *self.sid == *sid || self.groups.iter().any(|group| **group == *sid)
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Caller {
    /// A driver: no access is checked, and its transactions are never aborted by force.
    #[default]
    Kernel,
    /// A program.
    User(Arc<User>),
}

/// An object that is to be added, and its security descriptor if it gets one of its own.
#[derive(Clone, Debug)]
pub struct Secured<T> {
    pub(crate) object: T,
    pub(crate) security: Option<SecurityDescriptor>,
}

impl<T> From<T> for Secured<T> {
    fn from(object: T) -> Self {
        Self {
            object,
            security: None,
        }
    }
}

impl<T> Secured<T> {
    /// An object with a security descriptor of its own.
    pub const fn new(object: T, security: SecurityDescriptor) -> Self {
        Self {
            object,
            security: Some(security),
        }
    }
}

/// `S-1-5-32-544`, the built-in administrators.
pub const ADMINISTRATORS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
/// `S-1-5-32-556`, the network configuration operators.
pub const NETWORK_OPERATORS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x2C, 2, 0, 0];
/// `S-1-1-0`, everyone.
pub const EVERYONE: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

/// The descriptor of the filter engine. The system services that it also names
/// are left out: no caller here is one.
fn default_descriptor() -> SecurityDescriptor {
    let operators = AccessRights::GENERIC_READ
        .union(AccessRights::GENERIC_WRITE)
        .union(AccessRights::GENERIC_EXECUTE);
    SecurityDescriptor {
        list: AccessList::Entries(vec![
            AccessEntry::grant(AccessRights::GENERIC_ALL, ADMINISTRATORS),
            AccessEntry::grant(operators, NETWORK_OPERATORS),
            AccessEntry::grant(AccessRights::OPEN.union(AccessRights::CLASSIFY), EVERYONE),
        ]),
        ..SecurityDescriptor::default()
    }
}

/// What of a security descriptor is read or changed (`SECURITY_INFORMATION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SecurityParts {
    /// `OWNER_SECURITY_INFORMATION`.
    pub owner: bool,
    /// `GROUP_SECURITY_INFORMATION`.
    pub group: bool,
    /// `DACL_SECURITY_INFORMATION`.
    pub list: bool,
}

impl<H: Host> Objects<H> {
    /// Whether a caller has rights to something.
    ///
    /// # Errors
    /// `ACCESS_DENIED`.
    pub fn check_access(
        &self,
        caller: &Caller,
        what: Securable,
        rights: AccessRights,
    ) -> Result<(), NtStatus> {
        let Caller::User(user) = caller else {
            return Ok(());
        };
        let mut missing = rights;
        // Otherwise administrators could lock themselves out.
        if what == Securable::Engine && user.is(ADMINISTRATORS) {
            missing = missing.without(AccessRights::OPEN);
        }
        let mut level = Some(what);
        while let Some(at) = level {
            let default;
            let descriptor = match (self.security(at), at) {
                (Some(descriptor), _) => Some(descriptor),
                (None, Securable::Engine) => {
                    default = default_descriptor();
                    Some(&default)
                }
                (None, _) => None,
            };
            level = at.parent();
            let Some(descriptor) = descriptor else {
                continue;
            };
            let own = at == what;
            if own
                && descriptor
                    .owner
                    .as_deref()
                    .is_some_and(|owner| user.is(owner))
            {
                missing = missing
                    .without(AccessRights::READ_CONTROL)
                    .without(AccessRights::WRITE_DAC);
            }
            match &descriptor.list {
                AccessList::Everyone if own => return Ok(()),
                AccessList::Everyone | AccessList::Inherited => {}
                AccessList::Entries(entries) => {
                    for entry in entries {
                        let counts = if own {
                            entry.applies
                        } else {
                            entry.inheritable
                        };
                        if !counts || !user.is(&entry.sid) {
                            continue;
                        }
                        let rights = entry.rights.specific();
                        if entry.grants {
                            missing = missing.without(rights);
                        } else if missing.intersects(rights) {
                            return Err(NtStatus::ACCESS_DENIED);
                        }
                    }
                }
            }
            if descriptor.protected {
                level = None;
            }
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(NtStatus::ACCESS_DENIED)
        }
    }

    /// How long something lives.
    pub(crate) fn lifetime_of(&self, what: Securable) -> Result<Lifetime, NtStatus> {
        let Securable::Object(object_type, key) = what else {
            return Ok(Lifetime::BuiltIn);
        };
        match object_type {
            ObjectType::Provider => self
                .provider(key)
                .map(|object| object.lifetime)
                .ok_or(NtStatus::FWP_PROVIDER_NOT_FOUND),
            ObjectType::ProviderContext => self
                .provider_context(key)
                .map(|object| object.lifetime)
                .ok_or(NtStatus::FWP_PROVIDER_CONTEXT_NOT_FOUND),
            ObjectType::SubLayer => self
                .sublayer(key)
                .map(|object| object.lifetime)
                .ok_or(NtStatus::FWP_SUBLAYER_NOT_FOUND),
            ObjectType::Layer => Layer::by_key(key)
                .map(|_| Lifetime::BuiltIn)
                .ok_or(NtStatus::FWP_LAYER_NOT_FOUND),
            ObjectType::Callout => self
                .callout(key)
                .map(|object| object.lifetime)
                .ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND),
            ObjectType::Filter => self
                .filter_by_key(key)
                .map(|entry| entry.record().lifetime)
                .ok_or(NtStatus::FWP_FILTER_NOT_FOUND),
        }
    }
}

impl<H: Host> Engine<H> {
    /// The objects as a session sees them, if it may read this one
    /// (`Fwpm…GetByKey0`).
    ///
    /// # Errors
    /// The type's `…_NOT_FOUND`; `ACCESS_DENIED`; as [`Engine::objects`].
    pub fn read(&self, session: SessionId, what: Securable) -> Result<Objects<H>, NtStatus> {
        let (objects, caller) = self.view(session)?;
        objects.lifetime_of(what)?;
        objects.check_access(&caller, what, AccessRights::READ)?;
        Ok(objects)
    }

    /// The objects as a session sees them, of one type those only that it may
    /// read (`Fwpm…CreateEnumHandle0`).
    ///
    /// # Errors
    /// `ACCESS_DENIED` if it may not enumerate them; as [`Engine::objects`].
    pub fn enumerate(
        &self,
        session: SessionId,
        object_type: ObjectType,
    ) -> Result<Objects<H>, NtStatus> {
        let (mut objects, caller) = self.view(session)?;
        if caller != Caller::Kernel {
            let container = Securable::Container(object_type);
            objects.check_access(&caller, container, AccessRights::ENUM)?;
            for key in objects.keys(object_type) {
                let what = Securable::Object(object_type, key);
                let readable = objects.check_access(&caller, what, AccessRights::READ);
                if readable.is_err() {
                    objects.hide(object_type, key);
                }
            }
        }
        Ok(objects)
    }

    /// The security descriptor of something (`Fwpm…GetSecurityInfo0`), the
    /// default if none was set.
    ///
    /// # Errors
    /// The type's `…_NOT_FOUND`; `ACCESS_DENIED`; as [`Engine::objects`].
    pub fn security(
        &self,
        session: SessionId,
        what: Securable,
    ) -> Result<SecurityDescriptor, NtStatus> {
        let (objects, caller) = self.view(session)?;
        objects.lifetime_of(what)?;
        objects.check_access(&caller, what, AccessRights::READ_CONTROL)?;
        Ok(match (objects.security(what), what) {
            (Some(descriptor), _) => descriptor.clone(),
            (None, Securable::Engine) => default_descriptor(),
            (None, _) => SecurityDescriptor::default(),
        })
    }

    /// Changes parts of the security descriptor of something
    /// (`Fwpm…SetSecurityInfo0`).
    ///
    /// # Errors
    /// `FWP_TXN_IN_PROGRESS` in a transaction; `FWP_WRONG_SESSION` and
    /// `FWP_DYNAMIC_SESSION_IN_PROGRESS` in a dynamic session for what is not
    /// its own; the type's `…_NOT_FOUND`; `ACCESS_DENIED`; those of any change.
    pub fn set_security(
        &self,
        session: SessionId,
        what: Securable,
        parts: SecurityParts,
        descriptor: &SecurityDescriptor,
    ) -> Result<(), NtStatus> {
        if self.is_in_transaction(session)? {
            return Err(NtStatus::FWP_TXN_IN_PROGRESS);
        }
        self.write(
            session,
            |_, objects, author| {
                match (objects.lifetime_of(what)?, author.dynamic) {
                    (Lifetime::Dynamic(owner), Some(own)) if owner == own => {}
                    (Lifetime::Dynamic(_), Some(_)) => return Err(NtStatus::FWP_WRONG_SESSION),
                    (_, Some(_)) => return Err(NtStatus::FWP_DYNAMIC_SESSION_IN_PROGRESS),
                    (_, None) => {}
                }
                let mut rights = AccessRights::NONE;
                if parts.list {
                    rights |= AccessRights::WRITE_DAC;
                }
                if parts.owner || parts.group {
                    rights |= AccessRights::WRITE_OWNER;
                }
                objects.check_access(&author.caller, what, rights)?;
                let mut changed = match (objects.security(what), what) {
                    (Some(current), _) => current.clone(),
                    (None, Securable::Engine) => default_descriptor(),
                    (None, _) => SecurityDescriptor::default(),
                };
                if parts.owner {
                    changed.owner.clone_from(&descriptor.owner);
                }
                if parts.group {
                    changed.group.clone_from(&descriptor.group);
                }
                if parts.list {
                    changed.list = descriptor.list.clone();
                    changed.protected = descriptor.protected;
                }
                Ok(changed)
            },
            Ok,
            |writer, changed| writer.objects.set_security(what, Some(changed)),
        )
    }
}
