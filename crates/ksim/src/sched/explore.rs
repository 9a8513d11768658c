//! Trying a scenario under many schedules: one for each seed, or all of them within a bound.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::schedule::{Decision, Schedule, Trace};

/// How far [`explore`] goes.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// How often at most a schedule departs from the plain order, in which each thread goes on for as long as it can
    /// and then the next one does (delay bounding). Also who goes on when a thread waits or ends is a departure unless
    /// it is the next one. Most races need one or two.
    pub departures: usize,
    /// How many schedules are tried at most.
    pub schedules: usize,
}

/// How far [`explore_preemptions`] goes.
#[derive(Debug, Clone, Copy)]
pub struct Preemptions {
    /// How often at most a thread is interrupted that could go on. Who goes on when one waits, ends or spins costs
    /// nothing: every one that can is tried.
    pub preemptions: usize,
    /// How many schedules are tried at most.
    pub schedules: usize,
}

/// What [`explore`] or [`explore_preemptions`] has tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explored {
    /// How many schedules.
    pub schedules: usize,
    /// Whether these are all that have so many departures.
    pub complete: bool,
    /// The most decisions that one of them had.
    pub decisions: usize,
}

/// A schedule under which the scenario fails.
#[derive(Debug, Clone)]
pub struct Failure<E> {
    /// What repeats it.
    pub schedule: Schedule,
    /// The same as a trace.
    pub trace: Trace,
    /// How it fails.
    pub error: E,
}

impl<E: std::fmt::Display> std::fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} (under {}, that is trace {})",
            self.error, self.schedule, self.trace
        )
    }
}

impl<E: std::fmt::Debug + std::fmt::Display> std::error::Error for Failure<E> {}

/// Runs `scenario`, which makes its machine with the schedule that it is given, under every schedule within `bound`.
///
/// The scenario has to do the same whenever the schedule is the same: everything that depends on an order belongs
/// into [`Kernel::together`](crate::Kernel::together).
///
/// # Errors
/// [`Failure`]: the first schedule under which it returns an error.
///
/// # Panics
/// When it panics; the schedule is printed.
pub fn explore<E>(
    bound: Bound,
    scenario: impl FnMut(&Schedule) -> Result<(), E>,
) -> Result<Explored, Failure<E>> {
    search(bound.departures, bound.schedules, |_| 1, scenario)
}

/// As [`explore`], under every interleaving in which a thread is interrupted at most so often.
///
/// Their number doubles with every wait at which two others could go on: this is for scenarios of a few calls.
///
/// # Errors
/// [`Failure`]: the first schedule under which it returns an error.
///
/// # Panics
/// When it panics; the schedule is printed.
pub fn explore_preemptions<E>(
    bound: Preemptions,
    scenario: impl FnMut(&Schedule) -> Result<(), E>,
) -> Result<Explored, Failure<E>> {
    let cost = |decision: &Decision| usize::from(decision.preempts);
    search(bound.preemptions, bound.schedules, cost, scenario)
}

/// Runs `scenario` under every schedule whose departures from the plain order cost no more than `budget` together;
/// `schedules` of them at most.
fn search<E>(
    budget: usize,
    schedules: usize,
    cost: impl Fn(&Decision) -> usize,
    mut scenario: impl FnMut(&Schedule) -> Result<(), E>,
) -> Result<Explored, Failure<E>> {
    let mut left = vec![(Trace::default(), 0)];
    let mut explored = Explored {
        schedules: 0,
        complete: true,
        decisions: 0,
    };
    while let Some((trace, spent)) = left.pop() {
        if explored.schedules == schedules {
            explored.complete = false;
            break;
        }
        let schedule = Schedule::replay(trace.clone());
        attempt(&schedule, &mut scenario)?;
        explored.schedules += 1;
        let decisions = schedule.decisions();
        explored.decisions = explored.decisions.max(decisions.len());
        // What is pushed last is tried first: the latest decision, as in a depth-first search.
        for (step, decision) in decisions.iter().enumerate().skip(trace.end()) {
            let spent = spent + cost(decision);
            if spent <= budget {
                let choices = 1..decision.candidates;
                left.extend(choices.map(|choice| (trace.and(step, choice), spent)));
            }
        }
    }
    Ok(explored)
}

/// Runs `scenario` under the schedule of each seed.
///
/// # Errors
/// [`Failure`]: the first seed with which it returns an error.
///
/// # Panics
/// When it panics; the seed is printed.
pub fn sweep<E>(
    seeds: Range<u64>,
    mut scenario: impl FnMut(&Schedule) -> Result<(), E>,
) -> Result<(), Failure<E>> {
    for seed in seeds {
        attempt(&Schedule::seeded(seed), &mut scenario)?;
    }
    Ok(())
}

fn attempt<E>(
    schedule: &Schedule,
    scenario: &mut impl FnMut(&Schedule) -> Result<(), E>,
) -> Result<(), Failure<E>> {
    match catch_unwind(AssertUnwindSafe(|| scenario(schedule))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure {
            schedule: schedule.clone(),
            trace: schedule.trace(),
            error,
        }),
        Err(panic) => {
            eprintln!(
                "this was under {schedule}, that is trace {}",
                schedule.trace()
            );
            resume_unwind(panic)
        }
    }
}
