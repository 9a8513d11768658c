//! Connections from their authorization to their end.

mod shared;

use portcullis_core::inspect::DNS_PORT;
use portcullis_core::{
    Action, Application, Connection, DatagramVerdict, Endpoint, FlowHandle, Indication, Listener,
    Look, NotFollowed, StreamVerdict, Transfer,
};
use portcullis_proto::event::{HostSource, MAX_PATH_UNITS, Operation};
use portcullis_proto::{Counter, EventKind, EventRecord};
use shared::driver::{
    Core, core, count, events, events_of, incoming, indication, outgoing, receive, send,
    set_policy, withdraw_policy,
};
use shared::messages::{dns, http, tls};
use std::net::IpAddr;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

const BLOCK_EVIL: &str = r#"
    default = "permit"
    [[rule]]
    name = "evil"
    action = "block"
    host = ["evil.example", "*.evil.example"]
"#;

const ONLY_GOOD: &str = r#"
    default = "block"
    [[rule]]
    name = "good"
    action = "permit"
    host = "*.good.example"
    remote_port = [53, 80, 443]
"#;

fn connect(core: &Core, connection: &Connection<'_>) -> Action {
    core.authorize(Operation::Connect, connection, false).action
}

/// Authorizes and establishes a connection.
fn establish(core: &Core, connection: &Connection<'_>) -> FlowHandle {
    assert_eq!(connect(core, connection), Action::Permit);
    core.flow_established(&Connection {
        flow: 77,
        ..*connection
    })
    .expect("there is room")
}

fn ask(core: &Core, handle: FlowHandle, name: &str) -> DatagramVerdict {
    let query = dns(name);
    core.datagram(
        Some(handle),
        indication(Transfer::Sent, &query),
        query.chunks(7),
    )
}

fn answer(core: &Core, handle: FlowHandle) -> DatagramVerdict {
    core.datagram(
        Some(handle),
        indication(Transfer::Received, &[0; 90]),
        [&[0; 90][..]],
    )
}

#[test]
fn without_a_policy_everything_is_permitted_and_counted() {
    let core = core(4, "");
    let handle = establish(&core, &outgoing(TCP, 443));
    assert_eq!(
        send(&core, handle, &tls("evil.example")),
        StreamVerdict::Permit
    );
    assert_eq!(count(&core, Counter::NoPolicy), 1);
    assert!(events(&core).is_empty());
}

#[test]
fn a_stream_to_a_blocked_host_is_dropped_when_the_name_is_complete() {
    let core = core(4, BLOCK_EVIL);
    let handle = establish(&core, &outgoing(TCP, 443));
    let hello = tls("www.evil.example");
    let (first, second) = hello.split_at(40);
    assert_eq!(send(&core, handle, first), StreamVerdict::Permit);
    assert_eq!(send(&core, handle, second), StreamVerdict::DropConnection);
    assert_eq!(
        receive(&core, handle, b"too late"),
        StreamVerdict::DropConnection
    );
    assert_eq!(count(&core, Counter::StreamsDropped), 1);
    assert_eq!(count(&core, Counter::HostTls), 1);
    let named = events_of(&core, EventKind::HostName);
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].host(), Some("www.evil.example"));
    assert_eq!(named[0].verdict, Action::Block.raw());
    assert_eq!(named[0].rule(), Some(0));
    assert_eq!(named[0].flow.get(), 77, "WFP's handle");
}

#[test]
fn a_stream_to_another_host_goes_on() {
    let core = core(4, BLOCK_EVIL);
    let handle = establish(&core, &outgoing(TCP, 80));
    assert_eq!(
        send(&core, handle, &http("good.example")),
        StreamVerdict::Permit
    );
    assert_eq!(receive(&core, handle, &[0; 5000]), StreamVerdict::Permit);
    core.flow_deleted(handle);
    let closed = events_of(&core, EventKind::FlowClosed);
    assert_eq!(closed[0].host(), Some("good.example"));
    assert_eq!(closed[0].host_source, HostSource::Http.raw());
    assert_eq!(
        (
            closed[0].packets_sent.get(),
            closed[0].packets_received.get()
        ),
        (1, 1)
    );
    assert_eq!(
        (closed[0].bytes_sent.get(), closed[0].bytes_received.get()),
        (http("good.example").len() as u64, 5000)
    );
    assert_eq!(closed[0].verdict, Action::Permit.raw());
}

