//! Stream indications.

use core::{
    fmt,
    ptr::{self, NonNull},
};

use wfp_schema::{NtStatus, StreamFlags};
use wfp_sys::{FWPS_STREAM_CALLOUT_IO_PACKET0, FWPS_STREAM_DATA0, NET_BUFFER_LIST};

use crate::{
    flow::Association,
    list::CloneList,
    nbl::{Chunks, Packet, Place},
    verdict::StreamOut,
};

/// A `SIZE_T`, which only 64-bit systems have here.
#[allow(clippy::cast_possible_truncation, reason = "asserted")]
const fn size(bytes: u64) -> usize {
    const { assert!(size_of::<usize>() == size_of::<u64>()) };
    bytes as usize
}

/// Which way the data of an indication goes, whoever opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataDirection {
    /// Sent by this host.
    Send,
    /// Received by this host.
    Receive,
}

/// Data of a TCP connection, or its end, as a stream layer shows it.
#[derive(Clone, Copy)]
pub struct Indication<'a> {
    data: &'a FWPS_STREAM_DATA0,
    missed: usize,
}

impl<'a> Indication<'a> {
    /// # Safety
    /// `raw` is NULL or the layer data of a running classify at a stream layer, which `'a` does
    /// not outlive.
    pub(crate) unsafe fn new(raw: *mut FWPS_STREAM_CALLOUT_IO_PACKET0) -> Option<Self> {
        // SAFETY: forwarded from the caller; nothing else refers to it before the callout returns.
        let packet = unsafe { raw.as_ref() }?;
        Some(Self {
            // SAFETY: as above, and nobody changes it meanwhile.
            data: unsafe { packet.streamData.as_ref() }?,
            missed: size(packet.missedBytes),
        })
    }

    /// What kind of data it is.
    #[must_use]
    pub const fn flags(&self) -> StreamFlags {
        StreamFlags::from_bits(self.data.flags)
    }

    /// Which way it goes; `RECEIVE` or `SEND` is always set.
    #[must_use]
    pub const fn direction(&self) -> DataDirection {
        if self.flags().intersects(StreamFlags::SEND) {
            DataDirection::Send
        } else {
            DataDirection::Receive
        }
    }

    /// Whether the sender of this direction is done: a FIN or a reset.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        const END: StreamFlags = StreamFlags::RECEIVE_DISCONNECT
            .union(StreamFlags::RECEIVE_ABORT)
            .union(StreamFlags::SEND_DISCONNECT)
            .union(StreamFlags::SEND_ABORT);
        self.flags().intersects(END)
    }

    /// Bytes of data; 0 when only the end is indicated.
    #[must_use]
    pub const fn length(&self) -> usize {
        size(self.data.dataLength)
    }

    /// Bytes that heavier filters withheld from the callout since its last call.
    #[must_use]
    pub const fn missed(&self) -> usize {
        self.missed
    }

    /// Whether it is urgent (out of band, in TCP's words).
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        self.flags()
            .intersects(StreamFlags::RECEIVE_EXPEDITED.union(StreamFlags::SEND_EXPEDITED))
    }

    /// Whether the connection is reset.
    #[must_use]
    pub const fn is_reset(&self) -> bool {
        self.flags()
            .intersects(StreamFlags::RECEIVE_ABORT.union(StreamFlags::SEND_ABORT))
    }

    /// `FwpsCloneStreamData0`: the data, to be injected later. Whoever clones it has to block it, and from then on
    /// everything that follows in this direction, its end included, and to put all of it back in order.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, or another status of WFP.
    pub fn clone_data(&self) -> Result<ClonedStream, NtStatus> {
        if self.length() == 0 {
            return Ok(ClonedStream { first: None });
        }
        let mut first = ptr::null_mut();
        // SAFETY: the indication is alive; without pools WFP takes its own.
        let status = unsafe {
            wfp_sys::FwpsCloneStreamData0(
                ptr::from_ref(self.data).cast_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                0,
                &raw mut first,
            )
        };
        NtStatus::from_i32(status).ok()?;
        Ok(ClonedStream {
            first: NonNull::new(first),
        })
    }

    /// The data in contiguous pieces.
    #[must_use]
    pub fn chunks(&self) -> Chunks<'a> {
        let offset = &self.data.dataOffset;
        // SAFETY: the offset is a place in the indication's chain, which is alive during `'a`.
        let place = unsafe {
            Place::new(
                offset.netBufferList,
                offset.netBuffer,
                offset.mdl,
                offset.mdlOffset,
            )
        };
        Chunks::from_place(place, self.length())
    }
}

