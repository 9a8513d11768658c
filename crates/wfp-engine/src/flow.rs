//! Data flows and the contexts that callouts associate with them.

use crate::callout::Registered;
use crate::engine::Engine;
use crate::host::Host;
use crate::id::{CalloutId, FlowId};
use crate::sync::lock;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use wfp_schema::{LayerId, NtStatus};

/// A data flow, such as a TCP connection.
///
/// Whoever drives the engine keeps the [`Arc`] for its connection and shows it
/// to each classify; callouts know the flow by its identifier.
pub struct Flow<H: Host> {
    id: FlowId,
    /// Length of `contexts`, to be read without the lock.
    count: AtomicUsize,
    contexts: Mutex<Contexts<H>>,
}

struct Contexts<H: Host> {
    ended: bool,
    entries: Vec<Context<H>>,
    next_serial: u64,
}

/// A context of one callout at one layer.
struct Context<H: Host> {
    layer: LayerId,
    callout: Arc<Registered<H>>,
    value: u64,
    /// Tells it from another that had the same value.
    serial: u64,
    /// Classify calls that were given the context and have not returned.
    running: usize,
    /// Taken away while such a call ran: it goes when the last one returns.
    removed: bool,
}

impl<H: Host> Context<H> {
    fn is(&self, layer: LayerId, callout: CalloutId) -> bool {
        self.layer == layer && self.callout.id() == callout
    }
}

impl<H: Host> Flow<H> {
    /// Its identifier.
    #[must_use]
    pub const fn id(&self) -> FlowId {
        self.id
    }

    /// The context that a callout has at a layer.
    pub fn context(&self, layer: LayerId, callout: CalloutId) -> Option<u64> {
        lock(&self.contexts)
            .entries
            .iter()
            .find(|context| context.is(layer, callout) && !context.removed)
            .map(|context| context.value)
    }

    /// How many contexts the flow carries, those on their way out included.
    pub fn context_count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }
}

impl<H: Host> fmt::Debug for Flow<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("id", &self.id)
            .field("contexts", &self.context_count())
            .finish_non_exhaustive()
    }
}

/// The flows by identifier.
pub(crate) type FlowTable<H> = RwLock<HashMap<FlowId, Arc<Flow<H>>>>;

/// A classify call that was given a context.
pub(crate) struct ContextUse<'a, H: Host> {
    engine: &'a Engine<H>,
    flow: &'a Flow<H>,
    serial: u64,
    pub(crate) value: u64,
}

impl<'a, H: Host> ContextUse<'a, H> {
    /// Takes the context for a call, if there is one.
    pub(crate) fn begin(
        engine: &'a Engine<H>,
        flow: &'a Flow<H>,
        layer: LayerId,
        callout: CalloutId,
    ) -> Option<Self> {
        if flow.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut contexts = lock(&flow.contexts);
        let context = contexts
            .entries
            .iter_mut()
            .find(|context| context.is(layer, callout) && !context.removed)?;
        context.running += 1;
        Some(Self {
            engine,
            flow,
            serial: context.serial,
            value: context.value,
        })
    }
}

impl<H: Host> Drop for ContextUse<'_, H> {
    fn drop(&mut self) {
        let gone = {
            let mut contexts = lock(&self.flow.contexts);
            let Some(at) = contexts
                .entries
                .iter()
                .position(|context| context.serial == self.serial)
            else {
                return;
            };
            let context = &mut contexts.entries[at];
            context.running -= 1;
            if context.running > 0 || !context.removed {
                return;
            }
            take(self.flow, &mut contexts, at)
        };
        self.engine.delete_context(gone);
    }
}

/// Takes a context out of its flow.
fn take<H: Host>(flow: &Flow<H>, contexts: &mut Contexts<H>, at: usize) -> Context<H> {
    let context = contexts.entries.remove(at);
    flow.count.store(contexts.entries.len(), Ordering::Release);
    context
}

