//! The pool, as drivers use and misuse it.

use super::{NON_PAGED, TAG, UNINITIALIZED, allocate, broken, crash, kernel, read, rules, write};
use crate::PoolMode;
use crate::nt::pool_api::{ExAllocatePool2, ExAllocatePoolWithTag, ExFreePool, ExFreePoolWithTag};

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

#[test]
fn executable_pool_and_nonsense_flags_are_violations() {
    let found = broken(PoolMode::Special, |_| {
        ExFreePool(ExAllocatePoolWithTag(0, 8, TAG) as usize);
        assert!(ExAllocatePool2(0, 8, TAG).is_null());
        assert!(ExAllocatePool2(NON_PAGED | 0x100, 8, TAG).is_null());
    });
    assert_eq!(found, ["pool-executable", "argument", "argument"]);
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

#[test]
fn more_blocks_than_the_host_has_mappings_for_are_allocated_all_the_same() {
    let kernel = kernel(PoolMode::Special, 1);
    let found = kernel.on(0, |_| {
        let blocks: Vec<usize> = (0..40_000).map(|_| allocate(24)).collect();
        assert!(blocks.iter().all(|&block| block != 0));
        for block in blocks {
            ExFreePool(block);
        }
    });
    assert_eq!(found, Ok(()));
    assert_eq!(rules(&kernel), [""; 0]);
}
