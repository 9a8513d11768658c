//! `WDF_OBJECT_ATTRIBUTES`: what a driver says about an object that it makes.

use wfp_schema::NtStatus;

use super::abi::{ContextType, Level, ObjectAttributes, ObjectCallback, Scope, status};
use super::object::{Id, State, resolve_any};
use crate::access::In;
use crate::export::Call;

/// What `WDF_OBJECT_ATTRIBUTES` may say for one kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// `ParentObject` may be given.
    Allowed,
    /// It must be given.
    Required,
    /// It must not.
    NotAllowed,
}

/// Whether execution level and synchronization scope may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Constraints {
    /// Neither.
    None,
    /// The level only.
    Level,
    /// Both.
    Both,
}

/// Checked `WDF_OBJECT_ATTRIBUTES`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes {
    pub(crate) parent: Option<Id>,
    pub(crate) level: Option<Level>,
    pub(crate) scope: Option<Scope>,
    pub(crate) cleanup: Option<ObjectCallback>,
    pub(crate) destroy: Option<ObjectCallback>,
    /// Unique type and size.
    pub(crate) context: Option<(usize, usize)>,
}

impl Attributes {
    /// Reads and checks attributes as the framework's `FxValidateObjectAttributes` does.
    pub(crate) fn read(
        call: &Call<'_>,
        attributes: In<ObjectAttributes>,
        parent: Parent,
        constraints: Constraints,
    ) -> Result<Self, NtStatus> {
        let Some(raw) = attributes.get() else {
            return if parent == Parent::Required {
                Err(status::PARENT_NOT_SPECIFIED)
            } else {
                Ok(Self::default())
            };
        };
        if raw.size != 56 {
            return Err(NtStatus::INFO_LENGTH_MISMATCH);
        }
        let context = raw
            .context_type
            .get()
            .map(|info| read_context_type(&info))
            .transpose()?;
        if raw.context_size_override > 0
            && context.is_none_or(|(_, size)| raw.context_size_override < size)
        {
            return Err(status::OBJECT_ATTRIBUTES_INVALID);
        }
        let context = context.map(|(unique, size)| (unique, size.max(raw.context_size_override)));
        let level = match raw.execution_level {
            1 => None,
            2 => Some(Level::Passive),
            3 => Some(Level::Dispatch),
            _ => return Err(status::OBJECT_ATTRIBUTES_INVALID),
        };
        let scope = match raw.synchronization_scope {
            1 => None,
            2 => Some(Scope::Device),
            3 => Some(Scope::Queue),
            4 => Some(Scope::None),
            _ => return Err(status::OBJECT_ATTRIBUTES_INVALID),
        };
        match (parent, raw.parent) {
            (Parent::NotAllowed, given) if given != 0 => {
                return Err(status::PARENT_ASSIGNMENT_NOT_ALLOWED);
            }
            (Parent::Required, 0) => return Err(status::PARENT_NOT_SPECIFIED),
            _ => {}
        }
        if constraints != Constraints::Both && matches!(scope, Some(Scope::Device | Scope::Queue)) {
            return Err(status::SYNCHRONIZATION_SCOPE_INVALID);
        }
        if constraints == Constraints::None && level.is_some() {
            return Err(status::EXECUTION_LEVEL_INVALID);
        }
        let parent = (raw.parent != 0).then(|| resolve_any(call, raw.parent));
        Ok(Self {
            parent,
            level,
            scope,
            cleanup: raw.cleanup,
            destroy: raw.destroy,
            context,
        })
    }

    /// The same attributes with what an object without a parent has.
    pub(crate) fn with_defaults(mut self, level: Level, scope: Scope) -> Self {
        self.level = self.level.or(Some(level));
        self.scope = self.scope.or(Some(scope));
        self
    }

    /// The same attributes, with the driver as the parent where none is given.
    pub(crate) fn or_below_driver(mut self, state: &State, client: usize) -> Self {
        let driver = || state.clients.get(&client).and_then(|client| client.driver);
        self.parent = self.parent.or_else(driver);
        self
    }

    /// The same attributes, with `parent` as the parent where none is given.
    pub(crate) fn or_below(mut self, parent: Option<Id>) -> Self {
        self.parent = self.parent.or(parent);
        self
    }

    /// The same attributes at an execution level.
    pub(crate) const fn at_level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// The same attributes for an object whose parent the framework chooses.
    pub(crate) const fn with_parent(mut self, parent: Id) -> Self {
        self.parent = Some(parent);
        self
    }
}

/// What identifies a context type, and how large its contexts are.
fn read_context_type(info: &ContextType) -> Result<(usize, usize), NtStatus> {
    if info.size != 40 && info.size != 32 {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    if info.context_size > 0 && info.name.is_null() {
        return Err(status::OBJECT_ATTRIBUTES_INVALID);
    }
    Ok((unique_type(info), info.context_size))
}

/// What identifies a context type.
pub(crate) fn unique_type(info: &ContextType) -> usize {
    let get_unique_type = info.get_unique_type.filter(|_| info.size >= 40);
    get_unique_type.map_or(info.unique_type, |get_unique_type| get_unique_type())
}
