//! Redirection when calls fail, when several things happen at once, and when the driver goes meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ksim::sched::Program;
use ksim::{Config, NewProcess, PoolMode, Schedule};
use portcullis_proto::Counter;
use portcullis_tests::control::{alive, compile};
use portcullis_tests::proxy::{CASES, Case, POLICY, TCP, owners, with_proxy};
use portcullis_tests::races::{Scenario, beside, try_many, try_sampled, unload_after};
use portcullis_tests::sweep::Sample;
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Net, Tcp, World};
use wfp_schema::NtStatus;

/// The browser's connections go to the proxy, and its sockets to an address that is the host's anyway.
fn policy() -> String {
    POLICY.to_owned()
        + "\n[[rule]]\naction = 'permit'\napplication = 'C:\\game.exe'\nchildren = true\nbind = '192.0.2.11'\n"
}

fn boot(config: &Config) -> World {
    let mut world = World::with_config(config);
    world.set_policy(&policy());
    world.owned_by(owners());
    drop(world.events());
    world
}

#[test]
fn every_step_of_a_redirection_fails_in_turn_and_it_is_blocked_rather_than_not_redirected() {
    for case in CASES {
        let (sample, mut swept) = (Sample::named(), 0);
        for nth in sample.calls(500) {
            let mut world = boot(&Config {
                pool: PoolMode::Fast,
                ..Config::default()
            });
            let proxy = with_proxy(&world);
            world.kernel.faults().fail_nth(nth);
            let passed = world.net.passes(case.first(0));
            let call = world.kernel.faults().failed_call();
            world.kernel.faults().fail_nth(0);
            let redirected = world.counter(Counter::Redirected);
            if call.is_none() {
                assert!(passed && redirected == 1);
            }
            assert!(
                redirected == 1 || !passed,
                "{case:?} went straight after {call:?}"
            );
            // The next one is redirected.
            assert!(world.net.passes(case.first(1)), "{case:?} after {call:?}");
            assert_eq!(world.counter(Counter::Redirected), redirected + 1);
            drop(proxy);
            world.net.finish();
            world.end();
            let Some(call) = call else { break };
            println!("{nth}: {call}");
            swept = nth;
        }
        assert!(
            !sample.is_all() || swept > 2,
            "{case:?}: {swept} calls could fail"
        );
    }
}

#[test]
fn every_step_of_a_registration_fails_in_turn_and_the_next_succeeds() {
    let world = boot(&Config::default());
    for nth in Sample::named().calls(100) {
        let program = portcullis_tests::proxy::proxy_program(&world.kernel);
        world.kernel.faults().fail_nth(nth);
        let status = program.register_proxy("127.0.0.1:8080", 0);
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        assert!(call.is_some() || status.is_success(), "{status}");
        assert_eq!(
            program.register_proxy("127.0.0.1:8080", 0),
            NtStatus::SUCCESS
        );
        program.close();
        if call.is_none() {
            break;
        }
    }
    world.end();
}

#[test]
fn every_step_of_a_processs_beginning_fails_in_turn_and_the_machine_goes_on() {
    let world = boot(&Config::default());
    for nth in Sample::named().calls(100) {
        world.kernel.faults().fail_nth(nth);
        let begun = alive(
            world
                .kernel
                .create_process(&NewProcess::new(4, r"C:\game.exe")),
        );
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        let process = begun.expect("nobody refuses it");
        assert!(alive(world.kernel.exit_process(process)));
        if call.is_none() {
            break;
        }
        println!("{nth}: {call:?}");
    }
    assert!(!Sample::named().is_all() || world.counter(Counter::ProcessNameless) > 0);
    world.end();
}

/// Two processors, the driver, a proxy, and a host on the second processor.
fn begin(schedule: &Schedule) -> (World, Net) {
    let world = World::with_config(&Config {
        processors: 2,
        schedule: schedule.clone(),
        ..Config::default()
    });
    world.set_policy(&policy());
    drop(world.events());
    let net = Net::owned(&world.kernel, 1, owners());
    (world, net)
}

/// How many departures from the plain order, and how many seeds, each race is tried with.
const DEPARTURES: usize = 30;
const SEEDS: u64 = 20;

fn try_some(scenario: Scenario) {
    try_sampled(DEPARTURES, scenario);
    try_many(SEEDS, scenario);
}

fn unload_against(schedule: &Schedule, cases: &[Case]) {
    let (world, mut net) = begin(schedule);
    // Its program keeps the device open, which no system allows; the driver has to stand it.
    let proxy = with_proxy(&world);
    unload_after(proxy, world, move || {
        for case in cases {
            // Redirected, blocked for want of a proxy, or nobody's.
            net.packet(&case.first(0));
        }
        net.finish();
    });
}

#[test]
fn unloading_against_redirections() {
    try_sampled(DEPARTURES, |schedule| unload_against(schedule, &CASES[..1]));
    try_many(SEEDS, |schedule| unload_against(schedule, &CASES));
}

