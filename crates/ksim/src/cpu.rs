//! Simulated processors: an IRQL, a KPCR, and the locks that are held there.
//!
//! [`Kernel::on`](crate::Kernel::on) runs a closure on a processor and waits for it. A thread whose driver code
//! faulted is parked for ever: its frames are never unwound or touched again. Which thread is on a processor is the
//! [scheduler's](crate::sched) business.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use pe_image::unwind::Registers;

use crate::access::address;
use crate::export::Export;
use crate::kernel::{Bugcheck, Kernel, Machine};
use crate::nt::held::HeldLocks;
use crate::sched::{Job, Thread};
use crate::trap;
use crate::verifier::KERNEL_STACK;

/// `PASSIVE_LEVEL`.
pub const PASSIVE: u8 = 0;
/// `APC_LEVEL`.
pub const APC: u8 = 1;
/// `DISPATCH_LEVEL`.
pub const DISPATCH: u8 = 2;
/// `HIGH_LEVEL` on x64.
pub const HIGH: u8 = 15;

/// Bytes of the KPCR that drivers may look at, and behind them [`Scratch`].
const KPCR_SIZE: usize = 0x3000;
/// Where, behind the KPCR, import thunks leave the driver's return address and stack pointer.
pub(crate) const SCRATCH_OFFSET: u32 = 0x2000;

/// `KPCR.CurrentPrcb.CurrentThread` of x64 Windows 10.
const CURRENT_THREAD: usize = 0x188;

/// What an import thunk writes through GS before it jumps to the simulated function.
#[repr(C)]
struct Scratch {
    return_address: AtomicU64,
    stack_pointer: AtomicU64,
    /// RBX, RBP, RSI, RDI, R12 to R15.
    nonvolatile: [AtomicU64; 8],
}

/// The numbers of the nonvolatile registers, in the order in which they are noted.
const NONVOLATILE: [usize; 8] = [3, 5, 6, 7, 12, 13, 14, 15];
/// The number of RSP.
const RSP: usize = 4;

/// A processor of a simulated kernel.
#[derive(Debug)]
pub struct Cpu {
    index: u32,
    irql: AtomicU8,
    kpcr: Kpcr,
    machine: std::sync::Weak<Machine>,
    /// The function that the driver called last.
    export: AtomicPtr<Export>,
    /// The lowest stack pointer of a driver's calls since its callback began.
    deepest: AtomicUsize,
    /// The stack that the callback took which returned last, in bytes.
    left_stack: AtomicUsize,
    /// The function that the callback which returned last called last, and from where; 0 if it called none.
    left_export: AtomicPtr<Export>,
    left_site: AtomicUsize,
    locks: HeldLocks,
    #[cfg(test)]
    locals: tests::Locals,
}

/// A function of the driver's that the kernel calls.
#[derive(Debug, Clone, Copy)]
pub struct Callback {
    /// What it is, as reports name it.
    pub name: &'static str,
    /// Where it is.
    pub function: usize,
}

impl Callback {
    /// The function at `function`, which reports call `name`.
    #[must_use]
    pub const fn new(name: &'static str, function: usize) -> Self {
        Self { name, function }
    }
}

/// The driver's last call into the kernel on a processor: which function, from where, with which registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastCall {
    export: *const Export,
    return_address: u64,
    stack_pointer: u64,
    nonvolatile: [u64; NONVOLATILE.len()],
}

// SAFETY: numbers, and the address of a static.
unsafe impl Send for LastCall {}

impl LastCall {
    const NONE: Self = Self {
        export: ptr::null(),
        return_address: 0,
        stack_pointer: 0,
        nonvolatile: [0; NONVOLATILE.len()],
    };

    /// The function that was called.
    pub(crate) const fn export(&self) -> Option<&'static Export> {
        // SAFETY: null, or the address of a static that `set_export` was given.
        unsafe { self.export.as_ref() }
    }

    /// The driver's return address; 0 when there was no call.
    pub(crate) const fn site(&self) -> usize {
        address(self.return_address)
    }

    /// The driver's registers right after the call; the volatile ones are not known.
    pub(crate) fn registers(&self) -> Registers {
        let mut registers = Registers {
            rip: self.return_address,
            ..Registers::default()
        };
        for (number, value) in NONVOLATILE.into_iter().zip(self.nonvolatile) {
            registers.general[number] = value;
        }
        registers.general[RSP] = self.stack_pointer.wrapping_add(8);
        registers
    }
}

