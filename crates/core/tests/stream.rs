//! Edits of streams: however a stream is cut into pieces, inline and out of band alike, the receiver gets the edited
//! whole.

use portcullis_core::stream::{Editor, Edits, Inline, inline};
use portcullis_core::{Policy, Transfer};
use portcullis_policy::{Options, compile};
use proptest::prelude::*;

mod shared;

/// A policy with one rule, which permits everything and has these effects.
fn policy(effects: &str) -> Policy<Vec<u8>> {
    let text =
        format!("default = 'block'\n[[rule]]\naction = 'permit'\nprotocol = 'tcp'\n{effects}");
    let compiled =
        compile(&text, &Options::default()).unwrap_or_else(|found| panic!("{text}: {found:?}"));
    Policy::new(compiled.blob).expect("valid")
}

/// The edits of its rule for what is sent.
fn edits(policy: &Policy<Vec<u8>>) -> Edits<'_> {
    let view = policy.view();
    let rule = view
        .decide(
            &shared::driver::outgoing(6, 80),
            portcullis_core::Host::Never,
        )
        .rule
        .expect("the rule");
    Edits::new(view, rule, view.effect_set(), Transfer::Sent, true)
}

/// Out of band: all pieces are pushed.
fn pushed(edits: &Edits<'_>, stream: &[u8], cuts: &[usize]) -> Vec<u8> {
    pushed_by(&by(edits, stream, cuts))
}

/// The same, each piece by its edits.
fn pushed_by(pieces: &[(Edits<'_>, &[u8])]) -> Vec<u8> {
    let mut editor = Editor::new();
    let mut out = Vec::new();
    let mut edits = &Edits::NONE;
    for (edits_now, piece) in pieces {
        edits = edits_now;
        let leaves = editor.leaves(edits, [*piece]);
        let mut here = Vec::new();
        let changes = editor
            .push(edits, piece, false, &mut |bytes| {
                here.extend_from_slice(bytes);
                Ok(())
            })
            .expect("a vector has room");
        assert_eq!(
            leaves,
            changes == 0 && here == *piece && !editor.is_waiting()
        );
        out.extend(here);
    }
    editor
        .push(edits, &[], true, &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })
        .expect("a vector has room");
    assert!(!editor.is_waiting());
    out
}

/// In the classify: what has to wait goes out of band, with all that follows.
fn classified(edits: &Edits<'_>, stream: &[u8], cuts: &[usize]) -> Vec<u8> {
    classified_by(&by(edits, stream, cuts))
}

/// The same, each piece by its edits.
fn classified_by(pieces: &[(Edits<'_>, &[u8])]) -> Vec<u8> {
    let mut editor = Editor::new();
    let mut out = Vec::new();
    let mut is_out_of_band = false;
    let mut edits = &Edits::NONE;
    for (edits_now, piece) in pieces {
        edits = edits_now;
        let mut rest = *piece;
        while !rest.is_empty() && !is_out_of_band {
            // An indication is a chain of pieces of memory.
            match inline(&mut editor, edits, rest.chunks(5), false) {
                Inline::Permit => {
                    out.extend_from_slice(rest);
                    rest = &[];
                }
                Inline::PermitFirst(count) => {
                    let (kept, after) = rest.split_at(usize::try_from(count).unwrap());
                    assert!(!kept.is_empty());
                    out.extend_from_slice(kept);
                    rest = after;
                }
                Inline::Replace(count, insert) => {
                    insert
                        .pieces()
                        .for_each(|piece| out.extend_from_slice(piece));
                    assert!(count > 0);
                    rest = &rest[usize::try_from(count).unwrap()..];
                }
                Inline::Insert(insert) => {
                    insert
                        .pieces()
                        .for_each(|piece| out.extend_from_slice(piece));
                }
                Inline::Wait => is_out_of_band = true,
            }
        }
        editor
            .push(edits, rest, false, &mut |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            })
            .expect("a vector has room");
    }
    editor
        .push(edits, &[], true, &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })
        .expect("a vector has room");
    out
}

fn by<'e, 's>(edits: &Edits<'e>, stream: &'s [u8], cuts: &[usize]) -> Vec<(Edits<'e>, &'s [u8])> {
    let pieces = pieces(stream, cuts);
    pieces.into_iter().map(|piece| (*edits, piece)).collect()
}

fn pieces<'s>(stream: &'s [u8], cuts: &[usize]) -> Vec<&'s [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places
        .windows(2)
        .map(|pair| &stream[pair[0]..pair[1]])
        .collect()
}

/// What replacing literals means: at each place the first of them that is there.
fn replaced(stream: &[u8], replacements: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = stream;
    while let Some(&byte) = rest.first() {
        let found = replacements.iter().find(|(find, _)| rest.starts_with(find));
        if let Some((find, with)) = found {
            out.extend_from_slice(with);
            rest = &rest[find.len()..];
        } else {
            out.push(byte);
            rest = &rest[1..];
        }
    }
    out
}

