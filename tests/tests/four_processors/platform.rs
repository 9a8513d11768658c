//! Sleep, and an engine that stops and starts, while operations are held, packets wait and the driver goes.

use std::collections::BTreeMap;

use ksim::net::{Output, Setup};
use ksim::{Config, Kernel, PoolMode, Schedule};
use portcullis_core::PacketSummary;
use portcullis_proto::{Action, DriverState};
use portcullis_tests::control::alive;
use portcullis_tests::net::sent;
use portcullis_tests::races::{four, hosts, on_each_beside, try_many, unload_beside_each};
use portcullis_tests::streams::{Arrived, replaced};
use portcullis_tests::sweep::sweep;
use portcullis_tests::{Net, Tcp, World, udp};

const SEEDS: u64 = 25;
const SECOND: u64 = 10_000_000;

/// What a rule says of each of the ports that these tests use.
const POLICY: &str = "
    default = 'permit'
    [[rule]]
    action = 'block'
    remote_port = 23
    [[rule]]
    action = 'ask'
    remote_port = 4433
    ask_default = 'permit'
    ask_seconds = 600
    [[rule]]
    action = 'permit'
    remote_port = 9999
    delay = '50 ms'
    [[rule]]
    action = 'permit'
    remote_port = 81
    replace = [{ find = 'secret', with = '******' }]
";

fn with_output() -> Setup {
    Setup {
        output: true,
        ..Setup::default()
    }
}

/// A client's end of either IP version, and the server's address.
fn ends(port: u16) -> (String, &'static str) {
    if port.is_multiple_of(2) {
        (format!("192.0.2.10:{port}"), "198.51.100.1")
    } else {
        (format!("[2001:db8::10]:{port}"), "[2001:db8::80]")
    }
}

fn to(port: u16, remote: u16) -> Tcp {
    let (client, server) = ends(port);
    Tcp::new(&client, &format!("{server}:{remote}"))
}

/// A host whose operations are held, whose packets wait and whose streams are edited.
struct Busy {
    net: Net,
    port: u16,
    /// Operations that were begun, and that have gone on.
    asked: usize,
    went_on: usize,
    /// How often the datagram from each port has left.
    left: BTreeMap<u16, usize>,
}

impl Busy {
    /// With ports behind this one.
    const fn new(net: Net, port: u16) -> Self {
        Self {
            net,
            port,
            asked: 0,
            went_on: 0,
            left: BTreeMap::new(),
        }
    }

    const fn port(&mut self) -> u16 {
        self.port += 1;
        self.port
    }

    /// What has left the stack since, of which packets that have waited are noted.
    fn output(&mut self, output: Vec<Output>) -> Vec<Output> {
        for packet in sent(output.clone()) {
            let summary = PacketSummary::parse(&packet).expect("a packet");
            if summary.destination.port == 9999 {
                *self.left.entry(summary.source.port).or_default() += 1;
            }
        }
        output
    }

    /// Lets what was held go on, and what waits.
    fn settle(&mut self) {
        for (_, passed) in self.net.settle() {
            assert!(passed, "the rule's default");
            self.went_on += 1;
        }
        let passing = self.net.pass(SECOND).into_iter();
        self.output(passing.map(|(_, output)| output).collect());
    }

    /// What is permitted.
    fn web(&mut self) {
        let mut web = to(self.port(), 80);
        assert!(self.net.all_pass(&web.handshake()));
        assert!(self.net.passes(web.client_says(b"data")));
        assert!(self.net.all_pass(&web.close()));
        let output = self.net.output();
        self.output(output);
    }

    /// Whether what is blocked passes.
    fn telnet(&mut self) -> bool {
        let first = to(self.port(), 23).handshake().swap_remove(0);
        self.net.passes(first)
    }

    /// Begins what is held.
    fn asks(&mut self) {
        self.asked += 1;
        let first = to(self.port(), 4433).handshake().swap_remove(0);
        self.went_on += usize::from(self.net.passes(first));
    }

    /// Sends what waits.
    fn sends(&mut self) {
        let (client, server) = ends(self.port());
        let datagram = udp(&client, &format!("{server}:9999"), b"datagram");
        let output = self.net.at_once(&[datagram]);
        self.output(output);
    }

    /// Both, while the beginning of a literal waits for its rest in a stream.
    fn all(&mut self) {
        let port = self.port();
        let mut tcp = to(port, 81);
        for packet in tcp.handshake() {
            self.net.at_once(&[packet]);
        }
        let mut arrived = Arrived::of(&ends(port).0);
        arrived.add(self.net.at_once(&[tcp.client_says(b"a secre")]));
        self.asks();
        self.sends();
        arrived.add(self.net.at_once(&[tcp.client_says(b"t and more")]));
        for packet in tcp.close() {
            arrived.add(self.net.at_once(&[packet]));
        }
        for _ in 0..100 {
            let settled = self.net.settle().len();
            self.went_on += settled;
            let output = self.net.output();
            arrived.add(self.output(output));
        }
        assert_eq!(arrived.ends, 2, "{arrived:?}");
        // What has waited for too long goes on as it is.
        let plain = replaced(&arrived.data[0], &[("******", "secret")]);
        assert_eq!(String::from_utf8_lossy(&plain), "a secret and more");
    }
}

/// These hosts, from a processor on.
fn busy(world: &World, first: u32) -> Vec<Busy> {
    let nets = hosts(world, first, &with_output()).into_iter();
    let ports = (20_000..).step_by(1_000);
    nets.zip(ports)
        .map(|(net, port)| Busy::new(net, port))
        .collect()
}

