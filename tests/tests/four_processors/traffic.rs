//! What every connection goes through: it is decided, its name is found, it is told of, and it ends.

use ksim::Schedule;
use ksim::net::Setup;
use portcullis_proto::Counter;
use portcullis_tests::control::compile;
use portcullis_tests::net::exchange;
use portcullis_tests::races::{four, hosts, on_each, on_each_beside, try_many, unload_beside_each};
use portcullis_tests::udp;
use wfp_schema::NtStatus;

const SEEDS: u64 = 25;
const PERMIT: &str = "default = 'permit'";

/// The client's port of a processor's exchange.
const fn port(processor: u16, number: u16) -> u16 {
    20_000 + 1_000 * processor + number
}

fn four_processors(schedule: &Schedule) {
    let world = four(schedule, PERMIT);
    let mut nets = hosts(&world, 0, &Setup::default());
    on_each(&world, &mut nets, |processor, net| {
        for number in 0..2 {
            assert!(exchange(net, port(processor, number)));
        }
        net.finish();
    });
    let flows = 4 * 2 * 2;
    assert_eq!(world.counter(Counter::FlowsCreated), flows);
    assert_eq!(world.counter(Counter::FlowsDeleted), flows);
    assert_eq!(world.counter(Counter::HostTls), flows / 2);
    assert_eq!(world.status().flows.get(), 0);
    drop(nets);
    world.end();
}

#[test]
fn traffic_on_four_processors_is_counted_to_the_last_flow() {
    try_many(SEEDS, four_processors);
}

fn policies_against_traffic(schedule: &Schedule) {
    let world = four(schedule, PERMIT);
    let mut nets = hosts(&world, 1, &Setup::default());
    let [permit, block] = [
        "default = 'block'\n[[rule]]\naction = 'permit'\nprotocol = ['tcp', 'udp']",
        "default = 'block'",
    ]
    .map(compile);
    on_each_beside(
        &world.kernel,
        &mut nets,
        |processor, net| {
            for number in 0..3 {
                exchange(net, port(processor, number));
            }
            net.finish();
        },
        || {
            for policy in [&block, &permit, &block] {
                assert_eq!(world.device().try_set_policy(policy), NtStatus::SUCCESS);
            }
        },
    );
    assert_eq!(world.status().policy_epoch.get(), 4);
    assert_eq!(world.status().flows.get(), 0, "no flow is lost to a swap");
    assert_eq!(
        world.counter(Counter::FlowsCreated),
        world.counter(Counter::FlowsDeleted)
    );
    for (processor, net) in (0..).zip(&mut nets) {
        assert!(!exchange(net, port(processor, 10)), "the last one blocks");
    }
    drop(nets);
    world.end();
}

#[test]
fn policies_follow_each_other_under_traffic_and_no_flow_is_lost() {
    try_many(SEEDS, policies_against_traffic);
}

fn unload_in_mid_traffic(schedule: &Schedule) {
    let world = four(schedule, PERMIT);
    let mut nets = hosts(&world, 1, &Setup::default());
    unload_beside_each(world, &mut nets, |processor, net| {
        for number in 0..3 {
            assert!(
                exchange(net, port(processor, number)),
                "permitted, or nobody's"
            );
        }
    });
}

#[test]
fn unloading_under_traffic_on_three_processors_stops_none_of_it() {
    try_many(SEEDS, unload_in_mid_traffic);
}

/// Datagrams of each of three processors.
const DATAGRAMS: u16 = 8;

fn reader_against_traffic(schedule: &Schedule) {
    let world = four(schedule, "default = 'block'");
    let mut nets = hosts(&world, 1, &Setup::default());
    let mut seen = Vec::new();
    on_each_beside(
        &world.kernel,
        &mut nets,
        |processor, net| {
            for number in 0..DATAGRAMS {
                let local = format!("192.0.2.10:{}", port(processor, number));
                assert!(!net.passes(udp(&local, "198.51.100.1:9999", b"datagram")));
            }
        },
        || {
            for _ in 0..DATAGRAMS {
                seen.extend(world.events());
            }
        },
    );
    seen.extend(world.events());
    let sequences: Vec<u64> = seen.iter().map(|event| event.sequence.get()).collect();
    assert!(
        sequences.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "each once, in order: {sequences:?}"
    );
    assert_eq!(sequences.len(), 3 * usize::from(DATAGRAMS));
    assert_eq!(world.counter(Counter::EventsDropped), 0);
    drop(nets);
    world.end();
}

#[test]
fn a_reader_on_one_processor_gets_the_events_of_three() {
    try_many(SEEDS, reader_against_traffic);
}