/// What a processor holds that belongs to the thread on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    thread: usize,
    irql: u8,
    deepest: usize,
    pub(crate) call: LastCall,
}

impl Context {
    /// The context of a thread that is in no call.
    pub(crate) const fn of(thread: usize) -> Self {
        Self {
            thread,
            irql: PASSIVE,
            deepest: usize::MAX,
            call: LastCall::NONE,
        }
    }
}

/// The page range that GS points at while this processor's thread runs.
#[derive(Debug)]
struct Kpcr(*mut u8);

// SAFETY: the range is owned, and every access to it is an atomic one or happens before its thread starts.
unsafe impl Send for Kpcr {}
// SAFETY: as above.
unsafe impl Sync for Kpcr {}

impl Drop for Kpcr {
    fn drop(&mut self) {
        // SAFETY: mapped in `Kpcr::new` with this size; the processor's thread has ended.
        unsafe { libc::munmap(self.0.cast(), KPCR_SIZE) };
    }
}

impl Kpcr {
    /// Maps a zeroed KPCR whose self pointer, PRCB pointer and processor number are set.
    fn new(index: u32) -> std::io::Result<Self> {
        // SAFETY: a fresh anonymous mapping has no preconditions.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                KPCR_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let kpcr = Self(base.cast());
        let address = base as u64;
        // Offsets of x64 Windows 10: Self, CurrentPrcb, Prcb.Number.
        kpcr.write(0x18, address);
        kpcr.write(0x20, address + 0x180);
        kpcr.write(0x1a4, index);
        Ok(kpcr)
    }

    fn write<T>(&self, offset: usize, value: T) {
        debug_assert!(offset + size_of::<T>() <= KPCR_SIZE);
        // SAFETY: the offset lies within the mapping, as just checked.
        let slot = unsafe { self.0.add(offset) };
        // SAFETY: the slot is inside our own mapping and nobody reads it yet.
        unsafe { slot.cast::<T>().write_unaligned(value) };
    }

    /// The naturally aligned word at `offset`.
    fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset + 8 <= KPCR_SIZE && offset.is_multiple_of(8));
        // SAFETY: the offset lies within the mapping, as just checked.
        let slot = unsafe { self.0.add(offset) };
        // SAFETY: aligned, initialized, and lives as long as self.
        unsafe { AtomicU64::from_ptr(slot.cast()) }
    }

    #[allow(clippy::cast_ptr_alignment, reason = "the offset is a page's")]
    const fn scratch(&self) -> &Scratch {
        // SAFETY: SCRATCH_OFFSET + size_of::<Scratch>() < KPCR_SIZE.
        let slot = unsafe { self.0.add(SCRATCH_OFFSET as usize) };
        // SAFETY: page-aligned, zero-initialized, lives as long as self, and only ever accessed atomically.
        unsafe { &*slot.cast::<Scratch>() }
    }
}

thread_local! {
    static CURRENT: Cell<*const Cpu> = const { Cell::new(ptr::null()) };
}

impl Cpu {
    pub(crate) fn new(index: u32, machine: std::sync::Weak<Machine>) -> std::io::Result<Self> {
        Ok(Self {
            index,
            irql: AtomicU8::new(PASSIVE),
            kpcr: Kpcr::new(index)?,
            machine,
            export: AtomicPtr::new(ptr::null_mut()),
            deepest: AtomicUsize::new(usize::MAX),
            left_stack: AtomicUsize::new(0),
            left_export: AtomicPtr::new(ptr::null_mut()),
            left_site: AtomicUsize::new(0),
            locks: HeldLocks::default(),
            #[cfg(test)]
            locals: tests::Locals::default(),
        })
    }

