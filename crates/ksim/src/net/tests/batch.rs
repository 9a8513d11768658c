//! UDP datagrams that go through the stack as one packet, and where they do not.

use wfp_engine::Offload as Kind;
use wfp_schema::LayerKind;

use super::build::{socket, udp};
use super::recorder::{Recorder, setup};
use crate::net::card::split;
use crate::net::{Host, Output, Packet, Setup};

const LOCAL: &str = "10.0.0.1:5000";
const REMOTE: &str = "192.0.2.1:443";

/// A host with a callout at a layer that does not tolerate an offload.
fn host(intolerant: Option<(LayerKind, Kind)>) -> Host<Recorder> {
    let recorder = Recorder {
        intolerant,
        ..Recorder::default()
    };
    let setup = Setup {
        output: true,
        ..setup()
    };
    Host::new(recorder, setup)
}

fn large(data: &[u8]) -> Vec<u8> {
    udp(socket(LOCAL), socket(REMOTE), data)
}

/// Three datagrams from the other end.
fn burst() -> Vec<Vec<u8>> {
    right(&udp(socket(REMOTE), socket(LOCAL), b"aaaabbbbcc"), 4)
}

/// Datagrams of so many bytes, with right checksums.
fn right(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    split(&Packet::parse(packet).expect("a packet"), size)
}

/// The data of what left the host, to the wire and to sockets.
fn left(host: &mut Host<Recorder>) -> Vec<Vec<u8>> {
    let output = host.output().into_iter().filter_map(|output| match output {
        Output::Sent(packet) => Some(packet[28..].to_vec()),
        Output::Datagram { bytes, .. } => Some(bytes),
        Output::Stream { .. } => None,
    });
    output.collect()
}

#[test]
fn what_nobody_minds_is_one_packet_at_every_layer_and_split_behind_them() {
    let mut host = host(None);
    let reports = host.send_segmented(0, &large(b"aaaabbbbcc"), 4);
    assert_eq!(reports.len(), 1);
    assert!(reports[0].passed);
    assert_eq!(left(&mut host), [&b"aaaa"[..], b"bbbb", b"cc"]);
    let reports = host.receive_burst(1, &burst());
    assert_eq!(reports.len(), 1);
    assert!(reports[0].passed);
    assert_eq!(left(&mut host), [&b"aaaa"[..], b"bbbb", b"cc"]);
    assert_eq!(host.filtering().count("DATAGRAM_DATA"), 2);
    let flow = &host.flows()[0];
    assert_eq!((flow.packets, flow.passed), ([3, 3], [3, 3]));
    assert_eq!(flow.bytes, [3 * 28 + 10; 2], "as they are on the wire");
}

#[test]
fn a_callout_that_does_not_tolerate_it_sees_each_datagram_by_itself() {
    for (layer, sent, received) in [
        (LayerKind::DatagramData, 3, 3),
        (LayerKind::OutboundTransport, 3, 1),
        (LayerKind::AleAuthRecvAccept, 1, 3),
        // Not on their way.
        (LayerKind::Stream, 1, 1),
    ] {
        for kind in Kind::ALL {
            let mut host = host(Some((layer, kind)));
            let of = |affected, count| if kind == affected { count } else { 1 };
            let reports = host.send_segmented(0, &large(b"aaaabbbbcc"), 4);
            assert_eq!(reports.len(), of(Kind::Uso, sent), "{layer:?}, {kind:?}");
            let reports = host.receive_burst(1, &burst());
            assert_eq!(
                reports.len(),
                of(Kind::Uro, received),
                "{layer:?}, {kind:?}"
            );
            assert_eq!(left(&mut host).len(), 6);
        }
    }
}

#[test]
fn only_what_has_one_size_is_merged() {
    let mut host = host(None);
    let datagram = |source: &str, data: &[u8]| {
        let packet = udp(socket(source), socket(LOCAL), data);
        right(&packet, 100).pop().unwrap_or(packet)
    };
    let from = |data: &[u8]| datagram(REMOTE, data);
    let other = datagram("192.0.2.1:444", b"4444");
    let datagrams = [
        from(b"1111"),
        from(b"11"),
        from(b"2222"),
        from(b"22222"),
        other,
        from(b""),
        b"no packet".to_vec(),
    ];
    let reports = host.receive_burst(0, &datagrams);
    assert_eq!(
        reports.len(),
        6,
        "a shorter one is the last, a longer one the next"
    );
    assert!(!reports[5].passed);
    assert_eq!(left(&mut host).len(), 6);
}
