//! What each condition of a rule means for traffic.

use ksim::net::{Identity, Processes};
use portcullis_proto::event::{EventKind, Operation};
use portcullis_proto::{Action, CalloutKind, Family};
use portcullis_tests::{Tcp, World, icmp_echo, icmp_echo_v6, udp};

const BROWSER: &str = r"C:\Program Files\Fire\browser.exe";
const MAILER: &str = r"C:\Program Files\Mail\mail.exe";
const ALICE: &str = "S-1-5-21-1-2-3-1001";
const BOB: &str = "S-1-5-21-1-2-3-1002";

/// Under a policy that permits by default and blocks what matches `conditions`, which of these are blocked?
fn blocks(conditions: &str, cases: &[(&str, &str, &str, bool)]) {
    let mut world = World::new();
    // Alice's browser has the ports from 50000, Bob's mailer those from 60000; the rest is the system's.
    let mut processes = Processes::default();
    for port in 50_000..50_020 {
        for any in ["0.0.0.0", "[::]"] {
            let end = |port: u16| format!("{any}:{port}").parse().expect("an address");
            processes.assign(
                end(port),
                Identity::new(BROWSER, 1000, ALICE.parse().expect("a SID")),
            );
            processes.assign(
                end(port + 10_000),
                Identity::new(MAILER, 1004, BOB.parse().expect("a SID")),
            );
        }
    }
    world.owned_by(processes);
    world.set_policy(&format!(
        "default = 'permit'\n[[rule]]\naction = 'block'\n{conditions}\n"
    ));
    for &(protocol, from, to, blocked) in cases {
        let first = match protocol {
            "tcp" => Tcp::new(from, to).handshake().remove(0),
            "udp" => udp(from, to, b"datagram"),
            "icmp" if from.contains(':') => icmp_echo_v6(from, to, 128),
            "icmp" => icmp_echo(from, to, 8),
            other => panic!("{other}?"),
        };
        assert_eq!(
            !world.net.passes(first),
            blocked,
            "{conditions}: {protocol} from {from} to {to}"
        );
    }
    world.end();
}

#[test]
fn a_rule_without_conditions_matches_everything() {
    blocks(
        "",
        &[
            ("tcp", "192.0.2.10:50000", "198.51.100.1:80", true),
            ("tcp", "198.51.100.1:50000", "192.0.2.10:80", true),
            ("udp", "[2001:db8::10]:50000", "[2001:db8::80]:80", true),
            ("icmp", "192.0.2.10", "198.51.100.1", true),
            ("icmp", "2001:db8::10", "2001:db8::80", true),
        ],
    );
}

#[test]
fn a_single_remote_address_matches_itself_only() {
    blocks(
        "remote_address = ['198.51.100.1', '2001:db8::80']",
        &[
            ("tcp", "192.0.2.10:50000", "198.51.100.1:80", true),
            ("tcp", "192.0.2.10:50000", "198.51.100.2:80", false),
            ("udp", "192.0.2.10:50000", "198.51.100.1:80", true),
            ("icmp", "192.0.2.10", "198.51.100.1", true),
            ("tcp", "198.51.100.1:50000", "192.0.2.10:80", true),
            ("tcp", "[2001:db8::10]:50000", "[2001:db8::80]:80", true),
            ("tcp", "[2001:db8::10]:50000", "[2001:db8::81]:80", false),
        ],
    );
}

#[test]
fn a_prefix_and_a_range_match_from_their_first_to_their_last_address() {
    blocks(
        "remote_address = ['198.51.100.0/25', '203.0.113.10-203.0.113.20', '2001:db8:1::/48']",
        &[
            ("udp", "192.0.2.10:50000", "198.51.100.0:80", true),
            ("udp", "192.0.2.10:50000", "198.51.100.127:80", true),
            ("udp", "192.0.2.10:50000", "198.51.100.128:80", false),
            ("udp", "192.0.2.10:50000", "203.0.113.9:80", false),
            ("udp", "192.0.2.10:50000", "203.0.113.10:80", true),
            ("udp", "192.0.2.10:50000", "203.0.113.20:80", true),
            ("udp", "192.0.2.10:50000", "203.0.113.21:80", false),
            (
                "udp",
                "[2001:db8::10]:50000",
                "[2001:db8:1:ffff::1]:80",
                true,
            ),
            ("udp", "[2001:db8::10]:50000", "[2001:db8:2::1]:80", false),
        ],
    );
}

