//! How datagrams lie one behind the other in data that a network card is to split (USO), or has merged (URO).
//!
//! What a list says of that comes from outside and is only believed where it fits the data; else the data is one datagram.

/// Most datagrams in one packet that are looked at, or split: with more, 64 KiB are in pieces of less than 64 bytes.
pub const MAX_DATAGRAMS: usize = 1024;

/// The datagrams that data is cut into, in their order.
///
/// All have the same size but the last, which may be shorter. Data without a byte is one datagram without a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of all that are left.
    bytes: usize,
    /// Bytes of each but the last; not 0 where there is more than one.
    size: usize,
    /// How many are left.
    count: usize,
}

impl Cut {
    /// One datagram of so many bytes.
    #[must_use]
    pub const fn one(bytes: usize) -> Self {
        Self {
            bytes,
            size: bytes,
            count: 1,
        }
    }

    /// Data that is sent, which the card is to split into datagrams of `size` bytes
    /// (`NDIS_UDP_SEGMENTATION_OFFLOAD_NET_BUFFER_LIST_INFO.MSS`). A size of 0, or one that all of it fits into, splits nothing.
    #[must_use]
    pub const fn sent(bytes: usize, size: usize) -> Self {
        if size == 0 || size >= bytes {
            return Self::one(bytes);
        }
        Self {
            bytes,
            size,
            count: bytes.div_ceil(size),
        }
    }

    /// Data that was received, which the card has merged from `count` datagrams of `size` bytes
    /// (`NDIS_UDP_RSC_OFFLOAD_NET_BUFFER_LIST_INFO`). So many have to make up so many bytes: only the last may be shorter,
    /// and has a byte.
    #[must_use]
    pub const fn received(bytes: usize, count: usize, size: usize) -> Self {
        let cut = Self::sent(bytes, size);
        if cut.count == count {
            cut
        } else {
            Self::one(bytes)
        }
    }

    /// How many datagrams are left.
    #[must_use]
    pub const fn datagrams(&self) -> usize {
        self.count
    }

    /// How many bytes these have.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many bytes the next datagram has; what is left are those behind it.
    #[allow(
        clippy::should_implement_trait,
        reason = "it is copied, which an iterator should not be"
    )]
    pub const fn next(&mut self) -> Option<usize> {
        let Some(count) = self.count.checked_sub(1) else {
            return None;
        };
        let length = if self.size < self.bytes {
            self.size
        } else {
            self.bytes
        };
        self.count = count;
        self.bytes -= length;
        Some(length)
    }
}
