//! Every call that can fail is made to fail, one after the other: nothing is left behind, nothing is half done.

use ksim::{Config, PoolMode};
use portcullis_cli::control::{self, Wait};
use portcullis_proto::capture::{CaptureReply, StartCaptureRequest};
use portcullis_proto::device::ControlCode;
use portcullis_proto::event::EventsReply;
use portcullis_proto::filter::{DescribeFilterRequest, FilterReply};
use portcullis_proto::message::ReadRequest;
use portcullis_proto::{Action, CalloutKind, DriverState, Family, LifecycleStep};
use portcullis_tests::control::{compile, plain_request};
use portcullis_tests::sweep::sweep;
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Tcp, World, udp};
use wfp_schema::NtStatus;
use zerocopy::IntoBytes as _;

/// The pool of these machines has no guard pages: there are many machines.
fn config(bfe_running: bool) -> Config {
    let mut config = Config {
        pool: PoolMode::Fast,
        ..Config::default()
    };
    config.fwp.bfe_running = bfe_running;
    config
}

fn failed(world: &World) -> Option<String> {
    let call = world.kernel.faults().failed_call();
    world.kernel.faults().fail_nth(0);
    call
}

fn telnet(port: u16) -> Vec<Vec<u8>> {
    Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:23").handshake()
}

#[test]
fn every_step_of_the_start_fails_in_turn_and_leaves_nothing() {
    for bfe_running in [true, false] {
        sweep(
            &format!("start with the engine running: {bfe_running}"),
            |nth| {
                let mut world = World::boot(&config(bfe_running));
                world.kernel.faults().fail_nth(nth);
                let status = world.start();
                let call = failed(&world);
                if call.is_none() {
                    assert_eq!(status, NtStatus::SUCCESS);
                }
                if status.is_success() {
                    let expected = if bfe_running {
                        DriverState::Active
                    } else {
                        DriverState::WaitingForBfe
                    };
                    assert_eq!(world.state(), expected, "started in spite of {call:?}");
                    world.set_policy("default = 'block'");
                    assert_eq!(world.net.none_passes(&telnet(50_000)), bfe_running);
                } else {
                    assert!(world.engine().registered_callouts().is_empty(), "{call:?}");
                    assert!(world.net.all_pass(&telnet(50_000)), "{call:?}");
                }
                println!("{nth}: {status} after {call:?}");
                world.end();
                call
            },
        );
    }
}

#[test]
fn a_start_that_failed_can_be_tried_again_on_the_same_machine() {
    let mut world = World::boot(&config(true));
    sweep("start on one machine", |nth| {
        world.kernel.faults().fail_nth(nth);
        let status = world.start();
        let call = failed(&world);
        assert!(call.is_some() || status.is_success());
        assert_clean(&world.unload());
        world.assert_nothing_of_ours();
        call
    });
}

#[test]
fn every_step_of_the_engines_arrival_fails_in_turn_and_the_next_arrival_heals_it() {
    sweep("arrival of the engine", |nth| {
        let mut world = World::boot(&config(false));
        assert_eq!(world.start(), NtStatus::SUCCESS);
        world.set_policy("default = 'block'");
        world.kernel.faults().fail_nth(nth);
        world.start_bfe();
        let call = failed(&world);
        match world.state() {
            DriverState::Active => assert!(world.net.none_passes(&telnet(50_000)), "{call:?}"),
            DriverState::Degraded => {
                assert!(call.is_some());
                let errors = LifecycleStep::ALL
                    .iter()
                    .filter(|step| world.status().error(**step) != 0)
                    .count();
                assert!(errors > 0, "{call:?}: the status says what went wrong");
                assert!(world.net.all_pass(&telnet(50_000)));
            }
            state => panic!("{state:?} after {call:?}"),
        }
        world.stop_bfe();
        world.start_bfe();
        assert_eq!(world.state(), DriverState::Active, "{call:?}");
        assert!(world.net.none_passes(&telnet(50_001)));
        world.end();
        call
    });
}

#[test]
fn every_step_of_setting_a_policy_fails_in_turn_and_the_old_policy_stays() {
    let mut world = World::with_policy("default = 'block'");
    let policy = compile("default = 'permit'");
    let mut port = 50_000;
    sweep("set policy", |nth| {
        let before = world.status();
        world.kernel.faults().fail_nth(nth);
        let status = world.device().try_set_policy(&policy);
        let call = failed(&world);
        port += 1;
        if status.is_success() {
            assert!(world.net.all_pass(&telnet(port)), "{call:?}");
        } else {
            assert!(status.is_error(), "{call:?} gave {status}");
            assert_eq!(world.status().policy_epoch, before.policy_epoch, "{call:?}");
            assert_eq!(world.status().policy_hash, before.policy_hash, "{call:?}");
            assert!(world.net.none_passes(&telnet(port)), "{call:?}");
        }
        world.set_policy("default = 'block'");
        call
    });
    world.end();
}

