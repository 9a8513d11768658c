//! The framework's locks under the rules of every lock.

use wfp_schema::NtStatus;

use super::driver::{Machine, globals, out};
use crate::access::In;
use crate::cpu::{Callback, PASSIVE};
use crate::kmdf::lock::{
    WdfSpinLockAcquire, WdfSpinLockCreate, WdfSpinLockRelease, WdfWaitLockAcquire,
    WdfWaitLockCreate, WdfWaitLockRelease,
};
use crate::kmdf::object_api::WdfObjectDelete;
use crate::nt::calls::{KeAcquireSpinLockRaiseToDpc, KeReleaseSpinLock, KeStallExecutionProcessor};

fn spin_lock() -> usize {
    let mut lock = 0;
    assert_eq!(
        WdfSpinLockCreate(globals(), In::null(), out(&mut lock)),
        NtStatus::SUCCESS
    );
    lock
}

fn wait_lock() -> usize {
    let mut lock = 0;
    assert_eq!(
        WdfWaitLockCreate(globals(), In::null(), out(&mut lock)),
        NtStatus::SUCCESS
    );
    lock
}

fn wait_for(lock: usize) {
    assert_eq!(
        WdfWaitLockAcquire(globals(), lock, In::null()),
        NtStatus::SUCCESS
    );
}

#[test]
fn spin_locks_of_the_framework_and_of_the_kernel_are_in_one_order() {
    let machine = Machine::bare();
    machine.run(|| {
        let (framework, mut kernel) = (spin_lock(), Box::new(0usize));
        let kernel = (&raw mut *kernel) as usize;
        WdfSpinLockAcquire(globals(), framework);
        let irql = KeAcquireSpinLockRaiseToDpc(kernel);
        KeReleaseSpinLock(kernel, irql);
        WdfSpinLockRelease(globals(), framework);

        let irql = KeAcquireSpinLockRaiseToDpc(kernel);
        WdfSpinLockAcquire(globals(), framework);
        WdfSpinLockRelease(globals(), framework);
        KeReleaseSpinLock(kernel, irql);
    });
    let report = machine.report();
    let found: Vec<_> = report
        .violations
        .iter()
        .map(|found| (found.rule, found.call))
        .collect();
    assert_eq!(found, [("lock-order", Some("WdfSpinLockAcquire"))]);
}

#[test]
fn wait_locks_in_two_orders_are_found_and_a_wait_that_gives_up_is_none() {
    let machine = Machine::bare();
    machine.run(|| {
        let (first, second) = (wait_lock(), wait_lock());
        wait_for(first);
        wait_for(second);
        WdfWaitLockRelease(globals(), second);
        WdfWaitLockRelease(globals(), first);

        wait_for(second);
        let moment = -10_000_i64;
        // SAFETY: read during the call only.
        let timeout = unsafe { In::new(&raw const moment) };
        assert_eq!(
            WdfWaitLockAcquire(globals(), first, timeout),
            NtStatus::SUCCESS
        );
        WdfWaitLockRelease(globals(), first);
        assert_eq!(
            crate::Cpu::current()
                .unwrap()
                .machine()
                .verifier()
                .report()
                .violations,
            []
        );
        wait_for(first);
        WdfWaitLockRelease(globals(), first);
        WdfWaitLockRelease(globals(), second);
    });
    assert_eq!(machine.broken_rules(), ["lock-order"]);
}

#[test]
fn a_lock_that_was_deleted_leaves_no_order_behind() {
    let machine = Machine::bare();
    machine.run(|| {
        let outer = wait_lock();
        for _ in 0..50 {
            // The word of a later lock may lie where an earlier one's was.
            let inner = spin_lock();
            wait_for(outer);
            WdfSpinLockAcquire(globals(), inner);
            WdfSpinLockRelease(globals(), inner);
            WdfWaitLockRelease(globals(), outer);
            WdfObjectDelete(globals(), inner);
        }
        WdfObjectDelete(globals(), outer);
    });
    machine.end_clean();
}

#[test]
fn a_wait_lock_taken_twice_stops_the_machine() {
    let machine = Machine::bare();
    let bugcheck = machine
        .try_run(|| {
            let lock = wait_lock();
            wait_for(lock);
            wait_for(lock);
        })
        .unwrap_err();
    assert_eq!((bugcheck.code, bugcheck.parameters[0]), (0x10d, 2));
    assert_eq!(machine.broken_rules(), ["lock-recursion"]);
}

#[test]
fn a_callback_that_returns_with_a_lock_is_found_and_one_that_gives_it_back_is_not() {
    for kept in [false, true] {
        let machine = Machine::bare();
        let lock = machine.run(wait_lock);
        machine.run(|| {
            let cpu = crate::Cpu::current().unwrap();
            cpu.enter_driver(Callback::new("EvtSomething", 0), PASSIVE, || {
                wait_for(lock);
                if !kept {
                    WdfWaitLockRelease(globals(), lock);
                }
            });
        });
        let expected: &[&str] = if kept { &["lock-held"] } else { &[] };
        assert_eq!(machine.broken_rules(), expected);
    }
    let machine = Machine::bare();
    machine.run(|| {
        let lock = spin_lock();
        let cpu = crate::Cpu::current().unwrap();
        cpu.enter_driver(Callback::new("EvtSomething", 0), PASSIVE, || {
            WdfSpinLockAcquire(globals(), lock);
        });
    });
    assert_eq!(machine.broken_rules(), ["lock-held", "irql-restored"]);
}

#[test]
fn a_spin_lock_of_the_framework_that_is_held_for_long_is_found() {
    let machine = Machine::bare();
    machine.run(|| {
        let lock = spin_lock();
        for microseconds in [20, 30] {
            WdfSpinLockAcquire(globals(), lock);
            KeStallExecutionProcessor(microseconds);
            WdfSpinLockRelease(globals(), lock);
        }
    });
    assert_eq!(machine.broken_rules(), ["lock-long"]);
}
