//! Sockets, endpoints and packets without a connection.

mod shared;

use portcullis_core::{
    Action, Application, Direction, Discarded, Endpoint, Ends, FlowHandle, IcmpError, Listener,
    Socket, Transfer,
};
use portcullis_proto::event::{Discard, Operation};
use portcullis_proto::{Counter, EventKind, EventRecord};
use shared::driver::{Core, core, count, events, events_of, indication, outgoing, receive, send};
use std::net::IpAddr;

const TCP: u8 = 6;
const UDP: u8 = 17;
const QUIET: &str = "default = \"permit\"";
const OBSERVE: &str = "default = \"permit\"\nobserve = true";

fn socket(protocol: u8, port: u16) -> Socket<'static> {
    Socket {
        listener: Listener {
            local: Endpoint::new(IpAddr::from([0, 0, 0, 0]), port),
            application: Application::UNKNOWN,
            user: &[],
            process_id: 7,
            interface: 0,
        },
        protocol,
        is_raw: false,
        any_port: false,
        promiscuous: 0,
    }
}

fn ends(protocol: u8, local: u16, remote: u16) -> Ends {
    Ends {
        protocol,
        local: Endpoint::new(IpAddr::from([10, 0, 0, 1]), local),
        remote: Endpoint::new(IpAddr::from([192, 0, 2, 1]), remote),
    }
}

/// A flow of the endpoint.
fn flow(core: &Core, protocol: u8, port: u16, endpoint: u64) -> FlowHandle {
    let handle = core
        .flow_established(&outgoing(protocol, port))
        .expect("there is room");
    core.flow_joins(handle, endpoint);
    handle
}

/// The totals of an endpoint's end: who began, flows, bytes sent and received.
const fn totals(event: &EventRecord) -> (u8, u64, u64, u64) {
    (
        event.direction,
        event.value[0].get(),
        event.bytes_sent.get(),
        event.bytes_received.get(),
    )
}

#[test]
fn binds_are_decided_by_rules_about_binds_alone() {
    let core = core(
        4,
        r#"
        default = "block"
        [[rule]]
        action = "block"
        local_port = 80
        [[rule]]
        action = "block"
        operation = "bind"
        local_port = 25
        "#,
    );
    assert_eq!(core.bind(&socket(TCP, 80)).action, Action::Permit);
    assert_eq!(core.bind(&socket(TCP, 25)).action, Action::Block);
    assert_eq!(core.bind(&socket(UDP, 25)).action, Action::Block);
    assert_eq!(count(&core, Counter::BindsBlocked), 2);
    let observed: Vec<_> = events(&core)
        .into_iter()
        .filter(|event| event.operation == Operation::Bind.raw())
        .collect();
    assert!(observed.is_empty(), "nobody asked: {observed:?}");
}

#[test]
fn what_is_observed_makes_events_only_when_the_policy_observes() {
    for (policy, told) in [(QUIET, 0), (OBSERVE, 1)] {
        let core = core(4, policy);
        core.bind(&socket(TCP, 80));
        core.released(&socket(TCP, 80));
        core.icmp_error(&IcmpError {
            direction: Direction::Inbound,
            ends: ends(1, 3, 3),
            about: Some(ends(UDP, 5000, 53)),
            interface: 0,
        });
        core.discarded(&Discarded {
            connection: outgoing(TCP, 443),
            discard: Discard {
                filter: 77,
                layer: 49,
                module: 2,
                reason: 0,
            },
        });
        let events = events(&core);
        for kind in [
            EventKind::Authorize,
            EventKind::Released,
            EventKind::IcmpError,
            EventKind::Discarded,
        ] {
            let found = events.iter().filter(|event| event.kind == kind.raw());
            assert_eq!(found.count(), told, "{kind} under {policy}");
        }
        let discard = events.iter().find_map(EventRecord::discard);
        assert_eq!(
            discard
                .map(|discard| (discard.filter, discard.layer))
                .is_some(),
            told == 1
        );
        assert_eq!(count(&core, Counter::Discards), 1);
    }
}

#[test]
fn an_endpoint_tells_the_totals_of_its_flows_whichever_ends_first() {
    for flows_end_first in [true, false] {
        let core = core(8, QUIET);
        let one = flow(&core, UDP, 4001, 5);
        let other = flow(&core, UDP, 4002, 5);
        for (handle, bytes) in [(one, &b"12"[..]), (other, b"345")] {
            core.datagram(Some(handle), indication(Transfer::Sent, bytes), [bytes]);
        }
        let close = || core.endpoint_closed(&outgoing(UDP, 0), 5);
        let end = || [one, other].map(|handle| core.flow_deleted(handle));
        if flows_end_first {
            end();
            close();
        } else {
            close();
            let early = events_of(&core, EventKind::EndpointClosed);
            assert!(early.is_empty(), "not before its last flow: {early:?}");
            end();
        }
        let closed = events_of(&core, EventKind::EndpointClosed);
        let outbound = Direction::Outbound.raw();
        assert_eq!(
            closed.iter().map(totals).collect::<Vec<_>>(),
            [(outbound, 2, 5, 0)]
        );
        // It is over: the same handle is a new endpoint.
        close();
        let again = events_of(&core, EventKind::EndpointClosed);
        assert_eq!(again.iter().map(totals).collect::<Vec<_>>(), [(0, 0, 0, 0)]);
    }
}

#[test]
fn endpoints_are_kept_apart_and_room_is_bounded() {
    let core = core(64, QUIET);
    let handles: Vec<_> = (1..=64)
        .map(|endpoint| flow(&core, TCP, 443, endpoint))
        .collect();
    for handle in &handles {
        send(&core, *handle, b"ab");
        receive(&core, *handle, b"cde");
    }
    let refused = count(&core, Counter::EndpointTableFull);
    assert!(refused < 16, "{refused} of 64 found no room");
    for handle in handles {
        core.flow_deleted(handle);
    }
    for endpoint in 1..=64 {
        core.endpoint_closed(&outgoing(TCP, 443), endpoint);
    }
    let closed = events_of(&core, EventKind::EndpointClosed);
    let known = closed.iter().filter(|event| event.value[0].get() == 1);
    assert!(known.clone().all(|event| totals(event) == (1, 1, 2, 3)));
    // Those that had no room may also have given way to others.
    assert!(known.count() as u64 + 2 * refused >= 64);
}
