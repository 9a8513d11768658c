//! `INBOUND_IPPACKET` and `OUTBOUND_IPPACKET`: packets that rules change or shape.

use portcullis_core::Transfer;
use portcullis_proto::{Counter, policy};
use wfp::{
    callout::{Callout, Classify, Counters},
    inject::Arrival,
    layer::{InboundIpPacket, LayerType, OutboundIpPacket},
    nbl::{Buffer, Packet},
    schema::{ConditionFlags, Direction, IpVersion},
    verdict::Authorization,
};

use super::network;
use crate::{
    packets::{self, Shown},
    state,
};

/// Packets that have arrived.
pub(super) struct Inbound;

impl Callout for Inbound {
    type Layer = InboundIpPacket;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, InboundIpPacket>) -> Authorization {
        // What this machine sends to itself has been treated on its way out. Fragments come once more when they are put together.
        const NOT_NOW: ConditionFlags =
            ConditionFlags::IS_LOOPBACK.union(ConditionFlags::IS_FRAGMENT);
        if call.fields.flags().intersects(NOT_NOW) {
            return Authorization::Continue;
        }
        treat(call, call.data, Transfer::Received, Arrival::of(call))
    }
}

/// Packets that are sent.
pub(super) struct Outbound;

impl Callout for Outbound {
    type Layer = OutboundIpPacket;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, OutboundIpPacket>) -> Authorization {
        let at = Arrival {
            compartment: call.metadata.compartment().unwrap_or(0),
            ..Arrival::default()
        };
        treat(call, call.data, Transfer::Sent, at)
    }
}

fn treat<L: LayerType>(
    call: &Classify<'_, L>,
    packet: Option<Packet<'_>>,
    transfer: Transfer,
    at: Arrival,
) -> Authorization {
    // Without the right to decide nothing can be taken.
    let (Some(packets), Some(packet), false) = (packets::packets(), packet, call.decided) else {
        return Authorization::Continue;
    };
    let direction = match transfer {
        Transfer::Sent => Direction::Outbound,
        Transfer::Received => Direction::Inbound,
    };
    let Some(behind) = call.behind_ip_header(direction) else {
        state::count(Counter::MetadataMissing);
        return Authorization::Continue;
    };
    let version = call.fields.version();
    // What has arrived is captured when it goes on, so that what does not is captured here; what is sent has been.
    let dropped = |buffer: Buffer<'_>| {
        if transfer == Transfer::Received {
            network::copy_one(call, buffer, policy::Direction::Inbound.raw());
        }
    };
    let taken = packet.with_retreated(behind, |packet| {
        let shown = Shown {
            packet,
            version,
            transfer,
            at,
            dropped: &dropped,
        };
        packets::take(packets, &shown)
    });
    match taken {
        Ok(true) => Authorization::BlockSilently,
        Ok(false) => Authorization::Continue,
        // Memory is short. It may be a packet that must not go on as it is: who sent it sends it again.
        Err(_) => {
            state::count(Counter::PacketsDropped);
            Authorization::BlockSilently
        }
    }
}
