//! Remove locks: how many operations are under way on a device, and that no more begin.

use std::sync::atomic::{AtomicI32, Ordering};

use wfp_schema::NtStatus;

use crate::access::Out;
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, LOCK_PROTOCOL};

/// `IO_REMOVE_LOCK` of x64 Windows without the checked build's block; the event behind it is not used.
mod layout {
    pub(super) const SIZE: u32 = 32;
    pub(super) const REMOVED: usize = 0;
    pub(super) const IO_COUNT: usize = 4;
}

/// What operations on a lock that is being removed get.
const DELETE_PENDING: NtStatus = NtStatus::DELETE_PENDING;

/// The lock's count of operations, plus one until the device is removed.
fn count(call: &Call<'_>, lock: Out<u8>) -> Option<&'static AtomicI32> {
    let place = lock.offset::<i32>(layout::IO_COUNT).address();
    if lock.is_null() || !place.is_multiple_of(align_of::<i32>()) {
        call.violation(&ARGUMENT, format!("a remove lock at {:#x}", lock.address()));
        return None;
    }
    // SAFETY: aligned and not NULL; the driver vouches that a lock lives there (a trap otherwise), and every access
    // of ours to it is atomic.
    Some(unsafe { AtomicI32::from_ptr(place as *mut i32) })
}

fn check_size(call: &Call<'_>, size: u32) {
    if size != layout::SIZE {
        call.violation(
            &ARGUMENT,
            format!(
                "the remove lock's size is {size}, IO_REMOVE_LOCK has {} bytes",
                layout::SIZE
            ),
        );
    }
}

fn is_removed(lock: Out<u8>) -> bool {
    lock.offset::<u8>(layout::REMOVED).get().unwrap_or(0) != 0
}

fn release(call: &Call<'_>, count: &AtomicI32) -> i32 {
    let left = count.fetch_sub(1, Ordering::SeqCst) - 1;
    if left < 0 {
        call.violation(
            &LOCK_PROTOCOL,
            "a remove lock is released more often than acquired",
        );
    }
    call.machine().wake();
    left
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioinitializeremovelock>
    fn IoInitializeRemoveLockEx(call, lock: Out<u8>, tag: u32, minutes: u32, high_water: u32, size: u32),
    irql PASSIVE..=PASSIVE;
    {
        check_size(&call, size);
        lock.offset::<u32>(layout::REMOVED).set(0);
        if let Some(count) = count(&call, lock) {
            count.store(1, Ordering::SeqCst);
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioacquireremovelock>
    fn IoAcquireRemoveLockEx(call, lock: Out<u8>, tag: usize, file: usize, line: u32, size: u32) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        check_size(&call, size);
        let Some(count) = count(&call, lock) else { return DELETE_PENDING };
        count.fetch_add(1, Ordering::SeqCst);
        if is_removed(lock) {
            release(&call, count);
            return DELETE_PENDING;
        }
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioreleaseremovelock>
    fn IoReleaseRemoveLockEx(call, lock: Out<u8>, tag: usize, size: u32),
    irql PASSIVE..=DISPATCH;
    {
        check_size(&call, size);
        if let Some(count) = count(&call, lock) {
            release(&call, count);
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioreleaseremovelockandwait>
    fn IoReleaseRemoveLockAndWaitEx(call, lock: Out<u8>, tag: usize, size: u32),
    irql PASSIVE..=PASSIVE;
    {
        check_size(&call, size);
        let Some(count) = count(&call, lock) else { return };
        lock.offset::<u8>(layout::REMOVED).set(1);
        release(&call, count);
        release(&call, count);
        call.machine().wait(call.cpu(), "operations that hold a remove lock", None, || {
            count.load(Ordering::SeqCst) <= 0
        });
    }
}
