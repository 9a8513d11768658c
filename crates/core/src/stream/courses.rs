//! The streams that are edited or held: a fixed number of slots, each with its own lock.
//!
//! A classify pushes pieces, the worker takes them out again: it alone inspects, edits and injects what has gone out of
//! band, so that the order is that of the pushes. While it works on a stream, ending the stream only marks it, and the
//! worker frees what is left.

use super::editor::{Editor, Stuck};
use super::lane::{HIGH, LOW, Lane, Piece, PieceSlot, Push};
use crate::flow::{FlowHandle, Transfer};
use crate::free_list::{FreeList, Link, Linked};
use core::sync::atomic::{AtomicBool, Ordering};
use lock_api::{Mutex, MutexGuard, RawMutex};

/// How often the worker looks at one stream before it looks at the others.
const ROUNDS: u32 = 64;

/// Names a stream that has a slot. Kept beyond the stream's end it names nothing, until its slot has been used 2³²
/// times more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CourseHandle {
    index: u32,
    generation: u32,
}

impl CourseHandle {
    /// As a number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The handle of this number.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self {
            index: (raw & 0xFFFF_FFFF) as u32,
            generation: (raw >> 32) as u32,
        }
    }
}

/// One direction of a stream, as the worker knows it. `A` is where data is put back.
#[derive(Clone, Copy, Debug)]
pub struct Course<A> {
    /// The stream.
    pub handle: CourseHandle,
    /// Its flow.
    pub flow: FlowHandle,
    /// Which way.
    pub transfer: Transfer,
    /// Where its data is put back.
    pub at: A,
}

/// How far back what may follow a piece still matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The last bytes up to the piece's end, this many; 0: nothing has to wait.
    Bytes(u64),
    /// All that waits, until the host's name is known.
    Host,
    /// The connection is to be dropped.
    Drop,
}

/// What the worker does with pieces. No lock is held during its calls.
pub trait Outlet<P, A> {
    /// Looks at a piece.
    fn inspect(&mut self, course: &Course<A>, piece: &Piece<P>) -> Reach;

    /// Puts a piece back into the stream, edited; without one, what waits in the editor. `last`: nothing that follows
    /// is to be waited for.
    ///
    /// # Errors
    /// [`Stuck`]: something did not go on.
    fn send(
        &mut self,
        course: &Course<A>,
        editor: &mut Editor,
        piece: Option<Piece<P>>,
        last: bool,
    ) -> Result<(), Stuck>;

    /// Ends the direction; `flags` are those of the piece with its end.
    ///
    /// # Errors
    /// [`Stuck`]: it did not end.
    fn end(&mut self, course: &Course<A>, flags: u32) -> Result<(), Stuck>;

    /// Asks for what was deferred with these flags.
    fn resume(&mut self, course: &Course<A>, flags: u32);

    /// Drops the connection.
    fn abort(&mut self, course: &Course<A>);
}

/// Storage for one stream.
pub struct CourseSlot<R, A> {
    slot: Mutex<R, Slot<A>>,
    /// The worker is to look at it.
    is_ready: AtomicBool,
    link: Link,
}

struct Slot<A> {
    generation: u32,
    /// `None`: the slot is free.
    owner: Option<(FlowHandle, A)>,
    /// The worker is at it.
    is_busy: bool,
    /// The stream has ended; the worker is to free the slot.
    is_over: bool,
    /// Nothing of it goes on any more: it was reset, or dropped.
    is_dead: bool,
    lanes: [Lane; 2],
    editors: [Editor; 2],
}

impl<R: RawMutex, A> CourseSlot<R, A> {
    /// A free slot.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slot: Mutex::new(Slot {
                generation: 0,
                owner: None,
                is_busy: false,
                is_over: false,
                is_dead: false,
                lanes: [Lane::default(); 2],
                editors: [Editor::new(); 2],
            }),
            is_ready: AtomicBool::new(false),
            link: Link::new(),
        }
    }
}

impl<R: RawMutex, A> Default for CourseSlot<R, A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R, A> Linked for CourseSlot<R, A> {
    fn link(&self) -> &Link {
        &self.link
    }
}

