//! Each operation that can be held.

use ksim::net::{Opened, Socket};
use portcullis_proto::event::{EventRecord, Operation};
use portcullis_proto::{Action as Verdict, Counter, EventKind};
use portcullis_tests::{Tcp, icmp_echo, icmp_echo_v6, udp};
use wfp_schema::IpVersion;

use super::{ASK, TCP_ACCEPTS, TCP_CONNECTS, answer, asked, question, settled, verdicts, waits};

#[test]
fn a_connect_waits_for_its_answer_and_goes_on_by_it() {
    for (client, server) in TCP_CONNECTS {
        let mut world = asked(ASK);
        let mut tcp = Tcp::new(client, server);
        let handshake = tcp.handshake();
        assert!(waits(&world.net.packet(&handshake[0])));
        assert_eq!(world.status().held.get(), 1);
        assert!(settled(&mut world).is_empty(), "nobody has answered");
        let asked = question(&world);
        assert_eq!(EventKind::from_raw(asked.kind), Some(EventKind::Asked));
        assert_eq!(
            Operation::from_raw(asked.operation),
            Some(Operation::Connect)
        );
        assert_eq!(
            (asked.protocol, asked.remote_port.get(), asked.rule()),
            (6, 4433, Some(0))
        );
        assert_eq!(
            asked.verdict,
            Verdict::Block.raw(),
            "what happens without an answer"
        );
        assert_eq!(asked.deadline() - asked.time.get(), 30 * 10_000_000);
        assert!(world.device().reply(&asked, Verdict::Permit));
        assert_eq!(settled(&mut world), [true], "the SYN goes out");
        assert!(world.net.all_pass(&handshake[1..]));
        assert!(world.net.passes(tcp.client_says(b"hello")));
        assert!(world.net.all_pass(&tcp.close()));
        let events = world.events();
        assert_eq!(verdicts(&events, EventKind::Asked), [Some(Verdict::Block)]);
        assert_eq!(
            verdicts(&events, EventKind::Answered),
            [Some(Verdict::Permit)]
        );
        let again = events
            .iter()
            .find(|event| event.flags.get() & EventRecord::REAUTHORIZATION != 0)
            .expect("the completion authorizes again");
        assert_eq!(again.verdict, Verdict::Permit.raw());
        assert!(
            !world.device().reply(&asked, Verdict::Block),
            "answered once"
        );

        let mut refused = Tcp::new(&client.replace("50000", "50001"), server);
        let handshake = refused.handshake();
        assert!(waits(&world.net.packet(&handshake[0])));
        assert_eq!(answer(&mut world, Verdict::Block), [false]);
        assert!(world.net.none_passes(&handshake[1..]));
        assert_eq!(world.counter(Counter::Asked), 2);
        assert_eq!(world.counter(Counter::Answered), 2);
        assert_eq!(world.status().held.get(), 0);
        world.end();
    }
}

/// Exchanges that are no connections: a first packet, an answer to it, another one.
fn exchanges() -> Vec<[Vec<u8>; 3]> {
    let pair = |one: &str, other: &str| {
        [
            udp(one, other, b"first"),
            udp(other, one, b"answer"),
            udp(one, other, b"second"),
        ]
    };
    let ping = |one: &str, other: &str| {
        [
            icmp_echo(one, other, 8),
            icmp_echo(other, one, 0),
            icmp_echo(one, other, 8),
        ]
    };
    let ping6 = |one: &str, other: &str| {
        [
            icmp_echo_v6(one, other, 128),
            icmp_echo_v6(other, one, 129),
            icmp_echo_v6(one, other, 128),
        ]
    };
    vec![
        pair("192.0.2.10:50000", "198.51.100.1:4433"),
        pair("[2001:db8::10]:50000", "[2001:db8::80]:4433"),
        ping("192.0.2.10", "198.51.100.1"),
        ping6("2001:db8::10", "2001:db8::80"),
        // Begun by the other side.
        pair("198.51.100.1:4433", "192.0.2.10:9999"),
        pair("[2001:db8::80]:4433", "[2001:db8::10]:9999"),
        ping("198.51.100.1", "192.0.2.10"),
        ping6("2001:db8::80", "2001:db8::10"),
    ]
}

/// Asks about datagrams, and about ICMP, whose messages have no ports.
const ASK_ALL: &str = "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_address = ['198.51.100.0/24', '2001:db8::80']";

#[test]
fn the_first_datagram_is_kept_and_goes_on_its_way_after_a_permit() {
    for [first, reply, second] in exchanges() {
        let mut world = asked(ASK_ALL);
        assert!(waits(&world.net.packet(&first)));
        assert_eq!(
            answer(&mut world, Verdict::Permit),
            [true],
            "the datagram itself passes"
        );
        assert!(world.net.passes(&reply));
        assert!(world.net.passes(&second));
        assert!(world.device().questions().is_empty());
        assert_eq!(world.counter(Counter::HeldPacketLost), 0);
        world.end();
    }
}

