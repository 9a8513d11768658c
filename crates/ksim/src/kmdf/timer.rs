//! WDFTIMER.

use wfp_schema::NtStatus;

use super::abi::{Level, ObjectAttributes, ObjectCallback, TimerConfig, sized, status};
use super::attributes::{Attributes, Constraints, Parent};
use super::object::{Body, Id, Kind, Phase, not_null, resolve};
use super::sync::Manner;
use crate::access::{In, Out};
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::time::{Ticks, Time, TimerId};
use crate::verifier::{ARGUMENT, IRQL_RANGE, WAIT_IN_CALLBACK};

/// What a WDFTIMER holds.
#[derive(Debug)]
pub(crate) struct Timer {
    callback: ObjectCallback,
    /// 100 ns; 0 for a timer that fires once.
    period: Ticks,
    serialized: bool,
    /// The entry in the clock while the timer is started and not due.
    armed: Option<TimerId>,
    /// Expirations whose callback has not returned.
    expired: u32,
    /// The processor on which the callback runs.
    running: Option<usize>,
}

/// `sizeof(WDF_TIMER_CONFIG)` up to 1.9, in 1.11, and since 1.13.
const CONFIG_SIZES: [u32; 3] = [24, 32, 40];
const TICKS_PER_MILLISECOND: Ticks = 10_000;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdftimer/nf-wdftimer-wdftimercreate>
    fn WdfTimerCreate(call, globals: usize, config: In<TimerConfig>, attributes: In<ObjectAttributes>, timer: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, config.address(), "Config");
        not_null(&call, timer.address(), "Timer");
        match create(&call, config, attributes) {
            Ok(id) => {
                timer.set(id.handle());
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdftimer/nf-wdftimer-wdftimerstart>
    fn WdfTimerStart(call, globals: usize, timer: usize, due: i64) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, timer, Kind::Timer);
        u8::from(start(&call, id, due))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdftimer/nf-wdftimer-wdftimerstop>
    fn WdfTimerStop(call, globals: usize, timer: usize, wait: u8) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, timer, Kind::Timer);
        if wait != 0 && call.cpu().irql() > PASSIVE {
            call.violation(&IRQL_RANGE, "waits for a timer above PASSIVE_LEVEL");
            return 0;
        }
        let inside = call.machine().kmdf().lock().timer(id).is_some_and(|timer| timer.running == Some(call.cpu().thread()));
        if wait != 0 && inside {
            call.violation(&WAIT_IN_CALLBACK, "waits for a timer in that timer's callback");
            return 0;
        }
        u8::from(stop(call.cpu(), id, wait != 0))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdftimer/nf-wdftimer-wdftimergetparentobject>
    fn WdfTimerGetParentObject(call, globals: usize, timer: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, timer, Kind::Timer);
        call.machine().kmdf().lock().get(id).and_then(|timer| timer.parent).map_or(0, Id::handle)
    }
}

/// When a due time comes: positive ones are system time, others count from now; both in 100 ns.
pub(crate) fn due_time(time: &Time, due: i64) -> Ticks {
    Ticks::try_from(due)
        .ok()
        .filter(|due| *due > 0)
        .unwrap_or_else(|| time.now().saturating_add(due.unsigned_abs()))
}

