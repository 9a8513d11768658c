//! STR rows: what stream callouts see and make of a connection's data.

use conformance_messages::{Inject, MakePacket, Record, Step, flow, operation, point};
use portcullis_tests::Tcp;
use portcullis_tests::packets::{ACK, FIN};
use wfp_schema::{
    Action, ClassifyOutFlags, Direction, LayerKind, NtStatus, StreamAction, StreamFlags,
};
use zerocopy::FromZeros as _;

use crate::answers::{Doing as _, block, first, need, permit, stream, with_slot};
use crate::world::{Callout, OK, Session, World, asking, at, v4};

/// A callout of an UNKNOWN filter at the stream layer, in a sublayer of this weight.
fn callout(w: &World, s: &Session<'_>, weight: u16, action: Action, answers: &[Step]) -> Callout {
    let callout = s.callout(v4(LayerKind::Stream));
    w.script(&callout, answers);
    s.add(asking(&callout, action).within(s.sublayer(weight)));
    callout
}

/// A callout that decides at the stream layer, alone.
fn only(w: &World, s: &Session<'_>, answers: &[Step]) -> Callout {
    callout(w, s, 10, Action::CalloutUnknown, answers)
}

fn lengths(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.length).collect()
}

/// The server says something.
fn says(w: &World, connection: &mut Tcp, data: &[u8]) -> bool {
    let packet = connection.server_says(data);
    w.net().passes(packet)
}

#[test]
fn str_01_what_is_beyond_the_enforced_bytes_is_shown_again() {
    let w = World::new();
    let s = w.session();
    let callout = only(&w, &s, &[first(3, permit()), permit()]);
    let mut connection = w.connection();
    assert!(says(&w, &mut connection, b"abcdefgh"));
    let seen = w.classifies(&callout);
    assert_eq!(lengths(&seen), [8, 5]);
    assert_eq!(&seen[1].bytes[..5], b"defgh");
    w.end();
}

#[test]
fn str_02_who_needs_more_data_is_asked_when_it_is_there() {
    let w = World::new();
    let s = w.session();
    let callout = only(&w, &s, &[need(10), permit()]);
    let mut connection = w.connection();
    says(&w, &mut connection, b"a");
    says(&w, &mut connection, b"bcdefghij");
    assert_eq!(
        lengths(&w.classifies(&callout)),
        [1],
        "nine of ten further bytes"
    );
    says(&w, &mut connection, b"k");
    let seen = w.classifies(&callout);
    assert_eq!(lengths(&seen), [1, 11]);
    assert_eq!(&seen[1].bytes[..11], b"abcdefghijk");
    w.end();
}

#[test]
fn str_03_eight_megabytes_are_the_most_that_is_kept() {
    const LIMIT: u64 = 8 << 20;
    let w = World::new();
    let s = w.session();
    let callout = only(&w, &s, &[need(u32::MAX / 2), permit()]);
    let mut connection = w.connection();
    let data = vec![b'x'; 32 << 10];
    let mut sent = 0;
    while w.classifies(&callout).len() < 2 {
        says(&w, &mut connection, &data);
        sent += data.len() as u64;
        assert!(
            sent <= LIMIT + (64 << 10),
            "the callout is asked at the limit"
        );
    }
    let [_, asked] = w.classifies(&callout)[..] else {
        panic!("asked twice");
    };
    assert!(asked.length >= LIMIT, "{} bytes", asked.length);
    assert_ne!(
        asked.out_flags & ClassifyOutFlags::BUFFER_LIMIT_REACHED.bits(),
        0
    );
    w.end();
}

#[test]
fn str_04_blocked_bytes_are_gone_for_the_callouts_below() {
    let w = World::new();
    let s = w.session();
    callout(
        &w,
        &s,
        10,
        Action::CalloutUnknown,
        &[first(3, block()), permit()],
    );
    let below = callout(&w, &s, 5, Action::CalloutUnknown, &[permit()]);
    let mut connection = w.connection();
    says(&w, &mut connection, b"abcdefgh");
    let seen = w.classifies(&below);
    let data: Vec<u8> = seen
        .iter()
        .flat_map(|record| record.bytes[..usize::try_from(record.length).expect("few")].to_vec())
        .collect();
    assert_eq!(data, b"defgh");
    w.end();
}

