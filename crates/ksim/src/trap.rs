//! What a processor does when driver code traps.
//!
//! Signal handlers are the process's, installed once; everything they touch is the trapping processor's. What a
//! kernel's own code may do and a Linux process may not is emulated ([`emulate`]): reading and writing CR8, `cli`
//! and `sti`, reading `KUSER_SHARED_DATA`. Everything else stops the machine: the handler notes the registers and
//! sends the thread to [`report`], an ordinary function on a stack of its own, which finds words for what happened
//! and parks the processor. A fault that is no simulated processor's goes to whoever handled it before.

mod emulate;
mod explain;
mod stack;

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use libc::{c_int, c_void, siginfo_t, ucontext_t};

use crate::access::address;
use crate::coverage;
use crate::cpu::{self, Cpu, DISPATCH};
use crate::loader::memory::{PAGE, Protection, Region};

pub(crate) use explain::code;
pub(crate) use stack::driver_stack;

/// Signals that a trap can become.
const SIGNALS: [c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGFPE,
];
const SIGNAL_STACK: usize = 64 << 10;
const REPORT_STACK: usize = 512 << 10;

/// The x86 exception numbers that the host passes on.
mod vector {
    pub(super) const DIVIDE: u64 = 0;
    pub(super) const BREAKPOINT: u64 = 3;
    pub(super) const INVALID_OPCODE: u64 = 6;
    pub(super) const STACK_SEGMENT: u64 = 12;
    pub(super) const GENERAL_PROTECTION: u64 = 13;
    pub(super) const PAGE_FAULT: u64 = 14;
}

/// What a processor needs to survive a trap of its driver: stacks, and a place for the registers.
#[derive(Debug)]
pub(crate) struct Stacks {
    /// The signal handler's stack, then [`report`]'s, each above a page that nobody can access.
    memory: Region,
    trap: UnsafeCell<Trap>,
    reporting: AtomicBool,
    /// The thread is to stop where it is, once that is in driver code.
    asked: AtomicBool,
    /// The lowest address of the thread's own stack.
    thread_stack: AtomicUsize,
}

// SAFETY: the cell is written by the signal handler and read by `report`, both on the processor's own thread.
unsafe impl Sync for Stacks {}

/// The state of a processor at a trap.
#[derive(Debug, Clone, Copy)]
struct Trap {
    signal: c_int,
    vector: u64,
    /// The page fault's error code: bit 1 write, bit 4 instruction fetch.
    error: u64,
    /// The address that a page fault was about.
    address: usize,
    rip: usize,
    rsp: usize,
    registers: Registers,
}

/// The general registers of a signal context, by `libc::REG_*`.
type Registers = [i64; 23];

impl Trap {
    const NONE: Self = Self {
        signal: 0,
        vector: 0,
        error: 0,
        address: 0,
        rip: 0,
        rsp: 0,
        registers: [0; 23],
    };

    fn register(&self, index: c_int) -> u64 {
        word(&self.registers, index)
    }
}

impl Stacks {
    pub(crate) fn new() -> io::Result<Self> {
        let memory = Region::reserve(2 * PAGE + SIGNAL_STACK + REPORT_STACK)?;
        memory.protect(PAGE, SIGNAL_STACK, Protection::ReadWrite)?;
        memory.protect(2 * PAGE + SIGNAL_STACK, REPORT_STACK, Protection::ReadWrite)?;
        Ok(Self {
            memory,
            trap: UnsafeCell::new(Trap::NONE),
            reporting: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            thread_stack: AtomicUsize::new(0),
        })
    }

    fn signal_stack(&self) -> usize {
        self.memory.start() + PAGE
    }

    /// Asks the thread to stop where it is, at its next [interruption](interrupt) in driver code: it has run for long
    /// without a call.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Whether a fault at `address` with the stack pointer at `rsp` means that the thread's stack is used up.
    fn overflowed(&self, address: usize, rsp: usize) -> bool {
        let low = self.thread_stack.load(Ordering::Relaxed);
        let near = |place: usize| low.abs_diff(place) < 16 * PAGE && place < low + PAGE;
        low != 0 && near(address) && low.abs_diff(rsp) < 16 * PAGE
    }

    fn report_stack_top(&self) -> usize {
        self.memory.start() + self.memory.size()
    }
}

