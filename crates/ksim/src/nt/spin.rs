//! Spin locks and their holders.
//!
//! A `KSPIN_LOCK` in the driver's memory holds 0, or the number of its holder plus one. Processors spin for real;
//! one that could spin for ever, because it holds the lock itself or because its holder waits for one of ours, is
//! a bug check.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::held;
use crate::access::{In, Out};
use crate::cpu::{self, Cpu, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::trap::code;
use crate::verifier::{ARGUMENT, IRQL_RANGE, LOCK_ORDER, LOCK_OWNER, LOCK_RECURSION, Rule};

/// The lock's word in the driver's memory.
fn word(call: &Call<'_>, lock: usize) -> &'static AtomicUsize {
    if lock == 0 || !lock.is_multiple_of(align_of::<usize>()) {
        call.violation(&ARGUMENT, format!("a spin lock at {lock:#x}"));
        call.machine().crash(Bugcheck::new(
            code::SPIN_LOCK_NOT_OWNED,
            [lock as u64, 0, 0, 0],
            format!(
                "{} called from {} for no lock",
                call.name(),
                call.machine().verifier().site(call.site())
            ),
        ));
    }
    // SAFETY: aligned and not null; the driver vouches that a lock lives there (a trap otherwise), and every access
    // of ours to it is atomic.
    unsafe { AtomicUsize::from_ptr(lock as *mut usize) }
}

/// The value of a lock that `cpu` holds.
const fn owner(cpu: &Cpu) -> usize {
    cpu.index() as usize + 1
}

/// Takes the lock; the IRQL is the caller's business.
fn acquire(call: &Call<'_>, lock: usize) {
    let word = word(call, lock);
    let cpu = call.cpu();
    let own = owner(cpu);
    if cpu.locks().holds(lock) {
        deadlock(
            call,
            &LOCK_RECURSION,
            lock,
            code::SPIN_LOCK_ALREADY_OWNED,
            "acquires a spin lock that this processor holds already",
        );
    }
    let mut rounds = 0u32;
    while word
        .compare_exchange_weak(0, own, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        cpu.locks().await_lock(lock);
        rounds = rounds.wrapping_add(1);
        if rounds.is_multiple_of(64) {
            if cpu.machine().crashed() {
                cpu::park_for_ever();
            }
            if waits_for_itself(cpu, lock) {
                let code = code::DRIVER_VERIFIER_DETECTED_VIOLATION;
                deadlock(
                    call,
                    &LOCK_ORDER,
                    lock,
                    code,
                    "waits for a spin lock whose holder waits for one of this processor's",
                );
            }
            cpu.machine().scheduler().spin(cpu);
        } else {
            std::hint::spin_loop();
        }
    }
    cpu.locks().await_lock(0);
    held::spin_lock_taken(call, lock);
}

/// Whether following holders and what they wait for leads from `lock` back to `cpu`.
fn waits_for_itself(cpu: &Cpu, lock: usize) -> bool {
    let machine = cpu.machine();
    let mut lock = lock;
    for _ in 0..machine.processors() {
        let holder = (0..machine.processors()).find_map(|index| {
            let holder = machine.processor(index)?;
            // Never wait for the list: its processor may be stopped.
            holder.locks().try_holds(lock)?.then_some(holder)
        });
        let Some(holder) = holder else { return false };
        if holder.index() == cpu.index() {
            return true;
        }
        lock = holder.locks().awaited();
        if lock == 0 {
            return false;
        }
    }
    false
}

fn deadlock(call: &Call<'_>, rule: &Rule, lock: usize, code: u32, words: &str) -> ! {
    call.violation(rule, words);
    let machine = call.machine();
    let mut bugcheck = Bugcheck::new(
        code,
        [lock as u64, 0, 0, 0],
        format!(
            "{} called from {} {words}",
            call.name(),
            machine.verifier().site(call.site())
        ),
    );
    bugcheck.stack = crate::trap::driver_stack(machine, call.registers());
    machine.crash(bugcheck)
}

/// Goes to `DISPATCH_LEVEL` and takes the lock; the IRQL before.
pub(crate) fn raise_and_acquire(call: &Call<'_>, lock: usize) -> u8 {
    let irql = call.cpu().set_irql(DISPATCH.max(call.cpu().irql()));
    acquire(call, lock);
    irql
}

/// Gives the lock back and goes to `irql`.
pub(crate) fn release_and_lower(call: &Call<'_>, lock: usize, irql: u8) {
    release(call, lock);
    restore(call, irql);
}

/// Gives the lock back; the IRQL is the caller's business.
fn release(call: &Call<'_>, lock: usize) {
    let word = word(call, lock);
    let cpu = call.cpu();
    if !held::spin_lock_released(call, lock) {
        deadlock(
            call,
            &LOCK_OWNER,
            lock,
            code::SPIN_LOCK_NOT_OWNED,
            "releases a spin lock that this processor does not hold",
        );
    }
    if cpu.irql() < DISPATCH {
        call.violation(
            &IRQL_RANGE,
            format!("a spin lock is released at IRQL {}", cpu.irql()),
        );
    }
    word.store(0, Ordering::Release);
}

/// Takes the lock unless it is held.
fn try_acquire(call: &Call<'_>, lock: usize) -> bool {
    let taken = word(call, lock)
        .compare_exchange(0, owner(call.cpu()), Ordering::Acquire, Ordering::Relaxed)
        .is_ok();
    if taken {
        held::spin_lock_tried(call, lock);
    }
    taken
}

/// The IRQL that goes back after a release: a valid one, not above the present.
fn restore(call: &Call<'_>, irql: u8) {
    if irql > DISPATCH {
        call.violation(&ARGUMENT, format!("the IRQL to go back to is {irql}"));
    }
    call.cpu().set_irql(irql.min(HIGH));
}

/// `KLOCK_QUEUE_HANDLE`: `LockQueue.Next`, `LockQueue.Lock`, `OldIrql`.
mod queue {
    pub(super) const LOCK: usize = 8;
    pub(super) const OLD_IRQL: usize = 16;
}

/// Fills the handle in after the lock was acquired.
const fn note_queued(handle: Out<usize>, lock: usize, irql: u8) {
    handle.set(0);
    handle.offset::<usize>(queue::LOCK).set(lock);
    handle.offset::<u8>(queue::OLD_IRQL).set(irql);
}

/// The lock that a handle was filled in for.
fn queued(call: &Call<'_>, handle: Out<usize>) -> usize {
    let lock = handle
        .offset::<usize>(queue::LOCK)
        .get()
        .filter(|_| !handle.is_null());
    lock.unwrap_or_else(|| {
        deadlock(
            call,
            &LOCK_OWNER,
            0,
            code::SPIN_LOCK_NOT_OWNED,
            "releases a null lock handle",
        )
    })
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializespinlock>
    fn KeInitializeSpinLock(call, lock: Out<usize>),
    irql PASSIVE..=HIGH;
    {
        call.machine().nt().lock_order().forget(lock.address()..lock.address() + size_of::<usize>());
        lock.set(0);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keacquirespinlockraisetodpc>
    fn KeAcquireSpinLockRaiseToDpc(call, lock: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    { raise_and_acquire(&call, lock) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keacquirespinlock>
    fn KeAcquireSpinLock(call, lock: usize, irql: Out<u8>),
    irql PASSIVE..=DISPATCH;
    { irql.set(raise_and_acquire(&call, lock)); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereleasespinlock>
    fn KeReleaseSpinLock(call, lock: usize, irql: u8),
    irql DISPATCH..=DISPATCH;
    { release_and_lower(&call, lock, irql); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keacquirespinlockatdpclevel>
    fn KeAcquireSpinLockAtDpcLevel(call, lock: usize),
    irql DISPATCH..=HIGH;
    { acquire(&call, lock); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereleasespinlockfromdpclevel>
    fn KeReleaseSpinLockFromDpcLevel(call, lock: usize),
    irql DISPATCH..=HIGH;
    { release(&call, lock); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ketrytoacquirespinlockatdpclevel>
    fn KeTryToAcquireSpinLockAtDpcLevel(call, lock: usize) -> u8,
    irql DISPATCH..=HIGH;
    { u8::from(try_acquire(&call, lock)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ketestspinlock>
    fn KeTestSpinLock(call, lock: In<usize>) -> u8,
    irql PASSIVE..=HIGH;
    { u8::from(lock.get() == Some(0)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keacquireinstackqueuedspinlock>
    fn KeAcquireInStackQueuedSpinLock(call, lock: usize, handle: Out<usize>),
    irql PASSIVE..=DISPATCH;
    {
        let irql = raise_and_acquire(&call, lock);
        note_queued(handle, lock, irql);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereleaseinstackqueuedspinlock>
    fn KeReleaseInStackQueuedSpinLock(call, handle: Out<usize>),
    irql DISPATCH..=DISPATCH;
    {
        release(&call, queued(&call, handle));
        restore(&call, handle.offset::<u8>(queue::OLD_IRQL).get().unwrap_or(PASSIVE));
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keacquireinstackqueuedspinlockatdpclevel>
    fn KeAcquireInStackQueuedSpinLockAtDpcLevel(call, lock: usize, handle: Out<usize>),
    irql DISPATCH..=HIGH;
    {
        acquire(&call, lock);
        note_queued(handle, lock, call.cpu().irql());
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereleaseinstackqueuedspinlockfromdpclevel>
    fn KeReleaseInStackQueuedSpinLockFromDpcLevel(call, handle: Out<usize>),
    irql DISPATCH..=HIGH;
    { release(&call, queued(&call, handle)); }
}
