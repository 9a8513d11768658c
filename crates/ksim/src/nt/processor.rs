//! Processors, as drivers ask for them: one group, all of them active.

use wfp_schema::NtStatus;

use crate::access::{In, Out};
use crate::cpu::{HIGH, PASSIVE};
use crate::export::{Call, exports};

/// `ALL_PROCESSOR_GROUPS`.
const ALL_GROUPS: u16 = 0xffff;

fn count(call: &Call<'_>, group: u16) -> u32 {
    if group == 0 || group == ALL_GROUPS {
        call.machine().processors()
    } else {
        0
    }
}

/// One bit for each processor.
fn mask(call: &Call<'_>) -> usize {
    usize::MAX >> (usize::BITS - call.machine().processors().clamp(1, usize::BITS))
}

/// Writes a `PROCESSOR_NUMBER`: group, number, a reserved byte.
fn put_number(to: Out<u16>, number: u32) {
    // Callers that want the index alone pass no place for the number.
    if to.is_null() {
        return;
    }
    to.set(0);
    to.offset::<u16>(2)
        .set(u16::try_from(number).unwrap_or(0) & 0xff);
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryactiveprocessorcountex>
    fn KeQueryActiveProcessorCountEx(call, group: u16) -> u32,
    irql PASSIVE..=HIGH;
    { count(&call, group) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryactiveprocessorcount>
    fn KeQueryActiveProcessorCount(call, active: Out<usize>) -> u32,
    irql PASSIVE..=HIGH;
    {
        active.set(mask(&call));
        call.machine().processors()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequerymaximumprocessorcountex>
    fn KeQueryMaximumProcessorCountEx(call, group: u16) -> u32,
    irql PASSIVE..=HIGH;
    { count(&call, group) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequerymaximumprocessorcount>
    fn KeQueryMaximumProcessorCount(call) -> u32,
    irql PASSIVE..=HIGH;
    { call.machine().processors() }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryactivegroupcount>
    fn KeQueryActiveGroupCount(call) -> u16,
    irql PASSIVE..=HIGH;
    { 1 }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryactiveprocessors>
    fn KeQueryActiveProcessors(call) -> usize,
    irql PASSIVE..=HIGH;
    { mask(&call) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kegetcurrentprocessornumberex>
    fn KeGetCurrentProcessorNumberEx(call, number: Out<u16>) -> u32,
    irql PASSIVE..=HIGH;
    {
        put_number(number, call.cpu().index());
        call.cpu().index()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kegetprocessornumberfromindex>
    fn KeGetProcessorNumberFromIndex(call, index: u32, number: Out<u16>) -> u32,
    irql PASSIVE..=HIGH;
    {
        if index >= call.machine().processors() {
            return NtStatus::INVALID_PARAMETER.code();
        }
        put_number(number, index);
        NtStatus::SUCCESS.code()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kegetprocessorindexfromnumber>
    fn KeGetProcessorIndexFromNumber(call, number: In<u32>) -> u32,
    irql PASSIVE..=HIGH;
    {
        let number = number.get().unwrap_or(u32::MAX);
        // The group is in the low half, the number in the byte above it.
        let (group, index) = (number & 0xffff, number >> 16 & 0xff);
        if group == 0 && index < call.machine().processors() { index } else { u32::MAX }
    }
}
