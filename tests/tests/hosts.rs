//! Rules for hosts: what they drop, and that they drop nothing else.

#[path = "../../crates/core/tests/shared/quic.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the core's tests")]
pub(crate) mod quic;

use ksim::Config;
use ksim::ndis::MdlLayout;
use portcullis_proto::event::{EventKind, HostSource};
use portcullis_proto::{Action, Counter, EventRecord};
use portcullis_tests::messages::{
    client_hello, dns_answer, dns_query, encrypted_hello, http_request, over_tcp,
};
use portcullis_tests::random::Random;
use portcullis_tests::streams::Arrived;
use portcullis_tests::{Tcp, World, udp};

const NO_ADS: &str = "
    default = 'permit'
    [[rule]]
    action = 'block'
    host = ['ads.example.net', '*.ads.example.net']
    log = true
";

/// Connections from ever new ports, so that none is another's.
struct Clients(u16);

impl Clients {
    fn connect(&mut self, world: &mut World, port: u16) -> Tcp {
        self.0 += 1;
        let (client, server) = if self.0.is_multiple_of(2) {
            (
                format!("192.0.2.10:{}", self.0),
                format!("198.51.100.1:{port}"),
            )
        } else {
            (
                format!("[2001:db8::10]:{}", self.0),
                format!("[2001:db8::80]:{port}"),
            )
        };
        let mut tcp = Tcp::new(&client, &server);
        assert!(
            world.net.all_pass(&tcp.handshake()),
            "a connection is admitted until its host is known"
        );
        tcp
    }
}

/// Whether a connection whose client says `pieces`, a segment each, is still alive then.
fn survives(world: &mut World, clients: &mut Clients, port: u16, pieces: &[&[u8]]) -> bool {
    let mut tcp = clients.connect(world, port);
    let mut alive = true;
    for piece in pieces {
        alive &= world.net.passes(tcp.client_says(piece));
    }
    let answered = world.net.passes(tcp.server_says(b"answer"));
    assert_eq!(
        alive, answered,
        "a dropped connection is dropped for both ends"
    );
    if alive {
        assert!(world.net.all_pass(&tcp.close()));
    }
    alive
}

#[test]
fn a_name_is_found_wherever_the_first_message_is_cut_in_two() {
    let mut world = World::with_policy(NO_ADS);
    let mut clients = Clients(10_000);
    for (port, blocked, permitted) in [
        (
            443,
            client_hello(Some("ads.example.net")),
            client_hello(Some("www.example.net")),
        ),
        (
            80,
            http_request("ads.example.net"),
            http_request("www.example.net"),
        ),
        (
            53,
            over_tcp(&dns_query("ads.example.net")),
            over_tcp(&dns_query("www.example.net")),
        ),
    ] {
        for cut in 1..blocked.len() {
            let pieces = [&blocked[..cut], &blocked[cut..]];
            assert!(
                !survives(&mut world, &mut clients, port, &pieces),
                "port {port}, cut at {cut}"
            );
        }
        for cut in 1..permitted.len() {
            let pieces = [&permitted[..cut], &permitted[cut..]];
            assert!(
                survives(&mut world, &mut clients, port, &pieces),
                "port {port}, cut at {cut}"
            );
        }
    }
    world.end();
}

#[test]
fn a_name_in_the_first_packets_of_a_quic_connection_decides_about_it() {
    let mut world = World::with_policy(NO_ADS);
    for (version, port) in [(quic::Version::One, 20_001), (quic::Version::Two, 20_002)] {
        for (client, server) in [
            ("192.0.2.10", "198.51.100.1:443"),
            ("[2001:db8::10]", "[2001:db8::80]:443"),
        ] {
            let client = format!("{client}:{port}");
            let connection = quic::Client::new(version, &[7; 8]);
            // A handshake message without its record's header.
            let hello = client_hello(Some("ads.example.net")).split_off(5);
            let (first, second) = hello.split_at(60);
            let packets = [
                connection.initial(0, &quic::crypto(60, second)),
                connection.initial(1, &quic::crypto(0, first)),
            ];
            let [waits, decides] = packets.map(|packet| udp(&client, server, &packet));
            assert!(world.net.passes(waits), "its name is not known yet");
            assert!(!world.net.passes(decides));
            assert!(!world.net.passes(udp(server, &client, b"answer")));
            let events = world.events();
            let named = events
                .iter()
                .find(|event| event.kind == EventKind::HostName.raw())
                .expect("the name is told");
            assert_eq!(named.host_source, HostSource::Quic.raw());
        }
    }
    assert_eq!(world.counter(Counter::HostQuic), 4);
    world.end();
}

