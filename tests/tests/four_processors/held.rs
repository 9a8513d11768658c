//! The engine stops and starts, and the machine sleeps, while operations are held, packets wait and streams are out of band:
//! while answers come, while those end who answer, and while the driver goes.

use std::sync::atomic::{AtomicUsize, Ordering};

use ksim::net::Setup;
use ksim::sched::Program;
use ksim::{Caller, Config, Cpu, Kernel, Schedule};
use portcullis_proto::{Action, Counter, DriverState};
use portcullis_tests::control::alive;
use portcullis_tests::races::{PROCESSORS, hosts, on_each_beside, try_many, unload_beside_each};
use portcullis_tests::waits::{POLICY, Waits, add_up};
use portcullis_tests::{Device, World};
use wfp_schema::IpVersion;

const SEEDS: u64 = 12;

/// What the platform does meanwhile.
type Change = fn(&Kernel);

/// The engine stops and starts, on whatever processor has nothing to do.
fn engine(kernel: &Kernel) {
    for _ in 0..3 {
        alive(kernel.on(3, |_| kernel.bfe().stop()));
        alive(kernel.on(3, |_| kernel.bfe().start()));
    }
}

/// It stops, and may be back before anybody has looked.
fn engine_at_once(kernel: &Kernel) {
    for _ in 0..4 {
        alive(kernel.on(3, |_| {
            kernel.bfe().stop();
            let restart = |cpu: &Cpu| cpu.machine().bfe().start();
            kernel.time().defer("a restart", restart);
        }));
    }
}

/// The machine sleeps and comes back.
fn sleep(kernel: &Kernel) {
    for _ in 0..3 {
        alive(alive(kernel.on(3, |_| kernel.sleep())));
        alive(alive(kernel.on(3, |_| kernel.resume())));
    }
}

/// A host on each processor. Those in the middle are [busy], the others send what they are told to.
fn waiting(world: &World) -> Vec<Waits> {
    let setup = Setup {
        output: true,
        ..Setup::default()
    };
    let nets = hosts(world, 0, &setup).into_iter();
    let ports = (20_000..).step_by(1_000);
    nets.zip(ports)
        .map(|(net, port)| Waits::new(net, port))
        .collect()
}

/// Those on which something happens.
fn busy(hosts: &mut [Waits]) -> &mut [Waits] {
    &mut hosts[1..3]
}

/// A program that reads questions until `is_over`, and answers them. With `ends` it ends after a few, and another begins. How
/// many answers were taken.
fn answer(world: &World, ends: bool, is_over: impl Fn() -> bool) -> u64 {
    let mut taken = 0;
    let mut program: Option<Device> = None;
    loop {
        let is_last = is_over();
        let device = program.get_or_insert_with(|| world.open(Caller::administrator()));
        let mut answered = 0;
        for question in device.questions() {
            let verdict = if question.local_port.get() % 3 == 0 {
                Action::Block
            } else {
                Action::Permit
            };
            answered += u64::from(device.reply(&question, verdict));
            if ends && answered == 3 {
                break;
            }
        }
        taken += answered;
        if is_last || (ends && answered > 0) {
            program.take().expect("it is open").close();
        }
        if is_last {
            return taken;
        }
    }
}

/// Everything on these hosts, beside changes of the platform and a program that answers. How many answers were taken.
fn run(world: &World, hosts: &mut [Waits], changes: &[Change], ends: bool) -> u64 {
    let kernel = &world.kernel;
    let (over, count) = (&AtomicUsize::new(0), hosts.len() + changes.len());
    let mut programs: Vec<Program<'_, u64>> = vec![Box::new(|| {
        answer(world, ends, || over.load(Ordering::SeqCst) == count)
    })];
    for change in changes {
        programs.push(Box::new(move || {
            change(kernel);
            over.fetch_add(1, Ordering::SeqCst);
            0
        }));
    }
    for host in hosts {
        programs.push(Box::new(move || {
            host.all();
            host.all();
            over.fetch_add(1, Ordering::SeqCst);
            0
        }));
    }
    kernel.together(programs).into_iter().sum()
}

