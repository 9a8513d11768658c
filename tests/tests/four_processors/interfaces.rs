//! Rules by network interface: packets that take another one, while policies change, calls fail and the driver goes.

use ksim::net::{Arrival, Setup};
use ksim::{Config, PoolMode, Schedule};
use portcullis_proto::Counter;
use portcullis_tests::control::compile;
use portcullis_tests::interfaces::{BOTH, ETHERNET, TUNNEL, WIFI, all, kill_switch};
use portcullis_tests::packets::end;
use portcullis_tests::races::{four, hosts, on_each, on_each_beside, try_many, unload_beside_each};
use portcullis_tests::sweep::sweep;
use portcullis_tests::{Net, Tcp, World, udp};
use wfp_schema::NtStatus;

const OPEN: &str = "default = 'permit'";
const SEEDS: u64 = 25;

fn with_interfaces() -> Setup {
    Setup {
        interfaces: all(),
        ..Setup::default()
    }
}

/// What goes to these addresses stays in the tunnel when the routes change.
const STAYING: [&str; 2] = ["198.51.100.2", "2001:db8::82"];

/// The client's port of what is done with a number on a processor.
const fn port(processor: u16, number: u16) -> u16 {
    20_000 + 1_000 * processor + number
}

fn connect(net: &mut Net, here: &str, there: &str, port: u16) -> Tcp {
    let mut tcp = Tcp::new(&end(here, port), &end(there, 443));
    for packet in tcp.handshake() {
        net.passes_on(TUNNEL, &packet);
    }
    tcp
}

/// Packets to an address take the Ethernet interface from now on.
fn reroute(net: &mut Net, there: &str) {
    net.reroute(there.parse().expect("an address"), ETHERNET);
}

/// Connections of a host in the tunnel, of both IP versions.
struct Tunnelled {
    /// Those whose route changes.
    moving: Vec<Tcp>,
    staying: Vec<Tcp>,
}

impl Tunnelled {
    fn begin(processor: u16, net: &mut Net) -> Self {
        let (mut moving, mut staying) = (Vec::new(), Vec::new());
        for (number, ((here, there), other)) in (0..).zip(BOTH.into_iter().zip(STAYING)) {
            moving.push(connect(net, here, there, port(processor, number)));
            staying.push(connect(net, here, other, port(processor, 10 + number)));
        }
        Self { moving, staying }
    }

    /// The routes of those that move lead over Ethernet now.
    fn reroute(net: &mut Net) {
        for (_, there) in BOTH {
            reroute(net, there);
        }
    }

    /// Whether what they say passes, and what a new connection and a datagram to the same address over Ethernet say.
    fn moved(&mut self, net: &mut Net, port: u16) -> Vec<bool> {
        let mut fates = Vec::new();
        for (tcp, (here, there)) in self.moving.iter_mut().zip(BOTH) {
            fates.push(net.passes_on(TUNNEL, &tcp.client_says(b"plain text")));
            let first = Tcp::new(&end(here, port), &end(there, 443)).handshake();
            fates.push(net.passes_on(ETHERNET, &first[0]));
            let datagram = udp(&end(here, port), &end(there, 53), b"question");
            fates.push(net.passes_on(ETHERNET, &datagram));
        }
        fates
    }

    fn stay(&mut self, net: &mut Net) -> bool {
        let mut said = self.staying.iter_mut().map(|tcp| tcp.client_says(b"text"));
        said.all(|packet| net.passes_on(TUNNEL, &packet))
    }
}

fn moves(processor: u16, net: &mut Net) {
    let mut tunnelled = Tunnelled::begin(processor, net);
    assert!(tunnelled.stay(net));
    let mut forged = connect(net, BOTH[0].0, STAYING[0], port(processor, 20));
    assert!(net.passes_on(TUNNEL, &forged.server_says(b"hello")));
    let by_wifi = Arrival {
        interface: Some(WIFI),
        ..Arrival::on(TUNNEL)
    };
    assert!(
        !net.packet_from(by_wifi, &forged.server_says(b"forged"))
            .passed
    );
    Tunnelled::reroute(net);
    let fates = tunnelled.moved(net, port(processor, 30));
    assert_eq!(fates, [false; 6]);
    assert!(tunnelled.stay(net));
    net.finish();
}

fn four_processors(schedule: &Schedule) {
    let world = four(schedule, &kill_switch());
    let mut nets = hosts(&world, 0, &with_interfaces());
    on_each(&world, &mut nets, moves);
    let created = world.counter(Counter::FlowsCreated);
    assert_eq!(created, 4 * 5);
    assert_eq!(world.counter(Counter::FlowsDeleted), created);
    assert_eq!(world.counter(Counter::FieldMissing), 0);
    drop(nets);
    world.end();
}

#[test]
fn on_four_processors_nothing_leaves_but_through_the_tunnel() {
    try_many(SEEDS, four_processors);
}

