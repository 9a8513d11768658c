//! Captures: what came by the network layers is in the file, with what was decided about it, also what was blocked.

use ksim::net::{Identity, Processes, Setup};
use portcullis_proto::Counter;
use portcullis_proto::capture::StartCaptureRequest;
use portcullis_proto::policy::Range16;
use portcullis_tests::capture::{everything, start};
use portcullis_tests::messages::client_hello;
use portcullis_tests::{Net, Tcp, World, icmp_echo, icmp_echo_v6, udp};

/// What most captures run under.
pub(crate) const POLICY: &str = r"
    default = 'permit'
    [[rule]]
    name = 'no telnet'
    action = 'block'
    direction = 'outbound'
    protocol = 'tcp'
    remote_port = 23
    [[rule]]
    name = 'no guests'
    action = 'block'
    direction = 'inbound'
    remote_address = ['203.0.113.0/24', '2001:db8:bad::/48']
    [[rule]]
    name = 'no ads'
    action = 'block'
    host = 'ads.example.net'
    [[rule]]
    name = 'web'
    action = 'permit'
    protocol = 'tcp'
    remote_port = 443
";
/// The names of its rules.
pub(crate) const RULES: [&str; 4] = ["no telnet", "no guests", "no ads", "web"];

#[test]
fn every_packet_is_in_the_file_as_it_was_with_its_verdict_rule_and_application() {
    let mut world = World::with_policy(POLICY);
    let mut processes = Processes::default();
    for endpoint in ["192.0.2.10:50000", "[2001:db8::10]:50000"] {
        let identity = Identity::new(r"C:\curl.exe", 1000, "S-1-5-18".parse().expect("a SID"));
        processes.assign(endpoint.parse().expect("an endpoint"), identity);
    }
    world.owned_by(processes);
    let running = start(&world, everything(), &RULES, "verdicts");
    let mut sent = Vec::new();
    for (client, server) in [
        ("192.0.2.10:50000", "198.51.100.1:443"),
        ("[2001:db8::10]:50000", "[2001:db8::80]:443"),
    ] {
        let mut tcp = Tcp::new(client, server);
        sent.extend(tcp.handshake());
        sent.push(tcp.client_says(b"a question"));
        sent.push(tcp.server_says(b"an answer"));
        sent.extend(tcp.close());
    }
    sent.push(icmp_echo("192.0.2.10", "198.51.100.1", 8));
    sent.push(icmp_echo_v6("2001:db8::10", "2001:db8::80", 128));
    assert!(world.net.all_pass(&sent));
    let (captured, contents) = running.finish();
    let written: Vec<_> = contents.packets.iter().map(|packet| &packet.data).collect();
    assert_eq!(written, sent.iter().collect::<Vec<_>>());
    assert_eq!(contents.interfaces, ["portcullis", "portcullis-blocked"]);
    assert!(contents.packets.iter().all(|packet| packet.interface == 0));
    assert_eq!(captured.blocked, 0);
    for bytes in [&b"a question"[..], b"an answer"] {
        for comment in contents.comments(bytes) {
            assert!(
                comment.starts_with("permit by rule \"web\"; flow "),
                "{comment}"
            );
            assert!(comment.contains("outbound"), "{comment}");
            assert!(comment.contains("curl.exe (process 1000)"), "{comment}");
        }
    }
    for comment in contents.comments(b"ping") {
        assert!(comment.starts_with("permit by the default"), "{comment}");
    }
    let [seen, dropped, taken, delivered] = contents.statistics.expect("statistics");
    assert_eq!((seen, dropped), (sent.len() as u64, 0));
    assert!(taken > seen, "decisions are counted too");
    assert_eq!(delivered, sent.len() as u64);
    world.end();
}

