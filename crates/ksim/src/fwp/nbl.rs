//! Net buffer lists that a driver makes of packets: allocate, clone, reference, and stream data.

use wfp_engine::clone_of_indicated;
use wfp_schema::NtStatus;

use super::layout::kernel::RawStreamData;
use crate::access::{In, Out, Shared};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::ndis::chain;
use crate::ndis::layout::{MDL_PARTIAL, Mdl, NetBufferList};
use crate::ndis::list::{List, Origin};
use crate::ndis::packet::Packets;
use crate::ndis::pool::{LIST, allocate_list, check_list_pool, free_list, positioned};
use crate::verifier::{ARGUMENT, NBL_STATE, OBJECT_STALE};

/// How the verifier calls a reference to a net buffer list.
const REFERENCE: &str = "net buffer list reference";

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NULL_POINTER: i32 = NtStatus::FWP_NULL_POINTER.to_i32();
const NO_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();
const INVALID_PARAMETER: i32 = NtStatus::INVALID_PARAMETER.to_i32();

/// Reports a list that neither the stack indicates or lends, nor a driver made. Whether it may be used.
fn check_live(call: &Call<'_>, list: Out<NetBufferList>) -> bool {
    let ndis = &call.machine().ndis;
    let live = ndis.packets.find(list.address()).map_or_else(
        || ndis.lists.origin(list).is_some(),
        |packet| packet.is_live(),
    );
    if !live {
        call.violation(
            &OBJECT_STALE,
            format!("net buffer list {list:?} is not indicated, referenced or allocated"),
        );
    }
    live
}

/// A partial MDL over `bytes` bytes at `offset` of `mdl`'s buffer.
fn partial(mdl: &Mdl, offset: usize, bytes: u32) -> Shared<Mdl> {
    let mut copy = Mdl::for_nonpaged(mdl.buffer().offset(offset), bytes);
    copy.flags |= MDL_PARTIAL;
    Shared::new(copy)
}

/// Keeps what a clone shares its data with.
fn lend(call: &Call<'_>, parent: Out<NetBufferList>) {
    if let Some(packet) = call.machine().ndis.packets.find(parent.address()) {
        Packets::reference(&packet);
    } else if let Some(mut list) = parent.get() {
        list.child_ref_count += 1;
        parent.set(list);
    }
}

/// Gives back what a clone shared its data with.
fn give_back(call: &Call<'_>, parent: Out<NetBufferList>) {
    let ndis = &call.machine().ndis;
    if let Some(packet) = ndis.packets.find(parent.address()) {
        ndis.packets.dereference(&packet);
    } else if ndis.lists.origin(parent).is_some()
        && let Some(mut list) = parent.get()
    {
        list.child_ref_count -= 1;
        parent.set(list);
    }
}

fn track(call: &Call<'_>, list: List) -> Out<NetBufferList> {
    let at = list.out();
    call.machine()
        .verifier()
        .track(call, LIST, at.address(), list.origin.maker(), 0);
    call.machine().ndis.lists.insert(list);
    at
}

fn free_clone(call: &Call<'_>, list: Out<NetBufferList>) {
    if let Some(freed) = free_list(call, list, &[Origin::Clone, Origin::StreamClone])
        && let Some(parent) = freed.parent
    {
        give_back(call, parent);
    }
}

/// Clones a list: as many buffers, at the same offsets in MDLs of their own over the same memory.
fn clone_list(
    call: &Call<'_>,
    origin: Origin,
    parent: Out<NetBufferList>,
    pool: usize,
) -> Option<List> {
    let header = parent.get()?;
    let mut buffers = Vec::new();
    let mut mdls = Vec::new();
    for (_, data) in chain::buffers(&header) {
        let copies: Vec<_> = chain::mdls(data.mdl_chain)
            .map(|(_, mdl)| partial(&mdl, 0, mdl.byte_count))
            .collect();
        let first = chain::link(&copies);
        buffers.push(Shared::new(positioned(
            0,
            first,
            data.data_offset,
            data.data_length,
        )));
        mdls.extend(copies);
    }
    lend(call, parent);
    let clone = List::clone_of(origin, pool, Some(parent), buffers, mdls);
    if let Some(mut list) = clone.out().get() {
        list.info = header.info;
        clone.out().set(list);
    }
    Some(clone)
}

