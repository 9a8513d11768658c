//! The classify in progress on a thread, as the functions that a callout calls see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use wfp_schema::{CalloutFlags, LayerId, StreamFlags};

use super::operation::Operation;
use crate::net::ClassifyOptions;

/// The classify in progress on one thread: one that waits leaves its processor to another.
#[derive(Debug, Default)]
pub(crate) struct Current {
    /// `classifyContext`; 0 outside of a classify.
    pub(super) context: AtomicUsize,
    layer: AtomicU16,
    /// By which the stack knows a pend; 0 where nothing can be pended.
    pend_handle: AtomicU64,
    pub(super) reauthorizing: AtomicBool,
    pub(super) pended: AtomicBool,
    pub(super) pended_classify: AtomicBool,
    modify: AtomicBool,
    /// `FWP_CALLOUT_FLAG_*` of the callout that runs.
    callout_flags: AtomicU32,
    /// The flow of a stream whose data is classified, its direction, and whether the callout keeps it.
    stream: AtomicU64,
    outbound: AtomicBool,
    kept: AtomicBool,
    allocations: AtomicU32,
    has_operation: AtomicBool,
    operation: Mutex<Option<Arc<Operation>>>,
    has_options: AtomicBool,
    options: Mutex<ClassifyOptions>,
}

/// What begins.
pub(super) struct Begun {
    pub(super) context: usize,
    pub(super) layer: LayerId,
    pub(super) pend_handle: u64,
    pub(super) reauthorizing: bool,
    /// Known from the beginning where its layer data is for changing.
    pub(super) operation: Option<Arc<Operation>>,
}

impl Current {
    /// A classify begins.
    pub(super) fn begin(&self, begun: Begun) {
        self.context.store(begun.context, Ordering::Relaxed);
        self.layer.store(begun.layer.get(), Ordering::Relaxed);
        self.pend_handle.store(begun.pend_handle, Ordering::Relaxed);
        self.reauthorizing
            .store(begun.reauthorizing, Ordering::Relaxed);
        self.pended.store(false, Ordering::Relaxed);
        self.pended_classify.store(false, Ordering::Relaxed);
        self.modify.store(false, Ordering::Relaxed);
        if begun.operation.is_some() {
            *self.operation.lock() = begun.operation;
            self.has_operation.store(true, Ordering::Relaxed);
        }
    }

    /// It ends; what a handle stands for, if any was asked for.
    pub(super) fn end(&self) -> Option<Arc<Operation>> {
        self.context.store(0, Ordering::Relaxed);
        self.pend_handle.store(0, Ordering::Relaxed);
        let asked = self.has_operation.load(Ordering::Relaxed)
            && self.has_operation.swap(false, Ordering::Relaxed);
        asked.then(|| self.operation.lock().take()).flatten()
    }

    /// A callout with these flags begins, or with none has returned.
    pub(super) fn set_callout(&self, flags: CalloutFlags) {
        self.callout_flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// The flags of the callout that runs.
    pub(super) fn callout_flags(&self) -> CalloutFlags {
        CalloutFlags::from_bits(self.callout_flags.load(Ordering::Relaxed))
    }

    /// Whether a classify is in progress.
    pub(crate) fn is_classifying(&self) -> bool {
        self.context.load(Ordering::Relaxed) != 0
    }

    /// Its layer.
    pub(super) fn layer(&self) -> LayerId {
        LayerId::new(self.layer.load(Ordering::Relaxed))
    }

    /// By which the stack knows a pend of it; 0 where nothing can be pended.
    pub(super) fn pend_handle(&self) -> u64 {
        self.pend_handle.load(Ordering::Relaxed)
    }

    /// What a classify handle stands for.
    pub(super) fn operation(&self) -> Arc<Operation> {
        self.has_operation.store(true, Ordering::Relaxed);
        let make = || Operation::new(self.layer(), self.pend_handle(), None);
        Arc::clone(self.operation.lock().get_or_insert_with(make))
    }

    /// A list was referenced in order to be modified.
    pub(super) fn note_modify(&self) {
        self.modify.store(true, Ordering::Relaxed);
    }

    /// Whether that happened since the last time of asking.
    pub(super) fn take_modify(&self) -> bool {
        self.modify.load(Ordering::Relaxed) && self.modify.swap(false, Ordering::Relaxed)
    }

    /// The driver allocates pool.
    pub(crate) fn note_allocation(&self) {
        self.allocations.fetch_add(1, Ordering::Relaxed);
    }

    /// A piece of a stream is classified.
    pub(super) fn begin_stream(&self, flow: u64, flags: StreamFlags) {
        self.stream.store(flow, Ordering::Relaxed);
        self.outbound
            .store(flags.contains(StreamFlags::SEND), Ordering::Relaxed);
        self.kept.store(false, Ordering::Relaxed);
    }

    /// Data is injected into a stream: if it is the one that is classified, the same way, it comes in place of what is.
    pub(super) fn note_kept(&self, flow: u64, flags: StreamFlags) {
        let here = self.stream.load(Ordering::Relaxed) == flow
            && self.outbound.load(Ordering::Relaxed) == flags.contains(StreamFlags::SEND);
        if here && self.is_classifying() {
            self.kept.store(true, Ordering::Relaxed);
        }
    }

    /// What is classified is cloned, in order to be injected.
    pub(super) fn note_cloned(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// The classify of a piece of a stream has returned: whether the callout keeps it.
    pub(super) fn end_stream(&self) -> bool {
        self.stream.store(0, Ordering::Relaxed);
        self.kept.swap(false, Ordering::Relaxed)
    }

    /// How many allocations there were since the last time of asking.
    pub(super) fn take_allocations(&self) -> u32 {
        self.allocations.swap(0, Ordering::Relaxed)
    }

    /// Whether the operation was pended, and whether the classify was.
    pub(super) fn pends(&self) -> (bool, bool) {
        (
            self.is_pended(),
            self.pended_classify.load(Ordering::Relaxed),
        )
    }

    /// Whether the operation was pended.
    pub(super) fn is_pended(&self) -> bool {
        self.pended.load(Ordering::Relaxed)
    }

    /// A callout sets options of the flow that is authorized.
    pub(super) fn set_options(&self, set: impl FnOnce(&mut ClassifyOptions)) {
        set(&mut self.options.lock());
        self.has_options.store(true, Ordering::Relaxed);
    }

    /// What callouts have set since the last time of asking.
    pub(super) fn take_options(&self) -> ClassifyOptions {
        if !self.has_options.swap(false, Ordering::Relaxed) {
            return ClassifyOptions::default();
        }
        std::mem::take(&mut *self.options.lock())
    }
}
