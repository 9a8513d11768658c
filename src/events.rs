//! The event ring, and the readers who wait for it.

use kmdf::Request;
use portcullis_core::{EventRing, EventSink};
use portcullis_proto::{Counter, EventRecord, event::EventsReply};
use wfp::{NtStatus, Result, pool::PoolVec, sync::RawSpinLock};
use zerocopy::IntoBytes;

use crate::{
    capture, device,
    readers::{self, Inbox, Readers},
    state::{self, Core, tag},
};

/// Events that can wait to be read.
const EVENTS: usize = 4096;

/// The ring.
pub(crate) struct Events {
    ring: EventRing<RawSpinLock, PoolVec<EventRecord>>,
    readers: Readers,
}

impl Events {
    pub(crate) fn try_new() -> Result<Self> {
        let records = PoolVec::try_zeroed(tag::EVENTS, EVENTS)?;
        Ok(Self {
            ring: EventRing::new(records),
            readers: Readers::new(device::read_queue, device::enqueue_event_work),
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
}

impl EventSink for Events {
    fn write(&self, event: &EventRecord) -> bool {
        let kept = self.ring.write(event);
        self.readers.wake();
        kept
    }

    fn is_watched(&self) -> bool {
        capture::is_running()
    }

    fn watch(&self, event: &EventRecord) {
        capture::event(event);
    }
}

impl Inbox for Events {
    fn readers(&self) -> &Readers {
        &self.readers
    }

    fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    fn fill(&self, output: &mut [u8], even_nothing: bool) -> Result<Option<usize>> {
        let (fixed, records) = output
            .split_at_mut_checked(size_of::<EventsReply>())
            .ok_or(NtStatus::BUFFER_TOO_SMALL)?;
        let count = self.ring.read_into(records);
        if count == 0 && !even_nothing {
            return Ok(None);
        }
        if let Some(core) = state::core() {
            core.statistics().add(Counter::EventsRead, count as u64);
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        // The news of dropped events waits too, though it has no place in the ring.
        let remaining = self.len().max(usize::from(!self.ring.is_empty()));
        let reply = EventsReply::new(number(count), number(remaining));
        // `fixed` has the reply's size.
        let _ = reply.write_to(fixed);
        Ok(Some(EventsReply::size_with(count)))
    }
}

/// Answers a reader: now if there is something to read or it does not want to wait, else later.
pub(crate) fn read(core: &Core, mut request: Request, no_wait: bool) {
    if request.output().len() < EventsReply::size_with(1) {
        core.statistics().count(Counter::OutputTooSmall);
        return request.complete(Err(NtStatus::BUFFER_TOO_SMALL));
    }
    readers::read(core.events(), request, no_wait);
}

/// The work item: hands events to those who wait.
pub(crate) fn serve_readers() {
    if let Some(core) = state::core() {
        readers::serve(core.events());
    }
}
