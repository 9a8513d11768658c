//! Management objects: adding, deleting, looking up, enumerating.
//!
//! The types of objects differ in their structures only: what they have in common is [`Managed`] and the functions of
//! `query`. A file each holds the functions of providers, provider contexts, sublayers, callouts, filters and layers; `security` those of their security descriptors; `select` decides
//! which filters an enumeration's template means.

pub(super) mod callout;
pub(super) mod filter;
pub(super) mod layer;
pub(super) mod provider;
pub(super) mod provider_context;
pub(super) mod query;
pub(super) mod security;
mod select;
pub(super) mod sublayer;

use wfp_engine::{Engine, Objects, Secured, SessionId};
use wfp_schema::{Guid, NtStatus};

use super::give::Arena;
use super::host::KernelHost;
use super::session::{session, status};
use crate::access::{In, Plain};
use crate::export::Call;

pub(super) use query::State;
pub(crate) use query::check_filters_left;

const NO_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();

/// A type of objects, by its structure.
trait Managed: Plain {
    /// Whose enumeration a handle is.
    const KIND: Kind;
    /// What an enumeration may be limited by.
    type Template: Plain;

    /// The keys of the objects that `template` means, all without one, in the order in which they are enumerated.
    fn select(
        objects: &Objects<KernelHost>,
        template: Option<Self::Template>,
    ) -> Result<Vec<Guid>, NtStatus>;

    /// The object with this key in its structure; what that points at goes into `memory`.
    ///
    /// # Errors
    /// The type's `NOT_FOUND`.
    fn show(objects: &Objects<KernelHost>, key: Guid, memory: &mut Arena)
    -> Result<Self, NtStatus>;
}

/// Types of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Provider,
    ProviderContext,
    SubLayer,
    Callout,
    Filter,
    Layer,
}

/// An object with the security descriptor that a driver gives it, if it does.
fn secured<T>(object: T, security: In<u8>) -> Result<Secured<T>, NtStatus> {
    let security = super::security::given(security)?;
    Ok(match security {
        Some(security) => Secured::new(object, security),
        None => object.into(),
    })
}

/// Changes something in a session; what that gave goes to `then`.
fn change<I>(
    call: &Call<'_>,
    engine: usize,
    change: impl FnOnce(&Engine<KernelHost>, SessionId) -> Result<I, NtStatus>,
    then: impl FnOnce(I),
) -> i32 {
    let changed =
        session(call, engine).and_then(|session| change(&call.machine().fwp.engine, session));
    status(changed.map(then))
}
