//! Threads and who of them runs when.
//!
//! A simulated thread is a host thread bound to a simulated processor ([`thread`]), and the [`scheduler`] lets one
//! thread be on each processor. By default processors run in parallel, as the host likes. Under a controlled
//! [`Schedule`] one of them runs at a time, and at every point where another could go on the schedule decides, so
//! that a run can be repeated ([`Schedule::seeded`], [`Schedule::replay`]) and all runs within a bound can be tried
//! ([`explore`], [`explore_preemptions`]). Such points lie before and after every call into the kernel, before every
//! callback, and where a thread waits or spins; between two of them a thread has the machine for itself.

mod explore;
mod program;
mod schedule;
mod scheduler;
#[cfg(test)]
mod tests;
pub(crate) mod thread;
mod wait;

pub use explore::{Bound, Explored, Failure, Preemptions, explore, explore_preemptions, sweep};
pub use program::Program;
pub(crate) use program::member;
pub use schedule::{Run, Schedule, Trace, TraceError};
pub(crate) use scheduler::{Job, Scheduler};
pub(crate) use thread::Thread;
pub use wait::Wait;
