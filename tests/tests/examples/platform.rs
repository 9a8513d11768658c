//! `resting`.

use ksim::ndis::MdlLayout;
use ksim::net::{Output, Setup};
use ksim::{Config, Kernel, Schedule};
use portcullis_tests::examples::built;
use portcullis_tests::foreign::{Machine, sweep};
use portcullis_tests::races::{try_all, try_interrupted};
use portcullis_tests::{Net, udp};

use super::{alive, clients, with_processors};

const SERVERS: [&str; 2] = ["198.51.100.1:6666", "[2001:db8::80]:6666"];

/// Schedules that are tried besides those that depart from the plain order once.
const SEEDS: u64 = 20;

/// No packets.
const NONE: [u8; 0] = [];

/// 100-nanosecond units.
const MILLISECOND: u64 = 10_000;

pub(super) fn resting(net: &mut Net, port: u16) {
    for (client, server) in clients(port).iter().zip(SERVERS) {
        for _ in 0..3 {
            net.packet(&udp(client, server, b"datagram"));
        }
    }
    net.pass(50 * MILLISECOND);
}

/// The example on a machine made like this, with a host whose output is kept.
fn machine(config: &Config) -> Machine {
    let mut machine = Machine::with_built(config, &built("resting"));
    machine.net.restart(Setup {
        output: true,
        ..Setup::default()
    });
    machine
}

/// The last byte of each packet that has left.
fn last_bytes(output: impl IntoIterator<Item = Output>) -> Vec<u8> {
    let last = |output: Output| match output {
        Output::Sent(packet) => packet.last().copied(),
        _ => None,
    };
    output.into_iter().filter_map(last).collect()
}

/// Datagrams that are numbered from `first` on, all sent at once. What leaves at once.
fn send(net: &mut Net, first: u8, count: u8) -> Vec<u8> {
    let [numbers, mut left] = [first..first + count, 0..0].map(Vec::from_iter);
    for (client, server) in clients(50_000).iter().zip(SERVERS) {
        let datagrams: Vec<_> = numbers
            .iter()
            .map(|number| udp(client, server, &[*number]))
            .collect();
        left.extend(last_bytes(net.at_once(&datagrams)));
    }
    left
}

/// What has left the stack, once it has done what drivers asked for.
fn left(net: &mut Net) -> Vec<u8> {
    net.settle();
    last_bytes(net.output())
}

/// What leaves within so many milliseconds.
fn later(net: &mut Net, milliseconds: u64) -> Vec<u8> {
    let output = net.pass(milliseconds * MILLISECOND);
    last_bytes(output.into_iter().map(|(_, output)| output))
}

/// Clones that the driver keeps, or that are being injected.
fn clones(kernel: &Kernel) -> usize {
    let kept = kernel.verifier().leaks().into_iter();
    kept.filter(|kept| kept.kind == "net buffer list")
        .map(|kept| kept.count)
        .sum()
}

fn start_bfe(kernel: &Kernel) {
    alive(kernel.on(0, |_| kernel.bfe().start()));
    alive(kernel.on(0, |_| ()));
}

fn stop_bfe(kernel: &Kernel) {
    alive(kernel.on(0, |_| kernel.bfe().stop()));
    alive(kernel.on(0, |_| ()));
}

/// Datagrams wait, and go on in time and in order.
fn holds(net: &mut Net, why: &str) {
    assert_eq!(send(net, 1, 3), NONE, "{why}: they wait");
    assert_eq!(later(net, 49), NONE, "{why}");
    assert_eq!(later(net, 1), [1, 2, 3, 1, 2, 3], "{why}: in time");
    assert_eq!(later(net, 500), NONE, "{why}: once");
}

/// Datagrams do not wait.
fn rests(net: &mut Net, why: &str) {
    assert_eq!(send(net, 1, 3), [1, 2, 3, 1, 2, 3], "{why}");
    assert_eq!(later(net, 500), NONE, "{why}: once");
}