#[test]
fn a_local_address_is_the_hosts_end_whoever_began() {
    blocks(
        "local_address = '192.0.2.10'",
        &[
            ("tcp", "192.0.2.10:50000", "198.51.100.1:80", true),
            ("tcp", "198.51.100.1:50000", "192.0.2.10:80", true),
            ("tcp", "[2001:db8::10]:50000", "[2001:db8::80]:80", false),
        ],
    );
}

#[test]
fn ports_match_singly_in_ranges_and_in_lists_for_tcp_and_udp() {
    blocks(
        "remote_port = [23, '137-139', 445]",
        &[
            ("tcp", "192.0.2.10:50000", "198.51.100.1:23", true),
            ("udp", "192.0.2.10:50000", "198.51.100.1:23", true),
            ("tcp", "192.0.2.10:50001", "198.51.100.1:136", false),
            ("tcp", "192.0.2.10:50002", "198.51.100.1:137", true),
            ("tcp", "192.0.2.10:50003", "198.51.100.1:139", true),
            ("tcp", "192.0.2.10:50004", "198.51.100.1:140", false),
            ("udp", "[2001:db8::10]:50005", "[2001:db8::80]:445", true),
            ("tcp", "192.0.2.10:23", "198.51.100.1:5000", false),
            ("icmp", "192.0.2.10", "198.51.100.1", false),
        ],
    );
}

#[test]
fn a_local_port_is_the_hosts_end() {
    blocks(
        "local_port = 8080",
        &[
            ("udp", "198.51.100.1:50000", "192.0.2.10:8080", true),
            ("udp", "198.51.100.1:8080", "192.0.2.10:8081", false),
            ("udp", "192.0.2.10:8080", "198.51.100.1:1", true),
        ],
    );
}

#[test]
fn a_direction_is_that_of_who_began() {
    blocks(
        "direction = 'inbound'",
        &[
            ("tcp", "192.0.2.10:50000", "198.51.100.1:80", false),
            ("tcp", "198.51.100.1:50000", "192.0.2.10:80", true),
            ("udp", "198.51.100.1:50000", "192.0.2.10:81", true),
            ("icmp", "198.51.100.1", "192.0.2.10", true),
            ("udp", "[2001:db8::10]:50000", "[2001:db8::80]:80", false),
        ],
    );
}

#[test]
fn answers_to_what_went_out_are_not_inbound() {
    let mut world =
        World::with_policy("default = 'permit'\n[[rule]]\naction = 'block'\ndirection = 'inbound'");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    assert!(world.net.all_pass(&tcp.handshake()));
    assert!(world.net.passes(tcp.server_says(b"an answer")));
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50001", "198.51.100.1:9999", b"a question"))
    );
    assert!(
        world
            .net
            .passes(udp("198.51.100.1:9999", "192.0.2.10:50001", b"an answer"))
    );
    assert!(world.net.passes(icmp_echo("192.0.2.10", "198.51.100.1", 8)));
    assert!(world.net.passes(icmp_echo("198.51.100.1", "192.0.2.10", 0)));
    world.end();
}

#[test]
fn a_protocol_matches_by_name_or_number() {
    blocks(
        "protocol = ['udp', 1, 'icmpv6']",
        &[
            ("tcp", "192.0.2.10:50000", "198.51.100.1:80", false),
            ("udp", "192.0.2.10:50000", "198.51.100.1:80", true),
            ("icmp", "192.0.2.10", "198.51.100.1", true),
            ("icmp", "2001:db8::10", "2001:db8::80", true),
        ],
    );
}

