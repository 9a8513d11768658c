//! The conformance list: which of its rows pass as a model and through the ABI, and under which options.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::bail;
use wfp_engine::{Options, Question};

use crate::driver::{self, Arch};
use crate::setup;
use crate::shell::step;
use crate::suite::{self, Images, Outcome, Program};
use crate::test_drivers;

/// The sections of the list, with how many rows each has.
const SECTIONS: [(&str, usize); 13] = [
    ("OBJ", 18),
    ("WGT", 4),
    ("CND", 11),
    ("TXN", 7),
    ("SES", 5),
    ("CAL", 18),
    ("ARB", 17),
    ("FLW", 11),
    ("ALE", 13),
    ("STR", 13),
    ("INJ", 9),
    ("BFE", 3),
    ("IRQ", 2),
];

/// The package of the end-to-end tests, the ABI suite among them.
const END_TO_END: &str = "portcullis-tests";
/// The name of both conformance suites.
const SUITE: &str = "conformance";
/// The program of the product's own end-to-end tests.
const PRODUCT: &str = "product";

/// How much of the covering array the product's tests run under; the ABI suite runs under all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breadth {
    /// The rows of it in which every setting occurs.
    EverySetting,
    /// All of it: every pair of settings occurs.
    EveryPair,
}

/// Packages whose tests are of the model: the engine, and the network stack in the simulated kernel.
const MODEL: [&str; 2] = ["wfp-engine", "ksim"];

/// A row, as tests name it: `cal_14`.
type Row = String;

/// Whether each row that has tests has passed all of them.
#[derive(Debug, Default)]
struct Rows(BTreeMap<Row, bool>);

impl Rows {
    fn add(&mut self, outcome: &Outcome) {
        for (test, passed) in &outcome.tests {
            if let Some(row) = row_of(test) {
                *self.0.entry(row).or_insert(true) &= passed;
            }
        }
    }

    /// The rows of a section that have passed, and those that have not.
    fn of(&self, section: &str, count: usize) -> (usize, Vec<Row>) {
        let (passed, missing): (Vec<_>, Vec<_>) = (1..=count)
            .map(|number| format!("{}_{number:02}", section.to_lowercase()))
            .partition(|row| self.0.get(row).copied().unwrap_or(false));
        (passed.len(), missing)
    }
}

/// The row that a test is of.
fn row_of(test: &str) -> Option<Row> {
    let name = test.rsplit("::").next()?;
    let row = name.get(..6)?;
    let (section, number) = row.split_once('_')?;
    let known = SECTIONS
        .iter()
        .any(|(known, _)| known.to_lowercase() == section);
    (known && number.parse::<u8>().is_ok() && name[6..].starts_with('_')).then(|| row.to_owned())
}

/// What is known of the list.
#[derive(Debug, Default)]
pub(crate) struct Conformance {
    model: Rows,
    abi: Rows,
    /// The rows of the covering array, and how many tests passed under each.
    options: Vec<(String, usize)>,
    failed: BTreeSet<String>,
    /// How long each program took, under all options together.
    times: BTreeMap<String, Duration>,
}

impl Conformance {
    /// Takes note of what became of a program's tests under the default options.
    pub(crate) fn note(&mut self, program: &Program, outcome: &Outcome) {
        self.note_run(program, outcome, "");
        if program.is(END_TO_END, SUITE) {
            self.abi.add(outcome);
        } else if MODEL.contains(&program.package.as_str()) {
            self.model.add(outcome);
        }
    }

    fn note_run(&mut self, program: &Program, outcome: &Outcome, options: &str) {
        let name = format!("{} {}", program.package, program.target);
        *self.times.entry(name).or_default() += outcome.elapsed;
        let failed = outcome.tests.iter().filter(|(_, passed)| !**passed);
        let under = if options.is_empty() {
            String::new()
        } else {
            format!(" under {options}")
        };
        self.failed.extend(
            failed
                .map(|(test, _)| format!("{} {}: {test}{under}", program.package, program.target)),
        );
        if !outcome.ended_well && outcome.tests.values().all(|passed| *passed) {
            self.failed.insert(format!(
                "{} {}: ended badly{under}",
                program.package, program.target
            ));
        }
    }

