//! Net buffers: the memory in which drivers see packets, and NDIS's functions on it.
//!
//! - `layout`: `NET_BUFFER_LIST`, `NET_BUFFER` and `MDL` as on x64;
//! - `chain`: the data of a net buffer through its chain of MDLs;
//! - `pool`, `position`: the functions that a driver imports from `ndis.sys`;
//! - `list`: net buffer lists that a driver made;
//! - `packet`, `spread`: the ones that the stack indicates, and how they lie in memory.

pub(crate) mod chain;
pub(crate) mod layout;
pub(crate) mod list;
pub(crate) mod packet;
pub(crate) mod pool;
pub(crate) mod position;
pub(crate) mod spread;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::export::Export;

pub use spread::MdlLayout;

/// What this module gives to drivers.
pub(crate) static EXPORTS: &[&[Export]] = &[pool::EXPORTS, position::EXPORTS];

/// NDIS's state in one machine.
#[derive(Debug, Default)]
pub(crate) struct State {
    handles: AtomicUsize,
    pools: Mutex<HashMap<usize, pool::Pool>>,
    pub(crate) lists: list::Lists,
    retreats: Mutex<HashMap<usize, position::Retreat>>,
    pub(crate) packets: packet::Packets,
}

/// Handles look like addresses that no process may touch, so that using one as a pointer traps.
const HANDLES: usize = 0xffff_c000_0000_0000;

impl State {
    /// A handle that no other object of the machine has.
    pub(crate) fn new_handle(&self) -> usize {
        HANDLES + 0x40 * (1 + self.handles.fetch_add(1, Ordering::Relaxed))
    }
}
