//! Moving the start of a net buffer's data, and reading at it.

use super::chain;
use super::layout::{Mdl, NetBuffer, NetBufferList};
use super::list::List;
use crate::access::{Out, Shared};
use crate::cpu::{Callback, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::ARGUMENT;
use wfp_schema::NtStatus;

/// How the verifier calls memory that a retreat allocated.
const RETREAT: &str = "net buffer retreat";

/// `NET_BUFFER_ALLOCATE_MDL`: a driver's own way to allocate for a retreat.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nc-nblapi-net_buffer_allocate_mdl>
type AllocateMdl = extern "win64" fn(size: Out<u32>) -> Out<Mdl>;
/// `NET_BUFFER_FREE_MDL`: its counterpart.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nc-nblapi-net_buffer_free_mdl>
type FreeMdl = extern "win64" fn(mdl: Out<Mdl>);

/// An MDL that a retreat put before a chain.
#[derive(Debug)]
pub(super) struct Retreat {
    /// The MDL and its memory; `None` if the driver's own function made them.
    own: Option<(Shared<Mdl>, Box<[u8]>)>,
    buffer: Out<NetBuffer>,
}

const STATUS_SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
/// `NDIS_STATUS_RESOURCES`.
const STATUS_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();
/// `NDIS_STATUS_FAILURE`.
const STATUS_FAILURE: i32 = NtStatus::UNSUCCESSFUL.to_i32();

/// Forgets what retreats of a freed list's buffers allocated: a driver that frees a list it retreated leaks them.
pub(super) fn forget_retreats(call: &Call<'_>, list: &List) {
    let header = list.out().get();
    let buffers: Vec<_> = header
        .iter()
        .flat_map(chain::buffers)
        .map(|(at, _)| at)
        .collect();
    let stale = call
        .machine()
        .ndis
        .retreats
        .lock()
        .values()
        .filter(|retreat| buffers.contains(&retreat.buffer))
        .count();
    if stale > 0 {
        call.violation(
            &crate::verifier::NBL_STATE,
            format!(
                "net buffer list {:?} is freed with {stale} retreats that were not undone",
                list.out()
            ),
        );
    }
}

/// An MDL of `size` bytes at least, by the driver's function or by NDIS; `None` if there is no memory.
fn allocate(
    call: &Call<'_>,
    size: u32,
    handler: Option<AllocateMdl>,
) -> Option<(Out<Mdl>, Retreat)> {
    let none = Out::null();
    let Some(handler) = handler else {
        let memory = vec![crate::access::POISON; size as usize].into_boxed_slice();
        // SAFETY: heap memory that the retreat keeps until the advance, and that nothing of ours looks into.
        let at = unsafe { Out::new(memory.as_ptr().cast_mut()) };
        let mdl = Shared::new(Mdl::for_nonpaged(at, size));
        return Some((
            mdl.out(),
            Retreat {
                own: Some((mdl, memory)),
                buffer: none,
            },
        ));
    };
    let asked = Shared::new(size);
    let cpu = call.cpu();
    let callback = Callback::new("NET_BUFFER_ALLOCATE_MDL", handler as usize);
    let mdl = cpu.enter_driver(callback, cpu.irql(), || handler(asked.out()));
    let made = mdl.get()?;
    if made.byte_count < size {
        call.violation(
            &ARGUMENT,
            format!(
                "AllocateMdlHandler returned {} bytes of {size}",
                made.byte_count
            ),
        );
        return None;
    }
    Some((
        mdl,
        Retreat {
            own: None,
            buffer: none,
        },
    ))
}

/// Moves the start of the data back by `delta` bytes; allocates when the chain has no room before it.
fn retreat(
    call: &Call<'_>,
    buffer: Out<NetBuffer>,
    delta: u32,
    backfill: u32,
    handler: Option<AllocateMdl>,
) -> i32 {
    let Some(mut data) = chain::data_of(buffer) else {
        call.violation(&ARGUMENT, "NetBuffer is NULL");
        return STATUS_FAILURE;
    };
    if delta <= data.data_offset {
        data.data_offset -= delta;
    } else {
        let missing = delta - data.data_offset;
        let allocated = missing
            .checked_add(backfill)
            .and_then(|size| allocate(call, size, handler));
        let Some((at, mut retreat)) = allocated else {
            return STATUS_RESOURCES;
        };
        let Some(mut first) = at.get() else {
            return STATUS_RESOURCES;
        };
        first.next = data.mdl_chain;
        at.set(first);
        data.mdl_chain = at;
        data.data_offset = first.byte_count - missing;
        retreat.buffer = buffer;
        call.machine()
            .verifier()
            .track(call, RETREAT, at.address(), "", first.byte_count as usize);
        call.machine()
            .ndis
            .retreats
            .lock()
            .insert(at.address(), retreat);
    }
    data.data_length += delta as usize;
    place(&mut data);
    chain::set_data(buffer, data);
    STATUS_SUCCESS
}

/// Moves the start of the data forward by `delta` bytes; with `free`, gives back what a retreat allocated.
fn advance(
    call: &Call<'_>,
    buffer: Out<NetBuffer>,
    delta: u32,
    free: bool,
    handler: Option<FreeMdl>,
) {
    let Some(mut data) = chain::data_of(buffer) else {
        call.violation(&ARGUMENT, "NetBuffer is NULL");
        return;
    };
    if delta as usize > data.data_length {
        call.violation(
            &ARGUMENT,
            format!("advance by {delta} of {} bytes of data", data.data_length),
        );
        return;
    }
    data.data_length -= delta as usize;
    data.data_offset += delta;
    if free {
        while let Some(first) = data.mdl_chain.get() {
            let at = data.mdl_chain;
            if data.data_offset < first.byte_count {
                break;
            }
            let Some(retreat) = call.machine().ndis.retreats.lock().remove(&at.address()) else {
                break;
            };
            call.machine().verifier().forget(RETREAT, at.address());
            data.mdl_chain = first.next;
            data.data_offset -= first.byte_count;
            match (&retreat.own, handler) {
                (None, Some(handler)) => {
                    let cpu = call.cpu();
                    let callback = Callback::new("NET_BUFFER_FREE_MDL", handler as usize);
                    cpu.enter_driver(callback, cpu.irql(), || handler(at));
                }
                (None, None) => call.violation(
                    &ARGUMENT,
                    "no FreeMdlHandler for what AllocateMdlHandler made",
                ),
                (Some(_), _) => {}
            }
        }
    }
    place(&mut data);
    chain::set_data(buffer, data);
}

/// Sets the current MDL after the data offset changed.
fn place(data: &mut super::layout::NetBufferData) {
    if let Some((mdl, offset)) = chain::seek(data.mdl_chain, data.data_offset) {
        data.current_mdl = mdl;
        data.current_mdl_offset = offset;
    }
}

exports! {
    module "ndis.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisgetdatabuffer>
    fn NdisGetDataBuffer(
        call, buffer: Out<NetBuffer>, bytes: u32, storage: Out<u8>, align_multiple: u32, align_offset: u32,
    ) -> Out<u8>,
    irql PASSIVE..=DISPATCH, fails Out::null();
    {
        let Some(data) = chain::data_of(buffer) else {
            call.violation(&ARGUMENT, "NetBuffer is NULL");
            return Out::null();
        };
        if !align_multiple.is_power_of_two() {
            call.violation(&ARGUMENT, format!("AlignMultiple is {align_multiple}, no power of two"));
        }
        if bytes as usize > data.data_length {
            return Out::null();
        }
    }
    then {
        let Some(mdl) = data.current_mdl.get() else {
            return Out::null();
        };
        if u64::from(data.current_mdl_offset) + u64::from(bytes) <= u64::from(mdl.byte_count) {
            let start = mdl.buffer().offset::<u8>(data.current_mdl_offset as usize);
            let multiple = align_multiple.max(1) as usize;
            if start.address() % multiple == align_offset as usize % multiple {
                return start;
            }
        }
        if !storage.is_null() {
            let mut copy = vec![0; bytes as usize];
            if chain::copy_out(data.current_mdl, data.current_mdl_offset, &mut copy) < copy.len() {
                return Out::null();
            }
            storage.copy_from(&copy);
        }
        storage
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisretreatnetbufferdatastart>
    fn NdisRetreatNetBufferDataStart(
        call, buffer: Out<NetBuffer>, delta: u32, backfill: u32, allocate_mdl: Option<AllocateMdl>,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails STATUS_RESOURCES;
    {
        retreat(&call, buffer, delta, backfill, allocate_mdl)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisadvancenetbufferdatastart>
    fn NdisAdvanceNetBufferDataStart(
        call, buffer: Out<NetBuffer>, delta: u32, free: u8, free_mdl: Option<FreeMdl>,
    ),
    irql PASSIVE..=DISPATCH;
    {
        advance(&call, buffer, delta, free != 0, free_mdl);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisretreatnetbufferlistdatastart>
    fn NdisRetreatNetBufferListDataStart(
        call, list: Out<NetBufferList>, delta: u32, backfill: u32, allocate_mdl: Option<AllocateMdl>,
        free_mdl: Option<FreeMdl>,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails STATUS_RESOURCES;
    {
        let Some(header) = list.get() else {
            call.violation(&ARGUMENT, "NetBufferList is NULL");
            return STATUS_FAILURE;
        };
    }
    then {
        let buffers: Vec<_> = chain::buffers(&header).map(|(at, _)| at).collect();
        for (index, buffer) in buffers.iter().enumerate() {
            let status = retreat(&call, *buffer, delta, backfill, allocate_mdl);
            if status != STATUS_SUCCESS {
                for buffer in &buffers[..index] {
                    advance(&call, *buffer, delta, true, free_mdl);
                }
                return status;
            }
        }
        STATUS_SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisadvancenetbufferlistdatastart>
    fn NdisAdvanceNetBufferListDataStart(
        call, list: Out<NetBufferList>, delta: u32, free: u8, free_mdl: Option<FreeMdl>,
    ),
    irql PASSIVE..=DISPATCH;
    {
        let Some(header) = list.get() else {
            call.violation(&ARGUMENT, "NetBufferList is NULL");
            return;
        };
        for (buffer, _) in chain::buffers(&header) {
            advance(&call, buffer, delta, free != 0, free_mdl);
        }
    }
}
