//! Programs that run side by side.

use std::cell::Cell;
use std::ptr;

use super::scheduler::{Id, Scheduler};
use super::thread::Thread;
use crate::kernel::{Kernel, Machine};

thread_local! {
    /// The scheduler of which the calling host thread is a program, and its number there.
    static PROGRAM: Cell<(*const Scheduler, Id)> = const { Cell::new((ptr::null(), 0)) };
}

/// What a program does.
pub type Program<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;

impl Kernel {
    /// Runs programs side by side and returns what they return: each has the machine do something
    /// ([`Kernel::on`], a packet, an I/O request, an unload), and the machine's [`Schedule`](super::Schedule) decides
    /// who goes on. Under a controlled schedule this is where it can decide; the programs then run one at a time too,
    /// so that all they share is accessed in an order that the schedule repeats.
    ///
    /// A program must not wait for another one but by the machine.
    ///
    /// # Panics
    /// When one of them panics.
    #[allow(
        clippy::must_use_candidate,
        reason = "programs are run for what they do"
    )]
    pub fn together<T: Send>(&self, programs: Vec<Program<'_, T>>) -> Vec<T> {
        let machine: &Machine = self;
        let scheduler = machine.scheduler();
        let ids = scheduler.register_programs(machine, programs.len());
        std::thread::scope(|scope| {
            let threads: Vec<_> = ids
                .into_iter()
                .zip(programs)
                .map(|(id, program)| scope.spawn(move || run(machine, id, program)))
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        })
    }
}

fn run<T>(machine: &Machine, id: Id, program: Program<'_, T>) -> T {
    /// Ends the program even if it panics, so that the others go on.
    struct End<'a>(&'a Machine, Id);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            PROGRAM.set((ptr::null(), 0));
            self.0.scheduler().end_program(self.0, self.1);
        }
    }
    PROGRAM.set((machine.scheduler(), id));
    let _end = End(machine, id);
    machine.scheduler().begin(machine, id);
    program()
}

/// Which member of `machine`'s scheduler the calling host thread is, if it is one.
pub(crate) fn member(machine: &Machine) -> Option<Id> {
    let (scheduler, id) = PROGRAM.get();
    if ptr::eq(scheduler, machine.scheduler()) {
        return Some(id);
    }
    let cpu = crate::Cpu::current().filter(|cpu| ptr::eq(cpu.machine(), machine))?;
    debug_assert!(cpu.index() < machine.processors());
    Thread::current().map(Thread::id)
}
