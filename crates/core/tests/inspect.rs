//! Host names in the first bytes of connections.

mod shared;

use portcullis_core::inspect::{
    HostName, HostSniffer, MAX_EARLY_RESPONSE, MAX_STREAM, Outcome, question,
};
use portcullis_proto::event::HostSource;
use proptest::prelude::*;
use shared::messages::{
    client_hello, dns, dns_over_tcp, extension, http, records, server_name, tls,
};

/// What is found in a stream to `port`, given in pieces of these sizes and then the rest.
fn sniff_in_pieces(port: u16, bytes: &[u8], sizes: &[usize]) -> (Outcome, String) {
    let mut sniffer = HostSniffer::stream(port);
    let mut rest = bytes;
    for &size in sizes {
        let (piece, more) = rest.split_at(size.min(rest.len()));
        sniffer.push(piece);
        rest = more;
    }
    let outcome = sniffer.push(rest);
    (
        outcome,
        String::from_utf8(sniffer.name().as_bytes().to_vec()).expect("ASCII"),
    )
}

fn sniff(port: u16, bytes: &[u8]) -> (Outcome, String) {
    sniff_in_pieces(port, bytes, &[])
}

fn found(source: HostSource, name: &str) -> (Outcome, String) {
    (Outcome::Host(source), name.to_owned())
}

const fn none(reason: HostSource) -> (Outcome, String) {
    (Outcome::None(reason), String::new())
}

#[test]
fn the_server_name_of_a_client_hello_is_the_host() {
    assert_eq!(
        sniff(443, &tls("www.Example.COM")),
        found(HostSource::Tls, "www.example.com")
    );
}

#[test]
fn a_server_name_may_end_with_a_dot() {
    assert_eq!(
        sniff(443, &tls("example.com.")),
        found(HostSource::Tls, "example.com")
    );
}

#[test]
fn a_client_hello_may_be_spread_over_records_of_one_byte() {
    let hello = client_hello(&[
        extension(16, &[0, 3, 2, b'h', b'2']),
        server_name(b"example.com"),
    ]);
    assert_eq!(
        sniff(443, &records(&hello, 1)),
        found(HostSource::Tls, "example.com")
    );
}

#[test]
fn records_of_other_types_within_a_client_hello_are_passed_over() {
    let hello = client_hello(&[server_name(b"example.com")]);
    let (first, second) = hello.split_at(50);
    let stream = [
        records(first, 50),
        vec![20, 3, 3, 0, 1, 1],
        records(second, 500),
    ]
    .concat();
    assert_eq!(sniff(443, &stream), found(HostSource::Tls, "example.com"));
}

#[test]
fn names_of_other_types_in_the_list_are_passed_over() {
    let list = [&[7, 0, 2, 1, 2][..], &[0, 0, 1, b'x']].concat();
    let names = [&[0, 9][..], &list].concat();
    assert_eq!(
        sniff(443, &records(&client_hello(&[extension(0, &names)]), 999)),
        found(HostSource::Tls, "x")
    );
}

#[test]
fn a_client_hello_without_a_server_name_names_no_host() {
    assert_eq!(
        sniff(
            443,
            &records(&client_hello(&[extension(43, &[2, 3, 4])]), 999)
        ),
        none(HostSource::Absent)
    );
    assert_eq!(
        sniff(443, &records(&client_hello(&[]), 999)),
        none(HostSource::Absent)
    );
    assert_eq!(
        sniff(443, &records(&client_hello(&[extension(0, &[])]), 999)),
        none(HostSource::Absent)
    );
}

#[test]
fn a_length_that_lies_is_malformed() {
    let mut hello = client_hello(&[server_name(b"example.com")]);
    let list_length = hello.len() - b"example.com".len() - 5;
    hello[list_length] = 1;
    assert_eq!(
        sniff(443, &records(&hello, 999)),
        none(HostSource::Malformed)
    );
}

#[test]
fn a_server_name_with_a_space_is_malformed() {
    assert_eq!(
        sniff(443, &tls("example .com")),
        none(HostSource::Malformed)
    );
}

#[test]
fn a_server_name_that_is_too_long_is_malformed() {
    assert_eq!(
        sniff(443, &tls(&"a".repeat(253))),
        found(HostSource::Tls, &"a".repeat(253))
    );
    assert_eq!(
        sniff(443, &tls(&"a".repeat(254))),
        none(HostSource::Malformed)
    );
}

#[test]
fn other_handshake_messages_are_not_a_greeting() {
    assert_eq!(
        sniff(443, &[22, 3, 3, 0, 4, 2, 0, 0, 0]),
        none(HostSource::NotRecognized)
    );
}

#[test]
fn a_client_hello_beyond_the_bound_is_given_up_at_once() {
    assert_eq!(
        sniff(443, &[22, 3, 1, 0, 4, 1, 0xFF, 0, 0]),
        none(HostSource::TooLong)
    );
}

