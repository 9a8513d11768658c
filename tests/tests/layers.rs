//! The layers that show more than connections: binds and their release, ICMP errors, endpoints that close, and what
//! anybody discards.

use std::net::IpAddr;

use ksim::net::{Link, Opened, Setup, Socket};
use portcullis_cli::control::describe_filter;
use portcullis_cli::report::events::line;
use portcullis_proto::event::{EventKind, EventRecord, Operation};
use portcullis_proto::policy::{Action as Verdict, Direction};
use portcullis_proto::{CalloutKind, Counter, Family};
use portcullis_tests::{Net, Product, Tcp, World, packets, udp};
use wfp_schema::{Action, FilterFlags, IpVersion, LayerId};

const BOTH: [(IpVersion, &str, &str, &str); 2] = [
    (
        IpVersion::V4,
        "192.0.2.10",
        "198.51.100.1",
        "198.51.100.254",
    ),
    (
        IpVersion::V6,
        "2001:db8::10",
        "2001:db8::80",
        "2001:db8::fe",
    ),
];

/// An address with a port.
fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn of_kind(events: &[EventRecord], kind: EventKind) -> Vec<&EventRecord> {
    let is_it = |event: &&EventRecord| event.kind == kind.raw();
    events.iter().filter(is_it).collect()
}

fn binds(events: &[EventRecord]) -> Vec<&EventRecord> {
    of_kind(events, EventKind::Authorize)
        .into_iter()
        .filter(|event| event.operation == Operation::Bind.raw())
        .collect()
}

fn is_filtered(world: &World, kind: CalloutKind) -> bool {
    [Family::V4, Family::V6]
        .iter()
        .all(|&family| world.callout(kind, family).filter_id.get() != 0)
}

fn socket(version: IpVersion, protocol: u8, port: u16) -> Socket {
    Socket {
        version,
        protocol,
        address: None,
        port,
        any_port: false,
        raw: false,
        promiscuous: false,
        listens: false,
        link: Link::default(),
    }
}

/// An ICMP error that complains about a datagram of this host's: port unreachable.
fn unreachable(from: &str, to: &str, about: &[u8]) -> Vec<u8> {
    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    packets::unreachable(address(from), address(to), about)
}

#[test]
fn binds_raw_and_promiscuous_sockets_are_told_and_blocked_by_rules_about_binds() {
    let policy = r"
        default = 'block'
        observe = true
        [[rule]]
        name = 'no raw sockets'
        action = 'block'
        operation = 'bind'
        protocol = 255
        [[rule]]
        name = 'no smtp servers'
        action = 'block'
        operation = 'bind'
        protocol = 'tcp'
        local_port = 25
    ";
    let mut world = World::with_policy(policy);
    for (version, ..) in BOTH {
        drop(world.events());
        let open =
            |world: &mut World, socket: &Socket| matches!(world.net.open(socket), Opened::Bound(_));
        assert!(!open(&mut world, &socket(version, 6, 25)));
        // The default is about connections.
        assert!(open(
            &mut world,
            &Socket {
                any_port: true,
                ..socket(version, 17, 40_000)
            }
        ));
        let raw = Socket {
            raw: true,
            ..socket(version, 255, 0)
        };
        assert!(!open(&mut world, &raw));
        let snoop = Socket {
            raw: true,
            promiscuous: true,
            ..socket(version, 254, 0)
        };
        assert!(open(&mut world, &snoop));
        let events = world.events();
        let told: Vec<_> = binds(&events)
            .iter()
            .map(|event| {
                let flags = event.flags.get() & 0xff00;
                (
                    event.protocol,
                    event.local_port.get(),
                    event.verdict,
                    event.rule(),
                    flags,
                )
            })
            .collect();
        let (permit, block) = (Verdict::Permit.raw(), Verdict::Block.raw());
        let (raw, all) = (EventRecord::RAW_SOCKET, EventRecord::PROMISCUOUS);
        assert_eq!(
            told,
            [
                (6, 25, block, Some(1), 0),
                (17, 40_000, permit, None, EventRecord::ANY_PORT),
                (255, 0, block, Some(0), raw),
                (254, 0, permit, None, raw | all),
            ]
        );
    }
    assert_eq!(world.counter(Counter::BindsBlocked), 4);
    drop(world.events());
    world.net.finish();
    let events = world.events();
    let released: Vec<u8> = of_kind(&events, EventKind::Released)
        .iter()
        .map(|event| event.protocol)
        .collect();
    assert!(
        released.contains(&17) && released.contains(&254),
        "{released:?}"
    );
    world.end();
}

