//! UDP datagrams that go through the stack as one packet, because the network card is to split them (USO) or has merged them
//! (URO): they stay one, and each is looked at as one of its own.

use ksim::ndis::MdlLayout;
use ksim::net::{Offload, PacketReport, Reason};
use ksim::{Config, PoolMode, Schedule};
use portcullis_core::MAX_DATAGRAMS;
use portcullis_core::packet::Layout;
use portcullis_proto::status::CalloutStatus;
use portcullis_proto::{Action, CalloutKind, Counter, EventKind, Family};
use portcullis_tests::bursts::{data_of, numbered, passed, receive, send, together};
use portcullis_tests::messages::{client_hello, dns_answer, dns_query};
use portcullis_tests::net::{received, sent};
use portcullis_tests::races::{begin, try_many, unload_beside};
use portcullis_tests::random::Random;
use portcullis_tests::sweep::sweep;
use portcullis_tests::{Net, World};
use wfp_schema::NtStatus;

use crate::hosts::quic;

const NO_ADS: &str = "default = 'permit'\n[[rule]]\naction = 'block'\nhost = ['ads.example.net', '*.ads.example.net']";
const NO_SECRETS: &str = "default = 'permit'\n[[rule]]\naction = 'block'\ncontent = ['top secret']";

/// This host and another one, as clients and servers name them.
const ENDS: [(&str, &str); 2] = [
    ("192.0.2.10:50000", "198.51.100.1:443"),
    ("[2001:db8::10]:50000", "[2001:db8::80]:443"),
];
const RESOLVERS: [(&str, &str); 2] = [
    ("192.0.2.10:50000", "198.51.100.53:53"),
    ("[2001:db8::10]:50000", "[2001:db8::53]:53"),
];

/// A machine with this policy whose output is seen.
fn world(policy: &str) -> World {
    World::with_policy(policy).with_output()
}

fn datagram_callout(world: &World, address: &str) -> CalloutStatus {
    let family = if address.starts_with('[') {
        Family::V6
    } else {
        Family::V4
    };
    world.callout(CalloutKind::Datagram, family)
}

#[test]
fn bursts_of_quic_pass_as_one_packet_each_way_and_are_counted_datagram_by_datagram() {
    for (local, remote) in ENDS {
        for policy in ["default = 'permit'", NO_ADS] {
            let mut world = world(policy);
            let burst = numbered(40, 1_250);
            let shown = |world: &World| datagram_callout(world, local).classify.get();
            assert!(passed(&send(&mut world.net, local, remote, &burst)));
            assert_eq!(
                data_of(sent(world.net.output())),
                burst,
                "the card has split it"
            );
            assert_eq!(shown(&world), 1, "{policy}");
            assert!(passed(&receive(&mut world.net, remote, local, &burst)));
            assert_eq!(received(world.net.output()), burst, "the socket has each");
            assert_eq!(shown(&world), 2, "{policy}");
            drop(world.events());
            world.net.finish();
            let events = world.events();
            let ended = events
                .iter()
                .find(|event| event.kind == EventKind::EndpointClosed.raw())
                .expect("the endpoint's end is told");
            let bytes = 40 * 1_250 - 1;
            assert_eq!(
                (ended.packets_sent.get(), ended.packets_received.get()),
                (40, 40)
            );
            assert_eq!(
                (ended.bytes_sent.get(), ended.bytes_received.get()),
                (bytes, bytes)
            );
            assert_eq!(world.counter(Counter::DatagramsBlocked), 0);
            world.end();
        }
    }
}

/// Queries about names of one length, so that they can be datagrams of one packet.
fn queries(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| dns_query(name)).collect()
}