#[test]
fn a_refused_datagram_is_gone_and_the_next_one_finds_the_answer() {
    for [first, _, second] in exchanges() {
        let mut world = asked(ASK_ALL);
        assert!(waits(&world.net.packet(&first)));
        let passed = answer(&mut world, Verdict::Block);
        assert!(!passed.contains(&true), "{passed:?}");
        assert!(!world.net.passes(&second));
        assert!(
            world.device().questions().is_empty(),
            "nobody is asked twice"
        );
        // After a minute the answer is forgotten.
        world.net.wait(120);
        assert!(waits(&world.net.packet(&second)));
        assert_eq!(world.device().questions().len(), 1);
        world.end();
    }
}

#[test]
fn an_accept_waits_with_its_syn_which_is_received_again() {
    for (client, server) in TCP_ACCEPTS {
        let mut world = asked(ASK);
        let mut tcp = Tcp::new(client, server);
        let handshake = tcp.handshake();
        assert!(waits(&world.net.packet(&handshake[0])));
        assert!(
            !world.net.passes(&handshake[0]),
            "sent again while it waits"
        );
        let asked = question(&world);
        assert_eq!(
            Operation::from_raw(asked.operation),
            Some(Operation::Accept)
        );
        assert!(world.device().reply(&asked, Verdict::Permit));
        assert!(settled(&mut world).contains(&true), "the SYN is received");
        assert!(world.net.all_pass(&handshake[1..]));
        assert!(world.net.passes(tcp.client_says(b"hello")));
        assert!(world.net.all_pass(&tcp.close()));

        let mut refused = Tcp::new(client, &server.replace(":80", ":81"));
        let handshake = refused.handshake();
        assert!(waits(&world.net.packet(&handshake[0])));
        let passed = answer(&mut world, Verdict::Block);
        assert!(!passed.contains(&true), "{passed:?}");
        assert!(!world.net.passes(&handshake[0]), "sent again");
        assert!(world.device().questions().is_empty());
        world.end();
    }
}

const fn listening(version: IpVersion, port: u16) -> Socket {
    Socket {
        version,
        protocol: 6,
        address: None,
        port,
        any_port: false,
        raw: false,
        promiscuous: false,
        listens: true,
        link: 0,
    }
}

#[test]
fn a_listen_waits_for_its_answer() {
    let policy =
        "default = 'permit'\n[[rule]]\naction = 'ask'\ndirection = 'inbound'\nlocal_port = 80";
    for (version, client, server) in [
        (IpVersion::V4, "198.51.100.1:50000", "192.0.2.10:80"),
        (IpVersion::V6, "[2001:db8::80]:50000", "[2001:db8::10]:80"),
    ] {
        for verdict in [Verdict::Permit, Verdict::Block] {
            let mut world = asked(policy);
            let opened = world.net.open(&listening(version, 80));
            assert!(matches!(opened, Opened::Pended(_)), "{opened:?}");
            let asked = question(&world);
            assert_eq!(
                Operation::from_raw(asked.operation),
                Some(Operation::Listen)
            );
            assert!(world.device().reply(&asked, verdict));
            drop(settled(&mut world));
            let opened = world.net.open(&listening(version, 80));
            if verdict == Verdict::Permit {
                assert!(matches!(opened, Opened::Bound(_)), "{opened:?}");
                // Each connection is asked about too.
                let mut tcp = Tcp::new(client, server);
                let handshake = tcp.handshake();
                assert!(waits(&world.net.packet(&handshake[0])));
                assert!(answer(&mut world, Verdict::Permit).contains(&true));
                assert!(world.net.all_pass(&handshake[1..]));
            } else {
                assert!(matches!(opened, Opened::Blocked(_)), "{opened:?}");
            }
            world.end();
        }
    }
}

#[test]
fn who_asks_about_some_callers_lets_listen_for_them_where_the_default_blocks() {
    let policy = "default = 'block'\n[[rule]]\naction = 'ask'\nremote_port = 50000";
    for (version, client, other, server) in [
        (
            IpVersion::V4,
            "198.51.100.1:50000",
            "198.51.100.1:50001",
            "192.0.2.10:80",
        ),
        (
            IpVersion::V6,
            "[2001:db8::80]:50000",
            "[2001:db8::80]:50001",
            "[2001:db8::10]:80",
        ),
    ] {
        let mut world = asked(policy);
        let opened = world.net.open(&listening(version, 80));
        assert!(matches!(opened, Opened::Bound(_)), "{opened:?}");
        assert!(world.device().questions().is_empty());
        let mut tcp = Tcp::new(client, server);
        let handshake = tcp.handshake();
        assert!(waits(&world.net.packet(&handshake[0])));
        assert!(answer(&mut world, Verdict::Permit).contains(&true));
        assert!(world.net.all_pass(&handshake[1..]));
        assert!(
            !world
                .net
                .passes(Tcp::new(other, server).handshake().remove(0))
        );
        world.end();
    }
}