impl<H: Host> Engine<H> {
    /// Makes a flow, with an identifier that no flow had before.
    pub fn create_flow(&self) -> Arc<Flow<H>> {
        let id = FlowId::new(self.next_flow.fetch_add(1, Ordering::Relaxed));
        let flow = Arc::new(Flow {
            id,
            count: AtomicUsize::new(0),
            contexts: Mutex::new(Contexts {
                ended: false,
                entries: Vec::new(),
                next_serial: 0,
            }),
        });
        self.flows
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::clone(&flow));
        flow
    }

    /// The flow with this identifier, until it ends.
    pub fn flow(&self, id: FlowId) -> Option<Arc<Flow<H>>> {
        self.flows
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// How many flows have not ended.
    pub fn flow_count(&self) -> usize {
        self.flows
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Ends a flow: each of its contexts is deleted once, those in use when the
    /// last classify call with them returns. False if it had ended before.
    ///
    /// Also what `FwpsFlowAbort0` does to the contexts; closing the connection
    /// is its network stack's part.
    pub fn end_flow(&self, flow: &Flow<H>) -> bool {
        self.flows
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&flow.id);
        let gone = {
            let mut contexts = lock(&flow.contexts);
            if std::mem::replace(&mut contexts.ended, true) {
                return false;
            }
            let (idle, mut used): (Vec<_>, Vec<_>) = std::mem::take(&mut contexts.entries)
                .into_iter()
                .partition(|context| context.running == 0);
            for context in &mut used {
                context.removed = true;
            }
            flow.count.store(used.len(), Ordering::Release);
            contexts.entries = used;
            drop(contexts);
            idle
        };
        for context in gone {
            self.delete_context(context);
        }
        true
    }

    /// Associates a context with a flow for a callout (`FwpsFlowAssociateContext0`).
    /// The layer is the callout's, which need not be the one that is classifying.
    ///
    /// Returns `SUCCESS`; `INVALID_PARAMETER` if the context is zero, or the
    /// callout has no flow delete function, accepts no more contexts or does not
    /// exist at the layer; `OBJECT_NAME_EXISTS` (not an error!) if it has a
    /// context there already, which stays; [`Options::unknown_flow`](crate::Options::unknown_flow).
    pub fn associate_context(
        &self,
        flow: FlowId,
        layer: LayerId,
        callout: CalloutId,
        context: u64,
    ) -> NtStatus {
        let at_layer = self.table.load().callout_layer(callout) == Some(layer)
            && layer
                .layer()
                .is_some_and(wfp_schema::Layer::is_flow_capable);
        let Some(registered) = self.registration(callout) else {
            return NtStatus::INVALID_PARAMETER;
        };
        if context == 0 || !at_layer || !registered.registration().has_flow_delete {
            return NtStatus::INVALID_PARAMETER;
        }
        let Some(flow) = self.flow(flow) else {
            return self.options.unknown_flow;
        };
        let mut contexts = lock(&flow.contexts);
        if contexts.ended {
            return self.options.unknown_flow;
        }
        if contexts
            .entries
            .iter()
            .any(|entry| entry.is(layer, callout) && !entry.removed)
        {
            return NtStatus::OBJECT_NAME_EXISTS;
        }
        if !registered.add_context() {
            return NtStatus::INVALID_PARAMETER;
        }
        let serial = contexts.next_serial;
        contexts.next_serial += 1;
        contexts.entries.push(Context {
            layer,
            callout: registered,
            value: context,
            serial,
            running: 0,
            removed: false,
        });
        flow.count.store(contexts.entries.len(), Ordering::Release);
        NtStatus::SUCCESS
    }

    /// Removes a callout's context from a flow (`FwpsFlowRemoveContext0`).
    ///
    /// Returns `SUCCESS` if the flow delete function has run; `PENDING` if a
    /// classify call has the context, and the function runs when it returns;
    /// `UNSUCCESSFUL` if there is no context; [`Options::unknown_flow`](crate::Options::unknown_flow).
    pub fn remove_context(&self, flow: FlowId, layer: LayerId, callout: CalloutId) -> NtStatus {
        let Some(flow) = self.flow(flow) else {
            return self.options.unknown_flow;
        };
        let gone = {
            let mut contexts = lock(&flow.contexts);
            let Some(at) = contexts
                .entries
                .iter()
                .position(|context| context.is(layer, callout) && !context.removed)
            else {
                return NtStatus::UNSUCCESSFUL;
            };
            let context = &mut contexts.entries[at];
            if context.running > 0 {
                context.removed = true;
                return NtStatus::PENDING;
            }
            take(&flow, &mut contexts, at)
        };
        self.delete_context(gone);
        NtStatus::SUCCESS
    }

    /// Tells the callout about a context that is out of its flow.
    fn delete_context(&self, context: Context<H>) {
        let Context {
            layer,
            callout,
            value,
            ..
        } = context;
        // While it counts, the callout can't be unregistered; from here on the call does.
        let running = callout.enter();
        callout.drop_context();
        if running.is_some() {
            self.host.flow_delete(&callout.view(), layer, value);
        }
    }
}
