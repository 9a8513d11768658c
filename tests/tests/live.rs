//! What `portcullis capture` and `portcullis ask` do with the driver of their machine: they wait for it in one thread,
//! while it works in others.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ksim::Caller;
use portcullis_cli::ask::{Answers, serve_on};
use portcullis_cli::control::ControlError;
use portcullis_cli::live::{CaptureError, CaptureOptions, Session, Stop};
use portcullis_proto::Counter;
use portcullis_tests::capture::{contents, everything, file_named};
use portcullis_tests::control::Program;
use portcullis_tests::{Tcp, World, udp};
use wfp_schema::NtStatus;

const POLICY: &str = "
    default = 'permit'
    [[rule]]
    name = 'no guests'
    action = 'block'
    direction = 'inbound'
    remote_address = ['203.0.113.0/24', '2001:db8:bad::/48']
    [[rule]]
    name = 'ask'
    action = 'ask'
    remote_port = 4433
";
const RULES: [&str; 2] = ["no guests", "ask"];

fn rules() -> Vec<String> {
    RULES.map(ToOwned::to_owned).to_vec()
}

fn program(world: &World) -> Program {
    Program::new(world.open(Caller::administrator()))
}

fn options(name: &str) -> CaptureOptions {
    CaptureOptions {
        file: file_named(name),
        request: everything(),
        count: None,
        seconds: None,
    }
}

/// The capture has left nothing: neither the file nor its beginning.
fn is_gone(file: &Path) -> bool {
    let mut partial = file.to_path_buf().into_os_string();
    partial.push(".partial");
    !file.exists() && !PathBuf::from(partial).exists()
}

#[test]
fn a_capture_waits_for_packets_until_the_user_ends_it() {
    let mut world = World::with_policy(POLICY);
    let program = program(&world);
    let options = options("ended");
    let file = options.file.clone();
    let session = Session::start(&program, options, rules()).expect("a capture");
    let stop = Stop::new();
    let mut sent = Vec::new();
    let captured = thread::scope(|scope| {
        let running = scope.spawn(|| session.run(&program, &stop));
        for (host, peer, guest) in [
            ("192.0.2.10", "198.51.100.1", "203.0.113.7"),
            ("[2001:db8::10]", "[2001:db8::80]", "[2001:db8:bad::7]"),
        ] {
            // Each time the program has read what there was, and waits for more.
            program.await_waiting();
            let mut tcp = Tcp::new(&format!("{host}:50000"), &format!("{peer}:443"));
            let mut packets = tcp.handshake();
            packets.push(tcp.client_says(b"a question"));
            assert!(world.net.all_pass(&packets));
            program.await_waiting();
            let unwanted = udp(&format!("{guest}:1"), &format!("{host}:2"), b"unwanted");
            assert!(!world.net.passes(&unwanted));
            packets.push(unwanted);
            sent.extend(packets);
        }
        program.await_waiting();
        stop.request();
        running.join().expect("no panic")
    });
    let captured = captured.unwrap_or_else(|error| panic!("{error}"));
    let written = contents(&file);
    let data: Vec<_> = written.packets.iter().map(|packet| &packet.data).collect();
    assert_eq!(data, sent.iter().collect::<Vec<_>>());
    assert_eq!((captured.packets, captured.blocked), (sent.len() as u64, 2));
    assert_eq!(captured.blocked_by["no guests"], 2);
    let blocked = written.packets.iter().filter(|packet| {
        let comment = &packet.comment;
        comment.starts_with("block by rule \"no guests\" at ALE_AUTH_RECV_ACCEPT_V")
    });
    assert_eq!(blocked.count(), 2);
    program.close();
    world.end();
}

