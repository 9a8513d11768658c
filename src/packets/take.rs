//! Taking a packet out of the stack.

use portcullis_core::{
    Clock, Endpoint, Transfer,
    connection::TCP,
    packet::{Checksums, Edit, HEADERS, Layout, PathNews, Quote, Segments, Treatment},
};
use portcullis_proto::Counter;
use wfp::{
    inject::{Arrival, InjectionState},
    list::PacketBuffer,
    nbl::{Buffer, Offload, Packet},
    schema::IpVersion,
};

use super::{Departure, Held, Packets};
use crate::state::{self, SystemClock};

/// A packet that a layer shows, which begins with its IP header.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) packet: Packet<'a>,
    pub(crate) version: IpVersion,
    pub(crate) transfer: Transfer,
    pub(crate) at: Arrival,
    /// Who is told of a packet that goes on nowhere, in whose buffer it begins.
    pub(crate) dropped: &'a dyn Fn(Buffer<'_>),
}

/// The packet's headers.
struct Head {
    bytes: [u8; HEADERS],
    used: usize,
    layout: Layout,
    /// It is an ICMP error about a packet of a translated path, whose remote side has another name where the error goes.
    about: Option<(Quote, Endpoint)>,
}

impl Head {
    /// Looks at a packet; one that cannot be read is counted.
    fn of(packets: &Packets, transfer: Transfer, buffer: Buffer<'_>) -> Option<Self> {
        let mut head = Self::read(buffer);
        match &mut head {
            Some(head) => {
                head.about = Quote::of(head.first(), &head.layout)
                    .and_then(|quote| Some((quote, packets.paths.other_side(transfer, &quote)?)));
            }
            None => state::count(Counter::PacketMalformed),
        }
        head
    }

    fn read(buffer: Buffer<'_>) -> Option<Self> {
        let mut bytes = [0; HEADERS];
        let used = buffer.length().min(HEADERS);
        buffer.copy_to(0, bytes.get_mut(..used)?).ok()?;
        let layout = Layout::of_first(bytes.get(..used)?, buffer.length()).ok()?;
        Some(Self {
            bytes,
            used,
            layout,
            about: None,
        })
    }

    fn first(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }
}

/// Takes a packet that a rule changes or shapes. Whether it was taken; if not, it goes on as it is.
pub(crate) fn take(packets: &Packets, shown: &Shown<'_>) -> bool {
    let Some(handle) = packets.handle(shown.version) else {
        return false;
    };
    let state = handle.state(shown.packet);
    if state.is_own() {
        return false;
    }
    // All net buffers of a list are of one flow.
    let mut buffers = shown.packet.buffers();
    let Some(first) = buffers.next() else {
        return false;
    };
    let Some(head) = Head::of(packets, shown.transfer, first) else {
        return false;
    };
    if head.about.is_none() && !packets.paths.follows(shown.transfer, &head.layout) {
        return false;
    }
    let now = SystemClock.now();
    if state == InjectionState::ByOther && packets.hops.note(head.first(), &head.layout, now) {
        state::count(Counter::PacketLoops);
        return false;
    }
    let offload = shown.packet.offload();
    if buffers.next().is_none() && split_size(shown.transfer, &head.layout, offload).is_none() {
        return take_one(packets, shown, first, &head, offload);
    }
    for buffer in shown.packet.buffers() {
        if let Some(head) = Head::of(packets, shown.transfer, buffer) {
            take_each(packets, shown, buffer, &head, offload);
        }
    }
    true
}

/// Bytes of data of each segment of a packet that a network card is to split, or of each datagram that it has merged.
pub(crate) fn split_size(transfer: Transfer, layout: &Layout, offload: Offload) -> Option<usize> {
    match transfer {
        Transfer::Sent if layout.protocol == TCP => offload.segment_size(),
        Transfer::Sent => Segments::datagram_sent(layout, offload.datagram_size()),
        Transfer::Received => {
            let (count, size) = offload.merged_datagrams();
            Segments::datagram_received(layout, count, size)
        }
    }
}

/// Makes the packet of the segment at `index` in `memory`, which has its length. `first` is what the large one in `buffer` begins
/// with. Returns how it is laid out; `None` if it cannot be read.
pub(crate) fn copy_segment(
    segments: &Segments,
    index: usize,
    first: &[u8],
    buffer: Buffer<'_>,
    memory: &mut [u8],
) -> Option<Layout> {
    let (headers, data) = memory.split_at_mut_checked(segments.headers())?;
    headers.copy_from_slice(first.get(..segments.headers())?);
    buffer.copy_to(segments.data(index).start, data).ok()?;
    Some(segments.finish(index, memory))
}

/// What has become of the packet's checksums.
const fn checksums(transfer: Transfer, offload: Offload) -> Checksums {
    match transfer {
        Transfer::Sent => Checksums {
            ip_missing: offload.leaves_ip_checksum(),
            transport_missing: offload.leaves_transport_checksum(),
        },
        // The receive path wants a right one (a datagram that was put together has none), and what the card has found right is
        // not looked at again.
        Transfer::Received => Checksums {
            ip_missing: true,
            transport_missing: offload.has_checked_transport(),
        },
    }
}

