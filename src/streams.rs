//! Streams that are edited, or taken out of band: their memory, their injections, and the worker that puts data back.

use core::num::NonZeroUsize;

use kmdf::Driver;
use portcullis_core::{
    Clock, FlowHandle, Indication, StreamVerdict, Transfer, Treatment,
    stream::{
        Course, CourseHandle, CourseSlot, Courses, Editor, Inline, Insert, Outlet, Piece,
        PieceSlot, Push, Reach, Stuck, inline,
    },
};
use portcullis_proto::{Counter, LifecycleStep};
use wdk_sys::WDFTIMER;
use wfp::{
    NtStatus, Result,
    cell::KernelCell,
    flow::{self, Association},
    inject::{Completion, InjectionHandle, Parcels, StreamData, StreamPlace},
    irql::Passive,
    list::{List, PacketBuffer, PacketPool},
    pool::PoolVec,
    schema::{IpVersion, StreamFlags},
    stream::{self, ClonedStream},
    sync::RawSpinLock,
    verdict,
};

use crate::{
    device,
    state::{self, Core, SystemClock, tag},
};

/// Streams that can be edited or held at a time.
const STREAMS: usize = 1024;
/// Pieces that can wait in all of them.
const PIECES: usize = 8192;
/// Injections at a time of what was edited: how many, and bytes of each.
const BUFFERS: (u32, u32) = (1024, 2048);
/// Injections at a time.
const INJECTIONS: u32 = 16_384;
/// How often a stream that does not settle is looked at before its connection is aborted.
const PATIENCE: u32 = 200;

const _: () = assert!(Insert::MAX <= BUFFERS.1 as usize);

/// Where data of a stream is put back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    at: Association,
    version: IpVersion,
}

/// Who is told of an injection's end.
struct Injected {
    course: CourseHandle,
    transfer: Transfer,
}

impl Completion for Injected {
    fn completed(self, status: NtStatus) {
        if !status.is_success() {
            state::count(Counter::StreamNotInjected);
        }
        if let Some(streams) = STREAMS_IN_USE.get() {
            streams.courses.completed(self.course, self.transfer);
        }
    }
}

/// Whether bytes went on.
type Put = core::result::Result<(), Stuck>;

type Table = Courses<
    RawSpinLock,
    PoolVec<CourseSlot<RawSpinLock, Place>>,
    PoolVec<PieceSlot<RawSpinLock, ClonedStream>>,
>;

/// The memory and the handles.
pub(crate) struct Streams {
    handles: [Option<InjectionHandle<StreamData>>; 2],
    courses: Table,
    parcels: Parcels<Injected>,
    buffers: PacketPool,
}

static STREAMS_IN_USE: KernelCell<Streams> = KernelCell::new(tag::GLOBAL);

/// Allocates memory for streams, and creates the handles, if there are none yet.
pub(crate) fn make(passive: Passive) -> Result {
    if STREAMS_IN_USE.get().is_some() {
        return Ok(());
    }
    let slots = PoolVec::try_from_fn(tag::STREAMS, STREAMS, |_| CourseSlot::new())?;
    let pieces = PoolVec::try_from_fn(tag::STREAMS, PIECES, |_| PieceSlot::new())?;
    let mut streams = Streams {
        handles: [None, None],
        courses: Courses::new(slots, pieces),
        parcels: Parcels::try_new(tag::STREAMS, INJECTIONS)?,
        buffers: PacketPool::try_new(tag::STREAMS, BUFFERS.0, BUFFERS.1, passive)?,
    };
    for version in [IpVersion::V4, IpVersion::V6] {
        match InjectionHandle::create(version, passive) {
            Ok(handle) => streams.handles[version as usize] = Some(handle),
            Err(status) => {
                destroy(&mut streams, passive);
                return Err(status);
            }
        }
    }
    STREAMS_IN_USE.try_set(streams, passive).map(|_| ())
}

fn destroy(streams: &mut Streams, passive: Passive) {
    for handle in streams.handles.iter_mut().filter_map(Option::take) {
        if let Err(status) = handle.destroy(passive) {
            state::record(LifecycleStep::DestroyInjectionHandles, status);
        }
    }
}

