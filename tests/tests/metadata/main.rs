//! What this repository declares of Windows, compared with Microsoft's own metadata.
//!
//! The second sources are the `.winmd` files that the crate windows-bindgen carries and, where the repository's
//! companion folder is at hand, the facts gathered there. Every difference fails a test, but for those that are named
//! here with their reason.

mod bindings;
mod kit;
mod model;
mod reference;
mod simulated;
mod winmd;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::LazyLock;

use model::{Declarations, Outcome, Record, Signature, compare};

/// The metadata, and the framework's functions, which it lacks, from the framework's public headers.
static METADATA: LazyLock<Declarations> = LazyLock::new(|| {
    let mut metadata = winmd::read();
    metadata.functions.extend(framework());
    metadata
});
static KIT: LazyLock<Declarations> = LazyLock::new(kit::read);
static SIMULATED: LazyLock<Declarations> = LazyLock::new(|| Declarations {
    functions: simulated::exports(),
    ..simulated::constants()
});

/// Where the metadata is known to be wrong for x64: the beginning of the difference, and what is right.
const WRONG_METADATA: &[(&str, &str)] = &[
    (
        "HIGH_LEVEL:",
        "31 is that of x86; wdm.h defines 15 for AMD64",
    ),
    (
        "DEVICE_OBJECT:",
        "declared with DECLSPEC_ALIGN(MEMORY_ALLOCATION_ALIGNMENT), which the metadata leaves out",
    ),
    (
        "IO_STACK_LOCATION.Parameters.",
        "POINTER_ALIGNMENT of the members is left out",
    ),
];

/// Ours and Windows's name of a member, where they have no word in common.
const RENAMED: &[(&str, &str)] = &[
    ("kind", "type"),
    ("present", "currentMetadataValues"),
    ("bits", "uint64"),
    ("data", "NetBufferHeader"),
    ("data", "Next"),
    ("kind", "Type"),
    ("words", "Parameters"),
    ("words", "u"),
    // A union of pointers that nobody looks behind.
    ("context", "dataBuffer"),
    ("callback", "EvtTimerFunc"),
    ("callback", "EvtDpcFunc"),
    ("callback", "EvtWorkItemFunc"),
];

/// Structures of which one of ours stands for a version that the other source does not have: ours, and why.
const OTHER_SIZES: &[(&str, &str)] = &[
    (
        "NET_BUFFER_LIST",
        "29 slots of NetBufferListInfo since NDIS 6.80; the kit is that of NDIS 6.50, with 26",
    ),
    (
        "WDF_IO_QUEUE_CONFIG",
        "up to KMDF 1.7; later versions have more at the end",
    ),
    (
        "WDF_TIMER_CONFIG",
        "up to KMDF 1.9; later versions have more at the end",
    ),
];

/// The framework's functions under the names of their pointer types.
fn framework() -> impl Iterator<Item = (String, Signature)> {
    let table = include_str!("../../../crates/ksim/tests/kmdf-signatures.tsv");
    table.lines().filter_map(|line| {
        let (name, sizes) = line.split_once('\t')?;
        let mut sizes = sizes
            .split(['\t', ' '])
            .filter_map(|size| size.parse().ok());
        let returns = sizes.next()?;
        let name = format!("PFN_{}", name.to_ascii_uppercase());
        Some((
            name,
            Signature {
                parameters: sizes.collect(),
                returns,
            },
        ))
    })
}

/// Writes past the capture of a passing test's output: the figures are to be seen.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").expect("standard output");
}

/// Fails for every difference that `known` does not explain, and for every explanation without a difference.
fn judge(outcome: &Outcome, known: &[(&str, &str)], all_apply: bool) {
    let unexplained: Vec<&String> = outcome
        .mismatches
        .iter()
        .filter(|mismatch| !known.iter().any(|(start, _)| mismatch.starts_with(start)))
        .collect();
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    let stale: Vec<&(&str, &str)> = known
        .iter()
        .filter(|(start, _)| {
            !outcome
                .mismatches
                .iter()
                .any(|mismatch| mismatch.starts_with(start))
        })
        .collect();
    assert!(!all_apply || stale.is_empty(), "no longer so: {stale:#?}");
}

#[test]
fn the_kits_headers_agree_with_microsofts_metadata() {
    let outcome = compare(&KIT, &METADATA);
    say(&outcome.summary("The kit's headers and Microsoft's metadata:"));
    judge(&outcome, WRONG_METADATA, true);
    assert!(outcome.count("structures") > 60 && outcome.count("members") > 400);
    assert!(outcome.count("functions") > 100 && outcome.count("constants") > 400);
    assert!(outcome.count("GUIDs") > 300);
}

#[test]
fn simulated_functions_and_constants_agree_with_microsofts_metadata() {
    let outcome = compare(&SIMULATED, &METADATA);
    say(&outcome.summary("What ksim and the schema declare and Microsoft's metadata:"));
    judge(&outcome, WRONG_METADATA, false);
    assert!(outcome.count("functions") > 180 && outcome.count("constants") > 250);
    assert!(outcome.count("GUIDs") > 180);
}

#[test]
fn simulated_functions_and_constants_agree_with_the_kit() {
    let outcome = compare(&SIMULATED, &KIT);
    say(&outcome.summary("What ksim and the schema declare and the kit's headers:"));
    judge(&outcome, &[], true);
    assert!(outcome.count("functions") > 200 && outcome.count("constants") > 400);
}

