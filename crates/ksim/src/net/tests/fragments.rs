//! Fragmented datagrams.

use wfp_schema::{ConditionFlags, LayerId, LayerKind};

use super::build::{fragment, socket, udp};
use super::recorder::{SECOND, host};
use crate::net::{Outcome, PacketId, Reason};

const ENDS: [(&str, &str); 2] = [
    ("192.0.2.1:5000", "10.0.0.1:53"),
    ("[2001:db8::1]:5000", "[fd00::1]:53"),
];

fn data() -> Vec<u8> {
    (0..200).collect()
}

#[test]
fn inbound_fragments_are_shown_twice_each_and_the_datagram_once_more() {
    for (client, server) in ENDS {
        let mut host = host();
        let packet = udp(socket(client), socket(server), &data());
        let fragments = fragment(&packet, 80);
        assert_eq!(fragments.len(), 3);
        let reports: Vec<_> = fragments
            .iter()
            .map(|fragment| host.packet(0, fragment))
            .collect();
        assert_eq!(reports[0].reason, Some(Reason::AwaitsFragments));
        assert!(reports[2].passed);
        assert_eq!(host.settled(), [(PacketId(0), true), (PacketId(1), true)]);
        let flags: Vec<_> = host
            .filtering()
            .shown
            .iter()
            .filter(|shown| shown.what == "INBOUND_IPPACKET")
            .map(|shown| {
                ConditionFlags::from_bits(u32::try_from(shown.fields["FLAGS"]).expect("32 bits"))
            })
            .collect();
        let (plain, piece) = (ConditionFlags::NONE, ConditionFlags::IS_FRAGMENT);
        assert_eq!(
            flags,
            [
                plain,
                piece,
                plain,
                piece,
                plain,
                piece,
                ConditionFlags::IS_REASSEMBLED
            ]
        );
        assert_eq!(host.filtering().last("DATAGRAM_DATA").data, Some(data()));
        assert_eq!(
            host.flows()[0].packets,
            [0, 3],
            "collectors count each fragment"
        );
        assert_eq!(host.flows()[0].passed, [0, 3]);
        assert_eq!(host.counters().passed, 3);
    }
}

#[test]
fn fragments_may_come_in_any_order_and_twice() {
    for (client, server) in ENDS {
        let fragments = fragment(&udp(socket(client), socket(server), &data()), 80);
        for order in [[2, 1, 0], [1, 0, 2], [2, 0, 1]] {
            let mut host = host();
            for index in order {
                host.packet(0, &fragments[index]);
                if index != order[2] {
                    host.packet(0, &fragments[index]);
                }
            }
            assert_eq!(
                host.filtering().last("DATAGRAM_DATA").data,
                Some(data()),
                "{order:?}"
            );
        }
    }
}

#[test]
fn outbound_fragments_are_one_packet_to_the_layers() {
    let mut host = host();
    let packet = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), &data());
    for fragment in fragment(&packet, 80) {
        host.packet(0, &fragment);
    }
    assert_eq!(host.filtering().count("OUTBOUND_IPPACKET"), 1);
    let mut whole = host
        .filtering()
        .last("OUTBOUND_IPPACKET")
        .data
        .clone()
        .expect("a packet");
    whole[10..12].fill(0);
    assert_eq!(whole, packet, "as it was before, but for the checksum");
    host.filtering()
        .answers
        .insert(LayerKind::DatagramData, Outcome::Block);
    let reports: Vec<_> = fragment(&packet, 80)
        .iter()
        .map(|piece| host.packet(0, piece))
        .collect();
    assert_eq!(
        reports[2].reason,
        Some(Reason::Blocked(LayerId::DATAGRAM_DATA_V4))
    );
    let settled = host.settled();
    assert_eq!(
        settled[2..],
        [(reports[0].id, false), (reports[1].id, false)]
    );
}

#[test]
fn an_overlap_discards_the_datagram() {
    for (client, server) in ENDS {
        let mut host = host();
        let packet = udp(socket(client), socket(server), &data());
        let (fine, coarse) = (fragment(&packet, 40), fragment(&packet, 80));
        host.packet(0, &coarse[0]);
        let report = host.packet(0, &fine[1]);
        assert_eq!(report.reason, Some(Reason::FragmentsDiscarded));
        assert_eq!(host.settled(), [(PacketId(0), false)]);
        assert_eq!(host.counters().fragments_discarded, 2);
        assert!(host.flows().is_empty());
    }
}

#[test]
fn a_datagram_that_stays_incomplete_is_given_up() {
    let mut host = host();
    let fragments = fragment(&udp(socket(ENDS[0].0), socket(ENDS[0].1), &data()), 80);
    host.packet(0, &fragments[0]);
    host.advance_to(59 * SECOND);
    assert!(host.settled().is_empty());
    host.advance_to(60 * SECOND);
    assert_eq!(host.settled(), [(PacketId(0), false)]);
    host.packet(61 * SECOND, &fragments[1]);
    host.packet(61 * SECOND, &fragments[2]);
    host.finish();
    assert_eq!(host.settled(), [(PacketId(1), false), (PacketId(2), false)]);
    assert_eq!(host.counters().reassembled, 0);
}

#[test]
fn a_blocked_fragment_never_joins_its_datagram() {
    let mut host = host();
    let fragments = fragment(&udp(socket(ENDS[0].0), socket(ENDS[0].1), &data()), 80);
    host.packet(0, &fragments[0]);
    host.filtering()
        .answers
        .insert(LayerKind::InboundIpPacket, Outcome::Block);
    let report = host.packet(0, &fragments[1]);
    assert_eq!(
        report.reason,
        Some(Reason::Blocked(LayerId::INBOUND_IPPACKET_V4))
    );
    host.filtering().answers.clear();
    assert_eq!(
        host.packet(0, &fragments[2]).reason,
        Some(Reason::AwaitsFragments)
    );
}

#[test]
fn memory_for_fragments_is_bounded() {
    let mut host = host();
    let mut discarded = 0;
    for number in 0..3000_u16 {
        let mut piece = fragment(&udp(socket(ENDS[0].0), socket(ENDS[0].1), &data()), 80).remove(0);
        piece[4..6].copy_from_slice(&number.to_be_bytes());
        let report = host.packet(0, &piece);
        discarded += usize::from(report.reason == Some(Reason::FragmentsDiscarded));
    }
    assert_eq!(discarded, 3000 - 1024);
}
