//! The kernel's functions, called as a driver calls them.

mod locks;
mod pool;
mod power;
mod processes;
mod resources;

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::clock::KeQueryInterruptTime;
use super::dpc::{
    KeCancelTimer, KeInitializeDpc, KeInitializeTimer, KeInsertQueueDpc, KeSetTimerEx,
};
use super::event::{KeInitializeEvent, KeResetEvent, KeSetEvent};
use super::interlocked::{
    ExpInterlockedPopEntrySList, ExpInterlockedPushEntrySList, InitializeSListHead,
};
use super::irql::{KeGetCurrentIrql, KeLowerIrql, KfRaiseIrql};
use super::mutex::{
    ExAcquirePushLockExclusiveEx, ExReleasePushLockExclusiveEx, ExReleasePushLockSharedEx,
    KeEnterCriticalRegion, KeLeaveCriticalRegion,
};
use super::pool_api::{ExAllocatePool2, ExFreePool};
use super::process::{IoGetCurrentProcess, PsGetProcessId};
use super::rtl_memory::{memcmp, memcpy};
use super::rundown::{
    ExAcquireRundownProtection, ExInitializeRundownProtection, ExReleaseRundownProtection,
    ExWaitForRundownProtectionRelease,
};
use super::spin::{
    KeAcquireInStackQueuedSpinLock, KeAcquireSpinLockRaiseToDpc, KeReleaseInStackQueuedSpinLock,
    KeReleaseSpinLock,
};
use super::spin_rw::{
    ExAcquireSpinLockExclusive, ExAcquireSpinLockShared, ExReleaseSpinLockShared,
};
use super::system::{ExUuidCreate, MmGetSystemRoutineAddress};
use super::wait::{KeDelayExecutionThread, KeWaitForSingleObject};
use crate::access::{In, Out};
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::{Bugcheck, Config, Kernel, PoolMode};

const NON_PAGED: u64 = 0x40;
const UNINITIALIZED: u64 = 0x2;
const TAG: u32 = u32::from_le_bytes(*b"Test");

fn kernel(pool: PoolMode, processors: u32) -> Kernel {
    Kernel::new(&Config {
        processors,
        pool,
        ..Config::default()
    })
    .unwrap()
}

/// Runs on processor 0 of a new kernel; the rules that were broken, in order.
fn broken(pool: PoolMode, work: impl FnOnce(&Cpu) + Send) -> Vec<&'static str> {
    let kernel = kernel(pool, 1);
    kernel.on(0, work).unwrap();
    rules(&kernel)
}

fn rules(kernel: &Kernel) -> Vec<&'static str> {
    kernel
        .verifier()
        .report()
        .violations
        .iter()
        .map(|violation| violation.rule)
        .collect()
}

/// How a kernel stops that runs this on processor 0.
fn crash(work: impl FnOnce(&Cpu) + Send) -> Bugcheck {
    kernel(PoolMode::Special, 1).on(0, work).unwrap_err()
}

fn allocate(size: usize) -> usize {
    ExAllocatePool2(NON_PAGED, size, TAG) as usize
}

fn read(address: usize) -> u8 {
    // SAFETY: either a test's own pool, or meant to trap.
    unsafe { (address as *const u8).read_volatile() }
}

fn write(address: usize, byte: u8) {
    // SAFETY: either a test's own pool, or meant to trap.
    unsafe { (address as *mut u8).write_volatile(byte) }
}

fn out<T>(place: &mut T) -> Out<T> {
    // SAFETY: the place outlives its use in the test.
    unsafe { Out::new(place) }
}

fn input<T>(place: &T) -> In<T> {
    // SAFETY: the place outlives its use in the test.
    unsafe { In::new(place) }
}

#[test]
fn a_trap_inside_a_kernel_function_names_the_function() {
    let bugcheck = crash(|_| {
        let block = allocate(16);
        memcpy(block, 0x10, 4);
    });
    assert_eq!(bugcheck.code, 0x7e);
    assert!(
        bugcheck
            .message
            .contains("through a null pointer plus 0x10, in memcpy"),
        "{bugcheck}"
    );
}