#[test]
fn every_step_of_each_request_fails_in_turn_and_the_next_request_succeeds() {
    let world = World::with_policy("default = 'block'");
    let no_wait = ReadRequest::new(ReadRequest::NO_WAIT).as_bytes().to_vec();
    for (code, input, room) in [
        (ControlCode::GetVersion, Vec::new(), 64),
        (ControlCode::GetStatus, plain_request(), 8192),
        (ControlCode::GetStatistics, plain_request(), 4096),
        (ControlCode::ReadEvents, no_wait, EventsReply::size_with(4)),
    ] {
        sweep(code.name(), |nth| {
            world.kernel.faults().fail_nth(nth);
            let status = world.device().answer(code, &input, room);
            let call = failed(&world);
            assert!(call.is_some() || status == NtStatus::SUCCESS);
            assert_eq!(
                world.device().answer(code, &input, room),
                NtStatus::SUCCESS,
                "after {call:?}"
            );
            call
        });
    }
    world.end();
}

#[test]
fn every_step_of_a_read_that_waits_fails_in_turn_and_no_read_is_lost() {
    let mut world = World::with_policy("default = 'block'");
    let mut port = 40_000;
    sweep("a read that waits", |nth| {
        drop(world.events());
        world.kernel.faults().fail_nth(nth);
        let read = world.device().read_events(2);
        world.net.packet(&udp(
            &format!("192.0.2.10:{port}"),
            "198.51.100.1:9999",
            b"datagram",
        ));
        port += 1;
        let call = failed(&world);
        if read.poll().is_none() {
            // An event that could not be handed out is handed out with the next one.
            world.net.packet(&udp(
                &format!("192.0.2.10:{port}"),
                "198.51.100.1:9999",
                b"datagram",
            ));
            port += 1;
        }
        let result = read
            .poll()
            .unwrap_or_else(|| panic!("the read still waits after {call:?}"));
        assert!(call.is_some() || result.status == NtStatus::SUCCESS);
        call
    });
    world.end();
}

#[test]
fn every_step_of_a_connection_fails_in_turn_and_the_machine_goes_on() {
    sweep("a connection and a datagram", |nth| {
        let mut world = World::boot(&config(true));
        assert_eq!(world.start(), NtStatus::SUCCESS);
        world
            .set_policy("default = 'permit'\n[[rule]]\naction = 'block'\nhost = 'ads.example.net'");
        world.kernel.faults().fail_nth(nth);
        let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
        world.net.fates(&tcp.handshake());
        let request = portcullis_tests::messages::http_request("www.example.net");
        world
            .net
            .fates(&[tcp.client_says(&request), tcp.server_says(b"answer")]);
        world
            .net
            .packet(&udp("192.0.2.10:50001", "198.51.100.1:9999", b"datagram"));
        world.net.fates(&tcp.close());
        let call = failed(&world);
        let mut next = Tcp::new("192.0.2.10:50002", "198.51.100.1:80");
        assert!(world.net.all_pass(&next.handshake()), "after {call:?}");
        world.end();
        call
    });
}

#[test]
fn every_step_of_the_stop_fails_in_turn_and_it_ends_all_the_same_with_nothing_left() {
    sweep("stop", |nth| {
        let mut world = World::boot(&config(true));
        assert_eq!(world.start(), NtStatus::SUCCESS);
        world.set_policy("default = 'permit'");
        drop(world.events());
        let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
        assert!(world.net.all_pass(&tcp.handshake()));
        assert!(world.net.passes(udp(
            "[2001:db8::10]:50001",
            "[2001:db8::80]:9999",
            b"datagram"
        )));
        drop(world.events());
        let read = world.device().read_events(2);
        world.kernel.faults().fail_nth(nth);
        world.abandon_device();
        let report = world.unload();
        let call = failed(&world);
        println!("{nth}: {call:?}");
        assert_clean(&report);
        assert!(read.poll().is_some(), "{call:?}");
        world.assert_nothing_of_ours();
        assert!(world.net.passes(tcp.client_says(b"on it goes")), "{call:?}");
        call
    });
}

#[test]
fn random_failures_all_over_a_life_never_stop_the_machine() {
    let mut random = portcullis_tests::random::Random::new(0x5eed_0003);
    for _ in 0..60 {
        let mut world = World::boot(&config(random.below(4) != 0));
        world.kernel.faults().fail_nth(1 + random.next() % 400);
        if world.start().is_success() {
            let _may_fail = world
                .device()
                .try_set_policy(&compile("default = 'permit'"));
            let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
            world.net.fates(&tcp.handshake());
            world.stop_bfe();
            world.net.fates(&[tcp.client_says(b"data")]);
            world.start_bfe();
            world.net.fates(&tcp.close());
        }
        println!("{:?}", world.kernel.faults().failed_call());
        world.end();
    }
}

