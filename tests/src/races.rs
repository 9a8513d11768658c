//! Two things at once, under schedules that repeat.
//!
//! A failure prints what repeats it: `SCHEDULE='trace …' cargo test -p portcullis-tests NAME`, or
//! `seed …`.

use ksim::net::Setup;
use ksim::sched::{Bound, Program, explore, sweep};
use ksim::{Config, Kernel, Schedule};

use crate::world::assert_clean;
use crate::{Net, World};

/// What runs under a schedule.
pub type Scenario = fn(&Schedule);

/// Tries `scenario` under every schedule that departs from the plain order once, and under those of so many seeds; or
/// under the one that the environment names.
pub fn try_all(seeds: u64, scenario: Scenario) {
    if is_repeated(scenario) {
        return;
    }
    let bound = Bound {
        departures: 1,
        schedules: 100_000,
    };
    let run = |schedule: &Schedule| -> Result<(), String> {
        scenario(schedule);
        Ok(())
    };
    let explored = explore(bound, run).expect("it panics instead");
    println!("{explored:?}");
    assert!(explored.complete, "{explored:?}");
    assert!(
        explored.schedules > 10,
        "nothing ran together: {explored:?}"
    );
    try_many(seeds, scenario);
}

/// Tries it under the plain order, and under about `count` of the schedules that depart from it once, evenly spread: for a
/// scenario with so many steps that all of them would take minutes.
pub fn try_sampled(count: usize, scenario: Scenario) {
    if is_repeated(scenario) {
        return;
    }
    let run = |schedule: &Schedule| -> Result<(), String> {
        println!("{schedule}");
        scenario(schedule);
        Ok(())
    };
    let plain = Bound {
        departures: 0,
        schedules: 1,
    };
    let decisions = explore(plain, run).expect("it panics instead").decisions;
    let stride = decisions.div_ceil(count).max(1);
    let steps = (0..decisions).step_by(stride);
    for step in steps.clone() {
        run(&named(&format!("trace {step}:1"))).expect("it panics instead");
    }
    let departed = steps.count();
    println!("{departed} of {decisions} departures");
    assert!(departed > 5, "nothing ran together");
}

/// Tries it under every schedule in which the second of its programs begins, and is interrupted once by the first.
///
/// That then goes on for as long as it can: what is under way meets all that the first does.
pub fn try_interrupted(scenario: Scenario) {
    /// Who is second begins.
    const SECOND: &str = "0:1";

    if is_repeated(scenario) {
        return;
    }
    for step in 1.. {
        let schedule = named(&format!("trace {SECOND},{step}:1"));
        println!("{schedule}");
        scenario(&schedule);
        if schedule.trace().to_string() == SECOND {
            println!("interrupted at each of {step} decisions");
            assert!(step > 10, "nothing ran together");
            return;
        }
    }
}

/// Tries it under the schedules of so many seeds.
pub fn try_many(seeds: u64, scenario: Scenario) {
    if is_repeated(scenario) {
        return;
    }
    let run = |schedule: &Schedule| -> Result<(), String> {
        scenario(schedule);
        Ok(())
    };
    sweep(0..seeds, run).expect("it panics instead");
}

/// Runs it under the one schedule that the environment names, if it names one.
fn is_repeated(scenario: Scenario) -> bool {
    let Ok(text) = std::env::var("SCHEDULE") else {
        return false;
    };
    scenario(&named(&text));
    true
}

/// `seed 17`, `trace 12:1,40:2`.
fn named(text: &str) -> Schedule {
    match text.split_once(' ') {
        Some(("seed", seed)) => Schedule::seeded(seed.parse().expect("a number")),
        Some(("trace", trace)) => Schedule::replay(trace.parse().expect("a trace")),
        _ => panic!("SCHEDULE is `seed NUMBER` or `trace TRACE`, not {text:?}"),
    }
}

/// Two processors, the driver with the policy, and a host on the second one.
#[must_use]
pub fn begin(schedule: &Schedule, policy: &str) -> (World, Net) {
    let world = World::with_config(&Config {
        processors: 2,
        schedule: schedule.clone(),
        ..Config::default()
    });
    world.set_policy(policy);
    drop(world.events());
    let net = Net::new(&world.kernel, 1);
    (world, net)
}

/// Processors of a machine on all of which something happens.
pub const PROCESSORS: u32 = 4;

/// Four processors, and the driver with the policy.
#[must_use]
pub fn four(schedule: &Schedule, policy: &str) -> World {
    let world = World::with_config(&Config {
        processors: PROCESSORS,
        schedule: schedule.clone(),
        ..Config::default()
    });
    world.set_policy(policy);
    drop(world.events());
    world
}

/// A host on each processor from this one on.
#[must_use]
pub fn hosts(world: &World, first: u32, setup: &Setup) -> Vec<Net> {
    (first..PROCESSORS)
        .map(|processor| Net::with_setup(&world.kernel, processor, setup.clone()))
        .collect()
}

/// `work` with each of these hosts, side by side; it is told which of them it has. Returns what each returned, in order.
pub fn on_each<H: Send, T: Send>(
    world: &World,
    hosts: &mut [H],
    work: impl Fn(u16, &mut H) -> T + Sync,
) -> Vec<T> {
    on_each_beside(&world.kernel, hosts, work, || ())
}

/// The same, and `other` beside it.
pub fn on_each_beside<H: Send, T: Send>(
    kernel: &Kernel,
    hosts: &mut [H],
    work: impl Fn(u16, &mut H) -> T + Sync,
    other: impl FnOnce() + Send,
) -> Vec<T> {
    let work = &work;
    let mut programs: Vec<Program<'_, Option<T>>> = vec![Box::new(|| {
        other();
        None
    })];
    for (number, host) in (0..).zip(hosts) {
        programs.push(Box::new(move || Some(work(number, host))));
    }
    kernel.together(programs).into_iter().flatten().collect()
}

/// Unloads while `work` goes on with each of these hosts, and finds everything in order.
pub fn unload_beside_each<H: Send, T: Send>(
    mut world: World,
    hosts: &mut [H],
    work: impl Fn(u16, &mut H) -> T + Sync,
) -> Vec<T> {
    let kernel = world.kernel.clone();
    let mut report = None;
    let results = on_each_beside(&kernel, hosts, work, || report = Some(world.unload()));
    assert_clean(&report.expect("it was unloaded"));
    world.assert_nothing_of_ours();
    results
}

/// Two programs side by side.
pub fn beside(world: &World, one: impl FnOnce() + Send, other: impl FnOnce() + Send) {
    let kernel = world.kernel.clone();
    let programs: [Program<'_, ()>; 2] = [Box::new(one), Box::new(other)];
    kernel.together(programs.into());
}

/// Unloads while `traffic` goes on, and finds everything in order.
pub fn unload_beside(world: World, traffic: impl FnOnce() + Send) {
    unload_after((), world, traffic);
}

/// The same, with what has to be dropped just before the unload.
pub fn unload_after(first: impl Send, mut world: World, traffic: impl FnOnce() + Send) {
    let kernel = world.kernel.clone();
    let mut report = None;
    let unload = || {
        drop(first);
        report = Some(world.unload());
    };
    let programs: [Program<'_, ()>; 2] = [Box::new(unload), Box::new(traffic)];
    kernel.together(programs.into());
    assert_clean(&report.expect("it was unloaded"));
    world.assert_nothing_of_ours();
}
