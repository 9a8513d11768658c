//! Finding the host name that a connection is meant for.
//!
//! The parsers are pushed the initiator's bytes as they come, in pieces of any size; any division into pieces gives
//! the same result. They keep a few words of state and the name itself, never the bytes, and give up at a bound
//! ([`MAX_STREAM`]). Work is linear in the bytes given.
//!
//! What is understood: the server name in a TLS `ClientHello` (RFC 8446, RFC 6066), on TCP or in QUIC ([`quic`]), the
//! host of a first HTTP/1 request (RFC 9112), and the first question of a DNS query (RFC 1035), in a datagram or on a
//! TCP connection to port 53. QUIC alone has to keep bytes, in an [assembly](quic::Assembly).

mod assembly;
mod dns;
mod http;
mod name;
pub mod quic;
mod tls;

pub use assembly::{AssemblyPool, AssemblySlot};
pub use dns::question;
pub use name::HostName;

pub(crate) use assembly::{NoRoom, Quic};

use dns::DnsParser;
use http::HttpParser;
use portcullis_proto::event::HostSource;
use tls::TlsParser;

/// The most bytes of a stream that are looked at. A `ClientHello` with post-quantum key shares is about 2 KiB, a
/// request's header hardly ever above 16 KiB.
pub const MAX_STREAM: u32 = 64 << 10;
/// The most bytes that a responder may send before the initiator has named a host.
///
/// In the protocols understood here the initiator speaks first, and gets nothing of size back before it has said all
/// of its greeting.
pub const MAX_EARLY_RESPONSE: u64 = 16 << 10;
/// The port of DNS.
pub const DNS_PORT: u16 = 53;

/// What a parser found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet; the next bytes may tell.
    NeedMore,
    /// The host name, now in the sniffer's [`name`](HostSniffer::name), and by which protocol.
    Host(HostSource),
    /// There is no host name, and why.
    None(HostSource),
}

/// Watches the beginning of a stream for a host name.
#[derive(Clone, Copy, Debug)]
pub struct HostSniffer {
    name: HostName,
    seen: u32,
    early: u64,
    has_encrypted: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Nothing was sent yet.
    Start {
        dns: bool,
    },
    Tls(TlsParser),
    Http(HttpParser),
    Dns(DnsParser),
    Done(Outcome),
}

impl HostSniffer {
    /// A sniffer for a TCP connection whose responder has this port.
    #[must_use]
    pub const fn stream(responder_port: u16) -> Self {
        Self {
            name: HostName::EMPTY,
            seen: 0,
            early: 0,
            has_encrypted: false,
            stage: Stage::Start {
                dns: responder_port == DNS_PORT,
            },
        }
    }

    /// A sniffer that has found, and will find, nothing.
    #[must_use]
    pub const fn never() -> Self {
        Self {
            name: HostName::EMPTY,
            seen: 0,
            early: 0,
            has_encrypted: false,
            stage: Stage::Done(Outcome::None(HostSource::NotRecognized)),
        }
    }

    /// What is known so far.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self.stage {
            Stage::Done(outcome) => outcome,
            _ => Outcome::NeedMore,
        }
    }

    /// The host name; empty if none was found.
    #[must_use]
    pub const fn name(&self) -> &HostName {
        match self.stage {
            Stage::Done(Outcome::Host(_)) => &self.name,
            _ => &HostName::EMPTY,
        }
    }

    /// The initiator sent these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Outcome {
        let Some(&first) = bytes.first() else {
            return self.outcome();
        };
        if let Stage::Start { dns } = self.stage {
            self.stage = match first {
                tls::HANDSHAKE => Stage::Tls(TlsParser::new()),
                b'A'..=b'Z' | b'\r' | b'\n' => Stage::Http(HttpParser::new()),
                _ if dns => Stage::Dns(DnsParser::stream()),
                _ => Stage::Done(Outcome::None(HostSource::NotRecognized)),
            };
        }
        let room = MAX_STREAM.saturating_sub(self.seen) as usize;
        let within = bytes.get(..room).unwrap_or(bytes);
        let mut outcome = match &mut self.stage {
            Stage::Tls(parser) => parser.push(within, &mut self.name),
            Stage::Http(parser) => parser.push(within, &mut self.name),
            Stage::Dns(parser) => parser.push(within, &mut self.name),
            Stage::Start { .. } | Stage::Done(_) => return self.outcome(),
        };
        self.seen =
            u32::try_from(bytes.len()).map_or(MAX_STREAM, |more| self.seen.saturating_add(more));
        if outcome == Outcome::NeedMore && self.seen >= MAX_STREAM {
            outcome = self.without_more(HostSource::TooLong);
        }
        self.conclude(outcome)
    }

    /// The responder sent this many bytes. If it speaks first the protocol is none that names a host.
    pub const fn respond(&mut self, bytes: u64) -> Outcome {
        self.early = self.early.saturating_add(bytes);
        let outcome = match self.stage {
            Stage::Done(outcome) => outcome,
            Stage::Start { .. } if bytes > 0 => Outcome::None(HostSource::NeverSent),
            _ if self.early > MAX_EARLY_RESPONSE => self.without_more(HostSource::NeverSent),
            _ => Outcome::NeedMore,
        };
        self.conclude(outcome)
    }

    /// Bytes are missing or no more will come: what is not known now will never be.
    pub const fn end(&mut self) -> Outcome {
        let outcome = match self.outcome() {
            Outcome::NeedMore => self.without_more(HostSource::NeverSent),
            known => known,
        };
        self.conclude(outcome)
    }

    /// Whether the name's message has an encrypted `ClientHello` in it too, or what looks like one: then this is the name
    /// of who can decrypt it, which need not be the server that is meant.
    #[must_use]
    pub const fn has_encrypted_hello(&self) -> bool {
        self.has_encrypted
    }

    /// What is known if nothing more can be read, and why.
    const fn without_more(&self, reason: HostSource) -> Outcome {
        match &self.stage {
            Stage::Tls(parser) => parser.hello().without_more(reason),
            _ => Outcome::None(reason),
        }
    }

    const fn conclude(&mut self, outcome: Outcome) -> Outcome {
        if !matches!(outcome, Outcome::NeedMore) {
            if let Stage::Tls(parser) = &self.stage {
                self.has_encrypted = parser.hello().has_encrypted();
            }
            self.stage = Stage::Done(outcome);
        }
        outcome
    }
}