    /// Runs the ABI suite under every row of the covering array but the default, under which it runs with the other
    /// tests, and the product's end-to-end tests under as many as `breadth` says.
    pub(crate) fn cover(
        &mut self,
        programs: &[Program],
        images: &Images,
        breadth: Breadth,
    ) -> anyhow::Result<()> {
        let array = Options::covering_array();
        step(&format!(
            "the tests on drivers under {} further sets of options, in which every pair of settings occurs",
            array.len().saturating_sub(1)
        ));
        let mut settings = BTreeSet::new();
        let mut sets = Vec::new();
        for options in &array {
            let questions = Options::questions().iter();
            let chosen: Vec<_> = questions
                .map(|question| (question.name(), question.setting(options)))
                .collect();
            let before = settings.len();
            settings.extend(chosen);
            let of_product = breadth == Breadth::EveryPair || settings.len() > before;
            sets.push((options, of_product));
        }
        // The first set is the default, under which everything has run.
        let further = sets.iter().skip(1);
        let parts = further
            .clone()
            .filter(|(_, of_product)| *of_product)
            .count();
        println!(
            "of each sweep over failing calls a set takes one call in {parts}, each set others: together all of them"
        );
        let mut part = 0;
        for (options, of_product) in further {
            part += usize::from(*of_product);
            let sweep = of_product.then(|| format!("{part}/{parts}"));
            self.run_under(programs, images, &options.to_string(), sweep.as_deref())?;
        }
        Ok(())
    }

    /// Runs the ABI suite under `options`, and with a part of the sweeps the product's tests too.
    fn run_under(
        &mut self,
        programs: &[Program],
        images: &Images,
        options: &str,
        sweep: Option<&str>,
    ) -> anyhow::Result<()> {
        let mut passed = 0;
        for program in programs {
            let is_suite = program.is(END_TO_END, SUITE);
            let is_product = program.is(END_TO_END, PRODUCT);
            if !(is_suite || is_product && sweep.is_some()) {
                continue;
            }
            let outcome = program.run_under(images, options, sweep.unwrap_or("1/1"))?;
            passed += outcome.passed();
            self.note_run(program, &outcome, options);
            if is_suite {
                self.abi.add(&outcome);
            }
        }
        println!("{passed} passed under {options}");
        self.options.push((options.to_owned(), passed));
        Ok(())
    }

    /// How long the tests took, and which took longest.
    fn durations(&self) -> String {
        /// So many are named.
        const SLOWEST: usize = 12;

        let mut times: Vec<_> = self.times.iter().collect();
        times.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        let all: Duration = self.times.values().sum();
        let slowest = times.iter().take(SLOWEST);
        let named: Vec<_> = slowest
            .map(|(name, time)| format!("{name} {} s", time.as_secs()))
            .collect();
        let (minutes, seconds) = (all.as_secs() / 60, all.as_secs() % 60);
        format!(
            "The tests ran for {minutes} min {seconds} s, these longest: {}",
            named.join(", ")
        )
    }

