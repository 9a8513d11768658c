//! Devices of drivers without a framework: a driver object's dispatch table, and the I/O manager's functions for it.
//!
//! - `device`: device objects, their names and links;
//! - `dispatch`: how requests reach the dispatch table, what a dispatch routine must have done when it returns, and
//!   how it completes a request;
//! - `cancel`: the cancel spin lock and cancel routines; `csq`: cancel-safe queues;
//! - `work_item`, `remove_lock`.

mod cancel;
mod csq;
mod device;
mod dispatch;
mod remove_lock;
mod work_item;

use crate::export::Export;

pub(crate) use cancel::CancelLock;
pub(crate) use device::{finish_initializing, pending_of};
#[cfg(test)]
pub(crate) use dispatch::IofCompleteRequest;
pub(crate) use dispatch::{Completed, check_returned, fill_dispatch_table};
pub(crate) use work_item::{ROUTINE as WORK_ITEM_ROUTINE, WorkItems};

/// What these modules give to drivers.
pub(crate) static EXPORTS: [&[Export]; 6] = [
    cancel::EXPORTS,
    csq::EXPORTS,
    device::EXPORTS,
    dispatch::EXPORTS,
    remove_lock::EXPORTS,
    work_item::EXPORTS,
];

/// `DRIVER_OBJECT` members that the I/O manager reads and writes.
mod driver_object {
    pub(super) const DEVICE_OBJECT: usize = 0x08;
    pub(super) const MAJOR_FUNCTION: usize = 0x70;
    /// `IRP_MJ_MAXIMUM_FUNCTION + 1`.
    pub(super) const MAJOR_FUNCTIONS: usize = 0x1c;
}
