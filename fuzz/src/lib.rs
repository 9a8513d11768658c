//! Hostile input for everything that reads bytes from the network, from user mode or from files.
//!
//! A [`Target`] takes any bytes: it reads them, and panics where what was read breaks a promise. [`Fuzzer`] makes bytes from
//! real ones, as a seed says: `cargo test` runs every target for a moment, `cargo run -p portcullis-fuzz` for as long as it
//! is told, and `fuzz/libfuzzer` under libFuzzer.
//!
//! ```text
//! targets  what reads, and what must hold of it; a file for each area
//! seeds    real input: packets of tests/captures, policies of examples, requests, replies, images
//! mutate   from real input to hostile input
//! ```
#![forbid(unsafe_code)]
#![allow(
    clippy::missing_panics_doc,
    reason = "it panics where something has failed that is tested"
)]

pub mod mutate;
pub mod seeds;
pub mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use mutate::{Mutator, Random};
pub use targets::{TARGETS, Target};

/// Input that a target did not bear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The bytes.
    pub input: Vec<u8>,
    /// How many inputs there were before.
    pub after: u64,
    /// What it said.
    pub message: String,
}

/// Makes input for one target, as a seed says.
#[derive(Debug)]
pub struct Fuzzer {
    mutator: Mutator,
    seeds: Vec<Vec<u8>>,
    given: u64,
}

impl Fuzzer {
    /// Input made from `seeds`; the same `random` makes the same.
    ///
    /// # Panics
    /// Without a seed.
    #[must_use]
    pub fn new(seeds: Vec<Vec<u8>>, dictionary: &'static [&'static [u8]], random: u64) -> Self {
        assert!(!seeds.is_empty(), "nothing to begin with");
        Self {
            mutator: Mutator::new(random, dictionary),
            seeds,
            given: 0,
        }
    }

    /// The next input: the seeds as they are first.
    #[must_use]
    pub fn next_input(&mut self) -> Vec<u8> {
        let given = usize::try_from(self.given).unwrap_or(usize::MAX);
        self.given += 1;
        match self.seeds.get(given) {
            Some(seed) => seed.clone(),
            None => self.mutator.mutated(&self.seeds),
        }
    }

    /// Gives `run` this many more inputs.
    ///
    /// # Errors
    /// The first one at which it panics.
    pub fn run(&mut self, inputs: u64, run: impl Fn(&[u8])) -> Result<(), Box<Failure>> {
        for _ in 0..inputs {
            let after = self.given;
            let input = self.next_input();
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&input))) {
                let message = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                    .unwrap_or_default();
                return Err(Box::new(Failure {
                    input,
                    after,
                    message,
                }));
            }
        }
        Ok(())
    }
}