#[test]
fn a_name_is_found_when_every_byte_comes_alone() {
    let mut world = World::with_policy(NO_ADS);
    let mut clients = Clients(10_000);
    for (port, message, survive) in [
        (443, client_hello(Some("ads.example.net")), false),
        (443, client_hello(Some("www.example.net")), true),
        (80, http_request("ads.example.net"), false),
        (80, http_request("www.example.net"), true),
    ] {
        let pieces: Vec<&[u8]> = message.chunks(1).collect();
        assert_eq!(survives(&mut world, &mut clients, port, &pieces), survive);
    }
    world.end();
}

#[test]
fn a_name_is_found_in_any_segmentation_and_any_chain_of_buffers() {
    for seed in 1..=6 {
        let mut random = Random::new(seed);
        let mut config = Config::default();
        config.fwp.mdl_layout = MdlLayout::Seeded(seed);
        let mut world = World::with_config(&config);
        world.set_policy(NO_ADS);
        let mut clients = Clients(10_000);
        for _ in 0..40 {
            let survive = random.below(2) == 0;
            let name = if survive {
                "www.example.net"
            } else {
                "x.ads.example.net"
            };
            let (port, message) = match random.below(3) {
                0 => (443, client_hello(Some(name))),
                1 => (80, http_request(name)),
                _ => (53, over_tcp(&dns_query(name))),
            };
            let pieces = random.cut(&message);
            assert_eq!(
                survives(&mut world, &mut clients, port, &pieces),
                survive,
                "{pieces:?}"
            );
        }
        world.end();
    }
}

#[test]
fn a_name_is_found_when_segments_arrive_out_of_order_and_overlap() {
    for seed in 1..=40 {
        let mut random = Random::new(seed);
        let mut world = World::with_policy(
            "default = 'permit'\n[[rule]]\naction = 'block'\nhost = 'ads.example.net'",
        );
        let survive = seed % 2 == 0;
        let message = client_hello(Some(if survive {
            "www.example.net"
        } else {
            "ads.example.net"
        }));
        // The peer is the client here: only what arrives can arrive out of order.
        let mut tcp = Tcp::new("198.51.100.1:1024", "192.0.2.10:443");
        assert!(world.net.all_pass(&tcp.handshake()));
        let mut segments = Vec::new();
        let mut at = 0;
        for piece in random.cut(&message) {
            let overlap = random.below(20).min(at);
            segments.push(
                tcp.client_says_ahead(at - overlap, &message[at - overlap..at + piece.len()]),
            );
            at += piece.len();
        }
        for last in (1..segments.len()).rev() {
            segments.swap(last, random.below(last + 1));
        }
        world.net.fates(&segments);
        let _all = tcp.client_says(&message);
        assert_eq!(
            world.net.passes(tcp.client_says(b"more")),
            survive,
            "seed {seed}"
        );
        world.end();
    }
}

#[test]
fn what_only_looks_like_the_name_is_let_through() {
    let mut world = World::with_policy(NO_ADS);
    let mut clients = Clients(10_000);
    let with_path = b"GET /ads.example.net HTTP/1.1\r\nHost: www.example.net\r\n\r\n".to_vec();
    let with_header =
        b"GET / HTTP/1.1\r\nReferer: http://ads.example.net/\r\nX-Host: ads.example.net\r\nHost: www.example.net\r\n\r\n";
    let in_the_body = b"POST / HTTP/1.1\r\nHost: www.example.net\r\nContent-Length: 23\r\n\r\nHost: ads.example.net\r\n";
    for (port, message) in [
        (443, client_hello(Some("notads.example.net"))),
        (443, client_hello(Some("ads.example.net.example.org"))),
        (443, client_hello(Some("ads.example.ne"))),
        (443, client_hello(None)),
        (80, with_path),
        (80, with_header.to_vec()),
        (80, in_the_body.to_vec()),
        (22, b"SSH-2.0-OpenSSH_9.2 ads.example.net\r\n".to_vec()),
        (9999, b"ads.example.net".to_vec()),
    ] {
        assert!(
            survives(&mut world, &mut clients, port, &[&message]),
            "{}",
            String::from_utf8_lossy(&message)
        );
    }
    world.end();
}