    /// The processor that the calling thread is, if it is one.
    #[must_use]
    pub fn current() -> Option<&'static Self> {
        let cpu = CURRENT.get();
        // SAFETY: non-null only on a processor's own thread, which keeps the Cpu alive until it ends.
        unsafe { cpu.as_ref() }
    }

    /// Its number, from 0.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Its current IRQL.
    #[must_use]
    pub fn irql(&self) -> u8 {
        self.irql.load(Ordering::Relaxed)
    }

    /// Sets the IRQL and returns the previous one. Rules are the caller's to check.
    pub fn set_irql(&self, irql: u8) -> u8 {
        let before = self.irql.swap(irql, Ordering::Relaxed);
        if irql >= DISPATCH && before < DISPATCH {
            self.machine().nt().pool().page_out();
        }
        before
    }

    /// The machine this processor belongs to.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        // SAFETY: whoever had this processor do something (`Kernel::on`) waits for it and holds the kernel; the
        // machine is dropped only after its processors' threads have ended.
        unsafe { &*self.machine.as_ptr() }
    }

    /// The function that the driver called last, for reports of faults.
    pub(crate) fn last_export(&self) -> Option<&'static Export> {
        let export = self.export.load(Ordering::Relaxed);
        // SAFETY: null, or the address of a static that `set_export` was given.
        unsafe { export.as_ref() }
    }

    /// The driver calls `export`.
    pub(crate) fn set_export(&self, export: &'static Export) {
        self.export
            .store(ptr::from_ref(export).cast_mut(), Ordering::Relaxed);
    }

    /// The driver calls; a stack pointer far away is that of another stack.
    pub(crate) fn note_stack(&self) {
        const LARGEST_STACK: usize = 0x10_0000;
        let stack = address(self.kpcr.scratch().stack_pointer.load(Ordering::Relaxed));
        let below = self.deepest.load(Ordering::Relaxed).wrapping_sub(stack);
        if below < LARGEST_STACK {
            self.deepest.store(stack, Ordering::Relaxed);
        }
    }

    /// How much of the stack the callback took that returned last on this processor, in bytes, as its calls show.
    pub(crate) fn left_stack(&self) -> usize {
        self.left_stack.load(Ordering::Relaxed)
    }

    /// Calls into the driver, and notes how much of the stack that takes.
    fn measure_stack<T>(&self, call: impl FnOnce() -> T) -> T {
        let here = 0_u8;
        let stack = ptr::from_ref(std::hint::black_box(&here)).addr();
        let outer = self.deepest.swap(stack, Ordering::Relaxed);
        let result = call();
        let deepest = self.deepest.swap(outer, Ordering::Relaxed);
        let used = stack.saturating_sub(deepest);
        self.left_stack.store(used, Ordering::Relaxed);
        result
    }

    /// The spin locks that this processor holds.
    pub(crate) const fn locks(&self) -> &HeldLocks {
        &self.locks
    }

    /// What the test drivers on this processor keep.
    #[cfg(test)]
    pub(crate) const fn locals(&self) -> &tests::Locals {
        &self.locals
    }

    /// The stacks on which the calling thread, which runs on this processor, survives a trap.
    #[allow(clippy::unused_self, reason = "only a thread of this processor asks")]
    pub(crate) fn trap_stacks(&self) -> &trap::Stacks {
        Thread::current()
            .expect("a processor runs on threads only")
            .trap_stacks()
    }

    /// The object (`KTHREAD`) of the thread that runs on this processor.
    #[must_use]
    pub fn thread(&self) -> usize {
        address(self.kpcr.word(CURRENT_THREAD).load(Ordering::Relaxed))
    }

    /// The process object in whose context the calling thread runs.
    #[must_use]
    pub fn process(&self) -> usize {
        Thread::current().map_or(0, Thread::process)
    }

    /// From now on the calling thread runs in the context of the process object at `process`; returns the one before.
    pub fn set_process(&self, process: usize) -> usize {
        Thread::current().map_or(0, |thread| thread.set_process(process))
    }

    /// What belongs to the thread on this processor.
    pub(crate) fn context(&self) -> Context {
        Context {
            thread: self.thread(),
            irql: self.irql(),
            deepest: self.deepest.load(Ordering::Relaxed),
            call: self.last_call(),
        }
    }

    /// The driver's last call on this processor.
    pub(crate) fn last_call(&self) -> LastCall {
        let scratch = self.kpcr.scratch();
        LastCall {
            export: self.export.load(Ordering::Relaxed),
            return_address: scratch.return_address.load(Ordering::Relaxed),
            stack_pointer: scratch.stack_pointer.load(Ordering::Relaxed),
            nonvolatile: scratch
                .nonvolatile
                .each_ref()
                .map(|register| register.load(Ordering::Relaxed)),
        }
    }

    fn set_last_call(&self, call: &LastCall) {
        self.export.store(call.export.cast_mut(), Ordering::Relaxed);
        let scratch = self.kpcr.scratch();
        scratch
            .return_address
            .store(call.return_address, Ordering::Relaxed);
        scratch
            .stack_pointer
            .store(call.stack_pointer, Ordering::Relaxed);
        for (register, value) in scratch.nonvolatile.iter().zip(call.nonvolatile) {
            register.store(value, Ordering::Relaxed);
        }
    }

    /// What the callback that returned last on this processor called last, and its return address there.
    pub(crate) fn left(&self) -> Option<(&'static Export, usize)> {
        let site = self.left_site.load(Ordering::Relaxed);
        // SAFETY: null, or the address of a static that `set_export` was given.
        let export = unsafe { self.left_export.load(Ordering::Relaxed).as_ref() };
        export.filter(|_| site != 0).map(|export| (export, site))
    }

    /// A thread goes on that had left this processor with `context`.
    pub(crate) fn set_context(&self, context: Context) {
        self.kpcr
            .word(CURRENT_THREAD)
            .store(context.thread as u64, Ordering::Relaxed);
        self.irql.store(context.irql, Ordering::Relaxed);
        self.deepest.store(context.deepest, Ordering::Relaxed);
        self.set_last_call(&context.call);
    }

    /// From now on the calling host thread runs on this processor.
    pub(crate) fn attach(&self) {
        // SAFETY: glibc uses FS only, so GS is free on x86-64 Linux; the KPCR outlives this thread's use of it.
        let set = unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_SET_GS,
                self.kpcr.0.cast::<c_void>(),
            )
        };
        assert_eq!(set, 0, "arch_prctl(ARCH_SET_GS)");
        CURRENT.set(ptr::from_ref(self));
    }

    /// The calling host thread is on no processor any more.
    pub(crate) fn detach() {
        CURRENT.set(ptr::null());
    }

    /// The driver's return address of the call now in progress, as the import thunk recorded it.
    pub(crate) fn return_address(&self) -> usize {
        address(self.kpcr.scratch().return_address.load(Ordering::Relaxed))
    }

    /// The driver's registers right after the call now in progress; the volatile ones are not known.
    pub(crate) fn driver_registers(&self) -> Registers {
        self.last_call().registers()
    }

    /// Calls into the driver at `irql`, and checks that it comes back at the same level.
    ///
    /// No lock of ours may be held.
    pub fn enter_driver<T>(&self, callback: Callback, irql: u8, call: impl FnOnce() -> T) -> T {
        if self.machine().crashed() {
            park_for_ever();
        }
        let name = callback.name;
        self.machine()
            .scheduler()
            .point(self, name, name.as_ptr() as usize);
        let before = self.set_irql(irql);
        let locks = self.locks.count();
        let order = self.machine().nt().lock_order();
        let mutexes = order.held_by(self);
        let result = self.measure_stack(|| self.inside(callback, call));
        if self.machine().crashed() {
            park_for_ever();
        }
        let stack = self.left_stack();
        if stack > MOST_STACK {
            let what = format!("{stack} bytes of stack ({name})");
            let verifier = self.machine().verifier();
            verifier.violation_by(self, callback, &KERNEL_STACK, what);
        }
        self.locks.check_returned(self, callback, locks);
        order.check_returned(self, callback, mutexes);
        let after = self.set_irql(before);
        if after != irql {
            self.machine()
                .verifier()
                .irql_not_restored(self, callback, irql, after);
        }
        result
    }

    /// Notes that the calling thread is in `callback` while it is in `call`, and what the driver called last there.
    pub(crate) fn inside<T>(&self, callback: Callback, call: impl FnOnce() -> T) -> T {
        let outer = self.last_call();
        self.set_last_call(&LastCall::NONE);
        let thread = Thread::current();
        if let Some(thread) = thread {
            thread.enter(callback);
        }
        let result = call();
        if let Some(thread) = thread {
            thread.leave();
        }
        let inner = self.last_call();
        self.left_export
            .store(inner.export.cast_mut(), Ordering::Relaxed);
        self.left_site.store(inner.site(), Ordering::Relaxed);
        self.set_last_call(&outer);
        result
    }
}

