//! Streams that are edited, or taken out of band: their memory, their injections, and the worker that puts data back.

mod classify;
mod worker;

pub(crate) use classify::classify;

use core::{
    num::NonZeroU64,
    sync::atomic::{AtomicBool, Ordering},
};

use portcullis_core::{
    Clock, FlowHandle, Transfer,
    stream::{CourseHandle, CourseSlot, Courses, Insert, PieceSlot},
};
use portcullis_proto::{Counter, LifecycleStep};
use wdk_sys::WDFTIMER;
use wfp::{
    NtStatus, Result,
    cell::KernelCell,
    flow::{self, Association, FlowId},
    inject::{Completion, InjectionHandle, Parcels, StreamData, StreamPlace},
    irql::Passive,
    list::{List, PacketPool},
    pool::PoolVec,
    schema::{IpVersion, StreamFlags},
    stream::ClonedStream,
    sync::RawSpinLock,
};

use crate::{
    device,
    state::{self, Core, SystemClock, tag},
};
use worker::Worker;

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

/// Whether the driver stops, so that nothing is taken, or collected, any more. A driver that has stopped is loaded anew.
static IS_SETTLING: AtomicBool = AtomicBool::new(false);

fn is_settling() -> bool {
    IS_SETTLING.load(Ordering::SeqCst)
}

/// Puts everything back that was taken out of streams: filters may not go before. A connection that keeps something
/// waiting for too long is aborted, and so is one of which the stack collects data that is not followed by more.
pub(crate) fn settle(passive: Passive) {
    IS_SETTLING.store(true, Ordering::SeqCst);
    let streams = STREAMS_IN_USE.get();
    if let Some(streams) = streams {
        streams.courses.stop();
    }
    for _ in 0..PATIENCE {
        serve(passive);
        let is_settled = streams.is_none_or(|streams| !streams.courses.unsettled(|_: Place| ()));
        if is_settled && !collecting(|_| ()) {
            return;
        }
        passive.sleep(core::time::Duration::from_millis(1));
    }
    if let Some(streams) = streams {
        streams.courses.unsettled(abort);
    }
    collecting(abort_flow);
}

/// Shows the flows of which the stack collects data, for which nothing but more data makes it stop. Whether there is one.
fn collecting(mut show: impl FnMut(FlowId)) -> bool {
    let mut found = false;
    if let Some(core) = state::core() {
        core.flows().for_each(|flow| {
            if let Some(id) = NonZeroU64::new(flow.system_flow).filter(|_| flow.is_collecting) {
                found = true;
                show(FlowId::new(id));
            }
        });
    }
    found
}

/// The engine has taken the filters along, in spite of what was out of streams: what passes now is not seen, and may have
/// overtaken what waits. A connection in which something does is aborted. The others go on, but no header is edited in
/// them any more, because it is not known where the next request begins.
pub(crate) fn interrupted() {
    collecting(|flow| {
        state::count(Counter::StreamsInterrupted);
        abort_flow(flow);
    });
    let Some(streams) = STREAMS_IN_USE.get() else {
        return;
    };
    streams.courses.interrupt(|place: Place| {
        state::count(Counter::StreamsInterrupted);
        abort(place);
    });
    // Of those which the worker was at something is left.
    device::enqueue_stream_work();
}

fn abort(place: Place) {
    abort_flow(place.at.flow);
}

fn abort_flow(id: FlowId) {
    if flow::abort(id).is_err() {
        state::count(Counter::FlowRemoveFailed);
    }
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
