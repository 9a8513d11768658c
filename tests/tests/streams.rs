//! Streams that are edited, or looked at out of band: what the receiver gets, byte for byte.

use ksim::net::Output;
use portcullis_proto::{Counter, EventKind, EventRecord};
use portcullis_tests::packets::{ACK, URG};
use portcullis_tests::random::Random;
use portcullis_tests::streams::{Arrived, converse};
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Tcp, World};
use wfp_schema::StreamFlags;

const ENDS: [(&str, &str); 3] = [
    ("192.0.2.10:50000", "198.51.100.1:80"),
    ("[2001:db8::10]:50000", "[2001:db8::80]:80"),
    ("198.51.100.1:50000", "192.0.2.10:80"),
];

const MASK: &str = "
    default = 'block'
    [[rule]]
    action = 'permit'
    protocol = 'tcp'
    replace = [{ find = 'secret', with = '******' }, { find = 'remove me', with = '' }, { find = 'short', with = 'a good deal longer' }]
";

const HEADERS: &str = "
    default = 'block'
    [[rule]]
    action = 'permit'
    protocol = 'tcp'
    http_header = { Agent = 'nobody', Cookie = false }
";

const WATCH: &str = "
    default = 'permit'
    [[rule]]
    action = 'block'
    content = 'forbidden words'
    inspect = 'out of band'
";

/// A machine with a host whose output is kept.
fn world(policy: &str) -> World {
    World::with_policy(policy).with_output()
}

/// What has left the stack as stream data, of what the host sends and receives.
fn streams(world: &mut World) -> [Vec<u8>; 2] {
    let mut arrived = Arrived::default();
    arrived.add(world.net.output());
    arrived.data
}

#[test]
fn a_policy_for_headers_leaves_alone_what_has_begun_before_and_looks_like_requests() {
    let body = "GET / HTTP/1.1\r\nAgent: me\r\nCookie: mine\r\n\r\n";
    let head = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    let edited = head.replace("\r\n\r\n", "\r\nAgent: nobody\r\n\r\n");
    for (before, expected) in [
        ("default = 'permit'", head.clone()),
        // One that has read the stream, and one that has read its requests.
        (MASK, head.clone()),
        (WATCH, head.clone()),
        (HEADERS, edited),
    ] {
        for (client, server) in ENDS {
            let mut world = world(before);
            let mut arrived = Arrived::of(client);
            let mut tcp = Tcp::new(client, server);
            let mut give = |world: &mut World, packet: Vec<u8>| {
                arrived.add(world.net.at_once(&[packet]));
            };
            for packet in tcp.handshake() {
                give(&mut world, packet);
            }
            give(&mut world, tcp.client_says(head.as_bytes()));
            world.set_policy(HEADERS);
            give(&mut world, tcp.client_says(body.as_bytes()));
            for packet in tcp.close() {
                give(&mut world, packet);
            }
            arrived.settle(&mut world.net);
            let said = String::from_utf8_lossy(&arrived.data[0]);
            assert_eq!(said, format!("{expected}{body}"), "{client}: {before}");
            world.net.finish();
            world.end();
        }
    }
}

#[test]
fn literals_are_replaced_in_both_directions_of_both_versions_whatever_the_segments() {
    let sent =
        b"a secret, and shortly after: remove me, secrets, secresecret. Shorter, short".as_slice();
    let edited = b"a ******, and a good deal longerly after: , ******s, secre******. Shorter, a good deal longer".to_vec();
    let received = b"nothing to change here, nor secre".as_slice();
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut world = world(MASK);
        for ends in ENDS {
            let Arrived {
                data, ends: ended, ..
            } = converse(&mut world.net, &mut random, ends, [sent, received]);
            assert_eq!(
                String::from_utf8_lossy(&data[0]),
                String::from_utf8_lossy(&edited),
                "seed {seed}, {ends:?}"
            );
            assert_eq!(data[1], received, "seed {seed}, {ends:?}");
            assert_eq!(ended, 2, "seed {seed}, {ends:?}");
        }
        assert!(
            world.counter(Counter::StreamsRewritten) >= 18,
            "seed {seed}"
        );
        assert_eq!(world.counter(Counter::StreamNotInjected), 0);
        world.end();
    }
}

