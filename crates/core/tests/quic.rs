//! Host names in QUIC's first packets, and decisions by them.

mod shared;

use portcullis_core::inspect::quic::{MAX_DATAGRAM, MAX_DATAGRAMS, MAX_HELLO};
use portcullis_core::{DatagramVerdict, FlowHandle, Transfer, connection::UDP};
use portcullis_proto::event::HostSource;
use portcullis_proto::{Counter, EventKind};
use proptest::prelude::*;
use shared::driver::{
    ASSEMBLIES, Core, core, count, events_of, incoming, indication, outgoing, set_policy,
};
use shared::messages::{client_hello, extension, server_name};
use shared::quic::{Client, Version, crypto};

const ID: [u8; 8] = [0x83, 0x94, 0xC8, 0xF0, 0x3E, 0x51, 0x57, 0x08];
const BLOCK: &str =
    "default = \"permit\"\n[[rule]]\naction = \"block\"\nhost = \"blocked.example\"";

fn hello(name: &str) -> Vec<u8> {
    client_hello(&[server_name(name.as_bytes())])
}

/// A `ClientHello` of at least so many bytes.
fn long_hello(name: &str, bytes: usize) -> Vec<u8> {
    client_hello(&[extension(51, &vec![7; bytes]), server_name(name.as_bytes())])
}

/// A flow that has begun.
fn begin(core: &Core) -> FlowHandle {
    core.flow_established(&outgoing(UDP, 443)).expect("room")
}

fn send(core: &Core, flow: FlowHandle, datagram: &[u8]) -> DatagramVerdict {
    core.datagram(Some(flow), indication(Transfer::Sent, datagram), [datagram])
}

fn reply(core: &Core, flow: FlowHandle, datagram: &[u8]) -> DatagramVerdict {
    let indication = indication(Transfer::Received, datagram);
    core.datagram(Some(flow), indication, [datagram])
}

/// The host and where it came from, after the flow has ended.
fn ended(core: &Core, flow: FlowHandle) -> (String, u8) {
    core.flow_deleted(flow);
    assert!(
        core.assemblies().is_empty(),
        "an ended flow keeps no memory"
    );
    let closed = events_of(core, EventKind::FlowClosed);
    let [event] = closed.as_slice() else {
        panic!("{} flows ended", closed.len());
    };
    let name = event.host.iter().take_while(|&&byte| byte != 0).copied();
    let name = String::from_utf8(name.collect()).expect("ASCII");
    (name, event.host_source)
}

fn named(name: &str) -> (String, u8) {
    (name.to_owned(), HostSource::Quic.raw())
}

const fn unnamed(reason: HostSource) -> (String, u8) {
    (String::new(), reason.raw())
}

#[test]
fn the_server_name_of_an_initial_packet_is_the_host_in_both_versions() {
    for version in [Version::One, Version::Two] {
        let core = core(1, "default = \"permit\"");
        let flow = begin(&core);
        let packet = Client::new(version, &ID).initial(0, &crypto(0, &hello("www.Example.COM")));
        send(&core, flow, &packet);
        assert_eq!(ended(&core, flow), named("www.example.com"), "{version:?}");
        assert_eq!(count(&core, Counter::HostQuic), 1);
    }
}

#[test]
fn a_blocked_host_takes_the_datagram_that_names_it_and_all_after() {
    let core = core(1, BLOCK);
    let flow = begin(&core);
    let packet = Client::new(Version::One, &ID).initial(0, &crypto(0, &hello("blocked.example")));
    assert_eq!(send(&core, flow, &packet), DatagramVerdict::Block);
    assert_eq!(reply(&core, flow, b"anything"), DatagramVerdict::Block);
    assert_eq!(send(&core, flow, &packet), DatagramVerdict::Block);
}

#[test]
fn another_host_passes() {
    let core = core(1, BLOCK);
    let flow = begin(&core);
    let packet = Client::new(Version::One, &ID).initial(0, &crypto(0, &hello("other.example")));
    assert_eq!(send(&core, flow, &packet), DatagramVerdict::Permit);
}

#[test]
fn the_server_side_knows_the_name_that_a_client_asks_for() {
    let core = core(1, BLOCK);
    let flow = core.flow_established(&incoming(UDP, 443)).expect("room");
    let packet = Client::new(Version::One, &ID).initial(0, &crypto(0, &hello("blocked.example")));
    assert_eq!(reply(&core, flow, &packet), DatagramVerdict::Block);
}

