//! Dispatcher objects: events, semaphores, mutexes; what it takes to wait for one.
//!
//! Their state is in the driver's memory, in the `DISPATCHER_HEADER` that Windows has there.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use crate::access::Out;
use crate::cpu::{Cpu, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::verifier::{ARGUMENT, LOCK_OWNER};

/// `DISPATCHER_HEADER.Type`.
pub(super) mod kind {
    pub(crate) const NOTIFICATION_EVENT: u8 = 0;
    pub(crate) const SYNCHRONIZATION_EVENT: u8 = 1;
    pub(crate) const MUTANT: u8 = 2;
    pub(crate) const SEMAPHORE: u8 = 5;
    pub(crate) const THREAD: u8 = 6;
    pub(crate) const NOTIFICATION_TIMER: u8 = 8;
    pub(crate) const SYNCHRONIZATION_TIMER: u8 = 9;
}

/// Offsets in `DISPATCHER_HEADER`, `KSEMAPHORE`, `KMUTANT`.
mod offset {
    pub(super) const SIGNAL_STATE: usize = 4;
    pub(super) const WAIT_LIST: usize = 8;
    pub(super) const SEMAPHORE_LIMIT: usize = 24;
    pub(super) const MUTANT_OWNER: usize = 40;
}

/// `DISPATCHER_HEADER.Size` in 4-byte units.
pub(super) mod size {
    pub(crate) const EVENT: u8 = 6;
    pub(crate) const SEMAPHORE: u8 = 8;
    pub(crate) const MUTANT: u8 = 14;
    pub(crate) const TIMER: u8 = 16;
    /// A thread's is its header's alone.
    pub(crate) const THREAD: u8 = 6;
}

/// A dispatcher object in the driver's memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dispatcher(Out<u8>);

impl Dispatcher {
    /// The object at an address that a driver gave; a null or misaligned one stops the machine.
    pub(super) fn new(call: &Call<'_>, object: Out<u8>) -> Self {
        if object.is_null() || !object.address().is_multiple_of(8) {
            let place = call.machine().verifier().site(call.site());
            let words = format!(
                "{} called from {place} for no object ({object:?})",
                call.name()
            );
            call.violation(&ARGUMENT, words.clone());
            call.machine().crash(Bugcheck::new(
                crate::trap::code::DRIVER_IRQL_NOT_LESS_OR_EQUAL,
                [
                    object.address() as u64,
                    u64::from(call.cpu().irql()),
                    0,
                    call.site() as u64,
                ],
                words,
            ));
        }
        Self(object)
    }

    /// An object that is known to be there.
    pub(super) const fn existing(object: Out<u8>) -> Self {
        Self(object)
    }

    pub(super) fn initialize(self, kind: u8, size: u8, state: i32) {
        self.0.set(kind);
        self.0.offset::<u8>(1).set(0);
        self.0.offset::<u8>(2).set(size);
        self.0.offset::<u8>(3).set(0);
        self.state().store(state, Ordering::SeqCst);
        // An empty list: both links point at the head.
        let list = self.0.offset::<usize>(offset::WAIT_LIST);
        list.set(list.address());
        list.offset::<usize>(8).set(list.address());
    }

    pub(super) fn kind(self) -> u8 {
        self.0.get().unwrap_or(0) & 0x7f
    }

    pub(super) fn address(self) -> usize {
        self.0.address()
    }

    /// `SignalState`.
    pub(super) fn state(self) -> &'static AtomicI32 {
        let state = self.0.offset::<i32>(offset::SIGNAL_STATE);
        // SAFETY: aligned, since the object is; the driver vouches that it lives (a trap otherwise), and every access
        // of ours is atomic.
        unsafe { AtomicI32::from_ptr(state.address() as *mut i32) }
    }

    /// The thread that owns a mutex.
    fn owner(self) -> &'static AtomicUsize {
        let owner = self.0.offset::<usize>(offset::MUTANT_OWNER);
        // SAFETY: as in `state`.
        unsafe { AtomicUsize::from_ptr(owner.address() as *mut usize) }
    }

    /// Whether a wait for the object would end now.
    pub(super) fn is_signaled(self, cpu: &Cpu) -> bool {
        let state = self.state().load(Ordering::SeqCst);
        state > 0
            || (self.kind() == kind::MUTANT && self.owner().load(Ordering::SeqCst) == cpu.thread())
    }

    /// Ends a wait for the object if it is signaled, and changes it as a satisfied wait does.
    pub(super) fn try_take(self, cpu: &Cpu) -> bool {
        let state = self.state();
        match self.kind() {
            kind::SYNCHRONIZATION_EVENT | kind::SYNCHRONIZATION_TIMER => state
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |value| {
                    (value > 0).then_some(0)
                })
                .is_ok(),
            kind::SEMAPHORE => state
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |value| {
                    (value > 0).then(|| value - 1)
                })
                .is_ok(),
            kind::MUTANT => {
                let own = self.owner().load(Ordering::SeqCst) == cpu.thread();
                let taken = state
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |value| {
                        (own || value > 0).then(|| value - 1)
                    })
                    .is_ok();
                if taken {
                    self.owner().store(cpu.thread(), Ordering::SeqCst);
                }
                taken
            }
            _ => state.load(Ordering::SeqCst) > 0,
        }
    }

    /// Signals the object and tells every waiter; returns the state before.
    pub(super) fn signal(self, cpu: &Cpu) -> i32 {
        let before = self.state().swap(1, Ordering::SeqCst);
        cpu.machine().wake();
        before
    }
}

