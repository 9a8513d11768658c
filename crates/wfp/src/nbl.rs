//! Packets: what lies in chains of net buffer lists, net buffers and memory descriptor lists.
//!
//! Everything is read in place, piece by piece, and every walk is bounded, because the chains
//! come from outside.

use core::{
    fmt,
    marker::PhantomData,
    ptr::{self, NonNull},
};

use wdk_sys::MDL;
use wfp_schema::NtStatus;
use wfp_sys::{NET_BUFFER, NET_BUFFER_LIST};

/// Most net buffers, net buffer lists and memory descriptor lists that one walk passes. A stream
/// indication of 64 KiB in pieces of one Ethernet payload has 45.
const MAX_STEPS: u32 = 4096;

/// A piece of the data could not be mapped to the system's address space; the walk ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped;

impl fmt::Display for Unmapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("packet data could not be mapped")
    }
}

/// The packet of a classify, of one or more net buffers.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    /// Not a reference: NDIS moves the data's start while views of it exist.
    list: NonNull<NET_BUFFER_LIST>,
    _alive: PhantomData<&'a NET_BUFFER_LIST>,
}

impl<'a> Packet<'a> {
    /// # Safety
    /// `raw` is NULL or a net buffer list that is alive during `'a` and that nobody else changes
    /// meanwhile, such as that of a running classify.
    pub(crate) unsafe fn new(raw: *mut NET_BUFFER_LIST) -> Option<Self> {
        NonNull::new(raw).map(|list| Self {
            list,
            _alive: PhantomData,
        })
    }

    /// The list, for the functions of NDIS and WFP.
    pub(crate) const fn as_ptr(self) -> *mut NET_BUFFER_LIST {
        self.list.as_ptr()
    }

    /// Its net buffers: inbound exactly one, outbound one for each datagram sent together.
    pub fn buffers(&self) -> impl Iterator<Item = Buffer<'a>> + Clone + use<'a> {
        // SAFETY: the list's chain is alive during `'a`.
        let mut next = unsafe { first_buffer(self.list) };
        (0..MAX_STEPS).map_while(move |_| {
            let buffer = next?;
            // SAFETY: as above.
            next = unsafe { next_buffer(buffer) };
            Some(Buffer {
                buffer,
                _alive: PhantomData,
            })
        })
    }

    /// What the network card was left to do with the packet, or has done.
    #[must_use]
    pub fn offload(&self) -> Offload {
        // SAFETY: the list is alive during `'a`.
        let list = unsafe { self.list.as_ref() };
        let slot = |index: usize| {
            list.NetBufferListInfo
                .get(index)
                .map_or(0, |info| info.addr())
        };
        Offload {
            checksum: slot(Offload::CHECKSUM),
            large_send: slot(Offload::LARGE_SEND),
            datagrams: slot(Offload::DATAGRAMS),
            segments: slot(Offload::SEGMENTS),
        }
    }

