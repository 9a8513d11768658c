//! Races that matter, under every schedule: those of many seeds, and all that depart from the plain order once or twice.
//!
//! A failure prints what repeats it: `SCHEDULE='trace …' cargo test -p portcullis-tests --test once NAME`, or `seed …`.

use ksim::sched::Program;
use ksim::{Caller, Config, Schedule};
use portcullis_proto::capture::{CaptureReply, StartCaptureRequest};
use portcullis_proto::device::ControlCode;
use portcullis_proto::message::ReadRequest;
use portcullis_proto::{Action, Counter, EventRecord};
use portcullis_tests::control::{compile, events_of, plain_request};
use portcullis_tests::messages::client_hello;
use portcullis_tests::races::{Scenario, begin, beside, try_all, unload_beside};
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Net, Tcp, World, udp};
use wfp_engine::FlowId;
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

/// How many random schedules each race is tried under, beside those that depart from the plain order once.
const SEEDS: u64 = 40;

fn datagram(port: u16) -> Vec<u8> {
    udp(
        &format!("192.0.2.10:{port}"),
        "198.51.100.1:9999",
        b"datagram",
    )
}

fn unload_against_classify(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, "default = 'permit'");
    unload_beside(world, || {
        assert!(net.passes(datagram(50_000)), "permitted, or nobody's");
    });
}

#[test]
fn unloading_against_a_classify() {
    try_all(SEEDS, unload_against_classify);
}

fn unload_against_stream(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, "default = 'permit'");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
    assert!(net.all_pass(&tcp.handshake()));
    let hello = tcp.client_says(&client_hello(Some("www.example.net")));
    unload_beside(world, || assert!(net.passes(hello)));
}

#[test]
fn unloading_which_deletes_flow_contexts_against_a_stream() {
    try_all(SEEDS, unload_against_stream);
}

fn swap_against_classify(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, "default = 'permit'");
    let block = compile("default = 'block'");
    let mut fates = Vec::new();
    beside(
        &world,
        || assert_eq!(world.device().try_set_policy(&block), NtStatus::SUCCESS),
        || {
            fates = [50_000, 50_001]
                .map(|port| net.passes(datagram(port)))
                .into();
        },
    );
    // Once a flow was blocked the old policy is gone.
    assert!(fates[0] || !fates[1], "{fates:?}");
    assert!(!net.passes(datagram(50_002)));
    assert_eq!(world.status().policy_epoch.get(), 2);
    drop(net);
    world.end();
}

#[test]
fn a_policy_swap_against_a_classify() {
    try_all(SEEDS, swap_against_classify);
}

/// Nothing but what the driver decides is permitted at boot.
const PROTECTED: &str = "default = 'permit'\n[boot]\ndefault = 'block'";

fn first_policy_against_classify(schedule: &Schedule) {
    let world = World::with_config(&Config {
        processors: 2,
        schedule: schedule.clone(),
        ..Config::default()
    });
    let mut net = Net::new(&world.kernel, 1);
    let policy = compile(PROTECTED);
    beside(
        &world,
        || assert_eq!(world.device().try_set_policy(&policy), NtStatus::SUCCESS),
        || {
            for port in 50_000..50_003 {
                assert!(net.passes(datagram(port)), "nobody's, or permitted");
            }
        },
    );
    world.set_policy("default = 'permit'");
    drop(net);
    world.end();
}

#[test]
fn the_first_policy_with_its_protection_at_boot_against_a_classify() {
    try_all(SEEDS, first_policy_against_classify);
}

fn close_against_stream(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, "default = 'permit'");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
    assert!(net.all_pass(&tcp.handshake()));
    let hello = tcp.client_says(&client_hello(Some("www.example.net")));
    let flow = (1..100)
        .find_map(|id| world.engine().flow(FlowId::new(id)))
        .expect("the connection's flow");
    let kernel = world.kernel.clone();
    beside(
        &world,
        || {
            let ended = kernel.on(0, |_| kernel.filter_engine().end_flow(&flow));
            assert_eq!(ended, Ok(true));
        },
        || assert!(net.passes(hello)),
    );
    assert_eq!(world.counter(Counter::FlowsDeleted), 1);
    drop(net);
    world.end();
}