/// Destroys the handles when the last injection is completed, and frees the memory. The callouts are gone.
pub(crate) fn delete(passive: Passive) {
    device::stop_streams(passive);
    if let Some(streams) = STREAMS_IN_USE.get() {
        // Their completions still look for the streams.
        streams.parcels.wait_until_idle(passive);
    }
    // SAFETY: callouts are unregistered, the timer and the work are stopped, no completion is left.
    if let Some(mut streams) = unsafe { STREAMS_IN_USE.take(passive) } {
        destroy(&mut streams, passive);
    }
}

/// Puts everything back that was taken out of streams: filters may not go before. A connection that keeps something
/// waiting for too long is aborted.
pub(crate) fn settle(passive: Passive) {
    let Some(streams) = STREAMS_IN_USE.get() else {
        return;
    };
    streams.courses.stop();
    for _ in 0..PATIENCE {
        serve(passive);
        if !streams.courses.unsettled(|_: Place| ()) {
            return;
        }
        passive.sleep(core::time::Duration::from_millis(1));
    }
    streams.courses.unsettled(|place: Place| {
        if flow::abort(place.at.flow).is_err() {
            state::count(Counter::FlowRemoveFailed);
        }
    });
}

/// A flow's stream ends.
pub(crate) fn ended(core: &Core, handle: FlowHandle) {
    if let (Some(streams), Some(course)) = (STREAMS_IN_USE.get(), core.take_course(handle)) {
        streams.courses.close(course);
    }
}

/// The timer's callback.
///
/// # Safety
/// Called by the framework.
pub(crate) unsafe extern "C" fn due(_timer: WDFTIMER) {
    device::enqueue_stream_work();
}

/// The worker.
pub(crate) fn serve(passive: Passive) {
    let (Some(streams), Some(core)) = (STREAMS_IN_USE.get(), state::core()) else {
        return;
    };
    let now = SystemClock.now();
    let mut worker = Worker {
        streams,
        core,
        passive,
    };
    match streams.courses.work(now, &mut worker) {
        Some(due) if due <= now => device::enqueue_stream_work(),
        Some(due) => device::start_stream_timer(due - now),
        None => {}
    }
}

/// Decides about data of a stream.
pub(crate) fn classify(
    core: &Core,
    handle: Option<FlowHandle>,
    place: impl Fn(u64) -> Option<Association>,
    version: IpVersion,
    data: &stream::Indication<'_>,
    must_decide: bool,
) -> verdict::StreamVerdict {
    let transfer = match data.direction() {
        stream::DataDirection::Send => Transfer::Sent,
        stream::DataDirection::Receive => Transfer::Received,
    };
    let call = Call {
        core,
        handle,
        transfer,
        data,
        must_decide,
    };
    let Some(streams) = STREAMS_IN_USE.get() else {
        return call.inspect(0);
    };
    // While no rule treats streams, and none is left that one did, there is nothing to ask.
    if streams.courses.is_empty() && !core.treats_streams() {
        return call.inspect(0);
    }
    let open = |flow, system| {
        let at = place(system)?;
        streams.courses.open(flow, Place { at, version })
    };
    let treatment = core.treatment(handle, transfer, open);
    let course = match treatment {
        Treatment::Plain => {
            let verdict = call.inspect(0);
            // What was found out just now may be that the data is to be edited.
            match core.treatment(handle, transfer, open) {
                Treatment::Edit(course) if verdict == verdict::StreamVerdict::Permit => {
                    streams
                        .courses
                        .set_ahead(course, transfer, data.length() as u64);
                    return call.edit(streams, course);
                }
                Treatment::NoRoom => return no_room(core),
                _ => return verdict,
            }
        }
        Treatment::NoRoom => return no_room(core),
        Treatment::Edit(course) | Treatment::OutOfBand(course) => course,
    };
    if data.is_reset() {
        streams.courses.reset(course);
        return call.inspect(0);
    }
    match (streams.courses.is_out_of_band(course, transfer), treatment) {
        (None, _) => verdict::StreamVerdict::DropConnection,
        (Some(true), _) | (_, Treatment::OutOfBand(_)) => call.take(streams, course, 0, None),
        _ => call.edit(streams, course),
    }
}

fn no_room(core: &Core) -> verdict::StreamVerdict {
    core.statistics().count(Counter::StreamNoRoom);
    verdict::StreamVerdict::DropConnection
}

/// One classify.
struct Call<'a> {
    core: &'a Core,
    handle: Option<FlowHandle>,
    transfer: Transfer,
    data: &'a stream::Indication<'a>,
    must_decide: bool,
}

