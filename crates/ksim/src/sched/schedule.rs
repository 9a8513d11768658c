//! Who goes on when more than one thread could: left to the host, drawn from a seed, or told by a trace.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::Mutex;

/// How a machine's processors interleave.
///
/// Clones share what the last machine that was made with them has done: its [`trace`](Self::trace) and its
/// [`run`](Self::run).
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    mode: Mode,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Clone, Default)]
enum Mode {
    #[default]
    Free,
    Seeded(u64),
    Replay(Trace),
}

impl Schedule {
    /// The host decides: processors run in parallel, and no two runs are the same.
    #[must_use]
    pub fn free() -> Self {
        Self::default()
    }

    /// One processor runs at a time; at every call into the kernel, every callback, every wait and every contended
    /// lock it is drawn from `seed` who goes on. The same seed gives the same run.
    ///
    /// Draws are made while [programs run together](crate::Kernel::together); else each thread goes on until it
    /// waits or ends.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            mode: Mode::Seeded(seed),
            ..Self::default()
        }
    }

    /// As [`seeded`](Self::seeded), but decided by `trace`.
    #[must_use]
    pub fn replay(trace: Trace) -> Self {
        Self {
            mode: Mode::Replay(trace),
            ..Self::default()
        }
    }

    /// Whether one processor runs at a time.
    #[must_use]
    pub const fn is_controlled(&self) -> bool {
        !matches!(self.mode, Mode::Free)
    }

    /// What [repeats](Self::replay) the run so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        let decisions = self.decisions();
        let made = (0..).zip(&decisions);
        Trace(
            made.filter(|(_, decision)| decision.chosen != 0)
                .map(|(step, decision)| (step, decision.chosen))
                .collect(),
        )
    }

    /// The run so far: equal runs made the same calls on the same threads in the same order.
    #[must_use]
    pub fn run(&self) -> Run {
        self.record.lock().run
    }

    pub(super) fn decisions(&self) -> Vec<Decision> {
        self.record.lock().decisions.clone()
    }

    /// What decides for a machine that is made now; `None` leaves it to the host.
    pub(super) fn chooser(&self) -> Option<Chooser> {
        let source = match &self.mode {
            Mode::Free => return None,
            Mode::Seeded(seed) => Source::random(*seed),
            Mode::Replay(trace) => Source::Trace(trace.0.iter().copied().collect()),
        };
        *self.record.lock() = Record::default();
        Some(Chooser {
            source,
            record: Arc::clone(&self.record),
        })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mode {
            Mode::Free => f.write_str("free"),
            Mode::Seeded(seed) => write!(f, "seed {seed}"),
            Mode::Replay(trace) => write!(f, "trace {trace}"),
        }
    }
}

/// Where a run departed from the plain order, in which each thread goes on for as long as it can.
///
/// At which decision, and which of the threads that could go on did. As text: `12:1,40:2`; `plain` when it did not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace(Vec<(usize, u8)>);

impl Trace {
    pub(super) fn and(&self, step: usize, chosen: u8) -> Self {
        let mut all = self.0.clone();
        all.push((step, chosen));
        Self(all)
    }

    /// The decision after the last departure.
    pub(super) fn end(&self) -> usize {
        self.0.last().map_or(0, |(step, _)| step + 1)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("plain");
        }
        for (place, (step, chosen)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{step}:{chosen}")?;
        }
        Ok(())
    }
}

/// The text is no [`Trace`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no decision of a trace: DECISION:CHOICE, in ascending order, with commas between"
)]
pub struct TraceError(String);

impl FromStr for Trace {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        if text == "plain" {
            return Ok(Self::default());
        }
        let mut all: Vec<(usize, u8)> = Vec::new();
        for part in text.split(',') {
            let bad = || TraceError(part.to_owned());
            let (step, chosen) = part.split_once(':').ok_or_else(bad)?;
            let step = step.parse().map_err(|_| bad())?;
            if all.last().is_some_and(|(before, _)| *before >= step) {
                return Err(bad());
            }
            all.push((step, chosen.parse().map_err(|_| bad())?));
        }
        Ok(Self(all))
    }
}

