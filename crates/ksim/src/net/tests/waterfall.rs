//! What stream callouts may ask for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use wfp_engine::EnforcedBeyondData;
use wfp_schema::{ClassifyOutFlags, LayerId, StreamAction, StreamFlags};

use super::build::{ACK, Dialogue, FIN, RST};
use super::recorder::{Recorder, host, host_with};
use crate::net::{Host, Reason, StageId, StreamInjection, StreamOutcome, Verdict};

/// A connection whose stages answer from a script: (stage, answer); permit when it is empty.
fn connected(stages: u64, script: &[(u64, StreamOutcome)]) -> (Host<Recorder>, Dialogue) {
    let mut host = host();
    let mut talk = Dialogue::new("192.0.2.1:50000", "10.0.0.1:80");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    let script: VecDeque<_> = script.iter().copied().collect();
    let script = Rc::new(RefCell::new(script));
    let recorder = host.filtering();
    recorder.stages = stages;
    recorder.stream = Box::new(move |piece| {
        let mut script = script.borrow_mut();
        match script.front() {
            Some(&(stage, answer)) if stage == piece.stage => {
                script.pop_front();
                answer
            }
            _ => StreamOutcome::PERMIT,
        }
    });
    (host, talk)
}

/// Which stage saw which bytes.
fn seen(host: &mut Host<Recorder>) -> Vec<(u64, String)> {
    let pieces = &host.filtering().pieces;
    pieces
        .iter()
        .map(|piece| {
            (
                piece.stage,
                String::from_utf8_lossy(&piece.bytes).into_owned(),
            )
        })
        .collect()
}