    /// Shows the packet with its data's start moved back by `bytes` in each net buffer
    /// (`NdisRetreatNetBufferListDataStart`), and moves it forth again before this returns.
    ///
    /// # Errors
    /// NDIS's status if the start cannot be moved; `with` is not called then.
    pub fn with_retreated<T>(
        self,
        bytes: u32,
        with: impl FnOnce(Packet<'_>) -> T,
    ) -> Result<T, NtStatus> {
        // SAFETY: the list is alive. Without a function that allocates descriptors NDIS uses its
        // own, if there is no room before the data.
        let status = unsafe {
            wfp_sys::NdisRetreatNetBufferListDataStart(self.as_ptr(), bytes, 0, None, None)
        };
        NtStatus::from_i32(status).ok()?;
        let shown = with(self);
        // SAFETY: as far as it went back, and with the same allocator. No way but this leads out
        // of `with`: a panic halts the machine.
        unsafe {
            wfp_sys::NdisAdvanceNetBufferListDataStart(self.as_ptr(), bytes, FREE_MDL, None);
        }
        Ok(shown)
    }

    /// Shows the packet with its data's start moved forth by `bytes` in each net buffer
    /// (`NdisAdvanceNetBufferListDataStart`), and moves it back again before this returns.
    ///
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` if a net buffer has less data; `with` is not called then.
    pub fn with_advanced<T>(
        self,
        bytes: u32,
        with: impl FnOnce(Packet<'_>) -> T,
    ) -> Result<T, NtStatus> {
        if self
            .buffers()
            .any(|buffer| buffer.length() < bytes as usize)
        {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        // SAFETY: the list is alive, and each of its buffers has so much data.
        unsafe { wfp_sys::NdisAdvanceNetBufferListDataStart(self.as_ptr(), bytes, 0, None) };
        let shown = with(self);
        // SAFETY: as far as it went forth, so that there is room, and nothing is allocated: this
        // cannot fail.
        let _ = unsafe {
            wfp_sys::NdisRetreatNetBufferListDataStart(self.as_ptr(), bytes, 0, None, None)
        };
        Ok(shown)
    }
}

/// `FreeMdl`: what a retreat has allocated is freed by the advance that undoes it.
const FREE_MDL: u8 = 1;

impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.buffers()).finish()
    }
}

/// What a list says of work that its network card is left to do, or has done (`NET_BUFFER_LIST_INFO`).
///
/// What a slot means depends on the packet's direction and protocol. Nothing of it is checked: it comes from other drivers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offload {
    checksum: usize,
    large_send: usize,
    datagrams: usize,
    segments: usize,
}

impl Offload {
    /// `TcpIpChecksumNetBufferListInfo`.
    const CHECKSUM: usize = 0;
    /// `TcpLargeSendNetBufferListInfo`.
    const LARGE_SEND: usize = 2;
    /// Received: `UdpRecvSegCoalesceOffloadInfo`, since NDIS 6.84. Before, and of what is sent, it has nothing to do with UDP.
    const DATAGRAMS: usize = 17;
    /// Received: `TcpRecvSegCoalesceInfo`, since NDIS 6.30. Sent: `UdpSegmentationOffloadInfo`, since NDIS 6.83.
    const SEGMENTS: usize = 22;

    /// Of a packet that is sent: the IP header's checksum is left to the card
    /// (`NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO.Transmit.IpHeaderChecksum`).
    #[must_use]
    pub const fn leaves_ip_checksum(self) -> bool {
        self.checksum & 0x10 != 0 || self.is_split()
    }

    /// Of a packet that is sent: its transport's checksum is left to the card (`Transmit.TcpChecksum`, `UdpChecksum`).
    #[must_use]
    pub const fn leaves_transport_checksum(self) -> bool {
        self.checksum & 0xC != 0 || self.is_split()
    }

    /// Of a packet that is sent: the card is to split it, which leaves it all checksums.
    const fn is_split(self) -> bool {
        self.large_send != 0 || self.datagram_size() != 0
    }

    /// Of a packet that is sent: the card is to split its TCP data into segments of so many bytes
    /// (`NDIS_TCP_LARGE_SEND_OFFLOAD_NET_BUFFER_LIST_INFO.MSS`).
    #[must_use]
    pub const fn segment_size(self) -> Option<usize> {
        match self.large_send & 0xF_FFFF {
            0 => None,
            size => Some(size),
        }
    }

    /// Of a UDP packet that is sent: the card is to split its data into datagrams of so many bytes, 0 if it is not
    /// (`NDIS_UDP_SEGMENTATION_OFFLOAD_NET_BUFFER_LIST_INFO.Transmit.MSS`; USO).
    #[must_use]
    pub const fn datagram_size(self) -> usize {
        self.segments & 0xF_FFFF
    }

    /// Of a UDP packet that was received: from how many datagrams the card has merged it, and how many bytes of data each but
    /// the last had; zeros if it has not (`NDIS_UDP_RSC_OFFLOAD_NET_BUFFER_LIST_INFO.Receive.SegCount`, `SegSize`; URO).
    #[must_use]
    pub const fn merged_datagrams(self) -> (usize, usize) {
        (self.datagrams & 0xFFFF, self.datagrams >> 16 & 0xFFFF)
    }

    /// Of a packet that was received: the card has found its transport's checksum right (`Receive.TcpChecksumSucceeded`,
    /// `UdpChecksumSucceeded`), or has put it together from several segments, whose checksums it has looked at.
    #[must_use]
    pub const fn has_checked_transport(self) -> bool {
        self.checksum & 0x18 != 0 || self.segments & 0xFFFF != 0
    }
}

/// One net buffer.
#[derive(Clone, Copy)]
pub struct Buffer<'a> {
    buffer: NonNull<NET_BUFFER>,
    _alive: PhantomData<&'a NET_BUFFER>,
}

impl<'a> Buffer<'a> {
    /// Bytes from the buffer's offset to its end.
    #[must_use]
    pub const fn length(self) -> usize {
        // SAFETY: the buffer is alive during `'a`.
        unsafe { data_length(self.buffer) }
    }