#[test]
fn the_bindings_agree_with_the_kit_and_the_metadata() {
    let Some(bindings) = bindings::read() else {
        say("SKIPPED: wfp-sys: no driver was built in target/driver (cargo xtask build)");
        return;
    };
    for (name, source) in [
        ("the kit's headers", &*KIT),
        ("Microsoft's metadata", &*METADATA),
    ] {
        let outcome = compare(&bindings, source);
        say(&outcome.summary(&format!("wfp-sys's bindings and {name}:")));
        judge(&outcome, WRONG_METADATA, false);
        assert!(outcome.count("structures") > 10 && outcome.count("members") > 50);
    }
}

/// Words of a name in either style, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before_lower = false;
    for character in name.chars() {
        let upper = character.is_ascii_uppercase();
        if !character.is_ascii_alphanumeric() || (upper && before_lower) || words.is_empty() {
            words.push(String::new());
        }
        before_lower = !upper;
        if character.is_ascii_alphanumeric() {
            words
                .last_mut()
                .expect("just made")
                .push(character.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether two names of a member mean the same: a word of one begins as a word of the other.
fn same_meaning(ours: &str, theirs: &str) -> bool {
    let begins = |one: &str, other: &str| {
        let head: String = other.chars().take(4).collect();
        one.starts_with(&head)
    };
    RENAMED.contains(&(ours, theirs))
        || words(ours).iter().any(|one| {
            words(theirs)
                .iter()
                .any(|other| begins(one, other) || begins(other, one))
        })
}

fn compare_layout(
    ours: &simulated::Layout,
    name: &str,
    theirs: &Record,
    differences: &mut Vec<String>,
) {
    let other_size = OTHER_SIZES.iter().any(|(known, _)| *known == name);
    if ours.record.size != theirs.size && !other_size {
        differences.push(format!(
            "{name}: {} bytes here, {} there",
            ours.record.size, theirs.size
        ));
    }
    for (field, offset) in &ours.record.fields {
        let there: Vec<&String> = theirs
            .fields
            .iter()
            .filter(|(_, at)| *at == offset)
            .map(|(name, _)| name)
            .collect();
        if !there.is_empty() && !there.iter().any(|name| same_meaning(field, name)) {
            differences.push(format!("{name}: {field} at {offset} is {there:?} there"));
        }
        if there.is_empty() && !field.contains("reserved") && !field.contains("allocation") {
            differences.push(format!("{name}: nothing begins at {offset}, {field} here"));
        }
    }
}

#[test]
fn simulated_structures_are_laid_out_as_everywhere() {
    let (mut compared, mut differences) = (0, Vec::new());
    let facts = reference::read().unwrap_or_default();
    let sources = [&*METADATA, &*KIT, &facts];
    let mut alone = BTreeSet::new();
    for layout in simulated::layouts() {
        assert!(
            !layout.names.is_empty(),
            "a structure of {} has no Windows name",
            layout.file
        );
        for name in &layout.names {
            let found: Vec<&Record> = sources
                .iter()
                .filter_map(|source| source.records.get(name))
                .collect();
            compared += usize::from(!found.is_empty());
            for record in &found {
                compare_layout(&layout, name, record, &mut differences);
            }
            if found.is_empty() {
                alone.insert(name.clone());
            }
        }
    }
    say(&format!(
        "ksim's structures: {compared} compared, {} without a second source: {alone:?}",
        alone.len()
    ));
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(compared > 30, "only {compared} were compared");
}

#[test]
fn what_the_metadata_does_not_hold_agrees_with_the_gathered_facts() {
    let Some(facts) = reference::read() else {
        say(
            "SKIPPED: ../shared/reference is not here: what Microsoft's metadata lacks has no second source",
        );
        return;
    };
    let mut left: BTreeSet<(&str, String)> = BTreeSet::new();
    for (title, ours) in [
        ("the kit's headers", &*KIT),
        ("ksim and the schema", &*SIMULATED),
    ] {
        let outcome = compare(ours, &facts);
        say(&outcome.summary(&format!("{title} and the gathered facts:")));
        judge(&outcome, &[], true);
        let alone = compare(ours, &METADATA).without_a_source_in(&outcome);
        for (what, names) in alone {
            left.extend(names.into_iter().map(|name| (what, name)));
        }
    }
    for what in ["structures", "members", "functions", "constants", "GUIDs"] {
        let names: Vec<&str> = left
            .iter()
            .filter(|(kind, _)| *kind == what)
            .map(|(_, name)| name.as_str())
            .collect();
        say(&format!(
            "{} {what} have no second source: {}",
            names.len(),
            names.join(" ")
        ));
    }
}

#[test]
fn the_frameworks_table_grows_as_it_did() {
    if reference::read().is_none() {
        say("SKIPPED: ../shared/reference is not here: the framework's table has no second source");
        return;
    }
    for (minor, count) in reference::framework_sizes()
        .into_iter()
        .filter(|(minor, _)| *minor >= 9)
    {
        assert_eq!(
            ksim::kmdf::functions_of(minor),
            Some(count),
            "KMDF 1.{minor}"
        );
    }
}
