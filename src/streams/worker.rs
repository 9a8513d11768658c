//! What the worker does with data that has gone out of band.

use portcullis_core::{
    Indication, Look, StreamVerdict, Transfer, behind,
    stream::{Course, Editor, Outlet, Piece, Reach, Stuck},
};
use portcullis_proto::Counter;
use wfp::{
    flow,
    inject::StreamPlace,
    irql::Passive,
    list::PacketBuffer,
    schema::StreamFlags,
    stream::{self, ClonedStream},
};

use super::{Place, Streams};
use crate::{management, state::Core};

/// Whether bytes went on.
type Put = core::result::Result<(), Stuck>;

/// One run of the worker.
pub(super) struct Worker<'a> {
    pub(super) streams: &'a Streams,
    pub(super) core: &'a Core,
    pub(super) passive: Passive,
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

/// What is put back is in its place only while everything that passes is shown.
fn still_seen() -> Put {
    if management::is_blind() {
        Err(Stuck)
    } else {
        Ok(())
    }
}

impl Outlet<ClonedStream, Place> for Worker<'_> {
    fn inspect(&mut self, course: &Course<Place>, piece: &Piece<ClonedStream>) -> Reach {
        let indication = Indication {
            transfer: course.transfer,
            bytes: piece.length.saturating_sub(piece.seen),
            is_end: piece.is_end,
            look: Look::OutOfBand,
        };
        let bytes = behind(piece.data.chunks(), piece.seen);
        match self.core.stream(Some(course.flow), indication, bytes) {
            StreamVerdict::Permit | StreamVerdict::NeedMore => {
                self.core.reach(course.flow, course.transfer)
            }
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
        still_seen()?;
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
                    .stream_edited(course.flow, course.transfer, changes);
                Ok(None)
            })?;
        writer.flush()?;
        left.map_or(Ok(()), |data| worker.send_clone(course, data, flags))?;
        still_seen()
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
        self.core.statistics().count(match still_seen() {
            Ok(()) => Counter::StreamsDropped,
            Err(Stuck) => Counter::StreamsInterrupted,
        });
        if flow::abort(course.at.at.flow).is_err() {
            self.core.statistics().count(Counter::FlowRemoveFailed);
        }
    }
}
