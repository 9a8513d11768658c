//! Filling events in.

use super::packets::{IcmpError, anonymous};
use crate::connection::{Connection, Endpoint, Listener, Socket, TCP};
use crate::endpoint::EndpointTotals;
use crate::flow::Flow;
use crate::packet::{Done, Dropped, PathNews};
use crate::policy::{Decision, RuleIndex};
use core::net::IpAddr;
use portcullis_proto::Family;
use portcullis_proto::event::{
    EventKind, EventRecord, HostSource, MAX_PATH_UNITS, Operation, PacketChange, PacketDrop,
};
use portcullis_proto::policy::Direction;
use zerocopy::little_endian::{U16, U32, U64};

/// An event with its decision.
pub(super) fn event(kind: EventKind, decision: Decision, epoch: u64, time: u64) -> EventRecord {
    let mut flags = 0;
    if decision.host_dependent {
        flags |= EventRecord::PROVISIONAL;
    }
    if decision.log {
        flags |= EventRecord::LOGGED;
    }
    EventRecord {
        time: U64::new(time),
        kind: kind.raw(),
        verdict: decision.action.raw(),
        flags: U16::new(flags),
        rule: U32::new(RuleIndex::raw(decision.rule)),
        epoch: U64::new(epoch),
        ..EventRecord::default()
    }
}

/// The connection that an event speaks of.
pub(super) fn connection(event: &mut EventRecord, connection: &Connection<'_>) {
    event.direction = connection.direction.raw();
    event.protocol = connection.protocol;
    event.process_id = U64::new(connection.process_id);
    event.flow = U64::new(connection.flow);
    event.interface = U64::new(connection.interface);
    (event.family, event.local_address) = address(connection.local);
    (_, event.remote_address) = address(connection.remote);
    event.local_port = U16::new(connection.local.port);
    event.remote_port = U16::new(connection.remote.port);
    if let Some(user) = event.user.get_mut(..connection.user.len()) {
        user.copy_from_slice(connection.user);
        event.user_length = u8::try_from(connection.user.len()).unwrap_or(0);
    }
    let units = connection.application.units();
    let is_truncated = connection.application.is_truncated() || units.len() > MAX_PATH_UNITS;
    let mut length = 0;
    for (place, unit) in event.application.iter_mut().zip(units) {
        *place = U16::new(unit);
        length += 1;
    }
    event.application_length = U16::new(length);
    if is_truncated {
        event.flags |= EventRecord::APPLICATION_TRUNCATED;
    }
}

/// A connection's authorization.
pub(super) fn authorize(
    event: &mut EventRecord,
    operation: Operation,
    subject: &Connection<'_>,
    is_reauthorization: bool,
) {
    connection(event, subject);
    event.operation = operation.raw();
    if is_reauthorization {
        event.flags |= EventRecord::REAUTHORIZATION;
    }
}

/// Where something goes instead.
pub(super) const fn target(event: &mut EventRecord, target: Endpoint) {
    (_, event.target_address) = address(target);
    event.target_port = U16::new(target.port);
}

/// A listener's authorization. It has no remote side.
pub(super) fn listener(event: &mut EventRecord, listener: &Listener<'_>) {
    let subject = Connection {
        direction: Direction::Inbound,
        protocol: TCP,
        local: listener.local,
        remote: listener.local,
        application: listener.application,
        user: listener.user,
        process_id: listener.process_id,
        flow: 0,
        interface: listener.interface,
    };
    connection(event, &subject);
    event.operation = Operation::Listen.raw();
    event.remote_address = [0; 16];
    event.remote_port = U16::ZERO;
}

/// A socket that is bound, or was. It has no remote side, and its direction is not known.
pub(super) fn socket(event: &mut EventRecord, socket: &Socket<'_>) {
    listener(event, &socket.listener);
    event.operation = Operation::Bind.raw();
    event.protocol = socket.protocol;
    event.direction = 0;
    event.value = [u64::from(socket.promiscuous).into(), 0.into()];
    for (is_set, flag) in [
        (socket.is_raw, EventRecord::RAW_SOCKET),
        (socket.promiscuous != 0, EventRecord::PROMISCUOUS),
        (socket.any_port, EventRecord::ANY_PORT),
    ] {
        if is_set {
            event.flags |= flag;
        }
    }
}

/// An endpoint's end, with what its flows have carried.
pub(super) fn endpoint(event: &mut EventRecord, subject: &Connection<'_>, totals: &EndpointTotals) {
    connection(event, subject);
    event.flow = U64::ZERO;
    totals.report(event);
}

/// An ICMP error, with the packet that it complains about.
pub(super) fn icmp_error(event: &mut EventRecord, error: &IcmpError) {
    let about = error.about.unwrap_or(error.ends);
    let subject = Connection {
        interface: error.interface,
        ..anonymous(error.direction, &about)
    };
    connection(event, &subject);
    event.operation = Operation::IcmpError.raw();
    let reporter = match error.direction {
        Direction::Inbound => error.ends.remote,
        Direction::Outbound => error.ends.local,
    };
    (_, event.reporter) = address(reporter);
    let [kind, _] = error.ends.local.port.to_le_bytes();
    let [code, _] = error.ends.remote.port.to_le_bytes();
    event.value = [U64::from_bytes([kind, code, 0, 0, 0, 0, 0, 0]), U64::ZERO];
}

/// What was done to a connection's packets.
pub(super) fn packets(event: &mut EventRecord, news: &PathNews) {
    let what = match news.done {
        Done::Changed(edit) => PacketChange {
            dscp: edit.dscp,
            hop_limit: edit.hop_limit,
        }
        .to_value(),
        Done::Dropped(Dropped::Lost) => PacketDrop::Lost.raw().into(),
        Done::Dropped(Dropped::Full) => PacketDrop::QueueFull.raw().into(),
    };
    event.value = [U64::new(what), U64::ZERO];
    if matches!(news.done, Done::Changed(_)) && news.wire != news.remote {
        target(event, news.wire);
    }
}

/// The flow that an event speaks of, with its host and its traffic.
pub(super) fn flow(event: &mut EventRecord, flow: &Flow) {
    connection(event, &flow.connection());
    event.packets_sent = U64::new(flow.sent.packets);
    event.packets_received = U64::new(flow.received.packets);
    event.bytes_sent = U64::new(flow.sent.bytes);
    event.bytes_received = U64::new(flow.received.bytes);
    event.host_source = flow.host_source.map_or(0, HostSource::raw);
    if flow.has_encrypted_hello && flow.host_source.is_some() {
        event.flags |= EventRecord::ENCRYPTED_HELLO;
    }
    let name = flow.host_name().as_bytes();
    if let Some(host) = event.host.get_mut(..name.len()) {
        host.copy_from_slice(name);
        event.host_length = u8::try_from(name.len()).unwrap_or(0);
    }
}

/// An endpoint's IP version and address.
const fn address(endpoint: Endpoint) -> (u8, [u8; 16]) {
    match endpoint.address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            (
                Family::V4.raw(),
                [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            )
        }
        IpAddr::V6(v6) => (Family::V6.raw(), v6.octets()),
    }
}
