//! Rules by network interface: the interface that packets take decides, also when it changes.

use std::net::IpAddr;

use ksim::net::{Arrival, Link, Opened, Setup, Socket};
use portcullis_proto::Counter;
use portcullis_proto::event::{EventKind, EventRecord};
use portcullis_proto::policy::Action;
use portcullis_tests::interfaces::{
    BOTH, ETHERNET, INTERFACES, TUNNEL, WIFI, all, interface, kill_switch,
};
use portcullis_tests::packets::end as at;
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Net, Tcp, World, icmp_echo, icmp_echo_v6, packets, udp};
use wfp_schema::IpVersion;

/// A host with several interfaces under this policy.
fn world(policy: &str) -> World {
    world_of(policy, Setup::default())
}

fn world_of(policy: &str, setup: Setup) -> World {
    let mut world = World::with_policy(policy);
    let setup = Setup {
        interfaces: all(),
        ..setup
    };
    world.net = Net::with_setup(&world.kernel, 0, setup);
    world
}

/// A port of its own for each thing that is begun.
struct Ports(u16);

impl Ports {
    const fn next(&mut self) -> u16 {
        self.0 += 1;
        self.0
    }
}

#[test]
fn nothing_leaves_or_comes_in_but_through_the_tunnel() {
    let mut world = world(&kill_switch());
    let mut ports = Ports(40_000);
    for (here, there) in BOTH {
        for (link, passes) in [(ETHERNET, false), (WIFI, false), (TUNNEL, true)] {
            let what = format!("{here} over {link}");
            let (local, remote) = (at(here, ports.next()), at(there, 443));
            let mut tcp = Tcp::new(&local, &remote);
            for packet in tcp.handshake().iter().chain([&tcp.client_says(b"hello")]) {
                assert_eq!(world.net.passes_on(link, packet), passes, "tcp, {what}");
            }
            let local = at(here, ports.next());
            let sent = udp(&local, &remote, b"datagram");
            assert_eq!(world.net.passes_on(link, &sent), passes, "udp, {what}");
            let answer = udp(&remote, &local, b"answer");
            assert_eq!(world.net.passes_on(link, &answer), passes, "answer, {what}");

            let (local, remote) = (at(here, ports.next()), at(there, ports.next()));
            let opens = Tcp::new(&remote, &local).handshake().remove(0);
            assert_eq!(world.net.passes_on(link, &opens), passes, "accept, {what}");
            let comes = udp(&remote, &at(here, ports.next()), b"unasked");
            assert_eq!(world.net.passes_on(link, &comes), passes, "inbound, {what}");
            let ping = if here.contains(':') {
                icmp_echo_v6(here, there, 128)
            } else {
                icmp_echo(here, there, 8)
            };
            assert_eq!(world.net.passes_on(link, &ping), passes, "ping, {what}");
        }
        // What this machine sends to itself, also by an address of Ethernet's.
        let local = at(here, ports.next());
        for itself in [
            at(here, 80),
            at(
                if here.contains(':') {
                    "::1"
                } else {
                    "127.0.0.1"
                },
                80,
            ),
        ] {
            let said = udp(&local, &itself, b"loopback");
            assert!(world.net.passes_on(ETHERNET, &said), "{local} to {itself}");
        }
    }
    // Whatever the routes say of an address of this host, what it sends to itself stays here.
    for (here, _) in BOTH {
        let said = udp(&at(here, 50_000), &at(here, 80), b"loopback");
        assert!(world.net.passes_on(ETHERNET, &said));
        world.net.reroute(here.parse().expect("an address"), WIFI);
        assert!(world.net.passes_on(ETHERNET, &said));
    }
    let asked = events_of(&world, EventKind::Authorize);
    let interfaces: Vec<u64> = INTERFACES
        .iter()
        .map(|(link, _)| interface(*link).luid())
        .collect();
    for event in &asked {
        let is_loopback = event.interface.get() >> 48 == 24;
        let is_permitted = event.verdict == Action::Permit.raw();
        assert!(is_loopback || interfaces.contains(&event.interface.get()));
        assert_eq!(
            is_permitted,
            is_loopback || event.interface.get() == interface(TUNNEL).luid()
        );
    }
    world.end();
}

fn events_of(world: &World, kind: EventKind) -> Vec<EventRecord> {
    let mut events = world.events();
    events.retain(|event| event.kind == kind.raw());
    events
}

/// A connection over a link, established.
fn connected(world: &mut World, link: Link, here: &str, there: &str, port: u16) -> Tcp {
    let mut tcp = Tcp::new(&at(here, port), &at(there, 443));
    for packet in tcp.handshake() {
        assert!(world.net.passes_on(link, &packet));
    }
    assert!(world.net.passes_on(link, &tcp.client_says(b"hello")));
    tcp
}