/// The data that both ends get, and how much of it is urgent.
fn with_urgent(output: Vec<Output>) -> (Vec<u8>, Vec<u8>) {
    let (mut all, mut urgent) = (Vec::new(), Vec::new());
    for output in output {
        let Output::Stream { flags, bytes, .. } = output else {
            continue;
        };
        all.extend(&bytes);
        if flags.intersects(StreamFlags::SEND_EXPEDITED | StreamFlags::RECEIVE_EXPEDITED) {
            urgent.extend(bytes);
        }
    }
    (all, urgent)
}

#[test]
fn urgent_data_is_never_changed_and_keeps_its_place() {
    // Inline; and behind something that waits out of band, which goes on unchanged before it.
    let cases = [
        ("a secret.", "secret. ", "a ******.secret******. "),
        (
            "a secret, secre",
            "t, a secret. ",
            "a ******, secresecrett, a ******. ",
        ),
    ];
    for (before, after, expected) in cases {
        for ends in ENDS {
            for from_client in [true, false] {
                let mut world = world(MASK);
                let mut tcp = Tcp::new(ends.0, ends.1);
                assert!(world.net.all_pass(&tcp.handshake()));
                let segments = [
                    tcp.segment(from_client, ACK, before.as_bytes()),
                    tcp.segment(from_client, ACK | URG, b"secret"),
                    tcp.segment(from_client, ACK, after.as_bytes()),
                ];
                let mut output = Vec::new();
                for segment in segments {
                    output.extend(world.net.at_once(&[segment]));
                }
                for packet in tcp.close() {
                    output.extend(world.net.at_once(&[packet]));
                }
                let (all, urgent) = with_urgent(output);
                let why = format!("{ends:?}, from the client: {from_client}");
                assert_eq!(String::from_utf8_lossy(&all), expected, "{why}");
                assert_eq!(String::from_utf8_lossy(&urgent), "secret", "{why}");
                world.end();
            }
        }
    }
}

#[test]
fn headers_of_requests_are_edited_whatever_the_segments() {
    let sent = b"POST /a HTTP/1.1\r\nHost: x\r\nCookie: c\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\nagent: old\r\n\r\n".as_slice();
    let edited = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\nAgent: nobody\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\nAgent: nobody\r\n\r\n";
    let received = b"HTTP/1.1 200 OK\r\nCookie: stays\r\n\r\n".as_slice();
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let mut world = world(HEADERS);
        for ends in ENDS {
            let Arrived {
                data, ends: ended, ..
            } = converse(&mut world.net, &mut random, ends, [sent, received]);
            assert_eq!(
                String::from_utf8_lossy(&data[0]),
                edited,
                "seed {seed}, {ends:?}"
            );
            assert_eq!(data[1], received, "seed {seed}, {ends:?}");
            assert_eq!(ended, 2, "seed {seed}, {ends:?}");
        }
        world.end();
    }
}

#[test]
fn what_is_looked_at_out_of_band_arrives_as_it_was_sent() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let mut world = world(WATCH);
        for ends in ENDS {
            let messages: [&[u8]; 2] =
                [b"forbidden word, and other words", b"forbid, forbidden wor"];
            let Arrived {
                data, ends: ended, ..
            } = converse(&mut world.net, &mut random, ends, messages);
            assert_eq!(data[0], messages[0], "seed {seed}");
            assert_eq!(data[1], messages[1], "seed {seed}");
            assert_eq!(ended, 2, "seed {seed}");
        }
        assert!(world.counter(Counter::StreamPiecesHeld) > 0);
        world.end();
    }
}

#[test]
fn nothing_of_what_is_found_out_of_band_arrives() {
    for cut in 1..15 {
        let mut world = world(WATCH);
        let mut tcp = Tcp::new(ENDS[0].0, ENDS[0].1);
        assert!(world.net.all_pass(&tcp.handshake()));
        let (first, second) = b"forbidden words".split_at(cut);
        world.net.packet(&tcp.client_says(first));
        world.net.packet(&tcp.client_says(second));
        assert!(!world.net.passes(tcp.client_says(b"more")), "it is aborted");
        assert_eq!(streams(&mut world), [b"", b""]);
        world.end();
    }
}

