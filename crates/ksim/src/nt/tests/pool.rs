//! The pool, as drivers use and misuse it.

use super::{NON_PAGED, TAG, UNINITIALIZED, allocate, broken, crash, kernel, read, rules, write};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::nt::pool_api::{ExAllocatePool2, ExAllocatePoolWithTag, ExFreePool, ExFreePoolWithTag};
use crate::{Bugcheck, PoolMode};

#[test]
fn pool_is_zeroed_unless_asked_otherwise_and_given_back_without_a_word() {
    for mode in [PoolMode::Special, PoolMode::Fast] {
        assert!(
            broken(mode, |_| {
                let zeroed = allocate(100);
                assert!((0..100).all(|at| read(zeroed + at) == 0));
                assert!(zeroed.is_multiple_of(16));
                let fresh = ExAllocatePool2(NON_PAGED | UNINITIALIZED, 100, TAG) as usize;
                assert!((0..100).all(|at| read(fresh + at) == 0xcd));
                let large = allocate(5000);
                assert!(large.is_multiple_of(4096));
                for block in [zeroed, fresh, large] {
                    ExFreePoolWithTag(block, TAG);
                }
            })
            .is_empty()
        );
    }
}

#[test]
fn freeing_twice_or_with_another_tag_or_nothing_is_a_violation() {
    let found = broken(PoolMode::Special, |_| {
        let block = allocate(8);
        ExFreePoolWithTag(block, u32::from_le_bytes(*b"Else"));
        ExFreePool(block);
        ExFreePool(0);
    });
    assert_eq!(found, ["pool-tag", "pool-double-free", "pool-double-free"]);
}

#[test]
fn a_changed_byte_around_a_block_is_found_when_it_is_freed() {
    for mode in [PoolMode::Special, PoolMode::Fast] {
        for offset in [-1isize, 20] {
            let found = broken(mode, |_| {
                let block = allocate(20);
                write(block.wrapping_add_signed(offset), 1);
                ExFreePool(block);
            });
            let expected = if offset < 0 {
                "pool-underrun"
            } else {
                "pool-overrun"
            };
            assert_eq!(found, [expected], "{mode:?} {offset}");
        }
    }
}

#[test]
fn a_change_after_freeing_is_found_by_the_audit_of_the_fast_pool() {
    let found = broken(PoolMode::Fast, |cpu| {
        let block = allocate(32);
        ExFreePool(block);
        write(block + 3, 0);
        cpu.machine().nt().pool().audit(cpu);
        cpu.machine().nt().pool().audit(cpu);
    });
    assert_eq!(found, ["pool-use-after-free"]);
}

#[test]
fn reading_past_a_block_stops_the_machine_and_names_the_block() {
    let bugcheck = crash(|_| {
        let block = allocate(64);
        read(block + 64 + 4);
    });
    assert_eq!(bugcheck.code, 0xcd);
    assert!(
        bugcheck.message.starts_with(
            "read of 1 bytes 4 past the end of pool block 'Test' of 64 bytes allocated at"
        ),
        "{bugcheck}"
    );
}

#[test]
fn writing_to_a_freed_block_stops_the_machine_and_says_who_freed_it() {
    let bugcheck = crash(|_| {
        let block = allocate(64);
        ExFreePool(block);
        write(block + 8, 1);
    });
    assert_eq!(bugcheck.code, 0xcc);
    assert!(
        bugcheck
            .message
            .contains("at offset 8 of pool block 'Test'"),
        "{bugcheck}"
    );
    assert!(bugcheck.message.contains("and freed at"), "{bugcheck}");
}

/// What of the rules was broken by work that stops the machine.
fn stopped(mode: PoolMode, work: impl FnOnce() + Send) -> (Vec<&'static str>, Bugcheck) {
    let kernel = kernel(mode, 1);
    let bugcheck = kernel.on(0, |_| work()).unwrap_err();
    (rules(&kernel), bugcheck)
}

