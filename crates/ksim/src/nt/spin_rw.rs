//! Reader/writer spin locks.
//!
//! An `EX_SPIN_LOCK` in the driver's memory holds the number of sharers; the top bit says that it is exclusive.

use std::sync::atomic::{AtomicU32, Ordering};

use super::held;
use crate::cpu::{self, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::trap::code;
use crate::verifier::{ARGUMENT, LOCK_OWNER, LOCK_RECURSION};

const EXCLUSIVE: u32 = 1 << 31;

fn word(call: &Call<'_>, lock: usize) -> &'static AtomicU32 {
    if lock == 0 || !lock.is_multiple_of(align_of::<u32>()) {
        let words = format!("{} of no lock ({lock:#x})", call.name());
        call.violation(&ARGUMENT, words.clone());
        let parameters = [
            lock as u64,
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
    // SAFETY: aligned; the driver vouches that the lock lives (a trap otherwise), and every access is atomic.
    unsafe { AtomicU32::from_ptr(lock as *mut u32) }
}

/// Spins until the lock could be taken.
fn acquire(call: &Call<'_>, lock: usize, exclusive: bool) {
    let word = word(call, lock);
    if exclusive && call.cpu().locks().holds(lock) {
        waits_for_ever(
            call,
            lock,
            "a reader/writer spin lock is acquired exclusively by the processor that holds it",
        );
    }
    let next = |value| match value {
        0 if exclusive => Some(EXCLUSIVE),
        EXCLUSIVE.. => None,
        sharers if !exclusive => Some(sharers + 1),
        _ => None,
    };
    while word
        .fetch_update(Ordering::Acquire, Ordering::Relaxed, next)
        .is_err()
    {
        if call.machine().crashed() {
            cpu::park_for_ever();
        }
        if call.machine().processors() == 1 {
            waits_for_ever(call, lock, "waits for a lock that the only processor holds");
        }
        call.machine().scheduler().spin(call.cpu());
    }
    held::spin_lock_taken(call, lock);
}

fn waits_for_ever(call: &Call<'_>, lock: usize, words: &str) -> ! {
    call.violation(&LOCK_RECURSION, words);
    let place = call.machine().verifier().site(call.site());
    let words = format!("{} called from {place} waits for ever", call.name());
    call.machine().crash(Bugcheck::new(
        code::DRIVER_VERIFIER_DETECTED_VIOLATION,
        [0x1001, lock as u64, 0, 0],
        words,
    ))
}

fn release(call: &Call<'_>, lock: usize, exclusive: bool) {
    let next = |value| match value {
        EXCLUSIVE if exclusive => Some(0),
        1..EXCLUSIVE if !exclusive => Some(value - 1),
        _ => None,
    };
    if word(call, lock)
        .fetch_update(Ordering::Release, Ordering::Relaxed, next)
        .is_err()
    {
        call.violation(
            &LOCK_OWNER,
            "a reader/writer spin lock is released that is not held in this way",
        );
    } else if !held::spin_lock_released(call, lock) {
        call.violation(
            &LOCK_OWNER,
            "a reader/writer spin lock is released by a processor that does not hold it",
        );
    }
}

/// Raises to `DISPATCH_LEVEL`.
fn raise(call: &Call<'_>) -> u8 {
    call.cpu().set_irql(DISPATCH.max(call.cpu().irql()))
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirespinlockexclusive>
    fn ExAcquireSpinLockExclusive(call, lock: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let irql = raise(&call);
        acquire(&call, lock, true);
        irql
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirespinlockshared>
    fn ExAcquireSpinLockShared(call, lock: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let irql = raise(&call);
        acquire(&call, lock, false);
        irql
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleasespinlockexclusive>
    fn ExReleaseSpinLockExclusive(call, lock: usize, irql: u8),
    irql DISPATCH..=DISPATCH;
    {
        release(&call, lock, true);
        call.cpu().set_irql(irql);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleasespinlockshared>
    fn ExReleaseSpinLockShared(call, lock: usize, irql: u8),
    irql DISPATCH..=DISPATCH;
    {
        release(&call, lock, false);
        call.cpu().set_irql(irql);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirespinlockexclusiveatdpclevel>
    fn ExAcquireSpinLockExclusiveAtDpcLevel(call, lock: usize),
    irql DISPATCH..=HIGH;
    { acquire(&call, lock, true); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirespinlocksharedatdpclevel>
    fn ExAcquireSpinLockSharedAtDpcLevel(call, lock: usize),
    irql DISPATCH..=HIGH;
    { acquire(&call, lock, false); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleasespinlockexclusivefromdpclevel>
    fn ExReleaseSpinLockExclusiveFromDpcLevel(call, lock: usize),
    irql DISPATCH..=HIGH;
    { release(&call, lock, true); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleasespinlocksharedfromdpclevel>
    fn ExReleaseSpinLockSharedFromDpcLevel(call, lock: usize),
    irql DISPATCH..=HIGH;
    { release(&call, lock, false); }
}