/// What a machine did under a controlled schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Run {
    /// How often somebody could have gone on instead.
    pub points: u64,
    /// A hash of who called what, in order.
    pub hash: u64,
}

impl Run {
    /// `thread` is at `place`.
    fn passes(&mut self, thread: usize, place: &str) {
        const PRIME: u64 = 0x100_0000_01b3;
        self.points += 1;
        let thread = u8::try_from(thread % 256).unwrap_or(0);
        for byte in place.bytes().chain([0, thread]) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
}

/// One choice between threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    /// How many could go on; the first is the one that does in the plain order.
    pub(super) candidates: u8,
    /// Whether the first one was running: every other choice interrupts it.
    pub(super) preempts: bool,
    pub(super) chosen: u8,
}

#[derive(Debug, Default)]
struct Record {
    decisions: Vec<Decision>,
    run: Run,
}

/// Makes a machine's decisions.
#[derive(Debug)]
pub(super) struct Chooser {
    source: Source,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug)]
enum Source {
    /// A random walk that stays with a thread with a probability of its own (of 256), so that some seeds switch at
    /// almost every point and others rarely.
    Random { state: u64, stay: u64 },
    /// What is left of a trace.
    Trace(std::collections::VecDeque<(usize, u8)>),
}

impl Source {
    fn random(seed: u64) -> Self {
        const STAY: [u64; 6] = [0, 128, 192, 224, 240, 250];
        let mut state = seed;
        let stay = STAY[usize::try_from(next(&mut state) % 6).unwrap_or(0)];
        Self::Random { state, stay }
    }
}

/// `SplitMix64`.
const fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Chooser {
    /// Which of `candidates` (at least 1) goes on; 0 is the plain choice, `preempts` says whether every other is a
    /// preemption.
    pub(super) fn choose(&mut self, candidates: usize, preempts: bool) -> usize {
        if candidates <= 1 {
            return 0;
        }
        let mut record = self.record.lock();
        let chosen = match &mut self.source {
            Source::Random { state, stay } => {
                if preempts && next(state) % 256 < *stay {
                    0
                } else {
                    usize::try_from(next(state) % candidates as u64).unwrap_or(0)
                }
            }
            Source::Trace(left) => match left.front() {
                Some(&(step, chosen)) if step == record.decisions.len() => {
                    left.pop_front();
                    // A trace of another scenario may name a thread that is not there.
                    usize::from(chosen).min(candidates - 1)
                }
                _ => 0,
            },
        };
        record.decisions.push(Decision {
            candidates: u8::try_from(candidates).unwrap_or(u8::MAX),
            preempts,
            chosen: u8::try_from(chosen).unwrap_or(u8::MAX),
        });
        chosen
    }

    /// `thread` is at `place`.
    pub(super) fn passes(&self, thread: usize, place: &str) {
        self.record.lock().run.passes(thread, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_survives_being_written_and_read() {
        for text in ["plain", "0:1", "12:1,40:2"] {
            assert_eq!(text.parse::<Trace>().unwrap().to_string(), text);
        }
        for text in ["", "1", "1:x", "2:1,2:1", "3:1,2:1", "1:300"] {
            assert!(text.parse::<Trace>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_seed_decides_the_same_again_and_its_trace_repeats_it() {
        let decide = |schedule: &Schedule| {
            let mut chooser = schedule.chooser().unwrap();
            (0..200)
                .map(|step| chooser.choose(1 + step % 3, step % 2 == 0))
                .collect::<Vec<_>>()
        };
        let mut different = std::collections::HashSet::new();
        for seed in 0..20 {
            let schedule = Schedule::seeded(seed);
            let first = decide(&schedule);
            assert_eq!(first, decide(&schedule), "seed {seed}");
            assert_eq!(first, decide(&Schedule::replay(schedule.trace())));
            different.insert(first);
        }
        assert_eq!(different.len(), 20);
        assert!(Schedule::free().chooser().is_none());
    }
}
