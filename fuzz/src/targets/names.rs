//! Host names in what clients say first.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use parking_lot::RawMutex;
use portcullis_core::connection::UDP;
use portcullis_core::inspect::{HostName, HostSniffer, Outcome, question};
use portcullis_core::{
    Application, AssemblyPool, AssemblySlot, Clock, Connection, Direction, Endpoint,
    EndpointBucket, EventRing, FlowSlot, FlowTable, Indication, Look, Parts, Policy, PolicySource,
    PolicyView, Portcullis, Transfer,
};
use portcullis_policy::{Options, compile};
use portcullis_proto::EventRecord;

use crate::seeds;
use client::{Client, Version, crypto};

/// Finds a host name in a stream to a port, in pieces.
pub type Sniff<'s> = dyn Fn(u16, &[&[u8]]) -> (Outcome, HostName) + 's;

/// Finds a host name in a datagram, in pieces.
pub type Ask<'a> = dyn Fn(&[&[u8]]) -> (Outcome, HostName) + 'a;

/// A stream: the first two bytes are the port that it goes to.
///
/// # Panics
/// When what is found depends on how the stream is cut, or is no name.
pub fn stream(bytes: &[u8]) {
    stream_by(bytes, &|port, pieces| {
        let mut sniffer = HostSniffer::stream(port);
        let mut outcome = sniffer.outcome();
        for piece in pieces {
            outcome = sniffer.push(piece);
        }
        (outcome, *sniffer.name())
    });
}

/// As [`stream`], with this reader of a stream in pieces.
///
/// # Panics
/// When what is found depends on how the stream is cut, or is no name.
pub fn stream_by(bytes: &[u8], sniff: &Sniff<'_>) {
    let Some((port, bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let port = u16::from_be_bytes(*port);
    let (outcome, name) = sniff(port, &[bytes]);
    assert_eq!(name.is_empty(), !matches!(outcome, Outcome::Host(_)));
    assert!(name.as_bytes().iter().all(u8::is_ascii_graphic));
    for size in [1, 7, 512] {
        let pieces: Vec<_> = bytes.chunks(size).collect();
        let (other, same) = sniff(port, &pieces);
        assert_eq!((other, same.as_bytes()), (outcome, name.as_bytes()));
    }
}

/// A DNS query; the first two bytes are nothing to it.
///
/// # Panics
/// When what is found depends on how the datagram is cut, or is no name.
pub fn dns(bytes: &[u8]) {
    dns_by(bytes, &|pieces| {
        let mut name = HostName::EMPTY;
        let outcome = question(pieces.iter().copied(), &mut name);
        (outcome, name)
    });
}

/// As [`dns`], with this reader.
///
/// # Panics
/// When what is found depends on how the datagram is cut, or is no name.
pub fn dns_by(bytes: &[u8], question: &Ask<'_>) {
    let datagram = bytes.get(2..).unwrap_or_default();
    let (outcome, name) = question(&[datagram]);
    assert_ne!(outcome, Outcome::NeedMore, "a datagram is whole");
    if matches!(outcome, Outcome::Host(_)) {
        assert!(!name.is_empty());
        assert!(name.as_bytes().iter().all(u8::is_ascii_graphic));
    }
    for size in [1, 5] {
        let pieces: Vec<_> = datagram.chunks(size).collect();
        let (other, same) = question(&pieces);
        assert_eq!(other, outcome);
        if matches!(outcome, Outcome::Host(_)) {
            assert_eq!(same.as_bytes(), name.as_bytes());
        }
    }
}

/// A QUIC client's datagrams, as the core takes them. The first byte says whether the rest is a datagram, or frames that
/// are put into one, with a key that fits.
///
/// # Panics
/// When a name is found that was not sent, or memory is kept for a connection that is over.
pub fn quic(bytes: &[u8]) {
    quic_by(bytes, &|datagrams| {
        let core = core();
        let flow = core.flow_established(&CONNECTION).ok();
        for datagram in datagrams {
            let indication = Indication {
                transfer: Transfer::Sent,
                bytes: datagram.len() as u64,
                is_end: false,
                look: Look::Inline,
            };
            // An indication is a chain of pieces of memory.
            black_box(core.datagram(flow, indication, datagram.chunks(100)));
        }
        if let Some(flow) = flow {
            core.flow_deleted(flow);
        }
        assert!(core.assemblies().is_empty(), "memory of an ended flow");
        let events = std::iter::from_fn(|| core.events().read());
        let named = events.filter_map(|event| event.host().map(ToString::to_string));
        named.last()
    });
}

/// As [`quic`], with this reader of a client's datagrams.
///
/// # Panics
/// When a name is found that was not sent.
pub fn quic_by(bytes: &[u8], read: &dyn Fn(&[Vec<u8>]) -> Option<String>) {
    let Some((&mode, rest)) = bytes.split_first() else {
        return;
    };
    if mode & 1 == 0 {
        black_box(read(&[rest.to_vec()]));
        return;
    }
    let version = if mode & 2 == 0 {
        Version::One
    } else {
        Version::Two
    };
    let client = Client::new(version, b"first id");
    let datagrams: Vec<_> = (0..)
        .zip(rest.chunks(1200).take(4))
        .map(|(number, frames)| client.initial(number, frames))
        .collect();
    if let Some(name) = read(&datagrams) {
        let sent: Vec<_> = rest.iter().map(u8::to_ascii_lowercase).collect();
        let name = name.as_bytes();
        let is_sent = sent.windows(name.len()).any(|part| part == name);
        // In frames out of order a name may be in two pieces.
        let is_each_byte = name.iter().all(|byte| sent.contains(byte));
        assert!(is_sent || is_each_byte, "nobody has sent {name:?}");
    }
}

/// A datagram as it is, and frames of another in and out of order.
#[must_use]
pub fn quic_seeds() -> Vec<Vec<u8>> {
    let hello = seeds::payloads(6)
        .into_iter()
        .find(|payload| payload.get(2) == Some(&22))
        .expect("a ClientHello is in the captures");
    // Without the port and the record's header.
    let hello = &hello[7..];
    let client = Client::new(Version::One, b"first id");
    let (first, second) = hello.split_at(hello.len() / 2);
    let whole = crypto(0, hello);
    let ordered = [crypto(0, first), crypto(first.len(), second)].concat();
    let reversed = [
        &[1][..],
        &crypto(first.len(), second),
        &[2, 0, 0, 0, 0],
        &crypto(0, first),
    ]
    .concat();
    let datagram = [client.other(1, 40), client.initial(0, &whole)].concat();
    vec![
        [&[0][..], &datagram].concat(),
        [&[1][..], &whole].concat(),
        [&[3][..], &ordered].concat(),
        [&[1][..], &reversed].concat(),
    ]
}

const CONNECTION: Connection<'static> = Connection {
    direction: Direction::Outbound,
    protocol: UDP,
    local: Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 50_000),
    remote: Endpoint::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443),
    application: Application::UNKNOWN,
    user: &[],
    process_id: 4,
    flow: 1,
    interface: 0,
};

