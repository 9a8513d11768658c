//! Waiting.

use wfp_schema::NtStatus;

use super::event::Dispatcher;
use crate::access::{In, Out};
use crate::cpu::{APC, Cpu, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::sched::Wait;
use crate::time::Ticks;
use crate::verifier::{ARGUMENT, CLASSIFY_BLOCKING, IRQL_RANGE};

const SUCCESS: u32 = 0;
const TIMEOUT: u32 = 0x102;

/// A wait's `Timeout` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    Never,
    At(Ticks),
}

impl Timeout {
    /// Null never ends; negative values are relative, others are system time; both in 100 ns.
    fn read(cpu: &Cpu, timeout: In<i64>) -> Self {
        timeout
            .get()
            .map_or(Self::Never, |value| Self::from_interval(cpu, value))
    }

    /// When an interval given as negative, or a time given as positive number, ends.
    pub(super) fn from_interval(cpu: &Cpu, value: i64) -> Self {
        let time = cpu.machine().time();
        Self::At(if value < 0 {
            time.now().saturating_add(value.unsigned_abs())
        } else {
            value.unsigned_abs()
        })
    }

    fn is_past(self, cpu: &Cpu) -> bool {
        matches!(self, Self::At(due) if due <= cpu.machine().time().now())
    }
}

/// Waits until `taken` says so. The IRQL must allow it.
pub(super) fn until(
    call: &Call<'_>,
    what: &str,
    timeout: Timeout,
    mut taken: impl FnMut() -> bool,
) -> Wait {
    if taken() {
        return Wait::Satisfied;
    }
    if timeout.is_past(call.cpu()) {
        return Wait::TimedOut;
    }
    if call.cpu().irql() >= DISPATCH {
        call.violation(&IRQL_RANGE, format!("waits at IRQL {}", call.cpu().irql()));
        let mut bugcheck = Bugcheck::new(
            crate::trap::code::ATTEMPTED_SWITCH_FROM_DPC,
            [0; 4],
            format!(
                "{what} called from {} waits at DISPATCH_LEVEL",
                call.machine().verifier().site(call.site())
            ),
        );
        bugcheck.stack = crate::trap::driver_stack(call.machine(), call.registers());
        call.machine().crash(bugcheck);
    }
    if call.machine().fwp.current(call.cpu()).is_classifying() {
        call.violation(&CLASSIFY_BLOCKING, "waits in a classify function");
    }
    let deadline = match timeout {
        Timeout::Never => None,
        Timeout::At(due) => Some(due),
    };
    let what = format!(
        "{what} called from {}",
        call.machine().verifier().site(call.site())
    );
    call.machine().wait(call.cpu(), &what, deadline, taken)
}

const fn status(wait: Wait) -> u32 {
    match wait {
        Wait::Satisfied => SUCCESS,
        Wait::TimedOut => TIMEOUT,
    }
}

/// `MAXIMUM_WAIT_OBJECTS`, and how many fit without wait blocks.
const MOST_OBJECTS: usize = 64;
const MOST_WITHOUT_BLOCKS: usize = 3;

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kewaitforsingleobject>
    fn KeWaitForSingleObject(
        call, object: Out<u8>, reason: u32, mode: u8, alertable: u8, timeout: In<i64>,
    ) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let object = Dispatcher::new(&call, object);
        let timeout = Timeout::read(call.cpu(), timeout);
        let cpu = call.cpu();
        status(until(&call, "KeWaitForSingleObject", timeout, || object.try_take(cpu)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-zwwaitforsingleobject>
    fn ZwWaitForSingleObject(call, handle: usize, alertable: u8, timeout: In<i64>) -> u32,
    irql PASSIVE..=PASSIVE;
    {
        let Some(object) = call.machine().nt().threads().object(handle) else {
            return NtStatus::INVALID_HANDLE.code();
        };
        // SAFETY: the handle keeps the thread whose object this is.
        let object = Dispatcher::existing(unsafe { Out::new(object as *mut u8) });
        let timeout = Timeout::read(call.cpu(), timeout);
        let cpu = call.cpu();
        status(until(&call, "ZwWaitForSingleObject", timeout, || object.try_take(cpu)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kewaitformultipleobjects>
    fn KeWaitForMultipleObjects(
        call, count: u32, objects: In<Out<u8>>, kind: u32, reason: u32, mode: u8, alertable: u8, timeout: In<i64>,
        blocks: usize,
    ) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let count = count as usize;
        if count == 0 || count > MOST_OBJECTS || (count > MOST_WITHOUT_BLOCKS && blocks == 0) {
            call.violation(&ARGUMENT, format!("a wait for {count} objects with wait blocks at {blocks:#x}"));
            return NtStatus::INVALID_PARAMETER.code();
        }
        let objects: Vec<Dispatcher> =
            (0..count).filter_map(|index| objects.at(index)).map(|object| Dispatcher::new(&call, object)).collect();
        let timeout = Timeout::read(call.cpu(), timeout);
        let cpu = call.cpu();
        // WaitAll is 0, WaitAny is 1.
        if kind == 0 {
            return status(until(&call, "KeWaitForMultipleObjects", timeout, || {
                objects.iter().all(|object| object.is_signaled(cpu)) && objects.iter().all(|object| object.try_take(cpu))
            }));
        }
        let mut first = 0;
        let wait = until(&call, "KeWaitForMultipleObjects", timeout, || {
            let taken = objects.iter().position(|object| object.try_take(cpu));
            first = taken.unwrap_or(0);
            taken.is_some()
        });
        match wait {
            Wait::Satisfied => u32::try_from(first).unwrap_or(0),
            Wait::TimedOut => TIMEOUT,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kedelayexecutionthread>
    fn KeDelayExecutionThread(call, mode: u8, alertable: u8, interval: In<i64>) -> u32,
    irql PASSIVE..=APC;
    {
        let timeout = Timeout::read(call.cpu(), interval);
        if timeout == Timeout::Never {
            call.violation(&ARGUMENT, "a null interval");
            return NtStatus::INVALID_PARAMETER.code();
        }
        until(&call, "KeDelayExecutionThread", timeout, || false);
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kestallexecutionprocessor>
    fn KeStallExecutionProcessor(call, microseconds: u32),
    irql PASSIVE..=HIGH;
    {
        const MOST: u32 = 50;
        if microseconds > MOST {
            call.violation(&ARGUMENT, format!("a processor is stalled for {microseconds} µs; more than 50 is too long"));
        }
        call.cpu().locks().stall(microseconds);
        // A stall is a wait: without it a loop that polls for something would never end.
        call.machine().time().advance(u64::from(microseconds) * 10);
    }
}
