//! Pools of net buffers, and allocation from them.

use super::chain;
use super::layout::{
    Mdl, NetBuffer, NetBufferList, NetBufferListPoolParameters, NetBufferPoolParameters,
    OBJECT_TYPE_DEFAULT, ObjectHeader,
};
use super::list::{List, Origin};
use crate::access::{In, Out, Shared};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, OBJECT_STALE};

/// What a pool is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// `NdisAllocateNetBufferPool`.
    Buffers,
    /// `NdisAllocateNetBufferListPool`.
    Lists {
        /// Whether lists come with a net buffer.
        with_buffer: bool,
    },
}

/// How the verifier calls pools, lists and buffers.
const BUFFER_POOL: &str = "net buffer pool";
const LIST_POOL: &str = "net buffer list pool";
pub(crate) const LIST: &str = "net buffer list";
const BUFFER: &str = "net buffer";

fn header_fits(call: &Call<'_>, header: ObjectHeader, least: usize) -> bool {
    let fits = header.kind == OBJECT_TYPE_DEFAULT
        && header.revision >= 1
        && usize::from(header.size) >= least;
    if !fits {
        call.violation(
            &ARGUMENT,
            format!(
                "pool parameters have header type {:#x}, revision {}, size {}",
                header.kind, header.revision, header.size
            ),
        );
    }
    fits
}

fn tag_name(tag: u32) -> String {
    tag.to_le_bytes().escape_ascii().to_string()
}

fn new_pool(call: &Call<'_>, kind: &'static str, pool: Pool, tag: u32) -> usize {
    if tag == 0 {
        call.violation(&ARGUMENT, "a pool has no tag");
    }
    let state = &call.machine().ndis;
    let handle = state.new_handle();
    state.pools.lock().insert(handle, pool);
    call.machine()
        .verifier()
        .track(call, kind, handle, tag_name(tag), 0);
    handle
}

fn free_pool(call: &Call<'_>, kind: &'static str, handle: usize) {
    if call.machine().verifier().untrack(call, kind, handle) {
        let state = &call.machine().ndis;
        state.pools.lock().remove(&handle);
        let left = state.lists.count_from(handle);
        if left > 0 {
            call.violation(
                &OBJECT_STALE,
                format!("{kind} {handle:#x} is freed while {left} allocations are left"),
            );
        }
    }
}

/// The pool with this handle, if it is one.
fn pool(call: &Call<'_>, handle: usize) -> Option<Pool> {
    let pool = call.machine().ndis.pools.lock().get(&handle).copied();
    if pool.is_none() {
        call.violation(&OBJECT_STALE, format!("{handle:#x} is no pool (any more)"));
    }
    pool
}

/// Reports a handle given as a list pool that isn't one. NULL selects the system's own pool, where that is allowed.
pub(crate) fn check_list_pool(call: &Call<'_>, handle: usize) -> bool {
    handle == 0 || matches!(pool(call, handle), Some(Pool::Lists { .. }))
}

/// A net buffer over `chain`, positioned at `offset`.
pub(crate) fn positioned(
    pool: usize,
    mdl_chain: Out<Mdl>,
    offset: u32,
    length: usize,
) -> NetBuffer {
    let mut buffer = NetBuffer::empty(pool);
    buffer.data.mdl_chain = mdl_chain;
    buffer.data.data_offset = offset;
    buffer.data.data_length = length;
    if let Some((mdl, offset)) = chain::seek(mdl_chain, offset) {
        buffer.data.current_mdl = mdl;
        buffer.data.current_mdl_offset = offset;
    }
    buffer
}

/// Makes a list with one buffer over the driver's chain, and tracks it.
pub(crate) fn allocate_list(
    call: &Call<'_>,
    origin: Origin,
    pool: usize,
    mdl_chain: Out<Mdl>,
    offset: u32,
    length: usize,
    context: usize,
) -> Out<NetBufferList> {
    let available: usize = chain::mdls(mdl_chain)
        .map(|(_, mdl)| mdl.byte_count as usize)
        .sum();
    if (offset as usize).saturating_add(length) > available {
        call.violation(
            &ARGUMENT,
            format!("{length} bytes at offset {offset} are asked for of a chain of {available}"),
        );
    }
    let buffer = Shared::new(positioned(pool, mdl_chain, offset, length));
    let list = List::new(origin, pool, vec![buffer], context);
    let at = list.out();
    call.machine()
        .verifier()
        .track(call, LIST, at.address(), "", 0);
    call.machine().ndis.lists.insert(list);
    at
}

/// Frees a list that the driver allocated; `origins` are those that the function called frees.
pub(crate) fn free_list(
    call: &Call<'_>,
    list: Out<NetBufferList>,
    origins: &[Origin],
) -> Option<List> {
    let lists = &call.machine().ndis.lists;
    if let Some(origin) = lists.origin(list)
        && !origins.contains(&origin)
    {
        call.violation(
            &ARGUMENT,
            format!("net buffer list {list:?} was made by {}", origin.maker()),
        );
    }
    if lists.is_handed_over(list) {
        call.violation(
            &crate::verifier::NBL_STATE,
            format!("net buffer list {list:?} is freed before its injection completed"),
        );
        // The stack still has it, and gives it back: it stays for that.
        return None;
    }
    if call
        .machine()
        .verifier()
        .untrack(call, LIST, list.address())
    {
        let freed = lists.remove(list);
        if let Some(freed) = &freed {
            super::position::forget_retreats(call, freed);
        }
        return freed;
    }
    None
}

