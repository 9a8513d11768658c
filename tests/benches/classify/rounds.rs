//! What a round sends to measure a kind of rule.

use ksim::net::packet::Packet;
use portcullis_tests::messages::{client_hello, http_request};
use portcullis_tests::packets::unreachable;
use portcullis_tests::{Tcp, udp};

use crate::quic;

/// So many units a round.
pub(crate) const UNITS: u16 = 64;
/// The first port of a round's connections.
pub(crate) const PORTS: u16 = 20_000;

/// What a round sends: first what is not measured, then so many units.
pub(crate) struct Traffic {
    pub(crate) before: Vec<Vec<u8>>,
    pub(crate) measured: Vec<Vec<u8>>,
}

/// A connection of this host's.
pub(crate) fn connection(port: u16) -> Tcp {
    Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:443")
}

/// A connection begins in each unit.
pub(crate) fn handshakes() -> Traffic {
    let measured = (PORTS..PORTS + UNITS).flat_map(|port| connection(port).handshake());
    Traffic {
        before: Vec::new(),
        measured: measured.collect(),
    }
}

/// A connection ends in each unit.
pub(crate) fn closings() -> Traffic {
    let (mut before, mut measured) = (Vec::new(), Vec::new());
    for port in PORTS..PORTS + UNITS {
        let mut tcp = connection(port);
        before.extend(tcp.handshake());
        before.push(tcp.client_says(b"question"));
        before.push(tcp.server_says(b"answer"));
        measured.extend(tcp.close());
    }
    Traffic { before, measured }
}

/// The first datagram to the server in each unit.
pub(crate) fn datagram_each() -> Traffic {
    let measured = (0..UNITS).map(|unit| {
        let client = format!("192.0.2.10:{}", 50_000 + unit);
        udp(&client, "198.51.100.1:443", b"question")
    });
    Traffic {
        before: Vec::new(),
        measured: measured.collect(),
    }
}

/// What each connection says first.
fn firsts(message: &[u8]) -> Traffic {
    let (mut before, mut measured) = (Vec::new(), Vec::new());
    for port in PORTS..PORTS + UNITS {
        let mut tcp = connection(port);
        before.extend(tcp.handshake());
        measured.push(tcp.client_says(message));
    }
    Traffic { before, measured }
}

pub(crate) fn greetings() -> Traffic {
    firsts(&client_hello(Some("www.example.net")))
}

pub(crate) fn requests() -> Traffic {
    firsts(&http_request("www.example.net"))
}

/// Segments of one connection.
fn of_one(segment: &[u8]) -> Traffic {
    let mut tcp = connection(PORTS);
    let mut before = tcp.handshake();
    before.push(tcp.client_says(segment));
    Traffic {
        before,
        measured: (0..UNITS).map(|_| tcp.client_says(segment)).collect(),
    }
}

pub(crate) fn segments() -> Traffic {
    of_one(&[b'.'; 1_460])
}

pub(crate) fn words() -> Traffic {
    let mut segment = [b'.'; 1_460];
    segment[700..714].copy_from_slice(b"Project Falcon");
    of_one(&segment)
}

pub(crate) fn datagrams() -> Traffic {
    let datagram = || udp("192.0.2.10:20000", "198.51.100.1:443", &[0x40; 512]);
    Traffic {
        before: vec![datagram()],
        measured: (0..UNITS).map(|_| datagram()).collect(),
    }
}

/// In each unit another host begins a connection to this one.
pub(crate) fn visits() -> Traffic {
    let visit = |port| Tcp::new(&format!("198.51.100.1:{port}"), "192.0.2.10:443");
    let measured = (PORTS..PORTS + UNITS).map(|port| visit(port).handshake().remove(0));
    Traffic {
        before: Vec::new(),
        measured: measured.collect(),
    }
}

/// The first datagram of a QUIC connection to `host`.
pub(crate) fn initial(host: &str) -> Vec<u8> {
    // A handshake message without its record's header.
    let hello = client_hello(Some(host)).split_off(5);
    let client = quic::Client::new(quic::Version::One, &[7; 8]);
    client.initial(0, &quic::crypto(0, &hello))
}

/// Datagrams of other machines, which this one forwards.
pub(crate) fn transits() -> Traffic {
    let datagram = || udp("203.0.113.7:20000", "198.51.100.1:443", &[0x40; 512]);
    Traffic {
        before: vec![datagram()],
        measured: (0..UNITS).map(|_| datagram()).collect(),
    }
}

/// ICMP errors about a datagram of this host's.
pub(crate) fn errors() -> Traffic {
    let question = udp("192.0.2.10:20000", "198.51.100.1:443", b"question");
    let packet = Packet::parse(&question).expect("a packet");
    let [host, peer] = [packet.source, packet.destination]
        .map(|address| ksim::net::packet::ip_addr(packet.version, address));
    let error = unreachable(peer, host, &question);
    Traffic {
        before: vec![question],
        measured: (0..UNITS).map(|_| error.clone()).collect(),
    }
}
