//! What comes through the stack, as its journal tells.

use wfp_schema::LayerKind;

use super::build::{ACK, Dialogue, FIN, socket, udp};
use super::recorder::{Recorder, setup};
use crate::net::{Host, Injection, InjectionMark, InjectionPoint, Outcome, Passage, Reason, Setup};

fn host() -> Host<Recorder> {
    let setup = Setup {
        journal: true,
        ..setup()
    };
    Host::new(Recorder::of_everything(), setup)
}

/// What a journal says of data: where it begins and whether it was let go. An end is empty.
fn data(journal: &[Passage]) -> Vec<(Option<u32>, &[u8])> {
    let told = journal.iter().filter_map(|passage| match passage {
        Passage::Arrived {
            sequence, bytes, ..
        } => Some((Some(*sequence), &bytes[..])),
        Passage::EndArrived { sequence, .. } => Some((Some(*sequence), &[][..])),
        Passage::Released { bytes, .. } => Some((None, &bytes[..])),
        _ => None,
    });
    told.collect()
}

#[test]
fn data_is_told_in_order_with_its_numbers_before_and_behind_callouts_and_then_its_packet() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    assert!(data(&host.journal()).is_empty());
    let first = talk.next[1];
    let [one, two] = [b"one" as &[u8], b"two"].map(|text| talk.say(false, text));
    let last = talk.segment(false, FIN | ACK, b"");
    host.packet(0, &two);
    assert!(data(&host.journal()).is_empty(), "it came early");
    host.packet(0, &one);
    let journal = host.journal();
    let expected: [(_, &[u8]); 4] = [
        (Some(first), b"one"),
        (None, b"one"),
        (Some(first.wrapping_add(3)), b"two"),
        (None, b"two"),
    ];
    assert_eq!(data(&journal), expected);
    let Some(Passage::Packet {
        bytes: None,
        result: Ok(()),
        outbound: false,
        ..
    }) = journal.last()
    else {
        panic!("{journal:?}");
    };
    host.packet(0, &last);
    let end: [(_, &[u8]); 2] = [(Some(first.wrapping_add(6)), b""), (None, b"")];
    assert_eq!(data(&host.journal()), end);
}

#[test]
fn a_packet_that_a_callout_keeps_is_told_again_with_what_was_injected_for_it() {
    let mut host = host();
    let layer = LayerKind::OutboundIpPacket;
    host.filtering().answers.insert(layer, Outcome::Absorb);
    let packet = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"?");
    let report = host.packet(0, &packet);
    let told = |host: &mut Host<Recorder>| match host.journal().pop() {
        Some(Passage::Packet {
            id, bytes, result, ..
        }) => (id, bytes, result.map_err(Reason::is_pending)),
        other => panic!("{other:?}"),
    };
    assert_eq!(told(&mut host), (report.id, None, Err(true)));
    host.filtering().answers.clear();
    let mut changed = packet;
    changed[1] = 0xb8;
    host.inject(&Injection {
        point: InjectionPoint::NetworkSend,
        bytes: &changed,
        mark: InjectionMark(1),
        origin: Some(report.id),
        link: 0,
        hops: 0,
    });
    assert_eq!(told(&mut host), (report.id, Some(changed), Ok(())));
}
