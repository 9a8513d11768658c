//! Packets that rules delay, limit and lose, in simulated time.

use ksim::net::Output;
use portcullis_proto::Counter;
use portcullis_tests::{Tcp, World, udp};

/// 100-nanosecond units.
const MILLISECOND: u64 = 10_000;
const SECOND: u64 = 1_000 * MILLISECOND;

fn world(rule: &str) -> World {
    let world = World::with_policy(&format!(
        "default = 'permit'\n[[rule]]\naction = 'permit'\n{rule}\n"
    ));
    world.with_output()
}

const V4: (&str, &str) = ("192.0.2.10:50000", "198.51.100.1:9999");
const V6: (&str, &str) = ("[2001:db8::10]:50000", "[2001:db8::80]:9999");

/// Datagrams that are told apart by their first byte.
fn datagrams(from: &str, to: &str, count: u8, bytes: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| udp(from, to, &vec![number; bytes]))
        .collect()
}

/// Which datagram it is that left, or arrived.
fn number(output: &Output) -> Option<u8> {
    match output {
        Output::Sent(packet) => packet.last().copied(),
        Output::Datagram { bytes, .. } => bytes.last().copied(),
        Output::Stream { .. } => None,
    }
}

/// Gives packets at once, and lets time pass. When each goes on, in milliseconds after they came.
fn times(world: &mut World, packets: &[Vec<u8>], ticks: u64) -> Vec<(u64, u8)> {
    let start = world.net.now();
    let now = world.net.at_once(packets);
    let later = world.net.pass(ticks);
    let now = now.into_iter().map(|output| (start, output));
    now.chain(later)
        .filter_map(|(time, output)| Some(((time - start) / MILLISECOND, number(&output)?)))
        .collect()
}

#[test]
fn what_is_delayed_goes_on_later_in_its_order_both_ways() {
    for (local, remote) in [V4, V6] {
        let mut world = world("remote_port = 9999\ndelay = '50 ms'");
        let sent = times(&mut world, &datagrams(local, remote, 3, 10), SECOND);
        assert_eq!(sent, [(50, 0), (50, 1), (50, 2)], "sent, {local}");
        let received = times(&mut world, &datagrams(remote, local, 3, 10), SECOND);
        assert_eq!(received, [(50, 0), (50, 1), (50, 2)], "received, {local}");
        assert_eq!(world.counter(Counter::PacketsDelayed), 6);
        world.net.finish();
        world.end();
    }
}

#[test]
fn jitter_varies_the_delay_and_keeps_the_order() {
    let mut world = world("remote_port = 9999\ndelay = '20 ms'\njitter = '30 ms'");
    let mut all = Vec::new();
    for _ in 0..20 {
        all.extend(times(
            &mut world,
            &datagrams(V4.0, V4.1, 1, 10),
            100 * MILLISECOND,
        ));
    }
    assert_eq!(all.len(), 20);
    assert!(
        all.iter().all(|&(time, _)| (20..=50).contains(&time)),
        "{all:?}"
    );
    assert!(all.iter().any(|&(time, _)| time != all[0].0), "{all:?}");
    let many = times(&mut world, &datagrams(V4.0, V4.1, 50, 10), SECOND);
    assert!(many.is_sorted() && many.len() == 50, "{many:?}");
    world.end();
}

#[test]
fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
    for (local, remote, header) in [(V4.0, V4.1, 28), (V6.0, V6.1, 48)] {
        // 1,000 bytes a datagram; 2 kB at once, then 10 kB/s, which is one each 100 ms.
        let mut world =
            world("remote_port = 9999\nrate = '10 kB/s'\nburst = '2 kB'\nqueue = '3 kB'");
        let sent = times(
            &mut world,
            &datagrams(local, remote, 8, 1_000 - header),
            2 * SECOND,
        );
        let wanted = [(0, 0), (0, 1), (100, 2), (200, 3), (300, 4)];
        assert_eq!(sent, wanted, "three in the queue, and the others dropped");
        assert_eq!(world.counter(Counter::PacketQueueFull), 3);
        // The other way has a bucket of its own.
        let received = times(
            &mut world,
            &datagrams(remote, local, 3, 1_000 - header),
            SECOND,
        );
        assert_eq!(received, [(0, 0), (0, 1), (100, 2)]);
        world.net.finish();
        world.end();
    }
}

/// How many of two datagrams each of four flows go on at once: two of the rule, whose bucket has room for one, one of each IP
/// version; one of another rule, and one of none.
fn at_once(world: &mut World) -> [usize; 4] {
    let mut pairs = [V4, V6, V4, V4];
    pairs[2].1 = "198.51.100.1:9998";
    pairs[3].1 = "198.51.100.1:9997";
    pairs.map(|(local, remote)| {
        let start = world.net.now();
        let sent = times(world, &datagrams(local, remote, 2, 900), 0);
        assert_eq!(world.net.now(), start);
        sent.len()
    })
}

const TWO_RULES: &str = "remote_port = 9999\nrate = '10 kB/s'\nburst = '1 kB'\n[[rule]]\naction = 'permit'\nremote_port = 9998\nrate = '10 kB/s'\nburst = '1 kB'";

