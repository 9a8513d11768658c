//! `DATAGRAM_DATA`: the datagrams of followed flows that are not TCP.

use core::num::NonZeroU64;

use portcullis_core::{Cut, DatagramVerdict, Transfer, connection::UDP};
use portcullis_proto::Counter;
use wfp::{
    callout::{Callout, Classify, Counters},
    layer::DatagramData,
    nbl::Offload,
    schema::{Direction, IpVersion},
    verdict::Authorization,
};

use super::{connection::expect, stream};
use crate::state::{self, Core};

/// Datagrams, both ways.
pub(super) struct Datagram;

impl Callout for Datagram {
    type Layer = DatagramData;

    const FLOW_CONTEXTS: bool = true;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, DatagramData>) -> Authorization {
        let Some(core) = state::core() else {
            return Authorization::Continue;
        };
        let Some(packet) = call.data else {
            core.statistics().count(Counter::DataUnavailable);
            return Authorization::Continue;
        };
        let transfer = match expect(core, call.fields.direction(), Direction::Outbound) {
            Direction::Outbound => Transfer::Sent,
            Direction::Inbound => Transfer::Received,
        };
        let skip = header(core, call, transfer);
        let handle = stream::handle(call.flow_context);
        let mut verdict = Authorization::Permit;
        let offload = packet.offload();
        let protocol = call.fields.protocol().unwrap_or(0);
        // Datagrams that are sent together, or were merged, are decided together: one that is blocked takes the others
        // along, rather than the other way round.
        for buffer in packet.buffers() {
            let bytes = buffer.length().saturating_sub(skip);
            let mut rest = buffer.chunks(skip);
            let datagrams = core.datagrams(
                handle,
                transfer,
                cut(protocol, transfer, bytes, offload),
                |length| rest.split_front(length).map_while(core::result::Result::ok),
            );
            if datagrams == DatagramVerdict::Block {
                verdict = Authorization::Block;
            }
        }
        verdict
    }

    fn flow_deleted(context: NonZeroU64) {
        stream::deleted(context);
    }
}

/// The datagrams in a buffer of so many bytes of payload: several where the network card is to split it, or has merged it.
pub(super) const fn cut(protocol: u8, transfer: Transfer, bytes: usize, offload: Offload) -> Cut {
    match (protocol, transfer) {
        (UDP, Transfer::Sent) => Cut::sent(bytes, offload.datagram_size()),
        (UDP, Transfer::Received) => {
            let (count, size) = offload.merged_datagrams();
            Cut::received(bytes, count, size)
        }
        _ => Cut::one(bytes),
    }
}

/// Bytes before the payload. Inbound the packet begins behind the transport header, outbound with
/// it; ICMP counts whole both ways, because inbound its header is part of the data.
fn header(core: &Core, call: &Classify<'_, DatagramData>, transfer: Transfer) -> usize {
    /// Bytes of a UDP header.
    const UDP_HEADER: u32 = 8;

    match (transfer, call.fields.protocol()) {
        (Transfer::Sent, Some(UDP)) => {
            let size = call.metadata.transport_header_size().unwrap_or_else(|| {
                core.statistics().count(Counter::MetadataMissing);
                UDP_HEADER
            });
            size as usize
        }
        _ => 0,
    }
}