impl Call<'_> {
    /// Inspects what comes behind the first `seen` bytes.
    fn inspect(&self, seen: u64) -> verdict::StreamVerdict {
        let length = self.data.length() as u64;
        let indication = Indication {
            transfer: self.transfer,
            bytes: length.saturating_sub(seen),
            is_end: self.data.is_end(),
        };
        let bytes = self.data.chunks().map_while(core::result::Result::ok);
        match self.core.stream(self.handle, indication, skip(bytes, seen)) {
            StreamVerdict::Permit => verdict::StreamVerdict::Permit,
            StreamVerdict::DropConnection => verdict::StreamVerdict::DropConnection,
        }
    }

    /// Edits inline as long as that goes.
    fn edit(&self, streams: &Streams, course: CourseHandle) -> verdict::StreamVerdict {
        use verdict::StreamVerdict as Verdict;

        let Some(flow) = self.handle else {
            return Verdict::Permit;
        };
        let length = self.data.length() as u64;
        let seen = streams
            .courses
            .take_ahead(course, self.transfer)
            .min(length);
        if (length > seen || length == 0) && self.inspect(seen) == Verdict::DropConnection {
            return Verdict::DropConnection;
        }
        if length == 0 || self.data.is_urgent() {
            return Verdict::Permit;
        }
        let bytes = self.data.chunks().map_while(core::result::Result::ok);
        // Each round but the last puts in a header.
        for _ in 0..=u64::BITS {
            let mut insert = streams.buffers.take(Insert::MAX);
            let decided = self.core.with_edits(flow, self.transfer, |edits| {
                streams
                    .courses
                    .with_editor(course, self.transfer, |editor| {
                        let before = *editor;
                        let decided = inline(editor, edits, bytes.clone(), false);
                        let put = match decided {
                            Inline::Replace(_, put) | Inline::Insert(put) => put,
                            Inline::Permit => return Decided::Permit,
                            Inline::PermitFirst(count) => return Decided::PermitFirst(count),
                            Inline::Wait => return Decided::Wait,
                        };
                        let copied = insert.as_deref_mut().and_then(|memory| put.copy_to(memory));
                        match (copied, decided) {
                            (Some(put), Inline::Replace(count, _)) => {
                                Decided::Put(put, Some(count))
                            }
                            (Some(put), _) => Decided::Put(put, None),
                            (None, _) => {
                                // The worker does it, when there is memory.
                                *editor = before;
                                Decided::Wait
                            }
                        }
                    })
            });
            let ahead = |decided: u64| {
                streams
                    .courses
                    .set_ahead(course, self.transfer, length.saturating_sub(decided));
                usize::try_from(decided).ok().and_then(NonZeroUsize::new)
            };
            match decided {
                None | Some(Decided::Permit) => return Verdict::Permit,
                Some(Decided::PermitFirst(count)) => {
                    return ahead(count).map_or(Verdict::Permit, Verdict::PermitFirst);
                }
                Some(Decided::Wait) => {
                    let reach = match self.core.reach(flow, self.transfer) {
                        Reach::Bytes(bytes) => bytes,
                        Reach::Host | Reach::Drop => 0,
                    };
                    return self.take(streams, course, length, Some(reach));
                }
                Some(Decided::Put(put, count)) => {
                    let sent = put == 0
                        || insert.take().is_some_and(|mut memory| {
                            memory.truncate(put);
                            self.inject(streams, course, memory)
                        });
                    if !sent {
                        return Verdict::DropConnection;
                    }
                    self.core.statistics().count(Counter::StreamsRewritten);
                    if let Some(count) = count {
                        return ahead(count).map_or(Verdict::Block, Verdict::BlockFirst);
                    }
                }
            }
        }
        Verdict::DropConnection
    }

    fn inject(&self, streams: &Streams, course: CourseHandle, memory: PacketBuffer) -> bool {
        let Some(place) = streams.courses.place(course) else {
            return false;
        };
        let length = memory.len();
        let Ok(list) = memory.into_list(0) else {
            state::count(Counter::StreamNotInjected);
            return false;
        };
        let flags = self.data.flags();
        streams.inject(&place, course, self.transfer, list.into(), length, flags)
    }

    /// Takes the data out of the stream.
    fn take(
        &self,
        streams: &Streams,
        course: CourseHandle,
        seen: u64,
        reach: Option<u64>,
    ) -> verdict::StreamVerdict {
        use verdict::StreamVerdict as Verdict;

        let Ok(data) = self.data.clone_data() else {
            self.core.statistics().count(Counter::OutOfMemory);
            return Verdict::DropConnection;
        };
        let piece = Piece {
            data,
            length: self.data.length() as u64,
            seen,
            flags: self.data.flags().bits(),
            is_end: self.data.is_end(),
            is_urgent: self.data.is_urgent(),
        };
        let can_defer = self.transfer == Transfer::Received
            && !self.must_decide
            && !self.data.is_end()
            && seen == 0;
        match streams
            .courses
            .push(course, self.transfer, piece, reach, can_defer)
        {
            Push::Taken => {
                self.core.statistics().count(Counter::StreamPiecesHeld);
                device::enqueue_stream_work();
                Verdict::Block
            }
            Push::Defer(_) => {
                self.core.statistics().count(Counter::StreamsDeferred);
                device::enqueue_stream_work();
                Verdict::Defer
            }
            Push::Full(_) => no_room(self.core),
            Push::Pass(_) if seen > 0 => Verdict::Permit,
            Push::Pass(_) => self.inspect(0),
        }
    }
}