#[test]
fn where_a_host_may_still_permit_a_blocked_connection_is_admitted_until_it_is_known() {
    let core = core(4, ONLY_GOOD);
    let connection = outgoing(TCP, 443);
    let decision = core.authorize(Operation::Connect, &connection, false);
    assert_eq!(
        (decision.action, decision.host_dependent, decision.rule),
        (Action::Permit, true, None)
    );
    let good = core
        .flow_established(&Connection {
            flow: 1,
            ..connection
        })
        .expect("room");
    assert_eq!(
        send(&core, good, &tls("www.good.example")),
        StreamVerdict::Permit
    );
    let other = core
        .flow_established(&Connection {
            flow: 2,
            ..connection
        })
        .expect("room");
    assert_eq!(
        send(&core, other, &tls("good.example")),
        StreamVerdict::DropConnection
    );
    assert_eq!(count(&core, Counter::PendingHost), 2);
    let authorized = &events(&core)[0];
    assert_eq!(authorized.kind, EventKind::Authorize.raw());
    assert_ne!(authorized.flags.get() & EventRecord::PROVISIONAL, 0);
}

#[test]
fn where_no_host_turns_up_the_block_stands() {
    let core = core(8, ONLY_GOOD);
    let open = || {
        core.flow_established(&Connection {
            flow: 1,
            ..outgoing(TCP, 443)
        })
        .expect("room")
    };
    // Another protocol.
    assert_eq!(
        send(&core, open(), b"\x00\x01\x02"),
        StreamVerdict::DropConnection
    );
    // A responder that speaks first.
    assert_eq!(
        receive(&core, open(), b"220 ready\r\n"),
        StreamVerdict::DropConnection
    );
    // A request without a host.
    assert_eq!(
        send(&core, open(), b"GET / HTTP/1.0\r\n\r\n"),
        StreamVerdict::DropConnection
    );
    // An end in the middle of the greeting.
    let handle = open();
    assert_eq!(
        send(&core, handle, &tls("www.good.example")[..50]),
        StreamVerdict::Permit
    );
    let end = Indication {
        transfer: Transfer::Sent,
        look: Look::Inline,
        bytes: 0,
        is_end: true,
    };
    assert_eq!(
        core.stream(Some(handle), end, []),
        StreamVerdict::DropConnection
    );
    // Bytes that could not be mapped.
    let missing = Indication {
        transfer: Transfer::Sent,
        look: Look::Inline,
        bytes: 100,
        is_end: false,
    };
    assert_eq!(
        core.stream(Some(open()), missing, []),
        StreamVerdict::DropConnection
    );
    assert_eq!(count(&core, Counter::DataUnavailable), 1);
    assert_eq!(count(&core, Counter::StreamsDropped), 5);
}

#[test]
fn where_no_host_could_permit_a_block_comes_at_once() {
    let core = core(4, ONLY_GOOD);
    assert_eq!(connect(&core, &outgoing(TCP, 22)), Action::Block);
    assert_eq!(
        connect(&core, &outgoing(UDP, 443)),
        Action::Permit,
        "QUIC may name a host"
    );
    assert_eq!(connect(&core, &outgoing(ICMP, 0)), Action::Block);
    set_policy(
        &core,
        "default = \"block\"\n[[rule]]\naction = \"block\"\nhost = \"evil.example\"",
    );
    assert_eq!(
        connect(&core, &outgoing(TCP, 443)),
        Action::Block,
        "whatever the host is"
    );
}

