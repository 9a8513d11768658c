//! The ring of records that wait to be read.

use lock_api::{Mutex, RawMutex};
use portcullis_proto::capture::{CaptureCounts, CaptureRecord};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// A bounded ring of records, each as long as its data. When one does not fit it is dropped and counted; the gap in
/// sequence numbers tells its reader where.
///
/// `B` is the storage. The lock is held for the copy of one record.
pub struct CaptureRing<R, B> {
    ring: Mutex<R, Ring<B>>,
}

struct Ring<B> {
    bytes: B,
    /// Where the oldest record begins.
    first: usize,
    /// Bytes of the records.
    used: usize,
    /// Number of the last record, kept or dropped.
    last: u64,
    seen: u64,
    dropped: u64,
}

impl<R: RawMutex, B: AsRef<[u8]> + AsMut<[u8]>> CaptureRing<R, B> {
    /// An empty ring over this storage.
    pub const fn new(bytes: B) -> Self {
        Self {
            ring: Mutex::new(Ring {
                bytes,
                first: 0,
                used: 0,
                last: 0,
                seen: 0,
                dropped: 0,
            }),
        }
    }

    /// A packet came by, and the filter did not take it.
    pub fn pass_over(&self) {
        self.ring.lock().seen += 1;
    }

    /// Puts a record in and numbers it, with at most `limit` bytes of `data`; `is_packet` counts a packet that came by.
    /// `false`: the ring is full, the record is dropped.
    ///
    /// `record.captured` and `record.size` are filled in here. `data` may have fewer bytes than the record's `original`
    /// says, where some could not be mapped.
    pub fn write<'d>(
        &self,
        mut record: CaptureRecord,
        data: impl IntoIterator<Item = &'d [u8]>,
        limit: usize,
        is_packet: bool,
    ) -> bool {
        let limit = limit.min(record.original.get() as usize);
        let mut ring = self.ring.lock();
        ring.seen += u64::from(is_packet);
        ring.last += 1;
        record.sequence = U64::new(ring.last);
        let free = ring.bytes.as_ref().len().saturating_sub(ring.used);
        if CaptureRecord::size_with(limit) > free {
            ring.dropped += 1;
            return false;
        }
        let begin = ring.used;
        let mut captured = 0;
        for piece in data {
            let piece = piece.get(..limit - captured).unwrap_or(piece);
            ring.put(begin + size_of::<CaptureRecord>() + captured, piece);
            captured += piece.len();
            if captured >= limit {
                break;
            }
        }
        let size = CaptureRecord::size_with(captured);
        let end = size_of::<CaptureRecord>() + captured;
        ring.put(begin + end, [0; 8].get(..size - end).unwrap_or_default());
        record.captured = small(captured);
        record.size = small(size);
        ring.put(begin, record.as_bytes());
        ring.used += size;
        true
    }

    /// Takes as many records as wait and fit into `output`, one behind the other. Returns how many, and their bytes.
    pub fn read_into(&self, mut output: &mut [u8]) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        while let Some(size) = self.read_one(output) {
            count += 1;
            bytes += size;
            output = output.get_mut(size..).unwrap_or_default();
        }
        (count, bytes)
    }

    fn read_one(&self, output: &mut [u8]) -> Option<usize> {
        self.ring.lock().read(output)
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.ring.lock().used == 0
    }

    /// What was counted.
    pub fn counts(&self) -> CaptureCounts {
        let ring = self.ring.lock();
        CaptureCounts {
            seen: U64::new(ring.seen),
            taken: U64::new(ring.last),
            dropped: U64::new(ring.dropped),
        }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Ring<B> {
    /// Writes to `at` bytes behind the first record's begin.
    fn put(&mut self, at: usize, from: &[u8]) {
        let first = self.first;
        let bytes = self.bytes.as_mut();
        let begin = (first + at) % bytes.len().max(1);
        let room = bytes.len() - begin;
        let (head, tail) = from.split_at(from.len().min(room));
        for (part, at) in [(head, begin), (tail, 0)] {
            if let Some(place) = bytes.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        }
    }

    /// Takes the oldest record, if it fits, and returns its bytes.
    fn read(&mut self, output: &mut [u8]) -> Option<usize> {
        if self.used == 0 {
            return None;
        }
        let mut size = [0; 4];
        self.take(&mut size);
        let size = u32::from_le_bytes(size) as usize;
        self.take(output.get_mut(..size)?);
        self.first = (self.first + size) % self.bytes.as_ref().len();
        self.used = self.used.saturating_sub(size);
        Some(size)
    }

    /// Reads from the first record's begin.
    fn take(&self, to: &mut [u8]) {
        let bytes = self.bytes.as_ref();
        let room = bytes.len() - self.first;
        let (head, tail) = to.split_at_mut(to.len().min(room));
        for (part, at) in [(head, self.first), (tail, 0)] {
            if let Some(place) = bytes.get(at..at + part.len()) {
                part.copy_from_slice(place);
            }
        }
    }
}

/// A length that fits, because a ring is smaller than 4 GiB.
fn small(length: usize) -> U32 {
    U32::new(u32::try_from(length).unwrap_or(u32::MAX))
}
