//! The system's event log, as far as drivers write it.

use super::pool::{ALIGNMENT, Freed, Request};
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::ARGUMENT;

/// `IO_ERROR_LOG_PACKET` of x64 Windows.
mod layout {
    pub(super) const SIZE: usize = 0x30;
    pub(super) const STRING_COUNT: usize = 4;
    pub(super) const STRING_OFFSET: usize = 6;
    pub(super) const ERROR_CODE: usize = 0xc;
}

/// `ERROR_LOG_MAXIMUM_SIZE`.
const LARGEST: usize = 0xf0;
const TAG: u32 = u32::from_le_bytes(*b"IoEr");
/// How the verifier calls them.
const KIND: &str = "error log entry";

/// Takes an entry back; `false` when it is none.
fn take(call: &Call<'_>, entry: usize) -> bool {
    call.machine().verifier().untrack(call, KIND, entry)
        && matches!(
            call.machine().nt().pool().free(entry, call.site()),
            Freed::Block(_)
        )
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioallocateerrorlogentry>
    fn IoAllocateErrorLogEntry(call, object: usize, size: u8) -> Out<u8>,
    irql PASSIVE..=DISPATCH, fails Out::null();
    {
        let size = usize::from(size);
        if object == 0 || !(layout::SIZE..=LARGEST).contains(&size) {
            call.violation(&ARGUMENT, format!("an error log entry of {size} bytes for object {object:#x}"));
            return Out::null();
        }
        let request =
            Request { size, tag: TAG, site: call.site(), zeroed: true, paged: false, alignment: ALIGNMENT };
        let Some(block) = call.machine().nt().pool().allocate(&request) else { return Out::null() };
        call.machine().verifier().track(&call, KIND, block.address, "", size);
        // SAFETY: a block that was just allocated.
        unsafe { Out::new(block.address as *mut u8) }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iowriteerrorlogentry>
    fn IoWriteErrorLogEntry(call, entry: Out<u8>),
    irql PASSIVE..=DISPATCH;
    {
        if !call.machine().verifier().is_tracked(KIND, entry.address()) {
            take(&call, entry.address());
            return;
        }
        let half = |offset| entry.offset::<u16>(offset).get().unwrap_or(0);
        let code = entry.offset::<u32>(layout::ERROR_CODE).get().unwrap_or(0);
        let mut at = usize::from(half(layout::STRING_OFFSET));
        let mut strings = Vec::new();
        for _ in 0..half(layout::STRING_COUNT) {
            let string: In<u16> = entry.offset::<u16>(at).as_in();
            let text = string.string().unwrap_or_default();
            at += (text.encode_utf16().count() + 1) * 2;
            strings.push(text);
        }
        call.machine().nt().debug_log().push(&format!("error log entry {code:#010x} {strings:?}"));
        take(&call, entry.address());
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-iofreeerrorlogentry>
    fn IoFreeErrorLogEntry(call, entry: usize),
    irql PASSIVE..=DISPATCH;
    { take(&call, entry); }
}
