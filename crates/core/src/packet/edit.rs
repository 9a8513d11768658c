//! Changing a packet's headers, with its checksums.

use super::checksum::{Sum, update};
use super::header::{Layout, Octets};
use crate::connection::{Endpoint, UDP};

/// What is known of a packet's checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// The IP header's is not there: it was left to the network card, or the card has dealt with it.
    pub ip_missing: bool,
    /// The transport's is not there, likewise: the field holds that of the pseudo-header, or anything.
    pub transport_missing: bool,
}

/// What is changed in a packet's headers; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// The differentiated services code point, up to 63. The two bits of ECN stay.
    pub dscp: Option<u8>,
    /// The time to live, or hop limit.
    pub hop_limit: Option<u8>,
    /// The source; a port is only changed where there are ports.
    pub source: Option<Endpoint>,
    /// The destination, likewise.
    pub destination: Option<Endpoint>,
}

/// An edit that cannot be made in this packet, of which nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEditable;

impl Edit {
    /// Whether anything of the packet would change.
    #[must_use]
    pub fn changes(&self, packet: &[u8], layout: &Layout) -> bool {
        let class = traffic_class(packet, layout);
        let hops = packet.get(hop_limit_at(layout)).copied();
        let other = |wanted: Option<Endpoint>, now| wanted.is_some_and(|wanted| wanted != now);
        self.dscp.is_some_and(|dscp| class >> 2 != dscp)
            || self.hop_limit.is_some_and(|limit| hops != Some(limit))
            || other(self.source, layout.source)
            || other(self.destination, layout.destination)
    }

    /// Makes the edit. Checksums that were right are right afterwards, those that were missing are there and right,
    /// and those that were wrong are wrong.
    ///
    /// # Errors
    /// [`NotEditable`]: an address of the other IP version, or addresses that something else in the packet pins down.
    pub fn apply(
        &self,
        packet: &mut [u8],
        layout: &Layout,
        checksums: Checksums,
    ) -> Result<(), NotEditable> {
        let moves = self.source.is_some() || self.destination.is_some();
        let fits =
            |end: Option<Endpoint>| end.is_none_or(|end| end.address.is_ipv6() == layout.is_v6);
        if !fits(self.source) || !fits(self.destination) || (moves && !can_move(layout)) {
            return Err(NotEditable);
        }
        let packet = packet.get_mut(..layout.total).ok_or(NotEditable)?;
        self.mark(packet, layout);
        let (source_at, destination_at, _) = layout.addresses_at();
        if let Some(source) = self.source {
            exchange(packet, layout, source, source_at, layout.header);
        }
        if let Some(destination) = self.destination {
            exchange(
                packet,
                layout,
                destination,
                destination_at,
                layout.header + 2,
            );
        }
        complete(packet, layout, checksums);
        Ok(())
    }

    /// The traffic class and the hop limit.
    fn mark(&self, packet: &mut [u8], layout: &Layout) {
        if let Some(dscp) = self.dscp {
            let class = dscp << 2 | traffic_class(packet, layout) & 3;
            if layout.is_v6 {
                set(packet, 0, 0x60 | class >> 4);
                let flow = packet.get(1).copied().unwrap_or(0) & 0xF;
                set(packet, 1, class << 4 | flow);
            } else {
                set_v4(packet, 1, class);
            }
        }
        if let Some(limit) = self.hop_limit {
            if layout.is_v6 {
                set(packet, 7, limit);
            } else {
                set_v4(packet, 8, limit);
            }
        }
    }
}

/// Puts checksums that are missing into a packet.
pub fn complete(packet: &mut [u8], layout: &Layout, checksums: Checksums) {
    if checksums.ip_missing && !layout.is_v6 {
        put(packet, 10, 0);
        let header = packet.get(..layout.header).unwrap_or_default();
        let sum = Sum::new().with(header).finish();
        put(packet, 10, sum);
    }
    if checksums.transport_missing
        && let Some(at) = layout.checksum_at()
    {
        put(packet, at, 0);
        let sum = transport_sum(packet, layout).finish();
        put(packet, at, never_zero(layout, sum));
    }
}

/// The sum of a transport's packet with its pseudo-header.
#[must_use]
pub fn transport_sum(packet: &[u8], layout: &Layout) -> Sum {
    let (source, destination, size) = layout.addresses_at();
    let address = |at: usize| packet.get(at..at + size).unwrap_or_default();
    let segment = packet.get(layout.header..layout.total).unwrap_or_default();
    let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    Sum::new()
        .with(address(source))
        .with(address(destination))
        .with(&length.to_be_bytes())
        .with_word(layout.protocol.into())
        .with(segment)
}

/// UDP's zero says that there is no checksum.
const fn never_zero(layout: &Layout, sum: u16) -> u16 {
    if sum == 0 && layout.protocol == UDP {
        u16::MAX
    } else {
        sum
    }
}

/// Whether the packet's ends can be other ones.
const fn can_move(layout: &Layout) -> bool {
    !layout.is_pinned && layout.checksum_at().is_some()
}

/// Replaces an address and a port, and brings the checksums up to date.
fn exchange(packet: &mut [u8], layout: &Layout, end: Endpoint, address_at: usize, port_at: usize) {
    let octets = Octets::of(end.address);
    let transport = layout.checksum_at();
    replace(packet, layout, address_at, octets.as_slice(), transport);
    replace(packet, layout, port_at, &end.port.to_be_bytes(), transport);
}

/// Replaces bytes at an even place that the checksum at `transport` covers, and in the IPv4 header that of IP too.
fn replace(packet: &mut [u8], layout: &Layout, at: usize, with: &[u8], transport: Option<usize>) {
    let mut kept = [0; 16];
    let end = at + with.len();
    let (Some(before), Some(now)) = (kept.get_mut(..with.len()), packet.get_mut(at..end)) else {
        return;
    };
    before.copy_from_slice(now);
    now.copy_from_slice(with);
    if !layout.is_v6 && at < layout.header {
        let sum = update(word(packet, 10), before, with);
        put(packet, 10, sum);
    }
    if let Some(at) = transport {
        let old = word(packet, at);
        // UDP over IPv4 may go without.
        if old != 0 || layout.protocol != UDP {
            let sum = update(old, before, with);
            put(packet, at, never_zero(layout, sum));
        }
    }
}

/// Sets a byte of the IPv4 header, with the header's checksum.
fn set_v4(packet: &mut [u8], at: usize, value: u8) {
    let even = at & !1;
    let before = word(packet, even).to_be_bytes();
    set(packet, at, value);
    let after = word(packet, even).to_be_bytes();
    let sum = update(word(packet, 10), &before, &after);
    put(packet, 10, sum);
}

/// Type of service, or traffic class.
fn traffic_class(packet: &[u8], layout: &Layout) -> u8 {
    if layout.is_v6 {
        u8::try_from(word(packet, 0) >> 4 & 0xFF).unwrap_or(0)
    } else {
        packet.get(1).copied().unwrap_or(0)
    }
}

const fn hop_limit_at(layout: &Layout) -> usize {
    if layout.is_v6 { 7 } else { 8 }
}

/// The word at a place; a layout's places are within its packet.
fn word(packet: &[u8], at: usize) -> u16 {
    packet
        .get(at..at + 2)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u16::from_be_bytes)
}

fn put(packet: &mut [u8], at: usize, word: u16) {
    if let Some(place) = packet.get_mut(at..at + 2) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

fn set(packet: &mut [u8], at: usize, byte: u8) {
    if let Some(place) = packet.get_mut(at) {
        *place = byte;
    }
}
