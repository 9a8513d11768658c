//! Net buffer lists of our own: clones of packets, and packets in our own memory.
//!
//! A list is either injected (see [`inject`](crate::inject)), which gives it to the stack until
//! its completion, or dropped, which frees it. Everything here may be called at IRQL <=
//! `DISPATCH_LEVEL`, but for making and freeing pools.

use core::{
    ffi::c_void,
    fmt,
    mem::ManuallyDrop,
    net::IpAddr,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
};

use wdk_sys::MDL;
use wfp_schema::{IpVersion, NtStatus};
use wfp_sys::{NET_BUFFER_LIST, NET_BUFFER_LIST_POOL_PARAMETERS};

use crate::{
    inject::family,
    irql::Passive,
    nbl::Packet,
    pool::{PoolBox, PoolVec, Tag},
    slots::Slots,
};

/// A clone of a packet: net buffers of its own over the same memory.
///
/// The memory stays the original's, which lives as long as a clone does: it is for injecting a
/// packet as it is. To change bytes, copy them to a [`PacketBuffer`].
#[derive(Debug)]
#[must_use = "a clone is injected or freed"]
pub struct CloneList {
    list: NonNull<NET_BUFFER_LIST>,
}

// SAFETY: the list has one owner; WFP's functions may be called on it from any thread.
unsafe impl Send for CloneList {}

impl CloneList {
    /// `FwpsAllocateCloneNetBufferList0`: the clone's data begins where the packet's does now.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, or another status of WFP.
    pub fn of(packet: Packet<'_>) -> Result<Self, NtStatus> {
        let mut list = ptr::null_mut();
        // SAFETY: the packet is alive; without pools WFP uses its own.
        let status = unsafe {
            wfp_sys::FwpsAllocateCloneNetBufferList0(
                packet.as_ptr(),
                ptr::null_mut(),
                ptr::null_mut(),
                0,
                &raw mut list,
            )
        };
        NtStatus::from_i32(status).ok()?;
        let list = NonNull::new(list).ok_or(NtStatus::UNSUCCESSFUL)?;
        Ok(Self { list })
    }

    pub(crate) const fn as_ptr(&self) -> *mut NET_BUFFER_LIST {
        self.list.as_ptr()
    }

    /// Takes over a clone that another function of WFP made.
    ///
    /// # Safety
    /// `list` is a single list, freed by `FwpsFreeCloneNetBufferList0`, and nobody else's.
    pub const unsafe fn from_raw(list: NonNull<NET_BUFFER_LIST>) -> Self {
        Self { list }
    }
}

impl Drop for CloneList {
    fn drop(&mut self) {
        // SAFETY: the clone is ours, and not injected (an injection owns it) or completed.
        unsafe { wfp_sys::FwpsFreeCloneNetBufferList0(self.list.as_ptr(), 0) };
    }
}

/// Memory for packets of our own, made at start: nothing is allocated for a packet but its list,
/// which comes from a pool of NDIS.
///
/// Memory that is still in use when the pool is dropped stays for ever: wait for it before.
pub struct PacketPool {
    inner: ManuallyDrop<PoolBox<Inner>>,
}

struct Inner {
    slots: Slots,
    /// Where each slot's memory begins, and what describes it.
    places: PoolVec<Place>,
    /// What `places` point to: packets, then descriptions of their memory.
    _memory: [PoolVec<u128>; 2],
    /// Bytes of a slot.
    size: usize,
    lists: ListPool,
}

struct Place {
    start: NonNull<u8>,
    mdl: NonNull<MDL>,
}

// SAFETY: a slot has one owner at a time, whoever that is.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

/// `NdisAllocateNetBufferListPool`.
struct ListPool(NonNull<c_void>);

// SAFETY: the handle is a name; NDIS's functions take it from any thread.
unsafe impl Send for ListPool {}
// SAFETY: as above.
unsafe impl Sync for ListPool {}

