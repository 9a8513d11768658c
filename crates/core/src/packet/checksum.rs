//! The Internet checksum, whole (RFC 1071) and by what has changed (RFC 1624).

/// The sum of 16-bit words in one's complement, on its way to a checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// With the words of `bytes`, which begin at an even place; an odd last byte is a word with a zero.
    ///
    /// At most 65,535 bytes a packet are summed, so that 64 bits never run over.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (words, last) = bytes.as_chunks::<2>();
        let sum = words.iter().fold(self.0, |sum, &word| {
            sum + u64::from(u16::from_be_bytes(word))
        });
        Self(sum + last.first().map_or(0, |&byte| u64::from(byte) << 8))
    }

    /// With a word.
    #[must_use]
    pub fn with_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// Folded to 16 bits, not yet inverted: what is left in the field of a packet whose checksum a network card completes.
    #[must_use]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while let high = sum >> 16
            && high > 0
        {
            sum = (sum & 0xFFFF) + high;
        }
        // No more than 16 bits are left.
        u16::try_from(sum).unwrap_or(u16::MAX)
    }

    /// The checksum.
    #[must_use]
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

/// The checksum of what had the checksum `old` after `before` in it was replaced by `after`: both of the same even length.
///
/// If `old` was wrong, the result is wrong: a damaged packet is not healed.
#[must_use]
pub fn update(old: u16, before: &[u8], after: &[u8]) -> u16 {
    // RFC 1624, equation 3: the old words are added inverted.
    let (words, _) = before.as_chunks::<2>();
    let sum = words.iter().fold(Sum::new().with_word(!old), |sum, &word| {
        sum.with_word(!u16::from_be_bytes(word))
    });
    sum.with(after).finish()
}
