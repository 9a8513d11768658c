//! The discard layers: what filters, ours and anybody's, or the stack itself have discarded.

use core::{marker::PhantomData, net::IpAddr};

use portcullis_core::{Application, Connection, Direction, Discarded, Endpoint, Ends};
use portcullis_proto::{
    Family,
    capture::{CaptureKind, CaptureRecord, CaptureStart},
    event::Discard as Reason,
};
use wfp::{
    callout::{Callout, Classify, Counters},
    flow::FlowId,
    layer::{self, Fields, Known, LayerType},
    nbl::{Buffer, Packet},
    schema::{self, ConditionFlags, IpVersion, LayerKind},
    verdict::Seen,
};

use super::connection;
use crate::{capture, state};

/// How many kinds of discard layers there are callouts for.
pub(super) const KINDS: usize = 12;

/// What comes with a discard layer's classify.
pub(super) trait Data {
    /// Its packet, if it has one.
    fn packet(&self) -> Option<Packet<'_>>;
}

impl Data for () {
    fn packet(&self) -> Option<Packet<'_>> {
        None
    }
}

impl Data for Option<Packet<'_>> {
    fn packet(&self) -> Option<Packet<'_>> {
        *self
    }
}

/// What was discarded at the layer `L`. `PLACE` is one for each, less than [`KINDS`].
pub(super) struct Discard<L, const PLACE: usize>(PhantomData<L>);

impl<L: LayerType, const PLACE: usize> Callout for Discard<L, PLACE>
where
    for<'a> L::Data<'a>: Data,
{
    type Layer = layer::Discarded<L>;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [[Counters; 2]; KINDS] = [const { [const { Counters::new() }; 2] }; KINDS];
        &COUNTERS[PLACE][version as usize]
    }

    fn classify(call: &Classify<'_, Self::Layer>) -> Seen {
        let Some(core) = state::core() else {
            return Seen;
        };
        let known = call.fields.known();
        let ends = ends(&known);
        let direction = direction(L::KIND, &known);
        let raw = call.metadata.discard();
        let reason = Reason {
            filter: raw.map_or(0, |raw| raw.filter),
            layer: call.fields.layer().get(),
            module: raw.map_or(u8::MAX, |raw| u8::try_from(raw.module).unwrap_or(u8::MAX)),
            reason: raw.map_or(0, |raw| raw.reason),
        };
        let flow = call.metadata.flow().map_or(0, FlowId::get);
        core.discarded(&Discarded {
            connection: Connection {
                direction,
                protocol: ends.protocol,
                local: ends.local,
                remote: ends.remote,
                application: known
                    .application
                    .map_or(Application::UNKNOWN, Application::new),
                user: known.user.unwrap_or_default(),
                process_id: call.metadata.process_id().unwrap_or(0),
                flow,
                interface: known.local_luid.unwrap_or(0),
            },
            discard: reason,
        });
        if capture::is_running() {
            let (start, before) = start(L::KIND, direction, call);
            let mut record = CaptureRecord {
                start: start.raw(),
                direction: if matches!(L::KIND, LayerKind::IpForward) {
                    0
                } else {
                    direction.raw()
                },
                module: reason.module,
                reason: reason.reason.into(),
                filter: reason.filter.into(),
                flow: flow.into(),
                ..CaptureRecord::zeroed(CaptureKind::Discard)
            };
            place(&mut record, &call.fields, &known);
            tell(&record, call.data.packet(), before, ends);
        }
        Seen
    }
}

/// A record for each of the packet's buffers; one without data if there is no packet.
fn tell(record: &CaptureRecord, packet: Option<Packet<'_>>, before: usize, ends: Ends) {
    let mut is_told = false;
    for buffer in packet.iter().flat_map(Packet::buffers) {
        is_told = true;
        let buffer: Buffer<'_> = buffer;
        capture::packet(record, Some((buffer, before)), || ends);
    }
    if !is_told {
        let record = CaptureRecord {
            start: CaptureStart::Nothing.raw(),
            ..*record
        };
        capture::packet(&record, None, || ends);
    }
}

/// Which way what was discarded went.
const fn direction(kind: LayerKind, known: &Known<'_>) -> Direction {
    match kind {
        LayerKind::InboundIpPacket
        | LayerKind::InboundTransport
        | LayerKind::InboundIcmpError
        | LayerKind::AleAuthRecvAccept
        | LayerKind::AleAuthListen => Direction::Inbound,
        _ => match known.direction {
            Some(schema::Direction::Inbound) => Direction::Inbound,
            _ => Direction::Outbound,
        },
    }
}

/// Where the layer's packets begin that go this way, and how far before its offset that is.
fn start<L: LayerType>(
    kind: LayerKind,
    direction: Direction,
    call: &Classify<'_, L>,
) -> (CaptureStart, usize) {
    let ip = call.metadata.ip_header_size().unwrap_or(0) as usize;
    let transport = call.metadata.transport_header_size().unwrap_or(0) as usize;
    match (kind, direction) {
        (LayerKind::OutboundIpPacket | LayerKind::IpForward, _) => (CaptureStart::IpHeader, 0),
        // The offset is at the transport header, or at the packet that the error complains about.
        (LayerKind::InboundIpPacket | LayerKind::InboundIcmpError, _) => {
            (CaptureStart::IpHeader, ip)
        }
        // When a connection is authorized again, the packet may go the other way.
        (LayerKind::AleAuthRecvAccept, _)
            if call.metadata.packet_direction() == Some(schema::Direction::Outbound) =>
        {
            (CaptureStart::TransportHeader, 0)
        }
        (_, Direction::Inbound) if ip > 0 => (CaptureStart::IpHeader, ip + transport),
        (_, Direction::Inbound) => (CaptureStart::Nothing, 0),
        (_, Direction::Outbound) => (CaptureStart::TransportHeader, 0),
    }
}

/// The ends that a layer's fields know.
pub(super) fn ends(known: &Known<'_>) -> Ends {
    let is_v4 = known
        .local_address
        .or(known.remote_address)
        .is_none_or(|address| address.is_ipv4());
    let nowhere = connection::unspecified(if is_v4 { IpVersion::V4 } else { IpVersion::V6 });
    Ends {
        protocol: known.protocol.unwrap_or(0),
        local: Endpoint::new(
            known.local_address.unwrap_or(nowhere),
            known.local_port.unwrap_or(0),
        ),
        remote: Endpoint::new(
            known.remote_address.unwrap_or(nowhere),
            known.remote_port.unwrap_or(0),
        ),
    }
}

/// Puts into a record where it comes from.
pub(super) fn place<L: LayerType>(
    record: &mut CaptureRecord,
    fields: &Fields<'_, L>,
    known: &Known<'_>,
) {
    let ends = ends(known);
    record.layer = fields.layer().get().into();
    record.family = match fields.version() {
        IpVersion::V4 => Family::V4.raw(),
        IpVersion::V6 => Family::V6.raw(),
    };
    record.protocol = ends.protocol;
    record.local_address = octets(ends.local.address);
    record.remote_address = octets(ends.remote.address);
    record.local_port = ends.local.port.into();
    record.remote_port = ends.remote.port.into();
    record.interface = known.interface.unwrap_or(0).into();
    if known.flags.contains(ConditionFlags::IS_LOOPBACK) {
        record.flags |= CaptureRecord::LOOPBACK;
    }
}

const fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}