#[test]
fn a_capture_ends_by_itself_when_it_is_enough() {
    for (name, count, seconds) in [("time", None, Some(0)), ("count", Some(2), None)] {
        let mut world = World::with_policy(POLICY);
        let program = program(&world);
        let options = CaptureOptions {
            count,
            seconds,
            ..options(name)
        };
        let file = options.file.clone();
        let session = Session::start(&program, options, rules()).expect("a capture");
        let stop = Stop::new();
        let captured = thread::scope(|scope| {
            let running = scope.spawn(|| session.run(&program, &stop));
            program.await_waiting();
            let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
            let handshake = tcp.handshake();
            assert!(world.net.all_pass(&handshake[..2]));
            running.join().expect("no panic")
        });
        let captured = captured.unwrap_or_else(|error| panic!("{error}"));
        assert!((1..=2).contains(&captured.packets), "{name}");
        assert_eq!(contents(&file).packets.len() as u64, captured.packets);
        // Another program may have one now.
        program.close();
        let next = self::program(&world);
        let session = Session::start(&next, self::options(name), rules()).expect("a capture");
        stop_now(session, &next);
        next.close();
        world.end();
    }
}

fn stop_now(session: Session, program: &Program) {
    let stop = Stop::new();
    stop.request();
    let captured = session.run(program, &stop);
    assert_eq!(
        captured.unwrap_or_else(|error| panic!("{error}")).packets,
        0
    );
}

#[test]
fn a_capture_whose_driver_answers_no_more_says_why_and_leaves_no_file() {
    let world = World::with_policy(POLICY);
    let program = program(&world);
    let options = options("cancelled");
    let file = options.file.clone();
    let session = Session::start(&program, options, rules()).expect("a capture");
    let error = thread::scope(|scope| {
        let running = scope.spawn(|| session.run(&program, &Stop::new()).map(drop));
        program.await_waiting();
        program.cancel();
        running.join().expect("no panic").expect_err("cancelled")
    });
    assert!(matches!(
        error,
        CaptureError::Control(ControlError::Refused { status, .. }) if status == NtStatus::CANCELLED
    ));
    assert!(
        error
            .to_string()
            .starts_with("the driver refused to read the capture: "),
        "{error}"
    );
    assert!(is_gone(&file));
    program.close();
    world.end();
}

#[test]
fn a_second_capture_is_refused_and_leaves_no_file() {
    let world = World::with_policy(POLICY);
    let [first, second] = [program(&world), program(&world)];
    let session = Session::start(&first, options("first"), rules()).expect("a capture");
    let options = options("second");
    let file = options.file.clone();
    let error = Session::start(&second, options, rules()).expect_err("busy");
    assert!(error.to_string().contains("STATUS_DEVICE_BUSY"), "{error}");
    assert!(is_gone(&file));
    stop_now(session, &first);
    first.close();
    second.close();
    world.end();
}

#[test]
fn a_program_that_is_asked_waits_for_questions_and_answers_each() {
    let mut world = World::with_policy(POLICY);
    let program = program(&world);
    let is_asked = AtomicBool::new(false);
    let answers = Answers {
        script: vec!["ask=permit".parse().expect("an answer")],
        terminal: false,
    };
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            let ended = serve_on(&program, &rules(), &answers);
            is_asked.store(true, Ordering::SeqCst);
            ended
        });
        for (client, server) in [
            ("192.0.2.10:50000", "198.51.100.1:4433"),
            ("[2001:db8::10]:50000", "[2001:db8::80]:4433"),
        ] {
            program.await_waiting();
            let handshake = Tcp::new(client, server).handshake();
            let now = world.net.passes(&handshake[0]);
            // The program answers from its own thread, now or while the packet is on its way.
            while !now && world.net.settle().is_empty() {
                thread::yield_now();
            }
            assert!(world.net.all_pass(&handshake[1..]), "it was permitted");
        }
        program.await_waiting();
        assert!(!is_asked.load(Ordering::SeqCst), "it goes on");
        program.cancel();
        let Err(error) = running.join().expect("no panic");
        assert!(matches!(
            error,
            ControlError::Refused { status, .. } if status == NtStatus::CANCELLED
        ));
    });
    assert_eq!(world.counter(Counter::Answered), 2);
    assert_eq!(world.counter(Counter::AskNobody), 0);
    program.close();
    world.end();
}