/// Adds up what has become of everything, and compares it with what the driver has counted.
fn finish(world: &World, hosts: &mut [Waits], answered: u64) {
    assert_eq!(world.status().held.get(), 0, "held for ever");
    let sum = add_up(hosts);
    let count = |counter| world.counter(counter);
    println!("{sum:?}, {answered} answered");
    assert_eq!(sum.asked, count(Counter::Asked));
    assert_eq!(answered, count(Counter::Answered));
    let [timed_out, abandoned] = [Counter::AskTimedOut, Counter::AskAbandoned].map(count);
    assert_eq!((sum.asked, timed_out), (answered + abandoned, 0));
    let [delayed, dropped, refused] = [
        Counter::PacketsDelayed,
        Counter::PacketsDropped,
        Counter::PacketQueueFull,
    ]
    .map(count);
    assert_eq!(sum.shaped, [delayed - dropped, dropped + refused]);
    for counter in [
        Counter::PacketsChanged,
        Counter::PacketMemoryFull,
        Counter::PacketNotInjected,
        Counter::StreamNotInjected,
        Counter::StreamNoRoom,
        Counter::StreamsDropped,
        Counter::HeldPacketLost,
    ] {
        assert_eq!(count(counter), 0, "{counter:?}");
    }
    // Each conversation that did not arrive was aborted, for what the engine has taken along: what showed its data, or what
    // follows it.
    let [interrupted, unfollowed] =
        [Counter::StreamsInterrupted, Counter::FlowAssociateFailed].map(count);
    let aborted = interrupted + unfollowed;
    assert!(sum.cut <= aborted, "{} of {aborted}", sum.cut);
    assert!(aborted == 0 || count(Counter::BfeStopped) > 0);
}

/// Four processors, and the driver with the policy. With `waits` the deletion of a filter waits for calls with it.
fn machine(schedule: &Schedule, waits: bool) -> World {
    let mut config = Config {
        processors: PROCESSORS,
        schedule: schedule.clone(),
        ..Config::default()
    };
    config.fwp.options.deletion_waits = waits;
    let world = World::with_config(&config);
    world.set_policy(POLICY);
    world
}

fn change_under_everything(schedule: &Schedule, changes: &[Change], ends: bool) {
    // What a classify takes while its filter is deleted is taken behind the driver's back.
    for waits in [true, false] {
        change_on(machine(schedule, waits), changes, ends);
    }
}

fn change_on(world: World, changes: &[Change], ends: bool) {
    let mut hosts = waiting(&world);
    let answered = run(&world, busy(&mut hosts), changes, ends);
    world.start_bfe();
    assert_eq!(world.state(), DriverState::Active);
    assert_eq!(world.engine().session_count(), 1);
    finish(&world, &mut hosts, answered);
    drop(hosts);
    world.end();
}

#[test]
fn everything_goes_on_once_while_the_engine_stops_and_starts_and_answers_come() {
    try_many(SEEDS, |schedule| {
        change_under_everything(schedule, &[engine], false);
    });
    try_many(SEEDS, |schedule| {
        change_under_everything(schedule, &[engine_at_once], false);
    });
}

#[test]
fn everything_goes_on_once_while_the_machine_sleeps_and_answers_come() {
    try_many(SEEDS, |schedule| {
        change_under_everything(schedule, &[sleep], false);
    });
}

#[test]
fn everything_goes_on_once_while_the_engine_stops_in_the_machines_sleep() {
    try_many(SEEDS, |schedule| {
        change_under_everything(schedule, &[engine, sleep], false);
    });
}

#[test]
fn everything_goes_on_once_while_those_end_who_answer() {
    try_many(SEEDS, |schedule| {
        change_under_everything(schedule, &[engine], true);
    });
    try_many(SEEDS, |schedule| {
        change_under_everything(schedule, &[sleep], true);
    });
    try_many(SEEDS, |schedule| {
        change_under_everything(schedule, &[engine_at_once, sleep], true);
    });
}