/// What is to be done inline, with what was copied for it.
enum Decided {
    Permit,
    PermitFirst(u64),
    Put(usize, Option<u64>),
    Wait,
}

impl Streams {
    /// Injects data. `false`: it is not, and freed.
    fn inject(
        &self,
        place: &Place,
        course: CourseHandle,
        transfer: Transfer,
        list: List,
        length: usize,
        flags: StreamFlags,
    ) -> bool {
        let Some(handle) = self
            .handles
            .get(place.version as usize)
            .and_then(Option::as_ref)
        else {
            return false;
        };
        let at = StreamPlace {
            flow: place.at.flow,
            callout: place.at.callout,
            layer: place.at.layer,
            flags: flags.without(END),
            length,
        };
        let owner = Injected { course, transfer };
        self.courses.injecting(course, transfer);
        let injected = handle.inject(&self.parcels, list, owner, at).is_ok();
        if injected {
            state::count(Counter::StreamsInjected);
        } else {
            self.courses.completed(course, transfer);
            state::count(Counter::StreamNotInjected);
        }
        injected
    }
}

/// The flags of a direction's end.
const END: StreamFlags = StreamFlags::RECEIVE_DISCONNECT
    .union(StreamFlags::SEND_DISCONNECT)
    .union(StreamFlags::RECEIVE_ABORT)
    .union(StreamFlags::SEND_ABORT);

/// One run of the worker.
struct Worker<'a> {
    streams: &'a Streams,
    core: &'a Core,
    passive: Passive,
}

/// Collects edited bytes, and injects them when there are enough.
struct Writer<'a> {
    worker: &'a Worker<'a>,
    course: &'a Course<Place>,
    flags: StreamFlags,
    memory: Option<PacketBuffer>,
    filled: usize,
}

impl Writer<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> Put {
        while !bytes.is_empty() {
            if self.memory.is_none() {
                let buffers = &self.worker.streams.buffers;
                self.memory = Some(buffers.take(buffers.size()).ok_or(Stuck)?);
                self.filled = 0;
            }
            let memory = self.memory.as_deref_mut().ok_or(Stuck)?;
            let room = memory.get_mut(self.filled..).ok_or(Stuck)?;
            let count = room.len().min(bytes.len());
            let (now, then) = bytes.split_at_checked(count).ok_or(Stuck)?;
            room.get_mut(..count).ok_or(Stuck)?.copy_from_slice(now);
            self.filled += count;
            bytes = then;
            if count == 0 || !bytes.is_empty() {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Put {
        let Some(mut memory) = self.memory.take() else {
            return Ok(());
        };
        memory.truncate(self.filled);
        let list = memory.into_list(0).map_err(|_| Stuck)?;
        let worker = self.worker;
        let course = self.course;
        let sent = worker.streams.inject(
            &course.at,
            course.handle,
            course.transfer,
            list.into(),
            self.filled,
            self.flags,
        );
        if sent { Ok(()) } else { Err(Stuck) }
    }
}

impl Worker<'_> {
    fn send_clone(
        &self,
        course: &Course<Place>,
        mut data: ClonedStream,
        flags: StreamFlags,
    ) -> Put {
        while let Some((list, length)) = data.take_first() {
            let sent = self.streams.inject(
                &course.at,
                course.handle,
                course.transfer,
                list.into(),
                length,
                flags,
            );
            if !sent {
                return Err(Stuck);
            }
        }
        Ok(())
    }
}

impl Outlet<ClonedStream, Place> for Worker<'_> {
    fn inspect(&mut self, course: &Course<Place>, piece: &Piece<ClonedStream>) -> Reach {
        let indication = Indication {
            transfer: course.transfer,
            bytes: piece.length.saturating_sub(piece.seen),
            is_end: piece.is_end,
        };
        let bytes = skip(piece.data.chunks(), piece.seen);
        match self.core.stream(Some(course.flow), indication, bytes) {
            StreamVerdict::Permit => self.core.reach(course.flow, course.transfer),
            StreamVerdict::DropConnection => Reach::Drop,
        }
    }