exports! {
    module "ndis.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisallocatenetbufferpool>
    fn NdisAllocateNetBufferPool(call, ndis: usize, parameters: In<NetBufferPoolParameters>) -> usize,
    irql PASSIVE..=DISPATCH, fails 0;
    {
        let Some(parameters) = parameters.get() else {
            call.violation(&ARGUMENT, "no pool parameters");
            return 0;
        };
        if !header_fits(&call, parameters.header, size_of::<NetBufferPoolParameters>()) {
            return 0;
        }
    }
    then {
        new_pool(&call, BUFFER_POOL, Pool::Buffers, parameters.tag)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisfreenetbufferpool>
    fn NdisFreeNetBufferPool(call, handle: usize),
    irql PASSIVE..=DISPATCH;
    {
        free_pool(&call, BUFFER_POOL, handle);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisallocatenetbufferlistpool>
    fn NdisAllocateNetBufferListPool(call, ndis: usize, parameters: In<NetBufferListPoolParameters>) -> usize,
    irql PASSIVE..=DISPATCH, fails 0;
    {
        let Some(parameters) = parameters.get() else {
            call.violation(&ARGUMENT, "no pool parameters");
            return 0;
        };
        if !header_fits(&call, parameters.header, size_of::<NetBufferListPoolParameters>()) {
            return 0;
        }
    }
    then {
        let with_buffer = parameters.allocate_net_buffer != 0;
        new_pool(&call, LIST_POOL, Pool::Lists { with_buffer }, parameters.tag)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisfreenetbufferlistpool>
    fn NdisFreeNetBufferListPool(call, handle: usize),
    irql PASSIVE..=DISPATCH;
    {
        free_pool(&call, LIST_POOL, handle);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisallocatenetbuffer>
    fn NdisAllocateNetBuffer(call, handle: usize, mdl_chain: Out<Mdl>, offset: u32, length: usize) -> Out<NetBuffer>,
    irql PASSIVE..=DISPATCH, fails Out::null();
    {
        if pool(&call, handle) != Some(Pool::Buffers) {
            return Out::null();
        }
    }
    then {
        let buffer = Shared::new(positioned(handle, mdl_chain, offset, length));
        let at = buffer.out();
        call.machine().verifier().track(&call, BUFFER, at.address(), "", 0);
        call.machine().ndis.lists.insert_buffer(buffer);
        at
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisfreenetbuffer>
    fn NdisFreeNetBuffer(call, buffer: Out<NetBuffer>),
    irql PASSIVE..=DISPATCH;
    {
        if call.machine().verifier().untrack(&call, BUFFER, buffer.address()) {
            call.machine().ndis.lists.remove_buffer(buffer);
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisallocatenetbufferlist>
    fn NdisAllocateNetBufferList(call, handle: usize, context_size: u16, context_backfill: u16) -> Out<NetBufferList>,
    irql PASSIVE..=DISPATCH, fails Out::null();
    {
        let Some(Pool::Lists { with_buffer }) = pool(&call, handle) else {
            return Out::null();
        };
    }
    then {
        if with_buffer {
            let context = usize::from(context_size) + usize::from(context_backfill);
            return allocate_list(&call, Origin::Ndis, handle, Out::null(), 0, 0, context);
        }
        let list = List::new(Origin::Ndis, handle, Vec::new(), usize::from(context_size) + usize::from(context_backfill));
        let at = list.out();
        call.machine().verifier().track(&call, LIST, at.address(), "", 0);
        call.machine().ndis.lists.insert(list);
        at
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisallocatenetbufferandnetbufferlist>
    fn NdisAllocateNetBufferAndNetBufferList(
        call, handle: usize, context_size: u16, context_backfill: u16, mdl_chain: Out<Mdl>, offset: u32, length: usize,
    ) -> Out<NetBufferList>,
    irql PASSIVE..=DISPATCH, fails Out::null();
    {
        match pool(&call, handle) {
            Some(Pool::Lists { with_buffer: true }) => {}
            Some(_) => {
                call.violation(&ARGUMENT, "the pool's lists come without net buffers (fAllocateNetBuffer)");
                return Out::null();
            }
            None => return Out::null(),
        }
    }
    then {
        let context = usize::from(context_size) + usize::from(context_backfill);
        allocate_list(&call, Origin::Ndis, handle, mdl_chain, offset, length, context)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblapi/nf-nblapi-ndisfreenetbufferlist>
    fn NdisFreeNetBufferList(call, list: Out<NetBufferList>),
    irql PASSIVE..=DISPATCH;
    {
        free_list(&call, list, &[Origin::Ndis]);
    }
}
