//! The machine sleeps, or the engine stops, in the middle of `DriverEntry`: there is no device yet that hears of it, then there
//! is.

use ksim::net::Setup;
use ksim::{Config, Kernel, Schedule};
use portcullis_proto::{Action, Counter, DriverState};
use portcullis_tests::World;
use portcullis_tests::control::alive;
use portcullis_tests::races::{PROCESSORS, hosts, try_many};
use portcullis_tests::waits::{POLICY, Waits, add_up};
use wfp_schema::{IpVersion, NtStatus};

const SEEDS: u64 = 25;

/// Starts the driver while another processor does something.
fn start_beside(schedule: &Schedule, other: impl FnOnce(&Kernel) + Send) -> World {
    let mut world = World::boot(&Config {
        processors: PROCESSORS,
        schedule: schedule.clone(),
        ..Config::default()
    });
    let kernel = world.kernel.clone();
    let mut status = None;
    kernel.together::<()>(vec![
        Box::new(|| other(&kernel)),
        Box::new(|| status = Some(world.start())),
    ]);
    assert_eq!(status, Some(NtStatus::SUCCESS), "DriverEntry");
    world
}

/// The driver does all that it does, and ends.
fn assert_works(world: World) {
    assert_eq!(world.state(), DriverState::Active);
    assert_eq!(world.engine().session_count(), 1);
    world.set_policy(POLICY);
    assert!(world.device().questions().is_empty());
    let setup = Setup {
        output: true,
        ..Setup::default()
    };
    let nets = hosts(&world, 0, &setup).into_iter();
    let mut hosts: Vec<Waits> = nets
        .zip((20_000..).step_by(1_000))
        .map(|(net, port)| Waits::new(net, port))
        .collect();
    hosts[1].asks(IpVersion::V4);
    hosts[2].asks(IpVersion::V6);
    hosts[1].shaped(IpVersion::V6);
    let questions = world.device().questions();
    assert_eq!(questions.len(), 2 * 9, "they wait");
    for question in &questions {
        assert!(world.device().reply(question, Action::Permit));
    }
    let sum = add_up(&mut hosts);
    let delayed = world.counter(Counter::PacketsDelayed);
    assert_eq!((sum.asked, sum.shaped), (2 * 9, [delayed, 0]));
    assert!(delayed > 4, "{delayed}");
    drop(hosts);
    world.end();
}

fn sleep_in_the_start(schedule: &Schedule) {
    let world = start_beside(schedule, |kernel| {
        for _ in 0..2 {
            alive(alive(kernel.on(1, |_| kernel.sleep())));
            alive(alive(kernel.on(1, |_| kernel.resume())));
        }
    });
    assert_works(world);
}

/// It has not come back when the driver has started.
fn sleep_over_the_start(schedule: &Schedule) {
    let world = start_beside(schedule, |kernel| {
        alive(alive(kernel.on(1, |_| kernel.sleep())));
    });
    alive(world.kernel.resume());
    assert_works(world);
}

fn engine_in_the_start(schedule: &Schedule) {
    let world = start_beside(schedule, |kernel| {
        for _ in 0..2 {
            alive(kernel.on(1, |_| kernel.bfe().stop()));
            alive(kernel.on(1, |_| kernel.bfe().start()));
        }
    });
    world.start_bfe();
    assert_works(world);
}

#[test]
fn the_driver_starts_while_the_machine_sleeps_and_comes_back() {
    try_many(SEEDS, sleep_in_the_start);
    try_many(SEEDS, sleep_over_the_start);
}

#[test]
fn the_driver_starts_while_the_engine_stops_and_starts() {
    try_many(SEEDS, engine_in_the_start);
}