fn sleep_and_resume(kernel: &Kernel) {
    alive(kernel.sleep());
    alive(kernel.resume());
}

/// What was held has gone on once, and what waited has left once at most.
fn assert_over(world: &World, busy: &mut [Busy]) {
    assert_eq!(world.status().held.get(), 0, "held for ever");
    let mut left = BTreeMap::new();
    for busy in busy {
        busy.settle();
        assert_eq!(busy.asked, busy.went_on, "each goes on once");
        for (port, times) in &busy.left {
            *left.entry(*port).or_insert(0) += times;
        }
    }
    assert!(left.values().all(|&times| times == 1), "{left:?}");
}

fn sleep_under_traffic(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    assert!(world.device().questions().is_empty());
    let mut busy = busy(&world, 1);
    on_each_beside(
        &world.kernel,
        &mut busy,
        |_, busy| {
            for _ in 0..2 {
                busy.web();
                assert!(!busy.telnet());
                busy.all();
            }
        },
        || {
            for _ in 0..3 {
                sleep_and_resume(&world.kernel);
            }
        },
    );
    sleep_and_resume(&world.kernel);
    assert_over(&world, &mut busy);
    // What begins now is held, and waits.
    for busy in &mut busy {
        busy.asks();
        busy.sends();
    }
    assert_eq!(world.status().held.get(), 3);
    let questions = world.device().questions();
    for question in questions.iter().rev().take(3) {
        assert!(world.device().reply(question, Action::Permit));
    }
    assert_over(&world, &mut busy);
    drop(busy);
    world.end();
}

#[test]
fn sleep_under_traffic_on_three_processors_ends_what_waits_once() {
    try_many(SEEDS, sleep_under_traffic);
}

fn unload_against_sleep(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    assert!(world.device().questions().is_empty());
    let kernel = world.kernel.clone();
    let mut busy = busy(&world, 1);
    unload_beside_each(world, &mut busy, |number, busy| {
        if number == 0 {
            for _ in 0..3 {
                sleep_and_resume(&kernel);
            }
            return;
        }
        busy.web();
        busy.asks();
        busy.sends();
        busy.web();
    });
    for busy in &mut busy {
        busy.settle();
        assert_eq!(busy.asked, busy.went_on, "each goes on once");
        assert!(busy.telnet(), "nobody's");
    }
}

#[test]
fn unloading_against_sleep_under_traffic() {
    try_many(SEEDS, unload_against_sleep);
}

fn engine_under_traffic(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let kernel = &world.kernel;
    let mut busy = busy(&world, 1);
    on_each_beside(
        kernel,
        &mut busy,
        |_, busy| {
            for _ in 0..2 {
                busy.web();
                busy.telnet();
                busy.sends();
            }
        },
        || {
            for _ in 0..3 {
                alive(kernel.on(0, |_| kernel.bfe().stop()));
                alive(kernel.on(0, |_| kernel.bfe().start()));
            }
        },
    );
    world.stop_bfe();
    world.start_bfe();
    assert_eq!(world.state(), DriverState::Active);
    assert_eq!(world.engine().session_count(), 1);
    assert_over(&world, &mut busy);
    for busy in &mut busy {
        busy.web();
        assert!(!busy.telnet(), "the policy holds");
        busy.net.finish();
    }
    assert_eq!(world.status().flows.get(), 0);
    drop(busy);
    world.end();
}

#[test]
fn the_engine_stops_and_starts_under_traffic_on_three_processors() {
    try_many(SEEDS, engine_under_traffic);
}

fn unload_against_the_engine(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let kernel = world.kernel.clone();
    let mut busy = busy(&world, 1);
    unload_beside_each(world, &mut busy, |number, busy| {
        if number == 0 {
            for _ in 0..2 {
                alive(kernel.on(1, |_| kernel.bfe().stop()));
                alive(kernel.on(1, |_| kernel.bfe().start()));
            }
            return;
        }
        busy.web();
        busy.sends();
        busy.web();
    });
}

#[test]
fn unloading_against_the_engines_stop_and_start_under_traffic() {
    try_many(SEEDS, unload_against_the_engine);
}

#[test]
fn whatever_fails_around_sleep_nothing_is_held_for_ever() {
    sweep("what waits, sleep and resume", |nth| {
        let world = World::with_config(&Config {
            pool: PoolMode::Fast,
            ..Config::default()
        });
        world.set_policy(POLICY);
        assert!(world.device().questions().is_empty());
        let net = Net::with_setup(&world.kernel, 0, with_output());
        let mut busy = [Busy::new(net, 20_000)];
        world.kernel.faults().fail_nth(nth);
        busy[0].asks();
        busy[0].sends();
        sleep_and_resume(&world.kernel);
        busy[0].settle();
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        assert!(call.is_some() || busy[0].went_on == 1);
        // What could not be held is refused.
        assert!(busy[0].went_on <= 1, "after {call:?}");
        busy[0].went_on = busy[0].asked;
        assert_over(&world, &mut busy);
        busy[0].asks();
        assert_eq!(world.status().held.get(), 1, "after {call:?}");
        sleep_and_resume(&world.kernel);
        assert_over(&world, &mut busy);
        busy[0].web();
        assert!(!busy[0].telnet());
        drop(busy);
        world.end();
        call
    });
}
