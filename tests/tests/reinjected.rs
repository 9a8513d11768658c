//! What rules change, translate or shape is taken once, and seen once, though the stack shows it again when it is injected.

use ksim::net::Output;
use portcullis_cli::report::events::line;
use portcullis_proto::event::{EventKind, EventRecord, PacketChange, PacketDrop};
use portcullis_proto::{CalloutKind, Counter, Family};
use portcullis_tests::capture::{everything, start};
use portcullis_tests::control::compile_with;
use portcullis_tests::packets::whole;
use portcullis_tests::{Tcp, World, udp};

const SECOND: u64 = 10_000_000;

/// Each with the remote side on the wire of a rule that translates to [`WIRES`].
const ENDS: [(Family, &str, &str); 2] = [
    (Family::V4, "192.0.2.10:50000", "198.51.100.1:9999"),
    (Family::V6, "[2001:db8::10]:50000", "[2001:db8::80]:9999"),
];
const WIRES: [&str; 2] = ["198.51.100.7:53", "[2001:db8::7]:53"];

fn world(rule: &str) -> World {
    let world = World::with_policy(&format!(
        "default = 'permit'\n[[rule]]\nname = 'treated'\naction = 'permit'\nremote_port = 9999\n{rule}\n"
    ));
    world.with_output()
}

fn datagram(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    whole(udp(from, to, data))
}

/// What goes on of packets that are given at once, now or within a second.
fn outcome(world: &mut World, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let now = world.net.at_once(packets);
    let later = world.net.pass(SECOND);
    now.into_iter()
        .chain(later.into_iter().map(|(_, output)| output))
        .filter_map(|output| match output {
            Output::Sent(packet) => Some(packet),
            Output::Datagram { bytes, .. } => Some(bytes),
            Output::Stream { .. } => None,
        })
        .collect()
}

/// How often the callout of a kind was called, and how often it took a packet.
fn calls(world: &World, kind: CalloutKind, family: Family) -> (u64, u64) {
    let callout = world.callout(kind, family);
    (callout.classify.get(), callout.block.get())
}

#[test]
fn a_packet_is_taken_once_and_seen_twice_in_each_direction_of_each_version() {
    for ((family, local, remote), wire) in ENDS.into_iter().zip(WIRES) {
        let rules = [
            ("ttl = 9".to_owned(), remote, true, false),
            ("delay = '20 ms'".to_owned(), remote, true, true),
            (format!("translate = '{wire}'"), wire, true, true),
            (
                format!("translate = '{wire}'\ndelay = '5 ms'\nttl = 3"),
                wire,
                true,
                true,
            ),
        ];
        for (rule, wire, sent, received) in rules {
            let mut world = world(&rule);
            let before = world.counter(Counter::PacketsChanged);
            assert_eq!(before, 0);
            let taken = |world: &World| {
                world.counter(Counter::PacketsChanged) + world.counter(Counter::PacketsDelayed)
            };
            let out = outcome(&mut world, &[datagram(local, remote, b"question")]);
            assert_eq!(out.len(), 1, "{rule} {family:?}");
            assert_eq!(taken(&world), u64::from(sent), "{rule} {family:?}");
            let shown = 1 + u64::from(sent);
            let outbound = calls(&world, CalloutKind::OutboundPacket, family);
            assert_eq!(outbound, (shown, u64::from(sent)), "{rule} {family:?}");

            let answer = outcome(&mut world, &[datagram(wire, local, b"answer")]);
            assert_eq!(answer, [b"answer"], "{rule} {family:?}");
            let both = u64::from(sent) + u64::from(received);
            assert_eq!(taken(&world), both, "{rule} {family:?}");
            let shown = 1 + u64::from(received);
            let inbound = calls(&world, CalloutKind::InboundPacket, family);
            assert_eq!(inbound, (shown, u64::from(received)), "{rule} {family:?}");
            world.net.finish();
            world.end();
        }
    }
}

#[test]
fn a_capture_has_each_packet_once_as_its_application_knows_it() {
    for ((family, local, remote), wire) in ENDS.into_iter().zip(WIRES) {
        let rules = [
            String::new(),
            "ttl = 9".to_owned(),
            "delay = '20 ms'".to_owned(),
            format!("translate = '{wire}'"),
            format!("translate = '{wire}'\ndelay = '5 ms'\nttl = 3"),
        ];
        for (number, rule) in rules.iter().enumerate() {
            let mut world = world(rule);
            let name = format!("once-{family:?}-{number}");
            let running = start(&world, everything(), &["treated"], &name);
            let wire = if rule.contains("translate") {
                wire
            } else {
                remote
            };
            let question = datagram(local, remote, b"question");
            assert_eq!(
                outcome(&mut world, std::slice::from_ref(&question)).len(),
                1
            );
            let answer = datagram(wire, local, b"answer");
            assert_eq!(outcome(&mut world, &[answer]), [b"answer"]);
            let (_, contents) = running.finish();
            let captured: Vec<_> = contents.packets.iter().map(|packet| &packet.data).collect();
            let known = datagram(remote, local, b"answer");
            assert_eq!(captured, [&question, &known], "{rule} {family:?}");
            for packet in &contents.packets {
                let comment = &packet.comment;
                assert!(
                    comment.starts_with("permit by rule \"treated\""),
                    "{comment}"
                );
            }
            world.net.finish();
            world.end();
        }
    }
}

