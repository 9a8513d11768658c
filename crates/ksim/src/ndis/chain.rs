//! The data of a net buffer, through its chain of MDLs.

use super::layout::{Mdl, NetBuffer, NetBufferData, NetBufferList};
use crate::access::{In, Out, Shared};

/// More MDLs than this in one chain are a cycle.
const LONGEST_CHAIN: usize = 4_096;

/// The MDLs of a chain, with their places.
pub(crate) fn mdls(first: Out<Mdl>) -> impl Iterator<Item = (Out<Mdl>, Mdl)> {
    let mut next = first;
    std::iter::from_fn(move || {
        let at = next;
        let mdl = at.get()?;
        next = mdl.next;
        Some((at, mdl))
    })
    .take(LONGEST_CHAIN)
}

/// The net buffers of a list, with their places.
pub(crate) fn buffers(
    list: &NetBufferList,
) -> impl Iterator<Item = (Out<NetBuffer>, NetBufferData)> {
    let mut next = list.first;
    std::iter::from_fn(move || {
        let at = next;
        let data = data_of(at)?;
        next = data.next;
        Some((at, data))
    })
    .take(LONGEST_CHAIN)
}

/// The lists of a chain of lists, with their places.
pub(crate) fn lists(
    first: Out<NetBufferList>,
) -> impl Iterator<Item = (Out<NetBufferList>, NetBufferList)> {
    let mut next = first;
    std::iter::from_fn(move || {
        let at = next;
        let list = at.get()?;
        next = list.next;
        Some((at, list))
    })
    .take(LONGEST_CHAIN)
}

/// Chains MDLs; where the chain begins.
pub(crate) fn link(mdls: &[Shared<Mdl>]) -> Out<Mdl> {
    for pair in mdls.windows(2) {
        let mut mdl = pair[0].get();
        mdl.next = pair[1].out();
        pair[0].set(mdl);
    }
    mdls.first().map_or(Out::null(), Shared::out)
}

/// The part of a net buffer that says where its data is; `None` for NULL.
pub(crate) const fn data_of(buffer: Out<NetBuffer>) -> Option<NetBufferData> {
    buffer.offset::<NetBufferData>(0).get()
}

/// Puts the changed part back.
pub(crate) const fn set_data(buffer: Out<NetBuffer>, data: NetBufferData) {
    buffer.offset::<NetBufferData>(0).set(data);
}

/// Finds the MDL and the offset in it that are `offset` bytes into the chain.
///
/// An offset at the end of an MDL is the start of the next one, unless there is none.
pub(crate) fn seek(first: Out<Mdl>, offset: u32) -> Option<(Out<Mdl>, u32)> {
    let mut left = offset;
    for (at, mdl) in mdls(first) {
        if left < mdl.byte_count || (left == mdl.byte_count && mdl.next.is_null()) {
            return Some((at, left));
        }
        left -= mdl.byte_count;
    }
    None
}

/// The pieces of `length` bytes that begin `offset` bytes into `first`'s buffer; they end early if the chain does.
pub(crate) fn pieces(
    first: Out<Mdl>,
    offset: u32,
    length: usize,
) -> impl Iterator<Item = (In<u8>, usize)> {
    let mut skip = offset as usize;
    let mut left = length;
    mdls(first)
        .map(move |(_, mdl)| {
            let here = (mdl.byte_count as usize).saturating_sub(skip).min(left);
            let start = mdl.buffer().offset::<u8>(skip).as_in();
            skip = skip.saturating_sub(mdl.byte_count as usize);
            left -= here;
            (start, here, left)
        })
        .scan(false, |done, (start, here, left)| {
            if *done {
                return None;
            }
            *done = left == 0;
            Some((start, here))
        })
        .filter(|(_, here)| *here > 0)
}

/// Copies from the chain into `into`; how many bytes it had.
pub(crate) fn copy_out(first: Out<Mdl>, offset: u32, into: &mut [u8]) -> usize {
    let mut done = 0;
    for (start, length) in pieces(first, offset, into.len()) {
        start.copy_to(&mut into[done..done + length]);
        done += length;
    }
    done
}

/// The data of a net buffer as a copy.
pub(crate) fn bytes_of(data: &NetBufferData) -> Vec<u8> {
    let mut bytes = vec![0; data.data_length & 0xffff_ffff];
    let got = copy_out(data.current_mdl, data.current_mdl_offset, &mut bytes);
    bytes.truncate(got);
    bytes
}