impl<A> Slot<A> {
    const fn lane(&mut self, transfer: Transfer) -> &mut Lane {
        let [sent, received] = &mut self.lanes;
        match transfer {
            Transfer::Sent => sent,
            Transfer::Received => received,
        }
    }

    const fn editor(&mut self, transfer: Transfer) -> &mut Editor {
        let [sent, received] = &mut self.editors;
        match transfer {
            Transfer::Sent => sent,
            Transfer::Received => received,
        }
    }
}

/// The streams that are edited or held, over storage of the caller's: `S` is as many slots as there can be streams, `N`
/// as many as pieces can wait.
pub struct Courses<R, S, N> {
    streams: FreeList<R>,
    pieces: FreeList<R>,
    slots: S,
    storage: N,
    is_stopping: AtomicBool,
}

impl<R: RawMutex, S, N> Courses<R, S, N> {
    /// No stream.
    pub fn new<A, P>(slots: S, storage: N) -> Self
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        Self {
            streams: FreeList::new(slots.as_ref()),
            pieces: FreeList::new(storage.as_ref()),
            slots,
            storage,
            is_stopping: AtomicBool::new(false),
        }
    }

    /// Streams that have a slot.
    pub fn len(&self) -> u32 {
        self.streams.used()
    }

    /// Whether no stream has a slot.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pieces that wait.
    pub fn waiting(&self) -> u32 {
        self.pieces.used()
    }

    /// From now on nothing is taken of a stream in which nothing waits.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Gives a stream a slot; `None`: every slot is taken.
    pub fn open<A>(&self, flow: FlowHandle, at: A) -> Option<CourseHandle>
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        let slots = self.slots.as_ref();
        let index = self.streams.take(slots)?;
        let mut slot = slots.get(index as usize)?.slot.lock();
        let generation = slot.generation.wrapping_add(1);
        *slot = Slot {
            generation,
            owner: Some((flow, at)),
            is_busy: false,
            is_over: false,
            is_dead: false,
            lanes: [Lane::default(); 2],
            editors: [Editor::new(); 2],
        };
        drop(slot);
        Some(CourseHandle { index, generation })
    }

    /// Whether a direction of a stream has gone out of band. `None`: there is no such stream, or nothing of it goes on.
    pub fn is_out_of_band<A>(&self, handle: CourseHandle, transfer: Transfer) -> Option<bool>
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        let mut slot = self.lock(handle)?;
        (!slot.is_dead).then(|| slot.lane(transfer).is_out_of_band)
    }

    /// Calls `with` with what edits a direction, under the stream's lock. `None`: there is no such stream.
    pub fn with_editor<A, T>(
        &self,
        handle: CourseHandle,
        transfer: Transfer,
        with: impl FnOnce(&mut Editor) -> T,
    ) -> Option<T>
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        self.lock(handle)
            .map(|mut slot| with(slot.editor(transfer)))
    }

    /// Where a stream's data is put back.
    pub fn place<A: Copy>(&self, handle: CourseHandle) -> Option<A>
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        self.lock(handle)?.owner.map(|(_, at)| at)
    }

    /// So many bytes at the front of what is indicated next have been inspected.
    pub fn set_ahead<A>(&self, handle: CourseHandle, transfer: Transfer, bytes: u64)
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        if let Some(mut slot) = self.lock(handle) {
            slot.lane(transfer).ahead = bytes;
        }
    }

    /// How many bytes at the front of what is indicated now have been inspected.
    pub fn take_ahead<A>(&self, handle: CourseHandle, transfer: Transfer) -> u64
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        self.lock(handle).map_or(0, |mut slot| {
            core::mem::take(&mut slot.lane(transfer).ahead)
        })
    }

    /// Takes a piece of a stream out of band. `reach` says that it has been inspected, and how far back what follows
    /// matters then. `can_defer`: it can be asked for again.
    ///
    /// It is the caller's again if it is not taken.
    pub fn push<A, P>(
        &self,
        handle: CourseHandle,
        transfer: Transfer,
        piece: Piece<P>,
        reach: Option<u64>,
        can_defer: bool,
    ) -> Push<P>
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        let Some(mut slot) = self.lock(handle) else {
            return Push::Full(piece);
        };
        if slot.is_dead {
            return Push::Full(piece);
        }
        let is_busy = slot.is_busy;
        let is_waiting = slot.editor(transfer).is_waiting();
        let lane = slot.lane(transfer);
        lane.resuming = false;
        if self.is_stopping() && lane.is_idle() && !is_waiting && !is_busy {
            lane.is_out_of_band = false;
            return Push::Pass(piece);
        }
        if can_defer && lane.bytes > 0 && lane.bytes + piece.length > HIGH {
            lane.deferred = Some(piece.flags);
            return Push::Defer(piece);
        }
        let storage = self.storage.as_ref();
        let Some(index) = self.pieces.take(storage) else {
            return Push::Full(piece);
        };
        lane.is_out_of_band = true;
        lane.bytes += piece.length;
        lane.taken += piece.length;
        let (place, last, is_end) = (index + 1, lane.last, piece.is_end);
        if let Some(stored) = storage.get(index as usize) {
            let mut entry = stored.entry.lock();
            entry.end = lane.taken;
            entry.next = 0;
            entry.piece = Some(piece);
        }
        if let Some(before) = entry_of(storage, last) {
            before.entry.lock().next = place;
        } else {
            lane.first = place;
        }
        lane.last = place;
        match reach {
            Some(reach) if lane.next == 0 => {
                let reach = if is_end { 0 } else { reach };
                lane.inspected = lane.taken;
                lane.safe = lane.safe.max(lane.taken.saturating_sub(reach));
            }
            _ if lane.next == 0 => lane.next = place,
            _ => {}
        }
        drop(slot);
        self.wake(handle);
        Push::Taken
    }

    /// An injection of a direction has been completed.
    pub fn completed<A>(&self, handle: CourseHandle, transfer: Transfer)
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        if let Some(mut slot) = self.lock(handle) {
            let lane = slot.lane(transfer);
            lane.outstanding = lane.outstanding.saturating_sub(1);
        }
    }

    /// An injection of a direction begins; to be said before it does.
    pub fn injecting<A>(&self, handle: CourseHandle, transfer: Transfer)
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        if let Some(mut slot) = self.lock(handle) {
            slot.lane(transfer).outstanding += 1;
        }
    }

    /// A stream was reset: nothing of what waits goes on.
    pub fn reset<A, P>(&self, handle: CourseHandle)
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        if let Some(mut slot) = self.lock(handle) {
            slot.is_dead = true;
            if !slot.is_busy {
                let lanes = core::mem::take(&mut slot.lanes);
                drop(slot);
                self.discard(lanes);
            }
        }
    }

    /// A stream's flow has ended: its slot is free again, at once or when the worker is done with it.
    pub fn close<A, P>(&self, handle: CourseHandle)
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        if let Some(mut slot) = self.lock(handle) {
            slot.is_dead = true;
            slot.is_over = true;
            if !slot.is_busy {
                self.free(handle.index, slot);
            }
        }
    }

    /// Whether nothing of any stream waits or is on its way, and nothing is asked for again; otherwise the flows of
    /// which that is not so are shown. To be asked after [`stop`](Self::stop).
    pub fn unsettled<A: Copy>(&self, mut show: impl FnMut(A)) -> bool
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        let mut found = false;
        for entry in self.slots.as_ref() {
            let slot = entry.slot.lock();
            let is_idle = |lane: &Lane| lane.is_idle() && lane.deferred.is_none() && !lane.resuming;
            let is_settled = !slot.is_busy
                && slot.lanes.iter().all(is_idle)
                && !slot.editors.iter().any(Editor::is_waiting);
            let owner = slot.owner.map(|(_, at)| at);
            drop(slot);
            if let Some(at) = owner
                && !is_settled
            {
                found = true;
                show(at);
            }
        }
        found
    }

    /// Wakes every stream, so that the next run of the worker looks at it.
    pub fn wake_all<A>(&self)
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        for slot in self.slots.as_ref() {
            slot.is_ready.store(true, Ordering::Release);
        }
    }

    /// The worker: does what can be done for each stream. `None`: nothing waits for time to pass; otherwise when to call
    /// it again at the latest.
    pub fn work<A: Copy, P>(&self, now: u64, outlet: &mut impl Outlet<P, A>) -> Option<u64>
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        if self.is_empty() {
            return None;
        }
        let mut due: Option<u64> = None;
        for index in 0..self.streams.capacity() {
            if let Some(next) = self.work_on(index, now, outlet) {
                due = Some(due.map_or(next, |due| due.min(next)));
            }
        }
        due
    }

    fn work_on<A: Copy, P>(
        &self,
        index: u32,
        now: u64,
        outlet: &mut impl Outlet<P, A>,
    ) -> Option<u64>
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        let entry = self.slots.as_ref().get(index as usize)?;
        let mut slot = entry.slot.lock();
        let (flow, at) = slot.owner?;
        if slot.is_busy {
            return None;
        }
        slot.is_busy = true;
        let handle = CourseHandle {
            index,
            generation: slot.generation,
        };
        drop(slot);
        for _ in 0..ROUNDS {
            entry.is_ready.store(false, Ordering::SeqCst);
            for transfer in [Transfer::Sent, Transfer::Received] {
                let course = Course {
                    handle,
                    flow,
                    transfer,
                    at,
                };
                self.work_lane(&course, now, outlet);
            }
            if !entry.is_ready.load(Ordering::SeqCst) {
                break;
            }
        }
        let mut slot = entry.slot.lock();
        slot.is_busy = false;
        if slot.is_over {
            self.free(index, slot);
            return None;
        }
        if slot.is_dead {
            let lanes = core::mem::take(&mut slot.lanes);
            drop(slot);
            self.discard(lanes);
            return None;
        }
        // What came in between is looked at at once.
        let next = slot
            .lanes
            .iter()
            .filter(|lane| lane.since != 0)
            .map(Lane::due)
            .min();
        drop(slot);
        if entry.is_ready.load(Ordering::SeqCst) {
            return Some(now);
        }
        next
    }

    fn work_lane<A: Copy, P>(&self, course: &Course<A>, now: u64, outlet: &mut impl Outlet<P, A>)
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        let fine = self.inspect(course, outlet) && self.release(course, now, outlet).is_ok();
        let Some(mut slot) = self.lock(course.handle) else {
            return;
        };
        if slot.is_dead {
            return;
        }
        if !fine {
            slot.is_dead = true;
            drop(slot);
            outlet.abort(course);
            return;
        }
        let lane = slot.lane(course.transfer);
        if lane.bytes <= LOW
            && let Some(flags) = lane.deferred.take()
        {
            lane.resuming = true;
            drop(slot);
            outlet.resume(course, flags);
        }
    }

    /// Inspects what has not been; `false`: the connection is to be dropped.
    fn inspect<A: Copy, P>(&self, course: &Course<A>, outlet: &mut impl Outlet<P, A>) -> bool
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        let storage = self.storage.as_ref();
        loop {
            let Some(mut slot) = self.lock(course.handle).filter(|slot| !slot.is_dead) else {
                return true;
            };
            let Some(stored) = entry_of(storage, slot.lane(course.transfer).next) else {
                return true;
            };
            // The worker alone takes pieces out of the list, so that the place stays this one's.
            let taken = stored.entry.lock().piece.take();
            drop(slot);
            let Some(piece) = taken else {
                return true;
            };
            let reach = match outlet.inspect(course, &piece) {
                // Nothing follows that could matter.
                Reach::Bytes(_) | Reach::Host if piece.is_end => Reach::Bytes(0),
                reach => reach,
            };
            let Some(mut slot) = self.lock(course.handle) else {
                return true;
            };
            let mut entry = stored.entry.lock();
            entry.piece = Some(piece);
            let (end, next) = (entry.end, entry.next);
            drop(entry);
            let lane = slot.lane(course.transfer);
            lane.inspected = end;
            lane.next = next;
            lane.for_host = reach == Reach::Host;
            match reach {
                Reach::Bytes(bytes) => lane.safe = lane.safe.max(end.saturating_sub(bytes)),
                Reach::Host => {}
                Reach::Drop => return false,
            }
        }
    }

    /// Lets go what nothing that follows matters to, or has waited for long enough.
    fn release<A: Copy, P>(
        &self,
        course: &Course<A>,
        now: u64,
        outlet: &mut impl Outlet<P, A>,
    ) -> Result<(), Stuck>
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        let storage = self.storage.as_ref();
        loop {
            let Some(mut slot) = self.lock(course.handle).filter(|slot| !slot.is_dead) else {
                return Ok(());
            };
            let mut editor = *slot.editor(course.transfer);
            let is_stopping = self.is_stopping();
            let lane = slot.lane(course.transfer);
            let is_late = is_stopping || (lane.since != 0 && lane.due() <= now);
            if is_late {
                lane.safe = lane.inspected;
            }
            let place = lane.first;
            let stored = entry_of(storage, place).filter(|_| place != lane.next);
            let released = stored.and_then(|stored| {
                let mut entry = stored.entry.lock();
                if entry.end > lane.safe {
                    return None;
                }
                lane.first = entry.next;
                entry.piece.take()
            });
            let Some(piece) = released else {
                let waits = lane.first != 0 || editor.is_waiting();
                if is_late && editor.is_waiting() {
                    lane.since = 0;
                    drop(slot);
                    outlet.send(course, &mut editor, None, true)?;
                    self.with_editor(course.handle, course.transfer, |kept| *kept = editor);
                    continue;
                }
                lane.since = match (waits, lane.since) {
                    (false, _) => 0,
                    (true, 0) => now.max(1),
                    (true, since) => since,
                };
                return Ok(());
            };
            if lane.first == 0 {
                lane.last = 0;
            }
            lane.bytes -= piece.length;
            lane.since = 0;
            drop(slot);
            self.pieces.give(storage, place - 1);
            let (is_end, flags) = (piece.is_end, piece.flags);
            outlet.send(course, &mut editor, Some(piece), is_end)?;
            self.with_editor(course.handle, course.transfer, |kept| *kept = editor);
            if is_end {
                outlet.end(course, flags)?;
            }
        }
    }

    fn wake<A>(&self, handle: CourseHandle)
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        if let Some(slot) = self.slots.as_ref().get(handle.index as usize) {
            slot.is_ready.store(true, Ordering::SeqCst);
        }
    }

    fn lock<A>(&self, handle: CourseHandle) -> Option<MutexGuard<'_, R, Slot<A>>>
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        let entry = self.slots.as_ref().get(handle.index as usize)?;
        let slot = entry.slot.lock();
        (slot.owner.is_some() && slot.generation == handle.generation).then_some(slot)
    }

    /// Frees a slot that nobody is at.
    fn free<A, P>(&self, index: u32, mut slot: MutexGuard<'_, R, Slot<A>>)
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        let lanes = core::mem::take(&mut slot.lanes);
        slot.owner = None;
        drop(slot);
        self.discard(lanes);
        self.streams.give(self.slots.as_ref(), index);
    }

    /// Drops what waits in lanes that are nobody's any more. No lock is held while a piece is dropped.
    fn discard<P>(&self, lanes: [Lane; 2])
    where
        N: AsRef<[PieceSlot<R, P>]>,
    {
        let storage = self.storage.as_ref();
        for lane in lanes {
            let mut place = lane.first;
            while let Some(stored) = entry_of(storage, place) {
                let mut entry = stored.entry.lock();
                let (piece, next) = (entry.piece.take(), entry.next);
                drop(entry);
                drop(piece);
                self.pieces.give(storage, place - 1);
                place = next;
            }
        }
    }
}

/// The slot at a place of a list.
fn entry_of<R, P>(storage: &[PieceSlot<R, P>], place: u32) -> Option<&PieceSlot<R, P>> {
    storage.get(place.checked_sub(1)? as usize)
}
