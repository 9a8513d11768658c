//! Time as drivers ask for it; all of it is the machine's virtual time.

use crate::access::{In, Out};
use crate::cpu::{HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::time::Ticks;

/// The performance counter's frequency: that of the interrupt time, 10 MHz, as on current systems.
const FREQUENCY: i64 = 10_000_000;
/// `KeQueryTimeIncrement`: 15.625 ms.
pub(super) const TIME_INCREMENT: u32 = 156_250;

/// 100 ns since boot.
fn interrupt_time(call: &Call<'_>) -> Ticks {
    call.machine()
        .time()
        .now()
        .saturating_sub(call.machine().boot_time())
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-kequeryperformancecounter>
    fn KeQueryPerformanceCounter(call, frequency: Out<i64>) -> i64,
    irql PASSIVE..=HIGH;
    {
        frequency.set(FREQUENCY);
        interrupt_time(&call).cast_signed()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequerysystemtimeprecise>
    fn KeQuerySystemTimePrecise(call, time: Out<i64>),
    irql PASSIVE..=HIGH;
    { time.set(call.machine().time().now().cast_signed()); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryinterrupttime>
    fn KeQueryInterruptTime(call) -> u64,
    irql PASSIVE..=HIGH;
    { interrupt_time(&call) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryinterrupttimeprecise>
    fn KeQueryInterruptTimePrecise(call, counter: Out<u64>) -> u64,
    irql PASSIVE..=HIGH;
    {
        counter.set(interrupt_time(&call));
        interrupt_time(&call)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryunbiasedinterrupttime>
    fn KeQueryUnbiasedInterruptTime(call) -> u64,
    irql PASSIVE..=HIGH;
    { interrupt_time(&call) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequerytimeincrement>
    fn KeQueryTimeIncrement(call) -> u32,
    irql PASSIVE..=HIGH;
    { TIME_INCREMENT }

    /// Local time is universal time here: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exsystemtimetolocaltime>
    fn ExSystemTimeToLocalTime(call, system: In<i64>, local: Out<i64>),
    irql PASSIVE..=HIGH;
    { local.set(system.get().unwrap_or(0)); }

    /// Local time is universal time here: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exlocaltimetosystemtime>
    fn ExLocalTimeToSystemTime(call, local: In<i64>, system: Out<i64>),
    irql PASSIVE..=HIGH;
    { system.set(local.get().unwrap_or(0)); }
}