fn policy_against_moves(schedule: &Schedule) {
    let world = four(schedule, OPEN);
    let mut nets = hosts(&world, 1, &with_interfaces());
    let closed = compile(&kill_switch());
    let hosts = on_each_beside(
        &world.kernel,
        &mut nets,
        |processor, net| {
            let mut tunnelled = Tunnelled::begin(processor, net);
            Tunnelled::reroute(net);
            for round in 0..3 {
                let fates = tunnelled.moved(net, port(processor, 30 + round));
                assert!(fates.is_sorted_by(|one, next| one >= next), "{fates:?}");
                assert!(tunnelled.stay(net));
            }
            tunnelled
        },
        || assert_eq!(world.device().try_set_policy(&closed), NtStatus::SUCCESS),
    );
    // It has decided each flow by the interface that it takes.
    for (number, (net, mut tunnelled)) in (0..).zip(nets.iter_mut().zip(hosts)) {
        assert_eq!(tunnelled.moved(net, port(number, 40)), [false; 6]);
        assert!(tunnelled.stay(net));
    }
    drop(nets);
    world.end();
}

#[test]
fn a_policy_that_closes_all_but_the_tunnel_ends_what_moves_meanwhile() {
    try_many(SEEDS, policy_against_moves);
}

fn policies_against_moves(schedule: &Schedule) {
    let world = four(schedule, &kill_switch());
    let mut nets = hosts(&world, 1, &with_interfaces());
    let [one, other] = ["", "[[rule]]\naction = 'block'\nremote_port = 1\n"]
        .map(|more| compile(&(kill_switch() + more)));
    on_each_beside(&world.kernel, &mut nets, moves, || {
        for policy in [&one, &other, &one] {
            assert_eq!(world.device().try_set_policy(policy), NtStatus::SUCCESS);
        }
    });
    drop(nets);
    world.end();
}

#[test]
fn policies_that_follow_each_other_let_nothing_out_but_through_the_tunnel() {
    try_many(SEEDS, policies_against_moves);
}

fn unload_in_mid_move(schedule: &Schedule) {
    let world = four(schedule, &kill_switch());
    let mut nets = hosts(&world, 1, &with_interfaces());
    unload_beside_each(world, &mut nets, |processor, net| {
        let mut tunnelled = Tunnelled::begin(processor, net);
        Tunnelled::reroute(net);
        assert!(tunnelled.stay(net), "permitted, or nobody's");
        let mut fates = Vec::new();
        for round in 0..3 {
            fates.extend(tunnelled.moved(net, port(processor, 30 + round)));
        }
        // What lived is over, or nobody's; what is new is nobody's once the driver is gone.
        let new = fates.chunks_exact(3).flat_map(|fates| &fates[1..]);
        assert!(new.is_sorted(), "{fates:?}");
        assert!(tunnelled.stay(net), "permitted, or nobody's");
    });
}

#[test]
fn unloading_while_connections_change_their_interface() {
    try_many(SEEDS, unload_in_mid_move);
}

/// A machine with this policy, and a host of several interfaces.
fn alone(policy: &str) -> (World, Net) {
    let world = World::with_config(&Config {
        pool: PoolMode::Fast,
        ..Config::default()
    });
    world.set_policy(policy);
    let net = Net::with_setup(&world.kernel, 0, with_interfaces());
    (world, net)
}

#[test]
fn whatever_fails_while_a_connection_begins_and_moves_nothing_leaves_outside_the_tunnel() {
    sweep("connections that move", |nth| {
        let (world, mut net) = alone(&kill_switch());
        world.kernel.faults().fail_nth(nth);
        let mut before = Tunnelled::begin(0, &mut net);
        let stayed = before.stay(&mut net);
        Tunnelled::reroute(&mut net);
        let fates = before.moved(&mut net, 30_000);
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        assert_eq!(fates, [false; 6], "{call:?}");
        assert!(call.is_some() || stayed);
        assert_eq!(before.moved(&mut net, 30_001), [false; 6], "after {call:?}");
        drop(net);
        world.end();
        call
    });
}

#[test]
fn whatever_fails_when_a_policy_closes_all_but_the_tunnel_it_does_or_is_not_in_force() {
    let closed = compile(&kill_switch());
    sweep("a policy by interface", |nth| {
        let (world, mut net) = alone(OPEN);
        let mut before = Tunnelled::begin(0, &mut net);
        assert!(before.stay(&mut net));
        Tunnelled::reroute(&mut net);
        world.kernel.faults().fail_nth(nth);
        let status = world.device().try_set_policy(&closed);
        let fates = before.moved(&mut net, 30_000);
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        if status.is_success() {
            assert_eq!(fates, [false; 6], "{call:?}");
        }
        assert!(call.is_some() || status.is_success(), "{status}");
        assert_eq!(world.device().try_set_policy(&closed), NtStatus::SUCCESS);
        assert_eq!(before.moved(&mut net, 30_001), [false; 6], "after {call:?}");
        drop(net);
        world.end();
        call
    });
}
