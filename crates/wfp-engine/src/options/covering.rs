//! Few options that meet every pair of settings.

use super::{Options, QUESTIONS, Question};
use std::collections::BTreeSet;

/// A question by its place in the list of those to cover, and one of its settings.
type Choice = (usize, usize);

impl Options {
    /// Options such that every two settings of different questions occur
    /// together in one of them: what is sensitive to one setting, or to two at
    /// once, shows under at least one. The first is the default. Covers the
    /// questions that [suit a system](Question::suits_a_system).
    ///
    /// Always the same, so that a row's number names it.
    #[must_use]
    pub fn covering_array() -> Vec<Self> {
        let questions: Vec<&Question> = QUESTIONS
            .iter()
            .filter(|question| question.suits_a_system())
            .collect();
        let sizes: Vec<usize> = questions.iter().map(|q| q.settings.len()).collect();
        rows(&sizes)
            .into_iter()
            .map(|row| {
                let mut options = Self::default();
                for (question, setting) in questions.iter().zip(row) {
                    question.choose(&mut options, setting);
                }
                options
            })
            .collect()
    }
}

/// How many rows are tried for each that is kept.
const CANDIDATES: usize = 256;

/// Greedy: of several rows that begin with a missing pair, the one that meets
/// the most missing pairs.
fn rows(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut missing: BTreeSet<(Choice, Choice)> = BTreeSet::new();
    for (first, &first_size) in sizes.iter().enumerate() {
        for (second, &second_size) in sizes.iter().enumerate().skip(first + 1) {
            for a in 0..first_size {
                missing.extend((0..second_size).map(|b| ((first, a), (second, b))));
            }
        }
    }
    let mut rows = Vec::new();
    let mut row = vec![Question::DEFAULT; sizes.len()];
    loop {
        missing.retain(|pair| !meets(&row, pair));
        rows.push(row);
        let candidates = spread(missing.len(), CANDIDATES)
            .filter_map(|at| missing.iter().nth(at))
            .enumerate()
            .map(|(turn, start)| complete(sizes, &missing, *start, turn));
        let best =
            candidates.max_by_key(|row| missing.iter().filter(|pair| meets(row, pair)).count());
        match best {
            Some(best) => row = best,
            None => return rows,
        }
    }
}

/// At most `count` numbers below `length`, evenly spread.
fn spread(length: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(length);
    (0..count).map(move |turn| turn * length / count)
}

fn meets(row: &[usize], &((first, a), (second, b)): &(Choice, Choice)) -> bool {
    row[first] == a && row[second] == b
}

/// Completes a row that begins with `given`: each question, beginning with
/// another one each `turn`, takes the setting that meets the most missing pairs.
fn complete(
    sizes: &[usize],
    missing: &BTreeSet<(Choice, Choice)>,
    given: (Choice, Choice),
    turn: usize,
) -> Vec<usize> {
    let mut chosen = vec![given.0, given.1];
    for step in 0..sizes.len() {
        let question = (step + turn) % sizes.len();
        if chosen.iter().any(|(other, _)| *other == question) {
            continue;
        }
        let gain = |setting: usize| {
            let own = (question, setting);
            chosen
                .iter()
                .filter(|&&other| missing.contains(&(own.min(other), own.max(other))))
                .count()
        };
        // Where nothing is gained the turns differ, which spreads the settings.
        let size = sizes[question];
        let best = (0..size)
            .map(|setting| (setting + turn) % size)
            .max_by_key(|&setting| gain(setting))
            .unwrap_or(Question::DEFAULT);
        chosen.push((question, best));
    }
    let mut row = vec![Question::DEFAULT; sizes.len()];
    for (question, setting) in chosen {
        row[question] = setting;
    }
    row
}
