//! Packets that are changed or wait, on several processors, beside a timer, and beside an unload.

use std::thread;

use ksim::net::{Output, Setup};
use ksim::sched::Program;
use ksim::{Config, PoolMode, Schedule};
use portcullis_proto::Counter;
use portcullis_tests::races::{beside, try_many, try_sampled, unload_beside};
use portcullis_tests::sweep::Sample;
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Net, Tcp, World, udp};

const MILLISECOND: u64 = 10_000;
const SECOND: u64 = 1_000 * MILLISECOND;

const DELAY: &str =
    "default = 'permit'\n[[rule]]\naction = 'permit'\nremote_port = 9999\ndelay = '5 ms'\nttl = 9";

fn datagram(port: u16, number: u8) -> Vec<u8> {
    udp(
        &format!("192.0.2.10:{port}"),
        "198.51.100.1:9999",
        &[number; 20],
    )
}

fn with_output(world: &World, processor: u32) -> Net {
    let setup = Setup {
        output: true,
        ..Setup::default()
    };
    Net::with_setup(&world.kernel, processor, setup)
}

/// Two processors, and a host on the second.
fn begin(schedule: &Schedule) -> (World, Net) {
    let world = World::with_config(&Config {
        processors: 2,
        schedule: schedule.clone(),
        ..Config::default()
    });
    world.set_policy(DELAY);
    drop(world.events());
    let net = with_output(&world, 1);
    (world, net)
}

fn unload_against_a_packet(schedule: &Schedule) {
    let (world, mut net) = begin(schedule);
    unload_beside(world, || {
        net.at_once(&[datagram(50_000, 1)]);
    });
}

#[test]
fn unloading_against_a_packet_that_is_taken() {
    try_many(40, unload_against_a_packet);
}

fn unload_against_the_timer(schedule: &Schedule) {
    let (world, mut net) = begin(schedule);
    net.at_once(&[datagram(50_000, 1), datagram(50_000, 2)]);
    unload_beside(world, || {
        net.pass(10 * MILLISECOND);
    });
}

#[test]
fn unloading_against_the_timer_that_puts_packets_back() {
    try_many(40, unload_against_the_timer);
}

fn unload_against_a_completion(schedule: &Schedule) {
    let (world, mut net) = begin(schedule);
    world
        .set_policy("default = 'permit'\n[[rule]]\naction = 'permit'\nremote_port = 9999\nttl = 9");
    unload_beside(world, || {
        net.at_once(&[datagram(50_000, 1), datagram(50_001, 2)]);
    });
}

#[test]
fn unloading_against_the_completion_of_an_injection() {
    try_many(40, unload_against_a_completion);
}

fn a_packet_against_the_timer(schedule: &Schedule) {
    let (world, mut net) = begin(schedule);
    let mut first = world_output(net.at_once(&[datagram(50_000, 1)]));
    let mut other = with_output(&world, 0);
    let mut later = Vec::new();
    beside(
        &world,
        || {
            first.extend(world_output(
                other
                    .pass(6 * MILLISECOND)
                    .into_iter()
                    .map(|(_, output)| output),
            ));
        },
        || later = world_output(net.at_once(&[datagram(50_000, 2)])),
    );
    let rest = net.pass(SECOND).into_iter().map(|(_, output)| output);
    later.extend(world_output(rest));
    first.extend(later);
    assert_eq!(first, [1, 2], "neither overtakes the other, nor is lost");
    drop((net, other));
    world.end();
}

/// Which datagrams left.
fn world_output(output: impl IntoIterator<Item = Output>) -> Vec<u8> {
    let number = |output| match output {
        Output::Sent(packet) => packet.last().copied(),
        _ => None,
    };
    output.into_iter().filter_map(number).collect()
}

#[test]
fn a_packet_does_not_overtake_one_that_the_timer_puts_back() {
    try_sampled(30, a_packet_against_the_timer);
    try_many(20, a_packet_against_the_timer);
}

#[test]
fn four_processors_send_changed_and_delayed_packets_of_both_versions() {
    for seed in 0..8 {
        let world = World::with_config(&Config {
            processors: 4,
            schedule: Schedule::seeded(seed),
            ..Config::default()
        });
        world.set_policy(
            "default = 'permit'
            [[rule]]
            action = 'permit'
            remote_port = 9999
            ttl = 9
            [[rule]]
            action = 'permit'
            remote_port = 9998
            delay = '2 ms'
            [[rule]]
            action = 'permit'
            remote_port = 9997
            translate = ':53'
            rate = '1 MB/s'",
        );
        let kernel = &world.kernel;
        let programs: Vec<Program<'_, ()>> = (0..4_u16)
            .map(|processor| {
                let program: Program<'_, ()> = Box::new(move || {
                    let mut net = Net::new(kernel, processor.into());
                    for round in 0..10 {
                        let port = 10_000 + processor * 1_000 + round;
                        for remote in [9999, 9998, 9997] {
                            net.packet(&udp(
                                &format!("192.0.2.10:{port}"),
                                &format!("198.51.100.1:{remote}"),
                                b"datagram",
                            ));
                            net.packet(&udp(
                                &format!("[2001:db8::10]:{port}"),
                                &format!("[2001:db8::80]:{remote}"),
                                b"datagram",
                            ));
                        }
                    }
                    net.pass(SECOND);
                    net.finish();
                });
                program
            })
            .collect();
        kernel.together(programs);
        assert_eq!(world.counter(Counter::PacketsDelayed), 80, "seed {seed}");
        assert_eq!(world.counter(Counter::PacketsChanged), 160, "seed {seed}");
        assert_eq!(world.counter(Counter::PacketNotInjected), 0);
        world.end();
    }
}

#[test]
fn an_unload_on_one_processor_while_three_send() {
    for round in 0..12_u16 {
        let mut world = World::with_config(&Config {
            processors: 4,
            pool: PoolMode::Fast,
            ..Config::default()
        });
        world.set_policy(DELAY);
        let kernel = world.kernel.clone();
        let report = thread::scope(|scope| {
            for processor in 1..4_u16 {
                let kernel = &kernel;
                scope.spawn(move || {
                    let mut net = Net::new(kernel, processor.into());
                    for number in 0..60 {
                        net.packet(&datagram(20_000 + 1_000 * processor + round, number));
                    }
                });
            }
            world.unload()
        });
        assert_clean(&report);
    }
}

/// Makes each call of a life with packets fail, one after the other.
#[test]
fn every_step_of_a_changed_and_of_a_delayed_packet_fails_in_turn_and_nothing_is_left() {
    let sample = Sample::named();
    for nth in sample.calls(2_000) {
        let mut world = World::boot(&Config {
            pool: PoolMode::Fast,
            ..Config::default()
        });
        assert!(world.start().is_success());
        world.set_policy(
            "default = 'permit'\n[[rule]]\naction = 'permit'\nremote_port = 9999\ndelay = '5 ms'
            [[rule]]\naction = 'permit'\nremote_port = 443\ntranslate = ':8443'\nttl = 3",
        );
        world.kernel.faults().fail_nth(nth);
        world.net.at_once(&[datagram(50_000, 1)]);
        let mut tcp = Tcp::new("[2001:db8::10]:50000", "[2001:db8::80]:443");
        world.net.at_once(&tcp.handshake());
        world
            .net
            .at_once(&[udp("198.51.100.1:9999", "192.0.2.10:50000", b"answer")]);
        world.net.pass(SECOND);
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        world.end();
        if call.is_none() {
            println!("{sample} of {} calls was made to fail", nth - 1);
            return;
        }
    }
    panic!("there is no end to it");
}