#[test]
fn one_kernel_stops_and_the_other_lives_on() {
    let (bad, good) = (kernel(PoolMode::Special, 2), kernel(PoolMode::Special, 2));
    assert!(bad.on(1, |_| read(0)).is_err());
    assert!(bad.on(0, |_| ()).is_err());
    assert_eq!(good.on(1, |_| allocate(8) != 0), Ok(true));
    assert!(bad.bugcheck().is_some() && good.bugcheck().is_none());
}

#[test]
fn two_processors_exclude_each_other_with_a_spin_lock() {
    const ROUNDS: u32 = 2_000;
    let kernel = kernel(PoolMode::Special, 2);
    let lock = AtomicUsize::new(0);
    let counter = AtomicU32::new(0);
    let work = |_: &Cpu| {
        for _ in 0..ROUNDS {
            let irql = KeAcquireSpinLockRaiseToDpc(lock.as_ptr() as usize);
            let value = counter.load(Ordering::Relaxed);
            std::hint::spin_loop();
            counter.store(value + 1, Ordering::Relaxed);
            KeReleaseSpinLock(lock.as_ptr() as usize, irql);
        }
    };
    std::thread::scope(|scope| {
        for index in 0..2 {
            let kernel = &kernel;
            scope.spawn(move || kernel.on(index, work).unwrap());
        }
    });
    assert_eq!(counter.into_inner(), 2 * ROUNDS);
    assert!(kernel.verifier().report().is_clean());
}

#[test]
fn acquiring_a_spin_lock_twice_stops_the_machine() {
    let lock = AtomicUsize::new(0);
    let bugcheck = crash(|_| {
        KeAcquireSpinLockRaiseToDpc(lock.as_ptr() as usize);
        KeAcquireSpinLockRaiseToDpc(lock.as_ptr() as usize);
    });
    assert_eq!(bugcheck.code, 0x0f);
}

#[test]
fn releasing_a_spin_lock_that_is_not_held_stops_the_machine() {
    let lock = AtomicUsize::new(0);
    let bugcheck = crash(|cpu| {
        cpu.set_irql(DISPATCH);
        KeReleaseSpinLock(lock.as_ptr() as usize, PASSIVE);
    });
    assert_eq!(bugcheck.code, 0x10);
}

#[test]
fn locks_taken_in_both_orders_are_a_violation_though_nothing_hangs() {
    let locks = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let found = broken(PoolMode::Special, |_| {
        for order in [[0, 1], [1, 0]] {
            let mut handles = [[0usize; 3]; 2];
            for (handle, lock) in handles.iter_mut().zip(order) {
                KeAcquireInStackQueuedSpinLock(locks[lock].as_ptr() as usize, out(&mut handle[0]));
            }
            for handle in handles.iter_mut().rev() {
                KeReleaseInStackQueuedSpinLock(out(&mut handle[0]));
            }
            assert_eq!(KeGetCurrentIrql(), PASSIVE);
        }
    });
    assert_eq!(found, ["lock-order"]);
}

