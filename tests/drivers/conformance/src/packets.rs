//! Packets that are cloned, made, injected and given back; and how a packet looks.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use conformance_messages::{Inject, MakePacket, Record, Reply, kind, point};
use wdk_sys::{BOOLEAN, MDL};
use wfp::NtStatus;
use wfp::sync::{RawSpinLock, SpinLock};
use wfp_sys::{
    FWPS_INJECT_COMPLETE0, FWPS_STREAM_CALLOUT_IO_PACKET0, FWPS_TRANSPORT_SEND_PARAMS1, NET_BUFFER,
    NET_BUFFER_LIST, NET_BUFFER_LIST_POOL_PARAMETERS,
};

use crate::device::at_level;
use crate::records;
use crate::script::Call;
use crate::slots::bits;
use crate::traffic::INJECTION_HANDLES;

const SLOTS: usize = 16;
const POOL_FLAG_NON_PAGED: u64 = 0x40;
const TAG: u32 = u32::from_le_bytes(*b"WfCo");

/// How a packet goes back to where it came from.
#[derive(Clone, Copy)]
enum Origin {
    Clone,
    StreamClone,
    Own { mdl: *mut MDL, memory: *mut c_void },
}

#[derive(Clone, Copy)]
struct Packet {
    list: *mut NET_BUFFER_LIST,
    origin: Origin,
}

struct Packets([Option<Packet>; SLOTS]);

// SAFETY: who takes a packet out of the table owns it; WFP's functions may be called from any thread.
unsafe impl Send for Packets {}

static PACKETS: SpinLock<Packets> = SpinLock::from_raw(
    <RawSpinLock as lock_api::RawMutex>::INIT,
    Packets([None; SLOTS]),
);

/// What the next completion injects.
static AGAIN: SpinLock<Option<Inject>> =
    SpinLock::from_raw(<RawSpinLock as lock_api::RawMutex>::INIT, None);
/// How many completions have run.
static COMPLETED: AtomicU32 = AtomicU32::new(0);

/// Where made packets come from.
static POOL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

fn keep(slot: u32, packet: Packet) {
    let mut packets = PACKETS.lock();
    if let Some(place) = packets.0.get_mut(slot as usize) {
        *place = Some(packet);
    }
}

fn packet(slot: u32) -> Option<Packet> {
    PACKETS.lock().0.get(slot as usize).copied().flatten()
}

fn free(packet: Packet) {
    match packet.origin {
        // SAFETY: the list is a clone that nobody uses any more.
        Origin::Clone => unsafe { wfp_sys::FwpsFreeCloneNetBufferList0(packet.list, 0) },
        // SAFETY: as above.
        Origin::StreamClone => unsafe { wfp_sys::FwpsDiscardClonedStreamData0(packet.list, 0, 0) },
        Origin::Own { mdl, memory } => {
            // SAFETY: the list is our own, and nobody uses it any more.
            unsafe { wfp_sys::FwpsFreeNetBufferList0(packet.list) };
            // SAFETY: the list that used it is gone.
            unsafe { wdk_sys::ntddk::IoFreeMdl(mdl) };
            // SAFETY: the descriptor of it is gone.
            unsafe { wdk_sys::ntddk::ExFreePoolWithTag(memory, TAG) };
        }
    }
}

/// Frees what the test has left, and the pool.
pub(crate) fn free_all() {
    for slot in 0..SLOTS {
        let packet = PACKETS.lock().0[slot].take();
        if let Some(packet) = packet {
            free(packet);
        }
    }
    let pool = POOL.swap(ptr::null_mut(), Ordering::AcqRel);
    if !pool.is_null() {
        // SAFETY: every list of the pool is freed.
        unsafe { wfp_sys::NdisFreeNetBufferListPool(pool.cast()) };
    }
}

/// # Safety
/// `list` is NULL or alive.
const unsafe fn first_buffer(list: *mut NET_BUFFER_LIST) -> *mut NET_BUFFER {
    // SAFETY: forwarded from the caller.
    let Some(list) = (unsafe { list.as_ref() }) else {
        return ptr::null_mut();
    };
    // SAFETY: the unnamed union's other member is a link that only NDIS uses.
    unsafe { list.__bindgen_anon_1.__bindgen_anon_1.FirstNetBuffer }
}