    fn send(
        &mut self,
        course: &Course<Place>,
        editor: &mut Editor,
        piece: Option<Piece<ClonedStream>>,
        last: bool,
    ) -> Put {
        let direction = match course.transfer {
            Transfer::Sent => StreamFlags::SEND,
            Transfer::Received => StreamFlags::RECEIVE,
        };
        let flags = piece
            .as_ref()
            .map_or(direction, |piece| StreamFlags::from_bits(piece.flags));
        let worker = &*self;
        let mut writer = Writer {
            worker,
            course,
            flags: if piece.as_ref().is_some_and(|piece| piece.is_urgent) {
                direction
            } else {
                flags
            },
            memory: None,
            filled: 0,
        };
        let left = worker
            .core
            .with_edits(course.flow, course.transfer, |edits| {
                let Some(piece) = piece else {
                    editor.push(edits, &[], last, &mut |bytes| writer.write(bytes))?;
                    return Ok(None);
                };
                if piece.is_urgent {
                    editor.push(edits, &[], true, &mut |bytes| writer.write(bytes))?;
                    return Ok(Some(piece.data));
                }
                if editor.leaves(edits, piece.data.chunks()) {
                    for bytes in piece.data.chunks() {
                        editor.push(edits, bytes, false, &mut |_| Ok(()))?;
                    }
                    return Ok(Some(piece.data));
                }
                let mut changes = 0;
                for bytes in piece.data.chunks() {
                    changes +=
                        editor.push(edits, bytes, false, &mut |bytes| writer.write(bytes))?;
                }
                if last {
                    changes += editor.push(edits, &[], true, &mut |bytes| writer.write(bytes))?;
                }
                worker
                    .core
                    .statistics()
                    .add(Counter::StreamsRewritten, changes);
                Ok(None)
            })?;
        writer.flush()?;
        left.map_or(Ok(()), |data| worker.send_clone(course, data, flags))
    }

    fn end(&mut self, course: &Course<Place>, flags: u32) -> Put {
        let flags = StreamFlags::from_bits(flags);
        if flags.intersects(StreamFlags::RECEIVE_ABORT.union(StreamFlags::SEND_ABORT)) {
            return Ok(());
        }
        let (direction, end) = match course.transfer {
            Transfer::Sent => (StreamFlags::SEND, StreamFlags::SEND_DISCONNECT),
            Transfer::Received => (StreamFlags::RECEIVE, StreamFlags::RECEIVE_DISCONNECT),
        };
        let handles = &self.streams.handles;
        let handle = handles
            .get(course.at.version as usize)
            .and_then(Option::as_ref);
        handle
            .ok_or(Stuck)?
            .end(StreamPlace {
                flow: course.at.at.flow,
                callout: course.at.at.callout,
                layer: course.at.at.layer,
                flags: direction.union(end),
                length: 0,
            })
            .map_err(|_| Stuck)
    }

    fn resume(&mut self, course: &Course<Place>, flags: u32) {
        if stream::resume(course.at.at, StreamFlags::from_bits(flags), self.passive).is_err() {
            self.abort(course);
        }
    }

    fn abort(&mut self, course: &Course<Place>) {
        self.core.statistics().count(Counter::StreamsDropped);
        if flow::abort(course.at.at.flow).is_err() {
            self.core.statistics().count(Counter::FlowRemoveFailed);
        }
    }
}

/// The pieces behind the first `seen` bytes.
fn skip<'d>(
    pieces: impl Iterator<Item = &'d [u8]> + Clone,
    seen: u64,
) -> impl Iterator<Item = &'d [u8]> + Clone {
    let mut left = usize::try_from(seen).unwrap_or(usize::MAX);
    pieces.map(move |piece| {
        let here = left.min(piece.len());
        left -= here;
        piece.get(here..).unwrap_or_default()
    })
}
