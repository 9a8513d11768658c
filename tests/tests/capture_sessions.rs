//! Captures begin and end: who owns one, what is read behind its end, and what it leaves behind.

use ksim::sched::Program;
use ksim::{Config, Schedule};
use portcullis_proto::capture::CaptureReply;
use portcullis_proto::device::ControlCode;
use portcullis_proto::message::ReadRequest;
use portcullis_proto::{CalloutKind, Family};
use portcullis_tests::capture::{everything, start};
use portcullis_tests::control::plain_request;
use portcullis_tests::world::{assert_clean, assert_unloaded_while_open};
use portcullis_tests::{Net, Tcp, World, udp};
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

use crate::capture::{POLICY, RULES};

fn is_filtered(world: &World, kind: CalloutKind, family: Family) -> bool {
    world.callout(kind, family).filter_id.get() != 0
}

#[test]
fn filters_are_there_only_while_a_capture_is() {
    let mut world = World::with_policy(POLICY);
    let kinds = [
        CalloutKind::InboundCapture,
        CalloutKind::OutboundCapture,
        CalloutKind::Forward,
        CalloutKind::ConnectDiscard,
        CalloutKind::InboundTransportDiscard,
    ];
    let filtered = |world: &World| {
        kinds
            .iter()
            .flat_map(|&kind| [Family::V4, Family::V6].map(|family| (kind, family)))
            .filter(|&(kind, family)| is_filtered(world, kind, family))
            .count()
    };
    assert_eq!(filtered(&world), 0);
    let running = start(&world, everything(), &RULES, "demand");
    assert_eq!(filtered(&world), 10);
    drop(running.finish());
    assert_eq!(filtered(&world), 0);
    // Without a capture the callouts are not even asked.
    let before = world
        .callout(CalloutKind::OutboundCapture, Family::V4)
        .classify
        .get();
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"unseen"))
    );
    let after = world
        .callout(CalloutKind::OutboundCapture, Family::V4)
        .classify
        .get();
    assert_eq!(before, after);
    world.end();
}

#[test]
fn there_is_one_capture_and_only_its_owner_reads_and_stops_it() {
    let mut world = World::with_policy(POLICY);
    let other = world.open(ksim::Caller::administrator());
    let begin = everything();
    let read = ReadRequest::new(ReadRequest::NO_WAIT);
    let room = CaptureReply::size_for(65_535);
    let stop = plain_request();
    let none = NtStatus::INVALID_DEVICE_STATE;
    for device in [world.device(), &other] {
        assert_eq!(
            device.answer(ControlCode::ReadCapture, read.as_bytes(), room),
            none
        );
        assert_eq!(device.answer(ControlCode::StopCapture, &stop, 0), none);
    }
    let start = |device: &portcullis_tests::Device| {
        device.answer(ControlCode::StartCapture, begin.as_bytes(), 0)
    };
    assert_eq!(start(&other), NtStatus::SUCCESS);
    assert_eq!(start(world.device()), NtStatus::DEVICE_BUSY);
    assert_eq!(start(&other), NtStatus::DEVICE_BUSY);
    let ours = world.device();
    assert_eq!(
        ours.answer(ControlCode::ReadCapture, read.as_bytes(), room),
        none
    );
    assert_eq!(ours.answer(ControlCode::StopCapture, &stop, 0), none);
    let small = other.answer(ControlCode::ReadCapture, read.as_bytes(), room - 1);
    assert_eq!(small, NtStatus::BUFFER_TOO_SMALL);
    // Its program dies: the capture ends, the filters go, and another may begin.
    drop(other);
    assert!(!is_filtered(
        &world,
        CalloutKind::InboundCapture,
        Family::V4
    ));
    assert_eq!(start(world.device()), NtStatus::SUCCESS);
    world.abandon_device();
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"later"))
    );
    assert_clean(&world.unload());
}

#[test]
fn who_is_between_two_reads_when_a_capture_stops_is_told_of_its_end() {
    let mut world = World::with_policy(POLICY);
    let device = world.open(ksim::Caller::administrator());
    let begin = everything();
    let start = || device.answer(ControlCode::StartCapture, begin.as_bytes(), 0);
    assert_eq!(start(), NtStatus::SUCCESS);
    let read = ReadRequest::new(0);
    let room = CaptureReply::size_for(65_535);
    let waiting = device.read_capture(room);
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"one"))
    );
    let first = waiting.wait().expect("no bug check");
    let (reply, _) = CaptureReply::read(&first.output).expect("a reply");
    assert_eq!(reply.flags.get() & CaptureReply::ENDED, 0);
    drop(device.ioctl(
        ControlCode::ReadCapture.raw(),
        ReadRequest::new(ReadRequest::NO_WAIT).as_bytes(),
        room,
    ));
    let stopped = device.answer(ControlCode::StopCapture, &plain_request(), 0);
    assert_eq!(stopped, NtStatus::SUCCESS);
    let last = device.ioctl(ControlCode::ReadCapture.raw(), read.as_bytes(), room);
    assert_eq!(last.status, NtStatus::SUCCESS);
    let (reply, _) = CaptureReply::read(&last.output).expect("a reply");
    assert_eq!(reply.flags.get(), CaptureReply::ENDED);
    // One that was stopped and that nobody reads makes way for the same opening's next.
    assert_eq!(start(), NtStatus::SUCCESS);
    let stopped = device.answer(ControlCode::StopCapture, &plain_request(), 0);
    assert_eq!(stopped, NtStatus::SUCCESS);
    let other = world.open(ksim::Caller::administrator());
    let started = other.answer(ControlCode::StartCapture, begin.as_bytes(), 0);
    assert_eq!(started, NtStatus::DEVICE_BUSY);
    assert_eq!(start(), NtStatus::SUCCESS);
    drop((device, other));
    world.end();
}

