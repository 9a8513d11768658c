//! NDIS's structures as drivers see them on x64.
//!
//! Offsets of the public x64 symbols of Windows 10; NDIS 6.50 and later have this many `NetBufferListInfo` slots.

use crate::access::{Out, plain};

/// `MDL`: describes a buffer. <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_mdl>
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mdl {
    pub(crate) next: Out<Self>,
    pub(crate) size: i16,
    pub(crate) flags: i16,
    pub(crate) allocation_processor: u16,
    pub(crate) reserved: u16,
    pub(crate) process: usize,
    /// Valid if `flags` has [`MDL_MAPPED_TO_SYSTEM_VA`] or [`MDL_SOURCE_IS_NONPAGED_POOL`].
    pub(crate) mapped_system_va: Out<u8>,
    /// The page in which the buffer begins.
    pub(crate) start_va: Out<u8>,
    pub(crate) byte_count: u32,
    /// Where in that page it begins.
    pub(crate) byte_offset: u32,
}

/// The buffer is mapped.
pub(crate) const MDL_MAPPED_TO_SYSTEM_VA: i16 = 0x1;
/// Its pages are locked, as those of every buffer in a net buffer are.
pub(crate) const MDL_PAGES_LOCKED: i16 = 0x2;
/// It lies in nonpaged pool and needs no mapping.
pub(crate) const MDL_SOURCE_IS_NONPAGED_POOL: i16 = 0x4;
/// It is a part of another MDL's buffer.
pub(crate) const MDL_PARTIAL: i16 = 0x10;

impl Mdl {
    /// Describes `bytes` bytes at `buffer`, in nonpaged pool.
    pub(crate) fn for_nonpaged(buffer: Out<u8>, bytes: u32) -> Self {
        Self {
            flags: MDL_SOURCE_IS_NONPAGED_POOL,
            mapped_system_va: buffer,
            ..Self::unmapped(buffer, bytes)
        }
    }

    /// Describes `bytes` locked bytes at `buffer` that a driver must map to reach them.
    pub(crate) fn unmapped(buffer: Out<u8>, bytes: u32) -> Self {
        let in_page = buffer.address() % PAGE;
        Self {
            next: Out::null(),
            // One page frame number for each page that the buffer touches.
            size: i16::try_from(size_of::<Self>() + 8 * (in_page + bytes as usize).div_ceil(PAGE))
                .unwrap_or(i16::MAX),
            flags: MDL_PAGES_LOCKED,
            allocation_processor: 0,
            reserved: 0,
            process: 0,
            mapped_system_va: Out::null(),
            start_va: buffer.offset(0usize.wrapping_sub(in_page)),
            byte_count: bytes,
            byte_offset: u32::try_from(in_page).unwrap_or(0),
        }
    }

    /// A partial MDL over its buffer from `offset` on.
    pub(crate) fn partial(&self, offset: u32) -> Self {
        let bytes = self.byte_count.saturating_sub(offset);
        let mut part = Self::for_nonpaged(self.buffer().offset(offset as usize), bytes);
        part.flags |= MDL_PARTIAL;
        part
    }

    /// Where the buffer lies in this address space, mapped or not.
    pub(crate) const fn buffer(&self) -> Out<u8> {
        if self.flags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) == 0 {
            self.start_va.offset(self.byte_offset as usize)
        } else {
            self.mapped_system_va
        }
    }
}

/// Bytes of a page.
pub(crate) const PAGE: usize = 0x1000;

/// `NET_BUFFER_DATA`, with which a `NET_BUFFER` begins.
///
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nbl/ns-nbl-net_buffer_data>
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetBufferData {
    pub(crate) next: Out<NetBuffer>,
    /// The MDL in which the data begins.
    pub(crate) current_mdl: Out<Mdl>,
    /// Where in that MDL's buffer.
    pub(crate) current_mdl_offset: u32,
    pub(crate) data_length: usize,
    pub(crate) mdl_chain: Out<Mdl>,
    /// Bytes of the chain before the data.
    pub(crate) data_offset: u32,
}

/// `NET_BUFFER`: a packet. <https://learn.microsoft.com/windows-hardware/drivers/ddi/nbl/ns-nbl-net_buffer>
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetBuffer {
    pub(crate) data: NetBufferData,
    pub(crate) checksum_bias: u16,
    pub(crate) reserved: u16,
    pub(crate) pool: usize,
    pub(crate) ndis_reserved: [usize; 2],
    pub(crate) protocol_reserved: [usize; 6],
    pub(crate) miniport_reserved: [usize; 4],
    pub(crate) physical_address: u64,
    pub(crate) shared_memory: usize,
}

impl NetBuffer {
    /// A buffer without data.
    pub(crate) const fn empty(pool: usize) -> Self {
        Self {
            data: NetBufferData {
                next: Out::null(),
                current_mdl: Out::null(),
                current_mdl_offset: 0,
                data_length: 0,
                mdl_chain: Out::null(),
                data_offset: 0,
            },
            checksum_bias: 0,
            reserved: 0,
            pool,
            ndis_reserved: [0; 2],
            protocol_reserved: [0; 6],
            miniport_reserved: [0; 4],
            physical_address: 0,
            shared_memory: 0,
        }
    }
}