/// Clones `length` bytes of one list of a stream from `skip` on, as one buffer.
fn clone_piece(
    call: &Call<'_>,
    parent: Out<NetBufferList>,
    skip: usize,
    length: usize,
    pool: usize,
) -> Option<List> {
    let header = parent.get()?;
    let mut mdls = Vec::new();
    let (mut skip, mut left) = (skip, length);
    for (_, data) in chain::buffers(&header) {
        let mut inside = data.current_mdl_offset as usize;
        let mut here = data.data_length;
        for (_, mdl) in chain::mdls(data.current_mdl) {
            let room = (mdl.byte_count as usize).saturating_sub(inside).min(here);
            let passed = skip.min(room);
            let taken = (room - passed).min(left);
            if taken > 0 {
                mdls.push(partial(
                    &mdl,
                    inside + passed,
                    u32::try_from(taken).unwrap_or(u32::MAX),
                ));
            }
            skip -= passed;
            left -= taken;
            here -= room;
            inside = 0;
        }
    }
    let first = chain::link(&mdls);
    let buffer = Shared::new(positioned(0, first, 0, length - left));
    lend(call, parent);
    Some(List::clone_of(
        Origin::StreamClone,
        pool,
        Some(parent),
        vec![buffer],
        mdls,
    ))
}

/// Where the data of a stream indication lies: lists with the bytes to skip and to take of each.
fn stream_pieces(data: &RawStreamData) -> Vec<(Out<NetBufferList>, usize, usize)> {
    let mut left = data.length;
    let mut pieces = Vec::new();
    let mut begun = data.offset.list.is_null();
    for (at, list) in chain::lists(data.lists) {
        let skip = if begun {
            0
        } else if at == data.offset.list {
            begun = true;
            bytes_before(&list, data).unwrap_or(0)
        } else {
            continue;
        };
        let held: usize = chain::buffers(&list)
            .map(|(_, buffer)| buffer.data_length)
            .sum();
        let taken = held.saturating_sub(skip).min(left);
        pieces.push((at, skip, taken));
        left -= taken;
        if left == 0 {
            break;
        }
    }
    pieces
}