/// Half of what a thread has.
const MOST_STACK: usize = 0x3000;

const ARCH_SET_GS: libc::c_int = 0x1001;

/// Where the caller of [`Kernel::on`] waits.
struct Completion<T> {
    result: Mutex<Option<std::thread::Result<T>>>,
}

impl Kernel {
    /// Runs `work` on processor `index`, then whatever it left pending (DPCs, work items, completions), and
    /// waits for both.
    ///
    /// On that processor's own thread it runs in place.
    ///
    /// # Errors
    /// [`Bugcheck`] when the kernel stopped meanwhile or before.
    ///
    /// # Panics
    /// When there is no such processor, and when `work` itself panics.
    pub fn on<T: Send>(
        &self,
        index: u32,
        work: impl FnOnce(&Cpu) -> T + Send,
    ) -> Result<T, Bugcheck> {
        if let Some(cpu) = Cpu::current()
            && cpu.index == index
            && std::ptr::eq(cpu.machine(), &raw const **self)
        {
            return Ok(work(cpu));
        }
        if let Some(bugcheck) = self.bugcheck() {
            return Err(bugcheck);
        }
        let completion = Arc::new(Completion {
            result: Mutex::new(None),
        });
        let told = Arc::clone(&completion);
        let machine: &Machine = self;
        let job: Box<dyn FnOnce(&Cpu) + Send + '_> = Box::new(move |cpu| {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let result = work(cpu);
                machine.run_pending(cpu);
                result
            }));
            *told.result.lock() = Some(result);
            machine.wake();
        });
        // SAFETY: the closure's borrows live until this function returns, and it returns only when the closure
        // has finished, or when its thread is parked after a crash and never runs again.
        let job: Job =
            unsafe { std::mem::transmute::<Box<dyn FnOnce(&Cpu) + Send + '_>, Job>(job) };
        match self.run_job(index, job, || completion.result.lock().take()) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(bugcheck) => Err(bugcheck),
        }
    }
}