#[test]
fn a_name_counts_in_any_case_with_or_without_a_port_and_below_a_wildcard() {
    let mut world = World::with_policy(NO_ADS);
    let mut clients = Clients(10_000);
    for (port, message) in [
        (443, client_hello(Some("ADS.Example.NET"))),
        (443, client_hello(Some("a.b.c.ads.example.net"))),
        (8443, client_hello(Some("ads.example.net"))),
        (80, http_request("Ads.Example.Net")),
        (80, http_request("ads.example.net:80")),
        (8080, http_request("deep.ads.example.net:8080")),
        (
            80,
            b"GET http://ads.example.net/x HTTP/1.1\r\nhost:ads.example.net\r\n\r\n".to_vec(),
        ),
    ] {
        assert!(
            !survives(&mut world, &mut clients, port, &[&message]),
            "{}",
            String::from_utf8_lossy(&message)
        );
    }
    world.end();
}

#[test]
fn a_host_that_is_permitted_saves_a_connection_that_the_default_blocks() {
    let mut world = World::with_policy(
        "default = 'block'\n[[rule]]\naction = 'permit'\nprotocol = 'tcp'\nremote_port = 443\nhost = '*.example.net'",
    );
    let mut clients = Clients(10_000);
    assert!(survives(
        &mut world,
        &mut clients,
        443,
        &[&client_hello(Some("www.example.net"))]
    ));
    assert!(!survives(
        &mut world,
        &mut clients,
        443,
        &[&client_hello(Some("www.example.org"))]
    ));
    assert!(
        !survives(&mut world, &mut clients, 443, &[&client_hello(None)]),
        "no name, no exception"
    );
    assert!(!survives(
        &mut world,
        &mut clients,
        443,
        &[b"not TLS at all, and long enough to know"]
    ));
    let other = Tcp::new("192.0.2.10:60000", "198.51.100.1:80").handshake();
    assert!(
        world.net.none_passes(&other),
        "where no host could help nothing is admitted"
    );
    world.end();
}

#[test]
fn a_server_that_speaks_first_ends_the_wait_for_a_name() {
    let mut world = World::with_policy(
        "default = 'block'\n[[rule]]\naction = 'permit'\nhost = '*.example.net'",
    );
    let mut clients = Clients(10_000);
    let mut tcp = clients.connect(&mut world, 25);
    assert!(
        !world
            .net
            .passes(tcp.server_says(b"220 mail.example.net ESMTP\r\n"))
    );
    assert!(!world.net.passes(tcp.client_says(b"EHLO client\r\n")));
    world.end();
}

#[test]
fn a_dns_question_drops_its_own_datagram_only() {
    for (local, resolver) in [
        ("192.0.2.10:50000", "198.51.100.53:53"),
        ("[2001:db8::10]:50000", "[2001:db8::53]:53"),
    ] {
        let mut world = World::with_policy(NO_ADS);
        for (name, passes) in [
            ("www.example.net", true),
            ("ads.example.net", false),
            ("www.example.net", true),
            ("x.ads.example.net", false),
            ("example.net", true),
        ] {
            assert_eq!(
                world.net.passes(udp(local, resolver, &dns_query(name))),
                passes,
                "{name}"
            );
            assert_eq!(
                world.net.passes(udp(resolver, local, &dns_answer(name))),
                passes,
                "the answer about {name}"
            );
        }
        assert_eq!(world.counter(Counter::DatagramsBlocked), 4);
        assert!(
            world.net.passes(udp(
                local,
                "198.51.100.1:5353"
                    .replace("198.51.100.1", host_of(resolver))
                    .as_str(),
                &dns_query("ads.example.net")
            )),
            "only port 53 is DNS"
        );
        world.end();
    }
}

/// The address of an endpoint as it is written before a port.
fn host_of(endpoint: &str) -> &str {
    endpoint.rsplit_once(':').expect("an address with a port").0
}

