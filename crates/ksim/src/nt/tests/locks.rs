//! Locks, as drivers misuse them: each rule firing, and its quiet counterpart.

use std::sync::atomic::{AtomicU32, AtomicUsize};

use super::{broken, crash, kernel, rules};
use crate::PoolMode;
use crate::cpu::{Callback, DISPATCH};
use crate::nt::irql::{KeGetCurrentIrql, KeLowerIrql, KfRaiseIrql};
use crate::nt::mutex::{
    ExAcquireFastMutex, ExAcquirePushLockExclusiveEx, ExReleaseFastMutex,
    ExReleasePushLockExclusiveEx, KeAcquireGuardedMutex, KeInitializeGuardedMutex,
    KeReleaseGuardedMutex,
};
use crate::nt::spin::{
    KeAcquireSpinLockAtDpcLevel, KeAcquireSpinLockRaiseToDpc, KeReleaseSpinLock,
    KeReleaseSpinLockFromDpcLevel, KeTryToAcquireSpinLockAtDpcLevel,
};
use crate::nt::spin_rw::{
    ExAcquireSpinLockExclusive, ExAcquireSpinLockShared, ExReleaseSpinLockExclusive,
    ExReleaseSpinLockShared,
};
use crate::nt::wait::KeStallExecutionProcessor;

/// A fast or guarded mutex.
type Mutex = [u64; 8];

/// Does `inner` with a spin lock held.
fn with_spin_lock(lock: usize, inner: impl FnOnce()) {
    let irql = KeAcquireSpinLockRaiseToDpc(lock);
    inner();
    KeReleaseSpinLock(lock, irql);
}

#[test]
fn a_cycle_over_three_locks_of_three_kinds_can_deadlock_and_the_same_order_cannot() {
    let run = |cycle: bool| {
        let (mut fast, mut guarded, push) = (Mutex::default(), Mutex::default(), [0u64]);
        let addresses = [
            fast.as_mut_ptr() as usize,
            guarded.as_mut_ptr() as usize,
            push.as_ptr() as usize,
        ];
        broken(PoolMode::Special, move |_| {
            let mutex = |address: usize| {
                // SAFETY: the test's own mutex, which lives until this closure has run.
                unsafe { crate::access::Out::new(address as *mut i32) }
            };
            let [fast, guarded, push] = addresses;
            KeInitializeGuardedMutex(mutex(fast));
            KeInitializeGuardedMutex(mutex(guarded));
            ExAcquireFastMutex(mutex(fast));
            ExAcquirePushLockExclusiveEx(push, 0);
            ExReleasePushLockExclusiveEx(push, 0);
            ExReleaseFastMutex(mutex(fast));
            let irql = KfRaiseIrql(1);
            ExAcquirePushLockExclusiveEx(push, 0);
            KeAcquireGuardedMutex(mutex(guarded));
            KeReleaseGuardedMutex(mutex(guarded));
            ExReleasePushLockExclusiveEx(push, 0);
            KeLowerIrql(irql);
            let (first, second) = if cycle {
                (guarded, fast)
            } else {
                (fast, guarded)
            };
            let enter = |address: usize| {
                if address == fast {
                    ExAcquireFastMutex(mutex(fast));
                } else {
                    KeAcquireGuardedMutex(mutex(guarded));
                }
            };
            let leave = |address: usize| {
                if address == fast {
                    ExReleaseFastMutex(mutex(fast));
                } else {
                    KeReleaseGuardedMutex(mutex(guarded));
                }
            };
            enter(first);
            enter(second);
            leave(second);
            leave(first);
        })
    };
    assert_eq!(run(true), ["lock-order"]);
    assert_eq!(run(false), [""; 0]);
}

