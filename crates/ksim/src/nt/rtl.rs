//! The run-time library: versions, random numbers, exception handling.

use wfp_schema::NtStatus;

use crate::access::{In, Out};
use crate::cpu::{APC, DISPATCH, HIGH, PASSIVE};
use crate::export::exports;

/// The system that is simulated: Windows 11 23H2.
pub(super) const MAJOR: u32 = 10;
pub(super) const MINOR: u32 = 0;
pub(super) const BUILD: u32 = 22_631;
/// `VER_PLATFORM_WIN32_NT`.
const PLATFORM: u32 = 2;

/// `RTL_OSVERSIONINFOW` and `RTL_OSVERSIONINFOEXW`.
mod version {
    pub(super) const SIZE: u32 = 276;
    pub(super) const EX_SIZE: u32 = 284;
    pub(super) const MAJOR: usize = 4;
    pub(super) const MINOR: usize = 8;
    pub(super) const BUILD: usize = 12;
    pub(super) const PLATFORM: usize = 16;
    pub(super) const SERVICE_PACK: usize = 20;
    pub(super) const PRODUCT_TYPE: usize = 282;
}

/// Bytes of a `SID`: a revision, a count, six bytes of authority, four for each subauthority. `None` if it is none.
fn sid_length(sid: In<u8>) -> Option<usize> {
    const REVISION: u8 = 1;
    const MOST: u8 = 15;
    let (revision, count) = (sid.get()?, sid.at(1)?);
    (revision == REVISION && count <= MOST).then(|| 8 + 4 * usize::from(count))
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlgetversion>
    fn RtlGetVersion(call, info: Out<u32>) -> u32,
    irql PASSIVE..=PASSIVE;
    {
        // Known drivers leave the size uninitialized, and Windows fills the basic part in then.
        let size = info.get().unwrap_or(0);
        for (offset, value) in [
            (version::MAJOR, MAJOR),
            (version::MINOR, MINOR),
            (version::BUILD, BUILD),
            (version::PLATFORM, PLATFORM),
        ] {
            info.offset::<u32>(offset).set(value);
        }
        if size == version::SIZE || size == version::EX_SIZE {
            info.offset::<u16>(version::SERVICE_PACK).set(0);
        }
        if size == version::EX_SIZE {
            info.offset::<u8>(version::PRODUCT_TYPE).set(1);
        }
        NtStatus::SUCCESS.code()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlisntddiversionavailable>
    fn RtlIsNtDdiVersionAvailable(call, version: u32) -> u8,
    irql PASSIVE..=PASSIVE;
    {
        /// `NTDDI_WIN10_NI`, the newest that the simulated system has.
        const NEWEST: u32 = 0x0a00_000c;
        u8::from(version <= NEWEST)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-rtlrandomex>
    fn RtlRandomEx(call, seed: Out<u32>) -> u32,
    irql PASSIVE..=APC;
    {
        let number = u32::try_from(call.machine().nt().random() >> 33).unwrap_or(0);
        seed.set(number);
        number
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-rtlntstatustodoserror>
    fn RtlNtStatusToDosErrorNoTeb(call, status: u32) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        /// `ERROR_MR_MID_NOT_FOUND`, for statuses without a counterpart.
        const UNKNOWN: u32 = 317;
        match status {
            0 => 0,
            0xc000_0022 => 5,
            0xc000_009a => 1450,
            0xc000_000d => 87,
            _ => UNKNOWN,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-rtlvalidsid>
    fn RtlValidSid(call, sid: In<u8>) -> u8,
    irql PASSIVE..=APC;
    { u8::from(sid_length(sid).is_some()) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-rtllengthsid>
    fn RtlLengthSid(call, sid: In<u8>) -> u32,
    irql PASSIVE..=APC;
    { u32::try_from(sid_length(sid).unwrap_or(0)).unwrap_or(0) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-rtlequalsid>
    fn RtlEqualSid(call, first: In<u8>, second: In<u8>) -> u8,
    irql PASSIVE..=HIGH;
    {
        let bytes = |sid: In<u8>| {
            let mut bytes = vec![0; sid_length(sid).unwrap_or(0)];
            sid.copy_to(&mut bytes);
            bytes
        };
        u8::from(bytes(first) == bytes(second))
    }

    /// Language-specific exception handler; without structured exceptions it is never called.
    /// <https://learn.microsoft.com/cpp/build/exception-handling-x64>
    fn __C_specific_handler(call, record: usize, frame: usize, context: usize, dispatcher: usize) -> u32,
    irql PASSIVE..=HIGH;
    {
        /// `ExceptionContinueSearch`.
        const CONTINUE_SEARCH: u32 = 1;
        CONTINUE_SEARCH
    }
}