#[test]
fn the_host_field_of_a_request_is_the_host() {
    assert_eq!(
        sniff(80, &http("Example.com")),
        found(HostSource::Http, "example.com")
    );
    assert_eq!(
        sniff(8080, &http("example.com:8080")),
        found(HostSource::Http, "example.com")
    );
    assert_eq!(
        sniff(80, &http("[2001:db8::1]:80")),
        found(HostSource::Http, "2001:db8::1")
    );
}

#[test]
fn the_host_field_may_be_written_in_any_way_that_servers_take() {
    for request in [
        "GET / HTTP/1.1\nhost:example.com\n\n",
        "GET / HTTP/1.1\r\nHOST:   example.com   \r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n Host: folded.example\r\nHost: example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : example.com\r\n\r\n",
        "\r\n\r\nGET  /  HTTP/1.0\r\nHosts: no\r\nHos: no\r\nHost: example.com\r\n\r\n",
        "M-SEARCH * HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com\r\nHost: second.example\r\n\r\n",
    ] {
        assert_eq!(
            sniff(80, request.as_bytes()),
            found(HostSource::Http, "example.com"),
            "{request:?}"
        );
    }
}

#[test]
fn a_host_in_the_target_goes_before_the_host_field() {
    for request in [
        "GET http://example.com/path HTTP/1.1\r\nHost: other.example\r\n\r\n",
        "GET http://user:pass@example.com:81?q HTTP/1.1\r\nHost: other.example\r\n\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\nHost: other.example\r\n\r\n",
    ] {
        assert_eq!(
            sniff(3128, request.as_bytes()),
            found(HostSource::Http, "example.com"),
            "{request:?}"
        );
    }
}

#[test]
fn a_path_that_looks_like_a_scheme_is_none() {
    let request = b"GET foo:bar HTTP/1.1\r\nHost: example.com\r\n\r\n";
    assert_eq!(sniff(80, request), found(HostSource::Http, "example.com"));
}

#[test]
fn a_request_without_a_host_names_none() {
    assert_eq!(
        sniff(80, b"GET / HTTP/1.0\r\nAccept: */*\r\n\r\n"),
        none(HostSource::Absent)
    );
    assert_eq!(
        sniff(80, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        none(HostSource::Absent)
    );
}

#[test]
fn only_the_first_request_counts() {
    let requests = [http("first.example"), http("second.example")].concat();
    assert_eq!(
        sniff(80, &requests),
        found(HostSource::Http, "first.example")
    );
}

#[test]
fn text_protocols_that_are_not_http_are_not_taken_for_it() {
    for greeting in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "INVITE sip:a@b SIP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /\r\n",
        "EHLO me\r\n",
    ] {
        assert_eq!(
            sniff(80, greeting.as_bytes()),
            none(HostSource::NotRecognized),
            "{greeting:?}"
        );
    }
}

#[test]
fn a_header_beyond_the_bound_is_given_up() {
    let request = [
        &b"GET / HTTP/1.1\r\nCookie: "[..],
        &vec![b'c'; MAX_STREAM as usize],
        b"\r\nHost: late\r\n\r\n",
    ]
    .concat();
    assert_eq!(sniff(80, &request), none(HostSource::TooLong));
}

#[test]
fn the_question_of_a_query_on_tcp_is_the_host() {
    assert_eq!(
        sniff(53, &dns_over_tcp("Example.com")),
        found(HostSource::Dns, "example.com")
    );
    assert_eq!(
        sniff(5353, &dns_over_tcp("example.com")),
        none(HostSource::NotRecognized)
    );
}

#[test]
fn bytes_of_no_known_protocol_name_no_host() {
    assert_eq!(sniff(443, &[0, 1, 2, 3]), none(HostSource::NotRecognized));
    assert_eq!(
        sniff(443, &[22, 2, 0, 0, 5]),
        none(HostSource::NotRecognized)
    );
}

#[test]
fn a_responder_that_speaks_first_speaks_of_no_host() {
    let mut sniffer = HostSniffer::stream(25);
    assert_eq!(sniffer.respond(0), Outcome::NeedMore);
    assert_eq!(sniffer.respond(40), Outcome::None(HostSource::NeverSent));
    assert_eq!(
        sniffer.push(&tls("example.com")),
        Outcome::None(HostSource::NeverSent)
    );
}

#[test]
fn a_responder_may_not_say_much_before_the_host_is_named() {
    let mut sniffer = HostSniffer::stream(80);
    sniffer.push(b"GET / HTTP/1.1\r\n");
    assert_eq!(sniffer.respond(MAX_EARLY_RESPONSE), Outcome::NeedMore);
    assert_eq!(sniffer.respond(1), Outcome::None(HostSource::NeverSent));
}

#[test]
fn a_stream_that_ends_early_names_no_host() {
    let mut sniffer = HostSniffer::stream(443);
    sniffer.push(&tls("example.com")[..90]);
    assert_eq!(sniffer.end(), Outcome::None(HostSource::NeverSent));
    assert!(sniffer.name().is_empty());
}

