//! Packets that rules change: exactly what leaves the machine, and what comes back.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use ksim::net::{Output, Setup};
use portcullis_cli::capture;
use portcullis_core::packet::{Checksums, Layout, complete};
use portcullis_proto::status::CalloutStatus;
use portcullis_proto::{CalloutKind, Counter, Family};
use portcullis_tests::net::{received, sent};
use portcullis_tests::packets::whole;
use portcullis_tests::{Net, Tcp, World, udp};
use wfp_schema::StreamFlags;

fn datagram(source: &str, destination: &str, data: &[u8]) -> Vec<u8> {
    whole(udp(source, destination, data))
}

/// How often somebody asked to be let in.
fn accepted(world: &World) -> u64 {
    [Family::V4, Family::V6]
        .map(|family| {
            world
                .callout(CalloutKind::RecvAccept, family)
                .classify
                .get()
        })
        .iter()
        .sum()
}

fn world(rule: &str) -> World {
    let world = World::with_policy(&format!(
        "default = 'permit'\n[[rule]]\naction = 'permit'\n{rule}\n"
    ));
    world.with_output()
}

const V4: (&str, &str) = ("192.0.2.10:50000", "198.51.100.1:9999");
const V6: (&str, &str) = ("[2001:db8::10]:50000", "[2001:db8::80]:9999");

#[test]
fn what_a_rule_marks_leaves_marked_and_nothing_else_is_changed() {
    let mut world = world("remote_port = 9999\ndscp = 46\nttl = 9");
    for (local, remote) in [V4, V6] {
        let packet = datagram(local, remote, b"to be marked");
        let out = sent(world.net.at_once(std::slice::from_ref(&packet)));
        let mut wanted = packet.clone();
        if local.starts_with('[') {
            // Traffic class 0xB8: version and half of the class, then the other half.
            wanted[..2].copy_from_slice(&[0x6B, 0x80]);
            wanted[7] = 9;
        } else {
            wanted[1] = 46 << 2;
            wanted[8] = 9;
        }
        assert_eq!(out, [whole(wanted)]);
        // Answers are left alone.
        let answer = datagram(remote, local, b"an answer");
        assert_eq!(received(world.net.at_once(&[answer])), [b"an answer"]);
    }
    assert_eq!(world.counter(Counter::PacketsChanged), 2);
    let other = datagram("192.0.2.10:50000", "198.51.100.1:9998", b"not to be marked");
    assert_eq!(
        sent(world.net.at_once(std::slice::from_ref(&other))),
        [other]
    );
    assert_eq!(world.counter(Counter::PacketsChanged), 2);
    world.end();
}

#[test]
fn a_packet_that_has_the_marks_already_is_not_taken() {
    let mut world = world("remote_port = 9999\nttl = 64");
    let packet = datagram(V4.0, V4.1, b"right already");
    assert_eq!(
        sent(world.net.at_once(std::slice::from_ref(&packet))),
        [packet]
    );
    assert_eq!(world.counter(Counter::PacketsChanged), 0);
    assert_eq!(
        world
            .callout(CalloutKind::OutboundPacket, Family::V4)
            .block
            .get(),
        0
    );
    world.end();
}

#[test]
fn every_segment_of_a_connection_is_marked_from_the_first_on() {
    for (client, server) in [
        ("192.0.2.10:50000", "198.51.100.1:443"),
        ("[2001:db8::10]:50000", "[2001:db8::80]:443"),
    ] {
        let mut world = world("protocol = 'tcp'\nttl = 5");
        let mut tcp = Tcp::new(client, server);
        let mut packets = tcp.handshake();
        packets.push(tcp.client_says(b"hello"));
        packets.push(tcp.server_says(b"hello yourself"));
        packets.extend(tcp.close());
        let packets: Vec<Vec<u8>> = packets.into_iter().map(whole).collect();
        let out = sent(world.net.at_once(&packets));
        let hops = |packet: &Vec<u8>| packet[if packet[0] >> 4 == 6 { 7 } else { 8 }];
        assert_eq!(out.len(), 5, "SYN, ACK, data, FIN, ACK");
        assert!(out.iter().all(|packet| hops(packet) == 5), "{client}");
        world.end();
    }
}