    /// The bytes from `before` in front of the buffer's offset on, in pieces: headers that the stack
    /// has passed over stay where they are, and are read there without moving the offset.
    ///
    /// `None` if the buffer has not so many bytes before its offset.
    #[must_use]
    pub fn chunks_from_before(self, before: usize) -> Option<Chunks<'a>> {
        let mut chunks = self.chunks(0);
        // SAFETY: the buffer is alive during `'a`.
        let (mut mdl, offset) = unsafe { chain_start(self.buffer) };
        let mut offset = offset.checked_sub(before)?;
        while chunks.steps > 0 && !mdl.is_null() {
            // SAFETY: a memory descriptor list of a chain that is alive during `'a`.
            let here = unsafe { byte_count(mdl) };
            if offset < here {
                break;
            }
            chunks.steps -= 1;
            offset -= here;
            // SAFETY: as above.
            mdl = unsafe { next_mdl(mdl) };
        }
        chunks.place.mdl = mdl;
        chunks.place.offset = offset;
        chunks.in_buffer = chunks.in_buffer.saturating_add(before);
        chunks.left = chunks.in_buffer;
        Some(chunks)
    }

    /// The bytes behind the first `skip`, in pieces.
    #[must_use]
    pub const fn chunks(self, skip: usize) -> Chunks<'a> {
        let mut chunks = Chunks {
            place: Place {
                list: None,
                buffer: None,
                mdl: ptr::null_mut(),
                offset: 0,
                _alive: PhantomData,
            },
            skip,
            in_buffer: 0,
            left: self.length(),
            steps: MAX_STEPS,
        };
        chunks.enter(self.buffer);
        chunks
    }
}

impl Buffer<'_> {
    /// Copies the bytes behind the first `skip` to `to`, all of which they fill.
    ///
    /// # Errors
    /// [`Unmapped`], also if there are not so many.
    pub fn copy_to(self, skip: usize, to: &mut [u8]) -> Result<(), Unmapped> {
        let mut rest = to;
        for chunk in self.chunks(skip) {
            if rest.is_empty() {
                return Ok(());
            }
            let chunk = chunk?;
            let length = chunk.len().min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(chunk.get(..length).ok_or(Unmapped)?);
            rest = later;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(Unmapped)
        }
    }
}

impl fmt::Debug for Buffer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("length", &self.length())
            .finish_non_exhaustive()
    }
}

/// A place in a chain of net buffer lists, all of which is alive during `'a`.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    /// The list of `buffer`; `None` if the walk ends with the buffer.
    list: Option<NonNull<NET_BUFFER_LIST>>,
    buffer: Option<NonNull<NET_BUFFER>>,
    mdl: *mut MDL,
    /// Bytes before the place in `mdl`.
    offset: usize,
    _alive: PhantomData<&'a NET_BUFFER_LIST>,
}

