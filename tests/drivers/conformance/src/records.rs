//! What was seen: a ring that keeps the newest.

use conformance_messages::{Record, Reply};
use wfp::{
    NtStatus, Result,
    sync::{RawSpinLock, SpinLock},
};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// How many records are kept.
const ROOM: usize = 1024;

struct Ring {
    records: [Option<Record>; ROOM],
    first: usize,
    count: usize,
}

static RING: SpinLock<Ring> = SpinLock::from_raw(
    <RawSpinLock as lock_api::RawMutex>::INIT,
    Ring {
        records: [const { None }; ROOM],
        first: 0,
        count: 0,
    },
);

/// A record of nothing yet.
pub(crate) fn blank() -> Record {
    Record::new_zeroed()
}

/// Keeps a record.
pub(crate) fn keep(record: Record) {
    let mut ring = RING.lock();
    if ring.count == ROOM {
        ring.first = (ring.first + 1) % ROOM;
        ring.count -= 1;
    }
    let at = (ring.first + ring.count) % ROOM;
    ring.records[at] = Some(record);
    ring.count += 1;
}

fn next() -> Option<Record> {
    let mut ring = RING.lock();
    let at = ring.first;
    let record = ring.records[at].take()?;
    ring.first = (at + 1) % ROOM;
    ring.count -= 1;
    drop(ring);
    Some(record)
}

/// Moves as many records as fit into `output`, behind a reply.
pub(crate) fn take(output: &mut [u8]) -> Result<usize> {
    let (head, mut room) = output
        .split_at_mut_checked(size_of::<Reply>())
        .ok_or(NtStatus::BUFFER_TOO_SMALL)?;
    let mut reply = Reply::status(0);
    while room.len() >= size_of::<Record>() {
        let Some(record) = next() else { break };
        let (place, rest) = room.split_at_mut(size_of::<Record>());
        place.copy_from_slice(record.as_bytes());
        room = rest;
        reply.records += 1;
    }
    head.copy_from_slice(reply.as_bytes());
    Ok(size_of::<Reply>() + reply.records as usize * size_of::<Record>())
}