#[test]
fn what_nobody_asks_for_costs_nothing() {
    let kinds = [
        CalloutKind::Bind,
        CalloutKind::Release,
        CalloutKind::InboundIcmpError,
        CalloutKind::Forward,
        CalloutKind::AcceptDiscard,
    ];
    let filtered = |world: &World| kinds.map(|kind| is_filtered(world, kind));
    let world = World::with_policy("default = 'permit'");
    assert_eq!(filtered(&world), [false; 5]);
    world.set_policy("default = 'permit'\nobserve = true");
    assert_eq!(filtered(&world), [true, true, true, false, true]);
    let rule = "\n[[rule]]\naction = 'block'\noperation = ";
    world.set_policy(&format!("default = 'permit'{rule}'bind'"));
    assert_eq!(filtered(&world), [true, false, false, false, false]);
    world.set_policy(&format!(
        "default = 'permit'{rule}['forward', 'icmp-error']"
    ));
    assert_eq!(filtered(&world), [false, false, true, true, false]);
    world.set_policy("default = 'permit'");
    assert_eq!(filtered(&world), [false; 5]);
    world.end();
}

#[test]
fn icmp_errors_tell_what_they_are_about_and_are_blocked_by_rules_about_them() {
    let observe =
        "default = 'block'\nobserve = true\n[[rule]]\naction = 'permit'\nprotocol = 'udp'\n";
    let mut world = World::with_policy(observe);
    let errors = "[[rule]]\nname = 'no errors'\naction = 'block'\noperation = 'icmp-error'\nprotocol = ['icmp', 'icmpv6']\ndirection = 'inbound'";
    for is_blocked in [false, true] {
        if is_blocked {
            world.set_policy(&format!("{observe}{errors}"));
        }
        for (_, host, peer, router) in BOTH {
            let port = if is_blocked { 5_001 } else { 5_000 };
            let question = udp(&at(host, port), &at(peer, 4_242), b"is anybody there");
            assert!(world.net.passes(&question));
            drop(world.events());
            let error = unreachable(router, host, &question);
            let passed = world.net.passes(&error);
            let events = world.events();
            let [event] = of_kind(&events, EventKind::IcmpError)[..] else {
                panic!("one event, not {events:?}");
            };
            let verdict = if is_blocked {
                Verdict::Block
            } else {
                Verdict::Permit
            };
            assert_eq!(event.verdict, verdict.raw());
            assert_eq!(event.rule(), is_blocked.then_some(1));
            assert_eq!(event.direction, Direction::Inbound.raw());
            assert_eq!(
                (
                    event.protocol,
                    event.local_port.get(),
                    event.remote_port.get()
                ),
                (17, port, 4_242)
            );
            let text = line(event, &[]);
            for part in [at(host, port), at(peer, 4_242), format!("from {router}")] {
                assert!(text.contains(&part), "{text}");
            }
            let message = if host.contains(':') { (1, 4) } else { (3, 3) };
            assert_eq!(event.icmp(), Some(message));
            assert_eq!(passed, !is_blocked, "the default is about connections");
        }
    }
    assert_eq!(world.counter(Counter::IcmpErrorsBlocked), 2);
    world.end();
}

#[test]
fn a_rule_about_one_operation_hides_none_about_another() {
    let policy = "default = 'permit'
        [[rule]]
        action = 'block'
        operation = 'forward'
        [[rule]]
        action = 'block'
        remote_port = 53
        [[rule]]
        action = 'permit'
        [[rule]]
        action = 'block'
        operation = 'icmp-error'";
    let setup = Setup {
        forwarding: true,
        ..Setup::default()
    };
    let mut world = World::with_policy(policy);
    world.net = Net::with_setup(&world.kernel, 0, setup);
    for (_, host, peer, router) in BOTH {
        let query = udp(&at(host, 5_000), &at(peer, 53), b"where is it");
        assert!(!world.net.passes(&query));
        let question = udp(&at(host, 5_000), &at(peer, 4_242), b"is anybody there");
        assert!(world.net.passes(&question));
        assert!(!world.net.passes(unreachable(router, host, &question)));
        let transit = udp(&at(router, 5_000), &at(peer, 4_242), b"on its way");
        assert!(!world.net.passes(&transit));
    }
    assert_eq!(world.counter(Counter::Blocked), 2);
    assert_eq!(world.counter(Counter::IcmpErrorsBlocked), 2);
    assert_eq!(world.counter(Counter::ForwardBlocked), 2);
    world.end();
}