impl Place<'_> {
    /// # Safety
    /// Each pointer is NULL or within one chain, which is alive during the result's lifetime.
    pub(crate) const unsafe fn new(
        list: *mut NET_BUFFER_LIST,
        buffer: *mut NET_BUFFER,
        mdl: *mut MDL,
        offset: u32,
    ) -> Self {
        Self {
            list: NonNull::new(list),
            buffer: NonNull::new(buffer),
            mdl,
            offset: offset as usize,
            _alive: PhantomData,
        }
    }
}

/// The data of a packet or stream indication in contiguous pieces, none of them empty.
#[derive(Clone)]
pub struct Chunks<'a> {
    place: Place<'a>,
    /// Bytes still to be passed over.
    skip: usize,
    /// Bytes of data left in the net buffer.
    in_buffer: usize,
    /// Bytes of data left in all.
    left: usize,
    steps: u32,
}

impl<'a> Chunks<'a> {
    /// The `length` bytes from `place` on, across the net buffers and lists that follow.
    pub(crate) fn from_place(place: Place<'a>, length: usize) -> Self {
        let mut chunks = Self {
            place,
            skip: 0,
            in_buffer: 0,
            left: length,
            steps: MAX_STEPS,
        };
        if let Some(buffer) = chunks.place.buffer {
            chunks.in_buffer = chunks.left_of(buffer);
        }
        chunks
    }

    /// Bytes of data of `buffer` from the place on.
    fn left_of(&mut self, buffer: NonNull<NET_BUFFER>) -> usize {
        // SAFETY: a net buffer of a chain that is alive during `'a`.
        let (mut mdl, start) = unsafe { data_start(buffer) };
        let mut before = 0_usize;
        while self.steps > 0 {
            if mdl.is_null() {
                // The place is not in this buffer's chain: only the indication's length bounds it.
                return self.left;
            }
            if mdl == self.place.mdl {
                let passed = before
                    .saturating_add(self.place.offset)
                    .saturating_sub(start);
                // SAFETY: as above.
                return unsafe { data_length(buffer) }.saturating_sub(passed);
            }
            self.steps -= 1;
            // SAFETY: a memory descriptor list of a chain that is alive during `'a`.
            before = before.saturating_add(unsafe { byte_count(mdl) });
            // SAFETY: as above.
            mdl = unsafe { next_mdl(mdl) };
        }
        0
    }

    /// Goes to the first byte of `buffer`'s data.
    const fn enter(&mut self, buffer: NonNull<NET_BUFFER>) {
        // SAFETY: a net buffer of a chain that is alive during `'a`.
        let (mdl, offset) = unsafe { data_start(buffer) };
        self.place.buffer = Some(buffer);
        self.place.mdl = mdl;
        self.place.offset = offset;
        // SAFETY: as above.
        self.in_buffer = unsafe { data_length(buffer) };
    }

    /// Goes to the next net buffer, in the next list if need be; `None` if there is none.
    fn next_buffer(&mut self) -> Option<()> {
        let mut list = self.place.list?;
        // SAFETY: the chain is alive during `'a`.
        let mut next = unsafe { next_buffer(self.place.buffer?) };
        while next.is_none() {
            self.steps = self.steps.checked_sub(1)?;
            // SAFETY: as above.
            list = unsafe { next_list(list) }?;
            // SAFETY: as above.
            next = unsafe { first_buffer(list) };
        }
        self.place.list = Some(list);
        self.enter(next?);
        Some(())
    }

