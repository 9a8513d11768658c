//! Functions of the C library and the run-time library that compilers call for memory.

use std::ptr;

use crate::cpu::{HIGH, PASSIVE};
use crate::export::{Export, exports};

/// The number of equal bytes at the start of two ranges.
fn equal(first: usize, second: usize, length: usize) -> usize {
    (0..length)
        .find(|&at| {
            // SAFETY: the driver vouches for both ranges (a trap otherwise).
            let left = unsafe { ptr::read_volatile((first + at) as *const u8) };
            // SAFETY: as above.
            let right = unsafe { ptr::read_volatile((second + at) as *const u8) };
            left != right
        })
        .unwrap_or(length)
}

const fn copy(to: usize, from: usize, length: usize) {
    // SAFETY: the driver vouches for both ranges (a trap otherwise), which may overlap.
    unsafe { ptr::copy(from as *const u8, to as *mut u8, length) };
}

const fn fill(to: usize, byte: u8, length: usize) {
    // SAFETY: the driver vouches for the range (a trap otherwise).
    unsafe { ptr::write_bytes(to as *mut u8, byte, length) };
}

/// The stack probe: RAX bytes are about to be taken from the stack, and each page is touched in turn, so that an
/// overflow finds the guard page. Keeps every register but R10 and R11.
///
/// <https://learn.microsoft.com/windows/win32/devnotes/-win32-chkstk>
#[unsafe(naked)]
extern "win64" fn chkstk() {
    std::arch::naked_asm!(
        "mov r10, rsp",
        "mov r11, rax",
        "2:",
        "cmp r11, 0x1000",
        "jb 3f",
        "sub r10, 0x1000",
        "test byte ptr [r10], 0",
        "sub r11, 0x1000",
        "jmp 2b",
        "3:",
        "sub r10, r11",
        "test byte ptr [r10], 0",
        "ret",
    )
}

/// Functions whose calling convention is their own; they are entered without a stub's notes being used.
pub(super) static RAW_EXPORTS: &[Export] = &[Export {
    module: "ntoskrnl.exe",
    name: "__chkstk",
    doc: "<https://learn.microsoft.com/windows/win32/devnotes/-win32-chkstk>",
    irql: PASSIVE..=HIGH,
    fallible: false,
    fails_later: false,
    // What it gets is in RAX.
    parameters: &[],
    returns: 0,
    address: || chkstk as *const () as usize,
}];

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/cpp/c-runtime-library/reference/memcpy-wmemcpy>
    fn memcpy(call, to: usize, from: usize, length: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        copy(to, from, length);
        to
    }

    /// <https://learn.microsoft.com/cpp/c-runtime-library/reference/memmove-wmemmove>
    fn memmove(call, to: usize, from: usize, length: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        copy(to, from, length);
        to
    }

    /// <https://learn.microsoft.com/cpp/c-runtime-library/reference/memset-wmemset>
    fn memset(call, to: usize, byte: u32, length: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        let [byte, ..] = byte.to_le_bytes();
        fill(to, byte, length);
        to
    }

    /// <https://learn.microsoft.com/cpp/c-runtime-library/reference/memcmp-wmemcmp>
    fn memcmp(call, first: usize, second: usize, length: usize) -> i32,
    irql PASSIVE..=HIGH;
    {
        let at = equal(first, second, length);
        if at == length {
            return 0;
        }
        // SAFETY: inside the range, and just read.
        let left = unsafe { ptr::read_volatile((first + at) as *const u8) };
        // SAFETY: as above.
        let right = unsafe { ptr::read_volatile((second + at) as *const u8) };
        i32::from(left) - i32::from(right)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlcomparememory>
    fn RtlCompareMemory(call, first: usize, second: usize, length: usize) -> usize,
    irql PASSIVE..=HIGH;
    { equal(first, second, length) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlcopymemory>
    fn RtlCopyMemory(call, to: usize, from: usize, length: usize),
    irql PASSIVE..=HIGH;
    { copy(to, from, length); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlmovememory>
    fn RtlMoveMemory(call, to: usize, from: usize, length: usize),
    irql PASSIVE..=HIGH;
    { copy(to, from, length); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlfillmemory>
    fn RtlFillMemory(call, to: usize, length: usize, byte: u8),
    irql PASSIVE..=HIGH;
    { fill(to, byte, length); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlzeromemory>
    fn RtlZeroMemory(call, to: usize, length: usize),
    irql PASSIVE..=HIGH;
    { fill(to, 0, length); }
}