/// How signals were handled before us, in the order of [`SIGNALS`].
static PREVIOUS: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

/// Installs the handlers, if that has not been done.
pub(crate) fn install() {
    PREVIOUS.get_or_init(|| {
        SIGNALS.map(|signal| {
            let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
            let mut ours = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: all zeroes is a valid sigaction: default handler, empty mask, no flags.
            let action = unsafe { ours.assume_init_mut() };
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: both point at a sigaction; the handler keeps to what handlers may do.
            unsafe { libc::sigaction(signal, ours.as_ptr(), previous.as_mut_ptr()) };
            // SAFETY: zeroed before, filled in by the call.
            unsafe { previous.assume_init() }
        })
    });
}

/// How long `thread` has run.
pub(crate) fn thread_time(thread: &JoinHandle<()>) -> Duration {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the thread has not been joined, so its id is valid.
    let known = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
    // SAFETY: a place for the time; a clock that does not exist is refused.
    let read = known == 0 && unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    if read {
        Duration::new(seconds, nanoseconds)
    } else {
        Duration::ZERO
    }
}

/// The calling thread becomes `cpu`: traps in it are ours.
pub(crate) fn watch_thread(cpu: &Cpu) {
    cpu.trap_stacks()
        .thread_stack
        .store(lowest_stack_address(), Ordering::Relaxed);
    let stack = libc::stack_t {
        ss_sp: cpu.trap_stacks().signal_stack() as *mut c_void,
        ss_flags: 0,
        ss_size: SIGNAL_STACK,
    };
    // SAFETY: the stack is the processor's, which outlives its thread's use of it (`unwatch_thread`).
    unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
}

/// The lowest address of the calling thread's stack; 0 when the host does not say.
fn lowest_stack_address() -> usize {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: pthread_self has no preconditions.
    let own = unsafe { libc::pthread_self() };
    // SAFETY: the thread is this one, and the call initializes the attributes when it succeeds.
    if unsafe { libc::pthread_getattr_np(own, attributes.as_mut_ptr()) } != 0 {
        return 0;
    }
    let (mut low, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are initialized.
    let known =
        unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size) };
    // SAFETY: the attributes are initialized and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if known == 0 { low as usize } else { 0 }
}

