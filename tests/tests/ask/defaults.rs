//! What the rule's default decides.

use ksim::Caller;
use portcullis_proto::{Action as Verdict, Counter, EventKind};
use portcullis_tests::product::Product;
use portcullis_tests::{Tcp, World, udp};
use wfp_schema::{Action, FilterFlags};

use super::{
    ASK, ASK_OR_PERMIT, CONNECT_V4, TCP_ACCEPTS, TCP_CONNECTS, asked, question, settled, verdicts,
    waits,
};

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
