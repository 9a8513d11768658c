//! What a rule that asks holds, and how it goes on.

use ksim::Caller;
use ksim::net::{Opened, PacketReport, Reason, Socket};
use portcullis_proto::event::{EventRecord, Operation};
use portcullis_proto::{Action as Verdict, CalloutKind, Counter, DriverState, EventKind, Family};
use portcullis_tests::control::{Device, alive, compile, events_of};
use portcullis_tests::product::Product;
use portcullis_tests::{Tcp, World, icmp_echo, icmp_echo_v6, udp};
use wfp_schema::{Action, FilterFlags, IpVersion, LayerId, NtStatus};

/// Asks about everything that goes to one port, or comes from it.
const ASK: &str = "default = 'permit'\n[[rule]]\nname = 'ask'\naction = 'ask'\nremote_port = 4433";
/// The same, and permits if nobody answers.
const ASK_OR_PERMIT: &str = "default = 'permit'\n[[rule]]\nname = 'ask'\naction = 'ask'\nremote_port = 4433\nask_seconds = 5\nask_default = 'permit'";

/// A machine on which the driver enforces this policy, and a program that answers.
fn asked(policy: &str) -> World {
    let world = World::with_policy(policy);
    assert!(world.device().questions().is_empty());
    drop(world.events());
    world
}

/// The only question that waits.
fn question(world: &World) -> EventRecord {
    let mut questions = world.device().questions();
    assert_eq!(questions.len(), 1, "{questions:?}");
    questions.remove(0)
}

fn waits(report: &PacketReport) -> bool {
    !report.passed && report.reason == Some(Reason::AwaitsAuthorization)
}

/// Answers the only question, and says which of the packets that waited passed.
fn answer(world: &mut World, verdict: Verdict) -> Vec<bool> {
    let question = question(world);
    assert!(world.device().reply(&question, verdict));
    settled(world)
}

fn settled(world: &mut World) -> Vec<bool> {
    world
        .net
        .settle()
        .into_iter()
        .map(|(_, passed)| passed)
        .collect()
}

/// The events of one kind since the last call, with their verdicts.
fn verdicts(events: &[EventRecord], kind: EventKind) -> Vec<Option<Verdict>> {
    events
        .iter()
        .filter(|event| event.kind == kind.raw())
        .map(|event| Verdict::from_raw(event.verdict))
        .collect()
}

const TCP_CONNECTS: [(&str, &str); 2] = [
    ("192.0.2.10:50000", "198.51.100.1:4433"),
    ("[2001:db8::10]:50000", "[2001:db8::80]:4433"),
];
const TCP_ACCEPTS: [(&str, &str); 2] = [
    ("198.51.100.1:4433", "192.0.2.10:80"),
    ("[2001:db8::80]:4433", "[2001:db8::10]:80"),
];

#[test]
fn a_connect_waits_for_its_answer_and_goes_on_by_it() {
    for (client, server) in TCP_CONNECTS {
        let mut world = asked(ASK);
        let mut tcp = Tcp::new(client, server);
        let handshake = tcp.handshake();
        assert!(waits(&world.net.packet(&handshake[0])));
        assert_eq!(world.status().held.get(), 1);
        assert!(settled(&mut world).is_empty(), "nobody has answered");
        let asked = question(&world);
        assert_eq!(EventKind::from_raw(asked.kind), Some(EventKind::Asked));
        assert_eq!(
            Operation::from_raw(asked.operation),
            Some(Operation::Connect)
        );
        assert_eq!(
            (asked.protocol, asked.remote_port.get(), asked.rule()),
            (6, 4433, Some(0))
        );
        assert_eq!(
            asked.verdict,
            Verdict::Block.raw(),
            "what happens without an answer"
        );
        assert_eq!(asked.deadline() - asked.time.get(), 30 * 10_000_000);
        assert!(world.device().reply(&asked, Verdict::Permit));
        assert_eq!(settled(&mut world), [true], "the SYN goes out");
        assert!(world.net.all_pass(&handshake[1..]));
        assert!(world.net.passes(tcp.client_says(b"hello")));
        assert!(world.net.all_pass(&tcp.close()));
        let events = world.events();
        assert_eq!(verdicts(&events, EventKind::Asked), [Some(Verdict::Block)]);
        assert_eq!(
            verdicts(&events, EventKind::Answered),
            [Some(Verdict::Permit)]
        );
        let again = events
            .iter()
            .find(|event| event.flags.get() & EventRecord::REAUTHORIZATION != 0)
            .expect("the completion authorizes again");
        assert_eq!(again.verdict, Verdict::Permit.raw());
        assert!(
            !world.device().reply(&asked, Verdict::Block),
            "answered once"
        );

        let mut refused = Tcp::new(&client.replace("50000", "50001"), server);
        let handshake = refused.handshake();
        assert!(waits(&world.net.packet(&handshake[0])));
        assert_eq!(answer(&mut world, Verdict::Block), [false]);
        assert!(world.net.none_passes(&handshake[1..]));
        assert_eq!(world.counter(Counter::Asked), 2);
        assert_eq!(world.counter(Counter::Answered), 2);
        assert_eq!(world.status().held.get(), 0);
        world.end();
    }
}

