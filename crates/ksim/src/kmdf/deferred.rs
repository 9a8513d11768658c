//! WDFDPC and WDFWORKITEM: a callback later, at `DISPATCH_LEVEL` or at `PASSIVE_LEVEL`.

use wfp_schema::NtStatus;

use super::abi::{DeferredConfig, Level, ObjectAttributes, ObjectCallback, sized, status};
use super::attributes::{Attributes, Constraints, Parent};
use super::object::{Body, Id, Kind, Phase, State, not_null, resolve};
use super::sync::Manner;
use crate::access::{In, Out};
use crate::cpu::{Callback, Cpu, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, IRQL_RANGE, WAIT_IN_CALLBACK};

/// What a WDFDPC or WDFWORKITEM holds.
#[derive(Debug)]
pub(crate) struct Deferral {
    callback: ObjectCallback,
    serialized: bool,
    /// Enqueued, and its callback not begun: enqueueing it again changes nothing.
    queued: bool,
    /// The threads on which the callback runs: one that is enqueued again while it runs may run twice at once.
    running: Vec<usize>,
}

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdpc/nf-wdfdpc-wdfdpccreate>
    fn WdfDpcCreate(call, globals: usize, config: In<DeferredConfig>, attributes: In<ObjectAttributes>, dpc: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        create(&call, config, attributes, dpc, Level::Dispatch, Body::Dpc)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdpc/nf-wdfdpc-wdfdpcenqueue>
    fn WdfDpcEnqueue(call, globals: usize, dpc: usize) -> u8,
    irql PASSIVE..=15;
    {
        let id = resolve(&call, dpc, Kind::Dpc);
        u8::from(enqueue(&call, id, Level::Dispatch))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdpc/nf-wdfdpc-wdfdpccancel>
    fn WdfDpcCancel(call, globals: usize, dpc: usize, wait: u8) -> u8,
    irql PASSIVE..=15;
    {
        let id = resolve(&call, dpc, Kind::Dpc);
        if wait != 0 && call.cpu().irql() > PASSIVE {
            call.violation(&IRQL_RANGE, "waits for a DPC above PASSIVE_LEVEL");
            return 0;
        }
        let queued = {
            let mut state = call.machine().kmdf().lock();
            body(&mut state, id).is_some_and(|dpc| std::mem::take(&mut dpc.queued))
        };
        if wait != 0 {
            flush(&call, id);
        }
        u8::from(queued)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdpc/nf-wdfdpc-wdfdpcgetparentobject>
    fn WdfDpcGetParentObject(call, globals: usize, dpc: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        let id = resolve(&call, dpc, Kind::Dpc);
        call.machine().kmdf().lock().get(id).and_then(|dpc| dpc.parent).map_or(0, Id::handle)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfworkitem/nf-wdfworkitem-wdfworkitemcreate>
    fn WdfWorkItemCreate(call, globals: usize, config: In<DeferredConfig>, attributes: In<ObjectAttributes>, item: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        create(&call, config, attributes, item, Level::Passive, Body::WorkItem)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfworkitem/nf-wdfworkitem-wdfworkitemenqueue>
    fn WdfWorkItemEnqueue(call, globals: usize, item: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, item, Kind::WorkItem);
        enqueue(&call, id, Level::Passive);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfworkitem/nf-wdfworkitem-wdfworkitemflush>
    fn WdfWorkItemFlush(call, globals: usize, item: usize),
    irql PASSIVE..=PASSIVE;
    {
        let id = resolve(&call, item, Kind::WorkItem);
        flush(&call, id);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfworkitem/nf-wdfworkitem-wdfworkitemgetparentobject>
    fn WdfWorkItemGetParentObject(call, globals: usize, item: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, item, Kind::WorkItem);
        call.machine().kmdf().lock().get(id).and_then(|item| item.parent).map_or(0, Id::handle)
    }
}

fn create(
    call: &Call<'_>,
    config: In<DeferredConfig>,
    attributes: In<ObjectAttributes>,
    out: Out<usize>,
    level: Level,
    wrap: fn(Box<Deferral>) -> Body,
) -> NtStatus {
    not_null(call, config.address(), "Config");
    not_null(call, out.address(), "the address for the handle");
    let created = || -> Result<Id, NtStatus> {
        let attributes = Attributes::read(call, attributes, Parent::Required, Constraints::None)?;
        let config = sized(config, |config| config.size, &[24])?;
        let callback = config.callback.ok_or(NtStatus::INVALID_PARAMETER)?;
        let serialized = config.automatic_serialization != 0;
        let deferral = Deferral {
            callback,
            serialized,
            queued: false,
            running: Vec::new(),
        };
        let mut state = call.machine().kmdf().lock();
        let parent = attributes.parent.ok_or(status::PARENT_NOT_SPECIFIED)?;
        Manner::check_child(&state, parent, serialized, level)?;
        let client = state.get(parent).map_or(0, |parent| parent.client);
        let attributes = attributes.at_level(level);
        state.create(client, &attributes, wrap(Box::new(deferral)))
    };
    match created() {
        Ok(id) => {
            out.set(id.handle());
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

fn body(state: &mut State, id: Id) -> Option<&mut Deferral> {
    match state.get(id)?.kind {
        Kind::Dpc => state.dpc(id),
        _ => state.work_item(id),
    }
}

/// `false` when it was enqueued already.
fn enqueue(call: &Call<'_>, id: Id, level: Level) -> bool {
    let mut state = call.machine().kmdf().lock();
    if state
        .get(id)
        .is_none_or(|object| object.phase != Phase::Live)
    {
        drop(state);
        call.violation(&ARGUMENT, "enqueues an object that is being deleted");
        return false;
    }
    let Some(deferral) = body(&mut state, id) else {
        return false;
    };
    if std::mem::replace(&mut deferral.queued, true) {
        return false;
    }
    drop(state);
    let what = if level == Level::Passive {
        "WDFWORKITEM"
    } else {
        "WDFDPC"
    };
    call.machine()
        .time()
        .defer(what, move |cpu| run(cpu, id, level));
    call.machine().wake();
    true
}

fn run(cpu: &Cpu, id: Id, level: Level) {
    let found = {
        let mut state = cpu.machine().kmdf().lock();
        let parent = state.get(id).and_then(|object| object.parent);
        let Some(deferral) = body(&mut state, id).filter(|deferral| deferral.queued) else {
            return;
        };
        let serialized = deferral.serialized;
        let manner = Manner::of_child(&state, parent, serialized, level);
        if !manner.admits(cpu, &mut state, move |cpu| run(cpu, id, level)) {
            return;
        }
        if let Some(object) = state.get_mut(id) {
            // The handle stays good until the callback returns.
            object.references += 1;
        }
        body(&mut state, id).map(|deferral| {
            deferral.queued = false;
            deferral.running.push(cpu.thread());
            (deferral.callback, manner)
        })
    };
    let Some((callback, manner)) = found else {
        return;
    };
    let (irql, what) = if level == Level::Passive {
        (PASSIVE, "EvtWorkItem")
    } else {
        (DISPATCH, "EvtDpcFunc")
    };
    let irql = cpu.set_irql(irql);
    manner.call(cpu, Callback::new(what, callback as usize), || {
        callback(id.handle());
    });
    cpu.set_irql(irql);
    if let Some(deferral) = body(&mut cpu.machine().kmdf().lock(), id) {
        let own = cpu.thread();
        if let Some(at) = deferral.running.iter().position(|thread| *thread == own) {
            deferral.running.remove(at);
        }
    }
    super::life::release(cpu, id);
    cpu.machine().wake();
}

/// Waits until it is neither enqueued nor running.
fn flush(call: &Call<'_>, id: Id) {
    if runs_on(call.cpu(), id) {
        call.violation(
            &WAIT_IN_CALLBACK,
            "waits for a callback inside that callback",
        );
        return;
    }
    wait_until_idle(call.cpu(), id);
}

/// Whether its callback runs on the calling thread.
fn runs_on(cpu: &Cpu, id: Id) -> bool {
    let mut state = cpu.machine().kmdf().lock();
    body(&mut state, id).is_some_and(|deferral| deferral.running.contains(&cpu.thread()))
}

fn wait_until_idle(cpu: &Cpu, id: Id) {
    let machine = cpu.machine();
    machine.wait(cpu, "a framework callback to come and go", None, || {
        let mut state = machine.kmdf().lock();
        body(&mut state, id).is_none_or(|deferral| !deferral.queued && deferral.running.is_empty())
    });
}

/// It is deleted: what is enqueued runs first where that can be waited for, and is forgotten otherwise.
pub(crate) fn dispose(cpu: &Cpu, id: Id) {
    if cpu.irql() == PASSIVE && !runs_on(cpu, id) {
        wait_until_idle(cpu, id);
    } else if let Some(deferral) = body(&mut cpu.machine().kmdf().lock(), id) {
        deferral.queued = false;
    }
}
