//! What reads bytes, and what must hold of it.

pub mod control;
pub mod files;
pub mod names;
pub mod packets;
pub mod policies;
pub mod streams;

use crate::{Fuzzer, seeds};

/// Something that takes any bytes. It panics where a promise is broken.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// It.
    pub run: fn(&[u8]),
    /// Real input to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that its format knows.
    pub dictionary: &'static [&'static [u8]],
}

impl Target {
    /// Makes input for it.
    #[must_use]
    pub fn fuzzer(&self, random: u64) -> Fuzzer {
        Fuzzer::new((self.seeds)(), self.dictionary, random)
    }
}

const TOML: &[&[u8]] = &[
    b"[[rule]]\n",
    b"action = 'block'\n",
    b"host = ['*.example.net']\n",
    b"remote_address = ",
    b"'10.0.0.0/8'",
    b"'::/0'",
    b"'8000-8100'",
    b"content_hex = 'de ad'\n",
    b"application = '**\\\\*'\n",
    b"[boot]\n",
    b"replace = [{ find = 'a', with = 'b' }]\n",
    b"http_header = { Cookie = false }\n",
    b"\xc3\xa9",
    b"\n",
    b"18446744073709551616",
    b"[",
    b"{",
    b"'",
    b"\"",
];

const HTTP: &[&[u8]] = &[
    b"\r\n",
    b"Host: ",
    b"Agent: a\r\n",
    b"Cookie: a=b\r\n",
    b"GET / HTTP/1.1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"secret",
    b"secre",
    b"none",
    b"\xff",
    b"\x16\x03\x01",
    b"\x00\x00",
];

/// All of them.
pub const TARGETS: [Target; 12] = [
    Target {
        name: "policy",
        run: policies::compiled,
        seeds: seeds::blobs,
        dictionary: &[],
    },
    Target {
        name: "policy-text",
        run: policies::text,
        seeds: seeds::policies,
        dictionary: TOML,
    },
    Target {
        name: "stream-host",
        run: names::stream,
        seeds: || seeds::payloads(6),
        dictionary: HTTP,
    },
    Target {
        name: "dns",
        run: names::dns,
        seeds: || seeds::payloads(17),
        dictionary: &[b"\x07example", b"\x00", b"\xc0\x0c"],
    },
    Target {
        name: "quic",
        run: names::quic,
        seeds: names::quic_seeds,
        dictionary: &[b"\x06\x00", b"\x01", b"\x00\x00\x00\x00", b"\x40\x10"],
    },
    Target {
        name: "packet",
        run: packets::edit,
        seeds: packets::seeds,
        dictionary: &[b"\x2c\x00", b"\x3c\x00\x05\x02", b"\x2b\x02", b"\x01\x01"],
    },
    Target {
        name: "segments",
        run: packets::segments,
        seeds: packets::seeds,
        dictionary: &[],
    },
    Target {
        name: "stream-edit",
        run: streams::edit,
        seeds: streams::seeds,
        dictionary: HTTP,
    },
    Target {
        name: "request",
        run: control::requests,
        seeds: seeds::requests,
        dictionary: &[],
    },
    Target {
        name: "reply",
        run: control::replies,
        seeds: seeds::replies,
        dictionary: &[],
    },
    Target {
        name: "capture-file",
        run: files::capture,
        seeds: seeds::captures,
        dictionary: &[
            b"\x0a\x0d\x0d\x0a",
            b"\x4d\x3c\x2b\x1a",
            b"\xd4\xc3\xb2\xa1",
            b"\x06\x00\x00\x00",
            b"\x81\x00\x00\x01",
            b"\x88\x64\x11\x00",
        ],
    },
    Target {
        name: "image",
        run: files::image,
        seeds: seeds::images,
        dictionary: &[b"PE\0\0", b"RSDS", b"\x01\x04\x01\x00"],
    },
];