/// Asks of each host, of both IP versions.
fn ask(hosts: &mut [Waits]) {
    for host in busy(hosts) {
        host.asks(IpVersion::V4);
        host.asks(IpVersion::V6);
    }
}

/// The change is an end: behind it nothing waits for an answer, though somebody reads the questions.
fn end_under_everything(schedule: &Schedule, change: Change) {
    let world = machine(schedule, false);
    assert!(world.device().questions().is_empty());
    let mut hosts = waiting(&world);
    on_each_beside(
        &world.kernel,
        busy(&mut hosts),
        |_, host| host.all(),
        || change(&world.kernel),
    );
    for host in &mut hosts {
        host.look();
    }
    let asked = world.counter(Counter::Asked);
    assert_eq!(world.status().held.get(), 0, "of {asked}");
    assert_eq!(world.counter(Counter::AskAbandoned), asked);
    // Nor does what comes later,
    ask(&mut hosts);
    assert_eq!(world.status().held.get(), 0);
    assert_eq!(world.counter(Counter::Asked), asked);
    // until the end is over.
    alive(world.kernel.resume());
    world.start_bfe();
    ask(&mut hosts);
    assert_eq!(
        u64::from(world.status().held.get()),
        world.counter(Counter::Asked) - asked
    );
    let mut answered = 0;
    for question in world.device().questions() {
        answered += u64::from(world.device().reply(&question, Action::Permit));
    }
    assert_eq!(answered, 2 * 2 * 9);
    finish(&world, &mut hosts, answered);
    drop(hosts);
    world.end();
}

#[test]
fn nothing_is_held_for_an_answer_once_the_engine_has_stopped() {
    try_many(SEEDS, |schedule| {
        end_under_everything(schedule, |kernel| {
            alive(kernel.on(3, |_| kernel.bfe().stop()));
        });
    });
}

#[test]
fn nothing_is_held_for_an_answer_once_the_machine_is_about_to_sleep() {
    try_many(SEEDS, |schedule| {
        end_under_everything(schedule, |kernel| {
            alive(alive(kernel.on(3, |_| kernel.sleep())));
        });
    });
}

/// What goes on beside an unload.
enum Part<'h> {
    Host(&'h mut Waits),
    Change(Change),
}

/// The program that is asked ends, and the driver goes, while the platform changes.
fn unload_under_everything(schedule: &Schedule, changes: &[Change]) {
    let world = machine(schedule, false);
    assert!(world.device().questions().is_empty());
    let kernel = world.kernel.clone();
    let mut hosts = waiting(&world);
    // Something waits already.
    ask(&mut hosts);
    for host in busy(&mut hosts) {
        host.shaped(IpVersion::V4);
    }
    let mut parts: Vec<Part<'_>> = busy(&mut hosts).iter_mut().map(Part::Host).collect();
    parts.extend(changes.iter().map(|change| Part::Change(*change)));
    unload_beside_each(world, &mut parts, |_, part| match part {
        Part::Host(host) => host.all(),
        Part::Change(change) => change(&kernel),
    });
    drop(parts);
    let sum = add_up(&mut hosts);
    // What the engine took along was not put back.
    let is_engine = |change: &Change| !std::ptr::fn_addr_eq(*change, sleep as Change);
    assert!(sum.cut == 0 || changes.iter().any(is_engine), "{sum:?}");
}

#[test]
fn unloading_while_the_engine_stops_and_starts_and_everything_waits() {
    try_many(SEEDS, |schedule| {
        unload_under_everything(schedule, &[engine]);
    });
    try_many(SEEDS, |schedule| {
        unload_under_everything(schedule, &[engine_at_once]);
    });
}

#[test]
fn unloading_while_the_machine_sleeps_and_everything_waits() {
    try_many(SEEDS, |schedule| {
        unload_under_everything(schedule, &[sleep]);
    });
    try_many(SEEDS, |schedule| {
        unload_under_everything(schedule, &[engine, sleep]);
    });
}
