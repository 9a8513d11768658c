//! Protection at boot, while the driver goes and policies with and without it follow each other.

use ksim::Schedule;
use ksim::net::Setup;
use portcullis_tests::World;
use portcullis_tests::control::compile;
use portcullis_tests::protection::{PROTECTING, Protected};
use portcullis_tests::races::{four, hosts, on_each_beside, try_many};
use portcullis_tests::world::assert_clean;
use wfp_schema::NtStatus;

const SEEDS: u64 = 25;

/// Three hosts, beside which something becomes of the driver.
fn begin(schedule: &Schedule) -> (World, Vec<Protected>) {
    let world = four(schedule, PROTECTING);
    let nets = hosts(&world, 1, &Setup::default()).into_iter();
    let ports = (20_000..).step_by(1_000);
    let traffic = nets.zip(ports).map(|(net, port)| Protected::new(net, port));
    (world, traffic.collect())
}

fn unload_in_mid_traffic(schedule: &Schedule) {
    let (mut world, mut traffic) = begin(schedule);
    let kernel = world.kernel.clone();
    let mut report = None;
    on_each_beside(
        &kernel,
        &mut traffic,
        |_, traffic| traffic.sends(3),
        || report = Some(world.unload()),
    );
    assert_clean(&report.expect("it was unloaded"));
    for traffic in traffic {
        traffic.end(&world, true);
    }
}

#[test]
fn unloading_under_traffic_on_three_processors_leaves_the_protection_without_a_gap() {
    try_many(SEEDS, unload_in_mid_traffic);
}

fn policies_against_traffic(schedule: &Schedule) {
    let (mut world, mut traffic) = begin(schedule);
    let without = PROTECTING
        .replace("    [boot]\n    default = 'block'\n", "")
        .replace("    boot = true\n", "");
    let policies = [&without, PROTECTING, &without].map(compile);
    on_each_beside(
        &world.kernel,
        &mut traffic,
        |_, traffic| {
            for _ in 0..3 {
                assert!(traffic.sends_to(53), "by each of them");
                assert!(!traffic.sends_to(23), "by none");
                assert!(
                    traffic.sends_to(9999),
                    "the driver decides, whatever holds at boot"
                );
            }
        },
        || {
            for policy in &policies {
                assert_eq!(world.device().try_set_policy(policy), NtStatus::SUCCESS);
            }
        },
    );
    assert_clean(&world.unload());
    for traffic in traffic {
        traffic.end(&world, false);
    }
    world.assert_nothing_of_ours();
}

#[test]
fn policies_with_and_without_protection_follow_each_other_under_traffic_on_three_processors() {
    try_many(SEEDS, policies_against_traffic);
}