#[test]
fn the_first_datagram_of_a_flow_is_decided_by_its_own_question() {
    let mut world = World::with_policy(NO_ADS);
    assert!(!world.net.passes(udp(
        "192.0.2.10:50000",
        "198.51.100.53:53",
        &dns_query("ads.example.net")
    )));
    assert!(world.net.passes(udp(
        "192.0.2.10:50000",
        "198.51.100.53:53",
        &dns_query("www.example.net")
    )));
    world.end();
}

#[test]
fn broken_messages_drop_nothing_under_a_policy_that_permits() {
    let mut random = Random::new(0x0bad_5eed);
    let mut world = World::with_policy(NO_ADS);
    let mut clients = Clients(10_000);
    for _ in 0..300 {
        let (port, mut message) = match random.below(3) {
            0 => (443, client_hello(Some("www.example.org"))),
            1 => (80, http_request("www.example.org")),
            _ => (53, over_tcp(&dns_query("www.example.org"))),
        };
        for _ in 0..=random.below(4) {
            let at = random.below(message.len());
            message[at] = random.byte();
        }
        message.truncate(1 + random.below(message.len()));
        let pieces = random.cut(&message);
        assert!(
            survives(&mut world, &mut clients, port, &pieces),
            "{message:02x?}"
        );
        let query = &message[..message.len().min(40)];
        assert!(
            world
                .net
                .passes(udp("192.0.2.10:50000", "198.51.100.53:53", query)),
            "{query:02x?}"
        );
    }
    world.end();
}

#[test]
fn events_tell_the_name_where_it_came_from_and_what_was_decided() {
    let mut world = World::with_policy(NO_ADS);
    let mut clients = Clients(10_000);
    survives(
        &mut world,
        &mut clients,
        443,
        &[&client_hello(Some("ads.example.net"))],
    );
    survives(
        &mut world,
        &mut clients,
        80,
        &[&http_request("www.example.net")],
    );
    world.net.passes(udp(
        "192.0.2.10:50000",
        "198.51.100.53:53",
        &dns_query("x.ads.example.net"),
    ));
    let events = world.events();
    let named: Vec<(String, u8, u8, Option<u32>)> = events
        .iter()
        .filter(|event| event.kind == EventKind::HostName.raw())
        .map(|event| {
            (
                event.host().unwrap_or_default().to_owned(),
                event.host_source,
                event.verdict,
                event.rule(),
            )
        })
        .collect();
    let expected = [
        ("ads.example.net", HostSource::Tls, Action::Block, Some(0)),
        ("www.example.net", HostSource::Http, Action::Permit, None),
        ("x.ads.example.net", HostSource::Dns, Action::Block, Some(0)),
    ];
    let expected = expected
        .map(|(name, source, action, rule)| (name.to_owned(), source.raw(), action.raw(), rule));
    assert_eq!(named, expected);
    assert_eq!(world.counter(Counter::HostTls), 1);
    assert_eq!(world.counter(Counter::HostHttp), 1);
    assert_eq!(world.counter(Counter::HostDns), 1);
    assert_eq!(world.counter(Counter::StreamsDropped), 1);
    world.end();
}

#[test]
fn a_policy_that_changes_before_the_name_comes_is_the_one_that_decides() {
    let mut world = World::with_policy("default = 'permit'");
    let mut clients = Clients(10_000);
    let mut tcp = clients.connect(&mut world, 443);
    let hello = client_hello(Some("ads.example.net"));
    assert!(world.net.passes(tcp.client_says(&hello[..20])));
    world.set_policy(NO_ADS);
    assert!(!world.net.passes(tcp.client_says(&hello[20..])));
    let mut known = clients.connect(&mut world, 443);
    world.set_policy("default = 'permit'");
    assert!(world.net.passes(known.client_says(&hello)));
    world.set_policy(NO_ADS);
    assert!(
        !world.net.passes(known.client_says(b"more")),
        "and a name that is known already decides too"
    );
    world.end();
}

/// What of the client's has left the stack.
fn sent(world: &mut World) -> Vec<u8> {
    let mut arrived = Arrived::default();
    arrived.add(world.net.output());
    arrived.data[0].clone()
}

