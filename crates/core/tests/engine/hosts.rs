//! Hosts: when they are known, and what is decided then.

use portcullis_core::inspect::DNS_PORT;
use portcullis_core::{
    Action, Connection, DatagramVerdict, FlowHandle, Indication, Look, StreamVerdict, Transfer,
};
use portcullis_proto::event::{HostSource, Operation};
use portcullis_proto::{Counter, EventKind, EventRecord};

use crate::shared::driver::{
    Core, core, count, events, events_of, incoming, indication, outgoing, receive, send, set_policy,
};
use crate::shared::messages::{dns, http, tls};
use crate::{BLOCK_EVIL, ICMP, ONLY_GOOD, TCP, UDP, connect, establish};

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