/// Exchanges that are no connections: a first packet, an answer to it, another one.
fn exchanges() -> Vec<[Vec<u8>; 3]> {
    let pair = |one: &str, other: &str| {
        [
            udp(one, other, b"first"),
            udp(other, one, b"answer"),
            udp(one, other, b"second"),
        ]
    };
    let ping = |one: &str, other: &str| {
        [
            icmp_echo(one, other, 8),
            icmp_echo(other, one, 0),
            icmp_echo(one, other, 8),
        ]
    };
    let ping6 = |one: &str, other: &str| {
        [
            icmp_echo_v6(one, other, 128),
            icmp_echo_v6(other, one, 129),
            icmp_echo_v6(one, other, 128),
        ]
    };
    vec![
        pair("192.0.2.10:50000", "198.51.100.1:4433"),
        pair("[2001:db8::10]:50000", "[2001:db8::80]:4433"),
        ping("192.0.2.10", "198.51.100.1"),
        ping6("2001:db8::10", "2001:db8::80"),
        // Begun by the other side.
        pair("198.51.100.1:4433", "192.0.2.10:9999"),
        pair("[2001:db8::80]:4433", "[2001:db8::10]:9999"),
        ping("198.51.100.1", "192.0.2.10"),
        ping6("2001:db8::80", "2001:db8::10"),
    ]
}

/// Asks about datagrams, and about ICMP, whose messages have no ports.
const ASK_ALL: &str = "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_address = ['198.51.100.0/24', '2001:db8::80']";

#[test]
fn the_first_datagram_is_kept_and_goes_on_its_way_after_a_permit() {
    for [first, reply, second] in exchanges() {
        let mut world = asked(ASK_ALL);
        assert!(waits(&world.net.packet(&first)));
        assert_eq!(
            answer(&mut world, Verdict::Permit),
            [true],
            "the datagram itself passes"
        );
        assert!(world.net.passes(&reply));
        assert!(world.net.passes(&second));
        assert!(world.device().questions().is_empty());
        assert_eq!(world.counter(Counter::HeldPacketLost), 0);
        world.end();
    }
}

#[test]
fn a_refused_datagram_is_gone_and_the_next_one_finds_the_answer() {
    for [first, _, second] in exchanges() {
        let mut world = asked(ASK_ALL);
        assert!(waits(&world.net.packet(&first)));
        let passed = answer(&mut world, Verdict::Block);
        assert!(!passed.contains(&true), "{passed:?}");
        assert!(!world.net.passes(&second));
        assert!(
            world.device().questions().is_empty(),
            "nobody is asked twice"
        );
        // After a minute the answer is forgotten.
        world.net.wait(120);
        assert!(waits(&world.net.packet(&second)));
        assert_eq!(world.device().questions().len(), 1);
        world.end();
    }
}

#[test]
fn an_accept_waits_with_its_syn_which_is_received_again() {
    for (client, server) in TCP_ACCEPTS {
        let mut world = asked(ASK);
        let mut tcp = Tcp::new(client, server);
        let handshake = tcp.handshake();
        assert!(waits(&world.net.packet(&handshake[0])));
        assert!(
            !world.net.passes(&handshake[0]),
            "sent again while it waits"
        );
        let asked = question(&world);
        assert_eq!(
            Operation::from_raw(asked.operation),
            Some(Operation::Accept)
        );
        assert!(world.device().reply(&asked, Verdict::Permit));
        assert!(settled(&mut world).contains(&true), "the SYN is received");
        assert!(world.net.all_pass(&handshake[1..]));
        assert!(world.net.passes(tcp.client_says(b"hello")));
        assert!(world.net.all_pass(&tcp.close()));

        let mut refused = Tcp::new(client, &server.replace(":80", ":81"));
        let handshake = refused.handshake();
        assert!(waits(&world.net.packet(&handshake[0])));
        let passed = answer(&mut world, Verdict::Block);
        assert!(!passed.contains(&true), "{passed:?}");
        assert!(!world.net.passes(&handshake[0]), "sent again");
        assert!(world.device().questions().is_empty());
        world.end();
    }
}