/// A packet by itself: one that is neither changed nor waits is not taken.
fn take_one(
    packets: &Packets,
    shown: &Shown<'_>,
    buffer: Buffer<'_>,
    head: &Head,
    offload: Offload,
) -> bool {
    let length = head.layout.total;
    let treatment = treat(packets, shown, buffer, head, length);
    let is_as_it_was = match treatment {
        Treatment::Pass => true,
        Treatment::Now(edit) => !edit.changes(head.first(), &head.layout),
        _ => false,
    };
    if is_as_it_was && head.about.is_none() {
        return false;
    }
    apply(packets, shown, treatment, head, length, |memory| {
        buffer.copy_to(0, memory).ok()?;
        Some((head.layout, checksums(shown.transfer, offload)))
    });
    true
}

/// One of several packets of a list, or one that is to be split: all of them are taken.
fn take_each(
    packets: &Packets,
    shown: &Shown<'_>,
    buffer: Buffer<'_>,
    head: &Head,
    offload: Offload,
) {
    let size = split_size(shown.transfer, &head.layout, offload);
    let segments = size.and_then(|size| Segments::new(head.first(), &head.layout, size));
    let Some(segments) = segments else {
        if size.is_some() && head.layout.protocol != TCP {
            // As one it would be a packet that the wire does not know.
            state::count(Counter::DatagramsTooMany);
            state::count(Counter::PacketsDropped);
            return (shown.dropped)(buffer);
        }
        let length = head.layout.total;
        let treatment = treat(packets, shown, buffer, head, length);
        return apply(packets, shown, treatment, head, length, |memory| {
            buffer.copy_to(0, memory).ok()?;
            Some((head.layout, checksums(shown.transfer, offload)))
        });
    };
    for index in 0..segments.count() {
        let length = segments.length(index);
        let treatment = treat(packets, shown, buffer, head, length);
        apply(packets, shown, treatment, head, length, |memory| {
            let layout = copy_segment(&segments, index, head.first(), buffer, memory)?;
            Some((layout, Checksums::default()))
        });
    }
}

fn treat(
    packets: &Packets,
    shown: &Shown<'_>,
    buffer: Buffer<'_>,
    head: &Head,
    length: usize,
) -> Treatment {
    let now = SystemClock.now();
    let first = head.first();
    let treated = packets
        .paths
        .packet(shown.transfer, first, &head.layout, length as u64, now);
    if let Some(news) = &treated.news {
        tell(news);
    }
    if matches!(treated.treatment, Treatment::Lost | Treatment::Full) {
        (shown.dropped)(buffer);
    }
    treated.treatment
}

/// An event takes much of the stack, and is made once or twice for a path.
#[inline(never)]
fn tell(news: &PathNews) {
    if let Some(core) = state::core() {
        core.packets_treated(news);
    }
}

/// Does what is to be done with a packet of `length` bytes that `write` copies.
fn apply(
    packets: &Packets,
    shown: &Shown<'_>,
    treatment: Treatment,
    head: &Head,
    length: usize,
    write: impl FnOnce(&mut PacketBuffer) -> Option<(Layout, Checksums)>,
) {
    let make = |edit: &Edit| {
        let departure = copy(packets, shown, edit, head.about, length, write);
        if departure.is_none() {
            state::count(Counter::PacketsDropped);
        }
        departure
    };
    match treatment {
        Treatment::Pass => {
            if let Some(departure) = make(&Edit::default()) {
                packets.depart(departure);
            }
        }
        Treatment::Now(edit) => {
            if let Some(departure) = make(&edit) {
                state::count(Counter::PacketsChanged);
                packets.depart(departure);
            }
        }
        Treatment::At(edit, due, ticket) => match make(&edit) {
            Some(departure) => packets.hold(due, Held { departure, ticket }),
            None => packets.paths.gone(ticket),
        },
        Treatment::Lost => state::count(Counter::PacketsLost),
        Treatment::Full => state::count(Counter::PacketQueueFull),
    }
}

/// Copies and changes a packet.
fn copy(
    packets: &Packets,
    shown: &Shown<'_>,
    edit: &Edit,
    about: Option<(Quote, Endpoint)>,
    length: usize,
    write: impl FnOnce(&mut PacketBuffer) -> Option<(Layout, Checksums)>,
) -> Option<Departure> {
    let mut memory = packets.memory(length)?;
    let (layout, checksums) = write(&mut memory)?;
    edit.apply(&mut memory, &layout, checksums).ok()?;
    if let Some((quote, other)) = about {
        quote.translate(shown.transfer, other, &mut memory, &layout);
        state::count(Counter::IcmpErrorsTranslated);
    }
    Some(Departure {
        list: memory.into_list(0).ok()?,
        version: shown.version,
        transfer: shown.transfer,
        at: shown.at,
    })
}