fn quoted(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes
        .iter()
        .map(|byte| format!("\\u{:04x}", byte & 0x7f))
        .collect();
    format!("\"{}\"", digits.concat())
}

fn replace_of(replacements: &[(Vec<u8>, Vec<u8>)]) -> Policy<Vec<u8>> {
    let list: Vec<String> = replacements
        .iter()
        .map(|(find, with)| format!("{{ find = {}, with = {} }}", quoted(find), quoted(with)))
        .collect();
    policy(&format!("replace = [{}]", list.join(", ")))
}

fn few() -> impl Strategy<Value = u8> {
    prop::sample::select(&b"ab\nc"[..])
}

/// What a request's head becomes with `A-New: 1` put in, `Agent` replaced and `Cookie` taken out.
const HEADERS: &str = "http_header = { A-New = '1', Agent = 'none at all', Cookie = false }";

#[derive(Clone, Debug)]
struct Request {
    agent: Option<String>,
    cookies: usize,
    /// A body, sent in chunks or with its length.
    body: Option<(Vec<u8>, bool)>,
    folded: bool,
}

fn request() -> impl Strategy<Value = Request> {
    let body = (
        prop::collection::vec(
            prop::sample::select(&b"GET / HTTP/1.\r\nAgent:x0;"[..]),
            0..60,
        ),
        any::<bool>(),
    );
    (
        prop::option::of("[a-z]{0,12}"),
        0..3_usize,
        prop::option::of(body),
        any::<bool>(),
    )
        .prop_map(|(agent, cookies, body, folded)| Request {
            agent,
            cookies,
            body,
            folded,
        })
}

impl Request {
    /// The request, and what it is edited to.
    fn build(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut sent, mut edited) = (Vec::new(), Vec::new());
        let mut both = |bytes: &[u8]| {
            sent.extend_from_slice(bytes);
            edited.extend_from_slice(bytes);
        };
        let method = if self.body.is_some() { "POST" } else { "GET" };
        both(
            format!("{method} /path?Agent: HTTP/1.1\r\n")
                .replace("?Agent: ", "?Agent:%20 ")
                .as_bytes(),
        );
        both(b"Host: www.example.com\r\nAgents: kept\r\n");
        for _ in 0..self.cookies {
            sent.extend_from_slice(b"cookie: a=b; c=d\r\n");
            if self.folded {
                sent.extend_from_slice(b"\t more: of it\r\n");
            }
        }
        if let Some(agent) = &self.agent {
            sent.extend_from_slice(format!("AGENT:{agent}\r\n").as_bytes());
            edited.extend_from_slice(b"Agent: none at all\r\n");
        }
        let mut rest = Vec::new();
        match &self.body {
            Some((body, false)) => {
                rest.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
            }
            Some((_, true)) => rest.extend_from_slice(b"Transfer-Encoding: gzip, Chunked\r\n"),
            None => {}
        }
        sent.extend_from_slice(&rest);
        edited.extend_from_slice(&rest);
        edited.extend_from_slice(b"A-New: 1\r\n");
        if self.agent.is_none() {
            edited.extend_from_slice(b"Agent: none at all\r\n");
        }
        let mut tail = b"\r\n".to_vec();
        match &self.body {
            Some((body, false)) => tail.extend_from_slice(body),
            Some((body, true)) => {
                for chunk in body.chunks(16) {
                    tail.extend_from_slice(format!("{:X};ext=1\r\n", chunk.len()).as_bytes());
                    tail.extend_from_slice(chunk);
                    tail.extend_from_slice(b"\r\n");
                }
                tail.extend_from_slice(b"0\r\nAgent: in the trailer\r\n\r\n");
            }
            None => {}
        }
        sent.extend_from_slice(&tail);
        edited.extend_from_slice(&tail);
        (sent, edited)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn literals_are_replaced_whatever_the_pieces(
        stream in prop::collection::vec(few(), 0..200),
        replacements in prop::collection::vec((prop::collection::vec(few(), 1..6), prop::collection::vec(few(), 0..6)), 1..5),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let policy = replace_of(&replacements);
        let edits = edits(&policy);
        let expected = replaced(&stream, &replacements);
        prop_assert_eq!(&pushed(&edits, &stream, &cuts), &expected);
        prop_assert_eq!(&classified(&edits, &stream, &cuts), &expected);
    }

    #[test]
    fn headers_of_requests_are_changed_whatever_the_pieces(
        requests in prop::collection::vec(request(), 1..5),
        cuts in prop::collection::vec(any::<usize>(), 0..60),
    ) {
        let policy = policy(HEADERS);
        let edits = edits(&policy);
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for request in &requests {
            let (sent, edited) = request.build();
            stream.extend(sent);
            expected.extend(edited);
        }
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        prop_assert_eq!(shown(&pushed(&edits, &stream, &cuts)), shown(&expected));
        prop_assert_eq!(shown(&classified(&edits, &stream, &cuts)), shown(&expected));
    }

