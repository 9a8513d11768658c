//! The streams that are edited or held: a fixed number of slots, each with its own lock.
//!
//! A classify pushes pieces, the worker takes them out again: it alone inspects, edits and injects what has gone out of
//! band, so that the order is that of the pushes. While it works on a stream, ending the stream only marks it, and the
//! worker frees what is left.

use super::editor::Editor;
use super::lane::{HIGH, Lane, Piece, PieceSlot, Push};
use crate::flow::{FlowHandle, Transfer};
use crate::free_list::{FreeList, Link, Linked};
use core::sync::atomic::{AtomicBool, Ordering};
use lock_api::{Mutex, MutexGuard, RawMutex};

/// Names a stream that has a slot. Kept beyond the stream's end it names nothing, until its slot has been used 2³²
/// times more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CourseHandle {
    pub(super) index: u32,
    pub(super) generation: u32,
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

/// Storage for one stream.
pub struct CourseSlot<R, A> {
    pub(super) slot: Mutex<R, Slot<A>>,
    /// The worker is to look at it.
    pub(super) is_ready: AtomicBool,
    link: Link,
}

pub(super) struct Slot<A> {
    pub(super) generation: u32,
    /// `None`: the slot is free.
    pub(super) owner: Option<(FlowHandle, A)>,
    /// The worker is at it.
    pub(super) is_busy: bool,
    /// The stream has ended; the worker is to free the slot.
    pub(super) is_over: bool,
    /// Nothing of it goes on any more: it was reset, or dropped.
    pub(super) is_dead: bool,
    pub(super) lanes: [Lane; 2],
    pub(super) editors: [Editor; 2],
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
    pub(super) const fn lane(&mut self, transfer: Transfer) -> &mut Lane {
        let [sent, received] = &mut self.lanes;
        match transfer {
            Transfer::Sent => sent,
            Transfer::Received => received,
        }
    }

    pub(super) const fn editor(&mut self, transfer: Transfer) -> &mut Editor {
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
    pub(super) streams: FreeList<R>,
    pub(super) pieces: FreeList<R>,
    pub(super) slots: S,
    pub(super) storage: N,
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

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Gives a stream a slot; `None`: every slot is taken.
    pub fn open<A>(&self, flow: FlowHandle, at: A, has_begun: [bool; 2]) -> Option<CourseHandle>
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        let slots = self.slots.as_ref();
        let index = self.streams.take(slots)?;
        let mut slot = slots.get(index as usize)?.slot.lock();
        let generation = slot.generation.wrapping_add(1);
        let mut editors = [Editor::new(); 2];
        for (editor, _) in editors
            .iter_mut()
            .zip(has_begun)
            .filter(|(_, begun)| *begun)
        {
            editor.lose_track();
        }
        *slot = Slot {
            generation,
            owner: Some((flow, at)),
            is_busy: false,
            is_over: false,
            is_dead: false,
            lanes: [Lane::default(); 2],
            editors,
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
        let is_first = !core::mem::replace(&mut lane.is_out_of_band, true);
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
        Push::Taken(is_first)
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

    /// What passed in the streams was not seen for a while. Those in which something waits are over, because it may have
    /// been overtaken, and are shown; in the others no header is edited any more.
    pub fn interrupt<A: Copy, P>(&self, mut show: impl FnMut(A))
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
        for entry in self.slots.as_ref() {
            let mut slot = entry.slot.lock();
            let Some((_, at)) = slot.owner.filter(|_| !slot.is_dead) else {
                continue;
            };
            let waits = |lane: &Lane| lane.first != 0 || lane.deferred.is_some();
            // What the worker is at waits too, or is about to be put back behind what was not seen.
            if !slot.is_busy
                && !slot.lanes.iter().any(waits)
                && !slot.editors.iter().any(Editor::is_waiting)
            {
                for editor in &mut slot.editors {
                    editor.lose_track();
                }
                for lane in &mut slot.lanes {
                    lane.ahead = 0;
                }
                continue;
            }
            slot.is_dead = true;
            if slot.is_busy {
                drop(slot);
            } else {
                let lanes = core::mem::take(&mut slot.lanes);
                slot.editors = [Editor::new(); 2];
                drop(slot);
                self.discard(lanes);
            }
            show(at);
        }
    }

    /// Whether nothing of any stream waits or is on its way, and nothing is asked for again; otherwise the flows of
    /// which that is not so are shown. To be asked after [`stop`](Self::stop).
    pub fn unsettled<A: Copy>(&self, mut show: impl FnMut(A)) -> bool
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        let mut found = false;
        // Each slot's lock is taken: who pushes to one behind that sees that nothing is to be taken any more.
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

    pub(super) fn wake<A>(&self, handle: CourseHandle)
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        if let Some(slot) = self.slots.as_ref().get(handle.index as usize) {
            slot.is_ready.store(true, Ordering::SeqCst);
        }
    }

    pub(super) fn lock<A>(&self, handle: CourseHandle) -> Option<MutexGuard<'_, R, Slot<A>>>
    where
        S: AsRef<[CourseSlot<R, A>]>,
    {
        let entry = self.slots.as_ref().get(handle.index as usize)?;
        let slot = entry.slot.lock();
        (slot.owner.is_some() && slot.generation == handle.generation).then_some(slot)
    }

    /// Frees a slot that nobody is at.
    pub(super) fn free<A, P>(&self, index: u32, mut slot: MutexGuard<'_, R, Slot<A>>)
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
    pub(super) fn discard<P>(&self, lanes: [Lane; 2])
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
pub(super) fn entry_of<R, P>(storage: &[PieceSlot<R, P>], place: u32) -> Option<&PieceSlot<R, P>> {
    storage.get(place.checked_sub(1)? as usize)
}