#[test]
fn a_server_sees_the_host_that_its_client_asks_for() {
    let core = core(4, BLOCK_EVIL);
    let connection = incoming(TCP, 80);
    let handle = core
        .flow_established(&Connection {
            flow: 1,
            ..connection
        })
        .expect("room");
    assert_eq!(
        receive(&core, handle, &http("evil.example")),
        StreamVerdict::DropConnection
    );
}

#[test]
fn each_dns_query_is_decided_by_its_own_question_and_the_answers_follow() {
    let core = core(4, BLOCK_EVIL);
    let handle = establish(&core, &outgoing(UDP, DNS_PORT));
    assert_eq!(ask(&core, handle, "good.example"), DatagramVerdict::Permit);
    assert_eq!(answer(&core, handle), DatagramVerdict::Permit);
    assert_eq!(ask(&core, handle, "evil.example"), DatagramVerdict::Block);
    assert_eq!(answer(&core, handle), DatagramVerdict::Block);
    assert_eq!(ask(&core, handle, "good.example"), DatagramVerdict::Permit);
    assert_eq!(answer(&core, handle), DatagramVerdict::Permit);
    assert_eq!(count(&core, Counter::DatagramsBlocked), 2);
    assert_eq!(count(&core, Counter::HostDns), 3);
    let names: Vec<_> = events_of(&core, EventKind::HostName)
        .iter()
        .map(|event| event.verdict)
        .collect();
    assert_eq!(
        names,
        [
            Action::Permit.raw(),
            Action::Block.raw(),
            Action::Permit.raw()
        ]
    );
}

#[test]
fn a_datagram_to_port_53_that_is_no_query_names_no_host() {
    let core = core(4, ONLY_GOOD);
    let handle = establish(&core, &outgoing(UDP, DNS_PORT));
    assert_eq!(
        ask(&core, handle, "www.good.example"),
        DatagramVerdict::Permit
    );
    let tunnel = core.datagram(
        Some(handle),
        indication(Transfer::Sent, b"tunnel"),
        [&b"tunnel"[..]],
    );
    assert_eq!(tunnel, DatagramVerdict::Block);
}

#[test]
fn a_change_of_policy_reaches_flows_at_their_next_indication() {
    let core = core(4, "default = \"permit\"");
    let stream = establish(&core, &outgoing(TCP, 443));
    let datagrams = establish(&core, &outgoing(UDP, 4000));
    assert_eq!(
        send(&core, stream, &tls("example.com")),
        StreamVerdict::Permit
    );
    events(&core);
    set_policy(
        &core,
        "default = \"permit\"\n[[rule]]\naction = \"block\"\nhost = \"example.com\"\n[[rule]]\naction = \"block\"\nremote_port = 4000",
    );
    assert_eq!(
        receive(&core, stream, b"data"),
        StreamVerdict::DropConnection
    );
    let datagram = |core: &Core| {
        core.datagram(
            Some(datagrams),
            indication(Transfer::Sent, b"x"),
            [&b"x"[..]],
        )
    };
    assert_eq!(datagram(&core), DatagramVerdict::Block);
    let again = events_of(&core, EventKind::Reauthorize);
    assert_eq!(
        again
            .iter()
            .map(portcullis_proto::EventRecord::rule)
            .collect::<Vec<_>>(),
        [Some(0), Some(1)]
    );
    assert_eq!(count(&core, Counter::FlowsRedecided), 2);
    // A datagram flow may be permitted again, a dropped stream is gone.
    withdraw_policy(&core);
    assert_eq!(datagram(&core), DatagramVerdict::Permit);
    assert_eq!(
        receive(&core, stream, b"data"),
        StreamVerdict::DropConnection
    );
}