impl PacketPool {
    /// Memory for `count` packets of at most `size` bytes (rounded up to a multiple of 16).
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(tag: Tag, count: u32, size: u32, _passive: Passive) -> Result<Self, NtStatus> {
        const UNIT: usize = size_of::<u128>();

        let slots = Slots::try_new(tag, count)?;
        let units = (size as usize).div_ceil(UNIT);
        let mdl_units = mdl_size(units * UNIT).div_ceil(UNIT);
        let allocate = |units: usize| {
            let total = units
                .checked_mul(count as usize)
                .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
            PoolVec::<u128>::try_from_fn(tag, total, |_| 0)
        };
        let mut memory = [allocate(units)?, allocate(mdl_units)?];
        let [packets, mdls] = memory.each_mut().map(|memory| memory.as_mut_ptr());
        let mut inner = Inner {
            slots,
            places: PoolVec::try_with_capacity(tag, count as usize)?,
            _memory: memory,
            size: units * UNIT,
            lists: ListPool::try_new(tag)?,
        };
        for index in 0..count as usize {
            // SAFETY: within the memory, which has `units` for each of the `count` slots.
            let start = unsafe { packets.add(index * units) };
            // SAFETY: likewise.
            let mdl = unsafe { mdls.add(index * mdl_units) };
            let start = NonNull::new(start.cast()).ok_or(NtStatus::UNSUCCESSFUL)?;
            let mdl = NonNull::new(mdl.cast()).ok_or(NtStatus::UNSUCCESSFUL)?;
            // SAFETY: there is room for a description of so much memory, and nobody else's.
            unsafe { describe(mdl, start, inner.size) };
            // There is room for each.
            let _ = inner.places.push(Place { start, mdl });
        }
        Ok(Self {
            inner: ManuallyDrop::new(PoolBox::try_new(tag, inner)?),
        })
    }

    /// Takes memory for a packet of `length` bytes. What it holds at first is of no meaning.
    #[must_use]
    pub fn take(&self, length: usize) -> Option<PacketBuffer> {
        if length > self.inner.size {
            return None;
        }
        let slot = self.inner.slots.take()?;
        Some(PacketBuffer {
            slot: Slot {
                pool: NonNull::from(&**self.inner),
                index: slot,
            },
            length,
        })
    }

    /// Most bytes of a packet.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.size
    }

    /// How many packets exist.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.inner.slots.taken()
    }

    /// How many packets there can be.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.slots.count()
    }

    /// Waits until no packet of the pool exists any more.
    pub fn wait_until_free(&self, passive: Passive) {
        self.inner.slots.wait_until_free(passive);
    }
}

impl Drop for PacketPool {
    fn drop(&mut self) {
        if self.inner.slots.taken() == 0 {
            // SAFETY: the pool is dropped once, and nothing uses it any more.
            unsafe { ManuallyDrop::drop(&mut self.inner) };
        }
    }
}

impl fmt::Debug for PacketPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketPool")
            .field("slots", &self.inner.slots)
            .field("size", &self.inner.size)
            .finish_non_exhaustive()
    }
}

impl ListPool {
    /// A pool of lists that come with a net buffer.
    #[allow(clippy::cast_possible_truncation, reason = "constants of a few bits")]
    fn try_new(tag: Tag) -> Result<Self, NtStatus> {
        let mut parameters = NET_BUFFER_LIST_POOL_PARAMETERS {
            fAllocateNetBuffer: 1,
            PoolTag: tag.get(),
            ..Default::default()
        };
        parameters.Header.Type = wfp_sys::NDIS_OBJECT_TYPE_DEFAULT as u8;
        parameters.Header.Revision = wfp_sys::NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1 as u8;
        parameters.Header.Size = size_of::<NET_BUFFER_LIST_POOL_PARAMETERS>() as u16;
        // SAFETY: the parameters are only read during the call.
        let pool =
            unsafe { wfp_sys::NdisAllocateNetBufferListPool(ptr::null_mut(), &raw mut parameters) };
        NonNull::new(pool.cast())
            .map(Self)
            .ok_or(NtStatus::INSUFFICIENT_RESOURCES)
    }
}

impl Drop for ListPool {
    fn drop(&mut self) {
        // SAFETY: the pool is ours, and none of its lists exists any more.
        unsafe { wfp_sys::NdisFreeNetBufferListPool(self.0.as_ptr().cast()) };
    }
}