impl fmt::Debug for Indication<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Indication")
            .field("flags", &self.flags())
            .field("length", &self.length())
            .finish_non_exhaustive()
    }
}

/// Data of a stream that was cloned: a chain of lists over the memory of the original, which lives as long.
///
/// It is taken apart to be injected, list by list in order; what is left when it is dropped is discarded.
#[must_use = "a cloned stream is injected or discarded"]
pub struct ClonedStream {
    first: Option<NonNull<NET_BUFFER_LIST>>,
}

// SAFETY: the chain has one owner; WFP's functions may be called on it from any thread.
unsafe impl Send for ClonedStream {}

impl ClonedStream {
    /// The data of the first list in contiguous pieces, then that of the next, and so on.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> + Clone {
        lists(self.first).flat_map(|list| {
            // SAFETY: the chain is ours and borrowed.
            let packet = unsafe { Packet::new(list.as_ptr()) };
            packet
                .into_iter()
                .flat_map(|packet| packet.buffers())
                .flat_map(|buffer| buffer.chunks(0).map_while(Result::ok))
        })
    }

    /// Takes the first list off, with the number of its bytes.
    #[must_use]
    pub fn take_first(&mut self) -> Option<(CloneList, usize)> {
        let list = self.first?;
        // SAFETY: the chain is ours.
        let members = unsafe { &raw mut (*list.as_ptr()).__bindgen_anon_1.__bindgen_anon_1 };
        // SAFETY: as above; the union's other member is a list link of NDIS's own.
        self.first = NonNull::new(unsafe { (*members).Next });
        // SAFETY: as above.
        unsafe { (*members).Next = ptr::null_mut() };
        // SAFETY: the list is in no chain any more, and freed as any clone.
        let clone = unsafe { CloneList::from_raw(list) };
        // SAFETY: the list is alive as long as `clone`.
        let packet = unsafe { Packet::new(list.as_ptr()) };
        let length = packet
            .into_iter()
            .flat_map(|packet| packet.buffers())
            .map(crate::nbl::Buffer::length)
            .sum();
        Some((clone, length))
    }
}

/// The lists of a chain; a clone of a stream has as many as the indication.
fn lists(
    first: Option<NonNull<NET_BUFFER_LIST>>,
) -> impl Iterator<Item = NonNull<NET_BUFFER_LIST>> + Clone {
    core::iter::successors(first, |list| {
        // SAFETY: the chain is alive as long as who walks it borrows it.
        let list = unsafe { list.as_ref() };
        // SAFETY: the members of the list are the only ones that this union is used by.
        NonNull::new(unsafe { list.__bindgen_anon_1.__bindgen_anon_1.Next })
    })
}

impl Drop for ClonedStream {
    fn drop(&mut self) {
        if let Some(first) = self.first {
            // SAFETY: the chain is ours, and not injected. The level is left for WFP to find out.
            unsafe { wfp_sys::FwpsDiscardClonedStreamData0(first.as_ptr(), 0, 0) };
        }
    }
}

impl fmt::Debug for ClonedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClonedStream").finish_non_exhaustive()
    }
}

/// `FwpsStreamContinue0`: lets data that was deferred be indicated again. Not from a classify, and not while data is
/// injected into the stream.
///
/// # Errors
/// Whatever WFP answers.
pub fn resume(
    at: Association,
    flags: StreamFlags,
    _passive: crate::irql::Passive,
) -> Result<(), NtStatus> {
    // SAFETY: `FwpsStreamContinue0` takes numbers and checks them itself.
    let status = unsafe {
        wfp_sys::FwpsStreamContinue0(
            at.flow.get(),
            at.callout.get(),
            at.layer.get(),
            flags.bits(),
        )
    };
    NtStatus::from_i32(status).ok()
}

/// Writes a verdict to the packet.
///
/// # Safety
/// `raw` is NULL or the layer data of a running classify at a stream layer, and no
/// [`Indication`] of it is used any more.
#[allow(
    clippy::cast_possible_wrap,
    reason = "C makes the enumeration signed; its members are small"
)]
pub(crate) const unsafe fn answer(raw: *mut FWPS_STREAM_CALLOUT_IO_PACKET0, answer: StreamOut) {
    // SAFETY: forwarded from the caller.
    if let Some(packet) = unsafe { raw.as_mut() } {
        packet.streamAction = answer.action.value() as _;
        packet.countBytesRequired = answer.required;
        packet.countBytesEnforced = answer.enforced as u64;
    }
}
