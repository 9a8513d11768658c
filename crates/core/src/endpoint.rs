//! What the flows of an endpoint have carried, until the endpoint closes.
//!
//! An endpoint's closure is indicated before or after the end of its last flow. Its statistics are final with the later
//! of the two.

use crate::flow::Traffic;
use lock_api::{Mutex, RawMutex};
use portcullis_proto::policy::Direction;

/// Endpoints that share a bucket.
const WAYS: usize = 4;

/// What is known of an endpoint's flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointTotals {
    /// Who began the first of its flows; `None` if it had none.
    pub direction: Option<Direction>,
    /// Its flows.
    pub flows: u32,
    /// What was sent.
    pub sent: Traffic,
    /// What was received.
    pub received: Traffic,
}

#[derive(Clone, Copy)]
struct Entry {
    /// The system's handle of the endpoint; 0: the entry is free.
    endpoint: u64,
    /// Flows that have not ended.
    live: u32,
    is_closed: bool,
    totals: EndpointTotals,
}

const FREE: Entry = Entry {
    endpoint: 0,
    live: 0,
    is_closed: false,
    totals: EndpointTotals {
        direction: None,
        flows: 0,
        sent: Traffic {
            packets: 0,
            bytes: 0,
        },
        received: Traffic {
            packets: 0,
            bytes: 0,
        },
    },
};

/// A few endpoints, under one lock.
pub struct EndpointBucket<R>(Mutex<R, [Entry; WAYS]>);

impl<R: RawMutex> EndpointBucket<R> {
    /// An empty bucket.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new([FREE; WAYS]))
    }

    /// A flow of the endpoint begins. `false`: there is no room.
    ///
    /// An entry without flows is one whose closure has been missed, or is about to come: it gives way.
    pub(crate) fn join(&self, endpoint: u64, direction: Direction) -> bool {
        join(&mut *self.0.lock(), endpoint, direction)
    }

    /// A flow of the endpoint has ended. The totals, if that was the last one of an endpoint that has closed.
    pub(crate) fn leave(
        &self,
        endpoint: u64,
        sent: Traffic,
        received: Traffic,
    ) -> Option<EndpointTotals> {
        leave(&mut *self.0.lock(), endpoint, sent, received)
    }

    /// The endpoint has closed. The totals; `None` if one of its flows is still to end.
    pub(crate) fn close(&self, endpoint: u64) -> Option<EndpointTotals> {
        close(&mut *self.0.lock(), endpoint)
    }
}

impl<R: RawMutex> Default for EndpointBucket<R> {
    fn default() -> Self {
        Self::new()
    }
}

fn join(entries: &mut [Entry], endpoint: u64, direction: Direction) -> bool {
    let place = entries
        .iter()
        .position(|entry| entry.endpoint == endpoint)
        .or_else(|| entries.iter().position(|entry| entry.endpoint == 0))
        .or_else(|| entries.iter().position(|entry| entry.live == 0));
    let Some(entry) = place.and_then(|place| entries.get_mut(place)) else {
        return false;
    };
    if entry.endpoint != endpoint {
        *entry = Entry { endpoint, ..FREE };
    }
    entry.live += 1;
    entry.totals.flows = entry.totals.flows.saturating_add(1);
    entry.totals.direction.get_or_insert(direction);
    true
}

fn leave(
    entries: &mut [Entry],
    endpoint: u64,
    sent: Traffic,
    received: Traffic,
) -> Option<EndpointTotals> {
    let entry = entries
        .iter_mut()
        .find(|entry| entry.endpoint == endpoint)?;
    entry.live = entry.live.saturating_sub(1);
    entry.totals.sent.add(sent);
    entry.totals.received.add(received);
    if entry.live > 0 || !entry.is_closed {
        return None;
    }
    Some(core::mem::replace(entry, FREE).totals)
}

fn close(entries: &mut [Entry], endpoint: u64) -> Option<EndpointTotals> {
    let Some(entry) = entries.iter_mut().find(|entry| entry.endpoint == endpoint) else {
        return Some(EndpointTotals::default());
    };
    if entry.live > 0 {
        entry.is_closed = true;
        return None;
    }
    Some(core::mem::replace(entry, FREE).totals)
}
