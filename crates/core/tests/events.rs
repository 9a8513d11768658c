//! The ring of events.

mod shared;

use parking_lot::RawMutex;
use portcullis_core::EventRing;
use portcullis_proto::event::EventsReply;
use portcullis_proto::{EventKind, EventRecord};
use shared::driver::Ring;
use zerocopy::IntoBytes;

fn ring(capacity: usize) -> Ring {
    EventRing::<RawMutex, _>::new(vec![EventRecord::default(); capacity])
}

fn event(process_id: u64) -> EventRecord {
    EventRecord {
        kind: EventKind::Authorize.raw(),
        process_id: process_id.into(),
        ..EventRecord::default()
    }
}

fn sequences(ring: &Ring) -> Vec<(u8, u64)> {
    std::iter::from_fn(|| ring.read())
        .map(|event| (event.kind, event.sequence.get()))
        .collect()
}

const AUTHORIZE: u8 = EventKind::Authorize.raw();
const DROPPED: u8 = EventKind::Dropped.raw();

#[test]
fn events_come_out_in_order_with_rising_numbers() {
    let ring = ring(3);
    for round in 0..5 {
        assert!(ring.write(&event(1)) && ring.write(&event(2)));
        assert_eq!(
            sequences(&ring),
            [(AUTHORIZE, 2 * round + 1), (AUTHORIZE, 2 * round + 2)]
        );
    }
    assert!(ring.is_empty());
}

#[test]
fn a_full_ring_drops_the_newest_and_tells_how_many_in_their_place() {
    let ring = ring(2);
    let kept: Vec<_> = (0..5).map(|id| ring.write(&event(id))).collect();
    assert_eq!(kept, [true, true, false, false, false]);
    assert_eq!((ring.len(), ring.capacity()), (2, 2));
    assert_eq!(ring.read().map(|event| event.sequence.get()), Some(1));
    assert!(ring.write(&event(9)));
    assert_eq!(ring.read().map(|event| event.sequence.get()), Some(2));
    let told = ring.read().expect("the gap");
    assert_eq!(
        (told.kind, told.sequence.get(), told.value[0].get()),
        (DROPPED, 5, 3)
    );
    assert_eq!(
        ring.read()
            .map(|event| (event.process_id.get(), event.sequence.get())),
        Some((9, 6))
    );
    assert!(ring.read().is_none());
}

#[test]
fn events_dropped_last_are_told_of_too() {
    let ring = ring(1);
    ring.write(&event(1));
    ring.write(&event(2));
    assert_eq!(sequences(&ring), [(AUTHORIZE, 1), (DROPPED, 2)]);
    assert!(ring.is_empty());
}

#[test]
fn a_ring_without_room_drops_everything_and_says_so() {
    let ring = ring(0);
    assert!(!ring.write(&event(1)));
    assert!(!ring.is_empty());
    assert_eq!(sequences(&ring), [(DROPPED, 1)]);
    assert!(ring.read().is_none());
}

#[test]
fn a_read_fills_a_reply_with_whole_records() {
    let ring = ring(8);
    (0..5).for_each(|id| assert!(ring.write(&event(id))));
    let mut output = vec![0xAA; EventsReply::size_with(3) + 17];
    let (fixed, records) = output.split_at_mut(size_of::<EventsReply>());
    let count = ring.read_into(records);
    let reply = EventsReply::new(
        u32::try_from(count).expect("few"),
        u32::try_from(ring.len()).expect("few"),
    );
    reply.write_to(fixed).expect("its size");
    let (reply, events) = EventsReply::read(&output).expect("a reply");
    assert_eq!((reply.count.get(), reply.remaining.get()), (3, 2));
    assert_eq!(
        events
            .map(|event| event.process_id.get())
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
}

#[test]
fn every_event_is_read_or_told_to_be_dropped_while_several_write() {
    let ring = ring(16);
    let (mut read, mut dropped) = (0, 0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| (0..1000).filter(|&id| ring.write(&event(id))).count()))
            .collect();
        while !writers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
            || !ring.is_empty()
        {
            match ring.read() {
                Some(event) if event.kind == DROPPED => dropped += event.value[0].get(),
                Some(_) => read += 1,
                None => std::thread::yield_now(),
            }
        }
        let kept: usize = writers
            .into_iter()
            .map(|writer| writer.join().expect("no panic"))
            .sum();
        assert_eq!(kept as u64, read);
    });
    assert_eq!(read + dropped, 3000);
}