fn proxy_dies_against_redirection(schedule: &Schedule) {
    let (world, mut net) = begin(schedule);
    let proxy = with_proxy(&world);
    let mut fates = Vec::new();
    beside(
        &world,
        || drop(proxy),
        || fates = CASES.map(|case| net.passes(case.first(0))).into(),
    );
    // Each was redirected before, or blocked after.
    let passed = fates.iter().filter(|passed| **passed).count();
    assert_eq!(
        u64::try_from(passed).expect("few"),
        world.counter(Counter::Redirected)
    );
    assert!(
        fates.is_sorted_by(|before, after| before >= after),
        "{fates:?}"
    );
    net.finish();
    drop(net);
    world.end();
}

#[test]
fn a_proxy_that_dies_against_redirections() {
    try_some(proxy_dies_against_redirection);
}

fn policy_against_redirection(schedule: &Schedule) {
    let (world, mut net) = begin(schedule);
    let proxy = with_proxy(&world);
    let block = compile("default = 'block'");
    let mut fates = Vec::new();
    beside(
        &world,
        || assert_eq!(world.device().try_set_policy(&block), NtStatus::SUCCESS),
        || fates = CASES.map(|case| net.passes(case.first(0))).into(),
    );
    assert!(
        fates.is_sorted_by(|before, after| before >= after),
        "{fates:?}"
    );
    assert!(!net.passes(CASES[0].first(1)));
    net.finish();
    drop(net);
    proxy.close();
    world.end();
}

#[test]
fn a_policy_that_takes_the_filters_away_against_redirections() {
    try_some(policy_against_redirection);
}

#[test]
fn four_processors_redirect_while_proxies_policies_and_processes_come_and_go() {
    const PROCESSORS: u32 = 4;
    for seed in 0..6 {
        let world = World::with_config(&Config {
            processors: PROCESSORS,
            schedule: Schedule::seeded(seed),
            ..Config::default()
        });
        world.set_policy(&policy());
        let over = AtomicBool::new(false);
        let passed = AtomicU64::new(0);
        let mut programs: Vec<Program<'_, ()>> = (1..PROCESSORS)
            .map(|processor| -> Program<'_, ()> {
                let (kernel, over, passed) = (&world.kernel, &over, &passed);
                Box::new(move || {
                    let mut net = Net::owned(kernel, processor, owners());
                    let mut port = 10_000 * u16::try_from(processor).expect("few");
                    while !over.load(Ordering::Relaxed) {
                        port = port.wrapping_add(1).max(1_024);
                        let client = format!("192.0.2.10:{port}");
                        let mut talk = Tcp::new(&client, CASES[0].server);
                        let first = net.passes(&talk.handshake()[0]);
                        passed.fetch_add(u64::from(first), Ordering::Relaxed);
                        net.packet(&CASES[3].first(port % 1_000));
                    }
                    net.finish();
                })
            })
            .collect();
        programs.push(Box::new(|| {
            let mut random = portcullis_tests::random::Random::new(0x5eed_0010 + seed);
            let mut proxy = None;
            let mut running = Vec::new();
            for _ in 0..60 {
                match random.below(4) {
                    0 => proxy = proxy.is_none().then(|| with_proxy(&world)),
                    1 => {
                        let parent = running.last().copied().unwrap_or(4);
                        let new = NewProcess::new(parent, r"C:\game.exe");
                        running.extend(alive(world.kernel.create_process(&new)));
                    }
                    2 => {
                        if let Some(process) = running.pop() {
                            alive(world.kernel.exit_process(process));
                        }
                    }
                    _ => world.set_policy(&policy()),
                }
                drop(world.events());
            }
            drop(proxy);
            over.store(true, Ordering::Relaxed);
        }));
        world.kernel.together(programs);
        println!(
            "seed {seed}: {passed:?} passed, {} redirected",
            world.counter(Counter::Redirected)
        );
        assert_eq!(world.counter(Counter::FieldMissing), 0);
        assert_eq!(world.counter(Counter::MetadataMissing), 0);
        let redirected = world.counter(Counter::Redirected);
        assert!(redirected >= passed.load(Ordering::Relaxed));
        world.end();
    }
}

#[test]
fn a_redirected_connection_outlives_the_driver() {
    let mut world = boot(&Config::default());
    let proxy = with_proxy(&world);
    let case = CASES[0];
    assert_eq!(case.protocol, TCP);
    let mut talk = Tcp::new(case.client, case.server);
    let handshake = talk.handshake();
    assert!(world.net.passes(&handshake[0]));
    proxy.close();
    assert_clean(&world.unload());
    world.assert_nothing_of_ours();
    let mut there = Tcp::new(case.client, case.proxy);
    assert!(world.net.passes(&there.handshake()[1]));
    world.net.finish();
}
