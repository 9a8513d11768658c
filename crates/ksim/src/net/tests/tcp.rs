//! Connections: order, loss, retransmission, ends.

use wfp_schema::StreamFlags;

use super::build::{ACK, Dialogue, FIN, RST, SYN};
use super::recorder::{Recorder, host};
use crate::net::Host;

fn connected() -> (Host<Recorder>, Dialogue) {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        assert!(host.packet(0, &packet).passed);
    }
    (host, talk)
}

#[test]
fn data_out_of_order_and_across_the_wrap_is_shown_in_order_once() {
    let (mut host, mut talk) = connected();
    let parts: Vec<_> = (0..6_u8).map(|part| talk.say(false, &[part; 10])).collect();
    for index in [0, 2, 2, 1, 5, 1, 3, 4, 5, 0] {
        host.packet(0, &parts[index]);
    }
    let expected: Vec<u8> = (0..6).flat_map(|part| [part; 10]).collect();
    assert_eq!(host.filtering().heard(StreamFlags::RECEIVE), expected);
}

#[test]
fn of_overlapping_data_the_first_wins() {
    let (mut host, mut talk) = connected();
    let start = talk.next[1];
    talk.next[1] = start.wrapping_add(4);
    host.packet(0, &talk.say(false, b"EEEE"));
    talk.next[1] = start;
    host.packet(0, &talk.say(false, b"abcdefghij"));
    talk.next[1] = start.wrapping_add(2);
    host.packet(0, &talk.say(false, b"XXXXXXXXXXkl"));
    assert_eq!(
        host.filtering().heard(StreamFlags::RECEIVE),
        b"abcdEEEEijXXkl"
    );
}

#[test]
fn keep_alives_and_retransmissions_show_nothing() {
    let (mut host, mut talk) = connected();
    host.packet(0, &talk.say(true, b"data"));
    let pieces = host.filtering().pieces.len();
    let next = talk.next[0];
    talk.next[0] = next.wrapping_sub(1);
    assert!(
        host.packet(0, &talk.say(true, b"\0")).passed,
        "keep-alive with a byte"
    );
    talk.next[0] = next.wrapping_sub(1);
    assert!(
        host.packet(0, &talk.say(true, b"")).passed,
        "keep-alive without"
    );
    talk.next[0] = next.wrapping_sub(4);
    assert!(
        host.packet(0, &talk.say(true, b"data")).passed,
        "retransmission"
    );
    assert!(
        host.packet(0, &talk.segment(false, ACK, b"")).passed,
        "acknowledgment"
    );
    assert_eq!(host.filtering().pieces.len(), pieces);
    assert!(
        host.packet(0, &talk.say(true, b"p")).passed,
        "a probe of a closed window is data"
    );
    assert_eq!(host.filtering().heard(StreamFlags::SEND), b"datap");
}

#[test]
fn a_gap_is_skipped_when_too_much_waits_behind_it() {
    let (mut host, mut talk) = connected();
    talk.say(false, b"lost");
    for _ in 0..256 {
        host.packet(0, &talk.say(false, b"x"));
    }
    assert!(host.filtering().heard(StreamFlags::RECEIVE).is_empty());
    host.packet(0, &talk.say(false, b"x"));
    assert_eq!(
        host.filtering().heard(StreamFlags::RECEIVE),
        vec![b'x'; 257]
    );
    assert_eq!(host.counters().stream_bytes_skipped, 4);
}

#[test]
fn a_gap_that_the_receiver_acknowledged_is_the_captures() {
    let (mut host, mut talk) = connected();
    talk.say(false, b"lost");
    host.packet(0, &talk.say(false, b"next"));
    for _ in 0..3 {
        assert!(host.filtering().heard(StreamFlags::RECEIVE).is_empty());
        host.packet(0, &talk.segment(true, ACK, &[]));
    }
    assert_eq!(host.filtering().heard(StreamFlags::RECEIVE), b"next");
}

#[test]
fn what_waits_behind_a_gap_is_shown_at_the_end_of_the_capture() {
    let (mut host, mut talk) = connected();
    talk.say(false, b"lost");
    host.packet(0, &talk.say(false, b"next"));
    talk.say(false, b"lost too");
    host.packet(0, &talk.segment(false, FIN | ACK, b"last"));
    host.finish();
    assert_eq!(host.filtering().heard(StreamFlags::RECEIVE), b"nextlast");
    let end = host.filtering().pieces.last().expect("a piece").flags;
    assert!(end.contains(StreamFlags::RECEIVE_DISCONNECT));
    assert_eq!(host.counters().stream_bytes_skipped, 12);
    assert!(host.filtering().live.is_empty());
}

#[test]
fn a_far_jump_of_the_sequence_numbers_does_not_stall_the_stream() {
    let (mut host, mut talk) = connected();
    talk.next[1] = talk.next[1].wrapping_add(1 << 30);
    for _ in 0..8 {
        host.packet(0, &talk.say(false, b"far."));
    }
    host.packet(0, &talk.say(false, b"more"));
    assert_eq!(host.filtering().heard(StreamFlags::RECEIVE), b"far.more");
}

