//! WDFSPINLOCK and WDFWAITLOCK, and the callback lock of an object.

use wfp_schema::NtStatus;

use super::abi::{ObjectAttributes, Scope};
use super::memory::create;
use super::object::{Body, Id, Kind, fatal, not_null, resolve, resolve_any};
use super::sync;
use super::timer::due_time;
use crate::access::{In, Out, Shared};
use crate::cpu::{Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::nt::{held, spin};
use crate::sched::Wait;
use crate::verifier::{ARGUMENT, IRQL_RANGE, LOCK_OWNER, LOCK_PROTOCOL, LOCK_RECURSION};

/// What a WDFSPINLOCK holds.
#[derive(Debug)]
pub(crate) struct SpinLock {
    /// A `KSPIN_LOCK`, so that the kernel's own rules for spin locks hold.
    word: Shared<usize>,
    /// The holder, and its IRQL before.
    owner: Option<(u32, u8)>,
}

/// What a WDFWAITLOCK holds.
#[derive(Debug, Default)]
pub(crate) struct WaitLock {
    owner: Option<usize>,
}

/// `WDF_RECURSIVE_LOCK`.
const RECURSIVE_LOCK: u64 = 2;
/// `WDF_INVALID_LOCK_OPERATION`.
const INVALID_LOCK_OPERATION: u64 = 0xb;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfsync/nf-wdfsync-wdfspinlockcreate>
    fn WdfSpinLockCreate(call, globals: usize, attributes: In<ObjectAttributes>, lock: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, lock.address(), "SpinLock");
        let body = Body::SpinLock(Box::new(SpinLock { word: Shared::new(0), owner: None }));
        create(&call, globals, attributes, lock, body)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfsync/nf-wdfsync-wdfspinlockacquire>
    fn WdfSpinLockAcquire(call, globals: usize, lock: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, lock, Kind::SpinLock);
        acquire_spin_lock(&call, id);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfsync/nf-wdfsync-wdfspinlockrelease>
    fn WdfSpinLockRelease(call, globals: usize, lock: usize),
    irql DISPATCH..=DISPATCH;
    {
        let id = resolve(&call, lock, Kind::SpinLock);
        release_spin_lock(&call, id);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfsync/nf-wdfsync-wdfwaitlockcreate>
    fn WdfWaitLockCreate(call, globals: usize, attributes: In<ObjectAttributes>, lock: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, lock.address(), "Lock");
        create(&call, globals, attributes, lock, Body::WaitLock(Box::default()))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfsync/nf-wdfsync-wdfwaitlockacquire>
    fn WdfWaitLockAcquire(call, globals: usize, lock: usize, timeout: In<i64>) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, lock, Kind::WaitLock);
        acquire_wait_lock(&call, id, timeout.get())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfsync/nf-wdfsync-wdfwaitlockrelease>
    fn WdfWaitLockRelease(call, globals: usize, lock: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, lock, Kind::WaitLock);
        let owner = call.machine().kmdf().lock().wait_lock(id).and_then(|lock| lock.owner.take());
        if owner != Some(call.cpu().thread()) {
            let message = "releases a wait lock that this thread does not hold";
            fatal(&call, &LOCK_OWNER, [INVALID_LOCK_OPERATION, lock as u64, 0], message);
        }
        held::mutex_released(&call, lock);
        call.machine().wake();
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfsync/nf-wdfsync-wdfobjectacquirelock>
    fn WdfObjectAcquireLock(call, globals: usize, object: usize),
    irql PASSIVE..=DISPATCH;
    {
        let (id, passive) = presentation_lock(&call, object);
        let held = call.machine().kmdf().lock().is_callback_lock_held(id, call.cpu());
        if held {
            let message = "acquires a callback lock that this thread holds already";
            fatal(&call, &LOCK_PROTOCOL, [RECURSIVE_LOCK, object as u64, 0], message);
        }
        sync::acquire(call.cpu(), id, passive);
        if !passive {
            call.cpu().set_irql(DISPATCH);
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfsync/nf-wdfsync-wdfobjectreleaselock>
    fn WdfObjectReleaseLock(call, globals: usize, object: usize),
    irql PASSIVE..=DISPATCH;
    {
        let (id, passive) = presentation_lock(&call, object);
        let held = call.machine().kmdf().lock().is_callback_lock_held(id, call.cpu());
        if !held {
            let message = "releases a callback lock that this thread does not hold";
            fatal(&call, &LOCK_PROTOCOL, [INVALID_LOCK_OPERATION, object as u64, 0], message);
        }
        sync::release(call.cpu(), id);
        if !passive {
            call.cpu().set_irql(PASSIVE);
        }
    }
}

/// The object `id` goes away: if it is a lock, what follows at its address is another one.
pub(super) fn forget(cpu: &Cpu, id: Id) {
    let word = {
        let mut state = cpu.machine().kmdf().lock();
        match state.get(id).map(|object| object.kind) {
            Some(Kind::SpinLock) => state.spin_lock(id).map(|lock| lock.word.out().address()),
            Some(Kind::WaitLock) => Some(id.handle()),
            _ => None,
        }
    };
    if let Some(word) = word {
        let order = cpu.machine().nt().lock_order();
        order.forget(word..word + size_of::<usize>());
    }
}

fn acquire_spin_lock(call: &Call<'_>, id: Id) {
    let found = call
        .machine()
        .kmdf()
        .lock()
        .spin_lock(id)
        .map(|lock| (lock.word.out().address(), lock.owner));
    let Some((word, owner)) = found else {
        return;
    };
    if owner.is_some_and(|(cpu, _)| cpu == call.cpu().index()) {
        let message = "acquires a spin lock that this processor holds already";
        fatal(
            call,
            &LOCK_RECURSION,
            [RECURSIVE_LOCK, id.handle() as u64, 0],
            message,
        );
    }
    let irql = spin::raise_and_acquire(call, word);
    if let Some(lock) = call.machine().kmdf().lock().spin_lock(id) {
        lock.owner = Some((call.cpu().index(), irql));
    }
}

fn release_spin_lock(call: &Call<'_>, id: Id) {
    let found = {
        let mut state = call.machine().kmdf().lock();
        let Some(lock) = state.spin_lock(id) else {
            return;
        };
        let mine = lock.owner.filter(|(cpu, _)| *cpu == call.cpu().index());
        mine.map(|(_, irql)| {
            lock.owner = None;
            (lock.word.out().address(), irql)
        })
    };
    let Some((word, irql)) = found else {
        let message = "releases a spin lock that this processor does not hold";
        fatal(
            call,
            &LOCK_OWNER,
            [INVALID_LOCK_OPERATION, id.handle() as u64, 0],
            message,
        );
    };
    spin::release_and_lower(call, word, irql);
}

fn acquire_wait_lock(call: &Call<'_>, id: Id, timeout: Option<i64>) -> NtStatus {
    let (cpu, machine) = (call.cpu(), call.machine());
    let take = || {
        let mut state = machine.kmdf().lock();
        state.wait_lock(id).is_none_or(|lock| {
            let free = lock.owner.is_none();
            if free {
                lock.owner = Some(cpu.thread());
            }
            free
        })
    };
    let recursive = machine
        .kmdf()
        .lock()
        .wait_lock(id)
        .is_some_and(|lock| lock.owner == Some(cpu.thread()));
    if recursive {
        let message = "acquires a wait lock that this thread holds already";
        fatal(
            call,
            &LOCK_RECURSION,
            [RECURSIVE_LOCK, id.handle() as u64, 0],
            message,
        );
    }
    if timeout == Some(0) {
        return if take() {
            held::mutex_tried(call, id.handle());
            NtStatus::SUCCESS
        } else {
            NtStatus::TIMEOUT
        };
    }
    if cpu.irql() >= DISPATCH {
        call.violation(&IRQL_RANGE, "waits for a wait lock at DISPATCH_LEVEL");
    }
    let deadline = timeout.map(|timeout| due_time(machine.time(), timeout));
    match machine.wait(cpu, "WdfWaitLockAcquire", deadline, take) {
        Wait::Satisfied if deadline.is_some() => {
            // A wait that gives up does not deadlock.
            held::mutex_tried(call, id.handle());
            NtStatus::SUCCESS
        }
        Wait::Satisfied => {
            held::mutex_taken(call, id.handle());
            NtStatus::SUCCESS
        }
        Wait::TimedOut => NtStatus::TIMEOUT,
    }
}

/// The object whose callback lock `WdfObjectAcquireLock` takes, and whether it is a passive-level lock.
fn presentation_lock(call: &Call<'_>, object: usize) -> (Id, bool) {
    let id = resolve_any(call, object);
    let found = {
        let state = call.machine().kmdf().lock();
        state
            .get(id)
            .map(|object| (object.kind, object.scope, object.level))
    };
    let (kind, scope, level) =
        found.unwrap_or((Kind::General, Scope::None, super::abi::Level::Dispatch));
    if !matches!(kind, Kind::Device | Kind::Queue) || scope == Scope::None {
        let message = format!(
            "{} without a synchronization scope has no callback lock",
            kind.name()
        );
        fatal(
            call,
            &ARGUMENT,
            [INVALID_LOCK_OPERATION, object as u64, 0],
            &message,
        );
    }
    let owner = match scope {
        Scope::Device => call
            .machine()
            .kmdf()
            .lock()
            .ancestor(id, Kind::Device)
            .unwrap_or(id),
        Scope::Queue | Scope::None => id,
    };
    (owner, level == super::abi::Level::Passive)
}