#[test]
fn a_rule_that_takes_nothing_of_a_captured_connection_leaves_its_capture_alone() {
    let mut world = world("ttl = 64");
    let running = start(&world, everything(), &["treated"], "untouched");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:9999");
    let mut packets: Vec<Vec<u8>> = tcp.handshake().into_iter().map(whole).collect();
    packets.push(whole(tcp.server_says(b"hello")));
    world.net.at_once(&packets);
    let (_, contents) = running.finish();
    let captured: Vec<_> = contents
        .packets
        .into_iter()
        .map(|packet| packet.data)
        .collect();
    assert_eq!(captured, packets);
    world.net.finish();
    world.end();
}

/// The events of a kind.
fn of_kind(world: &World, kind: EventKind) -> Vec<EventRecord> {
    let events = world.events().into_iter();
    events.filter(|event| event.kind == kind.raw()).collect()
}

#[test]
fn the_first_packet_that_is_changed_makes_an_event_and_no_other() {
    for ((_, local, remote), wire) in ENDS.into_iter().zip(WIRES) {
        let mut world = world(&format!("translate = '{wire}'\ndscp = 46\nttl = 9"));
        for _ in 0..3 {
            outcome(&mut world, &[datagram(local, remote, b"question")]);
            outcome(&mut world, &[datagram(wire, local, b"answer")]);
        }
        let events = of_kind(&world, EventKind::PacketsChanged);
        let [event] = events.as_slice() else {
            panic!("one event, not {events:?}");
        };
        assert_eq!(
            event.packet_change(),
            Some(PacketChange {
                dscp: Some(46),
                hop_limit: Some(9)
            })
        );
        assert_eq!(event.rule(), Some(0));
        let text = line(event, &["treated".to_owned()]);
        for part in [
            &format!("packets-changed udp {local} {remote} → {wire} permit by treated"),
            "dscp 46 ttl 9",
        ] {
            assert!(text.contains(part), "{text}");
        }
        // Under another rule it is news again.
        world.set_policy(
            "default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 1\n[[rule]]\naction = 'permit'\nremote_port = 9999\nttl = 7",
        );
        drop(world.events());
        for _ in 0..2 {
            outcome(&mut world, &[datagram(local, remote, b"question")]);
        }
        let events = of_kind(&world, EventKind::PacketsChanged);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].rule(), Some(1));
        world.net.finish();
        world.end();
    }
}

#[test]
fn the_first_packet_that_shaping_drops_makes_an_event_and_no_other() {
    for (_, local, remote) in ENDS {
        for (rule, why) in [
            ("loss = '100 %'", PacketDrop::Lost),
            (
                "rate = '8 kbit/s'\nburst = '1000 B'\nqueue = '1000 B'",
                PacketDrop::QueueFull,
            ),
        ] {
            let mut world = world(rule);
            let packets: Vec<Vec<u8>> = (0..8)
                .map(|number| datagram(local, remote, &[number; 500]))
                .collect();
            world.net.at_once(&packets);
            let events = of_kind(&world, EventKind::PacketsDropped);
            let [event] = events.as_slice() else {
                panic!("one event, not {events:?}");
            };
            assert_eq!(event.packet_drop(), Some(why));
            let text = line(event, &["treated".to_owned()]);
            let wanted = format!(
                "packets-dropped udp {local} {remote} permit by treated: {}",
                why.name()
            );
            assert!(text.contains(&wanted), "{text}");
            world.net.pass(10 * SECOND);
            world.net.finish();
            world.end();
        }
    }
}

#[test]
fn without_events_for_everything_only_rules_that_log_tell_of_packets() {
    for (log, told) in [("", 0), ("log = true", 1)] {
        let mut world = world("ttl = 9");
        let policy = format!(
            "default = 'permit'\n[[rule]]\naction = 'permit'\nremote_port = 9999\nttl = 9\n{log}\n"
        );
        let status = world.device().try_set_policy(&compile_with(&policy, false));
        assert!(status.is_success(), "{status}");
        let (_, local, remote) = ENDS[0];
        outcome(&mut world, &[datagram(local, remote, b"question")]);
        assert_eq!(of_kind(&world, EventKind::PacketsChanged).len(), told);
        world.net.finish();
        world.end();
    }
}
