//! The handshake's bytes, out of frames in any order.

use super::MAX_HELLO;
use portcullis_proto::event::HostSource;

/// The beginning of a stream of CRYPTO frames.
#[derive(Debug)]
pub(super) struct CryptoStream {
    bytes: [u8; MAX_HELLO],
    /// A bit for each byte that has come.
    present: [u64; MAX_HELLO / 64],
    /// Bytes that were taken: all before have come.
    taken: usize,
}

impl CryptoStream {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; MAX_HELLO],
            present: [0; MAX_HELLO / 64],
            taken: 0,
        }
    }

    pub(super) const fn reset(&mut self) {
        self.present = [0; MAX_HELLO / 64];
        self.taken = 0;
    }

    /// A frame with these bytes at `offset`. What has come before stays as it came.
    ///
    /// # Errors
    /// [`HostSource::TooLong`]: it ends beyond what is kept.
    pub(super) fn insert(&mut self, offset: u64, data: &[u8]) -> Result<(), HostSource> {
        let start = usize::try_from(offset).map_err(|_| HostSource::TooLong)?;
        let end = start.checked_add(data.len());
        let room = end.and_then(|end| self.bytes.get_mut(start..end));
        let room = room.ok_or(HostSource::TooLong)?;
        for ((index, place), byte) in (start..).zip(room).zip(data) {
            let (word, bit) = (index / 64, 1 << (index % 64));
            if let Some(word) = self.present.get_mut(word)
                && *word & bit == 0
            {
                *word |= bit;
                *place = *byte;
            }
        }
        Ok(())
    }

    /// The bytes in order that were not taken before.
    pub(super) fn take_new(&mut self) -> &[u8] {
        let start = self.taken;
        let has_come = |index: &usize| {
            let word = self.present.get(index / 64);
            word.is_some_and(|word| word & (1 << (index % 64)) != 0)
        };
        self.taken += (start..MAX_HELLO).take_while(has_come).count();
        self.bytes.get(start..self.taken).unwrap_or_default()
    }
}
