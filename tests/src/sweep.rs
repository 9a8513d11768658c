//! Sweeps: each call of a driver that can fail is made to fail, one a run.

use std::fmt;

/// Names the part of each sweep that a run takes, as `3/16`: the third, nineteenth, thirty-fifth … call. Without it
/// a run takes all calls.
pub const SWEEP_VARIABLE: &str = "PORTCULLIS_SWEEP";

/// The calls that a sweep makes fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    first: u64,
    step: u64,
}

impl Sample {
    /// Every call.
    pub const ALL: Self = Self { first: 1, step: 1 };

    /// What [`SWEEP_VARIABLE`] names.
    ///
    /// # Panics
    /// If it names none.
    #[must_use]
    pub fn named() -> Self {
        let Ok(text) = std::env::var(SWEEP_VARIABLE) else {
            return Self::ALL;
        };
        Self::parse(&text).unwrap_or_else(|| {
            panic!("{SWEEP_VARIABLE} is {text}, not like 3/16: a part and how many")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, step) = text.split_once('/')?;
        let (first, step) = (first.parse().ok()?, step.parse().ok()?);
        (1..=step).contains(&first).then_some(Self { first, step })
    }

    /// Whether it is all of them.
    #[must_use]
    pub fn is_all(self) -> bool {
        self == Self::ALL
    }

    /// The numbers of the calls, below `most`.
    pub fn calls(self, most: u64) -> impl Iterator<Item = u64> {
        let step = usize::try_from(self.step).unwrap_or(usize::MAX);
        (self.first..most).step_by(step)
    }
}

/// More calls than anything here makes.
const MANY: u64 = 2_000;

/// Calls `attempt` with 1, 2, 3, … until no call was left to fail, and tells of what was swept over.
///
/// # Panics
/// If there is no end of calls.
pub fn sweep(what: &str, mut attempt: impl FnMut(u64) -> Option<String>) {
    let sample = Sample::named();
    let mut failed = Vec::new();
    for nth in sample.calls(MANY) {
        let Some(call) = attempt(nth) else {
            println!(
                "{what}: {} calls, {sample}, made to fail in turn",
                failed.len()
            );
            return;
        };
        failed.push(call);
    }
    panic!(
        "{what} makes more than {MANY} calls: {:?}",
        &failed[failed.len().saturating_sub(10)..]
    );
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("each"),
            Self { first, step } => write!(f, "every {step}th from the {first}th on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sample;

    #[test]
    fn the_parts_of_a_sweep_are_the_whole_of_it() {
        let mut all: Vec<u64> = (1..=5)
            .flat_map(|part| Sample::parse(&format!("{part}/5")).unwrap().calls(23))
            .collect();
        all.sort_unstable();
        assert_eq!(all, (1..23).collect::<Vec<_>>());
        assert_eq!(Sample::ALL.calls(4).collect::<Vec<_>>(), [1, 2, 3]);
        for wrong in ["", "3", "0/3", "4/3", "1/0", "x/y"] {
            assert_eq!(Sample::parse(wrong), None, "{wrong}");
        }
    }
}
