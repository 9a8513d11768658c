//! A recorded capture under one rule of each kind: packet for packet what is written, and nothing else is touched.

use std::net::Ipv4Addr;
use std::path::Path;

use portcullis_core::packet::{Checksums, Layout, complete};
use portcullis_proto::Counter;
use portcullis_tests::capture::everything;

use super::reader::Frame;
use super::{How, Replayed, own, tshark};

/// Replays a capture; `tshark` reads what is written as the tests do.
fn replay(test: &str, capture: &Path, policy: &str, cpus: u32) -> Replayed {
    replay_with(test, capture, policy, cpus, How::default())
}

fn replay_with(test: &str, capture: &Path, policy: &str, cpus: u32, how: How<'_>) -> Replayed {
    let replayed = super::replay_with(test, capture, policy, cpus, how);
    tshark::agrees(&replayed);
    replayed
}

const RESOLVER: [u8; 4] = [192, 0, 2, 80];
const MILLISECOND: u64 = 1_000_000;

/// A policy of one rule for the queries to the resolver over IPv4.
fn resolver(action: &str, more: &str) -> String {
    format!(
        "default = 'permit'
         [[rule]]
         name = 'the resolver'
         action = '{action}'
         direction = 'outbound'
         protocol = 'udp'
         remote_address = '192.0.2.80'
         remote_port = 53
         {more}"
    )
}

/// Whether a packet is such a query (`true`), or the answer to one (`false`).
fn of_resolver(packet: &[u8]) -> Option<bool> {
    let is_v4_udp = packet[0] == 0x45 && packet[9] == 17;
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if is_v4_udp && packet[16..20] == RESOLVER && port(22) == 53 {
        Some(true)
    } else {
        (is_v4_udp && packet[12..16] == RESOLVER && port(20) == 53).then_some(false)
    }
}

fn is_of_resolver(frame: &Frame) -> bool {
    of_resolver(&frame.packet).is_some()
}

/// A packet with its IP header's checksum made right; the transport's as well if it was right before.
fn with_checksums(before: &[u8], mut packet: Vec<u8>) -> Vec<u8> {
    let layout = Layout::new_checked(&packet).expect("a packet");
    let mut whole = before.to_vec();
    let all = Checksums {
        ip_missing: true,
        transport_missing: true,
    };
    complete(&mut whole, &layout, all);
    let checksums = Checksums {
        ip_missing: true,
        transport_missing: whole == before,
    };
    complete(&mut packet, &layout, checksums);
    packet
}

/// All packets are written as they are, in their order, except the resolver's, for which `expected` tells what is written
/// in their place.
fn expect(before: &[Frame], after: &[Frame], expected: impl Fn(&Frame) -> Option<Frame>) {
    let wanted: Vec<Frame> = before
        .iter()
        .filter_map(|frame| {
            if is_of_resolver(frame) {
                expected(frame)
            } else {
                Some(frame.clone())
            }
        })
        .collect();
    assert_eq!(
        before.iter().filter(|frame| is_of_resolver(frame)).count(),
        4
    );
    let differs = after.iter().zip(&wanted).find(|(one, other)| one != other);
    assert_eq!(differs, None, "what was written, and what was to be");
    assert_eq!(after.len(), wanted.len());
}

fn counted(replayed: &Replayed, counter: Counter) -> u64 {
    let statistics = replayed.outcome.statistics.iter();
    let of_it = statistics.filter(|(kind, _)| *kind == counter);
    of_it.map(|(_, count)| count).sum()
}

#[test]
fn what_is_blocked_is_not_written_and_all_else_is() {
    let replayed = replay("block", &own("web.pcap"), &resolver("block", ""), 1);
    expect(&replayed.before, &replayed.after, |_| None);
}

#[test]
fn what_is_held_is_written_when_it_was_answered_and_only_if_it_was_permitted() {
    let policy = resolver("ask", "ask_default = 'block'");
    for (answer, passes) in [("the resolver=permit", true), ("the resolver=block", false)] {
        let test = if passes { "permitted" } else { "refused" };
        let how = How {
            answers: &[answer],
            ..How::default()
        };
        let replayed = replay_with(test, &own("web.pcap"), &policy, 1, how);
        expect(&replayed.before, &replayed.after, |frame| {
            passes.then(|| frame.clone())
        });
    }
}

#[test]
fn a_packet_that_is_edited_is_written_with_its_edit() {
    let policy = resolver("permit", "dscp = 46\nttl = 9");
    let replayed = replay("edit", &own("web.pcap"), &policy, 1);
    expect(&replayed.before, &replayed.after, |frame| {
        let mut packet = frame.packet.clone();
        if of_resolver(&packet) == Some(true) {
            packet[1] = 46 << 2 | packet[1] & 3;
            packet[8] = 9;
            packet = {
                let layout = Layout::new_checked(&packet).expect("a packet");
                let missing = Checksums {
                    ip_missing: true,
                    transport_missing: false,
                };
                complete(&mut packet, &layout, missing);
                packet
            };
        }
        Some(Frame {
            packet,
            ..frame.clone()
        })
    });
}