#[test]
fn each_query_of_those_that_are_sent_together_is_looked_at_and_one_takes_the_others_along() {
    let good = ["www.example.net", "img.example.net", "cdn.example.net"];
    for (local, resolver) in RESOLVERS {
        for place in 0..=good.len() {
            let mut world = world(NO_ADS);
            let mut names = good.to_vec();
            names.insert(place, "ads.example.net");
            let reports = send(&mut world.net, local, resolver, &queries(&names));
            assert!(!passed(&reports), "{names:?}");
            assert!(sent(world.net.output()).is_empty());
            assert_eq!(world.counter(Counter::DatagramsBlocked), 4, "all of them");
            assert_eq!(world.counter(Counter::HostDns), 4, "each was looked at");
            let others = queries(&good);
            assert!(
                passed(&send(&mut world.net, local, resolver, &others)),
                "asked again"
            );
            assert_eq!(data_of(sent(world.net.output())), others);
            let answers: Vec<_> = good.iter().map(|name| dns_answer(name)).collect();
            assert!(passed(&receive(&mut world.net, resolver, local, &answers)));
            world.end();
        }
    }
}

#[test]
fn each_query_of_those_that_were_merged_is_looked_at() {
    for (resolver, client) in [
        ("192.0.2.10:53", "198.51.100.1:50000"),
        ("[2001:db8::10]:53", "[2001:db8::80]:50000"),
    ] {
        let mut world = world(NO_ADS);
        let good = queries(&["www.example.net", "img.example.net", "a.example.net"]);
        assert!(passed(&receive(&mut world.net, client, resolver, &good)));
        assert_eq!(received(world.net.output()), good);
        let bad = queries(&["www.example.net", "img.example.net", "ads.example.net"]);
        assert!(!passed(&receive(&mut world.net, client, resolver, &bad)));
        assert!(received(world.net.output()).is_empty());
        assert!(passed(&receive(&mut world.net, client, resolver, &good)));
        world.end();
    }
}

#[test]
fn a_name_in_any_of_the_datagrams_that_begin_a_quic_connection_decides_about_it() {
    for (client, server) in ENDS {
        for (name, passes) in [("ads.example.net", false), ("www.example.net", true)] {
            let mut world = world(NO_ADS);
            let connection = quic::Client::new(quic::Version::One, &[7; 8]);
            let hello = client_hello(Some(name)).split_off(5);
            let (first, second) = hello.split_at(60);
            // Padded to one size, as clients do.
            let padded = |number, frames: Vec<u8>| {
                let room = 1_200 - frames.len();
                connection.initial(number, &[frames, vec![0; room]].concat())
            };
            let burst = [
                padded(0, quic::crypto(60, second)),
                padded(1, quic::crypto(0, first)),
                vec![0x40; 900],
            ];
            assert_eq!(burst[0].len(), burst[1].len());
            assert_eq!(
                passed(&send(&mut world.net, client, server, &burst)),
                passes,
                "{name}"
            );
            assert_eq!(sent(world.net.output()).len(), if passes { 3 } else { 0 });
            let answers = numbered(3, 1_200);
            assert_eq!(
                passed(&receive(&mut world.net, server, client, &answers)),
                passes
            );
            assert_eq!(world.counter(Counter::HostQuic), 1);
            world.end();

            // The other way round: this host is the server.
            let mut world = self::world(NO_ADS);
            let reports = receive(&mut world.net, server, client, &burst);
            assert_eq!(passed(&reports), passes, "{name}");
            assert_eq!(
                received(world.net.output()).len(),
                if passes { 3 } else { 0 }
            );
            world.end();
        }
    }
}

#[test]
fn a_literal_is_found_in_any_datagram_and_not_across_two() {
    for (local, remote) in ENDS {
        let harmless = vec![b"1234567890".to_vec(); 3];
        let across = vec![
            b"12345top s".to_vec(),
            b"ecret67890".to_vec(),
            b"1".to_vec(),
        ];
        let mut inside = harmless.clone();
        inside[2] = b"top secret".to_vec();
        for (data, passes) in [(&harmless, true), (&across, true), (&inside, false)] {
            let mut world = world(NO_SECRETS);
            assert_eq!(
                passed(&send(&mut world.net, local, remote, data)),
                passes,
                "{data:?}"
            );
            world.end();
            let mut world = self::world(NO_SECRETS);
            assert_eq!(
                passed(&receive(&mut world.net, remote, local, data)),
                passes,
                "{data:?}"
            );
            world.end();
        }
    }
}