#[test]
fn an_application_matches_by_its_path_with_wildcards_and_in_any_case() {
    let cases = [
        ("tcp", "192.0.2.10:50000", "198.51.100.1:80", true),
        ("udp", "[2001:db8::10]:50001", "[2001:db8::80]:80", true),
        ("tcp", "192.0.2.10:60000", "198.51.100.1:80", false),
        ("tcp", "192.0.2.10:40000", "198.51.100.1:80", false),
        ("tcp", "198.51.100.1:1024", "192.0.2.10:50002", true),
    ];
    for pattern in [
        r"C:\Program Files\Fire\browser.exe",
        r"c:\PROGRAM FILES\fire\BROWSER.EXE",
        r"C:\Program Files\*\browser.exe",
        r"*\browser.exe",
        r"C:\Program Files\Fire\browse?.exe",
        r"\device\harddiskvolume3\program files\fire\*",
    ] {
        blocks(&format!("application = '{pattern}'"), &cases);
    }
    blocks(
        "application = 'System'",
        &[("tcp", "192.0.2.10:40000", "198.51.100.1:80", true)],
    );
    blocks(
        r"application = 'C:\Program Files\Fire'",
        &[("tcp", "192.0.2.10:50000", "198.51.100.1:80", false)],
    );
}

#[test]
fn a_user_matches_by_sid() {
    blocks(
        &format!("user = '{BOB}'"),
        &[
            ("tcp", "192.0.2.10:50000", "198.51.100.1:80", false),
            ("tcp", "192.0.2.10:60000", "198.51.100.1:80", true),
            ("udp", "192.0.2.10:60001", "198.51.100.1:80", true),
            ("udp", "192.0.2.10:40000", "198.51.100.1:80", false),
        ],
    );
    blocks(
        "user = 'SYSTEM'",
        &[("udp", "192.0.2.10:40000", "198.51.100.1:80", true)],
    );
}

#[test]
fn all_conditions_of_a_rule_have_to_match() {
    blocks(
        &format!("direction = 'outbound'\nprotocol = 'tcp'\nremote_port = 80\nuser = '{ALICE}'"),
        &[
            ("tcp", "192.0.2.10:50000", "198.51.100.1:80", true),
            ("udp", "192.0.2.10:50001", "198.51.100.1:80", false),
            ("tcp", "192.0.2.10:50002", "198.51.100.1:81", false),
            ("tcp", "192.0.2.10:60000", "198.51.100.1:80", false),
            ("tcp", "198.51.100.1:80", "192.0.2.10:50003", false),
        ],
    );
}

#[test]
fn the_first_rule_that_matches_decides() {
    let mut world = World::with_policy(
        "
        default = 'block'
        [[rule]]
        action = 'block'
        remote_address = '198.51.100.7'
        [[rule]]
        action = 'permit'
        remote_address = '198.51.100.0/24'
        [[rule]]
        action = 'block'
        remote_address = '198.51.100.9'
        ",
    );
    for (remote, passes) in [
        ("198.51.100.7:80", false),
        ("198.51.100.8:80", true),
        ("198.51.100.9:80", true),
        ("203.0.113.1:80", false),
    ] {
        assert_eq!(
            world.net.passes(udp("192.0.2.10:50000", remote, b"x")),
            passes,
            "{remote}"
        );
    }
    let rules: Vec<Option<u32>> = world
        .events()
        .iter()
        .filter(|event| event.kind == EventKind::Authorize.raw())
        .map(portcullis_proto::EventRecord::rule)
        .collect();
    assert_eq!(rules, [Some(0), Some(1), Some(1), None]);
    world.end();
}

#[test]
fn a_connection_that_is_refused_stays_refused() {
    let mut world =
        World::with_policy("default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 23");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:23");
    assert!(world.net.none_passes(&tcp.handshake()));
    assert!(!world.net.passes(tcp.client_says(b"data")));
    assert!(!world.net.passes(tcp.server_says(b"data")));
    assert_eq!(world.status().flows.get(), 0);
    assert_eq!(world.net.flows().len(), 1);
    assert_eq!(
        world.net.flows()[0]
            .blocked_at
            .and_then(wfp_schema::LayerId::name),
        Some("ALE_AUTH_CONNECT_V4")
    );
    world.end();
}

