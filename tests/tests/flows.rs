//! Flows are followed from their beginning to their end.

use std::ops::Range;

use ksim::Schedule;
use portcullis_proto::event::{EventKind, EventRecord};
use portcullis_proto::{Action, CalloutKind, Counter, Family};
use portcullis_tests::races::{begin, try_many, try_sampled, unload_beside};
use portcullis_tests::{Tcp, World, icmp_echo, icmp_echo_v6, udp};
use wfp_engine::CalloutId;
use wfp_schema::NtStatus;

fn closed(events: &[EventRecord]) -> Vec<&EventRecord> {
    events
        .iter()
        .filter(|event| event.kind == EventKind::FlowClosed.raw())
        .collect()
}

const fn tally(event: &EventRecord) -> [u64; 4] {
    [
        event.packets_sent.get(),
        event.packets_received.get(),
        event.bytes_sent.get(),
        event.bytes_received.get(),
    ]
}

#[test]
fn a_connections_bytes_are_counted_each_way() {
    for (client, server, outbound) in [
        ("192.0.2.10:50000", "198.51.100.1:80", true),
        ("[2001:db8::10]:50000", "[2001:db8::80]:80", true),
        ("198.51.100.1:50000", "192.0.2.10:80", false),
        ("[2001:db8::80]:50000", "[2001:db8::10]:80", false),
    ] {
        let mut world = World::with_policy("default = 'permit'");
        let mut tcp = Tcp::new(client, server);
        assert!(world.net.all_pass(&tcp.handshake()));
        assert_eq!(world.status().flows.get(), 1, "followed from its beginning");
        assert!(world.net.passes(tcp.client_says(&[b'q'; 100])));
        assert!(world.net.passes(tcp.server_says(&[b'a'; 1000])));
        assert!(world.net.passes(tcp.server_says(&[b'b'; 500])));
        assert!(world.net.all_pass(&tcp.close()));
        assert_eq!(world.status().flows.get(), 0, "and to its end");

        let events = world.events();
        let [end] = closed(&events)[..] else {
            panic!("one flow has closed: {events:?}")
        };
        let (sent, received) = if outbound {
            ([1, 100], [2, 1500])
        } else {
            ([2, 1500], [1, 100])
        };
        let [_, _, bytes_sent, bytes_received] = tally(end);
        assert_eq!(
            [bytes_sent, bytes_received],
            [sent[1], received[1]],
            "from {client}"
        );
        assert!(end.packets_sent.get() >= sent[0] && end.packets_received.get() >= received[0]);
        let direction = u8::from(!outbound) + 1;
        assert_eq!((end.direction, end.protocol), (direction, 6));
        world.end();
    }
}

#[test]
fn datagrams_are_counted_each_way_until_the_flow_falls_idle() {
    for (local, remote) in [
        ("192.0.2.10:50000", "198.51.100.1:9999"),
        ("[2001:db8::10]:50000", "[2001:db8::80]:9999"),
    ] {
        let mut world = World::with_policy("default = 'permit'");
        for size in [1, 20, 300] {
            assert!(world.net.passes(udp(local, remote, &vec![b'q'; size])));
        }
        assert!(world.net.passes(udp(remote, local, &[b'a'; 1000])));
        assert_eq!(world.status().flows.get(), 1);
        world.net.wait(3600);
        assert_eq!(world.status().flows.get(), 0);
        let events = world.events();
        let [end] = closed(&events)[..] else {
            panic!("one flow has closed: {events:?}")
        };
        assert_eq!(tally(end), [3, 1, 321, 1000]);
        assert_eq!((end.direction, end.protocol), (1, 17));
        world.end();
    }
}

#[test]
fn echo_requests_and_their_replies_are_one_flow() {
    let mut world = World::with_policy("default = 'permit'");
    assert!(world.net.passes(icmp_echo("192.0.2.10", "198.51.100.1", 8)));
    assert!(world.net.passes(icmp_echo("198.51.100.1", "192.0.2.10", 0)));
    assert!(
        world
            .net
            .passes(icmp_echo_v6("2001:db8::10", "2001:db8::80", 128))
    );
    assert!(
        world
            .net
            .passes(icmp_echo_v6("2001:db8::80", "2001:db8::10", 129))
    );
    world.net.finish();
    let events = world.events();
    let ends = closed(&events);
    assert_eq!(ends.len(), 2);
    for end in ends {
        assert_eq!(tally(end), [1, 1, 12, 12], "ICMP counts with its header");
    }
    world.end();
}