#[test]
fn a_translated_remote_side_gets_the_packets_and_its_answers_look_as_from_the_other() {
    let cases = [
        (V4, "198.51.100.7:53", "198.51.100.7:53"),
        (V6, "[2001:db8::7]:53", "[2001:db8::7]:53"),
        (V4, ":53", "198.51.100.1:53"),
        (V6, "2001:db8::7", "[2001:db8::7]:9999"),
    ];
    for ((local, remote), to, wire) in cases {
        let mut world = world(&format!("remote_port = 9999\ntranslate = '{to}'"));
        let out = sent(world.net.at_once(&[datagram(local, remote, b"question")]));
        assert_eq!(out, [datagram(local, wire, b"question")], "{to}");
        let answer = datagram(wire, local, b"answer");
        assert_eq!(received(world.net.at_once(&[answer])), [b"answer"]);
        assert_eq!(
            accepted(&world),
            0,
            "the answer came in the flow that asked"
        );
        world.net.finish();
        world.end();
    }
}

#[test]
fn a_connection_lives_on_a_translated_remote_side() {
    for (client, server, wire) in [
        ("192.0.2.10:50000", "198.51.100.1:443", "198.51.100.7:8443"),
        (
            "[2001:db8::10]:50000",
            "[2001:db8::80]:443",
            "[2001:db8::7]:8443",
        ),
    ] {
        let mut world = world(&format!("protocol = 'tcp'\ntranslate = '{wire}'"));
        // What the application says, and what comes from the wire's other side.
        let mut known = Tcp::new(client, server);
        let mut there = Tcp::new(client, wire);
        let mut got = Vec::new();
        let mut say = |world: &mut World, from_client: bool, flags: u8, data: &[u8]| {
            let known = whole(known.segment(from_client, flags, data));
            let there = whole(there.segment(from_client, flags, data));
            let output = world
                .net
                .at_once(&[if from_client { known } else { there.clone() }]);
            if from_client {
                assert_eq!(sent(output), [there]);
            } else {
                got.extend(output.into_iter().filter_map(|output| match output {
                    Output::Stream { bytes, .. } if !bytes.is_empty() => Some(bytes),
                    _ => None,
                }));
            }
        };
        let (syn, ack, fin) = (2, 16, 1);
        say(&mut world, true, syn, b"");
        say(&mut world, false, syn | ack, b"");
        say(&mut world, true, ack, b"");
        say(&mut world, true, ack, b"GET / HTTP/1.1\r\n\r\n");
        say(&mut world, false, ack, b"HTTP/1.1 204 No Content\r\n\r\n");
        say(&mut world, true, fin | ack, b"");
        say(&mut world, false, fin | ack, b"");
        say(&mut world, true, ack, b"");
        assert_eq!(got, [b"HTTP/1.1 204 No Content\r\n\r\n"]);
        assert_eq!(accepted(&world), 0, "all in the connection that was made");
        world.net.finish();
        world.end();
    }
}

#[test]
fn the_example_policy_marks_calls() {
    let mut world = World::with_policy(include_str!("../../examples/shaping.toml")).with_output();
    let call = datagram("192.0.2.10:50000", "198.51.100.1:5060", b"INVITE");
    let out = sent(world.net.at_once(&[call]));
    assert_eq!(out[0][1] >> 2, 46);
    world.end();
}

#[test]
fn two_paths_do_not_share_one_remote_side_on_the_wire() {
    let mut world = world("remote_port = [9998, 9999]\ntranslate = '198.51.100.7:53'");
    let first = datagram(V4.0, "198.51.100.1:9999", b"first");
    let second = datagram(V4.0, "198.51.100.1:9998", b"second");
    assert_eq!(sent(world.net.at_once(&[first])).len(), 1);
    // From the same port its answers could not be told apart.
    assert_eq!(sent(world.net.at_once(&[second])), Vec::<Vec<u8>>::new());
    assert!(world.counter(Counter::PathTaken) > 0);
    let other = datagram("192.0.2.10:50001", "198.51.100.1:9998", b"third");
    assert_eq!(sent(world.net.at_once(&[other])).len(), 1);
    world.end();
}

#[test]
fn the_callouts_have_filters_only_while_a_rule_needs_them() {
    let mut world = world("remote_port = 9999\nttl = 9");
    let is_filtered = |world: &World| {
        let status = world.callout(CalloutKind::OutboundPacket, Family::V6);
        status.flags.get() & CalloutStatus::FILTERED != 0
    };
    assert!(is_filtered(&world));
    let packet = datagram(V4.0, V4.1, b"x");
    assert_ne!(
        sent(world.net.at_once(std::slice::from_ref(&packet))),
        std::slice::from_ref(&packet)
    );
    world.set_policy("default = 'permit'");
    assert!(!is_filtered(&world));
    assert_eq!(
        sent(world.net.at_once(std::slice::from_ref(&packet))),
        [packet]
    );
    world.end();
}

