//! ICMP errors about packets of translated paths: what the application's stack gets, and what leaves.

use std::net::{IpAddr, SocketAddr};

use portcullis_core::packet::Layout;
use portcullis_proto::Counter;
use portcullis_proto::event::EventKind;
use portcullis_tests::capture::{everything, start};
use portcullis_tests::net::sent;
use portcullis_tests::packets::{unreachable, whole};
use portcullis_tests::quoted::{PATHS, address, beginning, policy};
use portcullis_tests::{Tcp, World, udp};

fn world(wire: &str, more: &str) -> World {
    World::with_policy(&(policy(wire) + more)).with_output()
}

/// The packets as the stack got them: a capture sees them where they are injected.
fn got(world: &mut World, name: &str, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let running = start(world, everything(), &["translated"], name);
    world.net.at_once(packets);
    let (_, contents) = running.finish();
    let packets = contents.packets.into_iter();
    packets.map(|packet| packet.data).collect()
}

#[test]
fn an_error_about_a_translated_packet_names_the_remote_side_that_the_application_knows() {
    for [local, remote, wire, router] in PATHS {
        for from in [router.parse().expect("an address"), address(wire)] {
            let mut world = world(wire, "");
            let question = whole(udp(local, remote, b"is anybody there"));
            let out = sent(world.net.at_once(std::slice::from_ref(&question)));
            let [on_wire] = out.as_slice() else {
                panic!("{out:?}");
            };
            drop(world.events());
            let error = unreachable(from, address(local), beginning(on_wire, 8));
            // From the remote side itself, by the name that the application has for it.
            let known = if from == address(wire) {
                address(remote)
            } else {
                from
            };
            let wanted = unreachable(known, address(local), beginning(&question, 8));
            assert_eq!(
                got(&mut world, "quoted", &[error]),
                [wanted],
                "{local} from {from}"
            );
            assert_eq!(world.counter(Counter::IcmpErrorsTranslated), 1);
            let events = world.events();
            let told: Vec<_> = events
                .iter()
                .filter(|event| event.kind == EventKind::IcmpError.raw())
                .collect();
            let [event] = told.as_slice() else {
                panic!("one event, not {events:?}");
            };
            let (local, remote): (SocketAddr, SocketAddr) = (
                local.parse().expect("an end"),
                remote.parse().expect("an end"),
            );
            assert_eq!(event.local_port.get(), local.port());
            assert_eq!(event.remote_port.get(), remote.port());
            world.net.finish();
            world.end();
        }
    }
}

#[test]
fn a_segment_that_is_too_large_is_told_of_as_the_application_knows_it() {
    for [local, remote, wire, router] in PATHS {
        let mut world = world(wire, "protocol = 'tcp'\nttl = 9");
        let mut tcp = Tcp::new(local, remote);
        let syn = whole(tcp.handshake().swap_remove(0));
        let out = sent(world.net.at_once(std::slice::from_ref(&syn)));
        let from: IpAddr = router.parse().expect("an address");
        // Packet too big, with the size that fits; a router quotes more than it has to.
        let (kind, code) = if from.is_ipv4() { (3, 4) } else { (2, 0) };
        let too_big = |about: &[u8]| {
            let mut error = unreachable(from, address(local), beginning(about, 20));
            let at = Layout::new_checked(&error).expect("a packet").header;
            error[at..at + 2].copy_from_slice(&[kind, code]);
            error[at + 6..at + 8].copy_from_slice(&1_280_u16.to_be_bytes());
            let old = u16::from_be_bytes([error[at + 2], error[at + 3]]);
            let (before, after) = if from.is_ipv4() {
                ([3, 3, 0, 0], [kind, code, 5, 0])
            } else {
                ([1, 4, 0, 0], [kind, code, 5, 0])
            };
            let sum = portcullis_core::packet::update(old, &before, &after);
            error[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
            error
        };
        // The mark is not taken back: nobody compares it.
        let mut known = syn.clone();
        known[if from.is_ipv4() { 8 } else { 7 }] = 9;
        if from.is_ipv4() {
            known = whole(known);
        }
        let wanted = too_big(&known);
        assert_eq!(got(&mut world, "too-big", &[too_big(&out[0])]), [wanted]);
        world.net.finish();
        world.end();
    }
}

#[test]
fn an_error_that_is_sent_about_a_translated_packet_names_the_remote_side_on_the_wire() {
    for [local, remote, wire, _] in PATHS {
        let mut world = world(wire, "");
        world.net.at_once(&[whole(udp(local, remote, b"question"))]);
        // The application is gone; its stack answers what still comes, and knows the other name only.
        let known = whole(udp(remote, local, b"answer"));
        let answer = whole(udp(wire, local, b"answer"));
        let error = |about: &[u8], to| unreachable(address(local), to, beginning(about, 8));
        let out = sent(world.net.at_once(&[error(&known, address(remote))]));
        assert_eq!(out, [error(&answer, address(wire))]);
        assert_eq!(world.counter(Counter::IcmpErrorsTranslated), 1);
        world.net.finish();
        world.end();
    }
}

#[test]
fn errors_about_other_packets_are_left_as_they_are() {
    for [local, remote, wire, router] in PATHS {
        let mut world = world(wire, "");
        world.net.at_once(&[whole(udp(local, remote, b"question"))]);
        let from = router.parse().expect("an address");
        let other = local.replace("50000", "50001");
        let errors: Vec<Vec<u8>> = [
            udp(&other, wire, b"of another socket"),
            udp(local, remote, b"never on the wire"),
        ]
        .into_iter()
        .map(|about| unreachable(from, address(local), beginning(&whole(about), 8)))
        .collect();
        assert_eq!(got(&mut world, "left", &errors), errors);
        assert_eq!(world.counter(Counter::IcmpErrorsTranslated), 0);
        world.net.finish();
        world.end();
    }
}