#[test]
fn datagrams_are_found_in_any_chain_of_buffers() {
    for seed in 1..=6 {
        let mut config = Config::default();
        config.fwp.mdl_layout = MdlLayout::Seeded(seed);
        let mut world = World::with_config(&config);
        world.set_policy(&format!(
            "{NO_ADS}\n[[rule]]\naction = 'block'\ncontent = ['top secret']"
        ));
        let mut random = Random::new(seed);
        for round in 0..60_usize {
            let (local, remote) = ENDS[round % 2];
            let local = local.replace("50000", &(20_000 + round).to_string());
            let (count, size) = (2 + random.below(9), 10 + random.below(40));
            let mut data: Vec<_> = (0..count).map(|_| vec![b'x'; size]).collect();
            let is_bad = random.below(2) == 0;
            if is_bad {
                let (which, at) = (random.below(count), random.below(size - 9));
                data[which][at..at + 10].copy_from_slice(b"top secret");
            }
            let reports = send(&mut world.net, &local, remote, &data);
            assert_eq!(passed(&reports), !is_bad, "seed {seed}, round {round}");
            let (local, resolver) = RESOLVERS[round % 2];
            let mut names = vec!["www.example.net"; count];
            if is_bad {
                names[random.below(count)] = "ads.example.net";
            }
            let reports = send(&mut world.net, local, resolver, &queries(&names));
            assert_eq!(passed(&reports), !is_bad, "seed {seed}, round {round}");
        }
        world.end();
    }
}

#[test]
fn datagrams_without_number_are_blocked_where_they_would_be_looked_at() {
    let (local, remote) = ENDS[0];
    for (policy, passes) in [(NO_SECRETS, false), (NO_ADS, true)] {
        for (count, is_few) in [(MAX_DATAGRAMS, true), (MAX_DATAGRAMS + 1, false)] {
            let mut world = world(policy);
            let data = vec![vec![7_u8; 40]; count];
            let passes = passes || is_few;
            assert_eq!(
                passed(&send(&mut world.net, local, remote, &data)),
                passes,
                "{policy}, {count}"
            );
            let (counted, blocked) = if passes { (0, 0) } else { (1, count as u64) };
            assert_eq!(world.counter(Counter::DatagramsTooMany), counted);
            assert_eq!(world.counter(Counter::DatagramsBlocked), blocked);
            world.end();
        }
    }
}

#[test]
fn what_a_list_says_is_believed_only_if_it_fits_the_data() {
    let query = dns_query("www.example.net");
    let size = u32::try_from(query.len()).expect("short");
    let bad = [query, dns_query("ads.example.net")];
    for (local, resolver) in RESOLVERS {
        let packet = together(local, resolver, &bad);
        // Bits of the field that are not the size count for nothing.
        let segmentations = [
            0,
            1 << 20,
            size << 1,
            2 * size,
            0xf_ffff,
            size,
            size | 0xfff0_0000,
            1,
        ];
        for segmentation in segmentations {
            let mut world = world(NO_ADS);
            let offload = Offload {
                segmentation,
                ..Offload::NONE
            };
            let is_cut = segmentation & 0xf_ffff == size;
            assert_eq!(
                world.net.packet_with(&packet, offload).passed,
                !is_cut,
                "{segmentation:#x}: one datagram, whose first name is harmless"
            );
            world.end();
        }
        // The same, received by this host's resolver.
        let (server, client) = if local.starts_with('[') {
            ("[2001:db8::10]:53", "[2001:db8::80]:50000")
        } else {
            ("192.0.2.10:53", "198.51.100.1:50000")
        };
        let packet = together(client, server, &bad);
        let merged = |count: u32, size: u32| count | size << 16;
        for coalesced in [
            0,
            merged(2, 0),
            merged(0, size),
            merged(1, size),
            merged(3, size),
            merged(2, size / 2),
            merged(2, 2 * size),
            merged(0xffff, 0xffff),
            merged(0xffff, 1),
            merged(2, size),
        ] {
            let mut world = world(NO_ADS);
            let offload = Offload {
                coalesced,
                ..Offload::NONE
            };
            let is_cut = coalesced == merged(2, size);
            assert_eq!(
                world.net.packet_with(&packet, offload).passed,
                !is_cut,
                "{coalesced:#x}"
            );
            world.end();
        }
    }
}