const PAGE: usize = 0x1000;

/// Bytes of the description of `size` bytes of memory, wherever they begin (`MmSizeOfMdl`).
const fn mdl_size(size: usize) -> usize {
    size_of::<MDL>() + size_of::<u64>() * (size.div_ceil(PAGE) + 1)
}

/// Describes `size` bytes of our non-paged memory (`MmInitializeMdl`, which the header defines inline, and
/// `MmBuildMdlForNonPagedPool`).
///
/// # Safety
/// At `mdl` are [`mdl_size`] zeroed bytes, and both they and the memory stay where they are.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a description of at most a few hundred bytes; an offset within a page"
)]
unsafe fn describe(mdl: NonNull<MDL>, start: NonNull<u8>, size: usize) {
    let offset = start.as_ptr().addr() % PAGE;
    let header = MDL {
        Size: mdl_size(size) as i16,
        StartVa: start.as_ptr().wrapping_sub(offset).cast(),
        ByteOffset: offset as u32,
        ByteCount: size as u32,
        ..Default::default()
    };
    // SAFETY: the caller vouches for the room.
    unsafe { mdl.write(header) };
    // SAFETY: the memory is of the non-paged pool, and the description has room for its pages.
    unsafe { wdk_sys::ntddk::MmBuildMdlForNonPagedPool(mdl.as_ptr()) };
}

/// A slot of a pool, given back when it is dropped.
struct Slot {
    /// Alive as long as a slot of it is taken.
    pool: NonNull<Inner>,
    index: u32,
}

// SAFETY: a slot has one owner, wherever it is.
unsafe impl Send for Slot {}

impl Slot {
    fn place(&self) -> (&Inner, Option<&Place>) {
        // SAFETY: a pool outlives its slots.
        let pool = unsafe { self.pool.as_ref() };
        (pool, pool.places.get(self.index as usize))
    }

    /// The first byte.
    fn start(&self) -> NonNull<u8> {
        self.place()
            .1
            .map_or(NonNull::dangling(), |place| place.start)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.place().0.slots.put(self.index);
    }
}

/// Bytes of a packet that is being made.
pub struct PacketBuffer {
    slot: Slot,
    length: usize,
}