/// Bytes of a list's data before the place that `dataOffset` names.
fn bytes_before(list: &NetBufferList, data: &RawStreamData) -> Option<usize> {
    let mut before = 0;
    for (at, buffer) in chain::buffers(list) {
        if at == data.offset.buffer {
            let mut inside = buffer.current_mdl_offset as usize;
            for (mdl_at, mdl) in chain::mdls(buffer.current_mdl) {
                if mdl_at == data.offset.mdl {
                    return (data.offset.mdl_offset as usize)
                        .checked_sub(inside)
                        .map(|here| before + here);
                }
                before += (mdl.byte_count as usize).saturating_sub(inside);
                inside = 0;
            }
            return None;
        }
        before += buffer.data_length;
    }
    None
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsallocatenetbufferandnetbufferlist0>
    fn FwpsAllocateNetBufferAndNetBufferList0(
        call, pool: usize, context_size: u16, context_backfill: u16, mdl_chain: Out<Mdl>, offset: u32, length: usize,
        list: Out<Out<NetBufferList>>,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES;
    {
        if list.is_null() {
            return NULL_POINTER;
        }
        if !check_list_pool(&call, pool) {
            return INVALID_PARAMETER;
        }
    }
    then {
        let context = usize::from(context_size) + usize::from(context_backfill);
        list.set(allocate_list(&call, Origin::Fwps, pool, mdl_chain, offset, length, context));
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsfreenetbufferlist0>
    fn FwpsFreeNetBufferList0(call, list: Out<NetBufferList>),
    irql PASSIVE..=DISPATCH;
    {
        free_list(&call, list, &[Origin::Fwps]);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsallocateclonenetbufferlist0>
    fn FwpsAllocateCloneNetBufferList0(
        call, original: Out<NetBufferList>, list_pool: usize, buffer_pool: usize, flags: u32,
        clone: Out<Out<NetBufferList>>,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES;
    {
        if clone.is_null() || original.is_null() {
            return NULL_POINTER;
        }
        let current = call.machine().fwp.current(call.cpu());
        if let Err(status) = clone_of_indicated(current.callout_flags()) {
            return status.to_i32();
        }
        if flags != 0 || !check_list_pool(&call, list_pool) || !check_live(&call, original) {
            return INVALID_PARAMETER;
        }
    }
    then {
        clone_list(&call, Origin::Clone, original, list_pool).map_or(NULL_POINTER, |list| {
            clone.set(track(&call, list));
            SUCCESS
        })
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsfreeclonenetbufferlist0>
    fn FwpsFreeCloneNetBufferList0(call, list: Out<NetBufferList>, flags: u32),
    irql PASSIVE..=DISPATCH;
    {
        if flags != 0 {
            call.violation(&ARGUMENT, format!("freeCloneFlags is {flags:#x}, not 0"));
        }
        free_clone(&call, list);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsreferencenetbufferlist0>
    fn FwpsReferenceNetBufferList0(call, list: Out<NetBufferList>, modify: u8),
    irql PASSIVE..=DISPATCH;
    {
        if !check_live(&call, list) {
            return;
        }
        if let Some(packet) = call.machine().ndis.packets.find(list.address()) {
            // Each reference is a thing to give back: the list's size leaves room to number them.
            let number = Packets::reference(&packet);
            call.machine().verifier().track(&call, REFERENCE, list.address() + number, "", 0);
            if modify != 0 {
                call.machine().fwp.current(call.cpu()).note_modify();
            }
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsdereferencenetbufferlist0>
    fn FwpsDereferenceNetBufferList0(call, list: Out<NetBufferList>, dispatch: u8),
    irql PASSIVE..=DISPATCH;
    {
        let ndis = &call.machine().ndis;
        match ndis.packets.find(list.address()) {
            Some(packet) => match ndis.packets.dereference(&packet) {
                Some(number) => call.machine().verifier().forget(REFERENCE, list.address() + number),
                None => call.violation(&NBL_STATE, format!("net buffer list {list:?} is dereferenced without a reference")),
            },
            None => call.violation(&NBL_STATE, format!("net buffer list {list:?} is none of the stack's")),
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscopystreamdatatobuffer0>
    fn FwpsCopyStreamDataToBuffer0(
        call, data: In<RawStreamData>, buffer: Out<u8>, bytes: usize, copied: Out<usize>,
    ),
    irql PASSIVE..=DISPATCH;
    {
        let Some(data) = data.get() else {
            call.violation(&ARGUMENT, "calloutStreamData is NULL");
            return;
        };
        let mut done = 0;
        for (list, skip, length) in stream_pieces(&data) {
            let Some(list) = list.get() else { break };
            let mut skip = skip;
            let mut left = length.min(bytes - done);
            for (_, net_buffer) in chain::buffers(&list) {
                for (start, here) in
                    chain::pieces(net_buffer.current_mdl, net_buffer.current_mdl_offset, net_buffer.data_length)
                {
                    let passed = skip.min(here);
                    skip -= passed;
                    let taken = (here - passed).min(left);
                    let mut copy = vec![0; here];
                    start.copy_to(&mut copy);
                    buffer.offset::<u8>(done).copy_from(&copy[passed..passed + taken]);
                    done += taken;
                    left -= taken;
                }
            }
        }
        if !copied.set(done) {
            call.violation(&ARGUMENT, "bytesCopied is NULL");
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsclonestreamdata0>
    fn FwpsCloneStreamData0(
        call, data: In<RawStreamData>, list_pool: usize, buffer_pool: usize, flags: u32,
        lists: Out<Out<NetBufferList>>,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES;
    {
        let Some(data) = data.get() else {
            return NULL_POINTER;
        };
        if lists.is_null() {
            return NULL_POINTER;
        }
        if flags != 0 || !check_list_pool(&call, list_pool) {
            return INVALID_PARAMETER;
        }
    }
    then {
        let mut first = Out::null();
        for (parent, skip, length) in stream_pieces(&data).into_iter().rev() {
            if let Some(list) = clone_piece(&call, parent, skip, length, list_pool) {
                let at = track(&call, list);
                if let Some(mut header) = at.get() {
                    header.next = first;
                    at.set(header);
                }
                first = at;
            }
        }
        lists.set(first);
        call.machine().fwp.current(call.cpu()).note_cloned();
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsdiscardclonedstreamdata0>
    fn FwpsDiscardClonedStreamData0(call, lists: Out<NetBufferList>, flags: u32, dispatch: u8),
    irql PASSIVE..=DISPATCH;
    {
        if flags != 0 {
            call.violation(&ARGUMENT, format!("allocateCloneFlags is {flags:#x}, not 0"));
        }
        let lists: Vec<_> = chain::lists(lists).map(|(at, _)| at).collect();
        for list in lists {
            free_clone(&call, list);
        }
    }
}