#[test]
fn what_a_rule_does_to_packets_it_does_to_each_datagram() {
    for (local, remote) in ENDS {
        let host = remote.rsplit_once(':').expect("a port").0;
        let away = if local.starts_with('[') {
            "[2001:db8::81]:8443"
        } else {
            "198.51.100.9:8443"
        };
        let policy = format!(
            "default = 'permit'\n[[rule]]\naction = 'permit'\nprotocol = 'udp'\nremote_address = '{}'\nttl = 9\ntranslate = '{away}'",
            host.trim_matches(['[', ']'])
        );
        let mut world = world(&policy);
        let burst = numbered(5, 1_000);
        let report = send(&mut world.net, local, remote, &burst);
        assert!(
            matches!(
                report[..],
                [PacketReport {
                    passed: false,
                    reason: Some(Reason::Absorbed(_)),
                    ..
                }]
            ),
            "{report:?}"
        );
        let out = sent(world.net.output());
        for packet in &out {
            let layout = Layout::new_checked(packet).expect("a packet");
            assert_eq!(packet[if layout.is_v6 { 7 } else { 8 }], 9);
            assert_eq!(layout.destination.port, 8_443);
        }
        assert_eq!(data_of(out), burst);
        let answers = numbered(4, 900);
        assert_eq!(
            receive(&mut world.net, away, local, &answers).len(),
            1,
            "merged"
        );
        assert_eq!(
            received(world.net.output()),
            answers,
            "as if from where it was sent to"
        );
        assert_eq!(world.counter(Counter::PacketsChanged), 9);
        // Others of the machine keep their offloads.
        let (other, unchanged) = (local.replace("50000", "50001"), away.replace("8443", "9"));
        assert!(passed(&send(&mut world.net, &other, &unchanged, &burst)));
        assert!(passed(&receive(&mut world.net, &unchanged, &other, &burst)));
        world.end();
    }
}

#[test]
fn more_datagrams_than_there_is_memory_for_are_dropped_where_they_would_be_changed() {
    let (local, remote) = ENDS[0];
    let mut world =
        world("default = 'permit'\n[[rule]]\naction = 'permit'\nremote_port = 443\nttl = 9");
    let report = send(&mut world.net, local, remote, &vec![vec![1; 30]; 1_500]);
    assert!(matches!(report[..], [PacketReport { passed: false, .. }]));
    assert!(sent(world.net.output()).is_empty());
    assert_eq!(world.counter(Counter::PacketsDropped), 1);
    assert!(
        !passed(&send(&mut world.net, local, remote, &numbered(2, 500))),
        "taken"
    );
    assert_eq!(sent(world.net.output()).len(), 2);
    world.end();
}

#[test]
fn datagrams_in_one_that_are_asked_about_are_not_kept_and_pass_when_they_come_again() {
    const ASK: &str = "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_port = 443";
    for (local, remote) in ENDS {
        for is_sent in [true, false] {
            for verdict in [Action::Permit, Action::Block] {
                let mut world = world(ASK);
                assert!(world.device().questions().is_empty());
                let burst = numbered(3, 1_200);
                let give = |net: &mut Net| {
                    if is_sent {
                        send(net, local, remote, &burst)
                    } else {
                        receive(net, remote, local, &burst)
                    }
                };
                let waiting = give(&mut world.net);
                assert!(
                    matches!(
                        waiting[..],
                        [PacketReport {
                            reason: Some(Reason::AwaitsAuthorization),
                            ..
                        }]
                    ),
                    "{waiting:?}"
                );
                let questions = world.device().questions();
                let [question] = &questions[..] else {
                    panic!("{questions:?}");
                };
                assert!(world.device().reply(question, verdict));
                world.net.settle();
                let left = world.net.output();
                assert!(sent(left.clone()).is_empty() && received(left).is_empty());
                let is_permitted = verdict == Action::Permit;
                assert_eq!(
                    world.counter(Counter::HeldPacketLost),
                    u64::from(is_permitted)
                );
                assert_eq!(passed(&give(&mut world.net)), is_permitted);
                let left = world.net.output();
                let arrived = if is_sent {
                    data_of(sent(left))
                } else {
                    received(left)
                };
                assert_eq!(arrived, if is_permitted { burst } else { Vec::new() });
                assert!(world.device().questions().is_empty(), "asked once");
                world.end();
            }
        }
    }
}

