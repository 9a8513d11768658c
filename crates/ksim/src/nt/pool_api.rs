//! `ExAllocatePool…`, `ExFreePool…`.

use std::ffi::c_void;
use std::ptr;

use super::pool::{ALIGNMENT, Freed, Request, tag_name};
use crate::cpu::{APC, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{
    IRQL_RANGE, POOL_DOUBLE_FREE, POOL_EXECUTABLE, POOL_FLAGS, POOL_NO_TAG, POOL_SIZE, POOL_TAG,
};

/// `POOL_FLAG_*` of `ExAllocatePool2`.
mod flag {
    pub(super) const USE_QUOTA: u64 = 0x1;
    pub(super) const UNINITIALIZED: u64 = 0x2;
    pub(super) const SESSION: u64 = 0x4;
    pub(super) const CACHE_ALIGNED: u64 = 0x8;
    pub(super) const RAISE_ON_FAILURE: u64 = 0x20;
    pub(super) const NON_PAGED: u64 = 0x40;
    pub(super) const NON_PAGED_EXECUTE: u64 = 0x80;
    pub(super) const PAGED: u64 = 0x100;
    pub(super) const KINDS: u64 = NON_PAGED | NON_PAGED_EXECUTE | PAGED;
    pub(super) const KNOWN: u64 =
        KINDS | USE_QUOTA | UNINITIALIZED | SESSION | CACHE_ALIGNED | RAISE_ON_FAILURE;
    /// Flags that an older system ignores when it doesn't know them.
    pub(super) const OPTIONAL: u64 = 0xffff_ffff_0000_0000;
}

/// `SYSTEM_CACHE_ALIGNMENT_SIZE`.
const CACHE_LINE: usize = 64;
/// How the verifier calls blocks.
const KIND: &str = "pool";

/// Allocates for the driver; the block must be given back.
pub(super) fn allocate(call: &Call<'_>, request: Request) -> *mut c_void {
    if request.size == 0 {
        call.violation(&POOL_SIZE, "zero bytes of pool");
    }
    if request.tag == 0 {
        call.violation(&POOL_NO_TAG, "pool without a tag");
    }
    if request.paged && call.cpu().irql() > APC {
        call.violation(
            &IRQL_RANGE,
            format!("paged pool is allocated at IRQL {}", call.cpu().irql()),
        );
    }
    call.machine().fwp.current(call.cpu()).note_allocation();
    let Some(block) = call.machine().nt().pool().allocate(&request) else {
        return ptr::null_mut();
    };
    call.machine()
        .verifier()
        .track(call, KIND, block.address, block.tag_name(), block.size);
    block.address as *mut c_void
}

/// Frees for the driver. `tag` is 0 when the function has none.
fn free(call: &Call<'_>, address: usize, tag: u32) {
    if address == 0 {
        call.violation(&POOL_DOUBLE_FREE, "a null pointer is freed");
        return;
    }
    let machine = call.machine();
    match machine.nt().pool().free(address, call.site()) {
        Freed::Block(block) => {
            machine.verifier().forget(KIND, address);
            machine
                .nt()
                .lock_order()
                .forget(address..address + block.size);
            // Without PROTECTED_POOL in the tag any tag frees; giving another one is a mistake all the same.
            if tag != 0 && tag != block.tag {
                let (given, own) = (tag_name(tag), block.tag_name());
                call.violation(
                    &POOL_TAG,
                    format!("a block with the tag '{own}' is freed with the tag '{given}'"),
                );
            }
            if block.paged && call.cpu().irql() > APC {
                call.violation(
                    &IRQL_RANGE,
                    format!("paged pool is freed at IRQL {}", call.cpu().irql()),
                );
            }
        }
        Freed::Unknown(earlier) => {
            let words = earlier.map_or_else(
                || format!("{address:#x} is no block of pool"),
                |block| {
                    let by = block
                        .freed_by
                        .map_or_else(String::new, |site| machine.verifier().site(site));
                    format!(
                        "block '{}' of {} bytes was freed before, at {by}",
                        block.tag_name(),
                        block.size
                    )
                },
            );
            call.violation(&POOL_DOUBLE_FREE, words);
        }
    }
    for damage in machine.nt().pool().take_damage() {
        let (rule, words) = damage.describe(machine);
        call.violation(rule, words);
    }
}

/// What both forms of `ExAllocatePool2` and `3` do.
fn allocate_by_flags(call: &Call<'_>, flags: u64, size: usize, tag: u32) -> *mut c_void {
    let required = flags & !flag::OPTIONAL;
    if (required & flag::KINDS).count_ones() != 1 || required & !flag::KNOWN != 0 {
        call.violation(
            &POOL_FLAGS,
            format!("pool flags {flags:#x} name no pool or unknown flags"),
        );
        return ptr::null_mut();
    }
    if required & flag::NON_PAGED_EXECUTE != 0 {
        call.violation(&POOL_EXECUTABLE, "POOL_FLAG_NON_PAGED_EXECUTE");
    }
    allocate(
        call,
        Request {
            size,
            tag,
            site: call.site(),
            zeroed: required & flag::UNINITIALIZED == 0,
            paged: required & flag::PAGED != 0,
            alignment: if required & flag::CACHE_ALIGNED == 0 {
                ALIGNMENT
            } else {
                CACHE_LINE
            },
        },
    )
}

/// `POOL_TYPE`: bit 0 paged, bit 2 cache-aligned, bit 9 non-executable; nonpaged without bit 9 is executable.
fn allocate_by_type(call: &Call<'_>, kind: u32, size: usize, tag: u32) -> *mut c_void {
    const PAGED: u32 = 1;
    const CACHE_ALIGNED: u32 = 4;
    const NX: u32 = 512;
    if kind & (PAGED | NX) == 0 {
        call.violation(
            &POOL_EXECUTABLE,
            format!("pool type {kind:#x} is executable; NonPagedPoolNx is not"),
        );
    }
    allocate(
        call,
        Request {
            size,
            tag,
            site: call.site(),
            zeroed: false,
            paged: kind & PAGED != 0,
            alignment: if kind & CACHE_ALIGNED == 0 {
                ALIGNMENT
            } else {
                CACHE_LINE
            },
        },
    )
}

/// The tag of `ExAllocatePool`, `None` in memory order.
const NONE_TAG: u32 = u32::from_le_bytes(*b"None");

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatepool2>
    fn ExAllocatePool2(call, flags: u64, size: usize, tag: u32) -> *mut c_void,
    irql PASSIVE..=DISPATCH, fails ptr::null_mut();
    { allocate_by_flags(&call, flags, size, tag) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatepool3>
    fn ExAllocatePool3(call, flags: u64, size: usize, tag: u32, parameters: usize, count: u32) -> *mut c_void,
    irql PASSIVE..=DISPATCH, fails ptr::null_mut();
    { allocate_by_flags(&call, flags, size, tag) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatepoolwithtag>
    fn ExAllocatePoolWithTag(call, kind: u32, size: usize, tag: u32) -> *mut c_void,
    irql PASSIVE..=DISPATCH, fails ptr::null_mut();
    { allocate_by_type(&call, kind, size, tag) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-exallocatepoolwithtagpriority>
    fn ExAllocatePoolWithTagPriority(call, kind: u32, size: usize, tag: u32, priority: u32) -> *mut c_void,
    irql PASSIVE..=DISPATCH, fails ptr::null_mut();
    { allocate_by_type(&call, kind, size, tag) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatepool>
    fn ExAllocatePool(call, kind: u32, size: usize) -> *mut c_void,
    irql PASSIVE..=DISPATCH, fails ptr::null_mut();
    { allocate_by_type(&call, kind, size, NONE_TAG) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-exfreepool>
    fn ExFreePool(call, block: usize),
    irql PASSIVE..=DISPATCH;
    { free(&call, block, 0); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exfreepoolwithtag>
    fn ExFreePoolWithTag(call, block: usize, tag: u32),
    irql PASSIVE..=DISPATCH;
    { free(&call, block, tag); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exfreepool2>
    fn ExFreePool2(call, block: usize, tag: u32, parameters: usize, count: u32),
    irql PASSIVE..=DISPATCH;
    { free(&call, block, tag); }
}