#[test]
fn the_deletion_of_a_flow_against_its_stream() {
    try_all(SEEDS, close_against_stream);
}

fn cancel_against_event(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, "default = 'block'");
    let read = world.device().read_events(1);
    assert!(read.poll().is_none());
    beside(
        &world,
        || read.cancel().expect("no bug check"),
        || assert!(!net.passes(datagram(50_000))),
    );
    let result = read.poll().expect("it is over in either case");
    let left = world.events().len();
    if result.status == NtStatus::CANCELLED {
        assert_eq!(left, 1, "the event is not lost with the read");
    } else {
        assert_eq!((events_of(&result).0.len(), left), (1, 0));
    }
    drop(net);
    world.end();
}

#[test]
fn a_read_that_is_cancelled_while_an_event_arrives() {
    try_all(SEEDS, cancel_against_event);
}

fn bfe_stop_against_classify(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, "default = 'permit'");
    let kernel = world.kernel.clone();
    beside(
        &world,
        || kernel.on(0, |_| kernel.bfe().stop()).expect("no bug check"),
        || assert!(net.passes(datagram(50_000))),
    );
    world.start_bfe();
    drop(net);
    world.end();
}

#[test]
fn the_engine_stops_against_a_classify() {
    try_all(SEEDS, bfe_stop_against_classify);
}

/// Asks about what the scenarios send, for a second.
const ASK: &str =
    "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_port = 9999\nask_seconds = 1";

/// A datagram that waits for its answer, and the question.
fn held(schedule: &Schedule) -> (World, Net, EventRecord) {
    let (world, mut net) = begin(schedule, ASK);
    assert!(world.device().questions().is_empty());
    assert!(!net.passes(datagram(50_000)));
    let mut questions = world.device().questions();
    assert_eq!(questions.len(), 1);
    (world, net, questions.remove(0))
}

/// What has waited has gone on once.
fn gone_on(world: &World, net: &mut Net, passes: bool) {
    assert_eq!(world.status().held.get(), 0);
    let fates: Vec<bool> = net.settle().into_iter().map(|(_, fate)| fate).collect();
    assert_eq!(fates.contains(&true), passes, "{fates:?}");
    assert!(fates.len() <= 1, "{fates:?}");
}

fn answer_against_time_out(schedule: &Schedule) {
    let (world, mut net, question) = held(schedule);
    let mut is_in_time = false;
    beside(
        &world,
        || is_in_time = world.device().reply(&question, Action::Permit),
        || net.wait(2),
    );
    let counted = [Counter::Answered, Counter::AskTimedOut].map(|counter| world.counter(counter));
    assert_eq!(counted, if is_in_time { [1, 0] } else { [0, 1] });
    assert_eq!(world.status().held.get(), 0);
    drop(net.settle());
    assert_eq!(
        net.passes(datagram(50_000)),
        is_in_time,
        "the answer is remembered"
    );
    drop(net);
    world.end();
}

#[test]
fn an_answer_against_its_time_out() {
    try_all(SEEDS, answer_against_time_out);
}

fn answer_against_the_programs_end(schedule: &Schedule) {
    let (world, mut net, question) = held(schedule);
    let other = world.open(Caller::administrator());
    assert!(
        !world
            .device()
            .reply(&other_question(&question), Action::Permit)
    );
    let mut is_in_time = false;
    let kernel = world.kernel.clone();
    let mut world = world;
    let programs: [Program<'_, ()>; 2] = [
        Box::new(|| is_in_time = !net.settle().is_empty()),
        Box::new(|| world.abandon_device()),
    ];
    kernel.together(programs.into());
    assert!(!is_in_time || net.settle().is_empty(), "once");
    assert_eq!(other.counter(Counter::AskAbandoned), 1);
    assert_eq!(other.counter(Counter::Asked), 1);
    other.close();
    drop(net);
    assert_clean(&world.unload());
}

/// A question that nobody asked.
fn other_question(question: &EventRecord) -> EventRecord {
    let mut other = *question;
    other.value[0] = (question.question() + (1 << 32)).into();
    other
}