impl PacketBuffer {
    /// Leaves only the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// A list of one net buffer, whose data are the bytes from `start` on. The bytes before are
    /// room for headers that somebody puts before the data.
    ///
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` if there are no bytes from `start` on, else a status of WFP.
    pub fn into_list(self, start: usize) -> Result<OwnedList, NtStatus> {
        if start >= self.length {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let offset = u32::try_from(start).map_err(|_| NtStatus::INVALID_PARAMETER)?;
        let (pool, place) = self.slot.place();
        let place = place.ok_or(NtStatus::INVALID_PARAMETER)?;
        let mut list = ptr::null_mut();
        // SAFETY: the description is of one piece of memory with at least `length` bytes, and in
        // no other list, because the slot has one owner.
        let status = unsafe {
            wfp_sys::FwpsAllocateNetBufferAndNetBufferList0(
                pool.lists.0.as_ptr().cast(),
                0,
                0,
                place.mdl.as_ptr(),
                offset,
                (self.length - start) as u64,
                &raw mut list,
            )
        };
        NtStatus::from_i32(status).ok()?;
        let list = NonNull::new(list).ok_or(NtStatus::UNSUCCESSFUL)?;
        Ok(OwnedList { list, buffer: self })
    }
}

impl Deref for PacketBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: a slot's memory is initialized, has at least `length` bytes, and is this
        // owner's alone.
        unsafe { core::slice::from_raw_parts(self.slot.start().as_ptr(), self.length) }
    }
}

impl DerefMut for PacketBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.slot.start().as_ptr(), self.length) }
    }
}

impl fmt::Debug for PacketBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketBuffer")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// A packet in our own memory.
#[must_use = "a list is injected or freed"]
pub struct OwnedList {
    list: NonNull<NET_BUFFER_LIST>,
    /// Given back after the list is freed.
    buffer: PacketBuffer,
}

// SAFETY: the list has one owner; WFP's functions may be called on it from any thread.
unsafe impl Send for OwnedList {}

impl OwnedList {
    /// The packet's bytes, the room before its data included.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for OwnedList {
    fn drop(&mut self) {
        // SAFETY: the list is ours, and not injected (an injection owns it) or completed.
        unsafe { wfp_sys::FwpsFreeNetBufferList0(self.list.as_ptr()) };
    }
}

impl fmt::Debug for OwnedList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedList")
            .field("buffer", &self.buffer)
            .finish_non_exhaustive()
    }
}

/// A list that can be injected.
#[derive(Debug)]
pub enum List {
    /// See [`CloneList`].
    Clone(CloneList),
    /// See [`OwnedList`].
    Owned(OwnedList),
}

impl From<CloneList> for List {
    fn from(list: CloneList) -> Self {
        Self::Clone(list)
    }
}

impl From<OwnedList> for List {
    fn from(list: OwnedList) -> Self {
        Self::Owned(list)
    }
}

/// Of what an IP header is made.
#[derive(Clone, Copy, Debug)]
pub struct IpHeader<'a> {
    /// Bytes of the header at the data's start that is replaced; 0 if the data begins with the
    /// transport header.
    pub replaced: u32,
    /// The packet's source.
    pub source: IpAddr,
    /// The packet's destination, of the same IP version.
    pub destination: IpAddr,
    /// `IP_PROTOCOL` of what follows.
    pub protocol: u8,
    /// `TRANSPORT_ENDPOINT_HANDLE`, if known.
    pub endpoint: u64,
    /// Control data of the socket.
    pub control: &'a [u8],
    /// The interface that it arrived on or leaves by, and its sub-interface; 0 if not known.
    pub interface: (u32, u32),
}

impl List {
    pub(crate) const fn as_ptr(&self) -> *mut NET_BUFFER_LIST {
        match self {
            Self::Clone(clone) => clone.list.as_ptr(),
            Self::Owned(owned) => owned.list.as_ptr(),
        }
    }

    /// The packet as it is now.
    #[must_use]
    pub fn packet(&self) -> Option<Packet<'_>> {
        // SAFETY: the list is ours and borrowed.
        unsafe { Packet::new(self.as_ptr()) }
    }

    /// `FwpsConstructIpHeaderForTransportPacket0`: puts an IP header before the data of each net
    /// buffer, or another in place of the one that is there. Full checksums are computed, and
    /// offloads that would compute them later are switched off for the list. What `IPsec` adds and
    /// extension headers of IPv6 go.
    ///
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` if the addresses are of two versions, or a header is replaced
    /// in a list with several net buffers; or another status of WFP. The list is to be freed then.
    pub fn construct_ip_header(&mut self, header: &IpHeader<'_>) -> Result<(), NtStatus> {
        let version = match (header.source, header.destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => IpVersion::V4,
            (IpAddr::V6(_), IpAddr::V6(_)) => IpVersion::V6,
            _ => return Err(NtStatus::INVALID_PARAMETER),
        };
        let (source, destination) = (octets(header.source), octets(header.destination));
        let control = if header.control.is_empty() {
            ptr::null()
        } else {
            header.control.as_ptr()
        };
        let length =
            u32::try_from(header.control.len()).map_err(|_| NtStatus::INVALID_PARAMETER)?;
        // SAFETY: the list is ours, the addresses are as long as the family's, in network order,
        // and everything else is only read during the call.
        let status = unsafe {
            wfp_sys::FwpsConstructIpHeaderForTransportPacket0(
                self.as_ptr(),
                header.replaced,
                family(version),
                source.as_ptr(),
                destination.as_ptr(),
                i32::from(header.protocol),
                header.endpoint,
                control.cast(),
                length,
                0,
                ptr::null_mut(),
                header.interface.0,
                header.interface.1,
            )
        };
        NtStatus::from_i32(status).ok()
    }
}

/// An address in network order, at the beginning of 16 bytes.
pub(crate) fn octets(address: IpAddr) -> [u8; 16] {
    let mut octets = [0; 16];
    match address {
        IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => octets = address.octets(),
    }
    octets
}
