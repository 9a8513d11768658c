//! What a layer's fields say of a connection.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_core::{Application, Connection, Direction, Endpoint};
use portcullis_proto::{
    Counter,
    policy::{interface_type, interfaces_of_type},
};
use wfp::{
    callout::Classify,
    flow::FlowId,
    layer::LayerType,
    schema::{self, ConditionFlags, IpVersion},
};

use crate::state::Core;

/// The value of a field that the layer always has. If WFP does not give it, that is counted, and
/// the decision is made without it.
pub(super) fn expect<T>(core: &Core, value: Option<T>, default: T) -> T {
    value.unwrap_or_else(|| {
        core.statistics().count(Counter::FieldMissing);
        default
    })
}

/// The address of nobody in particular.
pub(super) const fn unspecified(version: IpVersion) -> IpAddr {
    match version {
        IpVersion::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpVersion::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The IP version of what is sent between addresses like this one: an IPv4-mapped one is a dual-mode socket's, whose packets
/// are IPv4's whichever layer shows the socket.
pub(crate) const fn version_of(address: IpAddr) -> IpVersion {
    match address.to_canonical() {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    }
}

/// The application that owns the endpoint.
pub(super) fn application<'a, L: LayerType>(call: &Classify<'a, L>) -> Application<'a> {
    call.fields
        .application()
        .or_else(|| call.metadata.process_path())
        .map_or(Application::UNKNOWN, Application::new)
}

/// The SID of the user whom it runs as; empty if unknown.
pub(super) fn user<'a, L: LayerType>(core: &Core, call: &Classify<'a, L>) -> &'a [u8] {
    call.fields.user().unwrap_or_else(|| {
        core.statistics().count(Counter::UserUnavailable);
        &[]
    })
}

/// The connection that a classify of an ALE layer is about.
pub(super) fn connection<'a, L: LayerType>(
    core: &Core,
    call: &Classify<'a, L>,
    direction: Direction,
) -> Connection<'a> {
    let fields = &call.fields;
    let nowhere = unspecified(fields.version());
    Connection {
        direction,
        protocol: expect(core, fields.protocol(), 0),
        local: Endpoint::new(
            expect(core, fields.local_address(), nowhere),
            expect(core, fields.local_port(), 0),
        ),
        remote: Endpoint::new(
            expect(core, fields.remote_address(), nowhere),
            expect(core, fields.remote_port(), 0),
        ),
        application: application(call),
        user: user(core, call),
        process_id: call.metadata.process_id().unwrap_or(0),
        flow: call.metadata.flow().map_or(0, FlowId::get),
        interface: interface(call, direction),
    }
}

/// The LUID of the interface that the packet at hand takes, by which the connection is decided; 0 if unknown. When a
/// connection is authorized again, that may be a packet of the other direction.
fn interface<L: LayerType>(call: &Classify<'_, L>, direction: Direction) -> u64 {
    let direction = call.metadata.packet_direction().unwrap_or(match direction {
        Direction::Outbound => schema::Direction::Outbound,
        Direction::Inbound => schema::Direction::Inbound,
    });
    or_loopback(call, call.fields.luid(direction))
}

/// Whether this interface, by which a connection is decided, is the one that has its local address.
pub(super) fn is_local_interface<L: LayerType>(call: &Classify<'_, L>, interface: u64) -> bool {
    let luid = call.fields.local_luid();
    // Mostly it is, and is not looked at any further.
    luid == Some(interface) || or_loopback(call, luid) == interface
}

/// What this machine sends to itself takes no interface but that for loopback, whichever has the address.
fn or_loopback<L: LayerType>(call: &Classify<'_, L>, luid: Option<u64>) -> u64 {
    /// IANA's type of loopback interfaces.
    const LOOPBACK: u16 = 24;

    let luid = luid.unwrap_or(0);
    if call.fields.flags().contains(ConditionFlags::IS_LOOPBACK) && interface_type(luid) != LOOPBACK
    {
        return interfaces_of_type(LOOPBACK).0;
    }
    luid
}

/// The core's word for a direction.
pub(super) const fn direction(direction: schema::Direction) -> Direction {
    match direction {
        schema::Direction::Outbound => Direction::Outbound,
        schema::Direction::Inbound => Direction::Inbound,
    }
}
