//! What the engine needs from whoever runs callouts.

use crate::callout::CalloutView;
use crate::filter::{FilterEntry, FilterRecord};
use crate::id::{CalloutId, FilterId};
use std::time::Duration;
use wfp_schema::{LayerId, NotifyType, NtStatus};

/// The world around an [`Engine`](crate::Engine): it keeps what the engine only
/// carries, and calls the callouts' functions.
///
/// The engine holds no lock while it calls a method of a host, apart from the
/// logical one of an open transaction, so a method may call back into the
/// engine; only [`Host::now`] may not.
pub trait Host: Send + Sync + Sized + 'static {
    /// What the host keeps for a registered callout, such as its entry points.
    type Callout: Send + Sync;

    /// What the host keeps for a filter in the kernel, such as the structure it shows to callouts.
    type Filter: Send + Sync;

    /// Makes what the host keeps for a filter that is about to be added.
    /// Dropped when nothing can classify with the filter any more.
    fn make_filter(&self, filter: &FilterRecord) -> Self::Filter;

    /// Calls the notify function of `callout` about `filter`.
    ///
    /// `context` is the filter's context, which the callout may change when a
    /// filter is added. The answer counts for [`NotifyType::AddFilter`] only: an
    /// error refuses the filter.
    fn notify(
        &self,
        callout: &CalloutView<'_, Self>,
        notify_type: NotifyType,
        filter: &FilterEntry<Self>,
        context: &mut u64,
    ) -> NtStatus;

    /// Calls the flow delete function of `callout` with the context of a flow that has lost it.
    fn flow_delete(&self, callout: &CalloutView<'_, Self>, layer: LayerId, context: u64);

    /// The time since an arbitrary start. It never goes back.
    fn now(&self) -> Duration;

    /// The calling thread can't go on before `wait` is over; called again and
    /// again until it is.
    ///
    /// The host lets other threads run, or moves its clock to the deadline, or
    /// both. It may also never return.
    fn wait(&self, wait: Wait);

    /// Whether a service starts with the system: persistent objects of a
    /// provider whose service does not are disabled when the engine starts.
    fn service_starts_automatically(&self, _service: &str) -> bool {
        true
    }
}

/// Why a thread waits inside the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For another transaction to end, at most until this time (of [`Host::now`]).
    Transaction {
        /// `None`: however long it takes.
        until: Option<Duration>,
    },
    /// For functions of a callout to return, so that it can be unregistered.
    Callout(CalloutId),
    /// For classify calls with a deleted filter to return, before its deletion is notified.
    Filter(FilterId),
    /// For a callback about the engine's state to return, so that it can be unsubscribed.
    Subscriber,
}