const fn listening(version: IpVersion, port: u16) -> Socket {
    Socket {
        version,
        protocol: 6,
        address: None,
        port,
        any_port: false,
        raw: false,
        promiscuous: false,
        listens: true,
        link: 0,
    }
}

#[test]
fn a_listen_waits_for_its_answer() {
    let policy =
        "default = 'permit'\n[[rule]]\naction = 'ask'\ndirection = 'inbound'\nlocal_port = 80";
    for (version, client, server) in [
        (IpVersion::V4, "198.51.100.1:50000", "192.0.2.10:80"),
        (IpVersion::V6, "[2001:db8::80]:50000", "[2001:db8::10]:80"),
    ] {
        for verdict in [Verdict::Permit, Verdict::Block] {
            let mut world = asked(policy);
            let opened = world.net.open(&listening(version, 80));
            assert!(matches!(opened, Opened::Pended(_)), "{opened:?}");
            let asked = question(&world);
            assert_eq!(
                Operation::from_raw(asked.operation),
                Some(Operation::Listen)
            );
            assert!(world.device().reply(&asked, verdict));
            drop(settled(&mut world));
            let opened = world.net.open(&listening(version, 80));
            if verdict == Verdict::Permit {
                assert!(matches!(opened, Opened::Bound(_)), "{opened:?}");
                // Each connection is asked about too.
                let mut tcp = Tcp::new(client, server);
                let handshake = tcp.handshake();
                assert!(waits(&world.net.packet(&handshake[0])));
                assert!(answer(&mut world, Verdict::Permit).contains(&true));
                assert!(world.net.all_pass(&handshake[1..]));
            } else {
                assert!(matches!(opened, Opened::Blocked(_)), "{opened:?}");
            }
            world.end();
        }
    }
}

#[test]
fn without_an_answer_in_time_the_rules_default_decides() {
    for (policy, seconds, passes) in [(ASK, 30, false), (ASK_OR_PERMIT, 5, true)] {
        for (client, server) in TCP_CONNECTS.into_iter().chain(TCP_ACCEPTS) {
            let mut world = asked(policy);
            let mut tcp = Tcp::new(client, server);
            let handshake = tcp.handshake();
            assert!(waits(&world.net.packet(&handshake[0])));
            let asked = question(&world);
            world.net.wait(seconds - 1);
            assert_eq!(world.status().held.get(), 1, "still waits");
            world.net.wait(2);
            assert_eq!(world.status().held.get(), 0);
            assert_eq!(settled(&mut world).contains(&true), passes);
            assert_eq!(world.net.all_pass(&handshake[1..]), passes);
            assert_eq!(world.counter(Counter::AskTimedOut), 1);
            let events = world.events();
            let expected = if passes {
                Verdict::Permit
            } else {
                Verdict::Block
            };
            assert_eq!(verdicts(&events, EventKind::Unanswered), [Some(expected)]);
            assert!(!world.device().reply(&asked, Verdict::Permit), "too late");
            world.end();
        }
    }
}

#[test]
fn while_nobody_answers_the_default_decides_at_once() {
    for (policy, passes) in [(ASK, false), (ASK_OR_PERMIT, true)] {
        let mut world = World::with_policy(policy);
        let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
        assert_eq!(world.net.all_pass(&tcp.handshake()), passes);
        assert_eq!(world.counter(Counter::AskNobody), 1);
        assert_eq!(
            world
                .net
                .passes(udp("192.0.2.10:50000", "198.51.100.1:4433", b"x")),
            passes
        );
        world.end();
    }
}

