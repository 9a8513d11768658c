//! Net buffer lists that a driver made, and what became of them.

use std::collections::HashMap;

use parking_lot::Mutex;
use wfp_engine::{Holder, Returned};

use super::chain;
use super::layout::{Mdl, NetBuffer, NetBufferData, NetBufferList};
use crate::access::{Out, Shared};

/// Which function made a list, and so which one frees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `NdisAllocateNetBufferList`, `NdisAllocateNetBufferAndNetBufferList`.
    Ndis,
    /// `FwpsAllocateNetBufferAndNetBufferList0`.
    Fwps,
    /// `FwpsAllocateCloneNetBufferList0`.
    Clone,
    /// `FwpsCloneStreamData0`.
    StreamClone,
}

impl Origin {
    /// The function's name.
    pub(crate) const fn maker(self) -> &'static str {
        match self {
            Self::Ndis => "NdisAllocateNetBufferList",
            Self::Fwps => "FwpsAllocateNetBufferAndNetBufferList0",
            Self::Clone => "FwpsAllocateCloneNetBufferList0",
            Self::StreamClone => "FwpsCloneStreamData0",
        }
    }
}

/// `NET_BUFFER_LIST_CONTEXT`'s header, before the context's data.
const CONTEXT_HEADER: usize = 16;

/// A list with everything that was allocated for it.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) origin: Origin,
    /// The handle of the pool it came from.
    pub(crate) pool: usize,
    /// What a clone shares its data with: the address of the original.
    pub(crate) parent: Option<Out<NetBufferList>>,
    header: Shared<NetBufferList>,
    _buffers: Vec<Shared<NetBuffer>>,
    mdls: Vec<Shared<Mdl>>,
    /// Memory of MDLs that were made later.
    headers: Vec<Box<[u8]>>,
    _context: Option<Box<[u8]>>,
    /// Who has it: the stack knows how its buffers stood when it was handed over.
    holder: Holder<Snapshot>,
}

impl List {
    pub(crate) fn new(
        origin: Origin,
        pool: usize,
        buffers: Vec<Shared<NetBuffer>>,
        context: usize,
    ) -> Self {
        let first = buffers.first().map_or(Out::null(), Shared::out);
        let mut list = NetBufferList::of(first, pool);
        let context = (context > 0).then(|| {
            let mut block = vec![0_u8; CONTEXT_HEADER + context].into_boxed_slice();
            // Next stays NULL; Size is that of the data, Offset where its used part begins: at its end.
            let size = u16::try_from(context).unwrap_or(u16::MAX).to_le_bytes();
            block[8..10].copy_from_slice(&size);
            block[10..12].copy_from_slice(&size);
            block
        });
        if let Some(block) = &context {
            // SAFETY: heap memory that lives as long as the list and that nothing of ours looks into.
            list.context = unsafe { Out::new(block.as_ptr().cast_mut()) };
        }
        Self {
            origin,
            pool,
            parent: None,
            header: Shared::new(list),
            _buffers: buffers,
            mdls: Vec::new(),
            headers: Vec::new(),
            _context: context,
            holder: Holder::Driver,
        }
    }

    /// A clone of `parent`: as many buffers, over `mdls`.
    pub(crate) fn clone_of(
        origin: Origin,
        pool: usize,
        parent: Option<Out<NetBufferList>>,
        buffers: Vec<Shared<NetBuffer>>,
        mdls: Vec<Shared<Mdl>>,
    ) -> Self {
        for pair in buffers.windows(2) {
            let mut buffer = pair[0].get();
            buffer.data.next = pair[1].out();
            pair[0].set(buffer);
        }
        let clone = Self {
            parent,
            mdls,
            ..Self::new(origin, pool, buffers, 0)
        };
        let mut header = clone.header.get();
        header.parent = parent.unwrap_or(Out::null());
        clone.header.set(header);
        clone
    }

    /// Its address.
    pub(crate) const fn out(&self) -> Out<NetBufferList> {
        self.header.out()
    }
}

/// The state of a list that its owner gave away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    list: [usize; 2],
    buffers: Vec<(NetBufferData, Vec<u8>)>,
}

impl Snapshot {
    /// Looks at `list` now, data included. Takes no lock.
    pub(crate) fn of(list: Out<NetBufferList>) -> Self {
        let Some(header) = list.get() else {
            return Self {
                list: [0; 2],
                buffers: Vec::new(),
            };
        };
        Self {
            list: [header.first.address(), header.parent.address()],
            buffers: chain::buffers(&header)
                .map(|(_, data)| (data, chain::bytes_of(&data)))
                .collect(),
        }
    }

    /// The data of each buffer.
    pub(crate) fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers.iter().map(|(_, bytes)| bytes.as_slice())
    }
}

/// The lists and loose buffers of a machine's drivers.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    lists: Mutex<HashMap<usize, List>>,
    loose: Mutex<HashMap<usize, Shared<NetBuffer>>>,
}