#[test]
fn touching_what_is_before_a_block_stops_the_machine_where_starts_are_guarded() {
    let (rules, bugcheck) = stopped(PoolMode::SpecialStart, || {
        let (first, second) = (allocate(64), allocate(5000));
        assert!((0..64).all(|at| read(first + at) == 0));
        read(second - 8);
    });
    assert_eq!(rules, ["pool-underrun"]);
    assert!(
        bugcheck
            .message
            .starts_with("read of 1 bytes 8 before the start of pool block 'Test' of 5000 bytes"),
        "{bugcheck}"
    );
    let (rules, _) = stopped(PoolMode::SpecialStart, || {
        read(allocate(16) - 1);
    });
    assert_eq!(rules, ["pool-underrun"], "also before the first block");
    let found = broken(PoolMode::SpecialStart, |_| {
        let block = allocate(20);
        write(block + 20, 1);
        ExFreePool(block);
    });
    assert_eq!(found, ["pool-overrun"]);
}

#[test]
fn what_is_touched_behind_and_after_a_block_has_its_rule_too() {
    for mode in [PoolMode::Special, PoolMode::SpecialStart] {
        let (rules, _) = stopped(mode, || {
            let block = allocate(64);
            ExFreePool(block);
            write(block, 1);
        });
        assert_eq!(rules, ["pool-use-after-free"], "{mode:?}");
    }
    let (rules, _) = stopped(PoolMode::Special, || {
        read(allocate(64) + 64);
    });
    assert_eq!(rules, ["pool-overrun"]);
}

#[test]
fn paged_pool_is_touched_below_dispatch_level_only() {
    let paged = || ExAllocatePool2(0x100, 5000, TAG) as usize;
    for mode in [PoolMode::Special, PoolMode::SpecialStart] {
        let quiet = broken(mode, |cpu| {
            let block = paged();
            write(block + 4999, 7);
            cpu.set_irql(DISPATCH);
            cpu.set_irql(PASSIVE);
            assert_eq!(read(block + 4999), 7, "it comes back as it was");
            ExFreePool(block);
        });
        assert_eq!(quiet, [""; 0], "{mode:?}");
        let kernel = kernel(mode, 1);
        let bugcheck = kernel
            .on(0, |cpu| {
                let block = paged();
                cpu.set_irql(DISPATCH);
                read(block + 10);
            })
            .unwrap_err();
        assert_eq!(rules(&kernel), ["pool-paged-access"]);
        assert_eq!(bugcheck.code, 0xd1);
        assert!(
            bugcheck.message.contains("at offset 10 of pool block"),
            "{bugcheck}"
        );
    }
}

#[test]
fn executable_pool_and_nonsense_flags_are_violations() {
    let found = broken(PoolMode::Special, |_| {
        ExFreePool(ExAllocatePoolWithTag(0, 8, TAG) as usize);
        assert!(ExAllocatePool2(0, 8, TAG).is_null());
        assert!(ExAllocatePool2(NON_PAGED | 0x100, 8, TAG).is_null());
    });
    assert_eq!(found, ["pool-executable", "pool-flags", "pool-flags"]);
}

#[test]
fn no_bytes_and_no_tag_are_asked_for_by_mistake() {
    let found = broken(PoolMode::Special, |_| {
        ExFreePool(ExAllocatePool2(NON_PAGED, 0, TAG) as usize);
        ExFreePool(ExAllocatePool2(NON_PAGED, 8, 0) as usize);
    });
    assert_eq!(found, ["pool-size", "pool-no-tag"]);
}

#[test]
fn what_is_not_given_back_is_a_leak_with_its_tag_and_bytes() {
    let kernel = kernel(PoolMode::Special, 1);
    kernel.on(0, |_| (allocate(10), allocate(20))).unwrap();
    let leaks = kernel.verifier().leaks();
    assert_eq!(leaks.len(), 1);
    assert_eq!(
        (
            leaks[0].kind,
            &*leaks[0].name,
            leaks[0].count,
            leaks[0].bytes
        ),
        ("pool", "Test", 2, 30)
    );
}