#[test]
fn resting_lets_datagrams_wait_wherever_their_headers_are_and_no_more_than_it_has_places_for() {
    for layout in [MdlLayout::Whole, MdlLayout::Seeded(7)] {
        let mut config = Config::default();
        config.fwp.mdl_layout = layout;
        let mut machine = machine(&config);
        holds(&mut machine.net, "awake");
        // Twenty of each IP version.
        let passed: Vec<u8> = (13..21).collect();
        assert_eq!(send(&mut machine.net, 1, 20), passed, "there are no places");
        assert_eq!(later(&mut machine.net, 50).len(), 32);
        let [client, _] = clients(50_000);
        let query = udp(&client, "198.51.100.1:53", b"query");
        assert_eq!(machine.net.at_once(&[query]).len(), 1, "others pass");
        machine.end();
    }
}

#[test]
fn resting_lets_go_what_it_holds_before_the_machine_sleeps() {
    let mut machine = machine(&Config::default());
    for _ in 0..3 {
        assert_eq!(send(&mut machine.net, 1, 3), NONE);
        alive(machine.kernel.sleep());
        assert_eq!(left(&mut machine.net), [1, 2, 3, 1, 2, 3], "before sleep");
        rests(&mut machine.net, "asleep");
        alive(machine.kernel.resume());
        assert_eq!(left(&mut machine.net), NONE);
        holds(&mut machine.net, "back");
    }
    machine.end();
}

#[test]
fn resting_waits_for_its_injections_before_the_machine_sleeps_but_not_for_ever() {
    for (late, left_behind) in [(3, 0), (400, 0), (2_000, 6)] {
        let mut machine = machine(&Config::default());
        assert_eq!(send(&mut machine.net, 1, 3), NONE);
        assert_eq!(clones(&machine.kernel), 6);
        let time = machine.kernel.time();
        time.set_lateness("completion of an injection", late * MILLISECOND);
        let before = time.now();
        alive(machine.kernel.sleep());
        let took = (machine.kernel.time().now() - before) / MILLISECOND;
        assert_eq!(clones(&machine.kernel), left_behind, "{late} ms");
        assert!(
            (late.min(500)..=500).contains(&took),
            "{late} ms: {took} ms"
        );
        assert_eq!(left(&mut machine.net), [1, 2, 3, 1, 2, 3]);
        alive(machine.kernel.resume());
        assert_eq!(later(&mut machine.net, late), NONE);
        assert_eq!(clones(&machine.kernel), 0);
        machine.end();
    }
}

#[test]
fn resting_lets_go_what_it_holds_when_the_engine_stops_and_holds_again_when_it_starts() {
    for outlive in [false, true] {
        let mut config = Config::default();
        config.fwp.options.filters_outlive_bfe = outlive;
        let mut machine = machine(&config);
        for _ in 0..3 {
            assert_eq!(send(&mut machine.net, 1, 3), NONE);
            stop_bfe(&machine.kernel);
            assert_eq!(left(&mut machine.net), [1, 2, 3, 1, 2, 3]);
            assert_eq!(machine.kernel.filter_engine().session_count(), 0);
            assert!(
                !machine
                    .kernel
                    .filter_engine()
                    .registered_callouts()
                    .is_empty()
            );
            rests(&mut machine.net, "the engine is down");
            start_bfe(&machine.kernel);
            holds(&mut machine.net, "the engine is up");
        }
        // It may be back before the driver has looked.
        let kernel = machine.kernel.clone();
        assert_eq!(send(&mut machine.net, 1, 3), NONE);
        alive(kernel.on(0, |_| {
            kernel.bfe().stop();
            kernel
                .time()
                .defer("a restart", |cpu| cpu.machine().bfe().start());
        }));
        assert_eq!(left(&mut machine.net), [1, 2, 3, 1, 2, 3]);
        holds(&mut machine.net, "the engine is back");
        assert_eq!(kernel.filter_engine().session_count(), 1);
        machine.end();
    }
}

#[test]
fn resting_finds_an_engine_that_was_away_between_two_looks() {
    let mut machine = machine(&Config::default());
    for _ in 0..3 {
        assert_eq!(send(&mut machine.net, 1, 3), NONE);
        // For so long no thread is free for its work item.
        let time = machine.kernel.time();
        time.set_lateness("WDFWORKITEM", MILLISECOND);
        stop_bfe(&machine.kernel);
        start_bfe(&machine.kernel);
        machine.kernel.time().set_lateness("WDFWORKITEM", 0);
        assert_eq!(left(&mut machine.net), NONE, "it has not looked yet");
        assert_eq!(later(&mut machine.net, 1), [1, 2, 3, 1, 2, 3]);
        assert_eq!(machine.kernel.filter_engine().session_count(), 1);
        holds(&mut machine.net, "the engine is back");
    }
    machine.end();
}

