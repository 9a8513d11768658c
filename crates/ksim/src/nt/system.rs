//! What belongs nowhere else: identifiers, system routines by name, validity of addresses.

use wfp_schema::NtStatus;

use super::rtl_string::UnicodeString;
use crate::access::{In, Out};
use crate::cpu::{APC, DISPATCH, PASSIVE};
use crate::export::exports;
use crate::kernel::Bugcheck;
use crate::loader;

/// How the verifier calls handles that a driver has to close.
pub(crate) const HANDLE: &str = "handle";

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exuuidcreate>
    fn ExUuidCreate(call, uuid: Out<[u8; 16]>) -> u32,
    irql PASSIVE..=APC, fails 0xc000_022d;
    {
        let [first, second] = [(); 2].map(|()| call.machine().nt().random());
        let mut bytes = [0; 16];
        let (head, tail) = bytes.split_at_mut(8);
        head.copy_from_slice(&first.to_le_bytes());
        tail.copy_from_slice(&second.to_le_bytes());
        // Version 4 and the variant of RFC 9562; the third group is little-endian in a GUID.
        bytes[7] = bytes[7] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        uuid.set(bytes);
        NtStatus::SUCCESS.code()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmgetsystemroutineaddress>
    fn MmGetSystemRoutineAddress(call, name: In<UnicodeString>) -> usize,
    irql PASSIVE..=PASSIVE;
    {
        let name = name.get().map(UnicodeString::text).unwrap_or_default();
        loader::address(call.machine(), "ntoskrnl.exe", &name).unwrap_or(0)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-mmisaddressvalid>
    fn MmIsAddressValid(call, address: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(loader::memory::probe(address, &mut [0]) == 1) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-ntclose>
    fn ZwClose(call, handle: usize) -> u32,
    irql PASSIVE..=PASSIVE;
    {
        if call.machine().verifier().untrack(&call, HANDLE, handle) {
            call.machine().nt().threads().close(handle);
            NtStatus::SUCCESS.code()
        } else {
            NtStatus::INVALID_HANDLE.code()
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exgetpreviousmode>
    fn ExGetPreviousMode(call) -> u8,
    irql PASSIVE..=DISPATCH;
    { 0 }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exraisestatus>
    fn ExRaiseStatus(call, status: u32),
    irql PASSIVE..=APC;
    {
        let place = call.machine().verifier().site(call.site());
        let words = format!("ExRaiseStatus({status:#010x}) called from {place}: exceptions are not simulated");
        call.machine().crash(Bugcheck::new(
            crate::trap::code::SYSTEM_THREAD_EXCEPTION_NOT_HANDLED,
            [u64::from(status), call.site() as u64, 0, 0],
            words,
        ))
    }
}