    /// Prints the table.
    ///
    /// # Errors
    /// If a test has failed.
    pub(crate) fn report(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", self.json());
        } else {
            print!("{}", self.table());
        }
        self.failures()
    }

    /// # Errors
    /// If a test has failed.
    pub(crate) fn failures(&self) -> anyhow::Result<()> {
        if self.failed.is_empty() {
            return Ok(());
        }
        let failed: Vec<_> = self.failed.iter().map(String::as_str).collect();
        bail!("{} tests failed:\n  {}", failed.len(), failed.join("\n  "))
    }

    fn table(&self) -> String {
        let mut text = String::from("\nSection  Rows  As model  As ABI\n");
        let mut totals = [0; 3];
        let mut absent = [Vec::new(), Vec::new()];
        for (section, count) in SECTIONS {
            let (model, no_model) = self.model.of(section, count);
            let (abi, no_abi) = self.abi.of(section, count);
            absent[0].extend(no_model);
            absent[1].extend(no_abi);
            for (total, more) in totals.iter_mut().zip([count, model, abi]) {
                *total += more;
            }
            // Writing to a string does not fail.
            let _ = writeln!(text, "{section:<7} {count:>5} {model:>9} {abi:>7}");
        }
        let [rows, model, abi] = totals;
        let _ = writeln!(text, "{:<7} {rows:>5} {model:>9} {abi:>7}", "all");
        for (suite, rows) in ["model", "ABI"].into_iter().zip(absent) {
            if !rows.is_empty() {
                let _ = writeln!(text, "Without a passed test as {suite}: {}", named(&rows));
            }
        }
        let _ = writeln!(text, "{}\n{}", self.covered(), self.durations());
        text
    }

    fn covered(&self) -> String {
        let questions = Options::questions().iter();
        let covered = questions.filter(|question| question.suits_a_system());
        let settings: usize = covered
            .clone()
            .map(|question| question.settings().len())
            .sum();
        let fewest = self.options.iter().map(|(_, passed)| *passed).min();
        format!(
            "Options: {} questions with {settings} settings, each pair of which occurs in one of {} sets; at least {} \
             tests passed under each further one",
            covered.count(),
            self.options.len() + 1,
            fewest.unwrap_or(0)
        )
    }

    fn json(&self) -> serde_json::Value {
        let sections: Vec<_> = SECTIONS
            .iter()
            .map(|(section, count)| {
                let (model, no_model) = self.model.of(section, *count);
                let (abi, no_abi) = self.abi.of(section, *count);
                serde_json::json!({
                    "section": section,
                    "rows": count,
                    "model": { "passed": model, "missing": upper(&no_model) },
                    "abi": { "passed": abi, "missing": upper(&no_abi) },
                })
            })
            .collect();
        let options: Vec<_> = self
            .options
            .iter()
            .map(|(options, passed)| serde_json::json!({ "options": options, "passed": passed }))
            .collect();
        let questions: Vec<_> = Options::questions()
            .iter()
            .filter(|question| question.suits_a_system())
            .map(Question::name)
            .collect();
        serde_json::json!({
            "sections": sections,
            "questions": questions,
            "covering_array": options,
            "failed": self.failed,
        })
    }
}

fn upper(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .map(|row| row.to_uppercase().replace('_', "-"))
        .collect()
}

fn named(rows: &[Row]) -> String {
    upper(rows).join(", ")
}

/// Runs both suites and the options' covering array, and prints the table.
pub(crate) fn run(json: bool) -> anyhow::Result<()> {
    let tools = setup::install()?;
    let images = Images {
        driver: driver::build(&tools, Arch::X86_64)?,
        conformance: driver::build_conformance(&tools)?,
        examples: driver::build_examples(&tools, Arch::X86_64)?,
        test_drivers: test_drivers::build(&tools)?,
    };
    step("building the tests");
    let programs = suite::build(&images, &[MODEL[0], MODEL[1], END_TO_END])?;
    let mut conformance = Conformance::default();
    for program in &programs {
        let is_model = MODEL.contains(&program.package.as_str());
        if is_model || program.is(END_TO_END, SUITE) {
            let outcome = program.run(&images, None)?;
            conformance.note(program, &outcome);
        }
    }
    conformance.cover(&programs, &images, Breadth::EveryPair)?;
    conformance.report(json)
}

#[cfg(test)]
mod tests {
    use super::row_of;

    #[test]
    fn a_tests_name_begins_with_its_row() {
        let row = row_of("callouts::cal_14_unregister_is_busy_while_a_flow_has_a_context");
        assert_eq!(row.as_deref(), Some("cal_14"));
        assert_eq!(row_of("net::tests::ale_1_x"), None);
        assert_eq!(row_of("a_context_is_kept"), None);
        assert_eq!(row_of("foo_12_bar"), None);
    }
}