    /// The part of the current memory descriptor list that is data: its offset and length. Goes
    /// behind it.
    fn next_piece(&mut self) -> Option<(*mut MDL, usize, usize)> {
        while self.left > 0 {
            self.steps = self.steps.checked_sub(1)?;
            if self.in_buffer == 0 || self.place.mdl.is_null() {
                self.next_buffer()?;
                continue;
            }
            let (mdl, offset) = (self.place.mdl, self.place.offset);
            // SAFETY: a memory descriptor list of a chain that is alive during `'a`.
            let here = unsafe { byte_count(mdl) }.saturating_sub(offset);
            let length = here.min(self.in_buffer).min(self.left);
            self.in_buffer -= length;
            self.left -= length;
            // SAFETY: as above.
            self.place.mdl = unsafe { next_mdl(mdl) };
            self.place.offset = 0;
            let skipped = self.skip.min(length);
            self.skip -= skipped;
            if skipped < length {
                return Some((mdl, offset + skipped, length - skipped));
            }
        }
        None
    }
}

impl Chunks<'_> {
    /// The next `bytes` of a buffer's by themselves; what is left are those behind.
    #[must_use]
    pub fn split_front(&mut self, bytes: usize) -> Self {
        self.settle();
        let mut front = self.clone();
        front.left = front.left.min(bytes);
        self.skip = bytes;
        front
    }

    /// Goes to the first byte that is not to be passed over, within the buffer, so that nobody has to go the way to it again.
    fn settle(&mut self) {
        while self.skip > 0 && self.left > 0 && self.steps > 0 && !self.place.mdl.is_null() {
            let mdl = self.place.mdl;
            // SAFETY: a memory descriptor list of a chain that is alive during the lifetime of `self`.
            let here = unsafe { byte_count(mdl) }.saturating_sub(self.place.offset);
            let passed = here.min(self.in_buffer).min(self.left).min(self.skip);
            self.skip -= passed;
            self.in_buffer -= passed;
            self.left -= passed;
            if passed < here {
                self.place.offset += passed;
                if passed == 0 {
                    return;
                }
            } else {
                self.steps -= 1;
                self.place.offset = 0;
                // SAFETY: as above.
                self.place.mdl = unsafe { next_mdl(mdl) };
            }
        }
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<&'a [u8], Unmapped>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mdl, offset, length) = self.next_piece()?;
        // SAFETY: a memory descriptor list of a packet that is alive during `'a`.
        let Some(start) = (unsafe { system_address(mdl) }) else {
            self.left = 0;
            return Some(Err(Unmapped));
        };
        // SAFETY: `offset` is less than the bytes that the list describes.
        let start = unsafe { start.add(offset) };
        // SAFETY: `length` bytes from there are described by the list, mapped, and not written
        // to while the packet is indicated.
        Some(Ok(unsafe {
            core::slice::from_raw_parts(start.as_ptr(), length)
        }))
    }
}

impl fmt::Debug for Chunks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

// What NDIS's header offers as macros. Its unnamed unions hold these members or a list link that
// only NDIS uses, so reading the members is always right.

/// `NET_BUFFER_LIST_FIRST_NB`.
///
/// # Safety
/// `list` is alive.
const unsafe fn first_buffer(list: NonNull<NET_BUFFER_LIST>) -> Option<NonNull<NET_BUFFER>> {
    // SAFETY: forwarded from the caller.
    let list = unsafe { list.as_ref() };
    // SAFETY: see above.
    NonNull::new(unsafe { list.__bindgen_anon_1.__bindgen_anon_1.FirstNetBuffer })
}

/// `NET_BUFFER_LIST_NEXT_NBL`.
///
/// # Safety
/// `list` is alive.
const unsafe fn next_list(list: NonNull<NET_BUFFER_LIST>) -> Option<NonNull<NET_BUFFER_LIST>> {
    // SAFETY: forwarded from the caller.
    let list = unsafe { list.as_ref() };
    // SAFETY: see above.
    NonNull::new(unsafe { list.__bindgen_anon_1.__bindgen_anon_1.Next })
}