/// Length and first bytes of a packet.
///
/// # Safety
/// `list` is NULL or that of a classify that is running.
pub(crate) unsafe fn look(list: *mut NET_BUFFER_LIST, record: &mut Record) {
    // SAFETY: forwarded from the caller.
    let buffer = unsafe { first_buffer(list) };
    // SAFETY: NULL or alive as long as its list.
    let Some(data) = (unsafe { buffer.as_ref() }) else {
        return;
    };
    // SAFETY: the unnamed unions' other members are the same numbers with more bits, or NDIS's own link.
    let members = unsafe { &data.__bindgen_anon_1.__bindgen_anon_1 };
    // SAFETY: as above.
    let length = unsafe { members.__bindgen_anon_1.DataLength };
    record.length = length.into();
    let wanted = length.min(32);
    if wanted == 0 {
        return;
    }
    let mut room = [0_u8; 32];
    // SAFETY: the room has at least `wanted` bytes, and the buffer that many.
    let bytes =
        unsafe { wfp_sys::NdisGetDataBuffer(buffer, wanted, room.as_mut_ptr().cast(), 1, 0) };
    if !bytes.is_null() {
        // SAFETY: the call gave a pointer to `wanted` bytes.
        let bytes = unsafe { core::slice::from_raw_parts(bytes.cast::<u8>(), wanted as usize) };
        record.bytes[..bytes.len()].copy_from_slice(bytes);
    }
}

/// Length, flags and first bytes of an indication of a stream.
///
/// # Safety
/// `stream` is NULL or the layer data of a classify that is running.
pub(crate) unsafe fn look_at_stream(
    stream: *mut FWPS_STREAM_CALLOUT_IO_PACKET0,
    record: &mut Record,
) {
    // SAFETY: forwarded from the caller.
    let Some(packet) = (unsafe { stream.as_ref() }) else {
        return;
    };
    record.missed = packet.missedBytes;
    // SAFETY: NULL or alive as long as the packet.
    let Some(data) = (unsafe { packet.streamData.as_ref() }) else {
        return;
    };
    record.number = data.flags;
    record.length = data.dataLength;
    if data.dataLength > 0 {
        let mut copied = 0;
        // SAFETY: the room has 32 bytes; how many were copied is written.
        unsafe {
            wfp_sys::FwpsCopyStreamDataToBuffer0(
                data,
                record.bytes.as_mut_ptr().cast(),
                data.dataLength.min(32),
                &raw mut copied,
            );
        }
    }
}

/// Clones the packet of a classify, from its IP header on if `whole`.
pub(crate) fn clone(slot: u32, whole: bool, call: &Call<'_>) -> (u32, u64) {
    // SAFETY: the list is this classify's.
    let buffer = unsafe { first_buffer(call.list) };
    if buffer.is_null() {
        return (NtStatus::INVALID_PARAMETER.code(), 0);
    }
    let back = if whole {
        call.metadata.ipHeaderSize + call.metadata.transportHeaderSize
    } else {
        0
    };
    if back > 0 {
        // SAFETY: inbound packets have their headers before the data (DDI: data offset positions).
        let status = unsafe { wfp_sys::NdisRetreatNetBufferDataStart(buffer, back, 0, None) };
        if status != 0 {
            return (bits(status), 0);
        }
    }
    let mut list: *mut NET_BUFFER_LIST = ptr::null_mut();
    // SAFETY: the list is this classify's; without pools WFP uses its own.
    let status = unsafe {
        wfp_sys::FwpsAllocateCloneNetBufferList0(
            call.list,
            ptr::null_mut(),
            ptr::null_mut(),
            0,
            &raw mut list,
        )
    };
    if back > 0 {
        // SAFETY: as far as it was retreated.
        unsafe { wfp_sys::NdisAdvanceNetBufferDataStart(buffer, back, 0, None) };
    }
    if status == 0 {
        keep(
            slot,
            Packet {
                list,
                origin: Origin::Clone,
            },
        );
    }
    (bits(status), 0)
}

/// Clones the data of a stream's classify.
pub(crate) fn clone_stream(slot: u32, call: &Call<'_>) -> (u32, u64) {
    // SAFETY: NULL or this classify's.
    let Some(packet) = (unsafe { call.stream.as_ref() }) else {
        return (NtStatus::INVALID_PARAMETER.code(), 0);
    };
    let mut list: *mut NET_BUFFER_LIST = ptr::null_mut();
    // SAFETY: the data is this classify's; without pools WFP uses its own.
    let status = unsafe {
        wfp_sys::FwpsCloneStreamData0(
            packet.streamData,
            ptr::null_mut(),
            ptr::null_mut(),
            0,
            &raw mut list,
        )
    };
    if status == 0 {
        keep(
            slot,
            Packet {
                list,
                origin: Origin::StreamClone,
            },
        );
    }
    (bits(status), 0)
}

