//! Splitting a large TCP send as a network card would (large send offload).

use super::edit::{Checksums, complete};
use super::header::{Fragment, Layout};
use crate::connection::TCP;

/// Most segments of one send: 64 KiB in pieces of the smallest size that TCP uses.
const MAX_SEGMENTS: usize = 128;

/// TCP's flags that only the last segment has: FIN and PSH.
const LAST_ONLY: u8 = 0x01 | 0x08;
/// TCP's flag that only the first segment has: CWR.
const FIRST_ONLY: u8 = 0x80;

/// The segments of one large send.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    layout: Layout,
    /// Bytes of all headers.
    headers: usize,
    /// Bytes of data of each segment but the last.
    size: usize,
    /// Bytes of data in all.
    data: usize,
}

impl Segments {
    /// The segments with `size` bytes of data each, of a packet that begins with `first`. `None` if it is no TCP packet that can
    /// be split so, or there would be more than a network card makes.
    #[must_use]
    pub fn new(first: &[u8], layout: &Layout, size: usize) -> Option<Self> {
        if layout.protocol != TCP || layout.fragment != Fragment::Whole || size == 0 {
            return None;
        }
        let tcp = usize::from(first.get(layout.header + 12)? >> 4) * 4;
        let headers = layout.header + tcp;
        let data = layout.total.checked_sub(headers)?;
        let segments = Self {
            layout: *layout,
            headers,
            size,
            data,
        };
        (tcp >= 20 && first.len() >= headers && segments.count() <= MAX_SEGMENTS)
            .then_some(segments)
    }

    /// How many there are, at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        self.data.div_ceil(self.size).max(1)
    }

    /// Which bytes of the large packet are the data of the segment at `index`.
    #[must_use]
    pub fn data(&self, index: usize) -> core::ops::Range<usize> {
        let start = (index * self.size).min(self.data);
        let end = (start + self.size).min(self.data);
        self.headers + start..self.headers + end
    }

    /// Bytes of the packet of the segment at `index`.
    #[must_use]
    pub fn length(&self, index: usize) -> usize {
        self.headers + self.data(index).len()
    }

    /// Bytes of the headers, which every segment begins with.
    #[must_use]
    pub const fn headers(&self) -> usize {
        self.headers
    }

    /// Makes a segment's headers and checksums right. `packet` has the segment's [`length`](Self::length), and holds the headers
    /// of the large packet and its own data. Returns how the packet is laid out.
    #[must_use]
    pub fn finish(&self, index: usize, packet: &mut [u8]) -> Layout {
        let mut layout = self.layout;
        layout.total = packet.len();
        let at = layout.header;
        let change = |packet: &mut [u8], at: usize, with: &[u8]| {
            if let Some(place) = packet.get_mut(at..at + with.len()) {
                place.copy_from_slice(with);
            }
        };
        let number = |packet: &[u8], at: usize| {
            packet
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u32::from_be_bytes)
        };
        if layout.is_v6 {
            let payload = u16::try_from(packet.len().saturating_sub(40)).unwrap_or(u16::MAX);
            change(packet, 4, &payload.to_be_bytes());
        } else {
            let total = u16::try_from(packet.len()).unwrap_or(u16::MAX);
            change(packet, 2, &total.to_be_bytes());
            // The identification counts on, so that no two are alike.
            let [a, b, _, _] = number(packet, 4).to_be_bytes();
            let identification =
                u16::from_be_bytes([a, b]).wrapping_add(u16::try_from(index).unwrap_or(u16::MAX));
            change(packet, 4, &identification.to_be_bytes());
        }
        let before = u32::try_from(index * self.size).unwrap_or(u32::MAX);
        let sequence = number(packet, at + 4).wrapping_add(before);
        change(packet, at + 4, &sequence.to_be_bytes());
        let mut flags = packet.get(at + 13).copied().unwrap_or(0);
        if index + 1 < self.count() {
            flags &= !LAST_ONLY;
        }
        if index > 0 {
            flags &= !FIRST_ONLY;
        }
        change(packet, at + 13, &[flags]);
        let missing = Checksums {
            ip_missing: true,
            transport_missing: true,
        };
        complete(packet, &layout, missing);
        layout
    }
}