    #[test]
    fn any_bytes_are_the_same_in_one_piece_and_in_many(
        stream in prop::collection::vec(prop::sample::select(&b"GET / HTTP/1.1\r\n\r\n: cookie,0123chunked"[..]), 0..300),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let policy = policy(HEADERS);
        let edits = edits(&policy);
        let whole = pushed(&edits, &stream, &[]);
        prop_assert_eq!(&pushed(&edits, &stream, &cuts), &whole);
        prop_assert_eq!(&classified(&edits, &stream, &cuts), &whole);
    }

    #[test]
    fn what_is_not_http_1_stays_as_it_is(stream in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(any::<usize>(), 0..10)) {
        let policy = policy(HEADERS);
        let edits = edits(&policy);
        let mut message = b"\x16\x03\x01".to_vec();
        message.extend(stream);
        prop_assert_eq!(&classified(&edits, &message, &cuts), &message);
    }
}

#[test]
fn headers_and_literals_are_edited_one_after_the_other() {
    let policy = policy(&format!(
        "{HEADERS}\nreplace = [{{ find = 'none', with = 'nothing' }}]"
    ));
    let edits = edits(&policy);
    let sent = b"GET / HTTP/1.1\r\nAgent: x\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let expected = "GET / HTTP/1.1\r\nAgent: nothing at all\r\nA-New: 1\r\n\r\n\
                    GET / HTTP/1.1\r\nA-New: 1\r\nAgent: nothing at all\r\n\r\n";
    for cut in 0..sent.len() {
        let out = classified(&edits, sent, &[cut]);
        assert_eq!(String::from_utf8_lossy(&out), expected, "cut at {cut}");
    }
}

#[test]
fn a_tunnel_and_a_body_of_no_clear_length_end_the_changes() {
    let policy = policy(HEADERS);
    let edits = edits(&policy);
    let request = "GET / HTTP/1.1\r\n\r\n";
    for head in [
        "CONNECT a:1 HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n",
    ] {
        let sent = format!("{head}\r\n{request}");
        let expected = format!("{head}A-New: 1\r\nAgent: none at all\r\n\r\n{request}");
        let out = pushed(&edits, sent.as_bytes(), &[3, 17, 40]);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

#[test]
fn the_direction_of_an_edit_counts() {
    let policy = policy("replace = [{ find = 'x', with = 'y', direction = 'received' }]");
    assert!(edits(&policy).is_none());
}

/// The lines that are a header of this name, and what is left without them.
fn without_header(stream: &[u8]) -> (Vec<String>, String) {
    let text = String::from_utf8_lossy(stream);
    let (found, left): (Vec<_>, Vec<_>) = text
        .split_inclusive("\r\n")
        .partition(|line| line.to_ascii_lowercase().starts_with("x-test:"));
    let found = found.into_iter().map(|line| line.trim_end().to_owned());
    (found.collect(), left.concat())
}

#[test]
fn a_rule_that_comes_into_force_anywhere_neither_doubles_nor_cuts_a_header() {
    let request = "PUT / HTTP/1.1\r\nX-Test: a secret\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    let stream = request.repeat(3);
    let (_, left) = without_header(stream.as_bytes());
    let effects = [
        "http_header = { X-Test = 'one' }",
        "http_header = { Other = false, X-Test = 'two' }",
        "http_header = { X-Test = false }",
        "http_header = { x-test = 'one' }\nreplace = [{ find = 'zz', with = 'yy' }]",
        "replace = [{ find = 'zz', with = 'yy' }]",
        "dscp = 1",
    ];
    let policies = effects.map(policy);
    for (first, one) in policies.iter().enumerate() {
        for (second, other) in policies.iter().enumerate() {
            let [one, other] = [one, other].map(edits);
            let other = other.in_epoch(1);
            for at in 0..=stream.len() {
                let (before, after) = stream.as_bytes().split_at(at);
                let pieces = [(one, before), (other, after)];
                for out in [pushed_by(&pieces), classified_by(&pieces)] {
                    let what = format!("{} then {} at {at}", effects[first], effects[second]);
                    let (mut found, rest) = without_header(&out);
                    for line in &mut found {
                        line.make_ascii_lowercase();
                    }
                    assert_eq!(rest, left, "{what}: {}", String::from_utf8_lossy(&out));
                    let known = ["x-test: one", "x-test: two", "x-test: a secret"];
                    assert!(
                        found.iter().all(|line| known.contains(&line.as_str())),
                        "{what}: {found:?}"
                    );
                    assert!(found.len() <= 3, "{what}: {found:?}");
                    // Where both rules give it a value, each request has one of theirs.
                    if first < 2 && second < 2 {
                        assert_eq!(found.len(), 3, "{what}: {found:?}");
                        assert!(
                            !found.iter().any(|line| line.ends_with("secret")),
                            "{what}: {found:?}"
                        );
                    }
                    // Where only the later has headers, and something has passed before, it does not know where it is.
                    if first > 3 && second < 4 && at > 0 {
                        assert!(
                            found.iter().all(|line| line.ends_with("secret")),
                            "{what}: {found:?}"
                        );
                    }
                }
            }
        }
    }
}
