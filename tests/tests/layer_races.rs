//! Binds, ICMP errors, forwarded packets, discards and endpoints that close: when calls fail, on several processors, and beside
//! an unload.

use ksim::net::{Link, Opened, Setup, Socket};
use ksim::sched::Program;
use ksim::{Config, PoolMode, Schedule};
use portcullis_proto::Counter;
use portcullis_tests::packets::end as at;
use portcullis_tests::races::{try_many, unload_beside};
use portcullis_tests::sweep::sweep;
use portcullis_tests::{Net, Tcp, World, packets, udp};
use wfp_schema::IpVersion;

const POLICY: &str = "
    default = 'permit'
    observe = true
    [[rule]]
    action = 'block'
    operation = 'bind'
    protocol = 'tcp'
    local_port = 25
    [[rule]]
    action = 'block'
    operation = 'forward'
    remote_port = 53
    protocol = 'udp'
    [[rule]]
    action = 'block'
    operation = 'icmp-error'
    direction = 'inbound'
    [[rule]]
    action = 'block'
    protocol = 'tcp'
    remote_port = 23
";

/// What a version's host, peer, router and two other machines are called.
const NAMES: [(IpVersion, [&str; 5]); 2] = [
    (
        IpVersion::V4,
        [
            "192.0.2.10",
            "198.51.100.1",
            "198.51.100.254",
            "198.51.100.7",
            "203.0.113.9",
        ],
    ),
    (
        IpVersion::V6,
        [
            "2001:db8::10",
            "2001:db8::80",
            "2001:db8::fe",
            "2001:db8:1::7",
            "2001:db8:2::9",
        ],
    ),
];

fn config(processors: u32, schedule: Schedule) -> Config {
    Config {
        processors,
        schedule,
        pool: PoolMode::Fast,
        ..Config::default()
    }
}

fn router(world: &World, processor: u32) -> Net {
    let setup = Setup {
        forwarding: true,
        ..Setup::default()
    };
    Net::with_setup(&world.kernel, processor, setup)
}

fn begin(config: &Config) -> World {
    let world = World::with_config(config);
    world.set_policy(POLICY);
    drop(world.events());
    world
}

/// One of each with a client's port of its own. Returns whether what a rule blocks got through: a bind, a forwarded datagram, an
/// ICMP error, and a connection, of IPv4 and then of IPv6.
fn one_of_each(net: &mut Net, port: u16) -> [bool; 8] {
    let mut got_through = [false; 8];
    for ((version, [host, peer, gateway, from, to]), passed) in
        NAMES.into_iter().zip(got_through.chunks_exact_mut(4))
    {
        let mail = Socket {
            version,
            protocol: 6,
            address: None,
            port: 25,
            any_port: false,
            raw: false,
            promiscuous: false,
            listens: false,
            link: Link::default(),
        };
        passed[0] = matches!(net.open(&mail), Opened::Bound(_));
        passed[1] = net.passes(udp(&at(from, port), &at(to, 53), b"query"));
        net.packet(&udp(&at(from, port), &at(to, 123), b"time"));
        let question = udp(&at(host, port), &at(peer, 4_242), b"is anybody there");
        net.packet(&question);
        let address = |text: &str| text.parse().expect("an address");
        let error = packets::unreachable(address(gateway), address(host), &question);
        passed[2] = net.passes(error);
        let telnet = Tcp::new(&at(host, port), &at(peer, 23)).handshake();
        passed[3] = net.passes(&telnet[0]);
        let mut web = Tcp::new(&at(host, port + 1), &at(peer, 443));
        net.fates(&web.handshake());
        net.fates(&web.close());
    }
    net.finish();
    got_through
}

#[test]
fn every_call_at_these_layers_fails_in_turn_and_what_is_blocked_stays_blocked() {
    sweep("binds, errors, forwarding and discards", |nth| {
        let world = begin(&config(1, Schedule::default()));
        let mut net = router(&world, 0);
        world.kernel.faults().fail_nth(nth);
        let passed = one_of_each(&mut net, 50_000);
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        assert_eq!(passed, [false; 8], "{call:?}");
        let mut net = router(&world, 0);
        assert_eq!(one_of_each(&mut net, 50_010), [false; 8], "after {call:?}");
        drop(net);
        world.end();
        call
    });
}

/// Ports that each of four processors takes.
const ROUNDS: u16 = 3;

fn four_processors(schedule: &Schedule) {
    let world = begin(&config(4, schedule.clone()));
    let kernel = &world.kernel;
    let mut nets: Vec<Net> = (0..4).map(|processor| router(&world, processor)).collect();
    let programs: Vec<Program<'_, ()>> = nets
        .iter_mut()
        .zip([20_000_u16, 30_000, 40_000, 50_000])
        .map(|(net, ports)| -> Program<'_, ()> {
            Box::new(move || {
                for round in 0..ROUNDS {
                    assert_eq!(one_of_each(net, ports + 10 * round), [false; 8]);
                }
            })
        })
        .collect();
    kernel.together(programs);
    drop(nets);
    let each = u64::from(4 * ROUNDS * 2);
    for counter in [
        Counter::BindsBlocked,
        Counter::ForwardBlocked,
        Counter::IcmpErrorsBlocked,
        Counter::Blocked,
    ] {
        assert_eq!(world.counter(counter), each, "{counter:?}");
    }
    assert_eq!(world.status().flows.get(), 0);
    assert_eq!(world.counter(Counter::FieldMissing), 0);
    assert_eq!(world.counter(Counter::MetadataMissing), 0);
    world.end();
}

#[test]
fn four_processors_are_decided_about_at_these_layers_under_many_seeds() {
    try_many(20, four_processors);
}

fn unload_against_each(schedule: &Schedule) {
    let world = begin(&config(2, schedule.clone()));
    let mut net = router(&world, 1);
    unload_beside(world, || {
        one_of_each(&mut net, 50_000);
    });
}

#[test]
fn unloading_against_each_of_these_layers() {
    try_many(40, unload_against_each);
}
