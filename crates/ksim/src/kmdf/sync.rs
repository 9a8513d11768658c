//! Callbacks that exclude each other: synchronization scopes and execution levels.
//!
//! A scope of device or queue gives the object a callback lock: a spin lock at dispatch level, so that callbacks
//! run at `DISPATCH_LEVEL`, a mutex at passive level. Whoever comes while this processor holds the lock is
//! called later, when it is let go.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/wdf/synchronization-scope-and-execution-level>

use std::fmt;

use wfp_schema::NtStatus;

use super::abi::{Level, Scope, status};
use super::object::{Id, Kind, Object, State};
use crate::cpu::{self, Callback, Cpu, DISPATCH, PASSIVE};

/// What is done when the lock is free again.
type Later = Box<dyn FnOnce(&Cpu) + Send>;

/// The callback lock of a device or queue.
#[derive(Default)]
pub(crate) struct CallbackLock {
    owner: Option<usize>,
    later: Vec<Later>,
}

impl fmt::Debug for CallbackLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackLock")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl CallbackLock {
    /// Whether a callback that this lock guards runs on `cpu`.
    pub(crate) fn is_held_by(&self, cpu: &Cpu) -> bool {
        self.owner == Some(cpu.thread())
    }
}

/// How a callback of some object is to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// The object whose lock is held meanwhile.
    lock: Option<Id>,
    level: Level,
}

impl Manner {
    /// At the caller's level, or at passive level, without a lock.
    pub(crate) const fn unsynchronized(level: Level) -> Self {
        Self { lock: None, level }
    }

    /// How the callbacks of the queue or device `id` are called.
    pub(crate) fn of(state: &State, id: Id) -> Self {
        let Some(object) = state.get(id) else {
            return Self::unsynchronized(Level::Dispatch);
        };
        let lock = match object.scope {
            Scope::Device => state.ancestor(id, Kind::Device),
            Scope::Queue if object.kind == Kind::Queue => Some(id),
            Scope::Queue | Scope::None => None,
        };
        Self {
            lock,
            level: object.level,
        }
    }

    /// How the callback of a timer, DPC or work item is called, which may be serialized with its parent's.
    pub(crate) fn of_child(
        state: &State,
        parent: Option<Id>,
        serialized: bool,
        level: Level,
    ) -> Self {
        parent.filter(|_| serialized).map_or_else(
            || Self::unsynchronized(level),
            |parent| Self::of(state, parent).at_level(level),
        )
    }

    /// Whether a timer, DPC or work item may be made below `parent`.
    ///
    /// # Errors
    /// `STATUS_INVALID_DEVICE_REQUEST` when there is no device above it, and
    /// `STATUS_WDF_INCOMPATIBLE_EXECUTION_LEVEL` when it is to share a lock of another level.
    pub(crate) fn check_child(
        state: &State,
        parent: Id,
        serialized: bool,
        level: Level,
    ) -> Result<(), NtStatus> {
        if state.ancestor(parent, Kind::Device).is_none() {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        let shares_lock = |parent: &Object| serialized && parent.scope != Scope::None;
        match state.get(parent) {
            Some(parent) if shares_lock(parent) && parent.level != level => {
                Err(status::INCOMPATIBLE_EXECUTION_LEVEL)
            }
            _ => Ok(()),
        }
    }

    /// The same lock, at another level.
    pub(crate) const fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Whether callbacks run at `PASSIVE_LEVEL`.
    pub(crate) fn is_passive(self) -> bool {
        self.level == Level::Passive
    }

    /// The IRQL at which a callback runs that is called at `irql`.
    const fn irql(self, irql: u8) -> u8 {
        match (self.level, self.lock) {
            (Level::Passive, _) => PASSIVE,
            (Level::Dispatch, Some(_)) => DISPATCH,
            (Level::Dispatch, None) => irql,
        }
    }

    /// Whether this processor may call now; otherwise `later` is kept until it may.
    pub(crate) fn admits(
        self,
        cpu: &Cpu,
        state: &mut State,
        later: impl FnOnce(&Cpu) + Send + 'static,
    ) -> bool {
        if let Some(lock) = self.lock.and_then(|lock| callback_lock(state, lock))
            && lock.owner == Some(cpu.thread())
        {
            lock.later.push(Box::new(later));
            return false;
        }
        if self.is_passive() && cpu.irql() > PASSIVE {
            cpu.machine()
                .time()
                .defer("a passive-level framework callback", later);
            return false;
        }
        true
    }

    /// Calls the driver in this manner. The caller has asked [`admits`](Self::admits), and holds no lock.
    pub(crate) fn call(self, cpu: &Cpu, callback: Callback, call: impl FnOnce()) {
        if let Some(lock) = self.lock {
            acquire(cpu, lock, self.is_passive());
        }
        cpu.enter_driver(callback, self.irql(cpu.irql()), call);
        if let Some(lock) = self.lock {
            release(cpu, lock);
        }
    }
}

fn callback_lock(state: &mut State, id: Id) -> Option<&mut CallbackLock> {
    match state.get(id)?.kind {
        Kind::Device => state.device(id).map(|device| &mut device.callback_lock),
        Kind::Queue => state.queue(id).map(|queue| &mut queue.callback_lock),
        _ => None,
    }
}

impl State {
    /// Whether `cpu` holds the callback lock of `id`.
    pub(crate) fn is_callback_lock_held(&mut self, id: Id, cpu: &Cpu) -> bool {
        callback_lock(self, id).is_some_and(|lock| lock.is_held_by(cpu))
    }
}

/// Takes the lock of `id`, waiting for another processor.
pub(crate) fn acquire(cpu: &Cpu, id: Id, passive: bool) {
    let machine = cpu.machine();
    let take = || {
        let mut state = machine.kmdf().lock();
        let Some(lock) = callback_lock(&mut state, id) else {
            return true;
        };
        let free = lock.owner.is_none();
        if free {
            lock.owner = Some(cpu.thread());
        }
        free
    };
    if passive && cpu.irql() < DISPATCH {
        machine.wait(cpu, "a framework callback lock", None, take);
        return;
    }
    while !take() {
        if machine.crashed() {
            cpu::park_for_ever();
        }
        machine.scheduler().spin(cpu);
    }
}

/// Lets the lock of `id` go.
pub(crate) fn release(cpu: &Cpu, id: Id) {
    let later = {
        let mut state = cpu.machine().kmdf().lock();
        let Some(lock) = callback_lock(&mut state, id) else {
            return;
        };
        lock.owner = None;
        std::mem::take(&mut lock.later)
    };
    for later in later {
        cpu.machine()
            .time()
            .defer("a synchronized framework callback", later);
    }
    cpu.machine().wake();
}
