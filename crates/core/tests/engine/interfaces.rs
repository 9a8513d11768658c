//! Flows whose packets take another interface than before.

use portcullis_core::{Action, Connection, DatagramVerdict, FlowHandle, StreamVerdict, Transfer};
use portcullis_proto::Counter;
use portcullis_proto::event::{EventKind, Operation};

use crate::shared::driver::{
    Core, core, count, events_of, incoming, indication, outgoing, send, set_policy,
};
use crate::{ICMP, TCP, UDP};

const ETHERNET: u64 = 6 << 48 | 2 << 24;
const WIFI: u64 = 71 << 48 | 3 << 24;
const TUNNEL: u64 = 53 << 48 | 4 << 24;

/// What leaves, leaves through the tunnel.
const KILL_SWITCH: &str = r#"
    default = "block"
    [[rule]]
    name = "tunnel"
    action = "permit"
    interface = "0x35000004000000"
"#;

/// On Wi-Fi one word may not be said.
const CAREFUL_ON_WIFI: &str = r#"
    default = "permit"
    [[rule]]
    name = "nothing secret on Wi-Fi"
    action = "block"
    interface_type = "wifi"
    content = "secret"
"#;

const fn over(interface: u64, connection: Connection<'static>) -> Connection<'static> {
    Connection {
        interface,
        flow: 7,
        ..connection
    }
}

fn ask(core: &Core, connection: &Connection<'_>, again: bool) -> Action {
    core.authorize(Operation::Connect, connection, again).action
}

fn begin(core: &Core, connection: &Connection<'_>) -> FlowHandle {
    assert_eq!(ask(core, connection, false), Action::Permit);
    core.flow_established(connection).expect("there is room")
}

#[test]
fn a_connection_is_decided_by_its_interface_and_an_unknown_one_is_no_tunnel() {
    let core = core(4, KILL_SWITCH);
    for protocol in [TCP, UDP, ICMP] {
        let connection = outgoing(protocol, 443);
        assert_eq!(ask(&core, &over(TUNNEL, connection), false), Action::Permit);
        assert_eq!(
            ask(&core, &over(ETHERNET, connection), false),
            Action::Block
        );
        assert_eq!(ask(&core, &over(0, connection), false), Action::Block);
    }
    set_policy(
        &core,
        "default = 'permit'\n[[rule]]\naction = 'block'\ninterface_type = ['wifi', 'ethernet']",
    );
    for (interface, expected) in [
        (TUNNEL, Action::Permit),
        (WIFI, Action::Block),
        (ETHERNET, Action::Block),
        (0, Action::Block),
    ] {
        let connection = over(interface, incoming(TCP, 80));
        let decision = core.authorize(Operation::Accept, &connection, false);
        assert_eq!(decision.action, expected, "{interface:x}");
    }
}

#[test]
fn a_connection_that_is_authorized_again_over_another_interface_is_decided_by_that() {
    let core = core(4, KILL_SWITCH);
    let flow = begin(&core, &over(TUNNEL, outgoing(TCP, 443)));
    assert_eq!(send(&core, flow, b"x"), StreamVerdict::Permit);
    let moved = over(ETHERNET, outgoing(TCP, 443));
    assert_eq!(
        ask(&core, &moved, true),
        Action::Block,
        "the system ends it"
    );
    core.flow_deleted(flow);
    assert!(!core.is_followed(7));
}

#[test]
fn what_a_flow_remembers_of_its_interface_moves_with_it() {
    let core = core(4, CAREFUL_ON_WIFI);
    let connection = outgoing(TCP, 80);
    let flow = begin(&core, &over(ETHERNET, connection));
    assert_eq!(send(&core, flow, b"a secret"), StreamVerdict::Permit);
    assert_eq!(ask(&core, &over(WIFI, connection), true), Action::Permit);
    assert_eq!(count(&core, Counter::FlowsMoved), 1);
    assert_eq!(ask(&core, &over(WIFI, connection), true), Action::Permit);
    assert_eq!(
        count(&core, Counter::FlowsMoved),
        1,
        "it has not moved since"
    );
    assert_eq!(
        send(&core, flow, b"a secret"),
        StreamVerdict::DropConnection
    );

    // And back again.
    let datagrams = outgoing(UDP, 4000);
    let flow = begin(&core, &over(WIFI, datagrams));
    assert_eq!(ask(&core, &over(ETHERNET, datagrams), true), Action::Permit);
    let said = core.datagram(
        Some(flow),
        indication(Transfer::Sent, b"a secret"),
        [&b"a secret"[..]],
    );
    assert_eq!(said, DatagramVerdict::Permit);
}

#[test]
fn a_new_policy_decides_a_flow_by_the_interface_that_it_has_now() {
    for (now, ended) in [(TUNNEL, 0), (ETHERNET, 1)] {
        // No rule of the first policy asks for the interface, which is remembered all the same.
        let core = core(4, "default = 'permit'");
        let connection = outgoing(TCP, 443);
        let before = if now == TUNNEL { ETHERNET } else { TUNNEL };
        let _flow = begin(&core, &over(before, connection));
        assert_eq!(ask(&core, &over(now, connection), true), Action::Permit);
        set_policy(&core, KILL_SWITCH);
        let mut aborted = 0;
        core.reexamine(|_| aborted += 1);
        assert_eq!(aborted, ended, "{now:x}");
    }
}

#[test]
fn events_tell_the_interface() {
    let core = core(4, KILL_SWITCH);
    ask(&core, &over(WIFI, outgoing(TCP, 443)), false);
    let events = events_of(&core, EventKind::Authorize);
    assert_eq!(events[0].interface.get(), WIFI);
}
