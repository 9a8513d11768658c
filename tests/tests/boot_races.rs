//! A protection at boot under every schedule: while the driver is unloaded, its policy withdrawn, or the engine stops, with traffic
//! going on.

use ksim::Schedule;
use ksim::sched::Program;
use portcullis_tests::control::alive;
use portcullis_tests::protection::{PROTECTING, Protected};
use portcullis_tests::races::{begin, beside, try_many, try_sampled};
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Tcp, World, udp};
use wfp_schema::NtStatus;

/// How many departures from the plain order, and how many seeds, each race is tried with.
const DEPARTURES: usize = 20;
const SEEDS: u64 = 10;

/// Unloads while `other` happens.
fn unload_with(world: &mut World, other: impl FnOnce() + Send) {
    let kernel = world.kernel.clone();
    let mut report = None;
    let unload = || report = Some(world.unload());
    let programs: [Program<'_, ()>; 2] = [Box::new(unload), Box::new(other)];
    kernel.together(programs.into());
    assert_clean(&report.expect("it was unloaded"));
}

fn unload_against_protected_traffic(schedule: &Schedule) {
    let (mut world, net) = begin(schedule, PROTECTING);
    let mut traffic = Protected::new(net, 50_000);
    unload_with(&mut world, || traffic.sends(3));
    traffic.end(&world, true);
}

#[test]
fn unloading_under_a_protection_at_boot_opens_no_gap_and_closes_none() {
    try_sampled(DEPARTURES, unload_against_protected_traffic);
    try_many(SEEDS, unload_against_protected_traffic);
}

fn unload_in_protected_flows(schedule: &Schedule) {
    let (mut world, mut net) = begin(schedule, &PROTECTING.replace("'udp'", "'tcp'"));
    let mut talks: Vec<_> = [53, 9999]
        .map(|port| Tcp::new("192.0.2.10:40000", &format!("198.51.100.1:{port}")))
        .into();
    for talk in &mut talks {
        assert!(net.all_pass(&talk.handshake()));
    }
    unload_with(&mut world, || {
        for talk in &mut talks {
            net.packet(&talk.client_says(b"question"));
        }
        assert!(net.passes(talks[0].server_says(b"answer")));
    });
    // The filters have changed, so each is authorized again: by the protection now.
    assert!(net.passes(talks[0].client_says(b"more")));
    assert!(!net.passes(talks[1].client_says(b"more")));
    net.finish();
}

#[test]
fn flows_go_on_after_the_unload_as_the_protection_at_boot_says() {
    try_sampled(DEPARTURES, unload_in_protected_flows);
    try_many(SEEDS, unload_in_protected_flows);
}

fn withdrawal_against_protected_traffic(schedule: &Schedule) {
    let (mut world, mut net) = begin(schedule, PROTECTING);
    let mut port = 40_000;
    let mut fates = Vec::new();
    beside(
        &world,
        || {
            assert_eq!(world.device().try_set_policy(&[]), NtStatus::SUCCESS);
        },
        || {
            for _ in 0..3 {
                port += 1;
                let to = |remote| {
                    udp(
                        &format!("192.0.2.10:{port}"),
                        &format!("198.51.100.1:{remote}"),
                        b"?",
                    )
                };
                assert!(net.passes(to(53)), "permitted by both");
                assert!(net.passes(to(9999)), "by the policy, or nobody's");
                fates.push(net.passes(to(23)));
            }
        },
    );
    // Blocked until it is withdrawn, and never again.
    assert!(fates.is_sorted(), "{fates:?}");
    let traffic = Protected::new(net, 50_000);
    traffic.end(&world, false);
    assert_clean(&world.unload());
    world.assert_nothing_of_ours();
}

#[test]
fn withdrawing_a_protection_at_boot_and_unloading_leaves_nothing_of_it() {
    try_sampled(DEPARTURES, withdrawal_against_protected_traffic);
    try_many(SEEDS, withdrawal_against_protected_traffic);
}

fn unload_against_the_engines_stop_under_a_protection(schedule: &Schedule) {
    let (mut world, net) = begin(schedule, PROTECTING);
    let mut traffic = Protected::new(net, 50_000);
    let kernel = world.kernel.clone();
    unload_with(&mut world, || {
        traffic.sends_to(9999);
        alive(kernel.on(1, |_| kernel.bfe().stop()));
        traffic.sends_to(9999);
    });
    // What is stored holds when the engine runs again.
    world.start_bfe();
    traffic.end(&world, true);
}

#[test]
fn unloading_against_the_engines_stop_keeps_the_protection_at_boot() {
    try_sampled(
        DEPARTURES,
        unload_against_the_engines_stop_under_a_protection,
    );
    try_many(SEEDS, unload_against_the_engines_stop_under_a_protection);
}
