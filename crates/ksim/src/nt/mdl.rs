//! Memory descriptor lists.
//!
//! Physical memory isn't simulated: an MDL describes virtual addresses, and mapping it gives the same ones.

use super::pool::{ALIGNMENT, Freed, Request};
use crate::access::Out;
use crate::cpu::{APC, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, OBJECT_STALE};

/// `MDL` of x64 Windows; an array of page numbers, eight bytes each, follows.
mod layout {
    pub(super) const SIZE: usize = 0x30;
    pub(super) const NEXT: usize = 0;
    pub(super) const SIZE_FIELD: usize = 8;
    pub(super) const FLAGS: usize = 10;
    pub(super) const PROCESS: usize = 16;
    pub(super) const MAPPED: usize = 24;
    pub(super) const START: usize = 32;
    pub(super) const BYTE_COUNT: usize = 40;
    pub(super) const BYTE_OFFSET: usize = 44;
}

/// `MDL_*` flags.
mod flag {
    pub(super) const MAPPED_TO_SYSTEM_VA: u16 = 0x1;
    pub(super) const PAGES_LOCKED: u16 = 0x2;
    pub(super) const SOURCE_IS_NONPAGED_POOL: u16 = 0x4;
    pub(super) const PARTIAL: u16 = 0x10;
}

const PAGE: usize = 0x1000;
/// `IRP.MdlAddress`.
const IRP_MDL: usize = 8;
const TAG: u32 = u32::from_le_bytes(*b"Mdl ");
/// How the verifier calls them.
const KIND: &str = "MDL";
const LOCKED: &str = "locked pages";

type Mdl = Out<u8>;

const fn pages(address: usize, length: usize) -> usize {
    (address % PAGE + length).div_ceil(PAGE)
}

fn flags(mdl: Mdl) -> u16 {
    mdl.offset::<u16>(layout::FLAGS).get().unwrap_or(0)
}

const fn set_flags(mdl: Mdl, flags: u16) {
    mdl.offset::<u16>(layout::FLAGS).set(flags);
}

/// The address that an MDL describes.
fn address(mdl: Mdl) -> usize {
    let start = mdl.offset::<usize>(layout::START).get().unwrap_or(0);
    start + mdl.offset::<u32>(layout::BYTE_OFFSET).get().unwrap_or(0) as usize
}

fn describe(mdl: Mdl, address: usize, length: u32) {
    mdl.offset::<usize>(layout::NEXT).set(0);
    mdl.offset::<usize>(layout::PROCESS).set(0);
    mdl.offset::<usize>(layout::MAPPED).set(0);
    mdl.offset::<usize>(layout::START)
        .set(address & !(PAGE - 1));
    mdl.offset::<u32>(layout::BYTE_COUNT).set(length);
    mdl.offset::<u32>(layout::BYTE_OFFSET)
        .set(u32::try_from(address % PAGE).unwrap_or(0));
}

/// Appends `mdl` to the chain that the `IRP` at `irp` has, or makes it the first.
fn attach(irp: Out<u8>, mdl: usize, secondary: bool) {
    let mut link = irp.offset::<usize>(IRP_MDL);
    while secondary && let Some(next) = link.get().filter(|&next| next != 0) {
        // SAFETY: a link of the driver's own chain (a trap otherwise); `Next` is its first member.
        link = unsafe { Out::new(next as *mut usize) };
    }
    link.set(mdl);
}

fn allocate(call: &Call<'_>, address: usize, length: u32) -> Mdl {
    let size = layout::SIZE + 8 * pages(address, length as usize);
    let request = Request {
        size,
        tag: TAG,
        site: call.site(),
        zeroed: true,
        paged: false,
        alignment: ALIGNMENT,
    };
    let Some(block) = call.machine().nt().pool().allocate(&request) else {
        return Out::null();
    };
    call.machine()
        .verifier()
        .track(call, KIND, block.address, "", size);
    // SAFETY: a block that was just allocated with room for an MDL.
    let mdl: Mdl = unsafe { Out::new(block.address as *mut u8) };
    mdl.offset::<u16>(layout::SIZE_FIELD)
        .set(u16::try_from(size).unwrap_or(u16::MAX));
    describe(mdl, address, length);
    mdl
}