#[test]
fn when_the_tunnel_goes_away_what_went_through_it_ends() {
    let mut world = world(&kill_switch());
    for (number, (here, there)) in (0..).zip(BOTH) {
        let mut tcp = connected(&mut world, TUNNEL, here, there, 50_000);
        let datagram = udp(&at(here, 50_001), &at(there, 4000), b"datagram");
        assert!(world.net.passes_on(TUNNEL, &datagram));
        // The routes lead over Ethernet now.
        world
            .net
            .reroute(there.parse().expect("an address"), ETHERNET);
        assert!(!world.net.passes_on(TUNNEL, &tcp.client_says(b"plain text")));
        assert!(!world.net.passes_on(TUNNEL, &tcp.client_says(b"once more")));
        assert!(!world.net.passes_on(TUNNEL, &datagram));
        let again = events_of(&world, EventKind::Authorize);
        let blocked: Vec<_> = again
            .iter()
            .filter(|event| event.verdict == Action::Block.raw())
            .collect();
        assert!(blocked.len() >= 2, "the connection and the exchange");
        for event in blocked {
            assert_eq!(event.interface.get(), interface(ETHERNET).luid());
        }
        assert_eq!(world.counter(Counter::FlowsDeleted), 2 * (number + 1));
    }
    world.end();
}

#[test]
fn what_comes_by_another_interface_than_the_tunnel_is_no_part_of_its_connections() {
    let mut world = world(&kill_switch());
    for (here, there) in BOTH {
        let mut tcp = connected(&mut world, TUNNEL, here, there, 50_000);
        assert!(world.net.passes_on(TUNNEL, &tcp.server_says(b"hello")));
        let elsewhere = Arrival {
            interface: Some(WIFI),
            ..Arrival::on(TUNNEL)
        };
        let forged = tcp.server_says(b"forged");
        assert!(!world.net.packet_from(elsewhere, &forged).passed);
    }
    world.end();
}

#[test]
fn a_connection_that_moves_keeps_no_verdict_of_the_old_interface() {
    // No secret on Wi-Fi: a rule that decides about data, long after the connection was authorized.
    let policy = "default = 'permit'\n[[rule]]\nname = 'no secrets'\naction = 'block'\n\
                  interface_type = 'wifi'\ncontent = 'secret'\n";
    let mut world = world(policy);
    for (here, there) in BOTH {
        let mut stays = connected(&mut world, ETHERNET, here, there, 50_000);
        let mut moves = connected(&mut world, ETHERNET, here, there, 50_001);
        for tcp in [&mut stays, &mut moves] {
            assert!(world.net.passes_on(ETHERNET, &tcp.client_says(b"a secret")));
        }
        let before = world.counter(Counter::FlowsMoved);
        let by_wifi = Arrival {
            interface: Some(WIFI),
            ..Arrival::on(ETHERNET)
        };
        assert!(
            world
                .net
                .packet_from(by_wifi, &moves.server_says(b"hello"))
                .passed
        );
        assert_eq!(world.counter(Counter::FlowsMoved), before + 1);
        assert!(
            !world
                .net
                .packet_from(by_wifi, &moves.server_says(b"a secret"))
                .passed
        );
        assert!(
            world
                .net
                .passes_on(ETHERNET, &stays.client_says(b"a secret"))
        );
    }
    world.end();
}

#[test]
fn a_new_policy_decides_what_lives_by_the_interface_that_it_takes_now() {
    let mut world = world("default = 'permit'");
    for (port, (here, there)) in (50_000..).zip(BOTH) {
        world.set_policy("default = 'permit'");
        let other: IpAddr = there.parse().expect("an address");
        let mut leaves = connected(&mut world, TUNNEL, here, there, port);
        world.net.reroute(other, ETHERNET);
        assert!(
            world
                .net
                .passes_on(TUNNEL, &leaves.client_says(b"over Ethernet"))
        );
        let mut stays = connected(&mut world, TUNNEL, here, there, port + 100);
        let ended = world.counter(Counter::FlowsEnded);
        world.set_policy(&kill_switch());
        assert_eq!(world.counter(Counter::FlowsEnded), ended + 1);
        assert!(!world.net.passes_on(TUNNEL, &leaves.client_says(b"gone")));
        assert!(
            world
                .net
                .passes_on(TUNNEL, &stays.client_says(b"still here"))
        );
    }
    world.end();
}

#[test]
fn a_connection_that_leaves_by_another_interface_than_that_of_its_address_is_followed_by_it() {
    // Under the weak host model the address is the tunnel's, and the next hop is not.
    let policy = format!(
        "default = 'permit'\n[[rule]]\naction = 'block'\ninterface_type = 'wifi'\ncontent = 'secret'\n\
         [[rule]]\nname = 'tunnel'\naction = 'permit'\ninterface = '{:#x}'\nlog = true\n",
        interface(TUNNEL).luid()
    );
    let mut world = world(&policy);
    for (here, there) in BOTH {
        let elsewhere = Arrival {
            interface: Some(WIFI),
            ..Arrival::on(TUNNEL)
        };
        let (remote, local) = (at(there, 50_000), at(here, 80));
        let mut tcp = Tcp::new(&remote, &local);
        for packet in tcp.handshake() {
            let arrival = if packets_to(&packet, here) {
                elsewhere
            } else {
                Arrival::on(TUNNEL)
            };
            assert!(world.net.packet_from(arrival, &packet).passed);
        }
        let said = tcp.client_says(b"a secret");
        assert!(
            !world.net.packet_from(elsewhere, &said).passed,
            "it came by Wi-Fi"
        );
    }
    world.end();
}

