//! The worker: it alone inspects, edits and puts back what has gone out of band.

use super::courses::{CourseHandle, CourseSlot, Courses, entry_of};
use super::editor::Stuck;
use super::lane::{LOW, Lane, PieceSlot};
use super::outlet::{Course, Outlet, Reach};
use crate::flow::Transfer;
use crate::free_list::Linked as _;
use core::sync::atomic::Ordering;
use lock_api::RawMutex;

/// How often the worker looks at one stream before it looks at the others.
const ROUNDS: u32 = 64;

impl<R: RawMutex, S, N> Courses<R, S, N> {
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
        // Most slots are free, and are passed by without their lock. A stream that gets one meanwhile has the worker
        // called again when something of it waits.
        let slots = (0..).zip(self.slots.as_ref());
        for (index, entry) in slots.filter(|(_, entry)| entry.link().is_taken()) {
            if let Some(next) = self.work_on(index, entry, now, outlet) {
                due = Some(due.map_or(next, |due| due.min(next)));
            }
        }
        due
    }

    fn work_on<A: Copy, P>(
        &self,
        index: u32,
        entry: &CourseSlot<R, A>,
        now: u64,
        outlet: &mut impl Outlet<P, A>,
    ) -> Option<u64>
    where
        S: AsRef<[CourseSlot<R, A>]>,
        N: AsRef<[PieceSlot<R, P>]>,
    {
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
}