#[test]
fn another_policy_changes_what_is_done_to_flows_that_exist() {
    let mut world = world("remote_port = 9999\nttl = 9");
    let packet = datagram(V4.0, V4.1, b"x");
    let hops = |world: &mut World| sent(world.net.at_once(std::slice::from_ref(&packet)))[0][8];
    assert_eq!(hops(&mut world), 9);
    world.set_policy(
        "default = 'permit'\n[[rule]]\naction = 'permit'\nremote_port = 9999\nttl = 11",
    );
    assert_eq!(hops(&mut world), 11);
    world.set_policy("default = 'permit'\n[[rule]]\naction = 'permit'\nremote_port = 1\nttl = 11");
    assert_eq!(hops(&mut world), 64);
    world.end();
}

#[test]
fn a_datagram_that_came_in_pieces_is_translated_when_it_is_whole() {
    let mut world = world("remote_port = 9999\ntranslate = '198.51.100.7:53'");
    world.net.at_once(&[datagram(V4.0, V4.1, b"question")]);
    let answer = datagram("198.51.100.7:53", V4.0, &[7; 64]);
    let pieces = [(0, 40), (40, 72)].map(|(from, to)| {
        let mut piece = answer[..20].to_vec();
        piece.extend_from_slice(&answer[20 + from..20 + to]);
        let length = u16::try_from(piece.len()).expect("small");
        piece[2..4].copy_from_slice(&length.to_be_bytes());
        let more = if to < 72 { 0x2000 } else { 0 };
        let field = more | u16::try_from(from / 8).expect("small");
        piece[6..8].copy_from_slice(&field.to_be_bytes());
        whole(piece)
    });
    assert_eq!(received(world.net.at_once(&pieces)), [vec![7; 64]]);
    world.end();
}

#[test]
fn what_is_no_packet_of_a_rules_passes_whatever_it_holds() {
    let mut world = world("remote_port = 9999\nttl = 9\ndelay = '1 ms'");
    let mut random = portcullis_tests::random::Random::new(7);
    for round in 0..200 {
        let mut packet = datagram(V4.0, V4.1, &[0; 40]);
        // Anything in the headers behind the addresses.
        for _ in 0..4 {
            packet[20 + random.below(20)] = random.byte();
        }
        packet.truncate(20 + round % 49);
        world.net.passes(&packet);
    }
    world.net.pass(100_000_000);
    world.end();
}

/// A machine whose network card computes checksums and splits large sends into segments of so many bytes.
fn world_with_card(rule: &str, segment: u32) -> World {
    let setup = Setup {
        card: Some(segment),
        ..Setup::default()
    };
    world_with(rule, setup)
}

fn world_with(rule: &str, setup: Setup) -> World {
    let mut world = world(rule);
    let setup = Setup {
        output: true,
        ..setup
    };
    world.net = Net::with_setup(&world.kernel, 0, setup);
    world
}

#[test]
fn what_is_left_to_the_network_card_leaves_with_whole_checksums() {
    let rules = [
        "remote_port = 9999\ndscp = 46\nttl = 9",
        "remote_port = 9999\ntranslate = ':53'",
        "remote_port = 9999\nttl = 64\ndelay = '1 ms'",
    ];
    for (rule, (local, remote)) in rules.into_iter().flat_map(|rule| [(rule, V4), (rule, V6)]) {
        let mut world = world_with_card(rule, 1_460);
        let packet = datagram(local, remote, b"to be completed");
        let mut out = sent(world.net.at_once(std::slice::from_ref(&packet)));
        let later = world.net.pass(100_000);
        out.extend(sent(later.into_iter().map(|(_, output)| output).collect()));
        let [left] = out.as_slice() else {
            panic!("{out:?}");
        };
        assert_eq!(*left, whole(left.clone()), "{rule}");
        assert_eq!(left.len(), packet.len());
        world.net.finish();
        world.end();
    }
}