/// A function that can be told to wait afterwards must be able to.
fn check_wait_hint(call: &Call<'_>, wait: u8) {
    if wait != 0 && call.cpu().irql() > PASSIVE {
        call.violation(
            &crate::verifier::IRQL_RANGE,
            "Wait is TRUE above PASSIVE_LEVEL",
        );
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializeevent>
    fn KeInitializeEvent(call, event: Out<u8>, kind: u32, state: u8),
    irql PASSIVE..=HIGH;
    {
        let Ok(kind @ (kind::NOTIFICATION_EVENT | kind::SYNCHRONIZATION_EVENT)) = u8::try_from(kind) else {
            call.violation(&ARGUMENT, format!("event type {kind}"));
            return;
        };
        Dispatcher::new(&call, event).initialize(kind, size::EVENT, i32::from(state != 0));
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesetevent>
    fn KeSetEvent(call, event: Out<u8>, increment: i32, wait: u8) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        check_wait_hint(&call, wait);
        Dispatcher::new(&call, event).signal(call.cpu())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keclearevent>
    fn KeClearEvent(call, event: Out<u8>),
    irql PASSIVE..=DISPATCH;
    { Dispatcher::new(&call, event).state().store(0, Ordering::SeqCst); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keresetevent>
    fn KeResetEvent(call, event: Out<u8>) -> i32,
    irql PASSIVE..=DISPATCH;
    { Dispatcher::new(&call, event).state().swap(0, Ordering::SeqCst) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereadstateevent>
    fn KeReadStateEvent(call, event: Out<u8>) -> i32,
    irql PASSIVE..=DISPATCH;
    { Dispatcher::new(&call, event).state().load(Ordering::SeqCst) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializesemaphore>
    fn KeInitializeSemaphore(call, semaphore: Out<u8>, count: i32, limit: i32),
    irql PASSIVE..=PASSIVE;
    {
        if count < 0 || limit <= 0 || count > limit {
            call.violation(&ARGUMENT, format!("a semaphore with count {count} and limit {limit}"));
        }
        Dispatcher::new(&call, semaphore).initialize(kind::SEMAPHORE, size::SEMAPHORE, count);
        semaphore.offset::<i32>(offset::SEMAPHORE_LIMIT).set(limit);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereleasesemaphore>
    fn KeReleaseSemaphore(call, semaphore: Out<u8>, increment: i32, adjustment: i32, wait: u8) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        check_wait_hint(&call, wait);
        let object = Dispatcher::new(&call, semaphore);
        let limit = semaphore.offset::<i32>(offset::SEMAPHORE_LIMIT).get().unwrap_or(0);
        let before = object.state().fetch_add(adjustment, Ordering::SeqCst);
        if adjustment <= 0 || before.checked_add(adjustment).is_none_or(|count| count > limit) {
            // The kernel raises STATUS_SEMAPHORE_LIMIT_EXCEEDED, which no Rust driver survives.
            call.violation(&ARGUMENT, format!("a semaphore at {before} of {limit} is released by {adjustment}"));
        }
        call.machine().wake();
        before
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializemutex>
    fn KeInitializeMutex(call, mutex: Out<u8>, level: u32),
    irql PASSIVE..=HIGH;
    {
        let object = Dispatcher::new(&call, mutex);
        object.initialize(kind::MUTANT, size::MUTANT, 1);
        object.owner().store(0, Ordering::SeqCst);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereleasemutex>
    fn KeReleaseMutex(call, mutex: Out<u8>, wait: u8) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        check_wait_hint(&call, wait);
        let object = Dispatcher::new(&call, mutex);
        if object.owner().load(Ordering::SeqCst) != call.cpu().thread() {
            call.violation(&LOCK_OWNER, "a mutex is released by a thread that does not own it");
            return object.state().load(Ordering::SeqCst);
        }
        let before = object.state().fetch_add(1, Ordering::SeqCst);
        if before == 0 {
            object.owner().store(0, Ordering::SeqCst);
        }
        call.machine().wake();
        before
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereadstatemutex>
    fn KeReadStateMutex(call, mutex: Out<u8>) -> i32,
    irql PASSIVE..=DISPATCH;
    { Dispatcher::new(&call, mutex).state().load(Ordering::SeqCst) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kereadstatesemaphore>
    fn KeReadStateSemaphore(call, semaphore: Out<u8>) -> i32,
    irql PASSIVE..=HIGH;
    { Dispatcher::new(&call, semaphore).state().load(Ordering::SeqCst) }
}
