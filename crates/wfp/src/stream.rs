//! Stream indications.

use core::fmt;

use wfp_schema::StreamFlags;
use wfp_sys::{FWPS_STREAM_CALLOUT_IO_PACKET0, FWPS_STREAM_DATA0};

use crate::{
    nbl::{Chunks, Place},
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