/// Stops the calling thread for ever, on its processor: its kernel has crashed.
pub(crate) fn park_for_ever() -> ! {
    static NEVER: AtomicBool = AtomicBool::new(false);
    if let Some(cpu) = Cpu::current() {
        if let Some(thread) = Thread::current() {
            thread.set_parked();
        }
        debug_assert!(cpu.machine().crashed());
    }
    while !NEVER.load(Ordering::Relaxed) {
        std::thread::park();
    }
    unreachable!("nobody sets NEVER")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::any::{Any, TypeId};
    use std::collections::HashMap;

    use parking_lot::Mutex;

    /// A value of each type for the processor that all its threads share.
    #[derive(Debug, Default)]
    pub(crate) struct Locals(Mutex<HashMap<TypeId, Option<Box<dyn Any + Send>>>>);

    impl Locals {
        /// Uses the value; not while it is being used.
        pub(crate) fn with<T: Any + Send + Default, R>(
            &self,
            use_it: impl FnOnce(&mut T) -> R,
        ) -> R {
            let id = TypeId::of::<T>();
            let taken = self
                .0
                .lock()
                .insert(id, None)
                .map(|before| before.expect("used while it is being used"));
            let mut value = taken
                .and_then(|value| value.downcast::<T>().ok())
                .unwrap_or_default();
            let result = use_it(&mut value);
            self.0.lock().insert(id, Some(value));
            result
        }
    }
}