#[test]
fn the_connections_of_a_rule_share_its_bucket_and_another_rules_have_theirs() {
    let mut world = world(TWO_RULES);
    assert_eq!(at_once(&mut world), [1, 0, 1, 2]);
    // What was too much waits for the rate, in the order in which it came, whoever it is of.
    let start = world.net.now();
    let later = world.net.pass(SECOND).into_iter();
    let later: Vec<_> = later
        .map(|(time, _)| (time - start) / MILLISECOND)
        .collect();
    // 928 bytes with UDP over IPv4, 948 over IPv6, at ten a millisecond.
    assert_eq!(later, [85, 85, 180, 275]);
    // A policy that is set begins with full buckets, for those too who were there before.
    let policy = format!("default = 'permit'\n[[rule]]\naction = 'permit'\n{TWO_RULES}\n");
    world.set_policy(&policy);
    assert_eq!(at_once(&mut world), [1, 0, 1, 2]);
    world.net.finish();
    world.end();
}

#[test]
fn each_flow_has_its_own_bucket_where_the_rate_is_per_flow() {
    let mut world = world(&TWO_RULES.replace("rate =", "rate_per = 'flow'\nrate ="));
    assert_eq!(at_once(&mut world), [1, 1, 1, 2]);
    world.net.finish();
    world.end();
}

#[test]
fn a_connection_is_limited_and_its_stream_arrives_whole() {
    for (client, server) in [
        ("192.0.2.10:50000", "198.51.100.1:443"),
        ("[2001:db8::10]:50000", "[2001:db8::80]:443"),
    ] {
        let mut world =
            world("protocol = 'tcp'\nrate = '50 kB/s'\nburst = '1500 B'\ndelay = '10 ms'");
        let mut tcp = Tcp::new(client, server);
        for segment in tcp.handshake() {
            world.net.at_once(&[segment]);
            world.net.pass(100 * MILLISECOND);
        }
        let data: Vec<u8> = (0..=255_u8).cycle().take(10_000).collect();
        let segments: Vec<Vec<u8>> = data
            .chunks(1_000)
            .map(|piece| tcp.server_says(piece))
            .collect();
        let start = world.net.now();
        let mut got = Vec::new();
        let mut keep = |output: Output| {
            if let Output::Stream { bytes, .. } = output {
                got.extend(bytes);
            }
        };
        world.net.at_once(&segments).into_iter().for_each(&mut keep);
        let mut last = start;
        for (time, output) in world.net.pass(2 * SECOND) {
            last = time;
            keep(output);
        }
        assert!(
            got == data,
            "{client}: {} bytes of {}",
            got.len(),
            data.len()
        );
        // Ten segments of a little more than 1,000 bytes at 50 kB/s, but for one that comes in the burst.
        let took = (last - start) / MILLISECOND;
        assert!((185..215).contains(&took), "{took} ms");
        world.net.finish();
        world.end();
    }
}

#[test]
fn so_many_packets_are_lost_as_the_rule_says() {
    let mut world = world("remote_port = 9999\nloss = '20 %'");
    let sent = (0..10)
        .map(|_| times(&mut world, &datagrams(V4.0, V4.1, 200, 10), MILLISECOND).len())
        .sum::<usize>();
    let lost = world.counter(Counter::PacketsLost);
    assert_eq!(sent as u64 + lost, 2_000);
    assert!((320..480).contains(&lost), "{lost} of 2,000");
    world.end();
}

#[test]
fn what_a_rule_does_together_is_done_together() {
    let mut world = world("remote_port = 9999\ndelay = '5 ms'\nttl = 3\ntranslate = ':53'");
    let start = world.net.now();
    assert_eq!(world.net.at_once(&datagrams(V4.0, V4.1, 1, 10)), []);
    let out = world.net.pass(SECOND);
    let [(time, Output::Sent(packet))] = out.as_slice() else {
        panic!("{out:?}");
    };
    assert_eq!((time - start) / MILLISECOND, 5);
    assert_eq!((packet[8], &packet[22..24]), (3, &[0, 53][..]));
    world.end();
}

#[test]
fn when_there_is_no_room_for_more_packets_they_are_dropped_and_counted() {
    let mut world = world("remote_port = 9999\ndelay = '5 s'");
    let mut sent = 0;
    for _ in 0..6 {
        sent += times(&mut world, &datagrams(V4.0, V4.1, 250, 10), 0).len();
    }
    assert_eq!(sent, 0);
    let held = world.counter(Counter::PacketsDelayed);
    let dropped = world.counter(Counter::PacketsDropped);
    assert_eq!((held, dropped), (1_024, 476));
    assert_eq!(world.counter(Counter::PacketMemoryFull), 476);
    assert_eq!(world.net.pass(10 * SECOND).len(), 1_024);
    // There is room again.
    assert_eq!(
        times(&mut world, &datagrams(V4.0, V4.1, 3, 10), 10 * SECOND).len(),
        3
    );
    world.end();
}

#[test]
fn an_unload_drops_what_waits_and_leaves_nothing() {
    let mut world = world("remote_port = 9999\ndelay = '5 s'");
    for (local, remote) in [V4, V6] {
        world.net.at_once(&datagrams(local, remote, 200, 1_000));
        world.net.at_once(&datagrams(remote, local, 200, 1_000));
        world.net.at_once(&datagrams(local, remote, 4, 20_000));
    }
    assert!(world.counter(Counter::PacketsDelayed) > 400);
    world.end();
}

#[test]
fn a_policy_that_no_longer_delays_lets_what_waits_go_in_its_time() {
    let mut world = world("remote_port = 9999\ndelay = '100 ms'");
    assert_eq!(world.net.at_once(&datagrams(V4.0, V4.1, 2, 10)), []);
    world.set_policy("default = 'permit'");
    let sent = times(
        &mut world,
        &datagrams(V4.0, "198.51.100.1:9998", 1, 10),
        SECOND,
    );
    assert_eq!(sent, [(0, 0), (100, 0), (100, 1)]);
    world.end();
}