#[test]
fn what_waits_for_more_goes_on_after_a_while_and_at_an_unload() {
    let mut world = world(MASK);
    let mut tcp = Tcp::new(ENDS[0].0, ENDS[0].1);
    assert!(world.net.all_pass(&tcp.handshake()));
    world.net.packet(&tcp.client_says(b"login: sec"));
    assert_eq!(streams(&mut world)[0], b"login: ");
    world.net.wait(1);
    world.net.settle();
    assert_eq!(streams(&mut world)[0], b"sec");
    world.net.packet(&tcp.client_says(b"and then secr"));
    assert_eq!(streams(&mut world)[0], b"and then ");
    assert_clean(&world.unload());
    world.net.settle();
    world.net.packet(&tcp.client_says(b"et"));
    assert_eq!(streams(&mut world)[0], b"secret", "nothing is lost");
    world.assert_nothing_of_ours();
}

#[test]
fn a_reset_drops_what_waits() {
    let mut world = world(MASK);
    let mut tcp = Tcp::new(ENDS[0].0, ENDS[0].1);
    assert!(world.net.all_pass(&tcp.handshake()));
    world.net.packet(&tcp.client_says(b"sec"));
    world.net.packet(&tcp.reset());
    world.net.settle();
    assert!(streams(&mut world)[0].is_empty());
    world.end();
}

/// The events of these kinds, without what only the driver knows.
fn told(world: &World, kinds: &[EventKind]) -> Vec<(EventKind, Option<u32>, [u64; 2], bool)> {
    let events = world.events();
    let known = events.iter().filter_map(|event| {
        let kind = EventKind::from_raw(event.kind).filter(|kind| kinds.contains(kind))?;
        let is_out_of_band = event.flags.get() & EventRecord::OUT_OF_BAND != 0;
        Some((
            kind,
            event.rule(),
            event.value.map(zerocopy::little_endian::U64::get),
            is_out_of_band,
        ))
    });
    known.collect()
}

#[test]
fn a_stream_that_is_edited_is_told_once_and_with_all_its_changes_at_its_end() {
    let mut world = world(MASK);
    drop(world.events());
    let mut tcp = Tcp::new(ENDS[0].0, ENDS[0].1);
    assert!(world.net.all_pass(&tcp.handshake()));
    for _ in 0..50 {
        world.net.packet(&tcp.client_says(b"a secret, "));
        world
            .net
            .packet(&tcp.server_says(b"another secret, and a secret"));
    }
    world.net.fates(&tcp.close());
    world.net.settle();
    let edited = told(&world, &[EventKind::StreamEdited, EventKind::FlowClosed]);
    assert_eq!(
        edited,
        [
            (EventKind::StreamEdited, Some(0), [1, 0], false),
            (EventKind::FlowClosed, Some(0), [50, 100], false)
        ]
    );
    world.end();
}

#[test]
fn what_goes_out_of_band_is_told_once_a_direction_and_so_is_what_is_found_there() {
    let mut world = world(WATCH);
    drop(world.events());
    let mut tcp = Tcp::new(ENDS[0].0, ENDS[0].1);
    assert!(world.net.all_pass(&tcp.handshake()));
    for _ in 0..20 {
        world.net.packet(&tcp.server_says(b"words, "));
    }
    world.net.packet(&tcp.client_says(b"forbidden words"));
    world.net.settle();
    let kinds = [EventKind::OutOfBand, EventKind::Content];
    assert_eq!(
        told(&world, &kinds),
        [
            (EventKind::OutOfBand, None, [2, 0], false),
            (EventKind::OutOfBand, None, [1, 0], false),
            (EventKind::Content, Some(0), [0, 0], true)
        ]
    );
    world.end();
}

#[test]
fn only_flows_that_a_rule_out_of_band_may_concern_go_out_of_band() {
    let mut world = world(
        "
        default = 'permit'
        [[rule]]
        action = 'block'
        content = 'inline words'
        [[rule]]
        action = 'block'
        remote_port = 81
        content = 'forbidden words'
        inspect = 'out of band'
    ",
    );
    for (port, held) in [(80, false), (81, true)] {
        let before = world.counter(Counter::StreamPiecesHeld);
        let mut tcp = Tcp::new(ENDS[0].0, &format!("198.51.100.1:{port}"));
        assert!(world.net.all_pass(&tcp.handshake()));
        world.net.packet(&tcp.client_says(b"forbidden word"));
        let now = world.counter(Counter::StreamPiecesHeld);
        assert_eq!(now > before, held, "port {port}");
        world.net.packet(&tcp.client_says(b" and inline words"));
        assert!(!world.net.passes(tcp.client_says(b"more")), "port {port}");
    }
    world.end();
}