#[test]
fn a_program_that_ends_lets_everything_go_on_by_the_default() {
    for (policy, passes) in [(ASK, false), (ASK_OR_PERMIT, true)] {
        let mut world = asked(policy);
        let other = world.open(Caller::administrator());
        let mut talks: Vec<_> = TCP_CONNECTS
            .into_iter()
            .chain(TCP_ACCEPTS)
            .map(|(client, server)| Tcp::new(client, server).handshake())
            .collect();
        talks.push(vec![udp(
            "192.0.2.10:50000",
            "198.51.100.1:4433",
            b"datagram",
        )]);
        for talk in &talks {
            assert!(waits(&world.net.packet(&talk[0])));
        }
        let reading = world.device().read_questions(1);
        assert!(reading.poll().is_some(), "there are questions");
        world.abandon_device();
        let fates = settled(&mut world);
        assert_eq!(
            fates.iter().filter(|passed| **passed).count(),
            if passes { talks.len() } else { 0 }
        );
        for talk in &talks {
            assert_eq!(world.net.all_pass(&talk[1..]), passes || talk.len() == 1);
        }
        assert_eq!(other.counter(Counter::AskAbandoned), talks.len() as u64);
        // From now on nobody is asked, until another program reads.
        let mut tcp = Tcp::new("192.0.2.10:50009", "198.51.100.1:4433");
        assert_eq!(world.net.all_pass(&tcp.handshake()), passes);
        assert!(other.questions().is_empty());
        let syn = Tcp::new("192.0.2.10:50010", "198.51.100.1:4433")
            .handshake()
            .remove(0);
        assert!(waits(&world.net.packet(&syn)));
        assert_eq!(other.questions().len(), 1);
        other.close();
        world.end();
    }
}

#[test]
fn one_program_is_asked_at_a_time() {
    let mut world = asked(ASK);
    let other = world.open(Caller::administrator());
    let refused = other.read_questions(1).poll().expect("at once");
    assert_eq!(refused.status, NtStatus::DEVICE_BUSY);
    let syn = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433")
        .handshake()
        .remove(0);
    assert!(waits(&world.net.packet(&syn)));
    let asked = question(&world);
    let request = portcullis_proto::ask::AnswerRequest::new(asked.question(), Verdict::Permit);
    let code = portcullis_proto::device::ControlCode::Answer;
    let status = other.answer(code, zerocopy::IntoBytes::as_bytes(&request), 0);
    assert_eq!(status, NtStatus::INVALID_DEVICE_STATE);
    assert!(world.device().reply(&asked, Verdict::Permit));
    other.close();
    world.end();
}

#[test]
fn a_read_waits_for_a_question_and_gets_it() {
    let mut world = asked(ASK);
    let reads = [
        world.device().read_questions(4),
        world.device().read_questions(4),
    ];
    assert!(reads.iter().all(|read| read.poll().is_none()));
    let syn = |port: u16| {
        Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:4433")
            .handshake()
            .remove(0)
    };
    assert!(waits(&world.net.packet(&syn(50_000))));
    let first = reads[0].poll().expect("a question");
    assert_eq!(events_of(&first).0.len(), 1);
    assert!(reads[1].poll().is_none());
    reads[1].cancel().expect("no bug check");
    assert_eq!(reads[1].poll().expect("over").status, NtStatus::CANCELLED);
    assert!(waits(&world.net.packet(&syn(50_001))));
    assert_eq!(
        world.device().questions().len(),
        1,
        "not lost with the read"
    );
    world.end();
}

#[test]
fn more_than_there_is_room_for_is_decided_by_the_default() {
    let mut world = asked(ASK);
    let syn = |port: u16| {
        Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:4433")
            .handshake()
            .remove(0)
    };
    for port in 0..256 {
        assert!(waits(&world.net.packet(&syn(50_000 + port))), "{port}");
    }
    assert!(!world.net.passes(syn(60_000)));
    assert_eq!(world.counter(Counter::AskNoRoom), 1);
    let questions = world.device().questions();
    assert_eq!(questions.len(), 256);
    assert!(
        questions
            .windows(2)
            .all(|pair| pair[0].local_port.get() < pair[1].local_port.get())
    );
    for asked in &questions {
        assert!(world.device().reply(asked, Verdict::Permit));
    }
    assert_eq!(settled(&mut world), vec![true; 256]);
    assert!(
        waits(&world.net.packet(&syn(60_001))),
        "there is room again"
    );
    world.end();
}

#[test]
fn unloading_lets_what_is_held_go() {
    // By the default, or, of the connects, because the driver's filters are gone with it.
    for (policy, goes_on) in [(ASK, 2), (ASK_OR_PERMIT, 6)] {
        let mut world = asked(policy);
        for (client, server) in TCP_CONNECTS.into_iter().chain(TCP_ACCEPTS) {
            assert!(waits(
                &world.net.packet(&Tcp::new(client, server).handshake()[0])
            ));
        }
        assert!(waits(&world.net.packet(&udp(
            "192.0.2.10:50000",
            "198.51.100.1:4433",
            b"x"
        ))));
        assert!(waits(&world.net.packet(&udp(
            "198.51.100.1:4433",
            "192.0.2.10:9999",
            b"x"
        ))));
        // Windows waits until the last handle is closed; here only the verifier complains.
        let report = world.unload_with_open_device();
        assert!(report.leaks.is_empty(), "{:?}", report.leaks);
        let rules: Vec<&str> = report
            .violations
            .iter()
            .map(|violation| violation.rule)
            .collect();
        assert_eq!(rules, ["unload-left"], "{:?}", report.violations);
        assert_eq!(settled(&mut world), vec![true; goes_on]);
        world.assert_nothing_of_ours();
    }
}