#[test]
fn str_05_a_deferred_stream_waits_for_its_callout() {
    let w = World::new();
    let s = w.session();
    let callout = only(&w, &s, &[stream(StreamAction::Defer), permit()]);
    let mut connection = w.connection();
    says(&w, &mut connection, b"abc");
    says(&w, &mut connection, b"def");
    let seen = w.classifies(&callout);
    assert_eq!(lengths(&seen), [3], "no further calls");
    let flags = u64::from(seen[0].number);
    assert_eq!(w.flow(flow::CONTINUE, seen[0].flow, &callout, flags), OK);
    w.net().settle();
    let resumed = &w.classifies(&callout)[1..];
    assert_eq!(lengths(resumed).iter().sum::<u64>(), 6);
    assert_eq!(&resumed[0].bytes[..3], b"abc");
    w.end();
}

#[test]
fn str_06_an_inspection_drops_no_connection() {
    for (action, drops) in [
        (Action::CalloutInspection, false),
        (Action::CalloutUnknown, true),
    ] {
        let w = World::new();
        let s = w.session();
        callout(&w, &s, 10, action, &[stream(StreamAction::DropConnection)]);
        let mut connection = w.connection();
        says(&w, &mut connection, b"abc");
        assert_eq!(says(&w, &mut connection, b"def"), !drops);
        w.unload();
    }
}

#[test]
fn str_07_an_allowed_connection_is_not_shown_again() {
    let w = World::new();
    let s = w.session();
    let callout = only(&w, &s, &[stream(StreamAction::AllowConnection)]);
    let mut connection = w.connection();
    assert!(says(&w, &mut connection, b"abc"));
    assert!(says(&w, &mut connection, b"def"));
    let answer = connection.client_says(b"ghi");
    assert!(w.net().passes(answer));
    assert_eq!(w.classifies(&callout).len(), 1);
    w.end();
}

#[test]
fn str_08_a_peers_end_is_an_indication_without_data() {
    let w = World::new();
    let s = w.session();
    let callout = only(&w, &s, &[permit()]);
    let mut connection = w.connection();
    let end = connection.segment(false, FIN | ACK, &[]);
    w.net().packet(&end);
    let [seen] = w.classifies(&callout)[..] else {
        panic!("one classify");
    };
    assert_eq!(seen.length, 0);
    let expected = StreamFlags::RECEIVE | StreamFlags::RECEIVE_DISCONNECT;
    assert_eq!(seen.number, expected.bits());
    assert_eq!(expected.bits(), 5);
    w.end();
}

#[test]
fn str_09_the_direction_is_the_connections() {
    let w = World::new();
    let s = w.session();
    let callout = only(&w, &s, &[permit()]);
    let mut connection = w.connection();
    says(&w, &mut connection, b"abc");
    let [seen] = w.classifies(&callout)[..] else {
        panic!("one classify");
    };
    assert_ne!(seen.number & StreamFlags::RECEIVE.bits(), 0);
    assert_eq!(seen.direction, Direction::Outbound.value());
    w.end();
}

/// `FWPS_INJECTION_TYPE_STREAM`.
const INJECTION_TYPE_STREAM: u32 = 1;

/// Puts bytes into a packet slot, behind another packet if there is one.
fn make(w: &World, slot: u32, behind: Option<u32>, bytes: &[u8]) {
    let mut made = MakePacket::new_zeroed();
    made.slot = slot;
    made.behind = behind.map_or(0, |slot| slot + 1);
    made.length = u32::try_from(bytes.len()).expect("short");
    made.bytes[..bytes.len()].copy_from_slice(bytes);
    assert_eq!(w.agent.status(&made), OK);
}