/// Slots of `NetBufferListInfo`.
pub(crate) const INFO_SLOTS: usize = 29;
/// `TcpIpChecksumNetBufferListInfo`.
pub(crate) const INFO_CHECKSUM: usize = 0;
/// `TcpLargeSendNetBufferListInfo`.
pub(crate) const INFO_LARGE_SEND: usize = 2;
/// `UdpRecvSegCoalesceOffloadInfo`, of what is received.
pub(crate) const INFO_UDP_COALESCED: usize = 17;
/// `UdpSegmentationOffloadInfo`, of what is sent.
pub(crate) const INFO_UDP_SEGMENTATION: usize = 22;

/// `NET_BUFFER_LIST`. <https://learn.microsoft.com/windows-hardware/drivers/ddi/nbl/ns-nbl-net_buffer_list>
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetBufferList {
    pub(crate) next: Out<Self>,
    pub(crate) first: Out<NetBuffer>,
    pub(crate) context: Out<u8>,
    pub(crate) parent: Out<Self>,
    pub(crate) pool: usize,
    pub(crate) _align: usize,
    pub(crate) ndis_reserved: [usize; 2],
    pub(crate) protocol_reserved: [usize; 4],
    pub(crate) miniport_reserved: [usize; 2],
    pub(crate) scratch: usize,
    pub(crate) source: usize,
    pub(crate) nbl_flags: u32,
    pub(crate) child_ref_count: i32,
    pub(crate) flags: u32,
    pub(crate) status: u32,
    pub(crate) info: [usize; INFO_SLOTS],
}

impl NetBufferList {
    /// A list of the one buffer `first`.
    pub(crate) const fn of(first: Out<NetBuffer>, pool: usize) -> Self {
        Self {
            next: Out::null(),
            first,
            context: Out::null(),
            parent: Out::null(),
            pool,
            _align: 0,
            ndis_reserved: [0; 2],
            protocol_reserved: [0; 4],
            miniport_reserved: [0; 2],
            scratch: 0,
            source: 0,
            nbl_flags: 0,
            child_ref_count: 0,
            flags: 0,
            status: 0,
            info: [0; INFO_SLOTS],
        }
    }
}

/// `NDIS_OBJECT_HEADER`. <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddndis/ns-ntddndis-_ndis_object_header>
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct ObjectHeader {
    pub(crate) kind: u8,
    pub(crate) revision: u8,
    pub(crate) size: u16,
}

/// `NDIS_OBJECT_TYPE_DEFAULT`.
pub(crate) const OBJECT_TYPE_DEFAULT: u8 = 0x80;

/// `NET_BUFFER_POOL_PARAMETERS`, revision 1.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetBufferPoolParameters {
    pub(crate) header: ObjectHeader,
    pub(crate) tag: u32,
    pub(crate) data_size: u32,
}

/// `NET_BUFFER_LIST_POOL_PARAMETERS`, revision 1.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetBufferListPoolParameters {
    pub(crate) header: ObjectHeader,
    pub(crate) protocol: u8,
    pub(crate) allocate_net_buffer: u8,
    pub(crate) context_size: u16,
    pub(crate) tag: u32,
    pub(crate) data_size: u32,
}

plain!(
    Mdl,
    NetBufferData,
    NetBuffer,
    NetBufferList,
    NetBufferPoolParameters,
    NetBufferListPoolParameters
);

/// Asserts sizes and offsets.
macro_rules! layout {
    ($($ty:ident $size:literal { $($field:ident @ $offset:literal),* $(,)? })*) => { const _: () = {
        $(
            assert!(size_of::<$ty>() == $size);
            $(assert!(std::mem::offset_of!($ty, $field) == $offset);)*
        )*
    }; };
}
pub(crate) use layout;

layout! {
    Mdl 48 {
        next @ 0, size @ 8, flags @ 10, allocation_processor @ 12, reserved @ 14, process @ 16,
        mapped_system_va @ 24, start_va @ 32, byte_count @ 40, byte_offset @ 44,
    }
    NetBufferData 48 {
        next @ 0, current_mdl @ 8, current_mdl_offset @ 16, data_length @ 24, mdl_chain @ 32, data_offset @ 40,
    }
    NetBuffer 176 {
        data @ 0, checksum_bias @ 48, reserved @ 50, pool @ 56, ndis_reserved @ 64, protocol_reserved @ 80,
        miniport_reserved @ 128, physical_address @ 160, shared_memory @ 168,
    }
    NetBufferList 384 {
        next @ 0, first @ 8, context @ 16, parent @ 24, pool @ 32, ndis_reserved @ 48, protocol_reserved @ 64,
        miniport_reserved @ 96, scratch @ 112, source @ 120, nbl_flags @ 128, child_ref_count @ 132, flags @ 136,
        status @ 140, info @ 144,
    }
    NetBufferPoolParameters 12 { header @ 0, tag @ 4, data_size @ 8 }
    NetBufferListPoolParameters 16 {
        header @ 0, protocol @ 4, allocate_net_buffer @ 5, context_size @ 6, tag @ 8, data_size @ 12,
    }
}