/// A policy that asks for names.
static POLICY: LazyLock<Policy<Vec<u8>>> = LazyLock::new(|| {
    let text = "default = 'permit'\n[[rule]]\naction = 'block'\nhost = 'blocked.example'\n";
    let options = Options {
        events_all: true,
        ..Options::default()
    };
    let compiled = compile(text, &options).unwrap_or_else(|found| panic!("{found:?}"));
    Policy::new(compiled.blob).expect("it was just compiled")
});

struct InForce;

impl PolicySource for InForce {
    fn epoch(&self) -> u64 {
        1
    }

    fn with<T>(&self, with: impl FnOnce(Option<PolicyView<'_>>, u64) -> T) -> T {
        with(Some(POLICY.view()), 1)
    }
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> u64 {
        1
    }
}

type Core = Portcullis<Host>;

enum Host {}

impl Parts for Host {
    type Mutex = RawMutex;
    type Flows = (Vec<FlowSlot<RawMutex>>, Vec<EndpointBucket<RawMutex>>);
    type Assemblies = Vec<AssemblySlot<RawMutex>>;
    type Policy = InForce;
    type Events = EventRing<RawMutex, Vec<EventRecord>>;
    type Clock = Noon;
}

fn core() -> Core {
    let ring = EventRing::new(vec![EventRecord::default(); 16]);
    Portcullis::new(
        FlowTable::new((vec![FlowSlot::new()], vec![EndpointBucket::new()])),
        AssemblyPool::new(vec![AssemblySlot::new()]),
        InForce,
        ring,
        Noon,
    )
}

#[path = "../../../crates/core/tests/shared/quic.rs"]
#[allow(dead_code, unreachable_pub, reason = "the core's tests use the rest")]
mod client;