#[test]
fn the_engines_stop_lets_what_is_held_go_and_asking_goes_on_when_it_is_back() {
    let mut world = asked(ASK);
    for (client, server) in TCP_CONNECTS.into_iter().chain(TCP_ACCEPTS) {
        assert!(waits(
            &world.net.packet(&Tcp::new(client, server).handshake()[0])
        ));
    }
    world.stop_bfe();
    assert_eq!(world.status().held.get(), 0);
    assert_eq!(world.counter(Counter::AskAbandoned), 4);
    drop(settled(&mut world));
    drop(world.device().questions());
    world.start_bfe();
    assert_eq!(world.state(), DriverState::Active);
    let syn = Tcp::new("192.0.2.10:50009", "198.51.100.1:4433")
        .handshake()
        .remove(0);
    assert!(waits(&world.net.packet(&syn)));
    assert_eq!(answer(&mut world, Verdict::Permit), [true]);
    world.end();
}

const CONNECT_V4: LayerId = LayerId::new(48);

#[test]
fn a_connection_that_is_authorized_again_keeps_its_answer() {
    let mut world = asked(ASK);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
    let handshake = tcp.handshake();
    assert!(waits(&world.net.packet(&handshake[0])));
    assert_eq!(answer(&mut world, Verdict::Permit), [true]);
    assert!(world.net.all_pass(&handshake[1..]));
    // Longer than an answer is remembered without a flow.
    world.net.wait(600);
    let product = Product::new(&world.kernel, 0x2000);
    product.add_filter(CONNECT_V4, Action::Permit, FilterFlags::NONE, Vec::new());
    let before = world
        .callout(CalloutKind::Connect, Family::V4)
        .classify
        .get();
    assert!(world.net.passes(tcp.client_says(b"hello")));
    assert!(
        world
            .callout(CalloutKind::Connect, Family::V4)
            .classify
            .get()
            > before,
        "asked again"
    );
    assert!(
        world.device().questions().is_empty(),
        "a reauthorization is not pended"
    );
    assert_eq!(world.counter(Counter::AskCannotHold), 0);
    assert!(world.net.all_pass(&tcp.close()));
    world.net.finish();
    // The next connection between the same ends is another one.
    assert!(waits(&world.net.packet(&handshake[0])));
    product.close();
    world.end();
}

#[test]
fn a_new_policy_ends_what_it_does_not_allow_and_leaves_the_rest() {
    let mut world = asked(ASK);
    let mut answered = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
    let handshake = answered.handshake();
    assert!(waits(&world.net.packet(&handshake[0])));
    assert_eq!(answer(&mut world, Verdict::Permit), [true]);
    assert!(world.net.all_pass(&handshake[1..]));
    let mut permitted = Tcp::new("192.0.2.10:50001", "198.51.100.1:80");
    assert!(world.net.all_pass(&permitted.handshake()));
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.1:9999", b"datagram"))
    );
    // Now everything is asked about: what was answered goes on, what was never asked about does not.
    world.set_policy(
        "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_address = '198.51.100.0/24'",
    );
    assert_eq!(world.counter(Counter::FlowsEnded), 2);
    drop(settled(&mut world));
    assert!(world.net.passes(answered.client_says(b"hello")));
    assert!(!world.net.passes(permitted.client_says(b"hello")));
    world.set_policy("default = 'block'");
    assert_eq!(world.counter(Counter::FlowsEnded), 3);
    drop(settled(&mut world));
    assert!(!world.net.passes(answered.client_says(b"hello")));
    world.end();
}