/// What becomes of 3,500 bytes that an application sends at once, under a rule that changes a mark.
fn segments_leave_whole_and_marked(setup: impl Fn() -> Setup, wanted: &[usize]) {
    for (client, server) in [
        ("192.0.2.10:50000", "198.51.100.1:443"),
        ("[2001:db8::10]:50000", "[2001:db8::80]:443"),
    ] {
        let mut world = world_with("protocol = 'tcp'\nttl = 9", setup());
        let mut tcp = Tcp::new(client, server);
        let handshake: Vec<Vec<u8>> = tcp.handshake().into_iter().map(whole).collect();
        world.net.at_once(&handshake);
        let data: Vec<u8> = (0..=250_u8).cycle().take(3_500).collect();
        let out = sent(world.net.at_once(&[whole(tcp.client_says(&data))]));
        let sizes: Vec<usize> = out
            .iter()
            .map(|packet| {
                let layout = Layout::new_checked(packet).expect("a packet");
                assert_eq!(*packet, whole(packet.clone()), "its checksums are right");
                assert_eq!(packet[if layout.is_v6 { 7 } else { 8 }], 9);
                layout.total - layout.header - 20
            })
            .collect();
        assert_eq!(sizes, wanted);
        let carried: Vec<u8> = out
            .iter()
            .zip(&sizes)
            .flat_map(|(packet, size)| packet[packet.len() - size..].to_vec())
            .collect();
        assert!(carried == data);
        assert_eq!(
            world.counter(Counter::PacketsChanged),
            2 + wanted.len() as u64
        );
        world.net.finish();
        world.end();
    }
}

#[test]
fn a_large_send_is_split_as_the_network_card_would() {
    let card = || Setup {
        card: Some(1_000),
        ..Setup::default()
    };
    segments_leave_whole_and_marked(card, &[1_000, 1_000, 1_000, 500]);
}

#[test]
fn each_packet_of_a_list_is_changed() {
    let stack = |size| {
        move || Setup {
            segments: Some(size),
            ..Setup::default()
        }
    };
    segments_leave_whole_and_marked(stack(1_000), &[1_000, 1_000, 1_000, 500]);
    segments_leave_whole_and_marked(stack(1_800), &[1_800, 1_700]);
    segments_leave_whole_and_marked(stack(100), &[875; 4]);
}

/// What left the machine, and what its streams carried by flow and direction.
type Replayed = (Vec<Vec<u8>>, BTreeMap<(u64, u32), Vec<u8>>);

/// Replays a recorded capture of this host's, each packet 20 ms after the one before, under a rule for everything.
fn replayed(capture: &str, rule: &str) -> Replayed {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("captures")
        .join(capture);
    let mut packets = Vec::new();
    capture::read(&file, |frame| {
        packets.extend(capture::ip_packet(&frame).map(<[u8]>::to_vec));
        ControlFlow::Continue(())
    })
    .expect("a capture");
    assert!(packets.len() > 20);
    let mut world = world(rule);
    let (mut left, mut streams) = (Vec::new(), BTreeMap::<_, Vec<u8>>::new());
    for packet in packets {
        let mut output = world.net.at_once(&[packet]);
        let later = world.net.pass(200_000);
        output.extend(later.into_iter().map(|(_, output)| output));
        for output in output {
            match output {
                Output::Sent(packet) => left.push(packet),
                Output::Stream {
                    flow_handle,
                    flags,
                    bytes,
                } => {
                    let sent = flags.bits() & StreamFlags::SEND.bits();
                    streams
                        .entry((flow_handle, sent))
                        .or_default()
                        .extend(bytes);
                }
                Output::Datagram { .. } => {}
            }
        }
    }
    world.net.finish();
    world.end();
    (left, streams)
}

#[test]
fn a_recorded_capture_leaves_packet_for_packet_as_the_rule_says() {
    for file in ["web.pcap", "split-hello.pcap"] {
        let (plain, streams) = replayed(file, "");
        assert!(plain.len() > 5, "{file}");
        let (marked, same) = replayed(file, "dscp = 10\nttl = 77");
        assert_eq!(same, streams, "{file}: every stream is whole");
        assert_eq!(marked.len(), plain.len());
        for (marked, plain) in marked.iter().zip(plain.iter().cloned()) {
            let mut wanted = plain;
            if wanted[0] >> 4 == 6 {
                wanted[0] = 0x60 | 10 >> 2;
                wanted[1] = 0x80 | wanted[1] & 0x3F;
                wanted[7] = 77;
            } else {
                wanted[1] = 10 << 2 | wanted[1] & 3;
                wanted[8] = 77;
                // The transport's checksum, which the recording host may have left to its card, stays as it is.
                let layout = Layout::new_checked(&wanted).expect("a packet");
                let missing = Checksums {
                    ip_missing: true,
                    transport_missing: false,
                };
                complete(&mut wanted, &layout, missing);
            }
            assert_eq!(*marked, wanted, "{file}");
        }
        let (delayed, same) = replayed(file, "delay = '3 ms'\njitter = '5 ms'\nrate = '100 MB/s'");
        assert_eq!(
            (delayed, same),
            (plain, streams),
            "{file}: later, but the same"
        );
    }
}