fn create(
    call: &Call<'_>,
    config: In<TimerConfig>,
    attributes: In<ObjectAttributes>,
) -> Result<Id, NtStatus> {
    let attributes = Attributes::read(call, attributes, Parent::Required, Constraints::Level)?;
    let config = sized(config, |config| config.size, &CONFIG_SIZES)?;
    let callback = config.callback.ok_or(NtStatus::INVALID_PARAMETER)?;
    if config.period > i32::MAX.cast_unsigned() {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let level = attributes.level.unwrap_or(Level::Dispatch);
    if config.period > 0 && level == Level::Passive {
        return Err(NtStatus::NOT_SUPPORTED);
    }
    let serialized = config.automatic_serialization != 0;
    let timer = Timer {
        callback,
        period: Ticks::from(config.period) * TICKS_PER_MILLISECOND,
        serialized,
        armed: None,
        expired: 0,
        running: None,
    };
    let mut state = call.machine().kmdf().lock();
    let parent = attributes.parent.ok_or(status::PARENT_NOT_SPECIFIED)?;
    Manner::check_child(&state, parent, serialized, level)?;
    let client = state.get(parent).map_or(0, |parent| parent.client);
    let attributes = attributes.at_level(level);
    state.create(client, &attributes, Body::Timer(Box::new(timer)))
}

/// Starts the timer; `true` when it was started before and is now set anew.
fn start(call: &Call<'_>, id: Id, due: i64) -> bool {
    let time = call.machine().time();
    let due = due_time(time, due);
    let mut state = call.machine().kmdf().lock();
    if state.get(id).is_none_or(|timer| timer.phase != Phase::Live) {
        drop(state);
        call.violation(&ARGUMENT, "starts a timer that is being deleted");
        return false;
    }
    let Some(timer) = state.timer(id) else {
        return false;
    };
    let again = timer.armed.take().is_some_and(|armed| time.cancel(armed));
    timer.armed = Some(time.schedule(due, "WDFTIMER", move |cpu| expire(cpu, id, due)));
    again
}

/// Stops the timer; `true` when it was started and not due yet.
fn stop(cpu: &Cpu, id: Id, wait: bool) -> bool {
    let machine = cpu.machine();
    let stopped = {
        let mut state = machine.kmdf().lock();
        let Some(timer) = state.timer(id) else {
            return false;
        };
        timer.armed.take().is_some_and(|armed| {
            let in_time = machine.time().cancel(armed);
            // What is due already comes, however short the notice.
            timer.expired += u32::from(!in_time);
            in_time
        })
    };
    if wait {
        machine.wait(cpu, "WdfTimerStop", None, || {
            machine
                .kmdf()
                .lock()
                .timer(id)
                .is_none_or(|timer| timer.expired == 0 && timer.running.is_none())
        });
    }
    stopped
}

/// The clock has reached the timer's due time.
fn expire(cpu: &Cpu, id: Id, due: Ticks) {
    let machine = cpu.machine();
    {
        let mut state = machine.kmdf().lock();
        let live = state
            .get(id)
            .is_some_and(|timer| timer.phase == Phase::Live);
        let Some(timer) = state.timer(id) else {
            return;
        };
        // Either nobody stopped it meanwhile, or `stop` has counted this expiration already.
        if timer.armed.take().is_some() {
            timer.expired += 1;
        }
        if timer.period > 0 && live {
            let next = due.saturating_add(timer.period);
            timer.armed = Some(
                machine
                    .time()
                    .schedule(next, "WDFTIMER", move |cpu| expire(cpu, id, next)),
            );
        }
    }
    call_back(cpu, id);
}

fn call_back(cpu: &Cpu, id: Id) {
    let found = {
        let mut state = cpu.machine().kmdf().lock();
        let (parent, level) = state
            .get(id)
            .map_or((None, Level::Dispatch), |timer| (timer.parent, timer.level));
        let serialized = state.timer(id).is_some_and(|timer| timer.serialized);
        let manner = Manner::of_child(&state, parent, serialized, level);
        if !manner.admits(cpu, &mut state, move |cpu| call_back(cpu, id)) {
            return;
        }
        let found = state.timer(id).map(|timer| {
            timer.running = Some(cpu.thread());
            (timer.callback, manner)
        });
        // The handle stays good until the callback returns.
        if let Some(timer) = state.get_mut(id) {
            timer.references += 1;
        }
        found
    };
    let Some((callback, manner)) = found else {
        return;
    };
    let level = if manner.is_passive() {
        PASSIVE
    } else {
        DISPATCH
    };
    let irql = cpu.set_irql(level);
    manner.call(
        cpu,
        Callback::new("EvtTimerFunc", callback as usize),
        || callback(id.handle()),
    );
    cpu.set_irql(irql);
    if let Some(timer) = cpu.machine().kmdf().lock().timer(id) {
        timer.running = None;
        timer.expired = timer.expired.saturating_sub(1);
    }
    super::life::release(cpu, id);
    cpu.machine().wake();
}

/// A timer is deleted: it is stopped, and a running callback is waited for where that is possible.
pub(crate) fn dispose(cpu: &Cpu, id: Id) {
    let inside = cpu
        .machine()
        .kmdf()
        .lock()
        .timer(id)
        .is_some_and(|timer| timer.running == Some(cpu.thread()));
    stop(cpu, id, !inside && cpu.irql() == PASSIVE);
}