/// What the first question of a datagram names.
fn ask(datagram: &[u8]) -> (Outcome, String) {
    let mut name = HostName::EMPTY;
    let outcome = question([datagram], &mut name);
    let text = matches!(outcome, Outcome::Host(_))
        .then(|| String::from_utf8(name.as_bytes().to_vec()).expect("ASCII"));
    (outcome, text.unwrap_or_default())
}

#[test]
fn the_first_question_of_a_query_is_its_host() {
    assert_eq!(
        ask(&dns("WWW.example.com")),
        found(HostSource::Dns, "www.example.com")
    );
    assert_eq!(
        ask(&dns("_dmarc.example.com")),
        found(HostSource::Dns, "_dmarc.example.com")
    );
}

#[test]
fn a_response_and_a_message_without_a_question_name_no_host() {
    let mut response = dns("example.com");
    response[2] |= 0x80;
    assert_eq!(ask(&response), none(HostSource::NotRecognized));
    let mut empty = dns("example.com");
    empty[5] = 0;
    assert_eq!(ask(&empty), none(HostSource::Absent));
    let mut root = dns("");
    root.drain(12..13);
    assert_eq!(ask(&root), none(HostSource::Absent));
}

#[test]
fn a_dot_or_a_control_character_within_a_label_is_shown_as_a_question_mark() {
    let mut query = dns("a-b.example.com");
    query[14] = b'.';
    assert_eq!(ask(&query), found(HostSource::Dns, "a?b.example.com"));
    query[14] = 0;
    assert_eq!(ask(&query), found(HostSource::Dns, "a?b.example.com"));
}

#[test]
fn a_compressed_or_cut_or_endless_name_is_malformed() {
    let mut pointer = dns("example.com");
    pointer[12] = 0xC0;
    assert_eq!(ask(&pointer), none(HostSource::Malformed));
    let query = dns("example.com");
    assert_eq!(ask(&query[..query.len() - 1]), none(HostSource::Malformed));
    assert_eq!(ask(&[]), none(HostSource::Malformed));
    let long = vec!["a".repeat(63); 5].join(".");
    assert_eq!(ask(&dns(&long)), none(HostSource::Malformed));
}

/// First messages, whole or damaged, and mere bytes.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let name = "[a-zA-Z0-9.-]{0,40}";
    let whole = prop_oneof![
        name.prop_map(|name| tls(&name)),
        (name, 1..80_usize, 0..3_usize).prop_map(|(name, size, others)| {
            let mut extensions = vec![extension(10, &[1, 2, 3]); others];
            extensions.push(server_name(name.as_bytes()));
            records(&client_hello(&extensions), size)
        }),
        "[ -~\r\n\t]{0,60}".prop_map(|host| http(&host)),
        "(GET|POST|CONNECT) [ -~]{1,20} HTTP/1.[01]\r\n([A-Za-z]{1,5}:[ -~]{0,9}\r\n( [ -~]{0,9}\r\n)?){0,4}\r\n"
            .prop_map(String::into_bytes),
        "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}".prop_map(|name| dns_over_tcp(&name)),
        prop::collection::vec(any::<u8>(), 0..200),
    ];
    (
        whole,
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    )
        .prop_map(|(mut bytes, damages)| {
            for (place, byte) in damages {
                if !bytes.is_empty() {
                    let place = place.index(bytes.len());
                    bytes[place] = byte;
                }
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_division_of_a_stream_into_pieces_gives_the_same_result(
        bytes in streams(), sizes in prop::collection::vec(0..40_usize, 0..30), port in prop::sample::select(vec![53, 443]),
    ) {
        let whole = sniff(port, &bytes);
        prop_assert_eq!(&sniff_in_pieces(port, &bytes, &sizes), &whole);
        prop_assert_eq!(&sniff_in_pieces(port, &bytes, &vec![1; bytes.len()]), &whole);
    }

    #[test]
    fn any_division_of_a_datagram_into_pieces_gives_the_same_result(
        bytes in streams(), size in 1..20_usize, cut in 2..3_usize,
    ) {
        let bytes = bytes.get(cut..).unwrap_or_default();
        let mut name = HostName::EMPTY;
        let outcome = question(bytes.chunks(size), &mut name);
        prop_assert_ne!(outcome, Outcome::NeedMore);
        prop_assert_eq!(outcome, ask(bytes).0);
    }

    #[test]
    fn a_name_found_is_visible_lower_case_ascii_of_bounded_length(bytes in streams()) {
        if let (Outcome::Host(_), name) = sniff(53, &bytes) {
            prop_assert!((1..=253).contains(&name.len()));
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
        }
    }

    #[test]
    fn every_server_name_is_found_whatever_the_records(
        name in "[a-z0-9]{1,20}(\\.[a-z0-9-]{1,20}){0,5}", size in 1..300_usize, before in 0..5_usize,
    ) {
        let mut extensions = vec![extension(13, &[0; 30]); before];
        extensions.push(server_name(name.as_bytes()));
        prop_assert_eq!(sniff(443, &records(&client_hello(&extensions), size)), found(HostSource::Tls, &name));
    }
}