#[test]
fn where_only_a_host_is_permitted_what_is_not_quic_is_blocked_by_its_first_datagram() {
    let core = core(
        1,
        "default = \"block\"\n[[rule]]\naction = \"permit\"\nhost = \"good.example\"",
    );
    let flow = begin(&core);
    assert_eq!(
        send(&core, flow, b"not QUIC at all"),
        DatagramVerdict::Block
    );
    assert_eq!(ended(&core, flow), unnamed(HostSource::NotRecognized));
}

#[test]
fn frames_may_come_in_any_order_over_several_datagrams() {
    let core = core(1, BLOCK);
    let flow = begin(&core);
    let client = Client::new(Version::One, &ID);
    let hello = long_hello("blocked.example", 1700);
    let (first, rest) = hello.split_at(300);
    let (second, third) = rest.split_at(900);
    let early = [crypto(1200, third), vec![1, 0, 0], crypto(0, first)].concat();
    assert_eq!(
        send(&core, flow, &client.initial(0, &early)),
        DatagramVerdict::Permit
    );
    assert_eq!(
        send(&core, flow, &client.initial(1, &crypto(300, second))),
        DatagramVerdict::Block
    );
    assert_eq!(ended(&core, flow), named("blocked.example"));
}

#[test]
fn acknowledgements_and_other_packets_in_the_datagram_are_passed_over() {
    let core = core(1, "default = \"permit\"");
    let flow = begin(&core);
    let client = Client::new(Version::Two, &ID);
    let ack = vec![2, 5, 0, 1, 0, 0, 0, 3, 5, 0, 0, 0, 1, 2, 3];
    let frames = [ack, crypto(0, &hello("example.com"))].concat();
    let datagram = [client.other(1, 40), client.initial(0, &frames)].concat();
    send(&core, flow, &datagram);
    assert_eq!(ended(&core, flow), named("example.com"));
}

#[test]
fn keys_stay_those_of_the_first_connection_id() {
    let core = core(1, "default = \"permit\"");
    let flow = begin(&core);
    let mut client = Client::new(Version::One, &ID);
    let hello = long_hello("example.com", 1200);
    let (first, second) = hello.split_at(1000);
    send(&core, flow, &client.initial(0, &crypto(0, first)));
    reply(&core, flow, &[0xC0; 1200]);
    client.id = vec![1, 2, 3];
    send(&core, flow, &client.initial(1, &crypto(1000, second)));
    assert_eq!(ended(&core, flow), named("example.com"));
}

#[test]
fn after_a_retry_keys_follow_from_the_new_connection_id() {
    let core = core(1, "default = \"permit\"");
    let flow = begin(&core);
    let hello = long_hello("example.com", 1200);
    let (first, second) = hello.split_at(1000);
    let before = Client::new(Version::One, &ID);
    send(&core, flow, &before.initial(0, &crypto(0, first)));
    let after = Client {
        token: vec![9; 70],
        ..Client::new(Version::One, &[5; 20])
    };
    send(&core, flow, &after.initial(1, &crypto(1000, second)));
    assert_eq!(ended(&core, flow), named("example.com"));
}

#[test]
fn a_client_may_first_have_versions_negotiated() {
    let core = core(1, "default = \"permit\"");
    let flow = begin(&core);
    let client = Client::new(Version::One, &ID);
    let packet = client.initial(0, &crypto(0, &hello("example.com")));
    let mut unknown = packet.clone();
    unknown[1..5].copy_from_slice(&[0x1A, 0x2A, 0x3A, 0x4A]);
    send(&core, flow, &unknown);
    send(&core, flow, &packet);
    assert_eq!(ended(&core, flow), named("example.com"));
}

#[test]
fn a_packet_that_was_tampered_with_counts_for_nothing() {
    let core = core(1, "default = \"permit\"");
    let flow = begin(&core);
    let packet = Client::new(Version::One, &ID).initial(0, &crypto(0, &hello("example.com")));
    for place in [packet.len() - 1, packet.len() - 20, 40] {
        let mut tampered = packet.clone();
        tampered[place] ^= 1;
        send(&core, flow, &tampered);
    }
    send(&core, flow, &packet);
    assert_eq!(ended(&core, flow), named("example.com"));
}

#[test]
fn a_server_that_speaks_first_ends_the_search() {
    let core = core(1, "default = \"permit\"");
    let flow = begin(&core);
    reply(&core, flow, b"hello");
    assert_eq!(ended(&core, flow), unnamed(HostSource::NeverSent));
}