#[test]
fn a_full_table_leaves_decided_flows_unwatched_and_decides_others_without_their_host() {
    let core = core(1, BLOCK_EVIL);
    let connection = outgoing(TCP, 443);
    let first = establish(&core, &connection);
    let decision = core.authorize(Operation::Connect, &connection, false);
    assert_eq!(
        (decision.action, decision.host_dependent),
        (Action::Permit, false)
    );
    assert_eq!(
        core.flow_established(&Connection {
            flow: 2,
            ..outgoing(UDP, 4000)
        }),
        Err(NotFollowed::Unwatched)
    );
    assert_eq!(
        core.flow_established(&Connection {
            flow: 3,
            ..connection
        }),
        Err(NotFollowed::Unwatched),
        "it was decided without its host"
    );
    assert_eq!(
        core.stream(None, indication(Transfer::Sent, b"x"), [&b"x"[..]]),
        StreamVerdict::Permit
    );
    assert_eq!(
        (
            count(&core, Counter::FlowTableFull),
            count(&core, Counter::FlowRefused)
        ),
        (2, 0)
    );
    assert_eq!(count(&core, Counter::FlowMissing), 1);
    core.flow_deleted(first);
    assert!(
        core.flow_established(&Connection {
            flow: 4,
            ..connection
        })
        .is_ok()
    );
}

#[test]
fn a_flow_that_only_its_host_could_permit_is_aborted_when_the_table_has_filled_meanwhile() {
    let core = core(1, ONLY_GOOD);
    let connection = outgoing(TCP, 443);
    assert_eq!(connect(&core, &connection), Action::Permit, "for its host");
    let _first = establish(&core, &connection);
    assert_eq!(
        core.flow_established(&Connection {
            flow: 2,
            ..connection
        }),
        Err(NotFollowed::MustAbort)
    );
    assert_eq!(count(&core, Counter::FlowRefused), 1);
}

#[test]
fn a_handle_of_an_ended_flow_names_nothing() {
    let core = core(1, BLOCK_EVIL);
    let first = establish(&core, &outgoing(TCP, 443));
    core.flow_deleted(first);
    let second = establish(&core, &outgoing(TCP, 443));
    assert_ne!(first, second);
    assert_eq!(
        send(&core, first, &tls("evil.example")),
        StreamVerdict::Permit
    );
    core.flow_deleted(first);
    assert_eq!(count(&core, Counter::FlowStale), 2);
    assert_eq!(core.flows().len(), 1);
    assert_eq!(FlowHandle::from_raw(second.raw()), Some(second));
    assert_eq!(FlowHandle::from_raw(0), None);
}

#[test]
fn an_abandoned_flow_leaves_no_trace_but_its_count() {
    let core = core(1, BLOCK_EVIL);
    let handle = establish(&core, &outgoing(TCP, 443));
    events(&core);
    assert_eq!(core.flow_abandoned(handle), NotFollowed::Unwatched);
    assert!(core.flows().is_empty());
    assert!(events(&core).is_empty());
    assert_eq!(count(&core, Counter::FlowAssociateFailed), 1);
}

#[test]
fn at_a_stop_every_followed_flow_can_be_found() {
    let core = core(4, BLOCK_EVIL);
    let kept: Vec<_> = (0..3)
        .map(|flow| {
            core.flow_established(&Connection {
                flow,
                ..outgoing(TCP, 443)
            })
            .expect("room")
        })
        .collect();
    core.flow_deleted(kept[1]);
    let mut shown = Vec::new();
    core.flows()
        .for_each(|flow| shown.push((flow.handle, flow.system_flow, flow.protocol, flow.is_v6)));
    assert_eq!(shown, [(kept[0], 0, TCP, false), (kept[2], 2, TCP, false)]);
}

const fn listener(address: IpAddr, port: u16) -> Listener<'static> {
    Listener {
        local: Endpoint::new(address, port),
        application: Application::UNKNOWN,
        user: &[],
        process_id: 5,
    }
}