#[test]
fn a_query_that_is_translated_goes_elsewhere_and_who_was_not_asked_is_not_heard() {
    let policy = resolver("permit", "translate = '192.0.2.81:5353'");
    let replayed = replay("translate", &own("web.pcap"), &policy, 1);
    let elsewhere = Ipv4Addr::new(192, 0, 2, 81).octets();
    let queries: Vec<&Frame> = replayed
        .before
        .iter()
        .filter(|frame| of_resolver(&frame.packet) == Some(true))
        .collect();
    assert_eq!(queries.len(), 2);
    for query in queries {
        let written = replayed.after.iter().find(|frame| {
            frame.packet[16..20] == elsewhere && frame.packet[28..] == query.packet[28..]
        });
        let written = written.expect("the query, translated");
        assert_eq!(written.packet[12..16], query.packet[12..16]);
        assert_eq!(written.packet[20..22], query.packet[20..22]);
        assert_eq!(written.packet[22..24], 5353_u16.to_be_bytes());
        assert_eq!(written.time, query.time);
        let sum = with_checksums(&query.packet, written.packet.clone());
        assert_eq!(written.packet[10..12], sum[10..12]);
    }
    let still = |frame: &&Frame| of_resolver(&frame.packet) == Some(true);
    assert_eq!(replayed.after.iter().filter(still).count(), 0);
}

#[test]
fn what_is_redirected_is_written_with_where_it_goes_and_nothing_of_where_it_was_to_go() {
    let policy = "
        default = 'permit'
        [[rule]]
        action = 'permit'
        direction = 'outbound'
        protocol = 'tcp'
        remote_address = '192.0.2.80'
        remote_port = 80
        redirect = ['127.0.0.1:8080']
    ";
    let replayed = replay("redirect", &own("web.pcap"), policy, 1);
    let ends = |port: u16, address: [u8; 4]| {
        move |frame: &&Frame| {
            let packet = &frame.packet;
            let port = port.to_be_bytes();
            packet[0] == 0x45
                && packet[9] == 6
                && (packet[16..20] == address && packet[22..24] == port
                    || packet[12..16] == address && packet[20..22] == port)
        }
    };
    let before: Vec<&Frame> = replayed.before.iter().filter(ends(80, RESOLVER)).collect();
    let after: Vec<&Frame> = replayed
        .after
        .iter()
        .filter(ends(8080, [127, 0, 0, 1]))
        .collect();
    assert_eq!(before.len(), 18);
    assert_eq!(after.len(), before.len());
    assert_eq!(replayed.after.iter().filter(ends(80, RESOLVER)).count(), 0);
    for (one, other) in after.iter().zip(before) {
        // From the sequence number to the window all is the same, and behind the checksum.
        assert_eq!(
            (one.time, &one.packet[24..36]),
            (other.time, &other.packet[24..36])
        );
        assert_eq!(one.packet[38..], other.packet[38..]);
    }
    assert_eq!(replayed.after.len(), replayed.before.len());
}

#[test]
fn what_is_delayed_is_written_when_it_goes_on() {
    let policy = resolver("permit", "delay = '7 ms'");
    let replayed = replay("delay", &own("web.pcap"), &policy, 1);
    let (shaped, others): (Vec<_>, Vec<_>) =
        replayed.after.iter().cloned().partition(is_of_resolver);
    let (asked, plain): (Vec<_>, Vec<_>) =
        replayed.before.iter().cloned().partition(is_of_resolver);
    assert_eq!(others, plain);
    assert_eq!(shaped.len(), asked.len());
    for packet in asked {
        let later = shaped.iter().find(|frame| frame.packet == packet.packet);
        let later = later.expect("the packet, later").time - packet.time;
        assert!(
            (7 * MILLISECOND..8 * MILLISECOND).contains(&later),
            "{later}"
        );
    }
    assert!(replayed.after.is_sorted_by_key(|frame| frame.time));
}

/// A policy that limits what goes to a web server and comes from it.
fn limited(queue: &str) -> String {
    format!(
        "default = 'permit'
         [[rule]]
         action = 'permit'
         direction = 'outbound'
         protocol = 'tcp'
         remote_port = 80
         rate = '1 MB/s'
         burst = '2 kB'
         queue = '{queue}'"
    )
}

/// The packets, in an order that is not theirs.
fn packets(frames: &[Frame]) -> Vec<Vec<u8>> {
    let mut packets: Vec<_> = frames.iter().map(|frame| frame.packet.clone()).collect();
    packets.sort();
    packets
}