#[test]
fn resting_holds_nothing_for_an_engine_that_stopped_before_it_took_its_filters_away() {
    // They may go on without the engine.
    let mut config = Config::default();
    config.fwp.options.filters_outlive_bfe = true;
    let mut machine = machine(&config);
    for _ in 0..3 {
        assert_eq!(send(&mut machine.net, 1, 3), NONE);
        let time = machine.kernel.time();
        time.set_lateness("WDFWORKITEM", MILLISECOND);
        stop_bfe(&machine.kernel);
        machine.kernel.time().set_lateness("WDFWORKITEM", 0);
        assert_eq!(later(&mut machine.net, 1), [1, 2, 3, 1, 2, 3]);
        rests(&mut machine.net, "the engine is down");
        start_bfe(&machine.kernel);
        holds(&mut machine.net, "the engine is up");
    }
    machine.end();
}

#[test]
fn resting_starts_without_the_engine_and_sleep_does_not_change_what_the_engine_says() {
    let mut config = Config::default();
    config.fwp.bfe_running = false;
    let mut machine = machine(&config);
    rests(&mut machine.net, "there is no engine");
    alive(machine.kernel.sleep());
    alive(machine.kernel.resume());
    rests(&mut machine.net, "there still is none");
    alive(machine.kernel.sleep());
    start_bfe(&machine.kernel);
    rests(&mut machine.net, "the machine sleeps");
    alive(machine.kernel.resume());
    holds(&mut machine.net, "both are up");
    alive(machine.kernel.sleep());
    stop_bfe(&machine.kernel);
    alive(machine.kernel.resume());
    rests(&mut machine.net, "the engine has gone meanwhile");
    machine.end();
}

#[test]
fn resting_is_unloaded_whatever_the_platform_does() {
    for (asleep, down) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut machine = machine(&Config::default());
        assert_eq!(send(&mut machine.net, 1, 3), NONE);
        if asleep {
            alive(machine.kernel.sleep());
        }
        if down {
            stop_bfe(&machine.kernel);
        }
        let report = machine.unload();
        assert!(report.is_clean(), "{asleep} {down}: {report:#?}");
        assert_eq!(
            left(&mut machine.net),
            [1, 2, 3, 1, 2, 3],
            "{asleep} {down}"
        );
        alive(machine.kernel.resume());
        start_bfe(&machine.kernel);
        rests(&mut machine.net, "it is gone");
    }
}

/// What the platform does while there is traffic.
fn changes(kernel: &Kernel) {
    for _ in 0..3 {
        alive(kernel.sleep());
        alive(kernel.resume());
        stop_bfe(kernel);
        start_bfe(kernel);
    }
}

/// Does something with a machine on whose other processors there is traffic.
fn under_traffic(seed: u64, work: impl FnOnce(&mut Machine) + Send) -> Machine {
    let config = Config {
        schedule: Schedule::seeded(seed),
        ..with_processors(3)
    };
    let mut machine = machine(&config);
    let kernel = machine.kernel.clone();
    let mut nets = [1, 2].map(|processor| Net::new(&kernel, processor));
    let [one, other] = &mut nets;
    kernel.together::<()>(vec![
        Box::new(|| work(&mut machine)),
        Box::new(|| resting(one, 50_000)),
        Box::new(|| resting(other, 51_000)),
    ]);
    machine
}

#[test]
fn resting_is_unloaded_when_the_platform_has_changed_under_traffic() {
    for seed in 0..24 {
        let mut report = None;
        drop(under_traffic(seed, |machine| {
            changes(&machine.kernel);
            report = Some(machine.unload());
        }));
        let report = report.expect("it was unloaded");
        assert!(report.is_clean(), "seed {seed}: {report:#?}");
    }
}

#[test]
fn resting_holds_when_the_platform_has_changed_under_traffic() {
    for seed in 0..24 {
        let mut machine = under_traffic(seed, |machine| changes(&machine.kernel));
        // What was put off has been done, and what the others have sent is not in the way.
        later(&mut machine.net, 500);
        holds(&mut machine.net, &format!("seed {seed}"));
        machine.end();
    }
}