#[test]
fn nothing_of_a_first_message_arrives_before_its_host_is_decided() {
    let mut world = World::with_policy(NO_ADS).with_output();
    let messages = |name: &str| {
        [
            (443, client_hello(Some(name))),
            (80, http_request(name)),
            (53, over_tcp(&dns_query(name))),
        ]
    };
    let mut clients = Clients(10_000);
    for (name, passes) in [("ads.example.net", false), ("www.example.net", true)] {
        for (port, message) in messages(name) {
            for cut in (1..message.len()).step_by(7) {
                let mut tcp = clients.connect(&mut world, port);
                drop(sent(&mut world));
                world.net.packet(&tcp.client_says(&message[..cut]));
                let early = sent(&mut world);
                assert!(
                    early.is_empty() || (passes && early == message[..cut]),
                    "port {port}, cut at {cut}: {early:?}"
                );
                world.net.packet(&tcp.client_says(&message[cut..]));
                let all = [early, sent(&mut world)].concat();
                let expected: &[u8] = if passes { &message } else { &[] };
                assert_eq!(all, expected, "port {port}, cut at {cut}");
            }
        }
    }
    assert!(world.counter(Counter::StreamsCollected) > 50);
    world.end();
}

#[test]
fn what_was_collected_is_decided_without_a_host_when_its_sender_ends() {
    for (policy, passes) in [
        (NO_ADS, true),
        (
            "default = 'block'\n[[rule]]\naction = 'permit'\nhost = 'www.example.net'",
            false,
        ),
    ] {
        let mut world = World::with_policy(policy).with_output();
        let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
        assert!(world.net.all_pass(&tcp.handshake()));
        world.net.packet(&tcp.client_says(b"GET / HTT"));
        assert!(sent(&mut world).is_empty());
        world.net.fates(&tcp.close());
        let expected: &[u8] = if passes { b"GET / HTT" } else { b"" };
        assert_eq!(sent(&mut world), expected);
        assert_eq!(world.counter(Counter::HostNeverSent), 1);
        world.end();
    }
}

#[test]
fn a_flow_that_no_host_can_decide_is_not_collected() {
    let mut world = World::with_policy("default = 'permit'").with_output();
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
    assert!(world.net.all_pass(&tcp.handshake()));
    world.net.packet(&tcp.client_says(b"GET / HTT"));
    assert_eq!(sent(&mut world), b"GET / HTT");
    assert_eq!(world.counter(Counter::StreamsCollected), 0);
    world.end();
}

#[test]
fn a_name_beside_an_encrypted_hello_is_told_to_be_the_outer_one() {
    for is_before in [false, true] {
        let mut world = World::with_policy(NO_ADS);
        drop(world.events());
        for (port, name, passes) in [
            (50_000, "www.example.net", true),
            (50_001, "ads.example.net", false),
        ] {
            let hello = encrypted_hello(name, is_before);
            for cut in [hello.len(), 60, hello.len() - 10] {
                let mut tcp = Tcp::new(&format!("192.0.2.10:{}", port + cut), "198.51.100.1:443");
                assert!(world.net.all_pass(&tcp.handshake()));
                let mut alive = world.net.passes(tcp.client_says(&hello[..cut]));
                if cut < hello.len() {
                    alive &= world.net.passes(tcp.client_says(&hello[cut..]));
                }
                assert_eq!(alive, passes, "cut at {cut}");
            }
        }
        let events = world.events();
        let named = |event: &&EventRecord| event.kind == EventKind::HostName.raw();
        let mut count = 0;
        for event in events.iter().filter(named) {
            assert!(event.flags.get() & EventRecord::ENCRYPTED_HELLO != 0);
            let line = portcullis_cli::report::events::line(event, &[]);
            assert!(line.contains("(tls, outside an encrypted hello)"), "{line}");
            count += 1;
        }
        assert_eq!(count, 6);
        assert_eq!(world.counter(Counter::HostEncrypted), 6);
        // A hello without one is told to have none.
        let mut tcp = Tcp::new("192.0.2.10:40000", "198.51.100.1:443");
        assert!(world.net.all_pass(&tcp.handshake()));
        world
            .net
            .packet(&tcp.client_says(&client_hello(Some("www.example.net"))));
        let events = world.events();
        let event = events.iter().find(named).expect("its name");
        assert_eq!(event.flags.get() & EventRecord::ENCRYPTED_HELLO, 0);
        world.end();
    }
}