/// The calling thread is no processor any more.
pub(crate) fn unwatch_thread() {
    let stack = libc::stack_t {
        ss_sp: ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: disables this thread's signal stack.
    unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
}

/// Makes the processor that runs on `thread` look whether its machine has crashed.
pub(crate) fn interrupt(thread: &JoinHandle<()>) {
    // SAFETY: the thread has not been joined, so its id is valid.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGTRAP) };
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the host passes a valid siginfo_t.
    let sender = unsafe { (*info).si_code };
    let Some(cpu) = Cpu::current() else {
        // A processor's thread may be interrupted before it has begun or after it has ended.
        if sender != libc::SI_TKILL {
            chain(signal, info, context);
        }
        return;
    };
    // SAFETY: the host passes a valid ucontext_t, which is ours to change until the handler returns.
    let context = unsafe { &mut *context.cast::<ucontext_t>() };
    let registers = &mut context.uc_mcontext.gregs;
    if sender == libc::SI_TKILL {
        // `interrupt`: only driver code is stopped on the spot, since ours may be holding a lock.
        let rip = address(word(registers, libc::REG_RIP));
        if !cpu.machine().verifier().try_is_driver_code(rip) {
            return;
        }
        if cpu.machine().crashed() {
            redirect(cpu, registers, park as *const () as usize);
        } else if cpu.trap_stacks().asked.swap(false, Ordering::SeqCst) {
            note(cpu, signal, registers);
            redirect(cpu, registers, report_spin as *const () as usize);
        }
        return;
    }
    if signal == libc::SIGTRAP
        && let Some(rip) = coverage::breakpoint(address(word(registers, libc::REG_RIP)))
    {
        registers[libc::REG_RIP as usize] = rip.cast_signed() as i64;
        return;
    }
    if signal == libc::SIGSEGV && pages_in(cpu, registers) {
        return;
    }
    if emulate::instruction(cpu, registers) {
        return;
    }
    let stacks = cpu.trap_stacks();
    if stacks.reporting.swap(true, Ordering::SeqCst) {
        // A fault while reporting a fault: nothing can be trusted any more, but the process goes on.
        redirect(cpu, registers, park_without_report as *const () as usize);
        return;
    }
    note(cpu, signal, registers);
    redirect(cpu, registers, report as *const () as usize);
}

/// Notes the registers for the function that the thread is sent to.
fn note(cpu: &Cpu, signal: c_int, registers: &Registers) {
    let trap = Trap {
        signal,
        vector: word(registers, libc::REG_TRAPNO),
        error: word(registers, libc::REG_ERR),
        address: address(word(registers, libc::REG_CR2)),
        rip: address(word(registers, libc::REG_RIP)),
        rsp: address(word(registers, libc::REG_RSP)),
        registers: *registers,
    };
    // SAFETY: this thread's own cell; it is read after the handler has returned.
    unsafe { *cpu.trap_stacks().trap.get() = trap };
}

/// Whether this was a page fault that the system serves: paged pool, touched below `DISPATCH_LEVEL`.
fn pages_in(cpu: &Cpu, registers: &Registers) -> bool {
    /// The error code's bit of an instruction fetch.
    const FETCH: u64 = 1 << 4;
    word(registers, libc::REG_TRAPNO) == vector::PAGE_FAULT
        && word(registers, libc::REG_ERR) & FETCH == 0
        && cpu.irql() < DISPATCH
        && cpu
            .machine()
            .nt()
            .pool()
            .page_in(address(word(registers, libc::REG_CR2)))
}

/// The register `libc::REG_*`.
fn word(registers: &Registers, index: c_int) -> u64 {
    usize::try_from(index)
        .ok()
        .and_then(|index| registers.get(index))
        .map_or(0, |word| word.cast_unsigned())
}

/// When the handler returns, the thread goes on in `function` on the processor's report stack.
fn redirect(cpu: &Cpu, registers: &mut Registers, function: usize) {
    /// The direction and trap flags, which a function must not find set.
    const DIRECTION_AND_TRAP: i64 = 0x500;
    // At a function's first instruction RSP is 8 below a multiple of 16, as after a call.
    let stack = cpu.trap_stacks().report_stack_top() - 8;
    registers[libc::REG_RSP as usize] = stack.cast_signed() as i64;
    registers[libc::REG_RIP as usize] = function.cast_signed() as i64;
    registers[libc::REG_EFL as usize] &= !DIRECTION_AND_TRAP;
}

/// Stops the machine because of the trap noted in this processor.
extern "C" fn report() -> ! {
    let Some(cpu) = Cpu::current() else {
        std::process::abort();
    };
    // SAFETY: written by the handler on this thread before it sent us here.
    let trap = unsafe { *cpu.trap_stacks().trap.get() };
    let (rule, bugcheck) = explain::bugcheck(cpu, &trap);
    cpu.machine().crash_by(rule, bugcheck)
}

/// Stops the machine because its driver goes on and on without a call, in the place noted in this processor.
extern "C" fn report_spin() -> ! {
    let Some(cpu) = Cpu::current() else {
        std::process::abort();
    };
    // SAFETY: written by the handler on this thread before it sent us here.
    let trap = unsafe { *cpu.trap_stacks().trap.get() };
    let (rule, bugcheck) = explain::spin(cpu, &trap);
    cpu.machine().crash_by(rule, bugcheck)
}

extern "C" fn park() -> ! {
    cpu::park_for_ever()
}

extern "C" fn park_without_report() -> ! {
    let Some(cpu) = Cpu::current() else {
        std::process::abort();
    };
    cpu.machine().crash(crate::Bugcheck::new(
        code::UNEXPECTED_KERNEL_MODE_TRAP,
        [8, 0, 0, 0],
        "a second trap while the first was being reported: memory is corrupt",
    ))
}

/// Hands a signal that is not ours to whoever handled it before.
fn chain(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let previous = SIGNALS
        .iter()
        .position(|&ours| ours == signal)
        .and_then(|at| PREVIOUS.get()?.get(at));
    let Some(previous) = previous else { return };
    match previous.sa_sigaction {
        libc::SIG_IGN => {}
        libc::SIG_DFL => {
            // SAFETY: restores the default; the instruction runs again and has its way.
            unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: a handler installed with SA_SIGINFO has this signature.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: a handler installed without SA_SIGINFO has this signature.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}