/// Does something with a machine while a datagram of each IP version is sent on its other processor. Both have left within so
/// many milliseconds.
fn beside_datagrams(
    schedule: &Schedule,
    milliseconds: u64,
    work: impl FnOnce(&mut Machine) + Send,
) -> Machine {
    let (mut machine, mut net) = two_processors(schedule);
    let kernel = machine.kernel.clone();
    let mut sent = Vec::new();
    kernel.together::<()>(vec![
        Box::new(|| work(&mut machine)),
        Box::new(|| sent = send(&mut net, 1, 1)),
    ]);
    sent.extend(left(&mut net));
    sent.extend(later(&mut net, milliseconds));
    assert_eq!(sent, [1, 1], "in time, and once");
    machine
}

/// The example on a machine of two processors, and a host on the second one.
fn two_processors(schedule: &Schedule) -> (Machine, Net) {
    let config = Config {
        schedule: schedule.clone(),
        ..with_processors(2)
    };
    let machine = machine(&config);
    let setup = Setup {
        output: true,
        ..Setup::default()
    };
    let net = Net::with_setup(&machine.kernel, 1, setup);
    (machine, net)
}

fn sleep_against_datagrams(schedule: &Schedule) {
    let sleep = |machine: &mut Machine| alive(machine.kernel.sleep());
    beside_datagrams(schedule, 0, sleep).end();
}

fn stop_of_the_engine_against_datagrams(schedule: &Schedule) {
    let stop = |machine: &mut Machine| stop_bfe(&machine.kernel);
    beside_datagrams(schedule, 0, stop).end();
}

fn unload_against_datagrams(schedule: &Schedule) {
    drop(beside_datagrams(schedule, 0, |machine| {
        let report = machine.unload();
        assert!(report.is_clean(), "{report:#?}");
    }));
}

fn restart_of_the_engine_against_datagrams(schedule: &Schedule) {
    let mut machine = beside_datagrams(schedule, 50, |machine| {
        stop_bfe(&machine.kernel);
        start_bfe(&machine.kernel);
    });
    holds(&mut machine.net, "the engine is back");
    machine.end();
}

/// The machine sleeps while the timer is at what has waited.
fn sleep_against_the_timer(schedule: &Schedule) {
    let (machine, mut net) = two_processors(schedule);
    let kernel = machine.kernel.clone();
    assert_eq!(send(&mut net, 1, 1), NONE);
    let (mut went, mut kept) = (Vec::new(), 0);
    kernel.together::<()>(vec![
        Box::new(|| {
            // In one go: nothing is made up for behind the sleep.
            kept = alive(kernel.on(0, |_| {
                alive(kernel.sleep());
                clones(&kernel)
            }));
        }),
        Box::new(|| went = later(&mut net, 50)),
    ]);
    went.extend(left(&mut net));
    assert_eq!((went, kept), (vec![1, 1], 0), "when the machine sleeps");
    drop(net);
    machine.end();
}

#[test]
fn resting_holds_nothing_back_whenever_the_machine_sleeps() {
    try_all(SEEDS, sleep_against_datagrams);
    try_interrupted(sleep_against_datagrams);
}

#[test]
fn resting_has_let_everything_go_before_the_machine_sleeps_whatever_its_timer_is_at() {
    try_all(SEEDS, sleep_against_the_timer);
    try_interrupted(sleep_against_the_timer);
}

#[test]
fn resting_holds_nothing_back_whenever_the_engine_stops() {
    try_all(SEEDS, stop_of_the_engine_against_datagrams);
    try_interrupted(stop_of_the_engine_against_datagrams);
}

#[test]
fn resting_holds_nothing_back_whenever_it_is_unloaded() {
    try_all(SEEDS, unload_against_datagrams);
    try_interrupted(unload_against_datagrams);
}

#[test]
fn resting_holds_again_whenever_the_engine_starts_again() {
    try_all(SEEDS, restart_of_the_engine_against_datagrams);
}

#[test]
fn each_call_of_resting_fails_in_turn_while_the_platform_changes() {
    let calls = sweep(&built("resting"), |machine| {
        resting(&mut machine.net, 50_000);
        alive(machine.kernel.sleep());
        resting(&mut machine.net, 50_010);
        alive(machine.kernel.resume());
        stop_bfe(&machine.kernel);
        resting(&mut machine.net, 50_020);
        start_bfe(&machine.kernel);
        resting(&mut machine.net, 50_030);
    });
    assert!(calls > 30, "{calls}");
}