fn expect(host: &mut Host<Recorder>, expected: &[(u64, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|&(stage, text)| (stage, text.to_owned()))
        .collect();
    assert_eq!(seen(host), expected);
}

#[test]
fn a_permit_of_some_bytes_shows_the_rest_again() {
    let (mut host, mut talk) = connected(1, &[(0, StreamOutcome::first(Verdict::Permit, 3))]);
    assert!(host.packet(0, &talk.say(true, b"abcdefgh")).passed);
    expect(&mut host, &[(0, "abcdefgh"), (0, "defgh")]);
}

#[test]
fn blocked_bytes_are_gone_for_the_stages_after_which_learn_how_many_they_missed() {
    let (mut host, mut talk) = connected(
        2,
        &[
            (0, StreamOutcome::first(Verdict::Permit, 2)),
            (0, StreamOutcome::first(Verdict::Block, 3)),
            (0, StreamOutcome::first(Verdict::Permit, 3)),
        ],
    );
    assert!(host.packet(0, &talk.say(true, b"abcdefgh")).passed);
    expect(
        &mut host,
        &[
            (0, "abcdefgh"),
            (1, "ab"),
            (0, "cdefgh"),
            (0, "fgh"),
            (1, "fgh"),
        ],
    );
    let missed: Vec<_> = host
        .filtering()
        .pieces
        .iter()
        .map(|piece| piece.missed)
        .collect();
    assert_eq!(missed, [0, 0, 0, 0, 3]);
}

#[test]
fn a_segment_whose_data_is_all_blocked_does_not_pass_nor_does_its_retransmission() {
    let (mut host, mut talk) = connected(1, &[(0, StreamOutcome::BLOCK)]);
    let packet = talk.say(true, b"blocked");
    let blocked = Some(Reason::Blocked(LayerId::STREAM_V4));
    assert_eq!(host.packet(0, &packet).reason, blocked);
    assert_eq!(host.packet(0, &packet).reason, blocked);
    assert_eq!(host.filtering().pieces.len(), 1);
    assert!(host.packet(0, &talk.say(true, b"fine")).passed);
    assert_eq!(host.flows()[0].blocked_at, Some(LayerId::STREAM_V4));
}

#[test]
fn more_data_is_collected_until_there_is_enough() {
    let (mut host, mut talk) = connected(2, &[(0, StreamOutcome::need(10))]);
    assert!(host.packet(0, &talk.say(true, b"ab")).passed);
    assert!(host.packet(0, &talk.say(true, b"cdefghijk")).passed);
    expect(&mut host, &[(0, "ab")]);
    host.packet(0, &talk.say(true, b"l"));
    expect(
        &mut host,
        &[(0, "ab"), (0, "abcdefghijkl"), (1, "abcdefghijkl")],
    );
}

#[test]
fn what_was_collected_is_shown_with_no_more_data_at_the_end() {
    let (mut host, mut talk) = connected(
        1,
        &[(0, StreamOutcome::need(100)), (0, StreamOutcome::need(100))],
    );
    host.packet(0, &talk.say(true, b"half"));
    host.packet(0, &talk.segment(true, FIN | ACK, &[]));
    let pieces = &host.filtering().pieces;
    assert_eq!(pieces[1].bytes, b"half");
    assert_eq!(pieces[1].out_flags, ClassifyOutFlags::NO_MORE_DATA);
    assert_eq!(
        pieces[2].flags,
        StreamFlags::RECEIVE | StreamFlags::RECEIVE_DISCONNECT
    );
    assert_eq!(pieces.len(), 3, "asking for more was forbidden");
}

#[test]
fn collecting_ends_at_eight_megabytes() {
    let (mut host, mut talk) = connected(1, &[]);
    host.filtering().stream = Box::new(|_| StreamOutcome::need(usize::MAX));
    let chunk = vec![0; 60_000];
    for _ in 0..=(8 << 20) / chunk.len() {
        host.packet(0, &talk.say(true, &chunk));
    }
    let pieces = &host.filtering().pieces;
    assert_eq!(pieces.len(), 2);
    assert!(
        pieces[1]
            .out_flags
            .contains(ClassifyOutFlags::BUFFER_LIMIT_REACHED)
    );
    assert!(pieces[1].bytes.len() >= 8 << 20);
}

#[test]
fn an_allowed_connection_is_no_longer_shown_to_that_stage() {
    let allow = StreamOutcome::action(StreamAction::AllowConnection);
    let (mut host, mut talk) = connected(2, &[(0, allow)]);
    host.packet(0, &talk.say(true, b"first"));
    host.packet(0, &talk.say(true, b"second"));
    host.packet(0, &talk.segment(true, FIN | ACK, &[]));
    expect(
        &mut host,
        &[(0, "first"), (1, "first"), (1, "second"), (1, "")],
    );
}

#[test]
fn deferred_data_waits_for_continue() {
    let defer = StreamOutcome::action(StreamAction::Defer);
    let (mut host, mut talk) = connected(1, &[(0, defer)]);
    host.packet(0, &talk.say(true, b"one"));
    host.packet(0, &talk.say(true, b"two"));
    expect(&mut host, &[(0, "one")]);
    let handle = host.flows()[0].handles[0];
    assert!(host.stream_continue(handle, StageId(0)));
    expect(&mut host, &[(0, "one"), (0, "onetwo")]);
    assert!(!host.stream_continue(1, StageId(0)), "no such flow");
}

#[test]
fn a_later_stage_may_drop_the_connection() {
    let drop = StreamOutcome::action(StreamAction::DropConnection);
    let (mut host, mut talk) = connected(2, &[(1, drop)]);
    let report = host.packet(0, &talk.say(true, b"data"));
    assert_eq!(report.reason, Some(Reason::Blocked(LayerId::STREAM_V4)));
    assert!(host.filtering().live.is_empty());
}

#[test]
fn a_blocked_disconnect_is_not_shown_further_and_its_packet_does_not_pass() {
    let (mut host, mut talk) = connected(2, &[(0, StreamOutcome::BLOCK)]);
    let report = host.packet(0, &talk.segment(true, FIN | ACK, &[]));
    assert_eq!(report.reason, Some(Reason::Blocked(LayerId::STREAM_V4)));
    expect(&mut host, &[(0, "")]);
}

#[test]
fn injected_data_is_shown_to_the_stages_after_only() {
    let (mut host, mut talk) = connected(3, &[]);
    host.packet(0, &talk.say(true, b"x"));
    host.filtering().pieces.clear();
    let handle = host.flows()[0].handles[0];
    assert!(host.stream_inject(
        handle,
        &StreamInjection::new(StageId(1), StreamFlags::RECEIVE, b"injected")
    ));
    expect(&mut host, &[(2, "injected")]);
}

#[test]
fn every_stage_hears_of_a_reset() {
    let (mut host, mut talk) = connected(2, &[(0, StreamOutcome::need(5))]);
    host.packet(0, &talk.say(true, b"x"));
    host.filtering().pieces.clear();
    host.packet(0, &talk.segment(true, RST, &[]));
    expect(&mut host, &[(0, ""), (1, "")]);
}

#[test]
fn a_count_beyond_the_data_may_be_about_what_comes_next() {
    for (option, shown) in [
        (EnforcedBeyondData::AllData, &[(0, "abc"), (0, "defgh")][..]),
        (EnforcedBeyondData::NextData, &[(0, "abc"), (0, "fgh")][..]),
    ] {
        let answer = StreamOutcome::first(Verdict::Permit, 5);
        let mut recorder = Recorder::default();
        recorder.options.enforced_beyond_data = option;
        let mut host = host_with(recorder);
        let mut talk = Dialogue::new("192.0.2.1:50000", "10.0.0.1:80");
        for packet in talk.handshake() {
            host.packet(0, &packet);
        }
        let mut first = Some(answer);
        host.filtering().stream = Box::new(move |_| first.take().unwrap_or(StreamOutcome::PERMIT));
        host.packet(0, &talk.say(true, b"abc"));
        host.packet(0, &talk.say(true, b"defgh"));
        expect(&mut host, shown);
    }
}

#[test]
fn an_injected_end_is_shown_below_and_ends_the_stream_there() {
    let (mut host, mut talk) = connected(3, &[]);
    host.packet(0, &talk.say(true, b"x"));
    host.filtering().pieces.clear();
    let handle = host.flows()[0].handles[0];
    let flags = StreamFlags::RECEIVE | StreamFlags::RECEIVE_DISCONNECT;
    assert!(host.stream_inject(handle, &StreamInjection::new(StageId(1), flags, b"last")));
    expect(&mut host, &[(2, "last"), (2, "")]);
    assert_eq!(host.filtering().pieces[1].flags, flags);
}
