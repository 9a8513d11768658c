//! Rules that look for literals in the data: what they drop, and that they drop nothing else.

use portcullis_proto::event::EventKind;
use portcullis_proto::{Action, Counter};
use portcullis_tests::{Tcp, World, udp};

const NO_SECRETS: &str = "
    default = 'permit'
    [[rule]]
    name = 'the archive may'
    action = 'permit'
    remote_port = 7000
    [[rule]]
    name = 'nobody else'
    action = 'block'
    content = 'top secret'
    content_hex = 'de ad be ef'
    log = true
";

const ENDS: [(&str, &str); 2] = [
    ("192.0.2.10:50000", "198.51.100.1:9000"),
    ("[2001:db8::10]:50000", "[2001:db8::80]:9000"),
];

#[test]
fn a_literal_cut_anywhere_drops_the_connection_and_never_arrives_whole() {
    let mut world = World::with_policy(NO_SECRETS);
    let message = b"it is top secret, really";
    let end = 13;
    for (client, server) in ENDS {
        for cut in 1..message.len() {
            let port = 10_000 + u16::try_from(cut).expect("small");
            let mut tcp = Tcp::new(&client.replace("50000", &port.to_string()), server);
            assert!(world.net.all_pass(&tcp.handshake()));
            let (first, second) = message.split_at(cut);
            assert_eq!(world.net.passes(tcp.server_says(first)), cut < end + 3);
            assert!(!world.net.passes(tcp.server_says(second)));
            assert!(!world.net.passes(tcp.client_says(b"go on")));
        }
    }
    let dropped = world
        .events()
        .into_iter()
        .filter(|event| event.kind == EventKind::Content.raw());
    let mut count = 0;
    for event in dropped {
        assert_eq!((event.rule.get(), event.verdict), (1, Action::Block.raw()));
        count += 1;
    }
    assert_eq!(count, 2 * (message.len() - 1));
    world.end();
}

#[test]
fn other_data_passes_and_so_does_what_an_earlier_rule_permits() {
    let mut world = World::with_policy(NO_SECRETS);
    for (client, server) in ENDS {
        for (server, message) in [
            (server.to_owned(), "top secre, top secre, topsecret"),
            (server.replace("9000", "7000"), "top secret"),
        ] {
            let mut tcp = Tcp::new(client, &server);
            assert!(world.net.all_pass(&tcp.handshake()));
            assert!(world.net.passes(tcp.client_says(message.as_bytes())));
            assert!(world.net.passes(tcp.server_says(b"and back")));
            assert!(world.net.all_pass(&tcp.close()));
        }
    }
    assert_eq!(world.counter(Counter::ContentMatched), 0);
    world.end();
}

#[test]
fn a_datagram_with_a_literal_is_discarded_and_those_after_it() {
    let mut world = World::with_policy(NO_SECRETS);
    for (client, server) in ENDS {
        assert!(world.net.passes(udp(client, server, b"\xDE\xAD")));
        assert!(world.net.passes(udp(server, client, b"\xBE\xEF")));
        assert!(
            !world
                .net
                .passes(udp(server, client, b"..\xDE\xAD\xBE\xEF.."))
        );
        assert!(!world.net.passes(udp(client, server, b"anything")));
    }
    world.end();
}