/// What is held, whatever fails while it is, goes on: no operation is lost.
#[test]
fn every_call_while_operations_are_held_and_let_go_fails_in_turn() {
    let mut world = World::boot(&config(true));
    assert_eq!(world.start(), NtStatus::SUCCESS);
    world.set_policy("default = 'permit'\n[[rule]]\naction = 'ask'\nremote_port = 4433");
    assert!(world.device().questions().is_empty());
    let mut port = 50_000;
    sweep("hold and answer", |nth| {
        port += 1;
        let mut packets = [
            Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:4433")
                .handshake()
                .remove(0),
            Tcp::new("[2001:db8::80]:4433", &format!("[2001:db8::10]:{port}"))
                .handshake()
                .remove(0),
            udp(
                &format!("[2001:db8::10]:{port}"),
                "[2001:db8::80]:4433",
                b"sent",
            ),
            udp(
                "198.51.100.1:4433",
                &format!("192.0.2.10:{port}"),
                b"received",
            ),
        ]
        .into_iter();
        world.kernel.faults().fail_nth(nth);
        for packet in packets.by_ref() {
            let _ = world.net.passes(packet);
        }
        // One of these fails, perhaps.
        let mut questions = Vec::new();
        while control::take_questions(world.device(), &mut questions, Wait::No).unwrap_or(true) {}
        for (index, question) in questions.iter().enumerate() {
            let verdict = if index % 2 == 0 {
                Action::Permit
            } else {
                Action::Block
            };
            let answer = || control::answer(world.device(), question.question(), verdict);
            assert!(matches!(answer().or_else(|_| answer()), Ok(true)));
        }
        let call = failed(&world);
        let _ = world.net.settle();
        assert_eq!(world.status().held.get(), 0, "{call:?}");
        assert!(call.is_some() || questions.len() == 4);
        drop(world.events());
        call
    });
    world.end();
}

#[test]
fn every_step_of_a_capture_fails_in_turn_and_leaves_no_capture() {
    let mut world = World::with_policy("default = 'permit'");
    let start = StartCaptureRequest::new(1_500, 1 << 16);
    let room = CaptureReply::size_for(1_500);
    let mut port = 50_000;
    sweep("a capture", |nth| {
        port += 1;
        world.kernel.faults().fail_nth(nth);
        let begun = world
            .device()
            .answer(ControlCode::StartCapture, start.as_bytes(), 0);
        let passed = world.net.passes(udp(
            &format!("192.0.2.10:{port}"),
            "198.51.100.1:9",
            b"datagram",
        ));
        let read = ReadRequest::new(ReadRequest::NO_WAIT);
        let result = world
            .device()
            .ioctl(ControlCode::ReadCapture.raw(), read.as_bytes(), room);
        let stopped = world
            .device()
            .answer(ControlCode::StopCapture, &plain_request(), 0);
        let call = failed(&world);
        assert!(passed, "{call:?}: a capture takes nothing away");
        // The stop itself may have failed.
        let stopped = if stopped.is_success() || !begun.is_success() {
            stopped
        } else {
            world
                .device()
                .answer(ControlCode::StopCapture, &plain_request(), 0)
        };
        if begun.is_success() {
            assert_eq!(stopped, NtStatus::SUCCESS, "{call:?}");
            if result.status.is_success() {
                let (reply, _) = CaptureReply::read(&result.output).expect("a reply");
                assert!(reply.counts.taken.get() > 0, "{call:?}");
            }
        } else {
            assert!(!stopped.is_success(), "{call:?}");
        }
        // Whatever is left is read, or it is over.
        drop(
            world
                .device()
                .ioctl(ControlCode::ReadCapture.raw(), read.as_bytes(), room),
        );
        let again = world
            .device()
            .answer(ControlCode::StartCapture, start.as_bytes(), 0);
        assert_eq!(again, NtStatus::SUCCESS, "after {call:?}");
        let stopped = world
            .device()
            .answer(ControlCode::StopCapture, &plain_request(), 0);
        assert_eq!(stopped, NtStatus::SUCCESS);
        drop(
            world
                .device()
                .ioctl(ControlCode::ReadCapture.raw(), read.as_bytes(), room),
        );
        call
    });
    world.end();
}

#[test]
fn every_step_of_describing_a_filter_fails_in_turn() {
    let world = World::with_policy("default = 'permit'");
    let filter = world
        .callout(CalloutKind::Connect, Family::V4)
        .filter_id
        .get();
    let request = DescribeFilterRequest::new(filter);
    sweep("describing a filter", |nth| {
        world.kernel.faults().fail_nth(nth);
        let answer = world.device().answer(
            ControlCode::DescribeFilter,
            request.as_bytes(),
            size_of::<FilterReply>(),
        );
        let call = failed(&world);
        assert!(call.is_some() || answer.is_success());
        call
    });
    world.end();
}