#[test]
fn a_segment_that_the_capture_cut_leaves_a_hole_of_known_size() {
    let (mut host, mut talk) = connected();
    let cut = talk.say(false, &[b'a'; 100]);
    host.packet(0, &cut[..50]);
    host.packet(0, &talk.say(false, b"bbbb"));
    assert_eq!(
        host.filtering().heard(StreamFlags::RECEIVE),
        b"aaaaaaaaaabbbb"
    );
    assert_eq!(host.counters().stream_bytes_skipped, 90);
    assert_eq!(host.counters().cut, 1);
    assert_eq!(
        host.flows()[0].bytes[1],
        40 + 140 + 44,
        "as long as on the wire"
    );
}

#[test]
fn each_end_of_the_stream_is_a_disconnect_without_data() {
    let (mut host, mut talk) = connected();
    host.packet(0, &talk.segment(true, FIN | ACK, b"bye"));
    host.packet(0, &talk.segment(false, ACK, b"still here"));
    host.packet(0, &talk.segment(false, FIN | ACK, &[]));
    let flags: Vec<_> = host
        .filtering()
        .pieces
        .iter()
        .map(|piece| (piece.flags, piece.bytes.len()))
        .collect();
    assert_eq!(
        flags,
        [
            (StreamFlags::SEND, 3),
            (StreamFlags::SEND | StreamFlags::SEND_DISCONNECT, 0),
            (StreamFlags::RECEIVE, 10),
            (StreamFlags::RECEIVE | StreamFlags::RECEIVE_DISCONNECT, 0),
        ]
    );
    assert_eq!(
        host.filtering().live.len(),
        1,
        "the last acknowledgment is missing"
    );
    host.packet(0, &talk.segment(true, ACK, &[]));
    assert!(host.filtering().live.is_empty());
    assert!(
        host.packet(0, &talk.segment(true, ACK, &[])).passed,
        "late packets have no flow"
    );
}

#[test]
fn a_fin_that_overtakes_data_waits_for_it() {
    let (mut host, mut talk) = connected();
    let data = talk.say(false, b"data");
    host.packet(0, &talk.segment(false, FIN | ACK, &[]));
    assert!(host.filtering().pieces.is_empty());
    host.packet(0, &data);
    let flags: Vec<_> = host
        .filtering()
        .pieces
        .iter()
        .map(|piece| piece.flags)
        .collect();
    assert_eq!(
        flags,
        [
            StreamFlags::RECEIVE,
            StreamFlags::RECEIVE | StreamFlags::RECEIVE_DISCONNECT
        ]
    );
}

#[test]
fn a_reset_from_nowhere_is_ignored() {
    let (mut host, mut talk) = connected();
    let next = talk.next[1];
    talk.next[1] = next.wrapping_add(1 << 28);
    host.packet(0, &talk.segment(false, RST, &[]));
    assert_eq!(host.counters().resets_ignored, 1);
    assert_eq!(host.filtering().live.len(), 1);
}

#[test]
fn a_refused_connection_ends_without_having_been_established() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    host.packet(0, &talk.segment(true, SYN, &[]));
    host.packet(0, &talk.segment(true, SYN, &[]));
    talk.next[1] = 0;
    host.packet(0, &talk.segment(false, RST | ACK, &[]));
    assert_eq!(host.filtering().count("ALE_FLOW_ESTABLISHED"), 0);
    assert_eq!(
        host.filtering().count("ALE_ENDPOINT_CLOSURE"),
        2,
        "the second SYN differed"
    );
    assert!(host.filtering().live.is_empty());
    assert!(host.filtering().pieces.is_empty());
}

#[test]
fn a_repeated_syn_is_the_same_connection() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    let syn = talk.segment(true, SYN, &[]);
    host.packet(0, &syn);
    host.packet(0, &syn);
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 1);
    assert_eq!(host.filtering().count("OUTBOUND_TRANSPORT"), 2);
}

#[test]
fn data_that_came_with_the_syn_is_shown_after_the_handshake() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    host.packet(0, &talk.segment(true, SYN, b"early"));
    assert!(host.filtering().pieces.is_empty());
    talk.next[0] = 1001 + 5;
    host.packet(0, &talk.segment(false, SYN | ACK, &[]));
    host.packet(0, &talk.say(true, b"late"));
    assert_eq!(host.filtering().heard(StreamFlags::SEND), b"earlylate");
}

#[test]
fn a_capture_of_one_direction_is_followed_too() {
    for from_client in [true, false] {
        let mut host = host();
        let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
        let mut packets = talk.handshake();
        packets.extend([talk.say(true, b"request"), talk.say(false, b"response")]);
        packets.extend(talk.close());
        for packet in &packets {
            if (packet[12] == 10) == from_client {
                assert!(host.packet(0, packet).passed);
            }
        }
        host.finish();
        let heard = host.filtering().heard(StreamFlags::NONE);
        assert_eq!(
            heard,
            if from_client {
                b"request".as_slice()
            } else {
                b"response"
            }
        );
        assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 1);
        assert_eq!(host.filtering().count("ALE_FLOW_ESTABLISHED"), 1);
    }
}