/// An injection of a packet into a stream as its callout makes it.
fn injection(seen: &Record, callout: &Callout, slot: u32, length: u64) -> Inject {
    let mut inject = Inject::new_zeroed();
    inject.point = point::STREAM;
    inject.packet = slot + 1;
    inject.flow = seen.flow;
    inject.callout = callout.id;
    inject.layer = callout.layer.id().get().into();
    inject.stream_flags = StreamFlags::RECEIVE.bits();
    inject.length = length;
    inject.context = 77;
    inject
}

/// A callout that takes all data out of the stream, and what it saw of the first piece.
fn out_of_band<'w>(w: &'w World, s: &Session<'w>) -> (Callout, Tcp, Record) {
    w.injection_handle(0, 0, INJECTION_TYPE_STREAM);
    let callout = only(w, s, &[block()]);
    let mut connection = w.connection();
    says(w, &mut connection, b"abc");
    let seen = w.classifies(&callout)[0];
    (callout, connection, seen)
}

#[test]
fn str_10_injected_data_is_shown_to_the_callouts_below() {
    let w = World::new();
    let s = w.session();
    let (injects, _, seen) = out_of_band(&w, &s);
    let below = callout(&w, &s, 5, Action::CalloutUnknown, &[permit()]);
    make(&w, 0, None, b"injected");
    assert_eq!(w.agent.status(&injection(&seen, &injects, 0, 8)), OK);
    w.net().settle();
    assert_eq!(
        w.classifies(&injects).len(),
        1,
        "not shown to who injected it"
    );
    let [shown] = w.classifies(&below)[..] else {
        panic!("one classify");
    };
    assert_eq!(&shown.bytes[..8], b"injected");
    w.end();
}

#[test]
fn str_10_a_clone_of_the_data_is_injected_in_its_place() {
    let w = World::new();
    let s = w.session();
    w.injection_handle(0, 0, INJECTION_TYPE_STREAM);
    let below = callout(&w, &s, 5, Action::CalloutUnknown, &[permit()]);
    let clones = block().doing(with_slot(operation::CLONE_STREAM, 3));
    let injects = only(&w, &s, &[clones]);
    let mut connection = w.connection();
    says(&w, &mut connection, b"abc");
    let seen = w.classifies(&injects)[0];
    assert_eq!(seen.operations[0], OK.code());
    assert!(w.classifies(&below).is_empty());
    assert_eq!(w.agent.status(&injection(&seen, &injects, 3, 3)), OK);
    w.net().settle();
    assert_eq!(&w.classifies(&below)[0].bytes[..3], b"abc");
    w.end();
}

#[test]
fn str_11_an_end_of_sending_is_sent() {
    let w = World::new();
    let s = w.session();
    let (callout, _, seen) = out_of_band(&w, &s);
    make(&w, 0, None, b"injected");
    let mut inject = injection(&seen, &callout, 0, 8);
    inject.stream_flags = StreamFlags::SEND_DISCONNECT.bits();
    assert_eq!(w.agent.status(&inject), NtStatus::FWP_INVALID_PARAMETER);
    assert!(w.completions().is_empty());
    w.end();
}

#[test]
fn str_12_an_injection_has_a_completion() {
    let w = World::new();
    let s = w.session();
    let (callout, _, seen) = out_of_band(&w, &s);
    make(&w, 0, None, b"injected");
    let mut inject = injection(&seen, &callout, 0, 8);
    inject.no_completion = 1;
    assert_eq!(w.agent.status(&inject), NtStatus::FWP_NULL_POINTER);
    w.end();
}

#[test]
fn str_13_each_list_of_a_chain_is_completed() {
    let w = World::new();
    let s = w.session();
    let (callout, _, seen) = out_of_band(&w, &s);
    make(&w, 0, None, b"one");
    make(&w, 1, Some(0), b"two");
    make(&w, 2, Some(1), b"three");
    assert_eq!(
        w.agent
            .status(&injection(&seen, &at(callout, callout.layer), 0, 11)),
        OK
    );
    w.net().settle();
    let completed = w.completions();
    assert_eq!(completed.len(), 3);
    assert!(completed.iter().all(|record| record.filter_context == 77));
    assert!(completed.iter().all(|record| record.number == OK.code()));
    w.end();
}