#[test]
fn what_was_blocked_is_in_the_file_with_its_rule() {
    let mut world = World::with_policy(POLICY);
    let running = start(&world, everything(), &RULES, "blocked");
    for (host, peer, guest) in [
        ("192.0.2.10", "198.51.100.1", "203.0.113.7"),
        ("[2001:db8::10]", "[2001:db8::80]", "[2001:db8:bad::7]"),
    ] {
        // An outgoing connection, of which there is no packet yet.
        let mut telnet = Tcp::new(&format!("{host}:50000"), &format!("{peer}:23"));
        assert!(world.net.none_passes(&telnet.handshake()));
        // An incoming one, and a datagram.
        let mut from = Tcp::new(&format!("{guest}:50000"), &format!("{host}:80"));
        assert!(world.net.none_passes(&from.handshake()));
        let datagram = udp(&format!("{guest}:1"), &format!("{host}:2"), b"unwanted");
        assert!(!world.net.passes(datagram));
        // One that is dropped when its host is known.
        let mut ads = Tcp::new(&format!("{host}:50001"), &format!("{peer}:443"));
        assert!(world.net.all_pass(&ads.handshake()));
        let hello = client_hello(Some("ads.example.net"));
        assert!(!world.net.passes(ads.client_says(&hello)));
    }
    let (captured, contents) = running.finish();
    let of = |rule: &str| {
        let text = format!("block by rule \"{rule}\"");
        let found = contents.packets.iter();
        found
            .filter(|packet| packet.comment.contains(&text))
            .collect::<Vec<_>>()
    };
    let telnet = of("no telnet");
    assert_eq!(telnet.len(), 2, "{telnet:#?}");
    for packet in telnet {
        assert_eq!(packet.interface, 1, "it was no packet");
        assert!(packet.comment.contains("ALE_AUTH_CONNECT_V"), "{packet:?}");
        let port = packet.data[packet.data.len() - 18..packet.data.len() - 16].to_vec();
        assert_eq!(port, 23_u16.to_be_bytes());
    }
    let guests = of("no guests");
    assert_eq!(guests.len(), 4, "{guests:#?}");
    for packet in &guests {
        assert_eq!(packet.interface, 0, "it has come by");
        assert!(
            packet.comment.contains("ALE_AUTH_RECV_ACCEPT_V"),
            "{packet:?}"
        );
    }
    let unwanted = contents.comments(b"unwanted");
    assert_eq!(unwanted.len(), 2);
    assert!(unwanted[0].starts_with("block by rule \"no guests\" at "));
    let ads = of("no ads");
    assert!(!ads.is_empty());
    assert!(
        ads.iter().any(|packet| packet
            .comment
            .starts_with("connection dropped: block by rule \"no ads\"")
            && packet.comment.contains("host ads.example.net")),
        "{ads:#?}"
    );
    assert_eq!(captured.blocked_by["no telnet"], 2);
    assert_eq!(captured.blocked_by["no guests"], 4);
    assert_eq!(captured.blocked_by["no ads"], 2);
    world.end();
}

#[test]
fn the_filter_and_the_snap_length_bound_what_is_kept() {
    let mut world = World::with_policy(POLICY);
    let mut request = StartCaptureRequest::new(40, 1 << 16);
    request.protocols[0] = 17;
    request.protocol_count = 1;
    request.ports[0] = Range16 {
        first: 53.into(),
        last: 53.into(),
    };
    request.port_count = 1;
    let running = start(&world, request, &RULES, "snap");
    let long = udp("192.0.2.10:50000", "198.51.100.53:53", &[7; 500]);
    assert!(world.net.passes(&long));
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50000", "198.51.100.53:54", b"not this"))
    );
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.53:53");
    assert!(world.net.all_pass(&tcp.handshake()));
    let (captured, contents) = running.finish();
    assert_eq!(contents.packets.len(), 1, "{contents:#?}");
    assert_eq!(contents.packets[0].data, long[..40]);
    assert_eq!(contents.packets[0].original_length as usize, long.len());
    assert_eq!(captured.counts.seen.get(), 5);
    world.end();
}

#[test]
fn flows_of_rules_with_mirror_are_captured_though_the_filter_does_not_take_them() {
    let policy = r"
        default = 'permit'
        [[rule]]
        name = 'watched'
        action = 'permit'
        remote_port = 443
        mirror = true
    ";
    let mut world = World::with_policy(policy);
    // One flow is older than the capture.
    let mut old = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
    assert!(world.net.all_pass(&old.handshake()));
    let mut request = everything();
    request.protocols[0] = 1;
    request.protocol_count = 1;
    let running = start(&world, request, &["watched"], "mirror");
    assert!(world.net.passes(old.client_says(b"older")));
    let mut new = Tcp::new("[2001:db8::10]:50001", "[2001:db8::80]:443");
    assert!(world.net.all_pass(&new.handshake()));
    assert!(world.net.passes(new.client_says(b"newer")));
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"neither"))
    );
    let (_, contents) = running.finish();
    let count = |bytes: &[u8]| contents.comments(bytes).len();
    assert_eq!(
        (count(b"older"), count(b"newer"), count(b"neither")),
        (1, 1, 0)
    );
    let [comment] = contents.comments(b"newer")[..] else {
        panic!("it is there once");
    };
    assert!(
        comment.starts_with("permit by rule \"watched\""),
        "{comment}"
    );
    world.end();
}

