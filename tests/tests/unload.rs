//! Unloading waits for what is in use, completes, and leaves the traffic alone.

use portcullis_proto::{Counter, DriverState};
use portcullis_tests::messages::client_hello;
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Tcp, World, icmp_echo, udp};

/// Live connections and exchanges, over both versions of IP, begun by either side.
struct Live {
    connections: Vec<Tcp>,
}

impl Live {
    fn begin(world: &mut World) -> Self {
        let mut connections = Vec::new();
        for port in 50_000..50_032_u16 {
            let (client, server) = match port % 4 {
                0 => (format!("192.0.2.10:{port}"), "198.51.100.1:443".to_owned()),
                1 => (
                    format!("[2001:db8::10]:{port}"),
                    "[2001:db8::80]:443".to_owned(),
                ),
                2 => (format!("198.51.100.1:{port}"), "192.0.2.10:80".to_owned()),
                _ => (
                    format!("[2001:db8::80]:{port}"),
                    "[2001:db8::10]:80".to_owned(),
                ),
            };
            let mut tcp = Tcp::new(&client, &server);
            assert!(world.net.all_pass(&tcp.handshake()));
            assert!(
                world
                    .net
                    .passes(tcp.client_says(&client_hello(Some("www.example.net"))[..30]))
            );
            connections.push(tcp);
            assert!(world.net.passes(udp(
                &format!("192.0.2.10:{port}"),
                "198.51.100.53:53",
                b"query"
            )));
            assert!(world.net.passes(udp(
                &format!("[2001:db8::80]:{port}"),
                "[2001:db8::10]:9999",
                b"datagram"
            )));
        }
        assert!(world.net.passes(icmp_echo("192.0.2.10", "198.51.100.1", 8)));
        Self { connections }
    }

    fn goes_on(&mut self, world: &mut World) {
        for tcp in &mut self.connections {
            assert!(world.net.passes(tcp.server_says(b"still here")));
            assert!(world.net.passes(tcp.client_says(b"so am I")));
            assert!(world.net.all_pass(&tcp.close()));
        }
        assert!(
            world
                .net
                .passes(udp("192.0.2.10:50000", "198.51.100.53:53", b"query"))
        );
    }
}

#[test]
fn unloading_with_live_flows_ends_each_flows_context_and_no_flow() {
    let mut world = World::with_policy("default = 'permit'");
    let mut live = Live::begin(&mut world);
    assert_eq!(world.status().flows.get(), 32 * 3 + 1);
    let registered = world.engine().registered_callouts();
    let contexts: usize = registered
        .iter()
        .map(|(id, _)| world.engine().context_count(*id))
        .sum();
    assert_eq!(contexts, 32 * 3 + 1, "each flow has one context");
    let flows = world.engine().flow_count();
    let report = world.unload();
    assert_clean(&report);
    world.assert_nothing_of_ours();
    assert_eq!(
        world.engine().flow_count(),
        flows,
        "the flows themselves live on"
    );
    live.goes_on(&mut world);
}

#[test]
fn unloading_right_after_the_start_completes() {
    for _ in 0..5 {
        World::new().end();
    }
}

#[test]
fn unloading_in_the_middle_of_a_handshake_leaves_the_connection_to_the_stack() {
    for sent in 1..3 {
        let mut world = World::with_policy("default = 'permit'");
        let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
        let handshake = tcp.handshake();
        assert!(world.net.all_pass(&handshake[..sent]));
        assert_clean(&world.unload());
        assert!(world.net.all_pass(&handshake[sent..]));
        assert!(world.net.passes(tcp.client_says(b"hello")));
        assert!(world.net.all_pass(&tcp.close()));
    }
}

#[test]
fn unloading_while_the_stack_collects_for_a_host_waits_for_the_rest_and_ends_the_connection_then() {
    let mut world = World::with_policy(
        "default = 'block'\n[[rule]]\naction = 'permit'\nhost = 'www.example.net'",
    );
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
    assert!(world.net.all_pass(&tcp.handshake()));
    let hello = client_hello(Some("ads.example.net"));
    assert!(world.net.passes(tcp.client_says(&hello[..40])));
    assert_eq!(world.counter(Counter::StreamsCollected), 1);
    // WFP forbids that filters go while data is collected, and nothing but more data ends that.
    assert_clean(&world.unload());
    world.net.settle();
    assert!(!world.net.passes(tcp.client_says(&hello[40..])));
    world.assert_nothing_of_ours();
}

#[test]
fn flows_that_end_after_the_unload_call_nobody() {
    let mut world = World::with_policy("default = 'permit'");
    let _live = Live::begin(&mut world);
    assert_clean(&world.unload());
    world.net.wait(3600);
    world.net.finish();
    assert_eq!(world.engine().flow_count(), 0);
    assert!(
        world.kernel.bugcheck().is_none(),
        "code that is gone would have faulted"
    );
}

#[test]
fn a_driver_that_returns_follows_the_flows_that_begin_then() {
    let mut world = World::with_policy("default = 'permit'");
    let mut old = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    assert!(world.net.all_pass(&old.handshake()));
    assert_clean(&world.unload());
    assert!(world.start().is_success());
    world.set_policy("default = 'permit'");
    assert_eq!(world.state(), DriverState::Active);
    assert!(world.net.passes(old.client_says(b"an old connection")));
    let mut new = Tcp::new("192.0.2.10:50001", "198.51.100.1:80");
    assert!(world.net.all_pass(&new.handshake()));
    assert_eq!(world.counter(Counter::FlowsCreated), 1);
    assert!(world.net.all_pass(&new.close()));
    assert!(world.net.all_pass(&old.close()));
    world.end();
}

#[test]
fn a_program_that_ends_with_reads_that_wait_does_not_keep_the_driver_from_being_unloaded() {
    let mut world = World::with_policy("default = 'permit'");
    let _live = Live::begin(&mut world);
    drop(world.events());
    let reads: Vec<_> = (0..4).map(|_| world.device().read_events(1)).collect();
    world.abandon_device();
    let report = world.unload();
    assert!(reads.iter().all(|read| read.poll().is_some()));
    assert_clean(&report);
    world.assert_nothing_of_ours();
}
