//! Run-down protection: a count of users that an owner can close and wait for.
//!
//! `EX_RUNDOWN_REF` in the driver's memory holds twice the count; bit 0 says that it is closed.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::wait::{Timeout, until};
use crate::access::Out;
use crate::cpu::{APC, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::trap::code;
use crate::verifier::{ARGUMENT, LOCK_PROTOCOL};

const CLOSED: usize = 1;
const USER: usize = 2;

fn word(call: &Call<'_>, reference: usize) -> &'static AtomicUsize {
    if reference == 0 || !reference.is_multiple_of(8) {
        let words = format!("{} of no run-down protection ({reference:#x})", call.name());
        call.violation(&ARGUMENT, words.clone());
        let parameters = [
            reference as u64,
            u64::from(call.cpu().irql()),
            1,
            call.site() as u64,
        ];
        call.machine().crash(Bugcheck::new(
            code::DRIVER_IRQL_NOT_LESS_OR_EQUAL,
            parameters,
            words,
        ));
    }
    // SAFETY: aligned; the driver vouches that it lives (a trap otherwise), and every access is atomic.
    unsafe { AtomicUsize::from_ptr(reference as *mut usize) }
}

fn acquire(call: &Call<'_>, reference: usize, users: u32) -> u8 {
    let result = word(call, reference).fetch_update(Ordering::SeqCst, Ordering::SeqCst, |value| {
        (value & CLOSED == 0).then(|| value + USER * users as usize)
    });
    u8::from(result.is_ok())
}

fn release(call: &Call<'_>, reference: usize, users: u32) {
    let result = word(call, reference).fetch_update(Ordering::SeqCst, Ordering::SeqCst, |value| {
        value.checked_sub(USER * users as usize)
    });
    if result.is_err() {
        call.violation(
            &LOCK_PROTOCOL,
            "run-down protection is released that was not acquired",
        );
    }
    call.machine().wake();
}

fn wait(call: &Call<'_>, reference: usize) {
    let word = word(call, reference);
    word.fetch_or(CLOSED, Ordering::SeqCst);
    until(call, call.name(), Timeout::Never, || {
        word.load(Ordering::SeqCst) == CLOSED
    });
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exinitializerundownprotection>
    fn ExInitializeRundownProtection(call, reference: Out<usize>),
    irql PASSIVE..=APC;
    { reference.set(0); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirerundownprotection>
    fn ExAcquireRundownProtection(call, reference: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    { acquire(&call, reference, 1) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirerundownprotectionex>
    fn ExAcquireRundownProtectionEx(call, reference: usize, count: u32) -> u8,
    irql PASSIVE..=DISPATCH;
    { acquire(&call, reference, count) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleaserundownprotection>
    fn ExReleaseRundownProtection(call, reference: usize),
    irql PASSIVE..=DISPATCH;
    { release(&call, reference, 1); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleaserundownprotectionex>
    fn ExReleaseRundownProtectionEx(call, reference: usize, count: u32),
    irql PASSIVE..=DISPATCH;
    { release(&call, reference, count); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exwaitforrundownprotectionrelease>
    fn ExWaitForRundownProtectionRelease(call, reference: usize),
    irql PASSIVE..=APC;
    { wait(&call, reference); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exrundowncompleted>
    fn ExRundownCompleted(call, reference: usize),
    irql PASSIVE..=APC;
    { word(&call, reference).store(CLOSED, Ordering::SeqCst); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreinitializerundownprotection>
    fn ExReInitializeRundownProtection(call, reference: usize),
    irql PASSIVE..=APC;
    {
        let before = word(&call, reference).swap(0, Ordering::SeqCst);
        if before != CLOSED {
            call.violation(&LOCK_PROTOCOL, "run-down protection is initialized again before it was run down");
        }
    }

    /// The form of older systems: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirerundownprotection>
    fn ExfAcquireRundownProtection(call, reference: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    { acquire(&call, reference, 1) }

    /// The form of older systems: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleaserundownprotection>
    fn ExfReleaseRundownProtection(call, reference: usize),
    irql PASSIVE..=DISPATCH;
    { release(&call, reference, 1); }

    /// The form of older systems: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exwaitforrundownprotectionrelease>
    fn ExfWaitForRundownProtectionRelease(call, reference: usize),
    irql PASSIVE..=APC;
    { wait(&call, reference); }
}
