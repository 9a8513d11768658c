//! Reading numbers and bytes off the front of a packet.

/// What is left of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'p>(&'p [u8]);

impl<'p> Reader<'p> {
    pub(super) const fn new(bytes: &'p [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes are left.
    pub(super) const fn len(self) -> usize {
        self.0.len()
    }

    /// The next `count` bytes; `None` if fewer are left.
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'p [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// The next number of four bytes, in network order.
    pub(super) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    /// The next number of variable length (RFC 9000, section 16).
    pub(super) fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let more = (1_usize << (first >> 6)) - 1;
        let start = u64::from(first & 0x3F);
        let bytes = self.bytes(more)?;
        Some(
            bytes
                .iter()
                .fold(start, |number, &byte| (number << 8) | u64::from(byte)),
        )
    }
}