#[test]
fn the_programs_end_against_the_stack() {
    try_all(SEEDS, answer_against_the_programs_end);
}

fn unload_against_hold(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, ASK);
    assert!(world.device().questions().is_empty());
    unload_beside(world, || {
        // Held and let go by the default, refused because nobody answers any more, or nobody's.
        let _ = net.passes(datagram(50_000));
    });
}

#[test]
fn unloading_against_an_operation_that_is_about_to_be_held() {
    try_all(SEEDS, unload_against_hold);
}

fn answers_against_each_other(schedule: &Schedule) {
    let (world, mut net, question) = held(schedule);
    let (mut one, mut other) = (false, false);
    beside(
        &world,
        || one = world.device().reply(&question, Action::Permit),
        || other = world.device().reply(&question, Action::Permit),
    );
    assert!(one != other, "one of them was first");
    gone_on(&world, &mut net, true);
    drop(net);
    world.end();
}

#[test]
fn two_answers_to_one_question() {
    try_all(SEEDS, answers_against_each_other);
}

#[test]
fn the_same_seed_gives_the_same_run_of_the_driver() {
    let scenarios: [Scenario; 5] = [
        unload_against_classify,
        unload_against_stream,
        swap_against_classify,
        close_against_stream,
        cancel_against_event,
    ];
    let run = |scenario: Scenario, seed| {
        let schedule = Schedule::seeded(seed);
        scenario(&schedule);
        schedule.run()
    };
    let mut different = std::collections::HashSet::new();
    for scenario in scenarios {
        for seed in 1_000..1_008 {
            let first = run(scenario, seed);
            assert!(first.points > 0);
            assert_eq!(first, run(scenario, seed), "seed {seed}");
            different.insert(first.hash);
        }
    }
    assert!(different.len() > 2 * scenarios.len(), "{different:?}");
}

fn everything() -> StartCaptureRequest {
    StartCaptureRequest::new(1_500, 1 << 16)
}

/// A capture begins, is read and stops while packets come by.
fn capture_against_packets(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, "default = 'permit'");
    let device = world.open(Caller::administrator());
    let read = ReadRequest::new(ReadRequest::NO_WAIT);
    let room = CaptureReply::size_for(1_500);
    let mut bytes = 0;
    beside(
        &world,
        || {
            let start = everything();
            let answer = device.answer(ControlCode::StartCapture, start.as_bytes(), 0);
            assert_eq!(answer, NtStatus::SUCCESS);
            let result = device.ioctl(ControlCode::ReadCapture.raw(), read.as_bytes(), room);
            assert_eq!(result.status, NtStatus::SUCCESS);
            bytes += result.output.len();
            let answer = device.answer(ControlCode::StopCapture, &plain_request(), 0);
            assert_eq!(answer, NtStatus::SUCCESS);
            let result = device.ioctl(ControlCode::ReadCapture.raw(), read.as_bytes(), room);
            let over = [NtStatus::SUCCESS, NtStatus::INVALID_DEVICE_STATE];
            assert!(over.contains(&result.status), "{}", result.status);
        },
        || assert!(net.passes(datagram(50_000))),
    );
    device.close();
    drop(net);
    world.end();
}

#[test]
fn a_capture_from_its_start_to_its_end_against_packets() {
    try_all(SEEDS, capture_against_packets);
}

/// Who captures dies while packets come by.
fn death_against_packets(schedule: &Schedule) {
    let (world, mut net) = begin(schedule, "default = 'permit'");
    let device = world.open(Caller::administrator());
    let answer = device.answer(ControlCode::StartCapture, everything().as_bytes(), 0);
    assert_eq!(answer, NtStatus::SUCCESS);
    beside(
        &world,
        || drop(device),
        || assert!(net.passes(datagram(50_000))),
    );
    let answer = world
        .device()
        .answer(ControlCode::StartCapture, everything().as_bytes(), 0);
    assert_eq!(answer, NtStatus::SUCCESS, "nothing is left of the other");
    drop(net);
    world.end();
}

#[test]
fn the_death_of_who_captures_against_packets() {
    try_all(SEEDS, death_against_packets);
}
