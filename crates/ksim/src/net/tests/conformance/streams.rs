//! STR-01 to STR-05 and STR-07 to STR-10.

use std::cell::Cell;
use std::rc::Rc;

use wfp_schema::{ClassifyOutFlags, StreamAction, StreamFlags};

use super::super::build::{ACK, Dialogue, FIN};
use super::super::recorder::{Piece, Recorder, host};
use crate::net::{Host, StageId, StreamInjection, StreamOutcome, Verdict};

/// A connection that a peer made, or that this host made; its stages answer with `answer`.
fn connected(
    from_here: bool,
    stages: u64,
    answer: impl FnMut(&Piece) -> StreamOutcome + 'static,
) -> (Host<Recorder>, Dialogue) {
    let mut host = host();
    let (client, server) = if from_here {
        ("10.0.0.1:50000", "192.0.2.1:80")
    } else {
        ("192.0.2.1:50000", "10.0.0.1:80")
    };
    let mut talk = Dialogue::new(client, server);
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    host.filtering().stages = stages;
    host.filtering().stream = Box::new(answer);
    (host, talk)
}

fn lengths(host: &mut Host<Recorder>) -> Vec<usize> {
    let pieces = host.filtering().pieces.iter();
    pieces.map(|piece| piece.bytes.len()).collect()
}

#[test]
fn str_01_the_bytes_beyond_the_enforced_ones_are_shown_again() {
    let first = Cell::new(true);
    let (mut host, mut talk) = connected(false, 1, move |_| {
        if first.replace(false) {
            StreamOutcome::first(Verdict::Permit, 3)
        } else {
            StreamOutcome::PERMIT
        }
    });
    host.packet(0, &talk.say(true, b"12345678"));
    assert_eq!(lengths(&mut host), [8, 5]);
}

#[test]
fn str_02_a_callout_that_needs_ten_bytes_more_is_called_with_all_of_them() {
    let (mut host, mut talk) = connected(false, 1, |piece| {
        if piece.bytes.len() < 14 {
            StreamOutcome::need(10)
        } else {
            StreamOutcome::PERMIT
        }
    });
    host.packet(0, &talk.say(true, b"abcd"));
    host.packet(0, &talk.say(true, b"123456789"));
    assert_eq!(lengths(&mut host), [4]);
    host.packet(0, &talk.say(true, b"0"));
    assert_eq!(lengths(&mut host), [4, 14]);
}

#[test]
fn str_03_at_eight_megabytes_the_callout_has_to_decide() {
    const SEGMENT: usize = 60_000;
    let (mut host, mut talk) = connected(false, 1, |piece| {
        if piece
            .out_flags
            .contains(ClassifyOutFlags::BUFFER_LIMIT_REACHED)
        {
            StreamOutcome::PERMIT
        } else {
            StreamOutcome::need(usize::MAX)
        }
    });
    let data = vec![b'x'; SEGMENT];
    for _ in 0..=(8 << 20) / SEGMENT {
        host.packet(0, &talk.say(true, &data));
    }
    let pieces = &host.filtering().pieces;
    assert_eq!(pieces.len(), 2);
    assert!(pieces[1].bytes.len() >= 8 << 20);
    assert_eq!(pieces[1].out_flags, ClassifyOutFlags::BUFFER_LIMIT_REACHED);
}

#[test]
fn str_04_what_a_callout_blocks_the_ones_below_never_see() {
    let (mut host, mut talk) = connected(false, 2, |piece| match (piece.stage, piece.bytes[0]) {
        (0, b'b') => StreamOutcome::BLOCK,
        _ => StreamOutcome::PERMIT,
    });
    host.packet(0, &talk.say(true, b"bad"));
    host.packet(0, &talk.say(true, b"good"));
    let pieces = &host.filtering().pieces;
    let below: Vec<_> = pieces.iter().filter(|piece| piece.stage == 1).collect();
    assert_eq!(below.len(), 1);
    assert_eq!(
        (below[0].bytes.as_slice(), below[0].missed),
        (&b"good"[..], 3)
    );
}

#[test]
fn str_05_a_deferred_stream_waits_while_its_window_shrinks() {
    let go = Rc::new(Cell::new(false));
    let heard = Rc::clone(&go);
    let (mut host, mut talk) = connected(false, 1, move |_| {
        if heard.get() {
            StreamOutcome::PERMIT
        } else {
            StreamOutcome::action(StreamAction::Defer)
        }
    });
    let handle = host.flows()[0].handles[0];
    let window = host.receive_window(handle).expect("a connection");
    host.packet(0, &talk.say(true, b"first"));
    host.packet(0, &talk.say(true, b"second"));
    assert_eq!(lengths(&mut host), [5]);
    assert_eq!(host.receive_window(handle), Some(window - 11));
    go.set(true);
    assert!(host.stream_continue(handle, StageId(0)));
    assert_eq!(lengths(&mut host), [5, 11]);
    assert_eq!(host.receive_window(handle), Some(window));
}

#[test]
fn str_07_an_allowed_connection_is_not_shown_to_its_callout_again() {
    let (mut host, mut talk) = connected(false, 1, |_| {
        StreamOutcome::action(StreamAction::AllowConnection)
    });
    for text in ["a", "b", "c"] {
        assert!(host.packet(0, &talk.say(true, text.as_bytes())).passed);
    }
    assert_eq!(lengths(&mut host), [1]);
}

#[test]
fn str_08_the_peers_end_is_shown_without_data() {
    let (mut host, mut talk) = connected(false, 1, |_| StreamOutcome::PERMIT);
    host.packet(0, &talk.segment(true, FIN | ACK, &[]));
    let piece = &host.filtering().pieces[0];
    assert_eq!(piece.flags.bits(), 0x5);
    assert!(piece.bytes.is_empty());
}

#[test]
fn str_09_inbound_data_of_an_outgoing_connection_has_its_direction() {
    let (mut host, mut talk) = connected(true, 1, |_| StreamOutcome::PERMIT);
    host.packet(0, &talk.say(false, b"data"));
    assert_eq!(host.filtering().last("STREAM").fields["DIRECTION"], 0);
    assert_eq!(host.filtering().pieces[0].flags, StreamFlags::RECEIVE);
}

#[test]
fn str_10_injected_data_is_shown_below_its_callout_only() {
    let (mut host, _) = connected(false, 3, |_| StreamOutcome::PERMIT);
    let handle = host.flows()[0].handles[0];
    assert!(host.stream_inject(
        handle,
        &StreamInjection::new(StageId(1), StreamFlags::RECEIVE, b"injected")
    ));
    let stages: Vec<_> = host
        .filtering()
        .pieces
        .iter()
        .map(|piece| piece.stage)
        .collect();
    assert_eq!(stages, [2]);
}