#[test]
fn a_socket_that_may_not_listen_accepts_nothing() {
    for (host, peer, family) in [
        ("192.0.2.10", "198.51.100.1", Family::V4),
        ("[2001:db8::10]", "[2001:db8::80]", Family::V6),
    ] {
        let mut world = World::with_policy(
            "default = 'permit'\n[[rule]]\naction = 'block'\nprotocol = 'tcp'\nlocal_port = 8080",
        );
        let mut refused = Tcp::new(&format!("{peer}:1024"), &format!("{host}:8080"));
        assert!(world.net.none_passes(&refused.handshake()));
        assert_eq!(world.callout(CalloutKind::Listen, family).block.get(), 1);
        assert_eq!(
            world
                .callout(CalloutKind::RecvAccept, family)
                .classify
                .get(),
            0,
            "it never came to an accept"
        );
        let mut accepted = Tcp::new(&format!("{peer}:1025"), &format!("{host}:8081"));
        assert!(world.net.all_pass(&accepted.handshake()));
        assert_eq!(world.callout(CalloutKind::Listen, family).permit.get(), 1);
        let events = world.events();
        let listens: Vec<(u16, u8)> = events
            .iter()
            .filter(|event| event.operation == Operation::Listen.raw())
            .map(|event| (event.local_port.get(), event.verdict))
            .collect();
        assert_eq!(
            listens,
            [(8080, Action::Block.raw()), (8081, Action::Permit.raw())]
        );
        world.end();
    }
}

#[test]
fn a_socket_whose_every_peer_but_one_is_refused_may_listen() {
    let mut world = World::with_policy(
        "
        default = 'permit'
        [[rule]]
        action = 'permit'
        direction = 'inbound'
        remote_address = '198.51.100.1'
        [[rule]]
        action = 'block'
        direction = 'inbound'
        ",
    );
    assert!(
        world
            .net
            .none_passes(&Tcp::new("203.0.113.1:1024", "192.0.2.10:80").handshake())
    );
    assert!(
        world
            .net
            .all_pass(&Tcp::new("198.51.100.1:1024", "192.0.2.10:80").handshake())
    );
    world.end();
}

#[test]
fn an_event_tells_who_wanted_what_and_which_rule_decided() {
    let mut world = World::new();
    let mut processes = Processes::default();
    let user: ksim::net::Sid = ALICE.parse().expect("a SID");
    let identity = Identity::new(BROWSER, 1000, user.clone());
    processes.assign(
        "192.0.2.10:50000".parse().expect("an address"),
        identity.clone(),
    );
    world.owned_by(processes);
    world
        .set_policy("default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 23\nlog = true");
    world
        .net
        .passes(&Tcp::new("192.0.2.10:50000", "198.51.100.1:23").handshake()[0]);
    let events = world.events();
    let event = events
        .iter()
        .find(|event| event.kind == EventKind::Authorize.raw())
        .expect("an event");
    assert_eq!(event.verdict, Action::Block.raw());
    assert_eq!(event.operation, Operation::Connect.raw());
    assert_eq!(
        (event.family, event.protocol, event.direction),
        (Family::V4.raw(), 6, 1)
    );
    assert_eq!(
        (event.local_address[..4].to_vec(), event.local_port.get()),
        (vec![192, 0, 2, 10], 50_000)
    );
    assert_eq!(
        (event.remote_address[..4].to_vec(), event.remote_port.get()),
        (vec![198, 51, 100, 1], 23)
    );
    assert_eq!(event.rule(), Some(0));
    assert_eq!(event.process_id.get(), 1000);
    assert_eq!(event.user(), user.as_bytes());
    let application: Vec<u16> = event.application().collect();
    assert_eq!(
        String::from_utf16_lossy(&application),
        identity.application()
    );
    assert_eq!(event.epoch.get(), 1);
    assert_eq!(event.time.get(), world.kernel.time().now());
    world.end();
}
