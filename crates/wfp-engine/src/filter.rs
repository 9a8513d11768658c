//! Filters in the kernel.

use crate::callout::Slot;
use crate::condition::{self, RuntimeCondition};
use crate::host::Host;
use crate::id::{CalloutId, FilterId};
use crate::lifetime::Lifetime;
use crate::object::Filter;
use crate::objects::ProviderContextObject;
use crate::rundown::Rundown;
use crate::value::Value;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wfp_schema::flags::RuntimeFilterFlags;
use wfp_schema::{Action, FilterFlags, Guid, LayerId};

/// What is known about a filter when it has been accepted. Never changes.
#[derive(Clone, Debug)]
pub struct FilterRecord {
    pub(crate) id: FilterId,
    pub(crate) filter: Filter,
    pub(crate) layer: LayerId,
    pub(crate) sublayer_weight: u16,
    pub(crate) effective_weight: u64,
    pub(crate) conditions: Vec<RuntimeCondition>,
    pub(crate) callout: Option<CalloutId>,
    pub(crate) provider_context: Option<Arc<ProviderContextObject>>,
    pub(crate) shows_provider_context: bool,
    pub(crate) lifetime: Lifetime,
}

impl FilterRecord {
    /// Its run-time identifier.
    #[must_use]
    pub const fn id(&self) -> FilterId {
        self.id
    }

    /// The description it was added with: the key and the sublayer are filled
    /// in, `DISABLED` is set if it was not loaded.
    #[must_use]
    pub const fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> Guid {
        self.filter.key
    }

    /// Its layer.
    #[must_use]
    pub const fn layer(&self) -> LayerId {
        self.layer
    }

    /// Weight of its sublayer.
    #[must_use]
    pub const fn sublayer_weight(&self) -> u16 {
        self.sublayer_weight
    }

    /// The weight that decides its place in its sublayer.
    #[must_use]
    pub const fn effective_weight(&self) -> u64 {
        self.effective_weight
    }

    /// Its conditions: those side by side on one field are alternatives.
    #[must_use]
    pub fn conditions(&self) -> &[RuntimeCondition] {
        &self.conditions
    }

    /// What it does.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.filter.action
    }

    /// The callout that its action asks.
    #[must_use]
    pub const fn callout(&self) -> Option<CalloutId> {
        self.callout
    }

    /// The provider context that it names.
    #[must_use]
    pub fn provider_context(&self) -> Option<&ProviderContextObject> {
        self.provider_context.as_deref()
    }

    /// The provider context that its callout sees (`FWPS_FILTER0.providerContext`):
    /// only callouts added with `USES_PROVIDER_CONTEXT` do.
    #[must_use]
    pub fn visible_provider_context(&self) -> Option<&ProviderContextObject> {
        self.provider_context()
            .filter(|_| self.shows_provider_context)
    }

    /// `FWPS_FILTER0.context` before any callout rewrites it: the raw context, or
    /// the identifier of the provider context.
    #[must_use]
    pub fn initial_context(&self) -> u64 {
        self.provider_context()
            .map_or(self.filter.context, |object| object.id.get())
    }

    /// The flags that callouts see.
    #[must_use]
    pub fn runtime_flags(&self) -> RuntimeFilterFlags {
        let asked = self.filter.flags;
        let mut flags = RuntimeFilterFlags::NONE;
        for (from, to) in [
            (
                FilterFlags::CLEAR_ACTION_RIGHT,
                RuntimeFilterFlags::CLEAR_ACTION_RIGHT,
            ),
            (
                FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED,
                RuntimeFilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED,
            ),
            (
                FilterFlags::HAS_SECURITY_REALM_PROVIDER_CONTEXT,
                RuntimeFilterFlags::HAS_SECURITY_REALM_PROVIDER_CONTEXT,
            ),
            (FilterFlags::SILENT_MODE, RuntimeFilterFlags::SILENT_MODE),
            (
                FilterFlags::IPSEC_NO_ACQUIRE_INITIATE,
                RuntimeFilterFlags::IPSEC_NO_ACQUIRE_INITIATE,
            ),
        ] {
            if asked.contains(from) {
                flags |= to;
            }
        }
        if self
            .conditions
            .windows(2)
            .any(|pair| pair[0].field == pair[1].field)
        {
            flags |= RuntimeFilterFlags::OR_CONDITIONS;
        }
        flags
    }
}

/// A filter with what the host keeps for it.
pub struct FilterEntry<H: Host> {
    pub(crate) record: FilterRecord,
    pub(crate) slot: Option<Arc<Slot<H>>>,
    pub(crate) running: Rundown,
    in_force: bool,
    context: AtomicU64,
    host: H::Filter,
}

impl<H: Host> FilterEntry<H> {
    /// A filter; one that is not `in_force` exists, but does not classify.
    pub(crate) fn new(
        host: &H,
        record: FilterRecord,
        slot: Option<Arc<Slot<H>>>,
        in_force: bool,
    ) -> Self {
        Self {
            in_force,
            context: AtomicU64::new(record.initial_context()),
            host: host.make_filter(&record),
            record,
            slot,
            running: Rundown::default(),
        }
    }

    /// What is known about it.
    pub const fn record(&self) -> &FilterRecord {
        &self.record
    }

    /// Its run-time identifier.
    pub const fn id(&self) -> FilterId {
        self.record.id
    }

    /// `FWPS_FILTER0.context`: as given when it was added, or as its callout rewrote it.
    pub fn context(&self) -> u64 {
        self.context.load(Ordering::Relaxed)
    }

    /// What the host keeps for it.
    pub const fn host(&self) -> &H::Filter {
        &self.host
    }

    pub(crate) fn set_context(&self, context: u64) {
        self.context.store(context, Ordering::Relaxed);
    }

    pub(crate) fn matches(&self, values: &[Value<'_>]) -> bool {
        condition::matches(&self.record.conditions, values)
    }

    /// Whether it takes part in classifying: filters of a disabled provider
    /// don't, nor boot-time filters after, or persistent ones before the start
    /// of the base filtering engine.
    pub const fn is_in_force(&self) -> bool {
        self.in_force
    }
}

impl<H: Host> fmt::Debug for FilterEntry<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterEntry")
            .field("record", &self.record)
            .field("context", &self.context())
            .finish_non_exhaustive()
    }
}