#[test]
fn what_stays_on_the_machine_is_split_before_the_driver_sees_it() {
    let mut world = world(NO_ADS);
    let burst = numbered(3, 100);
    let reports = send(&mut world.net, "192.0.2.10:50000", "192.0.2.10:9", &burst);
    assert_eq!(reports.len(), 3);
    assert!(reports.iter().all(|report| report.passed));
    world.end();
}

#[test]
fn every_step_with_datagrams_in_one_fails_in_turn_and_the_machine_goes_on() {
    let policy = format!("{NO_ADS}\n[[rule]]\naction = 'permit'\nremote_port = 444\nttl = 9");
    sweep("datagrams in one", |nth| {
        let mut world = World::boot(&Config {
            pool: PoolMode::Fast,
            ..Config::default()
        });
        assert_eq!(world.start(), NtStatus::SUCCESS);
        world.set_policy(&policy);
        world.kernel.faults().fail_nth(nth);
        let (local, remote) = ENDS[0];
        let burst = numbered(3, 500);
        send(&mut world.net, local, remote, &burst);
        receive(&mut world.net, remote, local, &burst);
        let (other, changed) = ("192.0.2.10:50001", "198.51.100.1:444");
        send(&mut world.net, other, changed, &burst);
        receive(&mut world.net, changed, other, &burst);
        let call = world.kernel.faults().failed_call();
        world.kernel.faults().fail_nth(0);
        let next = ("192.0.2.10:50002", "198.51.100.1:443");
        assert!(
            passed(&send(&mut world.net, next.0, next.1, &burst)),
            "after {call:?}"
        );
        world.end();
        call
    });
}

#[test]
fn four_processors_count_every_datagram() {
    const PROCESSORS: u32 = 4;
    const BURSTS: u64 = 50;
    let world = World::with_config(&Config {
        processors: PROCESSORS,
        ..Config::default()
    });
    world.set_policy(NO_ADS);
    std::thread::scope(|scope| {
        for processor in 0..PROCESSORS {
            let kernel = world.kernel.clone();
            scope.spawn(move || {
                let mut net = Net::new(&kernel, processor);
                let local = format!("192.0.2.10:{}", 50_000 + processor);
                for _ in 0..BURSTS {
                    assert!(passed(&send(
                        &mut net,
                        &local,
                        ENDS[0].1,
                        &numbered(8, 700)
                    )));
                    assert!(passed(&receive(
                        &mut net,
                        ENDS[0].1,
                        &local,
                        &numbered(5, 700)
                    )));
                    let bad = [dns_query("www.example.net"), dns_query("ads.example.net")];
                    assert!(!passed(&send(&mut net, &local, RESOLVERS[0].1, &bad)));
                }
                net.finish();
            });
        }
    });
    let bursts = BURSTS * u64::from(PROCESSORS);
    assert_eq!(world.counter(Counter::DatagramsBlocked), 2 * bursts);
    let shown = datagram_callout(&world, "192.0.2.10").classify.get();
    assert_eq!(shown, 3 * bursts);
    world.end();
}

fn unload_against_bursts(schedule: &Schedule) {
    let (world, mut net) = begin(
        schedule,
        &format!("{NO_ADS}\n[[rule]]\naction = 'permit'\nremote_port = 443\nttl = 9"),
    );
    unload_beside(world, || {
        let (local, remote) = ENDS[0];
        send(&mut net, local, remote, &numbered(3, 300));
        receive(&mut net, remote, local, &numbered(3, 300));
        send(
            &mut net,
            local,
            RESOLVERS[0].1,
            &[dns_query("a.b"), dns_query("c.d")],
        );
    });
}

#[test]
fn unloading_against_datagrams_in_one() {
    try_many(40, unload_against_bursts);
}
