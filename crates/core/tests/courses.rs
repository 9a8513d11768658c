//! Streams that have gone out of band, and the worker that puts them back.

use std::cell::Cell;

use lock_api::RawMutex;
use portcullis_core::stream::{
    Course, CourseSlot, Courses, Editor, Outlet, Piece, PieceSlot, Push, Reach, Stuck,
};
use portcullis_core::{FlowHandle, Transfer};

thread_local! {
    static LOCKED: Cell<u32> = const { Cell::new(0) };
}

/// A lock that counts how often this thread takes any of its kind.
struct Counted(parking_lot::RawMutex);

// SAFETY: all that makes it a lock is parking_lot's.
unsafe impl RawMutex for Counted {
    const INIT: Self = Self(RawMutex::INIT);
    type GuardMarker = <parking_lot::RawMutex as RawMutex>::GuardMarker;

    fn lock(&self) {
        LOCKED.set(LOCKED.get() + 1);
        self.0.lock();
    }

    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    unsafe fn unlock(&self) {
        // SAFETY: forwarded from the caller.
        unsafe { self.0.unlock() };
    }
}

/// Puts each piece back as it is.
#[derive(Default)]
struct Back(Vec<&'static str>);

impl Outlet<&'static str, ()> for Back {
    fn inspect(&mut self, _course: &Course<()>, _piece: &Piece<&'static str>) -> Reach {
        Reach::Bytes(0)
    }

    fn send(
        &mut self,
        _course: &Course<()>,
        _editor: &mut Editor,
        piece: Option<Piece<&'static str>>,
        _last: bool,
    ) -> Result<(), Stuck> {
        self.0.extend(piece.map(|piece| piece.data));
        Ok(())
    }

    fn end(&mut self, _course: &Course<()>, _flags: u32) -> Result<(), Stuck> {
        Ok(())
    }

    fn resume(&mut self, _course: &Course<()>, _flags: u32) {}

    fn abort(&mut self, _course: &Course<()>) {}
}

const STREAMS: usize = 1024;

type Table = Courses<Counted, Vec<CourseSlot<Counted, ()>>, Vec<PieceSlot<Counted, &'static str>>>;

fn table() -> Table {
    let slots = std::iter::repeat_with(CourseSlot::new).take(STREAMS);
    let pieces = std::iter::repeat_with(PieceSlot::new).take(16);
    Courses::new(slots.collect(), pieces.collect())
}

const fn piece(data: &'static str) -> Piece<&'static str> {
    Piece {
        data,
        length: data.len() as u64,
        seen: 0,
        flags: 0,
        is_end: false,
        is_urgent: false,
    }
}

const fn flow(number: u64) -> FlowHandle {
    FlowHandle::from_raw(1 << 32 | number).expect("a handle")
}

#[test]
fn the_worker_puts_pieces_back_in_their_order_and_locks_no_slot_that_is_free() {
    let courses = table();
    let [one, other] =
        [1, 2].map(|number| courses.open(flow(number), (), [false; 2]).expect("a slot"));
    for (course, data) in [(one, "first"), (other, "besides"), (one, "second")] {
        let pushed = courses.push(course, Transfer::Sent, piece(data), None, false);
        assert!(matches!(pushed, Push::Taken(_)));
    }
    let mut back = Back::default();
    LOCKED.set(0);
    assert_eq!(courses.work(0, &mut back), None);
    let locked = LOCKED.get();
    assert_eq!(back.0, ["first", "second", "besides"]);
    assert_eq!(courses.waiting(), 0);
    assert!(locked < 100, "{locked} locks for two streams");

    assert!(!courses.unsettled(|()| panic!("something is left")));
    courses.interrupt(|()| panic!("something is lost"));
    courses.close(one);
    courses.close(other);
    LOCKED.set(0);
    assert_eq!(courses.work(0, &mut back), None);
    assert_eq!(LOCKED.get(), 0);
}
