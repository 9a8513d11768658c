//! Timers that the system allocates (`EX_TIMER`).
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/deleting-a-system-allocated-timer-object>

use std::collections::HashMap;

use parking_lot::Mutex;

use super::io_memory::Guarded;
use super::wait::Timeout;
use crate::access::{In, plain};
use crate::cpu::{APC, Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::ndis::layout::layout;
use crate::time::{Ticks, TimerId};
use crate::trap::code;
use crate::verifier::{ARGUMENT, IRQL_RANGE, OBJECT_STALE};

/// `EXT_CALLBACK`: timer and context, at `DISPATCH_LEVEL`.
type Expired = extern "win64" fn(usize, usize);
/// `EXT_DELETE_CALLBACK`: the context.
type Deleted = extern "win64" fn(usize);

/// `EXT_DELETE_PARAMETERS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeleteParameters {
    pub(crate) version: u32,
    pub(crate) reserved: u32,
    pub(crate) callback: Option<Deleted>,
    pub(crate) context: usize,
}

plain!(DeleteParameters);

layout! {
    DeleteParameters 24 { version @ 0, reserved @ 4, callback @ 8, context @ 16 }
}

/// How the verifier calls a timer.
const KIND: &str = "EX_TIMER";
/// `EX_TIMER_HIGH_RESOLUTION`, `EX_TIMER_NO_WAKE`, `EX_TIMER_UNLIMITED_TOLERANCE`, `EX_TIMER_NOTIFICATION`.
const ATTRIBUTES: u32 = 4 | 8 | 16 | 0x8000_0000;
/// Bytes of an object, which nobody looks into.
const OBJECT_SIZE: usize = 16;

/// The timers of one machine.
#[derive(Debug, Default)]
pub(crate) struct Timers(Mutex<HashMap<usize, Timer>>);

#[derive(Debug)]
struct Timer {
    _memory: Guarded,
    callback: Option<Expired>,
    context: usize,
    set: Option<TimerId>,
    /// Counts the times that it was set, so that one that was set anew is not taken for the one before.
    generation: u64,
    /// Calls of its callback that have not returned.
    running: u32,
    deleted: bool,
    /// Whom its deletion is told to.
    parameters: Option<DeleteParameters>,
}

/// The timer at `address` that is not deleted.
fn with<T>(call: &Call<'_>, address: usize, act: impl FnOnce(&mut Timer) -> T) -> Option<T> {
    let mut timers = call.machine().nt().ex_timers().0.lock();
    let timer = timers.get_mut(&address).filter(|timer| !timer.deleted);
    let done = timer.map(act);
    drop(timers);
    if done.is_none() {
        let message = format!("{address:#x} is no EX_TIMER, or one that was deleted");
        call.violation(&OBJECT_STALE, message);
    }
    done
}

/// Makes the timer expire at `due` and every `period` (100 ns) from then, if that is not 0.
fn schedule(cpu: &Cpu, address: usize, due: Ticks, period: Ticks, generation: u64) {
    let machine = cpu.machine();
    // Held until the timer is noted, so that it cannot expire unnoticed on another processor.
    let mut timers = machine.nt().ex_timers().0.lock();
    let id = machine.time().schedule(due, "an EX_TIMER", move |cpu| {
        expire(cpu, address, due, period, generation);
    });
    if let Some(timer) = timers.get_mut(&address) {
        timer.set = Some(id);
    }
}

fn expire(cpu: &Cpu, address: usize, due: Ticks, period: Ticks, generation: u64) {
    let machine = cpu.machine();
    let expired = {
        let mut timers = machine.nt().ex_timers().0.lock();
        let ours = |timer: &&mut Timer| timer.set.is_some() && timer.generation == generation;
        timers.get_mut(&address).filter(ours).map(|timer| {
            timer.set = None;
            timer.running += 1;
            (timer.callback, timer.context, timer.deleted)
        })
    };
    let Some((callback, context, deleted)) = expired else {
        return;
    };
    if period > 0 && !deleted {
        schedule(cpu, address, due.saturating_add(period), period, generation);
    }
    if let Some(callback) = callback {
        let function = Callback::new("EXT_CALLBACK", callback as usize);
        cpu.enter_driver(function, DISPATCH, || callback(address, context));
    }
    if let Some(timer) = machine.nt().ex_timers().0.lock().get_mut(&address) {
        timer.running -= 1;
    }
    finish(cpu, address);
    machine.wake();
}