/// The pool, made when it is needed first.
#[allow(clippy::cast_possible_truncation, reason = "constants of a few bits")]
fn pool() -> *mut c_void {
    let made = POOL.load(Ordering::Acquire);
    if !made.is_null() {
        return made;
    }
    let mut parameters = NET_BUFFER_LIST_POOL_PARAMETERS {
        fAllocateNetBuffer: 1,
        PoolTag: TAG,
        ..Default::default()
    };
    parameters.Header.Type = wfp_sys::NDIS_OBJECT_TYPE_DEFAULT as u8;
    parameters.Header.Revision = wfp_sys::NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1 as u8;
    parameters.Header.Size = size_of::<NET_BUFFER_LIST_POOL_PARAMETERS>() as u16;
    // SAFETY: the parameters are only read during the call.
    let pool =
        unsafe { wfp_sys::NdisAllocateNetBufferListPool(ptr::null_mut(), &raw mut parameters) };
    POOL.store(pool.cast(), Ordering::Release);
    pool.cast()
}

pub(crate) fn make(message: &MakePacket) -> Reply {
    let length = (message.length as usize).min(message.bytes.len());
    let failed = Reply::status(NtStatus::INSUFFICIENT_RESOURCES.code());
    // SAFETY: any size and tag may be asked for.
    let memory =
        unsafe { wdk_sys::ntddk::ExAllocatePool2(POOL_FLAG_NON_PAGED, length.max(1) as u64, TAG) };
    if memory.is_null() {
        return failed;
    }
    // SAFETY: the memory has this length and is new.
    unsafe { ptr::copy_nonoverlapping(message.bytes.as_ptr(), memory.cast(), length) };
    // SAFETY: the memory is alive until the descriptor is freed.
    let mdl = unsafe {
        wdk_sys::ntddk::IoAllocateMdl(memory, message.length.max(1), 0, 0, ptr::null_mut())
    };
    if mdl.is_null() {
        // SAFETY: nobody uses it.
        unsafe { wdk_sys::ntddk::ExFreePoolWithTag(memory, TAG) };
        return failed;
    }
    // SAFETY: the memory is from non-paged pool.
    unsafe { wdk_sys::ntddk::MmBuildMdlForNonPagedPool(mdl) };
    let mut list: *mut NET_BUFFER_LIST = ptr::null_mut();
    // SAFETY: the chain is one descriptor of this length.
    let status = unsafe {
        wfp_sys::FwpsAllocateNetBufferAndNetBufferList0(
            pool().cast(),
            0,
            0,
            mdl,
            0,
            length as u64,
            &raw mut list,
        )
    };
    if status != 0 {
        // SAFETY: nobody uses it.
        unsafe { wdk_sys::ntddk::IoFreeMdl(mdl) };
        // SAFETY: as above.
        unsafe { wdk_sys::ntddk::ExFreePoolWithTag(memory, TAG) };
        return Reply::status(bits(status));
    }
    keep(
        message.slot,
        Packet {
            list,
            origin: Origin::Own { mdl, memory },
        },
    );
    if let Some(before) = message.behind.checked_sub(1).and_then(packet) {
        link(before.list, list, message.same_list != 0);
    }
    Reply::status(0)
}

/// Puts `list` behind another, or its net buffer behind the other's.
const fn link(before: *mut NET_BUFFER_LIST, list: *mut NET_BUFFER_LIST, same_list: bool) {
    if same_list {
        // SAFETY: the list is ours.
        let first = unsafe { first_buffer(before) };
        // SAFETY: as above.
        let second = unsafe { first_buffer(list) };
        // SAFETY: NULL or the list's.
        if let Some(first) = unsafe { first.as_mut() } {
            first.__bindgen_anon_1.__bindgen_anon_1.Next = second;
        }
    // SAFETY: the list is ours.
    } else if let Some(before) = unsafe { before.as_mut() } {
        before.__bindgen_anon_1.__bindgen_anon_1.Next = list;
    }
}

