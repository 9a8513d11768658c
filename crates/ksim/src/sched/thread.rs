//! A thread of the simulated kernel: a host thread, its object, and its processor.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::scheduler::Id;
use crate::cpu::{self, Callback, Cpu};
use crate::nt::io_memory::Guarded;
use crate::trap;

/// Bytes of a thread object; an `ETHREAD` of x64 Windows 10 is smaller.
const SIZE: usize = 0x1000;
/// `KTHREAD.ApcState.Process` of x64 Windows 10, which `PsGetCurrentProcess` reads.
pub(crate) const KTHREAD_APC_PROCESS: usize = 0xb8;
/// `KTHREAD.Process` of x64 Windows 10.
pub(crate) const KTHREAD_PROCESS: usize = 0x220;
/// The stack of a simulated thread, in bytes.
const STACK: usize = 1 << 20;

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Thread {
    id: Id,
    cpu: Arc<Cpu>,
    object: Guarded,
    trap: trap::Stacks,
    parked: AtomicBool,
    /// The callbacks that it is in, the outermost first.
    inside: Mutex<Vec<Callback>>,
    /// What its processor held of it when it left it, while it is away.
    away: Mutex<Option<cpu::Context>>,
    classify: crate::fwp::Current,
}

thread_local! {
    static CURRENT: Cell<*const Thread> = const { Cell::new(ptr::null()) };
}

impl Thread {
    pub(super) fn new(id: Id, cpu: Arc<Cpu>) -> io::Result<Self> {
        let thread = Self {
            id,
            object: Guarded::new(SIZE),
            trap: trap::Stacks::new()?,
            parked: AtomicBool::new(false),
            inside: Mutex::default(),
            away: Mutex::default(),
            classify: crate::fwp::Current::default(),
            cpu,
        };
        thread.set_process(thread.cpu.machine().nt().processes().system());
        Ok(thread)
    }

    /// The simulated thread that the calling host thread is.
    pub(crate) fn current() -> Option<&'static Self> {
        let thread = CURRENT.get();
        // SAFETY: non-null only on the thread's own host thread, which keeps it alive until it ends.
        unsafe { thread.as_ref() }
    }

    /// Its number among the members of its scheduler.
    pub(crate) const fn id(&self) -> Id {
        self.id
    }

    /// The address of its object (`KTHREAD`).
    pub(crate) fn object(&self) -> usize {
        self.object.address()
    }

    pub(crate) const fn trap_stacks(&self) -> &trap::Stacks {
        &self.trap
    }

    /// It is called into `callback`.
    pub(crate) fn enter(&self, callback: Callback) {
        self.inside.lock().push(callback);
    }

    /// The callback that it was called into last has returned.
    pub(crate) fn leave(&self) {
        self.inside.lock().pop();
    }

    /// The callbacks that it is in, the outermost first.
    pub(crate) fn inside(&self) -> Vec<Callback> {
        self.inside.lock().clone()
    }

    /// The processor on which it runs.
    pub(crate) fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// It leaves its processor, which holds this of it, or comes back.
    pub(super) fn set_away(&self, context: Option<cpu::Context>) {
        *self.away.lock() = context;
    }

    /// The last call of the driver on this thread.
    pub(crate) fn last_call(&self) -> cpu::LastCall {
        let away = *self.away.lock();
        away.map_or_else(|| self.cpu.last_call(), |context| context.call)
    }

    /// The classify in progress on it.
    pub(crate) const fn classify(&self) -> &crate::fwp::Current {
        &self.classify
    }

    /// Whether it has stopped for ever.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    pub(crate) fn set_parked(&self) {
        self.parked.store(true, Ordering::SeqCst);
    }

    /// The process object in whose context it runs.
    pub(crate) fn process(&self) -> usize {
        crate::access::address(self.word(KTHREAD_PROCESS).load(Ordering::Relaxed))
    }

    /// From now on it runs in the context of the process object at `process`; returns the one before.
    pub(crate) fn set_process(&self, process: usize) -> usize {
        self.word(KTHREAD_APC_PROCESS)
            .store(process as u64, Ordering::Relaxed);
        let before = self
            .word(KTHREAD_PROCESS)
            .swap(process as u64, Ordering::Relaxed);
        crate::access::address(before)
    }

    /// Its processor is its own from a clean beginning: at `PASSIVE_LEVEL`, in no call.
    pub(super) fn resume(&self) {
        self.cpu.set_context(cpu::Context::of(self.object()));
    }

    /// The word at `offset` of its object.
    fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset + 8 <= SIZE && offset.is_multiple_of(8));
        let address = self.object.address() + offset;
        // SAFETY: aligned, inside the object, which is initialized and lives as long as self.
        unsafe { AtomicU64::from_ptr(address as *mut u64) }
    }
}

/// Starts the host thread that is `thread`, which runs `body` once it is its turn.
pub(super) fn spawn(
    thread: Arc<Thread>,
    body: impl FnOnce(&Cpu) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("cpu{} thread{}", thread.cpu.index(), thread.id))
        .stack_size(STACK)
        .spawn(move || {
            let cpu = &*thread.cpu;
            cpu.attach();
            CURRENT.set(Arc::as_ptr(&thread));
            trap::watch_thread(cpu);
            let machine = cpu.machine();
            machine.scheduler().begin(machine, thread.id);
            thread.resume();
            body(cpu);
            machine.scheduler().end(machine, thread.id);
            trap::unwatch_thread();
            CURRENT.set(ptr::null());
            Cpu::detach();
        })
}