#[test]
fn two_processors_that_wait_for_each_other_s_locks_stop_the_machine() {
    let kernel = kernel(PoolMode::Special, 2);
    let locks = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let met = AtomicU32::new(0);
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2u32)
            .map(|index| {
                let (kernel, locks, met) = (&kernel, &locks, &met);
                scope.spawn(move || {
                    kernel.on(index, |_| {
                        let index = index as usize;
                        KeAcquireSpinLockRaiseToDpc(locks[index].as_ptr() as usize);
                        met.fetch_add(1, Ordering::SeqCst);
                        while met.load(Ordering::SeqCst) < 2 {
                            std::hint::spin_loop();
                        }
                        KeAcquireSpinLockRaiseToDpc(locks[1 - index].as_ptr() as usize);
                    })
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for result in results {
        assert_eq!(result.unwrap_err().code, 0xc4);
    }
}

#[test]
fn readers_share_a_lock_and_a_writer_on_the_only_processor_would_wait_for_ever() {
    let lock = AtomicU32::new(0);
    let bugcheck = crash(|_| {
        let address = lock.as_ptr() as usize;
        let irql = ExAcquireSpinLockShared(address);
        ExAcquireSpinLockShared(address);
        ExReleaseSpinLockShared(address, DISPATCH);
        ExReleaseSpinLockShared(address, irql);
        ExAcquireSpinLockExclusive(address);
        ExAcquireSpinLockShared(address);
    });
    assert_eq!(bugcheck.code, 0xc4);
}

#[test]
fn a_callback_that_keeps_a_lock_or_the_irql_is_reported() {
    let lock = AtomicUsize::new(0);
    let found = broken(PoolMode::Special, |cpu| {
        cpu.enter_driver(Callback::new("EvtSomething", 0), PASSIVE, || {
            KeAcquireSpinLockRaiseToDpc(lock.as_ptr() as usize);
        });
    });
    assert_eq!(found, ["lock-held", "irql-restored"]);
}

#[test]
fn the_irql_goes_up_and_down_but_not_the_wrong_way() {
    assert!(
        broken(PoolMode::Special, |_| {
            assert_eq!(KfRaiseIrql(DISPATCH), PASSIVE);
            KeLowerIrql(PASSIVE);
        })
        .is_empty()
    );
    assert_eq!(crash(|_| KeLowerIrql(DISPATCH)).code, 0x0a);
}

#[test]
fn a_call_above_its_irql_is_reported_with_the_level() {
    let kernel = kernel(PoolMode::Special, 1);
    kernel
        .on(0, |cpu| {
            cpu.set_irql(DISPATCH + 1);
            ExFreePool(allocate(8));
            cpu.set_irql(PASSIVE);
        })
        .unwrap();
    let violations = kernel.verifier().report().violations;
    assert_eq!(violations.len(), 2);
    assert!(
        violations[0]
            .to_string()
            .contains("called at IRQL 3, allowed are 0..=2, in ExAllocatePool2")
    );
}

#[test]
fn a_wait_ends_when_another_processor_signals_or_when_its_time_is_up() {
    let kernel = kernel(PoolMode::Special, 2);
    let mut event = [0u64; 3];
    let object = out(&mut event).offset::<u8>(0);
    kernel.on(0, |_| KeInitializeEvent(object, 1, 0)).unwrap();
    let timed_out = kernel.on(0, |_| {
        let before = KeQueryInterruptTime();
        let status = KeWaitForSingleObject(object, 0, 0, 0, input(&-10_000_000));
        (status, KeQueryInterruptTime() - before)
    });
    assert_eq!(timed_out, Ok((0x102, 10_000_000)));
    let signalled = kernel.on(0, |cpu| {
        cpu.machine().time().defer("a test's work", move |_| {
            KeSetEvent(object, 0, 0);
        });
        KeWaitForSingleObject(object, 0, 0, 0, In::null())
    });
    assert_eq!(signalled, Ok(0));
    // A synchronization event is taken by the wait that it ends.
    assert_eq!(kernel.on(0, |_| KeResetEvent(object)), Ok(0));
}

#[test]
fn a_wait_that_nothing_can_end_stops_the_machine_and_names_itself() {
    let mut event = [0u64; 3];
    let object = out(&mut event).offset::<u8>(0);
    let bugcheck = crash(|_| {
        KeInitializeEvent(object, 0, 0);
        KeWaitForSingleObject(object, 0, 0, 0, In::null());
    });
    assert!(
        bugcheck
            .message
            .starts_with("KeWaitForSingleObject called from"),
        "{bugcheck}"
    );
}

#[test]
fn a_wait_at_dispatch_level_stops_the_machine() {
    let mut event = [0u64; 3];
    let object = out(&mut event).offset::<u8>(0);
    let bugcheck = crash(|cpu| {
        KeInitializeEvent(object, 0, 0);
        cpu.set_irql(DISPATCH);
        KeWaitForSingleObject(object, 0, 0, 0, input(&-1));
    });
    assert_eq!(bugcheck.code, 0xb8);
}

#[test]
fn run_down_protection_lets_its_owner_wait_for_the_last_user() {
    let kernel = kernel(PoolMode::Special, 1);
    let mut reference = 0usize;
    let place = out(&mut reference);
    let refused = kernel.on(0, |cpu| {
        ExInitializeRundownProtection(place);
        assert_eq!(ExAcquireRundownProtection(place.address()), 1);
        cpu.machine().time().defer("a user", move |_| {
            ExReleaseRundownProtection(place.address());
        });
        ExWaitForRundownProtectionRelease(place.address());
        ExAcquireRundownProtection(place.address())
    });
    assert_eq!(refused, Ok(0));
    assert!(kernel.verifier().report().is_clean());
}

#[test]
fn push_locks_belong_in_critical_regions_and_are_released_as_acquired() {
    let lock = AtomicUsize::new(0);
    let address = lock.as_ptr() as usize;
    let found = broken(PoolMode::Special, |_| {
        KeEnterCriticalRegion();
        ExAcquirePushLockExclusiveEx(address, 0);
        ExReleasePushLockSharedEx(address, 0);
        KeLeaveCriticalRegion();
        ExAcquirePushLockExclusiveEx(address, 0);
        KeEnterCriticalRegion();
        ExReleasePushLockExclusiveEx(address, 0);
        KeLeaveCriticalRegion();
    });
    assert_eq!(found, ["lock-protocol", "lock-protocol"]);
    assert_eq!(lock.into_inner(), 0);
}

/// A DPC that counts its calls in its context, and in its high half those below `DISPATCH_LEVEL`.
extern "win64" fn count(_dpc: usize, context: usize, first: usize, _second: usize) {
    // SAFETY: the tests below pass the address of an atomic that outlives the DPC.
    let counter = unsafe { AtomicU64::from_ptr(context as *mut u64) };
    let wrong = u64::from(KeGetCurrentIrql() != DISPATCH) << 32;
    counter.fetch_add(
        1 + wrong + if first == usize::MAX { 1 << 40 } else { 0 },
        Ordering::SeqCst,
    );
}

#[test]
fn a_dpc_runs_once_for_each_time_it_is_queued_at_dispatch_level() {
    let kernel = kernel(PoolMode::Special, 1);
    let counter = Arc::new(AtomicU64::new(0));
    let mut dpc = [0u64; 8];
    let object = out(&mut dpc).offset::<u8>(0);
    let context = counter.as_ptr() as usize;
    kernel
        .on(0, |_| {
            KeInitializeDpc(object, count as *const () as usize, context);
            assert_eq!(KeInsertQueueDpc(object, 0, 0), 1);
            assert_eq!(KeInsertQueueDpc(object, usize::MAX, 0), 0);
        })
        .unwrap();
    assert_eq!(counter.load(Ordering::SeqCst), 1);
    assert!(kernel.verifier().report().is_clean());
}

#[test]
fn a_periodic_timer_runs_its_dpc_until_it_is_cancelled_and_is_a_leak_until_then() {
    const MILLISECOND: i64 = 10_000;
    let kernel = kernel(PoolMode::Special, 1);
    let counter = AtomicU64::new(0);
    let (mut timer, mut dpc) = ([0u64; 8], [0u64; 8]);
    let timer = out(&mut timer).offset::<u8>(0);
    let dpc = out(&mut dpc).offset::<u8>(0);
    let context = counter.as_ptr() as usize;
    kernel
        .on(0, |_| {
            KeInitializeTimer(timer);
            KeInitializeDpc(dpc, count as *const () as usize, context);
            KeSetTimerEx(timer, -10 * MILLISECOND, 5, dpc);
            KeDelayExecutionThread(0, 0, input(&(-21 * MILLISECOND)));
        })
        .unwrap();
    assert_eq!(counter.load(Ordering::SeqCst), 3, "after 10, 15 and 20 ms");
    assert_eq!(kernel.verifier().leaks()[0].kind, "timer");
    assert_eq!(kernel.on(0, |_| KeCancelTimer(timer)), Ok(1));
    assert!(kernel.verifier().report().is_clean());
}

#[test]
fn entries_come_off_a_lock_free_list_in_reverse_order() {
    /// `SLIST_HEADER` and `SLIST_ENTRY` lie at multiples of 16.
    #[repr(align(16))]
    struct Aligned([usize; 2]);

    broken(PoolMode::Special, |_| {
        let [mut head, mut first, mut second] = [(); 3].map(|()| Aligned([0; 2]));
        let [head, first, second] =
            [&mut head, &mut first, &mut second].map(|place| out(&mut place.0[0]));
        InitializeSListHead(head);
        assert_eq!(ExpInterlockedPushEntrySList(head, first), 0);
        assert_eq!(ExpInterlockedPushEntrySList(head, second), first.address());
        assert_eq!(ExpInterlockedPopEntrySList(head), second.address());
        assert_eq!(ExpInterlockedPopEntrySList(head), first.address());
        assert_eq!(ExpInterlockedPopEntrySList(head), 0);
    });
}

#[test]
fn identifiers_follow_from_the_seed() {
    let draw = |seed| {
        let kernel = Kernel::new(&Config {
            seed,
            ..Config::default()
        })
        .unwrap();
        let mut uuid = [0u8; 16];
        let place = out(&mut uuid);
        kernel.on(0, |_| ExUuidCreate(place)).unwrap();
        uuid
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    assert_eq!(draw(1)[7] >> 4, 4);
}

#[test]
fn a_fallible_call_fails_when_it_is_told_to() {
    let kernel = kernel(PoolMode::Special, 1);
    kernel.faults().fail_nth(2);
    let blocks = kernel
        .on(0, |_| [(); 3].map(|()| allocate(8) != 0))
        .unwrap();
    assert_eq!(blocks, [true, false, true]);
    assert!(
        kernel
            .faults()
            .failed_call()
            .unwrap()
            .starts_with("ExAllocatePool2")
    );
}

#[test]
fn a_driver_asks_whose_process_it_is_in() {
    let kernel = kernel(PoolMode::Special, 1);
    let ids = kernel.on(0, |cpu| {
        let system = PsGetProcessId(IoGetCurrentProcess());
        let before = cpu.set_process(cpu.machine().nt().processes().object(1234));
        let other = PsGetProcessId(IoGetCurrentProcess());
        cpu.set_process(before);
        [system, other]
    });
    assert_eq!(ids, Ok([4, 1234]));
}

#[test]
fn routines_are_found_by_name_or_not_at_all() {
    let find = |name: &str| {
        let units: Vec<u16> = name.encode_utf16().collect();
        let length = u16::try_from(units.len() * 2).unwrap();
        let string = [
            u64::from(length) | u64::from(length) << 16,
            units.as_ptr() as u64,
        ];
        let place: In<u64> = input(&string[0]);
        let kernel = kernel(PoolMode::Special, 1);
        kernel
            .on(0, |_| {
                MmGetSystemRoutineAddress(In::member(place.address() as u64))
            })
            .unwrap()
    };
    assert_ne!(find("ExAllocatePool2"), 0);
    assert_eq!(find("ExAllocatePool99"), 0);
}

#[test]
fn memory_compares_as_in_c() {
    broken(PoolMode::Special, |_| {
        let texts: [*const c_void; 2] = [b"abcd".as_ptr().cast(), b"abdd".as_ptr().cast()];
        let [first, second] = texts.map(|text| text as usize);
        assert_eq!(memcmp(first, second, 2), 0);
        assert!(memcmp(first, second, 4) < 0);
    });
}
