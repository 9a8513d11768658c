//! `INBOUND_IPPACKET`, `OUTBOUND_IPPACKET` and `IPFORWARD`: packets, for who captures, and forwarded ones to
//! be decided.

use portcullis_core::{Ends, PacketSummary, packet::HEADERS};
use portcullis_proto::{
    Counter,
    capture::{CaptureKind, CaptureRecord, CaptureStart},
    policy,
};
use wfp::{
    callout::{Callout, Classify, Counters},
    layer::{InboundIpPacket, IpForward, Known, LayerType, OutboundIpPacket},
    nbl::{Buffer, Packet},
    schema::{ConditionFlags, IpVersion},
    verdict::Authorization,
};

use super::{authorize, discard};
use crate::{
    capture, packets,
    state::{self, Core},
};

/// Packets that come in.
pub(super) struct Inbound;

impl Callout for Inbound {
    type Layer = InboundIpPacket;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, InboundIpPacket>) -> Authorization {
        // The packet begins behind its IP header.
        let before = call.metadata.ip_header_size().unwrap_or(0) as usize;
        copy(call, call.data, before, policy::Direction::Inbound.raw());
        Authorization::Continue
    }
}

/// Packets that go out.
pub(super) struct Outbound;

impl Callout for Outbound {
    type Layer = OutboundIpPacket;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, OutboundIpPacket>) -> Authorization {
        // It was captured before it was changed, or waited.
        let is_again = call.data.is_some_and(|packet| {
            packets::packets().is_some_and(|packets| packets.is_own(call.fields.version(), packet))
        });
        if !is_again {
            copy(call, call.data, 0, policy::Direction::Outbound.raw());
        }
        Authorization::Continue
    }
}

/// Packets of other machines.
pub(super) struct Forward;

impl Callout for Forward {
    type Layer = IpForward;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, IpForward>) -> Authorization {
        let Some(core) = state::core() else {
            return Authorization::Continue;
        };
        copy(call, call.data, 0, 0);
        let interface = call.fields.forward_luid().unwrap_or(0);
        let mut verdict = Authorization::Permit;
        for buffer in call.data.iter().flat_map(Packet::buffers) {
            if let Some(ends) = ends(core, buffer, 0, true) {
                let decided = authorize::verdict(&core.forwarded(&ends, interface));
                if decided == Authorization::Block {
                    verdict = decided;
                }
            }
        }
        verdict
    }
}

/// Copies a packet to who captures, which begins with its IP header and is shown for the first time.
pub(super) fn copy_one<L: LayerType>(call: &Classify<'_, L>, buffer: Buffer<'_>, direction: u8) {
    if capture::is_running()
        && let Some(core) = state::core()
    {
        let known = call.fields.known();
        copy_buffer(core, &record(call, &known, direction), &known, buffer, 0);
    }
}

/// Copies packets to who captures.
fn copy<L: LayerType>(
    call: &Classify<'_, L>,
    packet: Option<Packet<'_>>,
    before: usize,
    direction: u8,
) {
    if !capture::is_running() {
        return;
    }
    let Some(core) = state::core() else { return };
    let Some(packet) = packet else {
        core.statistics().count(Counter::DataUnavailable);
        return;
    };
    let known = call.fields.known();
    // What is shown again: a fragment by itself, the datagram that fragments made, and the fragments of a
    // datagram as a group.
    let again = ConditionFlags::IS_FRAGMENT
        .union(ConditionFlags::IS_REASSEMBLED)
        .union(ConditionFlags::IS_FRAGMENT_GROUP);
    if known.flags.intersects(again) {
        return;
    }
    let record = record(call, &known, direction);
    for buffer in packet.buffers() {
        copy_buffer(core, &record, &known, buffer, before);
    }
}

/// What is said of a packet.
fn record<L: LayerType>(call: &Classify<'_, L>, known: &Known<'_>, direction: u8) -> CaptureRecord {
    let mut record = CaptureRecord {
        start: CaptureStart::IpHeader.raw(),
        direction,
        ..CaptureRecord::zeroed(CaptureKind::Packet)
    };
    discard::place(&mut record, &call.fields, known);
    record
}

fn copy_buffer(
    core: &Core,
    record: &CaptureRecord,
    known: &Known<'_>,
    buffer: Buffer<'_>,
    before: usize,
) {
    let is_sent = record.direction != policy::Direction::Inbound.raw();
    let ends = || ends(core, buffer, before, is_sent).unwrap_or_else(|| discard::ends(known));
    capture::packet(record, Some((buffer, before)), ends);
}

/// The ends of the packet in a buffer whose IP header is `before` bytes before its offset.
pub(super) fn ends(core: &Core, buffer: Buffer<'_>, before: usize, is_sent: bool) -> Option<Ends> {
    let mut headers = [0; HEADERS];
    let summary = buffer.chunks_from_before(before).and_then(|chunks| {
        let length = capture::first_bytes(chunks, &mut headers);
        PacketSummary::parse(headers.get(..length)?)
    });
    if summary.is_none() {
        core.statistics().count(Counter::DataUnavailable);
    }
    summary.map(|summary| summary.ends(is_sent))
}
