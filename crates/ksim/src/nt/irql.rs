//! Reading and changing the IRQL.

use crate::cpu::{APC, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::verifier::ARGUMENT;

/// Bug checks of Driver Verifier and the kernel for moving the IRQL the wrong way.
const IRQL_NOT_GREATER_OR_EQUAL: u32 = 0x09;
const IRQL_NOT_LESS_OR_EQUAL: u32 = 0x0a;

fn raise(call: &Call<'_>, to: u8) -> u8 {
    let from = call.cpu().irql();
    if to < from || to > HIGH {
        wrong_way(call, IRQL_NOT_GREATER_OR_EQUAL, "raises", to);
    }
    call.cpu().set_irql(to)
}

fn lower(call: &Call<'_>, to: u8) {
    if to > call.cpu().irql() {
        wrong_way(call, IRQL_NOT_LESS_OR_EQUAL, "lowers", to);
    }
    call.cpu().set_irql(to);
}

fn wrong_way(call: &Call<'_>, code: u32, verb: &str, to: u8) -> ! {
    let from = call.cpu().irql();
    let place = call.machine().verifier().site(call.site());
    let words = format!(
        "{} called from {place} {verb} the IRQL from {from} to {to}",
        call.name()
    );
    call.violation(&ARGUMENT, words.clone());
    call.machine().crash(Bugcheck::new(
        code,
        [u64::from(from), u64::from(to), 0, 0],
        words,
    ))
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kegetcurrentirql>
    fn KeGetCurrentIrql(call) -> u8,
    irql PASSIVE..=HIGH;
    { call.cpu().irql() }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kfraiseirql>
    fn KfRaiseIrql(call, irql: u8) -> u8,
    irql PASSIVE..=HIGH;
    { raise(&call, irql) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keraiseirqltodpclevel>
    fn KeRaiseIrqlToDpcLevel(call) -> u8,
    irql PASSIVE..=DISPATCH;
    { raise(&call, DISPATCH) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kelowerirql>
    fn KeLowerIrql(call, irql: u8),
    irql PASSIVE..=HIGH;
    { lower(&call, irql); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kelowerirql>
    fn KfLowerIrql(call, irql: u8),
    irql PASSIVE..=HIGH;
    { lower(&call, irql); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-keareapcsdisabled>
    fn KeAreApcsDisabled(call) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(call.cpu().irql() >= APC || super::mutex::in_critical_region(call.cpu())) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-keareallapcsdisabled>
    fn KeAreAllApcsDisabled(call) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(call.cpu().irql() >= APC) }
}