#[test]
fn a_listener_is_blocked_only_where_nobody_could_connect() {
    let core = core(
        4,
        r#"
        default = "block"
        [[rule]]
        action = "block"
        remote_address = "10.0.0.0/8"
        local_port = 80
        [[rule]]
        action = "permit"
        direction = "inbound"
        remote_address = "192.168.0.0/16"
        local_port = [80, 81]
        [[rule]]
        action = "permit"
        direction = "outbound"
        "#,
    );
    let everywhere = IpAddr::from([0, 0, 0, 0]);
    assert_eq!(
        core.listen(&listener(everywhere, 80)).action,
        Action::Permit,
        "someone may connect"
    );
    assert_eq!(core.listen(&listener(everywhere, 82)).action, Action::Block);
    let asked = events_of(&core, EventKind::Authorize);
    assert_eq!(asked.len(), 2);
    assert!(
        asked
            .iter()
            .all(|event| event.operation == Operation::Listen.raw()
                && event.remote_address == [0; 16])
    );
}

#[test]
fn a_listener_everywhere_is_not_blocked_by_a_rule_for_one_local_address() {
    let core = core(
        1,
        "default = \"permit\"\n[[rule]]\naction = \"block\"\nlocal_address = \"127.0.0.1\"\nlocal_port = 80",
    );
    assert_eq!(
        core.listen(&listener(IpAddr::from([0, 0, 0, 0]), 80))
            .action,
        Action::Permit
    );
    assert_eq!(
        core.listen(&listener(IpAddr::from([127, 0, 0, 1]), 80))
            .action,
        Action::Block
    );
}

#[test]
fn an_event_tells_who_and_what() {
    let path: Vec<u8> = "\\device\\harddiskvolume3\\app.exe\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let user = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
    let core = core(
        1,
        "default = \"permit\"\n[[rule]]\nname = \"app\"\naction = \"block\"\napplication = 'C:\\App.exe'\nuser = \"SYSTEM\"\nlog = true",
    );
    let connection = Connection {
        application: Application::new(&path),
        user: &user,
        ..outgoing(TCP, 443)
    };
    assert_eq!(connect(&core, &connection), Action::Block);
    let event = &events(&core)[0];
    assert_eq!(event.rule(), Some(0));
    assert_eq!(
        String::from_utf16_lossy(&event.application().collect::<Vec<_>>()),
        r"\device\harddiskvolume3\app.exe"
    );
    assert_eq!(event.user(), user);
    assert_eq!(
        (event.process_id.get(), event.protocol, event.family),
        (1234, TCP, 4)
    );
    assert_eq!(
        (&event.remote_address[..4], event.remote_port.get()),
        (&[192, 0, 2, 1][..], 443)
    );
    assert_eq!(event.flags.get(), EventRecord::LOGGED);
    assert_eq!((event.epoch.get(), event.sequence.get()), (1, 1));
}

#[test]
fn a_path_too_long_to_keep_is_never_permitted_by_its_name_and_always_blocked() {
    let long = format!(
        r"\device\harddiskvolume1\{}\app.exe",
        "x".repeat(MAX_PATH_UNITS)
    );
    let path: Vec<u8> = long.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let connection = Connection {
        application: Application::new(&path),
        ..outgoing(TCP, 443)
    };
    let core = core(
        2,
        "default = \"block\"\n[[rule]]\naction = \"permit\"\napplication = '*\\app.exe'",
    );
    assert_eq!(
        connect(&core, &connection),
        Action::Permit,
        "the whole path is at hand"
    );
    let handle = core
        .flow_established(&Connection {
            flow: 1,
            ..connection
        })
        .expect("room");
    assert_eq!(
        send(&core, handle, b"x"),
        StreamVerdict::DropConnection,
        "it is not any more"
    );
    assert_eq!(count(&core, Counter::PathTruncated), 1);
    set_policy(
        &core,
        "default = \"permit\"\n[[rule]]\naction = \"block\"\napplication = '*\\other.exe'",
    );
    let handle = core
        .flow_established(&Connection {
            flow: 1,
            ..connection
        })
        .expect("room");
    set_policy(
        &core,
        "default = \"permit\"\n[[rule]]\naction = \"block\"\napplication = 'C:\\other.exe'",
    );
    assert_eq!(send(&core, handle, b"x"), StreamVerdict::DropConnection);
}

