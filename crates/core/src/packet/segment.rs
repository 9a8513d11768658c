//! Splitting what a network card is to split, as it would (large send offload, USO), and what it has merged (URO).

use super::edit::{Checksums, complete};
use super::header::{Fragment, Layout};
use crate::connection::{TCP, UDP};
use crate::cut::{Cut, MAX_DATAGRAMS};

/// Most segments of one TCP send: 64 KiB in pieces of the smallest size that TCP uses.
const MAX_SEGMENTS: usize = 128;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;

/// TCP's flags that only the last segment has: FIN and PSH.
const LAST_ONLY: u8 = 0x01 | 0x08;
/// TCP's flag that only the first segment has: CWR.
const FIRST_ONLY: u8 = 0x80;

/// The segments of one large TCP packet, or the datagrams of one of UDP.
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
    /// The segments with `size` bytes of data each, of a packet that begins with `first`. `None` if it is no TCP or UDP packet
    /// that can be split so, or there would be too many.
    #[must_use]
    pub fn new(first: &[u8], layout: &Layout, size: usize) -> Option<Self> {
        if layout.fragment != Fragment::Whole || size == 0 {
            return None;
        }
        let (transport, most) = match layout.protocol {
            TCP => {
                let length = usize::from(first.get(layout.header + 12)? >> 4) * 4;
                ((length >= 20).then_some(length)?, MAX_SEGMENTS)
            }
            UDP => (UDP_HEADER, MAX_DATAGRAMS),
            _ => return None,
        };
        let headers = layout.header + transport;
        let data = layout.total.checked_sub(headers)?;
        let segments = Self {
            layout: *layout,
            headers,
            size,
            data,
        };
        (first.len() >= headers && segments.count() <= most).then_some(segments)
    }

    /// The datagrams of a UDP packet of `layout` that the card is to split, which `size` says the bytes of, as [`Cut::sent`].
    /// `None` if it is one, or none of UDP.
    #[must_use]
    pub fn datagram_sent(layout: &Layout, size: usize) -> Option<usize> {
        let data = Self::udp_data(layout)?;
        (Cut::sent(data, size).datagrams() > 1).then_some(size)
    }

    /// The same of one that the card has merged, as [`Cut::received`].
    #[must_use]
    pub fn datagram_received(layout: &Layout, count: usize, size: usize) -> Option<usize> {
        let data = Self::udp_data(layout)?;
        (Cut::received(data, count, size).datagrams() > 1).then_some(size)
    }

    fn udp_data(layout: &Layout) -> Option<usize> {
        (layout.protocol == UDP && layout.fragment == Fragment::Whole)
            .then(|| layout.total.checked_sub(layout.header + UDP_HEADER))
            .flatten()
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
    /// of the large packet and its own data. UDP over IPv4 that has no checksum gets none, as a card does it. Returns how the
    /// packet is laid out.
    #[must_use]
    pub fn finish(&self, index: usize, packet: &mut [u8]) -> Layout {
        let mut layout = self.layout;
        layout.total = packet.len();
        if layout.is_v6 {
            change(packet, 4, &short(packet.len().saturating_sub(40)));
        } else {
            change(packet, 2, &short(packet.len()));
            // The identification counts on, so that no two are alike.
            let [a, b, _, _] = number(packet, 4).to_be_bytes();
            let identification =
                u16::from_be_bytes([a, b]).wrapping_add(u16::try_from(index).unwrap_or(u16::MAX));
            change(packet, 4, &identification.to_be_bytes());
        }
        if layout.protocol == TCP {
            self.finish_tcp(index, packet);
        } else {
            let length = packet.len().saturating_sub(layout.header);
            change(packet, layout.header + 4, &short(length));
        }
        let sum_at = layout.header + 6;
        let is_without = layout.protocol == UDP
            && !layout.is_v6
            && packet.get(sum_at..sum_at + 2) == Some(&[0, 0]);
        let missing = Checksums {
            ip_missing: true,
            transport_missing: !is_without,
        };
        complete(packet, &layout, missing);
        layout
    }

    fn finish_tcp(&self, index: usize, packet: &mut [u8]) {
        let at = self.layout.header;
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
    }
}

fn change(packet: &mut [u8], at: usize, with: &[u8]) {
    if let Some(place) = packet.get_mut(at..at + with.len()) {
        place.copy_from_slice(with);
    }
}

fn number(packet: &[u8], at: usize) -> u32 {
    packet
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

/// A length of a header's.
fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}
