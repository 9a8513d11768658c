//! Edits of streams.

use std::sync::LazyLock;

use portcullis_core::stream::{Editor, Edits, Stuck};
use portcullis_core::{
    Application, Connection, Direction, Endpoint, Host, Policy, Transfer, connection::TCP,
};
use portcullis_policy::{Options, compile};

/// A policy with one rule, which edits what is sent.
fn policy(effects: &str) -> Policy<Vec<u8>> {
    let text =
        format!("default = 'block'\n[[rule]]\naction = 'permit'\nprotocol = 'tcp'\n{effects}\n");
    let compiled = compile(&text, &Options::default()).unwrap_or_else(|found| panic!("{found:?}"));
    Policy::new(compiled.blob).expect("it was just compiled")
}

const HEADERS: &str = "http_header = { A-New = '1', Agent = 'none at all', Cookie = false }";
const LITERALS: &str = "replace = [{ find = 'secret', with = '*' }, { find = 'none', with = 'nothing' }, \
                        { find = 'a', with = 'aa' }]";

static POLICIES: LazyLock<[Policy<Vec<u8>>; 3]> = LazyLock::new(|| {
    [
        policy(HEADERS),
        policy(LITERALS),
        policy(&format!("{HEADERS}\n{LITERALS}")),
    ]
});

/// The edits of a policy's rule for what is sent.
fn edits(policy: &Policy<Vec<u8>>) -> Edits<'_> {
    let view = policy.view();
    let end = |last, port| Endpoint::new([10, 0, 0, last].into(), port);
    let connection = Connection {
        direction: Direction::Outbound,
        protocol: TCP,
        local: end(1, 50_000),
        remote: end(2, 80),
        application: Application::UNKNOWN,
        user: &[],
        process_id: 4,
        flow: 1,
        interface: 0,
    };
    let rule = view
        .decide(&connection, Host::Never)
        .rule
        .expect("the rule");
    Edits::new(view, rule, view.effect_set(), Transfer::Sent, true)
}

/// Requests of the captures, and what the policies change.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let payloads = crate::seeds::payloads(6).into_iter();
    payloads
        .map(|payload| payload[2..].to_vec())
        .chain([
            b"GET / HTTP/1.1\r\nHost: a\r\nAgent: b\r\nCookie: c\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"
                .to_vec(),
            b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nsecretnone".to_vec(),
            b"secretsecretsecre".to_vec(),
        ])
        .collect()
}

/// What becomes of a stream that comes in these pieces.
pub type EditStream<'e> = dyn Fn(&Edits<'_>, &[&[u8]]) -> Vec<u8> + 'e;

/// A stream: what becomes of it does not depend on how it is cut.
///
/// # Panics
/// When it does.
pub fn edit(bytes: &[u8]) {
    edit_by(bytes, &|edits, pieces| {
        let mut editor = Editor::new();
        let mut out = Vec::new();
        let ends = pieces
            .iter()
            .map(|&piece| (piece, false))
            .chain([(&[][..], true)]);
        for (piece, last) in ends {
            let mut put = |bytes: &[u8]| -> Result<(), Stuck> {
                out.extend_from_slice(bytes);
                Ok(())
            };
            editor
                .push(edits, piece, last, &mut put)
                .expect("there is room");
        }
        assert!(!editor.is_waiting(), "nothing is waited for at the end");
        out
    });
}

/// As [`edit`], with this editor.
///
/// # Panics
/// When what becomes of the stream depends on how it is cut.
pub fn edit_by(bytes: &[u8], edit: &EditStream<'_>) {
    for policy in POLICIES.iter() {
        let edits = edits(policy);
        let whole = edit(&edits, &[bytes]);
        for size in [1, 3, 64] {
            let pieces: Vec<_> = bytes.chunks(size).collect();
            assert_eq!(edit(&edits, &pieces), whole, "in pieces of {size}");
        }
    }
}