#[test]
fn sleep_with_operations_held_loses_nothing() {
    let mut world = asked(ASK);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
    let handshake = tcp.handshake();
    assert!(waits(&world.net.packet(&handshake[0])));
    alive(world.kernel.sleep());
    world.net.wait(3_600);
    alive(world.kernel.resume());
    drop(settled(&mut world));
    assert_eq!(world.status().held.get(), 0, "its time was over");
    assert!(world.net.none_passes(&handshake[1..]));
    let syn = Tcp::new("192.0.2.10:50001", "198.51.100.1:4433")
        .handshake()
        .remove(0);
    drop(world.device().questions());
    assert!(waits(&world.net.packet(&syn)));
    assert_eq!(answer(&mut world, Verdict::Permit), [true]);
    world.end();
}

#[test]
fn whoever_decided_before_is_not_asked_about() {
    let mut world = asked(ASK);
    // A heavier sublayer has blocked for good.
    let product = Product::new(&world.kernel, 0x2000);
    product.add_filter(
        CONNECT_V4,
        Action::Block,
        FilterFlags::CLEAR_ACTION_RIGHT,
        Vec::new(),
    );
    let syn = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433")
        .handshake()
        .remove(0);
    assert!(!world.net.passes(&syn));
    assert!(world.device().questions().is_empty());
    product.close();
    world.end();
}

#[test]
fn hostile_answers_and_reads_are_refused_and_change_nothing() {
    use portcullis_proto::ask::AnswerRequest;
    use portcullis_proto::device::ControlCode::{Answer, ReadQuestions};
    use portcullis_proto::event::EventsReply;
    use portcullis_proto::message::ReadRequest;
    use zerocopy::IntoBytes as _;

    let mut world = World::with_policy(ASK);
    let device: &Device = world.device();
    let valid = AnswerRequest::new(1, Verdict::Permit);
    assert_eq!(
        device.answer(Answer, valid.as_bytes(), 0),
        NtStatus::INVALID_DEVICE_STATE,
        "it has read none"
    );
    assert!(device.questions().is_empty());
    let syn = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433")
        .handshake()
        .remove(0);
    assert!(waits(&world.net.packet(&syn)));
    let asked = question(&world);
    let device = world.device();
    let valid = AnswerRequest::new(asked.question(), Verdict::Permit);
    for length in 0..size_of::<AnswerRequest>() {
        let status = device.answer(Answer, &valid.as_bytes()[..length], 0);
        assert_eq!(status, NtStatus::BUFFER_TOO_SMALL, "{length} bytes");
    }
    for verdict in (0..=255).filter(|verdict| ![1, 2].contains(verdict)) {
        let request = AnswerRequest { verdict, ..valid };
        assert_eq!(
            device.answer(Answer, request.as_bytes(), 0),
            NtStatus::INVALID_PARAMETER
        );
    }
    let reserved = AnswerRequest {
        reserved: [1, 0, 0, 0, 0, 0, 0],
        ..valid
    };
    assert_eq!(
        device.answer(Answer, reserved.as_bytes(), 0),
        NtStatus::INVALID_PARAMETER
    );
    for forged in [
        0,
        1 << 32,
        u64::MAX,
        asked.question() ^ (1 << 32),
        asked.question() + 1,
    ] {
        let request = AnswerRequest::new(forged, Verdict::Permit);
        assert_eq!(
            device.answer(Answer, request.as_bytes(), 0),
            NtStatus::NOT_FOUND,
            "{forged:#x}"
        );
    }
    let read = ReadRequest::new(0);
    assert_eq!(
        device.answer(
            ReadQuestions,
            read.as_bytes(),
            EventsReply::size_with(1) - 1
        ),
        NtStatus::BUFFER_TOO_SMALL
    );
    let flags = ReadRequest::new(2);
    assert_eq!(
        device.answer(ReadQuestions, flags.as_bytes(), 4096),
        NtStatus::INVALID_PARAMETER
    );
    assert_eq!(world.status().held.get(), 1, "it still waits");
    let device = world.device();
    assert_eq!(
        device.answer(Answer, valid.as_bytes(), 0),
        NtStatus::SUCCESS
    );
    assert_eq!(settled(&mut world), [true]);
    world.end();
}

#[test]
fn a_policy_that_asks_no_more_leaves_what_is_held_to_its_answer() {
    let mut world = asked(ASK);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
    let handshake = tcp.handshake();
    assert!(waits(&world.net.packet(&handshake[0])));
    assert_eq!(
        world.device().try_set_policy(&compile("default = 'block'")),
        NtStatus::SUCCESS
    );
    // The answer lets the connect go on, and the policy in force decides it.
    assert_eq!(answer(&mut world, Verdict::Permit), [false]);
    assert!(world.net.none_passes(&handshake[1..]));
    world.end();
}