#[test]
fn what_other_products_discard_is_told_with_their_filters() {
    let mut world = World::with_policy("default = 'permit'\nobserve = true");
    let product = Product::new(&world.kernel, 0xffff);
    let layers = [
        LayerId::ALE_AUTH_CONNECT_V4,
        LayerId::ALE_AUTH_CONNECT_V6,
        LayerId::ALE_AUTH_RECV_ACCEPT_V4,
        LayerId::ALE_AUTH_RECV_ACCEPT_V6,
    ];
    for layer in layers {
        product.add_filter(layer, Action::Block, FilterFlags::NONE, Vec::new());
    }
    drop(world.events());
    for (_, host, peer, _) in BOTH {
        let mut out = Tcp::new(&at(host, 50_000), &at(peer, 443));
        assert!(!world.net.passes(&out.handshake()[0]));
        assert!(
            !world
                .net
                .passes(udp(&at(peer, 1), &at(host, 2), b"question"))
        );
    }
    let events = world.events();
    let discards = of_kind(&events, EventKind::Discarded);
    let shown: Vec<String> = discards
        .iter()
        .map(|event| {
            let discard = event.discard().expect("a discard");
            assert_eq!((discard.module, discard.reason), (2, 0));
            let filter = describe_filter(world.device(), discard.filter).expect("it is there");
            assert!(!filter.is_ours);
            assert_eq!(filter.name, "another product's filter");
            LayerId::new(discard.layer).to_string()
        })
        .collect();
    assert_eq!(
        shown,
        [
            "ALE_AUTH_CONNECT_V4_DISCARD",
            "ALE_AUTH_RECV_ACCEPT_V4_DISCARD",
            "ALE_AUTH_CONNECT_V6_DISCARD",
            "ALE_AUTH_RECV_ACCEPT_V6_DISCARD",
        ]
    );
    // Ours are told too, as ours.
    product.close();
    world.set_policy("default = 'block'\nobserve = true");
    drop(world.events());
    assert!(
        !world
            .net
            .passes(udp("192.0.2.10:3", "198.51.100.1:4", b"datagram"))
    );
    let events = world.events();
    let [event] = of_kind(&events, EventKind::Discarded)[..] else {
        panic!("one event, not {events:?}");
    };
    let filter = event.discard().expect("a discard").filter;
    let filter = describe_filter(world.device(), filter).expect("it is there");
    assert!(filter.is_ours);
    assert_eq!(filter.name, "Portcullis connect-v4");
    assert_eq!(filter.provider, "Portcullis");
    world.end();
}

#[test]
fn what_the_stack_itself_discards_is_told_with_its_reason() {
    let mut world = World::with_policy("default = 'permit'\nobserve = true");
    world.net = Net::with_setup(
        &world.kernel,
        0,
        Setup {
            sockets: Some(std::iter::empty().collect()),
            ..Setup::default()
        },
    );
    for (_, host, peer, _) in BOTH {
        drop(world.events());
        let mut scan = Tcp::new(&at(peer, 50_000), &at(host, 81));
        assert!(!world.net.passes(&scan.handshake()[0]));
        assert!(
            !world
                .net
                .passes(udp(&at(peer, 1), &at(host, 2), b"nobody wants this"))
        );
        let events = world.events();
        let reasons: Vec<_> = of_kind(&events, EventKind::Discarded)
            .iter()
            .map(|event| {
                let discard = event.discard().expect("a discard");
                (discard.module, discard.reason, discard.filter)
            })
            .collect();
        assert_eq!(reasons, [(1, 4, 0), (0, 4, 0)], "no endpoint, and no port");
        // The answer to the datagram is an ICMP error that goes out.
        let errors = of_kind(&events, EventKind::IcmpError);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].direction, Direction::Outbound.raw());
    }
    world.end();
}

#[test]
fn an_endpoint_that_closes_tells_who_began_and_what_its_flows_carried() {
    let mut world = World::with_policy("default = 'permit'");
    let mut expected = Vec::new();
    for (_, host, peer, _) in BOTH {
        for is_inbound in [false, true] {
            let (client, server) = if is_inbound {
                (at(peer, 50_000), at(host, 80))
            } else {
                (at(host, 50_001), at(peer, 443))
            };
            let mut tcp = Tcp::new(&client, &server);
            assert!(world.net.all_pass(&tcp.handshake()));
            assert!(world.net.passes(tcp.client_says(&[1; 100])));
            assert!(world.net.passes(tcp.server_says(&[2; 1_000])));
            assert!(world.net.all_pass(&tcp.close()));
            let direction = if is_inbound {
                Direction::Inbound
            } else {
                Direction::Outbound
            };
            let (sent, received) = if is_inbound {
                (1_000, 100)
            } else {
                (100, 1_000)
            };
            expected.push((6, direction.raw(), 1, sent, received));
        }
        // One socket that asks three others.
        for server in 1..=3 {
            let datagram = udp(&at(host, 6_000), &at(peer, 6_000 + server), &[3; 50]);
            assert!(world.net.passes(datagram));
        }
        expected.push((17, Direction::Outbound.raw(), 3, 150, 0));
    }
    world.net.finish();
    let events = world.events();
    let mut closed: Vec<_> = of_kind(&events, EventKind::EndpointClosed)
        .iter()
        .filter(|event| event.value[0].get() > 0)
        .map(|event| {
            (
                event.protocol,
                event.direction,
                event.value[0].get(),
                event.bytes_sent.get(),
                event.bytes_received.get(),
            )
        })
        .collect();
    closed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(closed, expected);
    // Those without a flow, such as a listening socket, say that nobody began.
    for event in of_kind(&events, EventKind::EndpointClosed) {
        assert_eq!(event.direction == 0, event.value[0].get() == 0, "{event:?}");
    }
    world.end();
}
