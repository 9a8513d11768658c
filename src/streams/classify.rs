//! Data of a stream in its classify: edited inline as long as that goes, else taken out of band.

use core::num::{NonZeroU32, NonZeroUsize};

use portcullis_core::{
    FlowHandle, Indication, Look, StreamVerdict, Transfer, Treatment, behind,
    stream::{CourseHandle, Inline, Insert, Piece, Push, Reach, inline},
};
use portcullis_proto::Counter;
use wfp::{flow::Association, list::PacketBuffer, schema::IpVersion, stream, verdict};

use super::{Place, STREAMS_IN_USE, Streams};
use crate::{
    device, management,
    state::{self, Core},
};

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
        return call.inspect_or_collect();
    };
    // While no rule treats streams, and none is left that one did, there is nothing to ask.
    if streams.courses.is_empty() && !core.treats_streams() {
        return call.inspect_or_collect();
    }
    let open = |flow, system, has_begun| {
        let at = place(system)?;
        let place = Place { at, version };
        streams.courses.open(flow, place, has_begun)
    };
    let treatment = core.treatment(handle, transfer, 0, open);
    let course = match treatment {
        Treatment::Plain => {
            let verdict = call.inspect_or_collect();
            // What was found out just now may be that the data is to be edited.
            let length = data.length() as u64;
            match core.treatment(handle, transfer, length, open) {
                Treatment::Edit(course) if verdict == verdict::StreamVerdict::Permit => {
                    streams.courses.set_ahead(course, transfer, length);
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
        self.look(seen, Look::Inline)
    }

    /// Inspects all of it. While a host that decides is not known yet, all of it is collected until it is.
    ///
    /// Filters may not go while data is collected, and nothing makes the stack show it again but more data: once the
    /// driver stops, nothing is collected any more.
    fn inspect_or_collect(&self) -> verdict::StreamVerdict {
        let may_collect = !self.must_decide && !self.data.is_urgent() && !super::is_settling();
        let look = if may_collect {
            Look::Collecting
        } else {
            Look::Inline
        };
        let verdict = self.look(0, look);
        if let (verdict::StreamVerdict::NeedMoreData(_), Some(flow)) = (verdict, self.handle)
            && super::is_settling()
        {
            self.core.stop_collecting(flow);
            return verdict::StreamVerdict::Permit;
        }
        verdict
    }

    fn look(&self, seen: u64, look: Look) -> verdict::StreamVerdict {
        let length = self.data.length() as u64;
        let indication = Indication {
            transfer: self.transfer,
            bytes: length.saturating_sub(seen),
            // What is not known by now never will be.
            is_end: self.data.is_end() || self.must_decide,
            look,
        };
        let bytes = self.data.chunks().map_while(core::result::Result::ok);
        match self
            .core
            .stream(self.handle, indication, behind(bytes, seen))
        {
            StreamVerdict::Permit => verdict::StreamVerdict::Permit,
            StreamVerdict::NeedMore => verdict::StreamVerdict::NeedMoreData(NonZeroU32::MIN),
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
                    self.core.stream_edited(flow, self.transfer, 1);
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
            Push::Taken(_) if management::is_blind() => {
                // It may have been taken too late to be found by who looks for what waits.
                streams.courses.reset(course);
                self.core.statistics().count(Counter::StreamsInterrupted);
                Verdict::DropConnection
            }
            Push::Taken(is_first) => {
                self.core.statistics().count(Counter::StreamPiecesHeld);
                if let Some(flow) = self.handle.filter(|_| is_first) {
                    self.core.went_out_of_band(flow, self.transfer);
                }
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