/// Takes the timer back; whether it was set.
fn cancel(call: &Call<'_>, address: usize) -> bool {
    let set = with(call, address, |timer| timer.set.take()).flatten();
    if let Some(id) = set {
        call.machine().time().cancel(id);
    }
    set.is_some()
}

/// A timer that was deleted goes once it is not set and no call of it is under way; its driver is told.
fn finish(cpu: &Cpu, address: usize) {
    let gone = {
        let mut timers = cpu.machine().nt().ex_timers().0.lock();
        let idle = timers
            .get(&address)
            .is_some_and(|timer| timer.deleted && timer.running == 0 && timer.set.is_none());
        let gone = idle.then(|| timers.remove(&address)).flatten();
        drop(timers);
        gone
    };
    let told = gone.and_then(|timer| timer.parameters);
    if let Some(DeleteParameters {
        callback: Some(callback),
        context,
        ..
    }) = told
    {
        let function = Callback::new("EXT_DELETE_CALLBACK", callback as usize);
        cpu.enter_driver(function, cpu.irql(), || callback(context));
    }
}

fn is_running(cpu: &Cpu, address: usize) -> bool {
    let timers = cpu.machine().nt().ex_timers().0.lock();
    timers.get(&address).is_some_and(|timer| timer.running > 0)
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatetimer>
    fn ExAllocateTimer(call, callback: Option<Expired>, context: usize, attributes: u32) -> usize,
    irql PASSIVE..=DISPATCH, fails 0;
    {
        if attributes & !ATTRIBUTES != 0 {
            call.violation(&ARGUMENT, format!("the attributes of a timer are {attributes:#x}"));
        }
        let memory = Guarded::new(OBJECT_SIZE);
        let address = memory.address();
        let timer = Timer { _memory: memory, callback, context, set: None, generation: 0, running: 0, deleted: false, parameters: None };
        call.machine().nt().ex_timers().0.lock().insert(address, timer);
        call.machine().verifier().track(&call, KIND, address, "", 0);
        address
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exsettimer>
    fn ExSetTimer(call, timer: usize, due: i64, period: i64, parameters: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let was_set = cancel(&call, timer);
        let generation = with(&call, timer, |timer| {
            timer.generation += 1;
            timer.generation
        });
        let Timeout::At(due) = Timeout::from_interval(call.cpu(), due) else {
            return u8::from(was_set);
        };
        if let Some(generation) = generation {
            schedule(call.cpu(), timer, due, period.unsigned_abs(), generation);
        }
        u8::from(was_set)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-excanceltimer>
    fn ExCancelTimer(call, timer: usize, parameters: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    { u8::from(cancel(&call, timer)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exdeletetimer>
    fn ExDeleteTimer(call, timer: usize, cancels: u8, waits: u8, parameters: In<DeleteParameters>) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let (cpu, machine) = (call.cpu(), call.machine());
        if waits != 0 && cancels == 0 {
            call.violation(&ARGUMENT, "Wait is TRUE and Cancel is FALSE");
            let words = "ExDeleteTimer waits for a timer that it does not cancel";
            machine.crash(Bugcheck::new(code::DRIVER_VERIFIER_DETECTED_VIOLATION, [timer as u64, 0, 0, 0], words));
        }
        if waits != 0 && cpu.irql() > APC {
            call.violation(&IRQL_RANGE, "waits for a timer at DISPATCH_LEVEL");
        }
        let was_set = cancels != 0 && cancel(&call, timer);
        let parameters = parameters.get();
        let known = with(&call, timer, |timer| (timer.deleted, timer.parameters) = (true, parameters));
        if known.is_none() {
            return 0;
        }
        machine.verifier().forget(KIND, timer);
        if waits != 0 && is_running(cpu, timer) {
            machine.wait(cpu, call.name(), None, || !is_running(cpu, timer));
        }
        finish(cpu, timer);
        u8::from(was_set)
    }
}
