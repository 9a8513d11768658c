//! Packets: what is in them, and edits of their headers.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_core::packet::transport_sum;
use portcullis_core::packet::{Checksums, Edit, Fragment, Layout, Malformed, Segments};
use portcullis_core::{Endpoint, PacketSummary};

/// Packets of the captures.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    crate::seeds::packets()
}

/// A packet's headers: what is said of them is within the packet.
fn check(packet: &[u8], layout: &Layout) {
    assert!(layout.header <= layout.total, "{layout:?}");
    assert!(layout.total <= packet.len(), "{layout:?}");
    if let Some(at) = layout.checksum_at() {
        assert!(at + 2 <= layout.total, "{layout:?}");
    }
    let (source, destination, size) = layout.addresses_at();
    assert!(
        source.max(destination) + size <= layout.header,
        "{layout:?}"
    );
}

/// The sum of the transport's packet is right, if it has one.
fn is_sound(packet: &[u8], layout: &Layout) -> bool {
    let whole = layout.fragment == Fragment::Whole;
    whole && layout.checksum_at().is_some() && transport_sum(packet, layout).finish() == 0
}

/// A packet: it is not well-formed, or an edit changes what it is to change, and leaves right checksums right.
///
/// # Panics
/// When it does not.
pub fn edit(packet: &[u8]) {
    edit_by(packet, &Layout::new_checked, &|edit, packet, layout| {
        edit.apply(packet, layout, Checksums::default()).is_ok()
    });
}

/// As [`edit`], with this walk over the headers and this way of editing them.
///
/// # Panics
/// When the edit is not what was asked for.
pub fn edit_by(
    packet: &[u8],
    layout: &dyn Fn(&[u8]) -> Result<Layout, Malformed>,
    apply: &dyn Fn(&Edit, &mut [u8], &Layout) -> bool,
) {
    black_box(PacketSummary::parse(packet));
    let Ok(before) = layout(packet) else {
        return;
    };
    check(packet, &before);
    // What is only here in part is still within the whole.
    if let Ok(first) = Layout::of_first(&packet[..packet.len().min(60)], packet.len()) {
        assert!(first.header <= first.total);
    }
    let address: IpAddr = if before.is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into()
    } else {
        Ipv4Addr::new(203, 0, 113, 9).into()
    };
    let has_ports = before.source.port != 0 || before.destination.port != 0;
    let edit = Edit {
        dscp: Some(46),
        hop_limit: Some(7),
        source: None,
        destination: Some(Endpoint::new(address, if has_ports { 4433 } else { 0 })),
    };
    let mut edited = packet.to_vec();
    let was_sound = is_sound(packet, &before);
    if !apply(&edit, &mut edited, &before) {
        assert_eq!(
            edited, packet,
            "an edit that cannot be made changes nothing"
        );
        return;
    }
    let after = layout(&edited).expect("an edit leaves a packet well-formed");
    check(&edited, &after);
    assert_eq!(edited.len(), packet.len());
    assert_eq!(after.destination.address, address);
    assert_eq!(after.source, before.source);
    assert!(!edit.changes(&edited, &after) || !has_ports);
    if was_sound {
        assert!(is_sound(&edited, &after), "a right checksum is wrong now");
    }
}

/// Splits a packet with this layout into segments of this size.
pub type Split<'s> = dyn Fn(&[u8], &Layout, usize) -> Option<Segments> + 's;

/// A large send: it cannot be split, or its segments have all of its data, once and in order.
///
/// # Panics
/// When they have not.
pub fn segments(packet: &[u8]) {
    segments_by(packet, &Segments::new);
}

/// As [`segments`], with this way to split.
///
/// # Panics
/// When the segments do not have all of its data, once and in order.
pub fn segments_by(packet: &[u8], split: &Split<'_>) {
    let Ok(layout) = Layout::new_checked(packet) else {
        return;
    };
    for size in [1, 7, 536, 1460] {
        let Some(segments) = split(packet, &layout, size) else {
            continue;
        };
        let mut next = segments.headers();
        assert!(next <= layout.total);
        for index in 0..segments.count() {
            let data = segments.data(index);
            assert_eq!(data.start, next, "segment {index}");
            assert!(data.len() <= size);
            next = data.end;
            let mut segment = packet[..segments.headers()].to_vec();
            segment.extend_from_slice(&packet[data]);
            assert_eq!(segment.len(), segments.length(index));
            let made = segments.finish(index, &mut segment);
            check(&segment, &made);
        }
        assert_eq!(next, layout.total, "all of it");
    }
}