#[test]
fn a_stopped_capture_is_read_to_its_end_and_is_gone_then() {
    let mut world = World::with_policy(POLICY);
    let device = world.open(ksim::Caller::administrator());
    let begin = everything();
    let answer = device.answer(ControlCode::StartCapture, begin.as_bytes(), 0);
    assert_eq!(answer, NtStatus::SUCCESS);
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"one"))
    );
    let answer = device.answer(ControlCode::StopCapture, &plain_request(), 0);
    assert_eq!(answer, NtStatus::SUCCESS);
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"two"))
    );
    let read = ReadRequest::new(0);
    let room = CaptureReply::size_for(65_535);
    let result = device.ioctl(ControlCode::ReadCapture.raw(), read.as_bytes(), room);
    let (reply, records) = CaptureReply::read(&result.output).expect("a reply");
    assert_eq!(reply.flags.get(), CaptureReply::ENDED);
    let holds = |bytes: &[u8]| records.clone().any(|(_, data)| data.ends_with(bytes));
    assert!(holds(b"one") && !holds(b"two"));
    let gone = device.answer(ControlCode::ReadCapture, read.as_bytes(), room);
    assert_eq!(gone, NtStatus::INVALID_DEVICE_STATE);
    drop(device);
    world.end();
}

#[test]
fn the_driver_is_unloaded_in_the_middle_of_a_capture() {
    let mut world = World::with_policy(POLICY);
    let answer = world
        .device()
        .answer(ControlCode::StartCapture, everything().as_bytes(), 0);
    assert_eq!(answer, NtStatus::SUCCESS);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
    assert!(world.net.all_pass(&tcp.handshake()));
    let report = world.unload_with_open_device();
    assert_unloaded_while_open(&report);
    world.assert_nothing_of_ours();
    assert!(world.net.passes(tcp.client_says(b"still here")));
}

#[test]
fn a_capture_outlives_the_filter_engine() {
    let mut world = World::with_policy(POLICY);
    let running = start(&world, everything(), &RULES, "bfe");
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"before"))
    );
    world.stop_bfe();
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"unseen"))
    );
    world.start_bfe();
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:1", "198.51.100.1:2", b"after"))
    );
    let (_, contents) = running.finish();
    let count = |bytes: &[u8]| contents.comments(bytes).len();
    assert_eq!(
        (count(b"before"), count(b"unseen"), count(b"after")),
        (1, 0, 1)
    );
    world.end();
}

#[test]
fn captures_start_stop_and_die_under_traffic_on_four_processors() {
    for seed in 0..12 {
        let mut world = World::with_config(&Config {
            processors: 4,
            schedule: Schedule::seeded(seed),
            ..Config::default()
        });
        world.set_policy(POLICY);
        let kernel = world.kernel.clone();
        let mut programs: Vec<Program<'_, ()>> = (1..4)
            .map(|processor| -> Program<'_, ()> {
                let kernel = &kernel;
                Box::new(move || {
                    let mut net = Net::new(kernel, processor);
                    for round in 0..20_u32 {
                        let port = 20_000 + 100 * processor + round;
                        let mut tcp = Tcp::new(
                            &format!("192.0.2.10:{port}"),
                            &format!("198.51.100.1:{}", if round % 3 == 0 { 23 } else { 443 }),
                        );
                        drop(net.fates(&tcp.handshake()));
                        let datagram = udp(
                            &format!("[2001:db8::80]:{port}"),
                            "[2001:db8::10]:9999",
                            b"datagram",
                        );
                        drop(net.fates(&[datagram]));
                    }
                    net.finish();
                })
            })
            .collect();
        programs.push(Box::new(|| {
            for round in 0..4 {
                let name = format!("seed-{seed}-{round}");
                let mut running = start(&world, everything(), &RULES, &name);
                running.take();
                running.take();
                let (captured, contents) = running.finish();
                assert_eq!(captured.counts.dropped.get(), 0, "seed {seed}");
                assert_eq!(contents.packets.len() as u64, captured.packets);
            }
            let answer =
                world
                    .device()
                    .answer(ControlCode::StartCapture, everything().as_bytes(), 0);
            assert_eq!(answer, NtStatus::SUCCESS, "seed {seed}");
            world.abandon_device();
        }));
        kernel.together(programs);
        assert_clean(&world.unload());
    }
}