/// `NET_BUFFER_NEXT_NB`.
///
/// # Safety
/// `buffer` is alive.
const unsafe fn next_buffer(buffer: NonNull<NET_BUFFER>) -> Option<NonNull<NET_BUFFER>> {
    // SAFETY: forwarded from the caller.
    let buffer = unsafe { buffer.as_ref() };
    // SAFETY: see above.
    NonNull::new(unsafe { buffer.__bindgen_anon_1.__bindgen_anon_1.Next })
}

/// `NET_BUFFER_DATA_LENGTH`.
///
/// # Safety
/// `buffer` is alive.
const unsafe fn data_length(buffer: NonNull<NET_BUFFER>) -> usize {
    // SAFETY: forwarded from the caller.
    let buffer = unsafe { buffer.as_ref() };
    // SAFETY: see above.
    let members = unsafe { &buffer.__bindgen_anon_1.__bindgen_anon_1 };
    // SAFETY: the union's other member is the same number with more bits.
    let length = unsafe { members.__bindgen_anon_1.DataLength };
    length as usize
}

/// `NET_BUFFER_CURRENT_MDL` and `NET_BUFFER_CURRENT_MDL_OFFSET`.
///
/// # Safety
/// `buffer` is alive.
const unsafe fn data_start(buffer: NonNull<NET_BUFFER>) -> (*mut MDL, usize) {
    // SAFETY: forwarded from the caller.
    let buffer = unsafe { buffer.as_ref() };
    // SAFETY: see above.
    let members = unsafe { &buffer.__bindgen_anon_1.__bindgen_anon_1 };
    (members.CurrentMdl, members.CurrentMdlOffset as usize)
}

/// `NET_BUFFER_FIRST_MDL` and `NET_BUFFER_DATA_OFFSET`.
///
/// # Safety
/// `buffer` is alive.
const unsafe fn chain_start(buffer: NonNull<NET_BUFFER>) -> (*mut MDL, usize) {
    // SAFETY: forwarded from the caller.
    let buffer = unsafe { buffer.as_ref() };
    // SAFETY: see above.
    let members = unsafe { &buffer.__bindgen_anon_1.__bindgen_anon_1 };
    (members.MdlChain, members.DataOffset as usize)
}

/// `MmGetMdlByteCount`.
///
/// # Safety
/// `mdl` is alive.
unsafe fn byte_count(mdl: *mut MDL) -> usize {
    // SAFETY: forwarded from the caller.
    unsafe { (*mdl).ByteCount as usize }
}

/// The list that `mdl` is linked to.
///
/// # Safety
/// `mdl` is alive.
unsafe fn next_mdl(mdl: *mut MDL) -> *mut MDL {
    // SAFETY: forwarded from the caller.
    unsafe { (*mdl).Next }
}

/// `MmGetSystemAddressForMdlSafe`, which the header defines inline.
///
/// # Safety
/// `mdl` is alive and its pages are locked or from non-paged pool, as all of a packet's are.
unsafe fn system_address(mdl: *mut MDL) -> Option<NonNull<u8>> {
    /// `MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL`.
    const MAPPED: i16 = 0x0001 | 0x0004;
    /// `MmCached`.
    const CACHED: i32 = 1;
    /// `NormalPagePriority | MdlMappingNoExecute | MdlMappingNoWrite`.
    const PRIORITY: u32 = 16 | 0x4000_0000 | 0x8000_0000;

    // SAFETY: forwarded from the caller.
    let flags = unsafe { (*mdl).MdlFlags };
    let address = if flags & MAPPED != 0 {
        // SAFETY: the flags say that the member is valid.
        unsafe { (*mdl).MappedSystemVa }
    } else {
        // SAFETY: the caller vouches for the pages; a failure is NULL, because the last bug check
        // flag is zero. The mapping goes when the list's owner unlocks or frees it.
        unsafe {
            wdk_sys::ntddk::MmMapLockedPagesSpecifyCache(
                mdl,
                crate::irql::KERNEL_MODE,
                CACHED,
                ptr::null_mut(),
                0,
                PRIORITY,
            )
        }
    };
    NonNull::new(address.cast())
}
