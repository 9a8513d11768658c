//! The event ring, and the readers who wait for it.
//!
//! A reader who finds the ring empty waits in a queue of the framework's, which sees to its
//! cancellation. Whoever writes an event while somebody waits asks for a run of a work item,
//! which hands as many events to each reader as fit.

use core::sync::atomic::{AtomicBool, Ordering};

use kmdf::Request;
use portcullis_core::{EventRing, EventSink};
use portcullis_proto::{Counter, EventRecord, event::EventsReply};
use wfp::{NtStatus, Result, pool::PoolVec, sync::RawSpinLock};
use zerocopy::IntoBytes;

use crate::{
    device,
    state::{self, Core, tag},
};

/// Events that can wait to be read.
const EVENTS: usize = 4096;

/// The ring.
pub(crate) struct Events {
    ring: EventRing<RawSpinLock, PoolVec<EventRecord>>,
    /// Whether a reader may wait. The rule: a reader is in the queue only if this is set, or the
    /// work item is about to run, or the reader itself is about to set it.
    waiting: AtomicBool,
}

impl Events {
    pub(crate) fn try_new() -> Result<Self> {
        let records = PoolVec::try_from_fn(tag::EVENTS, EVENTS, |_| EventRecord::default())?;
        Ok(Self {
            ring: EventRing::new(records),
            waiting: AtomicBool::new(false),
        })
    }

    /// How many events wait.
    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    /// How many events can wait.
    pub(crate) fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Asks for a run of the work item if somebody may wait.
    fn wake(&self) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            device::enqueue_event_work();
        }
    }
}

impl EventSink for Events {
    fn write(&self, event: &EventRecord) -> bool {
        let kept = self.ring.write(event);
        self.wake();
        kept
    }
}

/// Answers a reader: now if there is something to read or it does not want to wait, else later.
pub(crate) fn read(core: &Core, mut request: Request, no_wait: bool) {
    if request.output().len() < EventsReply::size_with(1) {
        core.statistics().count(Counter::OutputTooSmall);
        return request.complete(Err(NtStatus::BUFFER_TOO_SMALL));
    }
    if no_wait || !core.events().ring.is_empty() {
        hand_out(core, request, no_wait);
    } else {
        park(core, request);
    }
}

/// The work item: hands events to those who wait.
pub(crate) fn serve_readers() {
    let (Some(core), Some(queue)) = (state::core(), device::read_queue()) else {
        return;
    };
    let events = core.events();
    // Each round takes a request out of the queue, and there are events for it; so the loop ends
    // with one or the other.
    loop {
        if events.ring.is_empty() {
            events.waiting.store(true, Ordering::SeqCst);
            // An event that came in between found nobody waiting.
            if !events.ring.is_empty() {
                events.wake();
            }
            return;
        }
        let Some(request) = queue.next() else {
            return;
        };
        hand_out(core, request, false);
    }
}

/// Lets a reader wait for events.
fn park(core: &Core, request: Request) {
    let Some(queue) = device::read_queue() else {
        return request.complete(Err(NtStatus::DEVICE_NOT_READY));
    };
    match request.forward(queue) {
        Ok(()) => {
            // In this order: an event written before is found now, a later one finds the reader.
            core.events().waiting.store(true, Ordering::SeqCst);
            if !core.events().ring.is_empty() {
                core.events().wake();
            }
        }
        Err((request, status)) => request.complete(Err(status)),
    }
}

/// Completes a request with the events that wait, as many as fit. Another reader may have been
/// faster: without any, the request waits (again), unless it does not want to.
fn hand_out(core: &Core, mut request: Request, no_wait: bool) {
    let events = core.events();
    let output = request.output();
    let Some((fixed, records)) = output.split_at_mut_checked(size_of::<EventsReply>()) else {
        return request.complete(Err(NtStatus::BUFFER_TOO_SMALL));
    };
    let count = events.ring.read_into(records);
    if count == 0 && !no_wait {
        return park(core, request);
    }
    core.statistics().add(Counter::EventsRead, count as u64);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    // The news of dropped events waits too, though it has no place in the ring.
    let remaining = events.len().max(usize::from(!events.ring.is_empty()));
    let reply = EventsReply::new(number(count), number(remaining));
    // `fixed` has the reply's size.
    let _ = reply.write_to(fixed);
    request.complete(Ok(EventsReply::size_with(count)));
}