#[test]
fn a_flow_has_one_context_at_stream_for_tcp_and_at_datagram_for_all_else() {
    let mut world = World::with_policy("default = 'permit'");
    world
        .net
        .fates(&Tcp::new("192.0.2.10:50000", "198.51.100.1:80").handshake());
    world
        .net
        .fates(&Tcp::new("[2001:db8::10]:50000", "[2001:db8::80]:80").handshake());
    world
        .net
        .passes(udp("192.0.2.10:50001", "198.51.100.1:9999", b"x"));
    world.net.passes(icmp_echo("192.0.2.10", "198.51.100.1", 8));
    let contexts = |kind, family| {
        let id = world.callout(kind, family).callout_id.get();
        world.engine().context_count(CalloutId::new(id))
    };
    assert_eq!(contexts(CalloutKind::Stream, Family::V4), 1);
    assert_eq!(contexts(CalloutKind::Stream, Family::V6), 1);
    assert_eq!(contexts(CalloutKind::Datagram, Family::V4), 2);
    assert_eq!(contexts(CalloutKind::Datagram, Family::V6), 0);
    assert_eq!(contexts(CalloutKind::FlowEstablished, Family::V4), 0);
    world.net.finish();
    assert_eq!(
        world
            .callout(CalloutKind::Stream, Family::V4)
            .flow_delete
            .get(),
        1
    );
    assert_eq!(
        world
            .callout(CalloutKind::Datagram, Family::V4)
            .flow_delete
            .get(),
        2
    );
    world.end();
}

#[test]
fn a_callout_with_flow_contexts_is_busy_when_it_is_to_be_unregistered() {
    let mut world = World::with_policy("default = 'permit'");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    world.net.fates(&tcp.handshake());
    world
        .net
        .passes(udp("[2001:db8::10]:50001", "[2001:db8::80]:9999", b"x"));
    for (kind, family) in [
        (CalloutKind::Stream, Family::V4),
        (CalloutKind::Datagram, Family::V6),
    ] {
        let id = CalloutId::new(world.callout(kind, family).callout_id.get());
        assert_eq!(
            world.engine().unregister_by_id(id),
            Err(NtStatus::DEVICE_BUSY),
            "{kind:?} {family:?}"
        );
        assert!(
            world
                .engine()
                .registered_callouts()
                .iter()
                .any(|(registered, _)| *registered == id)
        );
    }
    assert!(world.net.passes(tcp.client_says(b"still here")));
    world.end();
}

#[test]
fn a_reset_ends_a_flow() {
    let mut world = World::with_policy("default = 'permit'");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    world.net.fates(&tcp.handshake());
    assert!(world.net.passes(tcp.reset()));
    assert_eq!(world.status().flows.get(), 0);
    assert_eq!(world.counter(Counter::FlowsDeleted), 1);
    world.end();
}

#[test]
fn a_connection_that_is_joined_in_the_middle_is_followed_from_there() {
    let mut world = World::with_policy("default = 'permit'");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    let _unseen = tcp.handshake();
    assert!(world.net.passes(tcp.client_says(b"data")));
    assert!(world.net.passes(tcp.server_says(b"answer")));
    assert_eq!(world.status().flows.get(), 1);
    assert!(world.net.all_pass(&tcp.close()));
    assert_eq!(world.status().flows.get(), 0);
    world.end();
}

#[test]
fn many_flows_come_and_go_and_none_is_forgotten() {
    let mut world = World::with_policy("default = 'permit'");
    for port in 40_000..41_000_u16 {
        let mut tcp = Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:80");
        let mut packets = tcp.handshake();
        packets.push(tcp.client_says(b"hello"));
        packets.push(tcp.server_says(b"goodbye"));
        packets.extend(tcp.close());
        assert!(world.net.all_pass(&packets));
    }
    assert_eq!(world.counter(Counter::FlowsCreated), 1000);
    assert_eq!(world.counter(Counter::FlowsDeleted), 1000);
    assert_eq!(world.status().flows.get(), 0);
    let deleted = world
        .callout(CalloutKind::Stream, Family::V4)
        .flow_delete
        .get();
    assert_eq!(deleted, 1000, "flowDelete ran once for each");
    world.end();
}

/// Fills the driver's table of flows.
fn fill(world: &mut World) -> u32 {
    let capacity = world.status().flow_capacity.get();
    let datagrams: Vec<Vec<u8>> = (0..capacity)
        .map(|flow| {
            udp(
                &format!("192.0.2.10:{}", 2_000 + flow % 50_000),
                "198.51.100.1:9999",
                b"x",
            )
        })
        .collect();
    // As on a machine on which connections do not begin all at once, the driver finds time to make room.
    for some in datagrams.chunks(512) {
        assert!(world.net.all_pass(some));
    }
    assert_eq!(world.status().flows.get(), capacity);
    capacity
}

/// Flows for which there is room at first: with one more than half of them, room is made for more.
const FIRST: u16 = 2048;

fn exchange(flow: u16) -> Vec<u8> {
    udp(
        &format!("192.0.2.10:{}", 2_000 + flow),
        "198.51.100.1:9999",
        b"x",
    )
}

fn exchanges(flows: Range<u16>) -> Vec<Vec<u8>> {
    flows.map(exchange).collect()
}

#[test]
fn the_table_of_flows_has_room_for_more_before_it_is_full() {
    let mut world = World::with_policy("default = 'permit'");
    assert!(world.net.all_pass(&exchanges(0..FIRST / 2 + 1)));
    assert!(world.net.all_pass(&exchanges(FIRST / 2 + 1..FIRST + 1)));
    assert_eq!(world.status().flows.get(), u32::from(FIRST) + 1);
    assert_eq!(world.counter(Counter::FlowTableFull), 0);
    world.end();
}

