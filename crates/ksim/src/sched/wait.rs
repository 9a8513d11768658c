//! Waiting, and what goes on meanwhile.

use super::scheduler::{Job, Woken};
use crate::cpu::{self, Cpu, DISPATCH};
use crate::kernel::{Bugcheck, Kernel, Machine};
use crate::time::Ticks;
use crate::verifier::STOP_HANG;

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The condition came true.
    Satisfied,
    /// The deadline passed first.
    TimedOut,
}

impl Machine {
    /// Tells every waiter that something may have changed.
    pub(crate) fn wake(&self) {
        self.scheduler().wake(self);
    }

    /// Runs deferred work on `cpu` until there is none. Below `DISPATCH_LEVEL`, also waits until what system threads
    /// and other processors have taken up is done, or waits itself.
    pub fn run_pending(&self, cpu: &Cpu) {
        loop {
            while let Some(work) = self.time().take_pending(cpu.index()) {
                (work.run)(cpu);
                self.wake();
            }
            if cpu.irql() >= DISPATCH || !self.scheduler().await_background(self) {
                return;
            }
        }
    }

    /// Waits on `cpu`, which is below `DISPATCH_LEVEL`, until `condition` or the clock reaches `deadline`.
    ///
    /// Meanwhile other threads run on the processor, and deferred work. When nothing else can happen the clock jumps
    /// to what is due next; a wait without deadline that nothing can end is reported and stops the machine, as it
    /// would hang.
    pub fn wait(
        &self,
        cpu: &Cpu,
        what: &str,
        deadline: Option<Ticks>,
        mut condition: impl FnMut() -> bool,
    ) -> Wait {
        self.scheduler().point(cpu, "a wait", cpu.return_address());
        let seen = self.scheduler().generation();
        if condition() {
            return Wait::Satisfied;
        }
        self.scheduler().progressed();
        // The deadline is a timer like any other, so that a wait on another processor moves the clock to it too.
        let alarm = deadline.map(|deadline| self.time().alarm(deadline));
        self.waits.lock().push((cpu.index(), what.to_owned()));
        let outcome = self.wait_or_time_out(cpu, what, deadline, seen, condition);
        self.forget_wait(cpu, what);
        if let Some(alarm) = alarm {
            self.time().cancel(alarm);
        }
        outcome
    }

    fn wait_or_time_out(
        &self,
        cpu: &Cpu,
        what: &str,
        deadline: Option<Ticks>,
        mut seen: u64,
        mut condition: impl FnMut() -> bool,
    ) -> Wait {
        loop {
            if deadline.is_some_and(|deadline| deadline <= self.time().now()) {
                return Wait::TimedOut;
            }
            if self.crashed() {
                cpu::park_for_ever();
            }
            let Some(me) = super::member(self) else {
                // Only a machine's own threads wait in it.
                std::process::abort();
            };
            if self.scheduler().block(self, me, seen) == Woken::Hung {
                self.forget_wait(cpu, what);
                let others = self.other_waits();
                let message =
                    format!("{what}: nothing that is pending or running can end this wait{others}");
                self.crash_by(&STOP_HANG, Bugcheck::new(0, [0; 4], message));
            }
            seen = self.scheduler().generation();
            if condition() {
                return Wait::Satisfied;
            }
        }
    }

    fn forget_wait(&self, cpu: &Cpu, what: &str) {
        let mut waits = self.waits.lock();
        let here = |(processor, other): &(u32, String)| *processor == cpu.index() && other == what;
        if let Some(ended) = waits.iter().rposition(here) {
            waits.remove(ended);
        }
    }

    /// What is waited for, in words.
    fn other_waits(&self) -> String {
        let waits = self.waits.lock().clone();
        let words = waits
            .iter()
            .map(|(processor, what)| format!("; processor {processor} waits for {what}"));
        words.collect()
    }
}

impl Kernel {
    /// Has processor `index` do `job` and waits until `done` yields.
    pub(crate) fn run_job<T>(
        &self,
        index: u32,
        job: Job,
        mut done: impl FnMut() -> Option<T>,
    ) -> Result<T, Bugcheck> {
        let machine: &Machine = self;
        let scheduler = machine.scheduler();
        scheduler.push(machine, index, job);
        if let Some(me) = super::member(machine) {
            loop {
                let seen = scheduler.generation();
                if let Some(value) = done() {
                    return Ok(value);
                }
                if machine.crashed() {
                    break;
                }
                scheduler.block(machine, me, seen);
            }
        }
        scheduler.await_outside(machine, index, done)
    }
}