/// `FWPS_INJECT_COMPLETE0`.
///
/// # Safety
/// Called by WFP, with a list that was injected.
unsafe extern "C" fn completed(
    context: *mut c_void,
    list: *mut NET_BUFFER_LIST,
    _dispatch: BOOLEAN,
) {
    let mut record = records::blank();
    record.kind = kind::COMPLETION;
    record.filter_context = context as u64;
    // SAFETY: the list is the driver's again.
    if let Some(list) = unsafe { list.as_ref() } {
        // SAFETY: the union's other member is NDIS's own.
        record.number = bits(unsafe { list.__bindgen_anon_2.Status });
    }
    let mut packets = PACKETS.lock();
    let place = packets
        .0
        .iter_mut()
        .find(|place| place.is_some_and(|packet| packet.list == list));
    let packet = place.and_then(Option::take);
    drop(packets);
    if let Some(packet) = packet {
        free(packet);
    }
    let again = AGAIN.lock().take();
    if let Some(message) = again {
        record.operations[0] = bits(call(&message, list_of(message.packet), Some(completed)));
    }
    COMPLETED.fetch_add(1, Ordering::SeqCst);
    records::keep(record);
}

/// The list in a packet slot that is given plus 1; NULL if there is none.
fn list_of(slot: u32) -> *mut NET_BUFFER_LIST {
    let found = slot.checked_sub(1).and_then(packet);
    found.map_or(ptr::null_mut(), |packet| packet.list)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the test chooses numbers of their type"
)]
pub(crate) fn inject(message: &Inject) -> Reply {
    let list = list_of(message.packet);
    if message.again != 0 {
        *AGAIN.lock() = Some(Inject {
            packet: message.again,
            again: 0,
            ..*message
        });
    }
    let completion: FWPS_INJECT_COMPLETE0 = if message.no_completion != 0 {
        None
    } else {
        Some(completed)
    };
    let status = at_level(message.irql, || call(message, list, completion));
    let mut reply = Reply::status(bits(status));
    if message.destroy != 0 {
        let handle = INJECTION_HANDLES.get(message.handle);
        // SAFETY: nobody but completions uses the handle until the call returns.
        reply.values[1] = bits(unsafe { wfp_sys::FwpsInjectionHandleDestroy0(handle) }).into();
        INJECTION_HANDLES.take(message.handle);
        reply.values[2] = COMPLETED.load(Ordering::SeqCst).into();
    }
    reply
}

/// `UNSPECIFIED_COMPARTMENT_ID`.
const NO_COMPARTMENT: i32 = 0;

#[allow(
    clippy::cast_possible_truncation,
    reason = "the test chooses numbers of their type"
)]
fn call(message: &Inject, list: *mut NET_BUFFER_LIST, completion: FWPS_INJECT_COMPLETE0) -> i32 {
    let handle = INJECTION_HANDLES.get(message.handle);
    let context = message.context as *mut c_void;
    let family = message.family as u16;
    match message.point {
        // SAFETY: the list stays as it is until its completion, which gives it back.
        point::NETWORK_SEND => unsafe {
            wfp_sys::FwpsInjectNetworkSendAsync0(
                handle,
                context,
                message.flags,
                NO_COMPARTMENT,
                list,
                completion,
                context,
            )
        },
        // SAFETY: as above.
        point::NETWORK_RECEIVE => unsafe {
            wfp_sys::FwpsInjectNetworkReceiveAsync0(
                handle,
                context,
                message.flags,
                NO_COMPARTMENT,
                message.interface,
                0,
                list,
                completion,
                context,
            )
        },
        point::TRANSPORT_SEND => {
            let mut remote = message.remote;
            let mut arguments = FWPS_TRANSPORT_SEND_PARAMS1 {
                remoteAddress: remote.as_mut_ptr(),
                ..Default::default()
            };
            // SAFETY: as above; WFP copies the parameters.
            unsafe {
                wfp_sys::FwpsInjectTransportSendAsync1(
                    handle,
                    context,
                    message.flow,
                    message.flags,
                    &raw mut arguments,
                    family,
                    NO_COMPARTMENT,
                    list,
                    completion,
                    context,
                )
            }
        }
        // SAFETY: as above.
        point::TRANSPORT_RECEIVE => unsafe {
            wfp_sys::FwpsInjectTransportReceiveAsync0(
                handle,
                context,
                ptr::null_mut(),
                message.flags,
                family,
                NO_COMPARTMENT,
                message.interface,
                0,
                list,
                completion,
                context,
            )
        },
        // SAFETY: as above.
        point::FORWARD => unsafe {
            wfp_sys::FwpsInjectForwardAsync0(
                handle,
                context,
                message.flags,
                family,
                NO_COMPARTMENT,
                message.interface,
                list,
                completion,
                context,
            )
        },
        // SAFETY: as above.
        _ => unsafe {
            wfp_sys::FwpsStreamInjectAsync0(
                handle,
                context,
                message.flags,
                message.flow,
                message.callout,
                message.layer as u16,
                message.stream_flags,
                list,
                message.length,
                completion,
                context,
            )
        },
    }
}