/// Maps an MDL: its pages must be locked or nonpaged.
fn map(call: &Call<'_>, mdl: Mdl) -> usize {
    let present = flags(mdl);
    if present & (flag::PAGES_LOCKED | flag::SOURCE_IS_NONPAGED_POOL | flag::PARTIAL) == 0 {
        call.violation(&ARGUMENT, "an MDL is mapped whose pages are not locked");
    }
    if present & flag::MAPPED_TO_SYSTEM_VA != 0 {
        call.violation(&ARGUMENT, "an MDL is mapped that is mapped already");
    }
    let mapped = address(mdl);
    mdl.offset::<usize>(layout::MAPPED).set(mapped);
    set_flags(mdl, present | flag::MAPPED_TO_SYSTEM_VA);
    mapped
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioallocatemdl>
    fn IoAllocateMdl(call, address: usize, length: u32, secondary: u8, quota: u8, irp: Out<u8>) -> Out<u8>,
    irql PASSIVE..=DISPATCH, fails Out::null();
    {
        let mdl = allocate(&call, address, length);
        if !irp.is_null() && !mdl.is_null() {
            attach(irp, mdl.address(), secondary != 0);
        }
        mdl
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iofreemdl>
    fn IoFreeMdl(call, mdl: Out<u8>),
    irql PASSIVE..=DISPATCH;
    {
        if !call.machine().verifier().untrack(&call, KIND, mdl.address()) {
            return;
        }
        if flags(mdl) & flag::PAGES_LOCKED != 0 {
            call.violation(&ARGUMENT, "an MDL is freed whose pages are locked");
        }
        if let Freed::Unknown(_) = call.machine().nt().pool().free(mdl.address(), call.site()) {
            call.violation(&OBJECT_STALE, "an MDL is freed whose memory was freed before");
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmbuildmdlfornonpagedpool>
    fn MmBuildMdlForNonPagedPool(call, mdl: Out<u8>),
    irql PASSIVE..=DISPATCH;
    {
        set_flags(mdl, flags(mdl) | flag::SOURCE_IS_NONPAGED_POOL);
        mdl.offset::<usize>(layout::MAPPED).set(address(mdl));
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmmaplockedpagesspecifycache>
    fn MmMapLockedPagesSpecifyCache(
        call, mdl: Out<u8>, mode: u8, cache: u32, requested: usize, bug_check: u32, priority: u32,
    ) -> usize,
    irql PASSIVE..=DISPATCH, fails 0;
    {
        if mode != 0 && call.cpu().irql() > APC {
            call.violation(&crate::verifier::IRQL_RANGE, "pages are mapped for user mode above APC_LEVEL");
        }
        map(&call, mdl)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmmaplockedpages>
    fn MmMapLockedPages(call, mdl: Out<u8>, mode: u8) -> usize,
    irql PASSIVE..=DISPATCH;
    { map(&call, mdl) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmunmaplockedpages>
    fn MmUnmapLockedPages(call, mapped: usize, mdl: Out<u8>),
    irql PASSIVE..=DISPATCH;
    {
        if flags(mdl) & flag::MAPPED_TO_SYSTEM_VA == 0 || mapped != address(mdl) {
            call.violation(&ARGUMENT, "pages are unmapped that this MDL does not map there");
        }
        set_flags(mdl, flags(mdl) & !flag::MAPPED_TO_SYSTEM_VA);
        mdl.offset::<usize>(layout::MAPPED).set(0);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmprobeandlockpages>
    fn MmProbeAndLockPages(call, mdl: Out<u8>, mode: u8, operation: u32),
    irql PASSIVE..=DISPATCH;
    {
        if flags(mdl) & (flag::PAGES_LOCKED | flag::SOURCE_IS_NONPAGED_POOL) != 0 {
            call.violation(&ARGUMENT, "pages are locked by an MDL that has locked them or describes nonpaged pool");
        }
        set_flags(mdl, flags(mdl) | flag::PAGES_LOCKED);
        call.machine().verifier().track(&call, LOCKED, mdl.address(), "", 0);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmunlockpages>
    fn MmUnlockPages(call, mdl: Out<u8>),
    irql PASSIVE..=DISPATCH;
    {
        if flags(mdl) & flag::PAGES_LOCKED == 0 {
            call.violation(&ARGUMENT, "pages are unlocked by an MDL that has not locked them");
        }
        set_flags(mdl, flags(mdl) & !(flag::PAGES_LOCKED | flag::MAPPED_TO_SYSTEM_VA));
        call.machine().verifier().forget(LOCKED, mdl.address());
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iobuildpartialmdl>
    fn IoBuildPartialMdl(call, source: Out<u8>, target: Out<u8>, address: usize, length: u32),
    irql PASSIVE..=DISPATCH;
    {
        let start = self::address(source);
        let whole = source.offset::<u32>(layout::BYTE_COUNT).get().unwrap_or(0) as usize;
        let length = if length == 0 { (start + whole).saturating_sub(address) } else { length as usize };
        if address < start || address + length > start + whole {
            call.violation(&ARGUMENT, "a partial MDL reaches beyond its source");
        }
        describe(target, address, u32::try_from(length).unwrap_or(u32::MAX));
        let inherited = flags(source) & flag::SOURCE_IS_NONPAGED_POOL;
        set_flags(target, flag::PARTIAL | inherited);
        if inherited != 0 {
            target.offset::<usize>(layout::MAPPED).set(address);
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmsizeofmdl>
    fn MmSizeOfMdl(call, address: usize, length: usize) -> usize,
    irql PASSIVE..=HIGH;
    { layout::SIZE + 8 * pages(address, length) }
}