/// Whether a packet goes to this address.
fn packets_to(packet: &[u8], address: &str) -> bool {
    let summary = portcullis_core::PacketSummary::parse(packet).expect("a packet");
    summary.destination.address == address.parse::<IpAddr>().expect("an address")
}

#[test]
fn listeners_and_binds_are_decided_by_the_interface_of_their_address() {
    let policy = "default = 'permit'\nobserve = true\n\
                  [[rule]]\nname = 'no servers on wifi'\naction = 'block'\noperation = ['listen', 'bind']\n\
                  interface_type = 'wifi'\nprotocol = 'tcp'\n";
    let mut world = world(policy);
    for (version, (here, _)) in [IpVersion::V4, IpVersion::V6].into_iter().zip(BOTH) {
        for (link, address, opens) in [
            (ETHERNET, Some(here), true),
            (WIFI, Some(here), false),
            // On every interface: some of those who connect may do so.
            (WIFI, None, true),
        ] {
            let socket = Socket {
                version,
                protocol: 6,
                address: address.map(|address| address.parse().expect("an address")),
                port: 8000 + u16::from(opens),
                any_port: false,
                raw: false,
                promiscuous: false,
                listens: true,
                link,
            };
            let opened = matches!(world.net.open(&socket), Opened::Bound(_));
            assert_eq!(opened, opens, "{address:?} on {link}");
        }
    }
    world.end();
}

#[test]
fn a_forwarded_packet_is_decided_by_the_interface_that_it_leaves_by() {
    let policy = format!(
        "default = 'permit'\n\
         [[rule]]\nname = 'tunnel'\naction = 'permit'\noperation = 'forward'\ninterface = '{:#x}'\n\
         [[rule]]\nname = 'no other'\naction = 'block'\noperation = 'forward'\n",
        interface(TUNNEL).luid()
    );
    let prefix = |text: &str| text.parse().expect("an address");
    let setup = Setup {
        forwarding: true,
        routes: vec![
            (prefix("198.51.100.0"), 24, TUNNEL),
            (prefix("2001:db8:1::"), 48, TUNNEL),
        ],
        ..Setup::default()
    };
    let mut world = world_of(&policy, setup);
    for (from, through, elsewhere) in [
        ("10.0.0.9:4000", "198.51.100.7:53", "203.0.113.7:53"),
        ("[fd00::9]:4000", "[2001:db8:1::7]:53", "[2001:db8:2::7]:53"),
    ] {
        assert!(world.net.passes_on(ETHERNET, &udp(from, through, b"x")));
        assert!(!world.net.passes_on(ETHERNET, &udp(from, elsewhere, b"x")));
    }
    assert_eq!(world.counter(Counter::ForwardBlocked), 2);
    world.end();
}

#[test]
fn icmp_errors_are_decided_by_their_interface() {
    let policy = "default = 'permit'\n[[rule]]\naction = 'block'\noperation = 'icmp-error'\n\
                  interface_type = 'wifi'\n";
    let mut world = world(policy);
    for (here, there) in BOTH {
        for (link, passes) in [(ETHERNET, true), (WIFI, false)] {
            let sent = udp(&at(here, 5000 + link), &at(there, 53), b"query");
            assert!(world.net.passes_on(link, &sent));
            let [from, to] = [there, here].map(|address| address.parse().expect("an address"));
            let error = packets::unreachable(from, to, &sent);
            assert_eq!(
                world.net.passes_on(link, &error),
                passes,
                "{here} on {link}"
            );
        }
    }
    world.end();
}

#[test]
fn until_the_driver_decides_the_filters_of_the_system_know_interfaces_too() {
    let policy = format!(
        "default = 'permit'\n[boot]\ndefault = 'block'\n\
         [[rule]]\naction = 'permit'\ninterface = '{:#x}'\nboot = true\n\
         [[rule]]\naction = 'permit'\ninterface_type = ['wifi', 72]\nremote_port = 443\nprotocol = 'tcp'\n\
         direction = 'outbound'\nboot = true\n",
        interface(TUNNEL).luid()
    );
    let mut world = world(&policy);
    // The driver goes, its filters stay.
    assert_clean(&world.unload());
    let mut ports = Ports(40_000);
    for (here, there) in BOTH {
        for (link, port, passes) in [
            (ETHERNET, 443, false),
            (WIFI, 443, true),
            (WIFI, 80, false),
            (TUNNEL, 80, true),
        ] {
            let first = Tcp::new(&at(here, ports.next()), &at(there, port))
                .handshake()
                .remove(0);
            assert_eq!(
                world.net.passes_on(link, &first),
                passes,
                "{here} over {link} to {port}"
            );
        }
        for (link, passes) in [(ETHERNET, false), (WIFI, false), (TUNNEL, true)] {
            let comes = udp(
                &at(there, ports.next()),
                &at(here, ports.next()),
                b"unasked",
            );
            assert_eq!(
                world.net.passes_on(link, &comes),
                passes,
                "{here} by {link}"
            );
        }
    }
}
