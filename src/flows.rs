//! The memory of followed flows: a part of it from the start, more as it fills.

use core::sync::atomic::{AtomicBool, Ordering};

use portcullis_core::{EndpointBucket, FlowSlot, FlowStorage};
use portcullis_proto::Counter;
use wfp::{Result, cell::KernelCell, irql::Passive, pool::PoolVec, sync::RawSpinLock};

use crate::{
    device,
    state::{self, Core, tag},
};

/// Flows that can be followed at a time before there are more of them.
const FIRST: u32 = 2048;
/// Parts of the memory. The second is as large as the first, each further one as large as all before it.
const PARTS: usize = 4;
/// Flows that can be followed at a time at most.
pub(crate) const MOST: u32 = FIRST << (PARTS - 1);
/// Places for the statistics of endpoints, each for a few.
const ENDPOINTS: usize = 8192;

/// The flows and their endpoints.
pub(crate) struct Flows {
    parts: [KernelCell<PoolVec<FlowSlot<RawSpinLock>>>; PARTS],
    endpoints: PoolVec<EndpointBucket<RawSpinLock>>,
    /// Somebody adds a part.
    is_growing: AtomicBool,
}

impl Flows {
    /// With the first part.
    pub(crate) fn try_new(passive: Passive) -> Result<Self> {
        let flows = Self {
            parts: [const { KernelCell::new(tag::FLOWS) }; PARTS],
            endpoints: PoolVec::try_from_fn(tag::FLOWS, ENDPOINTS, |_| EndpointBucket::new())?,
            is_growing: AtomicBool::new(false),
        };
        flows.add(passive)?;
        Ok(flows)
    }

    /// Adds a part, if there is one to add. One caller at a time.
    fn add(&self, passive: Passive) -> Result {
        let mut parts = self.parts.iter().enumerate();
        if let Some((index, part)) = parts.find(|(_, part)| part.get().is_none()) {
            let slots =
                PoolVec::try_from_fn(tag::FLOWS, length(index), |_| const { FlowSlot::new() })?;
            part.try_set(slots, passive)?;
        }
        Ok(())
    }
}

impl FlowStorage<RawSpinLock> for Flows {
    fn count(&self) -> usize {
        let parts = self.parts.iter().map_while(KernelCell::get);
        parts.map(|part| part.len()).sum()
    }

    fn slot(&self, index: u32) -> Option<&FlowSlot<RawSpinLock>> {
        let (part, place) = place(index as usize);
        self.parts.get(part)?.get()?.get(place)
    }

    fn endpoints(&self) -> &[EndpointBucket<RawSpinLock>] {
        &self.endpoints
    }
}

/// How many flows this part is for.
const fn length(part: usize) -> usize {
    (FIRST as usize) << part.saturating_sub(1)
}

/// In which part a slot is, and where in it.
const fn place(index: usize) -> (usize, usize) {
    match index / FIRST as usize {
        0 => (0, index),
        before => {
            let part = before.ilog2() as usize + 1;
            (part, index - length(part))
        }
    }
}

/// A flow has begun. Has memory added for more in time.
pub(crate) fn began(core: &Core) {
    let flows = core.flows();
    if flows.is_filling() && flows.capacity() < MOST {
        device::enqueue_flow_work();
    }
}

/// The work item: adds a part. Without memory the table stays as it is, and the next flow asks again.
pub(crate) fn grow(passive: Passive) {
    let Some(core) = state::core() else {
        return;
    };
    let flows = core.flows();
    let storage = flows.storage();
    // A work item may run on two threads at once.
    if storage.is_growing.swap(true, Ordering::Acquire) {
        return;
    }
    if flows.is_filling() && !state::is_stopping() {
        match storage.add(passive) {
            Ok(()) => flows.grow(),
            Err(_) => state::count(Counter::OutOfMemory),
        }
    }
    storage.is_growing.store(false, Ordering::Release);
}
