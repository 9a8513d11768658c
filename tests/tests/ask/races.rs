//! What is held, beside an unload, and on several processors at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ksim::sched::Program;
use ksim::{Caller, Config, Schedule};
use portcullis_proto::Action as Verdict;
use portcullis_proto::ask::AnswerRequest;
use portcullis_proto::device::ControlCode;
use portcullis_proto::event::EventRecord;
use portcullis_tests::races::{try_many, unload_beside};
use portcullis_tests::world::assert_unloaded_while_open;
use portcullis_tests::{Net, Tcp, World, udp};
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

use super::{ASK, ASK_OR_PERMIT};

/// Two processors, something that waits, and its question.
fn held(schedule: &Schedule, policy: &str, packet: &[u8]) -> (World, Net, EventRecord) {
    let world = World::with_config(&Config {
        processors: 2,
        schedule: schedule.clone(),
        ..Config::default()
    });
    world.set_policy(policy);
    assert!(world.device().questions().is_empty());
    drop(world.events());
    let mut net = Net::new(&world.kernel, 1);
    assert!(!net.passes(packet));
    let mut questions = world.device().questions();
    assert_eq!(questions.len(), 1);
    (world, net, questions.remove(0))
}

fn syn() -> Vec<u8> {
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
    tcp.handshake().swap_remove(0)
}

/// The unload closes the program's handle, so that what is held is let go; the application's stack goes on beside it.
fn unload_against_the_stack(schedule: &Schedule, policy: &str, packet: &[u8]) -> Vec<bool> {
    let (world, mut net, _) = held(schedule, policy, packet);
    let fates = Mutex::new(Vec::new());
    unload_beside(world, || {
        let settled = net.settle().into_iter().map(|(_, passed)| passed);
        fates.lock().expect("no panic").extend(settled);
        net.finish();
    });
    fates.into_inner().expect("no panic")
}

#[test]
fn unloading_against_the_stack_that_goes_on_with_what_was_held() {
    let scenario = |schedule: &Schedule| {
        let fates = unload_against_the_stack(schedule, ASK, &syn());
        assert!(fates.len() <= 1, "{fates:?}");
    };
    try_many(30, scenario);
}

#[test]
fn what_is_held_when_the_driver_stops_is_decided_before_its_filters_go() {
    // The plain order: while the stop waits, the application's stack authorizes again.
    for (policy, passes) in [(ASK, false), (ASK_OR_PERMIT, true)] {
        let schedule = Schedule::replay("plain".parse().expect("a trace"));
        assert_eq!(
            unload_against_the_stack(&schedule, policy, &syn()),
            [passes],
            "{policy}"
        );
    }
}

fn unload_against_an_answer(schedule: &Schedule) {
    let mut world = World::with_config(&Config {
        processors: 2,
        schedule: schedule.clone(),
        ..Config::default()
    });
    world.set_policy(ASK);
    let program = world.open(Caller::administrator());
    assert!(program.questions().is_empty());
    world.abandon_device();
    let mut net = Net::new(&world.kernel, 1);
    assert!(!net.passes(udp("192.0.2.10:50000", "198.51.100.1:4433", b"x")));
    let question = program.questions().remove(0);
    let request = AnswerRequest::new(question.question(), Verdict::Permit);
    let kernel = world.kernel.clone();
    let (mut report, mut status) = (None, NtStatus::SUCCESS);
    let programs: [Program<'_, ()>; 2] = [
        Box::new(|| report = Some(world.unload_with_open_device())),
        Box::new(|| status = program.answer(ControlCode::Answer, request.as_bytes(), 0)),
    ];
    kernel.together(programs.into());
    let report = report.expect("it was unloaded");
    assert_unloaded_while_open(&report);
    let fates: Vec<bool> = net.settle().into_iter().map(|(_, passed)| passed).collect();
    assert!(fates.len() <= 1, "{fates:?}");
    // Who answered in time has permitted it; else the rule's default has blocked it.
    assert_eq!(fates.contains(&true), status.is_success(), "{status}");
    world.assert_nothing_of_ours();
}

#[test]
fn unloading_against_an_answer() {
    try_many(30, unload_against_an_answer);
}

/// Connections and datagrams of each version that each of three processors has held.
const ROUNDS: u16 = 3;

fn answers_on_four_processors(schedule: &Schedule) {
    let world = World::with_config(&Config {
        processors: 4,
        schedule: schedule.clone(),
        ..Config::default()
    });
    world.set_policy(ASK);
    assert!(world.device().questions().is_empty());
    drop(world.events());
    let held = |net: &mut Net, port: u16| -> bool {
        let mut tcp = Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:4433");
        let datagram = udp(
            &format!("[2001:db8::10]:{port}"),
            "[2001:db8::80]:4433",
            b"x",
        );
        assert!(!net.passes(&tcp.handshake()[0]));
        assert!(!net.passes(datagram));
        let mut fates = Vec::new();
        while fates.len() < 2 {
            fates.extend(net.settle().into_iter().map(|(_, passed)| passed));
        }
        assert_eq!(fates, [fates[0]; 2], "each goes on once, by its answer");
        fates[0]
    };
    let over = AtomicUsize::new(0);
    let (kernel, over) = (&world.kernel, &over);
    let mut programs: Vec<Program<'_, ()>> = (1..4_u16)
        .map(|processor| -> Program<'_, ()> {
            Box::new(move || {
                let mut net = Net::new(kernel, processor.into());
                for round in 0..ROUNDS {
                    let port = 20_000 + 1_000 * processor + round;
                    assert_eq!(held(&mut net, port), port % 2 == 1, "port {port}");
                }
                net.finish();
                over.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    let mut answered = 0;
    programs.push(Box::new(|| {
        while over.load(Ordering::Relaxed) < 3 {
            for question in world.device().questions() {
                let verdict = if question.local_port.get() % 2 == 1 {
                    Verdict::Permit
                } else {
                    Verdict::Block
                };
                assert!(world.device().reply(&question, verdict));
                answered += 1;
            }
        }
    }));
    kernel.together(programs);
    assert_eq!(answered, 3 * ROUNDS * 2);
    assert_eq!(world.status().held.get(), 0);
    world.end();
}

#[test]
fn what_is_held_on_four_processors_goes_on_once_under_many_seeds() {
    try_many(20, answers_on_four_processors);
}