#[test]
fn without_memory_for_more_flows_the_table_is_full_until_there_is_some() {
    let mut world = World::with_policy("default = 'permit'");
    assert!(world.net.all_pass(&exchanges(0..FIRST / 2)));
    world.kernel.faults().fail_call("ExAllocatePool2", 1);
    assert!(world.net.passes(exchange(FIRST / 2)));
    assert_eq!(world.counter(Counter::OutOfMemory), 1);
    assert!(world.net.passes(exchange(FIRST / 2 + 1)), "it asks again");
    assert_eq!(world.counter(Counter::OutOfMemory), 1);
    assert!(world.net.all_pass(&exchanges(FIRST / 2 + 2..FIRST + 1)));
    assert_eq!(world.status().flows.get(), u32::from(FIRST) + 1);
    assert_eq!(world.counter(Counter::FlowTableFull), 0);
    world.end();
}

fn unload_against_growth(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, "default = 'permit'");
    assert!(net.all_pass(&exchanges(0..FIRST / 2)));
    unload_beside(world, || {
        assert!(net.all_pass(&exchanges(FIRST / 2..FIRST / 2 + 3)));
    });
}

#[test]
fn unloading_while_room_is_made_for_more_flows() {
    try_sampled(20, unload_against_growth);
    try_many(5, unload_against_growth);
}

#[test]
fn when_the_table_of_flows_is_full_a_decided_connection_goes_on_unwatched() {
    let mut world = World::with_policy("default = 'permit'");
    let capacity = fill(&mut world);
    let mut tcp = Tcp::new("192.0.2.10:60000", "198.51.100.1:80");
    assert!(world.net.all_pass(&tcp.handshake()));
    assert!(world.net.passes(tcp.client_says(b"unwatched")));
    assert_eq!(world.counter(Counter::FlowTableFull), 1);
    assert_eq!(world.status().flows.get(), capacity);
    world.net.wait(3600);
    assert_eq!(world.status().flows.get(), 0, "there is room again");
    world.end();
}

#[test]
fn when_the_table_of_flows_is_full_a_connection_whose_host_decides_is_decided_without_it() {
    let mut world = World::with_policy(
        "default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 443\nhost = 'ads.example.net'",
    );
    fill(&mut world);
    let mut tcp = Tcp::new("192.0.2.10:60000", "198.51.100.1:443");
    assert!(
        world.net.all_pass(&tcp.handshake()),
        "without a host the default decides"
    );
    world.set_policy("default = 'block'\n[[rule]]\naction = 'permit'\nremote_port = 443\nhost = 'www.example.net'");
    let mut tcp = Tcp::new("192.0.2.10:60001", "198.51.100.1:443");
    assert!(
        world.net.none_passes(&tcp.handshake()),
        "a permit that only a host could give is not given"
    );
    world.end();
}

#[test]
fn a_policy_that_changes_decides_live_flows_again() {
    let mut world = World::with_policy("default = 'permit'");
    let mut web = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    let mut mail = Tcp::new("192.0.2.10:50001", "198.51.100.1:25");
    for tcp in [&mut web, &mut mail] {
        assert!(world.net.all_pass(&tcp.handshake()));
        assert!(world.net.passes(tcp.client_says(b"before")));
    }
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.1:9999", b"before"))
    );
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.1:8888", b"before"))
    );
    world.set_policy(
        "default = 'permit'\n[[rule]]\nname = 'n'\naction = 'block'\nremote_port = [25, 8888]",
    );
    assert!(world.net.passes(web.client_says(b"after")));
    assert!(
        !world.net.passes(mail.client_says(b"after")),
        "the connection is dropped"
    );
    assert!(
        !world.net.passes(mail.server_says(b"after")),
        "for both ends"
    );
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.1:9999", b"after"))
    );
    assert!(
        !world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.1:8888", b"after"))
    );
    let events = world.events();
    let again: Vec<_> = events
        .iter()
        .filter(|event| event.kind == EventKind::Reauthorize.raw())
        .collect();
    assert!(
        again
            .iter()
            .any(|event| event.verdict == Action::Block.raw() && event.rule() == Some(0))
    );
    assert!(world.counter(Counter::FlowsRedecided) >= 3);
    assert_eq!(
        world.counter(Counter::FlowsEnded),
        2,
        "what is no longer allowed ends with the policy's arrival"
    );
    world.set_policy("default = 'permit'");
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.1:8888", b"again")),
        "datagrams flow again"
    );
    world.end();
}

#[test]
fn a_policy_that_is_withdrawn_permits_live_flows() {
    let mut world =
        World::with_policy("default = 'permit'\n[[rule]]\naction = 'block'\nprotocol = 'udp'");
    assert!(
        !world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.1:8888", b"no"))
    );
    assert_eq!(world.device().try_set_policy(&[]), NtStatus::SUCCESS);
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.1:8888", b"yes"))
    );
    assert_eq!(world.status().policy_rules.get(), 0);
    assert_eq!(world.status().policy_hash.get(), 0);
    world.end();
}