impl Lists {
    pub(crate) fn insert(&self, list: List) {
        self.lists.lock().insert(list.out().address(), list);
    }

    pub(crate) fn remove(&self, list: Out<NetBufferList>) -> Option<List> {
        self.lists.lock().remove(&list.address())
    }

    pub(super) fn insert_buffer(&self, buffer: Shared<NetBuffer>) {
        self.loose.lock().insert(buffer.out().address(), buffer);
    }

    pub(super) fn remove_buffer(&self, buffer: Out<NetBuffer>) {
        self.loose.lock().remove(&buffer.address());
    }

    /// Which function made `list`; `None` if no driver did.
    pub(crate) fn origin(&self, list: Out<NetBufferList>) -> Option<Origin> {
        self.lists
            .lock()
            .get(&list.address())
            .map(|list| list.origin)
    }

    /// Makes a list whose one net buffer holds `bytes`, after `back_fill` unused ones.
    pub(crate) fn insert_holding(
        &self,
        origin: Origin,
        pool: usize,
        bytes: &[u8],
        back_fill: u32,
    ) -> Out<NetBufferList> {
        let mut memory = vec![crate::access::POISON; back_fill as usize];
        memory.extend_from_slice(bytes);
        let memory = memory.into_boxed_slice();
        // SAFETY: heap memory that the list keeps, and that nothing of ours looks into.
        let at = unsafe { Out::new(memory.as_ptr().cast_mut()) };
        let size = u32::try_from(memory.len()).unwrap_or(u32::MAX);
        let mdl = Shared::new(Mdl::for_nonpaged(at, size));
        let buffer = super::pool::positioned(0, mdl.out(), back_fill, bytes.len());
        let mut list = List::new(origin, pool, vec![Shared::new(buffer)], 0);
        list.mdls.push(mdl);
        list.headers.push(memory);
        let at = list.out();
        self.insert(list);
        at
    }

    /// Puts `bytes` before the data of `buffer`, a net buffer of `list`, or with `replace` instead of it, in memory of
    /// their own: what is shared stays as it is. `false` if `list` is no driver's.
    pub(crate) fn prepend(
        &self,
        list: Out<NetBufferList>,
        buffer: Out<NetBuffer>,
        bytes: &[u8],
        replace: bool,
    ) -> bool {
        let Some(mut data) = chain::data_of(buffer) else {
            return false;
        };
        let mut lists = self.lists.lock();
        let Some(owner) = lists.get_mut(&list.address()) else {
            return false;
        };
        let memory = bytes.to_vec().into_boxed_slice();
        // SAFETY: heap memory that the list keeps, and that nothing of ours looks into.
        let at = unsafe { Out::new(memory.as_ptr().cast_mut()) };
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut mdls = vec![Shared::new(Mdl::for_nonpaged(at, size))];
        if replace {
            data.data_length = 0;
        } else {
            let mut inside = data.current_mdl_offset;
            for (_, mdl) in chain::mdls(data.current_mdl) {
                mdls.push(Shared::new(mdl.partial(inside)));
                inside = 0;
            }
        }
        let first = chain::link(&mdls);
        data.mdl_chain = first;
        data.current_mdl = first;
        data.current_mdl_offset = 0;
        data.data_offset = 0;
        data.data_length += bytes.len();
        chain::set_data(buffer, data);
        owner.mdls.append(&mut mdls);
        owner.headers.push(memory);
        drop(lists);
        true
    }

    /// What the clone `list` shares its data with.
    pub(crate) fn parent(&self, list: Out<NetBufferList>) -> Option<Out<NetBufferList>> {
        self.lists
            .lock()
            .get(&list.address())
            .and_then(|list| list.parent)
    }

    /// How many lists came from the pool with this handle.
    pub(super) fn count_from(&self, pool: usize) -> usize {
        self.lists
            .lock()
            .values()
            .filter(|list| list.pool == pool)
            .count()
    }

    /// `list` now belongs to the stack, in the state `snapshot`. `false` if it does already.
    pub(crate) fn hand_over(&self, list: Out<NetBufferList>, snapshot: Snapshot) -> bool {
        match self.lists.lock().get_mut(&list.address()) {
            Some(list) => list.holder.hand_over(snapshot),
            None => true,
        }
    }

    /// `list` goes back to its owner: how that finds it.
    pub(crate) fn take_back(&self, list: Out<NetBufferList>) -> Returned {
        let now = Snapshot::of(list);
        match self.lists.lock().get_mut(&list.address()) {
            Some(list) => list.holder.take_back(&now),
            None => Returned::NeverLent,
        }
    }

    pub(super) fn is_handed_over(&self, list: Out<NetBufferList>) -> bool {
        self.lists
            .lock()
            .get(&list.address())
            .is_some_and(|list| !list.holder.is_drivers())
    }
}