#[test]
fn who_only_tries_a_lock_takes_it_in_any_order() {
    let locks = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let [first, second] = [&locks[0], &locks[1]].map(|lock| lock.as_ptr() as usize);
    let found = broken(PoolMode::Special, |_| {
        with_spin_lock(first, || {
            KeAcquireSpinLockAtDpcLevel(second);
            KeReleaseSpinLockFromDpcLevel(second);
        });
        with_spin_lock(second, || {
            assert_eq!(KeTryToAcquireSpinLockAtDpcLevel(first), 1);
            KeReleaseSpinLockFromDpcLevel(first);
        });
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn a_spin_lock_is_not_taken_by_its_holder_but_shared_by_its_readers() {
    let lock = AtomicUsize::new(0);
    let address = lock.as_ptr() as usize;
    let machine = kernel(PoolMode::Special, 1);
    let stopped = machine.on(0, |_| {
        with_spin_lock(address, || {
            KeAcquireSpinLockRaiseToDpc(address);
        });
    });
    assert_eq!(stopped.unwrap_err().code, 0x0f);
    assert_eq!(rules(&machine), ["lock-recursion"]);
    let lock = AtomicU32::new(0);
    let address = lock.as_ptr() as usize;
    let found = broken(PoolMode::Special, |_| {
        let irql = ExAcquireSpinLockShared(address);
        ExAcquireSpinLockShared(address);
        ExReleaseSpinLockShared(address, DISPATCH);
        ExReleaseSpinLockShared(address, irql);
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn a_writer_that_is_a_reader_waits_for_itself_on_many_processors_too() {
    let lock = AtomicU32::new(0);
    let address = lock.as_ptr() as usize;
    let machine = kernel(PoolMode::Special, 2);
    let stopped = machine.on(0, |_| {
        ExAcquireSpinLockShared(address);
        ExAcquireSpinLockExclusive(address);
    });
    assert_eq!(stopped.unwrap_err().code, 0xc4);
    assert_eq!(rules(&machine), ["lock-recursion"]);
}

#[test]
fn a_lock_is_released_by_the_processor_that_holds_it() {
    let lock = AtomicU32::new(0);
    let address = lock.as_ptr() as usize;
    let machine = kernel(PoolMode::Special, 2);
    let irql = machine.on(0, |cpu| {
        let irql = ExAcquireSpinLockExclusive(address);
        cpu.set_irql(irql);
        irql
    });
    let irql = irql.unwrap();
    machine
        .on(1, |cpu| {
            cpu.set_irql(DISPATCH);
            ExReleaseSpinLockExclusive(address, irql);
        })
        .unwrap();
    assert_eq!(rules(&machine), ["lock-owner"]);
    let stranger = crash(|_| {
        let lock = AtomicUsize::new(0);
        KeReleaseSpinLock(lock.as_ptr() as usize, 0);
    });
    assert_eq!(stranger.code, 0x10);
}

#[test]
fn a_spin_lock_is_held_for_25_microseconds_at_most() {
    let lock = AtomicUsize::new(0);
    let address = lock.as_ptr() as usize;
    let held_for = |microseconds: &'static [u32]| {
        broken(PoolMode::Special, |_| {
            with_spin_lock(address, || {
                for microseconds in microseconds {
                    KeStallExecutionProcessor(*microseconds);
                }
            });
        })
    };
    assert_eq!(held_for(&[10, 10]), [""; 0]);
    assert_eq!(held_for(&[10, 10, 10]), ["lock-long"]);
}

#[test]
fn a_spin_lock_is_not_held_around_thousands_of_calls() {
    let lock = AtomicUsize::new(0);
    let address = lock.as_ptr() as usize;
    let held_for = |calls: u32| {
        broken(PoolMode::Special, |_| {
            with_spin_lock(address, || {
                for _ in 0..calls {
                    KeGetCurrentIrql();
                }
            });
        })
    };
    assert_eq!(held_for(1_000), [""; 0]);
    assert_eq!(held_for(20_000), ["lock-long"]);
}

#[test]
fn a_callback_gives_back_the_reader_writer_locks_that_it_took() {
    let lock = AtomicU32::new(0);
    let address = lock.as_ptr() as usize;
    let found = broken(PoolMode::Special, |cpu| {
        cpu.enter_driver(Callback::new("EvtSomething", 0), DISPATCH, || {
            ExAcquireSpinLockShared(address);
        });
    });
    assert_eq!(found, ["lock-held"]);
}
