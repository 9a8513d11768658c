//! The ring of events that wait to be read.

use lock_api::{Mutex, RawMutex};
use portcullis_proto::event::{EventKind, EventRecord};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// A bounded ring of events. When it is full the newest event is dropped; the gap in sequence numbers is told to the
/// reader as one [`EventKind::Dropped`] in its place.
///
/// `B` is the storage, usable for as many events as it has records. The lock is held for the copy of one record.
pub struct EventRing<R, B> {
    ring: Mutex<R, Ring<B>>,
}

#[derive(Debug)]
struct Ring<B> {
    records: B,
    /// Place of the oldest record.
    first: usize,
    /// How many wait.
    waiting: usize,
    /// Number of the last event, kept or dropped.
    last: u64,
    /// Number of the last event handed out, or told to be dropped.
    told: u64,
}

impl<R: RawMutex, B: AsRef<[EventRecord]> + AsMut<[EventRecord]>> EventRing<R, B> {
    /// An empty ring over this storage.
    pub const fn new(records: B) -> Self {
        Self {
            ring: Mutex::new(Ring {
                records,
                first: 0,
                waiting: 0,
                last: 0,
                told: 0,
            }),
        }
    }

    /// Puts an event in and numbers it. `false`: the ring was full, the event is dropped.
    pub fn write(&self, event: &EventRecord) -> bool {
        let mut ring = self.ring.lock();
        ring.last += 1;
        let sequence = ring.last;
        let capacity = ring.records.as_ref().len();
        if ring.waiting >= capacity {
            return false;
        }
        let place = (ring.first + ring.waiting) % capacity;
        let Some(record) = ring.records.as_mut().get_mut(place) else {
            return false;
        };
        *record = *event;
        record.sequence = U64::new(sequence);
        ring.waiting += 1;
        true
    }

    /// Takes the oldest event, or the news of dropped ones where they would have been.
    pub fn read(&self) -> Option<EventRecord> {
        let mut record = EventRecord::default();
        self.read_one(record.as_mut_bytes()).then_some(record)
    }

    /// Takes as many events as wait and fit into `output`, as an array of records. Returns how many.
    pub fn read_into(&self, output: &mut [u8]) -> usize {
        let records = output.chunks_exact_mut(size_of::<EventRecord>());
        records
            .map_while(|record| self.read_one(record).then_some(()))
            .count()
    }

    /// Takes the oldest event into `output`, of a record's size.
    fn read_one(&self, output: &mut [u8]) -> bool {
        let mut ring = self.ring.lock();
        let next = ring.told + 1;
        let capacity = ring.records.as_ref().len();
        let oldest = if ring.waiting == 0 {
            None
        } else {
            ring.records.as_ref().get(ring.first)
        };
        let end = oldest.map_or(ring.last + 1, |oldest| oldest.sequence.get());
        if next < end {
            ring.told = end - 1;
            drop(ring);
            let dropped = EventRecord {
                sequence: U64::new(end - 1),
                kind: EventKind::Dropped.raw(),
                value: [U64::new(end - next), U64::ZERO],
                ..EventRecord::default()
            };
            return dropped.write_to(output).is_ok();
        }
        let Some(oldest) = oldest else { return false };
        if oldest.write_to(output).is_err() {
            return false;
        }
        ring.told = end;
        ring.first = (ring.first + 1) % capacity;
        ring.waiting -= 1;
        true
    }

    /// Whether there is something to read.
    pub fn is_empty(&self) -> bool {
        let ring = self.ring.lock();
        ring.told == ring.last
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.ring.lock().waiting
    }

    /// How many can wait.
    pub fn capacity(&self) -> usize {
        self.ring.lock().records.as_ref().len()
    }
}

impl<R: RawMutex, B: AsRef<[EventRecord]> + AsMut<[EventRecord]>> crate::engine::EventSink
    for EventRing<R, B>
{
    fn write(&self, event: &EventRecord) -> bool {
        Self::write(self, event)
    }
}