#[test]
fn what_a_rule_loses_is_captured_whichever_way_it_goes() {
    let policy = r"
        default = 'permit'
        [[rule]]
        name = 'lossy'
        action = 'permit'
        remote_port = 53
        loss = '100 %'
    ";
    let mut world = World::with_policy(policy);
    let running = start(&world, everything(), &["lossy"], "lossy");
    for (host, server) in [
        ("192.0.2.10:50000", "198.51.100.1:53"),
        ("[2001:db8::10]:50000", "[2001:db8::80]:53"),
    ] {
        assert!(!world.net.passes(udp(host, server, b"question")));
        assert!(!world.net.passes(udp(server, host, b"answer")));
    }
    assert_eq!(world.counter(Counter::PacketsLost), 4);
    let (_, contents) = running.finish();
    for data in [b"question" as &[u8], b"answer"] {
        let comments = contents.comments(data);
        assert_eq!(comments.len(), 2, "once of each family");
        for comment in comments {
            assert!(comment.starts_with("permit by rule \"lossy\""), "{comment}");
        }
    }
    world.end();
}

#[test]
fn a_ring_that_is_full_drops_and_the_file_says_how_many() {
    let mut world = World::with_policy(POLICY);
    let mut running = start(
        &world,
        StartCaptureRequest::new(1_500, 1 << 16),
        &RULES,
        "full",
    );
    for _ in 0..100 {
        assert!(
            world
                .net
                .passes(udp("192.0.2.10:1", "198.51.100.1:2", &[1; 1_400]))
        );
    }
    running.take();
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"after the gap"))
    );
    let (captured, contents) = running.finish();
    let [seen, dropped, ..] = contents.statistics.expect("statistics");
    assert_eq!(seen, 101);
    assert!(dropped > 50, "{dropped}");
    assert_eq!(contents.packets.len() as u64, seen - dropped);
    assert_eq!(captured.lost, dropped);
    assert_eq!(world.counter(Counter::CaptureDropped), dropped);
    let [comment] = contents.comments(b"after the gap")[..] else {
        panic!("it is there once");
    };
    assert!(
        comment.starts_with(&format!("{dropped} records were lost before this; ")),
        "{comment}"
    );
    world.end();
}

#[test]
fn forwarded_packets_are_captured_and_blocked_by_their_rules() {
    let policy = r"
        default = 'block'
        [[rule]]
        name = 'no transit'
        action = 'block'
        operation = 'forward'
        protocol = 'udp'
        remote_port = 53
    ";
    let mut world = World::with_policy(policy);
    world.net = Net::with_setup(
        &world.kernel,
        0,
        Setup {
            forwarding: true,
            ..Setup::default()
        },
    );
    let running = start(&world, everything(), &["no transit"], "forward");
    for (from, to) in [
        ("198.51.100.7", "203.0.113.9"),
        ("[2001:db8:1::7]", "[2001:db8:2::9]"),
    ] {
        let ntp = udp(&format!("{from}:123"), &format!("{to}:123"), b"time");
        assert!(world.net.passes(ntp), "the default is about connections");
        let dns = udp(&format!("{from}:5000"), &format!("{to}:53"), b"query");
        assert!(!world.net.passes(dns));
    }
    let (captured, contents) = running.finish();
    assert_eq!(contents.packets.len(), 4, "{contents:#?}");
    assert_eq!(captured.blocked_by["no transit"], 2);
    for comment in contents.comments(b"query") {
        assert!(
            comment.starts_with("block by rule \"no transit\" at IPFORWARD_V"),
            "{comment}"
        );
    }
    assert_eq!(world.counter(Counter::ForwardBlocked), 2);
    world.end();
}
