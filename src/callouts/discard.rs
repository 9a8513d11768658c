//! The discard layers: what filters, ours and anybody's, or the stack itself have discarded.

use core::{marker::PhantomData, net::IpAddr};

use portcullis_core::{
    Application, Connection, Direction, Discarded, Endpoint, Ends, packet::Sought,
};
use portcullis_proto::{
    Counter, Family,
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

use super::{connection, network};
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
            let direction = call
                .metadata
                .packet_direction()
                .map_or(direction, connection::direction);
            let mut record = CaptureRecord {
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
            let start = Start::of(L::KIND, direction, call, ends);
            tell(&record, call.data.packet(), start, ends);
        }
        Seen
    }
}

/// A record for each of the packet's buffers; one without data if there is no packet.
fn tell(record: &CaptureRecord, packet: Option<Packet<'_>>, start: Start, ends: Ends) {
    let nothing = CaptureRecord {
        start: CaptureStart::Nothing.raw(),
        ..*record
    };
    let mut is_told = false;
    for buffer in packet.iter().flat_map(Packet::buffers) {
        is_told = true;
        let (start, before) = match start {
            Start::TransportHeader => (CaptureStart::TransportHeader, Some(0)),
            Start::Sought(sought, usual) => (
                CaptureStart::IpHeader,
                header_before(buffer, &sought, usual),
            ),
        };
        let Some(before) = before else {
            state::count(Counter::DataUnavailable);
            capture::packet(&nothing, None, || ends);
            continue;
        };
        let record = CaptureRecord {
            start: start.raw(),
            ..*record
        };
        // The network layers have no field for the protocol, nor for ports.
        let is_read = ends.protocol == 0 && matches!(start, CaptureStart::IpHeader);
        let is_sent = record.direction != Direction::Inbound.raw();
        let ends = || match state::core() {
            Some(core) if is_read => network::ends(core, buffer, before, is_sent).unwrap_or(ends),
            _ => ends,
        };
        capture::packet(&record, Some((buffer, before)), ends);
    }
    if !is_told {
        capture::packet(&nothing, None, || ends);
    }
}

/// How many bytes before its offset a buffer's IP header begins.
fn header_before(buffer: Buffer<'_>, sought: &Sought, usual: usize) -> Option<usize> {
    sought.find(usual, |before, first| {
        let count = capture::first_bytes(buffer.chunks_from_before(before)?, first);
        Some((count, buffer.length().saturating_add(before)))
    })
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

/// Where a layer's packets begin.
#[derive(Clone, Copy)]
enum Start {
    /// With the transport header; there is no IP header yet.
    TransportHeader,
    /// With the IP header, which is looked for: it should be so many bytes before the data's start. But at the discard
    /// layers of `INBOUND_IPPACKET` and `OUTBOUND_IPPACKET` the data begins where the stack stopped, says the page "Data
    /// offset positions", and above them at the header of ICMP, where a socket is one of ICMP's.
    Sought(Sought, usize),
}

impl Start {
    /// Where the packets of a layer begin that go this way and have these ends.
    fn of<L: LayerType>(
        kind: LayerKind,
        direction: Direction,
        call: &Classify<'_, L>,
        ends: Ends,
    ) -> Self {
        let size = |size: Option<u32>| size.map(|size| size as usize).filter(|&size| size > 0);
        let sought = Sought {
            ends: [ends.local.address, ends.remote.address],
            ip: size(call.metadata.ip_header_size()),
            transport: size(call.metadata.transport_header_size()),
        };
        let ip = sought.ip.unwrap_or(0);
        match (kind, direction) {
            (LayerKind::OutboundIpPacket | LayerKind::IpForward, _) => Self::Sought(sought, 0),
            // The offset is at the transport header, or at the packet that the error complains about.
            (LayerKind::InboundIpPacket | LayerKind::InboundIcmpError, _) => {
                Self::Sought(sought, ip)
            }
            (_, Direction::Inbound) => {
                Self::Sought(sought, ip.saturating_add(sought.transport.unwrap_or(0)))
            }
            (_, Direction::Outbound) => Self::TransportHeader,
        }
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