#[test]
fn the_search_ends_after_so_many_datagrams() {
    let core = core(1, "default = \"permit\"");
    let flow = begin(&core);
    let client = Client::new(Version::One, &ID);
    for number in 0..MAX_DATAGRAMS {
        assert_eq!(count(&core, Counter::HostNeverSent), 0, "datagram {number}");
        send(&core, flow, &client.initial(number, &crypto(600, b"later")));
    }
    assert_eq!(count(&core, Counter::HostNeverSent), 1);
    assert!(core.assemblies().is_empty());
}

#[test]
fn a_hello_and_a_datagram_have_bounds() {
    let client = Client::new(Version::One, &ID);
    for datagram in [
        client.initial(0, &crypto(MAX_HELLO - 3, b"beyond")),
        client.initial(0, &[0; MAX_DATAGRAM]),
    ] {
        let core = core(1, "default = \"permit\"");
        let flow = begin(&core);
        send(&core, flow, &datagram);
        assert_eq!(ended(&core, flow), unnamed(HostSource::TooLong));
    }
}

#[test]
fn without_room_a_datagram_waits_if_its_host_decides() {
    for (policy, verdict) in [
        (BLOCK, DatagramVerdict::Block),
        ("default = \"permit\"", DatagramVerdict::Permit),
    ] {
        let core = core(ASSEMBLIES + 1, policy);
        let client = Client::new(Version::One, &ID);
        let flows: Vec<_> = (0..=ASSEMBLIES).map(|_| begin(&core)).collect();
        let (late, early) = flows.split_last().expect("some");
        for flow in early {
            send(&core, *flow, &client.initial(0, &crypto(600, b"later")));
        }
        let packet = client.initial(0, &crypto(0, &hello("other.example")));
        assert_eq!(send(&core, *late, &packet), verdict);
        assert_eq!(count(&core, Counter::QuicNoRoom), 1);
        core.flow_deleted(early[0]);
        assert_eq!(send(&core, *late, &packet), DatagramVerdict::Permit);
        assert_eq!(count(&core, Counter::HostQuic), 1);
    }
}

#[test]
fn a_policy_that_comes_later_finds_the_name() {
    let core = core(1, "default = \"permit\"");
    let flow = begin(&core);
    let packet = Client::new(Version::One, &ID).initial(0, &crypto(0, &hello("blocked.example")));
    assert_eq!(send(&core, flow, &packet), DatagramVerdict::Permit);
    set_policy(&core, BLOCK);
    assert_eq!(send(&core, flow, b"more"), DatagramVerdict::Block);
}

proptest! {
    #[test]
    fn any_division_into_frames_datagrams_and_pieces_gives_the_same_name(
        padding in 0_usize..2500,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        order in any::<prop::sample::Index>(),
        piece in 1_usize..400,
    ) {
        let hello = long_hello("example.com", padding);
        let mut cuts: Vec<usize> =
            cuts.iter().map(|cut| cut.index(hello.len())).collect();
        cuts.extend([0, hello.len()]);
        cuts.extend((0..hello.len()).step_by(1000));
        cuts.sort_unstable();
        cuts.dedup();
        let mut frames: Vec<_> =
            cuts.windows(2).map(|cut| crypto(cut[0], &hello[cut[0]..cut[1]])).collect();
        let turn = order.index(frames.len());
        frames.rotate_left(turn);

        let core = core(1, "default = \"permit\"");
        let flow = begin(&core);
        let client = Client::new(Version::One, &ID);
        for (number, frame) in (0..).zip(&frames) {
            let datagram = client.initial(number, frame);
            let indication = indication(Transfer::Sent, &datagram);
            core.datagram(Some(flow), indication, datagram.chunks(piece));
        }
        prop_assert_eq!(ended(&core, flow), named("example.com"));
    }

    #[test]
    fn no_bytes_after_a_long_header_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..600), protect in any::<bool>()) {
        let core = core(1, "default = \"permit\"");
        let flow = begin(&core);
        let client = Client::new(Version::One, &ID);
        let datagram = if protect {
            client.initial(0, &bytes)
        } else {
            [&[0xC0, 0, 0, 0, 1][..], &bytes].concat()
        };
        send(&core, flow, &datagram);
        send(&core, flow, &datagram);
        core.flow_deleted(flow);
        prop_assert!(core.assemblies().is_empty());
    }
}