#[test]
fn a_rate_spreads_what_comes_at_once() {
    // 2 kB pass at once, and the 40 kB that follow at a kilobyte each millisecond.
    let policy = limited("256 kB");
    let replayed = replay("rate", &own("web.pcap"), &policy, 1);
    let (before, after) = (packets(&replayed.before), packets(&replayed.after));
    assert!(after == before, "nothing is lost, nothing is changed");
    let moved = replayed
        .after
        .iter()
        .filter(|frame| !replayed.before.contains(frame));
    assert!(moved.count() > 3);
    let span = |frames: &[Frame]| {
        let web = frames.iter().filter(|frame| {
            frame.packet[0] == 0x45 && frame.packet[9] == 6 && frame.packet[20..22] == [0, 80]
        });
        let times: Vec<u64> = web.map(|frame| frame.time).collect();
        times[times.len() - 1] - times[0]
    };
    assert!(span(&replayed.after) >= span(&replayed.before).max(38 * MILLISECOND));
}

#[test]
fn what_is_lost_is_not_written() {
    let policy = resolver("permit", "loss = '100 %'");
    let replayed = replay("loss", &own("web.pcap"), &policy, 1);
    expect(&replayed.before, &replayed.after, |_| None);
    assert_eq!(counted(&replayed, Counter::PacketsLost), 4);
}

#[test]
fn what_finds_its_queue_full_is_not_written_but_captured() {
    // Of the 40 kB that come at once some kilobytes pass, some wait, and the rest is dropped.
    let policy = limited("8 kB");
    let how = How {
        captures: Some(everything()),
        ..How::default()
    };
    let replayed = replay_with("queue", &own("web.pcap"), &policy, 1, how);
    let dropped = counted(&replayed, Counter::PacketQueueFull);
    assert!(dropped > 3, "{dropped}");
    let (before, after) = (packets(&replayed.before), packets(&replayed.after));
    assert_eq!(
        before.len() - after.len(),
        usize::try_from(dropped).expect("few")
    );
    assert!(
        after
            .iter()
            .all(|packet| before.binary_search(packet).is_ok())
    );
    let of_rule = |packet: &[u8]| {
        packet[0] == 0x45
            && packet[9] == 6
            && [&packet[20..22], &packet[22..24]].contains(&&[0, 80][..])
    };
    let gone = before
        .iter()
        .filter(|packet| after.binary_search(packet).is_err());
    assert!(gone.clone().count() > 3 && gone.clone().all(|packet| of_rule(packet)));
    // Once each, what is dropped too.
    let captured = replayed.captured.expect("a capture").packets;
    let mut captured: Vec<_> = captured.into_iter().map(|packet| packet.data).collect();
    captured.sort();
    assert!(captured == before, "{} {}", captured.len(), before.len());
}

#[test]
fn a_mirrored_flow_is_captured_packet_for_packet_and_goes_on_as_it_is() {
    // The filter takes nothing that the capture has.
    let mut request = everything();
    request.protocols[0] = 132;
    request.protocol_count = 1;
    let how = How {
        captures: Some(request),
        ..How::default()
    };
    let policy = resolver("permit", "mirror = true");
    let replayed = replay_with("mirror", &own("web.pcap"), &policy, 1, how);
    assert_eq!(replayed.after, replayed.before);
    let mirrored: Vec<_> = replayed
        .before
        .iter()
        .filter(|frame| is_of_resolver(frame))
        .collect();
    let captured = replayed.captured.expect("a capture").packets;
    assert_eq!(captured.len(), mirrored.len());
    for (copy, original) in captured.iter().zip(mirrored) {
        assert_eq!(copy.data, original.packet);
        assert!(copy.comment.contains("the resolver"), "{}", copy.comment);
    }
}

#[test]
fn what_is_bound_elsewhere_is_sent_from_there_and_hears_its_answers_there() {
    let policy = "
        default = 'permit'
        [[rule]]
        action = 'permit'
        direction = 'outbound'
        protocol = 'udp'
        bind = ['192.0.2.11']
    ";
    let replayed = replay("bind", &own("web.pcap"), policy, 1);
    expect(&replayed.before, &replayed.after, |frame| {
        let mut packet = frame.packet.clone();
        let here = if of_resolver(&packet) == Some(true) {
            12
        } else {
            16
        };
        packet[here + 3] += 1;
        // An address that is one more takes one from each checksum, right or wrong (RFC 1624).
        for at in [10, 26] {
            let sum = u16::from_be_bytes([packet[at], packet[at + 1]]);
            packet[at..at + 2].copy_from_slice(&(sum - 1).to_be_bytes());
        }
        Some(Frame {
            packet,
            ..frame.clone()
        })
    });
    assert_eq!(counted(&replayed, Counter::Bound), 2);
}
