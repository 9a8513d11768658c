//! Deferred procedure calls and timers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use wfp_schema::NtStatus;

use super::event::{Dispatcher, kind, size};
use super::wait::Timeout;
use crate::access::{In, Out};
use crate::cpu::{Callback, Cpu, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::time::{Ticks, TimerId};
use crate::verifier::ARGUMENT;

/// `KDPC` of x64 Windows.
mod object {
    pub(super) const TYPE: usize = 0;
    /// One more than the number of the only processor that may run it; 0 for any.
    pub(super) const NUMBER: usize = 2;
    pub(super) const ROUTINE: usize = 24;
    pub(super) const CONTEXT: usize = 32;
    pub(super) const ARGUMENT1: usize = 40;
    pub(super) const ARGUMENT2: usize = 48;
    pub(super) const DATA: usize = 56;
    /// `DpcObject` and `ThreadedDpcObject`.
    pub(super) const DPC: u8 = 19;
    pub(super) const THREADED: u8 = 24;
}

/// `KTIMER` of x64 Windows.
mod timer {
    pub(super) const DUE: usize = 24;
    pub(super) const DPC: usize = 48;
    pub(super) const PERIOD: usize = 60;
}

/// A deferred procedure: the object, its context, two arguments.
type Routine = extern "win64" fn(usize, usize, usize, usize);

/// How the verifier calls them.
const DPC: &str = "queued DPC";
const TIMER: &str = "timer";

/// The timers that are set and the DPCs that are queued on one machine.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    set: Mutex<HashMap<usize, Set>>,
    /// Queued DPCs with the number of their queueing.
    queued: Mutex<HashMap<usize, u64>>,
    numbers: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Set {
    number: u64,
    id: TimerId,
}

impl Timers {
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

fn initialize(dpc: Out<u8>, kind: u8, routine: usize, context: usize) {
    dpc.offset::<u32>(object::TYPE).set(u32::from(kind));
    dpc.offset::<usize>(object::ROUTINE).set(routine);
    dpc.offset::<usize>(object::CONTEXT).set(context);
    dpc.offset::<usize>(object::DATA).set(0);
}

/// From now on only processor `index` runs the DPC.
fn set_target(call: &Call<'_>, dpc: Out<u8>, index: u32) -> NtStatus {
    match u16::try_from(index) {
        Ok(number) if index < call.machine().processors() => {
            dpc.offset::<u16>(object::NUMBER).set(number + 1);
            NtStatus::SUCCESS
        }
        _ => NtStatus::INVALID_PARAMETER,
    }
}

/// The only processor that runs the DPC, if there is one.
fn target(dpc: Out<u8>) -> Option<u32> {
    let number = dpc.offset::<u16>(object::NUMBER).get().unwrap_or(0);
    u32::from(number).checked_sub(1)
}

/// Queues a DPC unless it is queued already.
fn queue(call: &Call<'_>, dpc: Out<u8>, first: usize, second: usize) -> bool {
    let machine = call.machine();
    let data = dpc.offset::<usize>(object::DATA);
    if data.get() != Some(0) {
        return false;
    }
    data.set(dpc.address());
    dpc.offset::<usize>(object::ARGUMENT1).set(first);
    dpc.offset::<usize>(object::ARGUMENT2).set(second);
    let number = machine.nt().timers().number();
    machine
        .nt()
        .timers()
        .queued
        .lock()
        .insert(dpc.address(), number);
    machine.verifier().track(call, DPC, dpc.address(), "", 0);
    machine.time().defer_on(target(dpc), "DPC", move |cpu| {
        let timers = cpu.machine().nt().timers();
        let ours = {
            let mut queued = timers.queued.lock();
            let ours = queued.get(&dpc.address()) == Some(&number);
            if ours {
                queued.remove(&dpc.address());
            }
            ours
        };
        if ours {
            cpu.machine().verifier().forget(DPC, dpc.address());
            run(cpu, dpc);
        }
    });
    true
}

/// Runs a DPC that was queued.
fn run(cpu: &Cpu, dpc: Out<u8>) {
    let member = |offset| dpc.offset::<usize>(offset).get().unwrap_or(0);
    let (routine, context) = (member(object::ROUTINE), member(object::CONTEXT));
    let (first, second) = (member(object::ARGUMENT1), member(object::ARGUMENT2));
    let threaded = dpc.get() == Some(object::THREADED);
    dpc.offset::<usize>(object::DATA).set(0);
    // SAFETY: what the driver initialized the DPC with, which has this signature by the function's page.
    let routine: Routine = unsafe { std::mem::transmute::<usize, Routine>(routine) };
    let irql = if threaded { PASSIVE } else { DISPATCH };
    cpu.enter_driver(Callback::new("a DPC", routine as usize), irql, || {
        routine(dpc.address(), context, first, second);
    });
}

/// Takes a DPC back that has not run.
fn unqueue(call: &Call<'_>, dpc: Out<u8>) -> bool {
    let machine = call.machine();
    let removed = machine
        .nt()
        .timers()
        .queued
        .lock()
        .remove(&dpc.address())
        .is_some();
    if removed {
        machine.verifier().forget(DPC, dpc.address());
        dpc.offset::<usize>(object::DATA).set(0);
    }
    removed
}

/// Sets a timer; whether it was set before.
fn set(call: &Call<'_>, timer: Out<u8>, due: i64, period: u32, dpc: Out<u8>) -> bool {
    let was_set = cancel(call, timer);
    let object = Dispatcher::new(call, timer);
    object.state().store(0, Ordering::SeqCst);
    let Timeout::At(due) = Timeout::from_interval(call.cpu(), due) else {
        return was_set;
    };
    timer.offset::<u64>(timer::DUE).set(due);
    timer.offset::<usize>(timer::DPC).set(dpc.address());
    timer.offset::<u32>(timer::PERIOD).set(period);
    let machine = call.machine();
    machine
        .verifier()
        .track(call, TIMER, timer.address(), "", 0);
    schedule(call.cpu(), object, due, period, dpc);
    was_set
}

/// Makes the timer expire at `due`, and every `period` milliseconds from then if that is not 0.
fn schedule(cpu: &Cpu, object: Dispatcher, due: Ticks, period: u32, dpc: Out<u8>) {
    const MILLISECOND: Ticks = 10_000;
    let machine = cpu.machine();
    let timers = machine.nt().timers();
    let number = timers.number();
    // Held until the timer is noted, so that it cannot expire unnoticed on another processor.
    let mut set = timers.set.lock();
    let id = machine.time().schedule(due, "timer", move |cpu| {
        let machine = cpu.machine();
        let ours = {
            let mut set = machine.nt().timers().set.lock();
            let ours = set
                .get(&object.address())
                .is_some_and(|set| set.number == number);
            if ours {
                set.remove(&object.address());
            }
            ours
        };
        if !ours {
            return;
        }
        if period == 0 {
            machine.verifier().forget(TIMER, object.address());
        } else {
            schedule(
                cpu,
                object,
                due.saturating_add(Ticks::from(period) * MILLISECOND),
                period,
                dpc,
            );
        }
        object.signal(cpu);
        if !dpc.is_null() {
            let now = machine.time().now();
            // The arguments are the time at which it expired, low and high half, as on Windows.
            dpc.offset::<u64>(object::ARGUMENT1).set(now & 0xffff_ffff);
            dpc.offset::<u64>(object::ARGUMENT2).set(now >> 32);
            match target(dpc) {
                Some(index) if index != cpu.index() => {
                    machine
                        .time()
                        .defer_on(Some(index), "a timer's DPC", move |cpu| run(cpu, dpc));
                }
                _ => run(cpu, dpc),
            }
        }
    });
    set.insert(object.address(), Set { number, id });
}

/// Takes a timer back; whether it was set.
fn cancel(call: &Call<'_>, timer: Out<u8>) -> bool {
    let machine = call.machine();
    let set = machine.nt().timers().set.lock().remove(&timer.address());
    if let Some(set) = set {
        machine.time().cancel(set.id);
        machine.verifier().forget(TIMER, timer.address());
    }
    set.is_some()
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializedpc>
    fn KeInitializeDpc(call, dpc: Out<u8>, routine: usize, context: usize),
    irql PASSIVE..=HIGH;
    { initialize(dpc, object::DPC, routine, context); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializethreadeddpc>
    fn KeInitializeThreadedDpc(call, dpc: Out<u8>, routine: usize, context: usize),
    irql PASSIVE..=HIGH;
    { initialize(dpc, object::THREADED, routine, context); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinsertqueuedpc>
    fn KeInsertQueueDpc(call, dpc: Out<u8>, first: usize, second: usize) -> u8,
    irql PASSIVE..=HIGH;
    { u8::from(queue(&call, dpc, first, second)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keremovequeuedpc>
    fn KeRemoveQueueDpc(call, dpc: Out<u8>) -> u8,
    irql PASSIVE..=HIGH;
    { u8::from(unqueue(&call, dpc)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keflushqueueddpcs>
    fn KeFlushQueuedDpcs(call),
    irql PASSIVE..=PASSIVE;
    { call.machine().run_pending(call.cpu()); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesetimportancedpc>
    fn KeSetImportanceDpc(call, dpc: Out<u8>, importance: u32),
    irql PASSIVE..=HIGH;
    { dpc.offset::<u8>(1).set(u8::try_from(importance).unwrap_or(1)); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesettargetprocessordpcex>
    fn KeSetTargetProcessorDpcEx(call, dpc: Out<u8>, processor: In<[u16; 2]>) -> u32,
    irql PASSIVE..=HIGH;
    {
        // PROCESSOR_NUMBER: the group, then the number in the lower byte.
        let index = match processor.get() {
            Some([0, number]) => u32::from(number & 0xff),
            _ => u32::MAX,
        };
        set_target(&call, dpc, index).code()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesettargetprocessordpc>
    fn KeSetTargetProcessorDpc(call, dpc: Out<u8>, number: u8),
    irql PASSIVE..=HIGH;
    {
        if set_target(&call, dpc, u32::from(number)) != NtStatus::SUCCESS {
            call.violation(&ARGUMENT, format!("a DPC is for processor {number}"));
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializetimer>
    fn KeInitializeTimer(call, timer: Out<u8>),
    irql PASSIVE..=DISPATCH;
    { Dispatcher::new(&call, timer).initialize(kind::NOTIFICATION_TIMER, size::TIMER, 0); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializetimerex>
    fn KeInitializeTimerEx(call, timer: Out<u8>, synchronization: u32),
    irql PASSIVE..=DISPATCH;
    {
        if synchronization > 1 {
            call.violation(&ARGUMENT, format!("timer type {synchronization}"));
        }
        let kind = if synchronization == 0 { kind::NOTIFICATION_TIMER } else { kind::SYNCHRONIZATION_TIMER };
        Dispatcher::new(&call, timer).initialize(kind, size::TIMER, 0);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesettimer>
    fn KeSetTimer(call, timer: Out<u8>, due: i64, dpc: Out<u8>) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(set(&call, timer, due, 0, dpc)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesettimerex>
    fn KeSetTimerEx(call, timer: Out<u8>, due: i64, period: u32, dpc: Out<u8>) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(set(&call, timer, due, period, dpc)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesetcoalescabletimer>
    fn KeSetCoalescableTimer(call, timer: Out<u8>, due: i64, period: u32, tolerance: u32, dpc: Out<u8>) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(set(&call, timer, due, period, dpc)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kecanceltimer>
    fn KeCancelTimer(call, timer: Out<u8>) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(cancel(&call, timer)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereadstatetimer>
    fn KeReadStateTimer(call, timer: Out<u8>) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(Dispatcher::new(&call, timer).state().load(Ordering::SeqCst) > 0) }
}