#[test]
fn flows_on_several_processors_are_counted_to_the_last_byte() {
    let core = core(64, "default = \"permit\"");
    let rounds = 200;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let core = &core;
            scope.spawn(move || {
                for round in 0..rounds {
                    let handle = core
                        .flow_established(&Connection {
                            flow: thread * 1000 + round,
                            ..outgoing(TCP, 443)
                        })
                        .expect("room");
                    send(core, handle, &tls("example.com"));
                    receive(core, handle, b"hello");
                    core.flow_deleted(handle);
                }
            });
        }
    });
    assert!(core.flows().is_empty());
    assert_eq!(count(&core, Counter::FlowsCreated), 4 * rounds);
    assert_eq!(count(&core, Counter::FlowsDeleted), 4 * rounds);
    let closed = events_of(&core, EventKind::FlowClosed);
    assert_eq!(closed.len() as u64, 4 * rounds);
    let handles: std::collections::HashSet<_> =
        closed.iter().map(|event| event.flow.get()).collect();
    assert_eq!(handles.len() as u64, 4 * rounds, "no handle is used twice");
    assert!(
        closed
            .iter()
            .all(|event| event.bytes_received.get() == 5 && event.host() == Some("example.com"))
    );
}

/// What the initiator says, to be collected while its host is sought.
fn collect(core: &Core, handle: FlowHandle, bytes: &[u8]) -> StreamVerdict {
    let indication = Indication {
        look: Look::Collecting,
        ..indication(Transfer::Sent, bytes)
    };
    core.stream(Some(handle), indication, [bytes])
}

#[test]
fn what_names_the_host_is_collected_and_each_byte_looked_at_and_counted_once() {
    let core = core(4, BLOCK_EVIL);
    for (name, verdict) in [
        ("www.good.example", StreamVerdict::Permit),
        ("evil.example", StreamVerdict::DropConnection),
    ] {
        let handle = establish(&core, &outgoing(TCP, 443));
        let hello = tls(name);
        for length in 1..hello.len() {
            // All of it is shown again each time.
            assert_eq!(
                collect(&core, handle, &hello[..length]),
                StreamVerdict::NeedMore
            );
        }
        assert!(receive(&core, handle, b"") == StreamVerdict::Permit);
        assert_eq!(collect(&core, handle, &hello), verdict);
        let sent = core.flows().with(handle, |flow| flow.sent().bytes);
        assert_eq!(sent, Some(hello.len() as u64));
        if verdict == StreamVerdict::Permit {
            assert_eq!(collect(&core, handle, b"more"), StreamVerdict::Permit);
        }
        core.flow_deleted(handle);
    }
}

#[test]
fn where_no_rule_waits_for_the_host_nothing_is_collected() {
    let core = core(4, "default = 'permit'");
    let handle = establish(&core, &outgoing(TCP, 443));
    assert_eq!(
        collect(&core, handle, &tls("evil.example")[..20]),
        StreamVerdict::Permit
    );
}

#[test]
fn a_flow_whose_data_a_rule_would_change_or_look_through_does_not_go_on_unwatched() {
    for (policy, verdict) in [
        ("default = 'permit'", NotFollowed::Unwatched),
        (
            "default = 'permit'\n[[rule]]\naction = 'block'\ncontent = 'secret'",
            NotFollowed::MustAbort,
        ),
        (
            "default = 'permit'\n[[rule]]\naction = 'permit'\nprotocol = 'tcp'\nreplace = [{ find = 'a', with = 'b' }]",
            NotFollowed::MustAbort,
        ),
    ] {
        let core = core(4, policy);
        let handle = establish(&core, &outgoing(TCP, 443));
        assert_eq!(core.flow_abandoned(handle), verdict, "{policy}");
    }
}
