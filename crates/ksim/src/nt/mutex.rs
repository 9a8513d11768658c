//! Fast mutexes, guarded mutexes, push locks, critical regions.
//!
//! Their state is in the driver's memory in the form that Windows has there, as far as inlined initializers and
//! macros write it.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use super::held;
use super::wait::{Timeout, until};
use crate::access::Out;
use crate::cpu::{APC, Cpu, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::trap::code;
use crate::verifier::{ARGUMENT, LOCK_OWNER, LOCK_PROTOCOL, LOCK_RECURSION};

/// `FAST_MUTEX` and `KGUARDED_MUTEX`: a count that is 1 when free, then the owner.
mod fast {
    pub(super) const FREE: i32 = 1;
    pub(super) const OWNER: usize = 8;
    pub(super) const CONTENTION: usize = 16;
    pub(super) const OLD_IRQL: usize = 48;
}

/// `EX_PUSH_LOCK`: bit 0 is set while it is held; the number of sharers is in bits 4 and up, 0 when it is exclusive.
mod push {
    pub(super) const LOCKED: usize = 1;
    pub(super) const SHARER: usize = 16;
}

/// `KTHREAD.KernelApcDisable` of x64 Windows 10: minus the depth of critical regions.
const KTHREAD_APC_DISABLE: usize = 0x1e4;

/// The count of critical regions of the thread that runs on `cpu`, as drivers find it.
fn apc_disable(cpu: &Cpu) -> Out<i16> {
    // SAFETY: inside the processor's thread object, which lives as long as the processor.
    unsafe { Out::new((cpu.thread() + KTHREAD_APC_DISABLE) as *mut i16) }
}

/// Whether normal kernel APCs are off.
pub(super) fn in_critical_region(cpu: &Cpu) -> bool {
    apc_disable(cpu).get().is_some_and(|depth| depth < 0)
}

/// The thread that runs on `cpu` enters (`-1`) or leaves (`1`) a critical region.
pub(super) fn change_depth(cpu: &Cpu, by: i16) {
    let depth = apc_disable(cpu);
    depth.set(depth.get().unwrap_or(0).wrapping_add(by));
}

/// An atomic in the driver's memory; a null or misaligned address stops the machine.
fn checked(call: &Call<'_>, address: usize) -> usize {
    if address == 0 || !address.is_multiple_of(8) {
        let words = format!("{} of no lock ({address:#x})", call.name());
        call.violation(&ARGUMENT, words.clone());
        let parameters = [
            address as u64,
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
    address
}

fn count(call: &Call<'_>, mutex: Out<i32>) -> &'static AtomicI32 {
    let address = checked(call, mutex.address());
    // SAFETY: aligned; the driver vouches that the mutex lives (a trap otherwise), and every access is atomic.
    unsafe { AtomicI32::from_ptr(address as *mut i32) }
}

fn word(call: &Call<'_>, lock: usize) -> &'static AtomicUsize {
    let address = checked(call, lock);
    // SAFETY: aligned; the driver vouches that the lock lives (a trap otherwise), and every access is atomic.
    unsafe { AtomicUsize::from_ptr(address as *mut usize) }
}

const fn initialize(mutex: Out<i32>) {
    mutex.set(fast::FREE);
    mutex.offset::<usize>(fast::OWNER).set(0);
    mutex.offset::<u32>(fast::CONTENTION).set(0);
}

fn acquire(call: &Call<'_>, mutex: Out<i32>) {
    let count = count(call, mutex);
    let owner = mutex.offset::<usize>(fast::OWNER);
    if count.load(Ordering::SeqCst) != fast::FREE && owner.get() == Some(call.cpu().thread()) {
        call.violation(
            &LOCK_RECURSION,
            "a mutex is acquired by the thread that holds it: this deadlocks",
        );
        let words = format!("{} of a mutex that this thread holds", call.name());
        call.machine().crash(Bugcheck::new(
            code::DRIVER_VERIFIER_DETECTED_VIOLATION,
            [0x1000, 0, 0, 0],
            words,
        ));
    }
    until(call, call.name(), Timeout::Never, || {
        count
            .compare_exchange(fast::FREE, 0, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    });
    owner.set(call.cpu().thread());
    held::mutex_taken(call, mutex.address());
}

fn try_acquire(call: &Call<'_>, mutex: Out<i32>) -> bool {
    let taken = count(call, mutex)
        .compare_exchange(fast::FREE, 0, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok();
    if taken {
        mutex.offset::<usize>(fast::OWNER).set(call.cpu().thread());
        held::mutex_tried(call, mutex.address());
    }
    taken
}

fn release(call: &Call<'_>, mutex: Out<i32>) {
    let owner = mutex.offset::<usize>(fast::OWNER);
    if owner.get() != Some(call.cpu().thread()) {
        call.violation(
            &LOCK_OWNER,
            "a mutex is released by a thread that does not hold it",
        );
    }
    held::mutex_released(call, mutex.address());
    owner.set(0);
    count(call, mutex).store(fast::FREE, Ordering::SeqCst);
    call.machine().wake();
}

/// Raises to `APC_LEVEL` and keeps the IRQL in the mutex.
fn raise(call: &Call<'_>) -> u8 {
    call.cpu().set_irql(APC.max(call.cpu().irql()))
}

fn check_apcs_disabled(call: &Call<'_>) {
    if call.cpu().irql() < APC && !in_critical_region(call.cpu()) {
        call.violation(
            &LOCK_PROTOCOL,
            "a push lock is used outside a critical region",
        );
    }
}

fn acquire_exclusive(call: &Call<'_>, lock: usize) {
    check_apcs_disabled(call);
    let word = word(call, lock);
    until(call, call.name(), Timeout::Never, || {
        word.compare_exchange(0, push::LOCKED, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    });
    held::mutex_taken(call, lock);
}

fn acquire_shared(call: &Call<'_>, lock: usize) {
    check_apcs_disabled(call);
    let word = word(call, lock);
    until(call, call.name(), Timeout::Never, || {
        word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |value| {
            (value != push::LOCKED).then_some((value | push::LOCKED) + push::SHARER)
        })
        .is_ok()
    });
    held::mutex_taken(call, lock);
}

fn release_push(call: &Call<'_>, lock: usize, exclusive: Option<bool>) {
    check_apcs_disabled(call);
    held::mutex_released(call, lock);
    let result =
        word(call, lock).fetch_update(Ordering::SeqCst, Ordering::SeqCst, |value| match value {
            push::LOCKED => Some(0),
            _ if value & push::LOCKED == 0 => None,
            _ if value - push::SHARER == push::LOCKED => Some(0),
            _ => Some(value - push::SHARER),
        });
    match (result, exclusive) {
        (Err(_), _) => call.violation(&LOCK_OWNER, "a push lock is released that is not held"),
        (Ok(before), Some(exclusive)) if (before == push::LOCKED) != exclusive => {
            call.violation(
                &LOCK_PROTOCOL,
                "a push lock is released as shared that is held exclusively, or the reverse",
            );
        }
        _ => {}
    }
    call.machine().wake();
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirefastmutex>
    fn ExAcquireFastMutex(call, mutex: Out<i32>),
    irql PASSIVE..=APC;
    {
        let irql = raise(&call);
        acquire(&call, mutex);
        mutex.offset::<u32>(fast::OLD_IRQL).set(u32::from(irql));
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-extrytoacquirefastmutex>
    fn ExTryToAcquireFastMutex(call, mutex: Out<i32>) -> u8,
    irql PASSIVE..=APC;
    {
        let irql = raise(&call);
        let taken = try_acquire(&call, mutex);
        if taken {
            mutex.offset::<u32>(fast::OLD_IRQL).set(u32::from(irql));
        } else {
            call.cpu().set_irql(irql);
        }
        u8::from(taken)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleasefastmutex>
    fn ExReleaseFastMutex(call, mutex: Out<i32>),
    irql APC..=APC;
    {
        let irql = mutex.offset::<u32>(fast::OLD_IRQL).get().unwrap_or(0);
        release(&call, mutex);
        call.cpu().set_irql(u8::try_from(irql).unwrap_or(APC).min(APC));
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirefastmutexunsafe>
    fn ExAcquireFastMutexUnsafe(call, mutex: Out<i32>),
    irql PASSIVE..=APC;
    {
        check_apcs_disabled(&call);
        acquire(&call, mutex);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreleasefastmutexunsafe>
    fn ExReleaseFastMutexUnsafe(call, mutex: Out<i32>),
    irql PASSIVE..=APC;
    {
        check_apcs_disabled(&call);
        release(&call, mutex);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializeguardedmutex>
    fn KeInitializeGuardedMutex(call, mutex: Out<i32>),
    irql PASSIVE..=APC;
    { initialize(mutex); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keacquireguardedmutex>
    fn KeAcquireGuardedMutex(call, mutex: Out<i32>),
    irql PASSIVE..=APC;
    {
        change_depth(call.cpu(), -1);
        acquire(&call, mutex);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ketrytoacquireguardedmutex>
    fn KeTryToAcquireGuardedMutex(call, mutex: Out<i32>) -> u8,
    irql PASSIVE..=APC;
    {
        let taken = try_acquire(&call, mutex);
        if taken {
            change_depth(call.cpu(), -1);
        }
        u8::from(taken)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereleaseguardedmutex>
    fn KeReleaseGuardedMutex(call, mutex: Out<i32>),
    irql PASSIVE..=APC;
    {
        release(&call, mutex);
        change_depth(call.cpu(), 1);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-keentercriticalregion>
    fn KeEnterCriticalRegion(call),
    irql PASSIVE..=APC;
    { change_depth(call.cpu(), -1); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-keleavecriticalregion>
    fn KeLeaveCriticalRegion(call),
    irql PASSIVE..=APC;
    {
        if !in_critical_region(call.cpu()) {
            call.violation(&LOCK_PROTOCOL, "a critical region is left that was not entered");
            return;
        }
        change_depth(call.cpu(), 1);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exinitializepushlock>
    fn ExInitializePushLock(call, lock: Out<usize>),
    irql PASSIVE..=APC;
    { lock.set(0); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exacquirepushlockexclusive>
    fn ExAcquirePushLockExclusiveEx(call, lock: usize, flags: u32),
    irql PASSIVE..=APC;
    { acquire_exclusive(&call, lock); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exacquirepushlockshared>
    fn ExAcquirePushLockSharedEx(call, lock: usize, flags: u32),
    irql PASSIVE..=APC;
    { acquire_shared(&call, lock); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exreleasepushlockexclusive>
    fn ExReleasePushLockExclusiveEx(call, lock: usize, flags: u32),
    irql PASSIVE..=APC;
    { release_push(&call, lock, Some(true)); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exreleasepushlockshared>
    fn ExReleasePushLockSharedEx(call, lock: usize, flags: u32),
    irql PASSIVE..=APC;
    { release_push(&call, lock, Some(false)); }

    /// The form that the macro calls: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exreleasepushlockexclusive>
    fn ExReleasePushLockEx(call, lock: usize, flags: u32),
    irql PASSIVE..=APC;
    { release_push(&call, lock, None); }

    /// The form of older systems: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exacquirepushlockexclusive>
    fn ExfAcquirePushLockExclusive(call, lock: usize),
    irql PASSIVE..=APC;
    { acquire_exclusive(&call, lock); }

    /// The form of older systems: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exacquirepushlockshared>
    fn ExfAcquirePushLockShared(call, lock: usize),
    irql PASSIVE..=APC;
    { acquire_shared(&call, lock); }

    /// The form of older systems: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exreleasepushlockexclusive>
    fn ExfReleasePushLockExclusive(call, lock: usize),
    irql PASSIVE..=APC;
    { release_push(&call, lock, Some(true)); }

    /// The form of older systems: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exreleasepushlockshared>
    fn ExfReleasePushLockShared(call, lock: usize),
    irql PASSIVE..=APC;
    { release_push(&call, lock, Some(false)); }

    /// The form of older systems: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-exreleasepushlockexclusive>
    fn ExfReleasePushLock(call, lock: usize),
    irql PASSIVE..=APC;
    { release_push(&call, lock, None); }
}
