//! What two sources say about the same name, and where they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A structure or union: its size and where its members are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Bytes, with the padding at the end.
    pub(crate) size: u64,
    /// Offsets by name; the members of unnamed members are members, those of members that have a type of their own
    /// without a name are `member.name`.
    pub(crate) fields: BTreeMap<String, u64>,
}

/// What a function takes and gives, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Of each parameter.
    pub(crate) parameters: Vec<u64>,
    /// Of what it returns, 0 for nothing.
    pub(crate) returns: u64,
}

/// What one source declares.
#[derive(Debug, Default)]
pub(crate) struct Declarations {
    /// Structures and unions under every name they have.
    pub(crate) records: BTreeMap<String, Record>,
    /// Functions.
    pub(crate) functions: BTreeMap<String, Signature>,
    /// Numbers: macros, enumerators, statuses. Negative ones are kept by their bits.
    pub(crate) constants: BTreeMap<String, u64>,
    /// GUIDs.
    pub(crate) guids: BTreeMap<String, u128>,
}

/// How a comparison went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    compared: BTreeMap<&'static str, usize>,
    alone: BTreeMap<&'static str, BTreeSet<String>>,
    /// In words, one line each.
    pub(crate) mismatches: Vec<String>,
}

impl Outcome {
    /// Something was found in both.
    pub(crate) fn compared(&mut self, what: &'static str) {
        *self.compared.entry(what).or_default() += 1;
    }

    /// Something is in the first source only.
    pub(crate) fn alone(&mut self, what: &'static str, name: impl Into<String>) {
        self.alone.entry(what).or_default().insert(name.into());
    }

    /// How many were compared.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.compared.get(what).copied().unwrap_or(0)
    }

    /// Drops what is alone here and not in `other`, which says the same of a further source.
    pub(crate) fn without_a_source_in(
        &self,
        other: &Self,
    ) -> BTreeMap<&'static str, BTreeSet<String>> {
        self.alone
            .iter()
            .map(|(what, names)| {
                let still = other.alone.get(what).cloned().unwrap_or_default();
                (*what, names.intersection(&still).cloned().collect())
            })
            .collect()
    }

    /// In words.
    pub(crate) fn summary(&self, title: &str) -> String {
        let mut text = format!("{title}\n");
        for (what, count) in &self.compared {
            writeln!(text, "  {count} {what} compared").expect("memory");
        }
        text
    }
}

/// Two numbers are the same if they are in the width of the narrower one.
pub(crate) const fn same_number(one: u64, other: u64) -> bool {
    let narrow = u32::MAX as u64;
    one == other
        || (one & narrow == other & narrow
            && (one <= narrow || one >= u64::MAX - narrow / 2)
            && (other <= narrow || other >= u64::MAX - narrow / 2))
}

/// A name without the underscores that tags have before and after the name everybody uses.
pub(crate) fn plain_name(name: &str) -> &str {
    name.trim_matches('_')
}

/// Compares all that `ours` declares with what `theirs` says of it.
pub(crate) fn compare(ours: &Declarations, theirs: &Declarations) -> Outcome {
    let mut outcome = Outcome::default();
    let records: BTreeMap<&str, &Record> = theirs
        .records
        .iter()
        .map(|(name, record)| (plain_name(name), record))
        .collect();
    let mut seen = BTreeSet::new();
    for (name, record) in &ours.records {
        if !seen.insert(plain_name(name)) {
            continue;
        }
        match records.get(plain_name(name)) {
            Some(other) => {
                outcome.compared("structures");
                compare_records(&mut outcome, name, record, other);
            }
            None => outcome.alone("structures", plain_name(name)),
        }
    }
    for (name, signature) in &ours.functions {
        match theirs.functions.get(name) {
            Some(other) => {
                outcome.compared("functions");
                if signature != other {
                    outcome
                        .mismatches
                        .push(format!("{name}: {signature:?} here, {other:?} there"));
                }
            }
            None => outcome.alone("functions", name),
        }
    }
    for (name, value) in &ours.constants {
        match theirs.constants.get(name) {
            Some(other) => {
                outcome.compared("constants");
                if !same_number(*value, *other) {
                    outcome
                        .mismatches
                        .push(format!("{name}: {value:#x} here, {other:#x} there"));
                }
            }
            None => outcome.alone("constants", name),
        }
    }
    for (name, value) in &ours.guids {
        match theirs.guids.get(name) {
            Some(other) => {
                outcome.compared("GUIDs");
                if value != other {
                    outcome
                        .mismatches
                        .push(format!("{name}: {value:032x} here, {other:032x} there"));
                }
            }
            None => outcome.alone("GUIDs", name),
        }
    }
    outcome
}

fn compare_records(outcome: &mut Outcome, name: &str, ours: &Record, theirs: &Record) {
    // A type that one side declares without saying what is in it has a size only.
    if ours.size != theirs.size {
        outcome.mismatches.push(format!(
            "{name}: {} bytes here, {} there",
            ours.size, theirs.size
        ));
    }
    for (field, offset) in &ours.fields {
        match theirs.fields.get(field) {
            Some(other) if offset == other => outcome.compared("members"),
            Some(other) => outcome.mismatches.push(format!(
                "{name}.{field}: at {offset} here, at {other} there"
            )),
            None => outcome.alone("members", format!("{}.{field}", plain_name(name))),
        }
    }
}
