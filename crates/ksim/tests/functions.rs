//! `docs/simulated-functions.md` is made from what `exports!` declares, and says what is true now.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use ksim::export::{self, Export};

/// Set by `cargo xtask docs`: the file is written instead of compared.
const WRITE: &str = "PORTCULLIS_WRITE_DOCS";

const INTRODUCTION: &str = "\
# Simulated functions

What a driver can import from ksim, and which functions of the KMDF table do something. A function that is not
listed can be imported all the same: it stops the machine and says its name when it is called.

**IRQL** is where a call is allowed; a call elsewhere is the violation `irql-range`. **Can fail** means that a fault
plan can make it fail. Each name leads to the page that the behaviour follows.

`cargo xtask docs` writes this file from the declarations in `crates/ksim`; do not edit it.
";

fn level(irql: u8) -> String {
    match irql {
        0 => "PASSIVE".to_owned(),
        1 => "APC".to_owned(),
        2 => "DISPATCH".to_owned(),
        15 => "HIGH".to_owned(),
        other => other.to_string(),
    }
}

fn levels(export: &Export) -> String {
    match (*export.irql.start(), *export.irql.end()) {
        (0, 15) => "any".to_owned(),
        (low, high) if low == high => level(low),
        (0, high) => format!("≤ {}", level(high)),
        (low, high) => format!("{} to {}", level(low), level(high)),
    }
}

fn row(export: &Export) -> String {
    let name = export.page().map_or_else(
        || export.name.to_owned(),
        |page| format!("[{}]({page})", export.name),
    );
    let fails = if export.fallible { "yes" } else { "" };
    format!("| {name} | {} | {fails} |\n", levels(export))
}

/// Functions of WFP that drivers import and that are declared nowhere here, with what they would need.
const ABSENT: &[(&str, &str)] = &[
    (
        "FwpmConnectionEnum0 and its like",
        "IPsec: nothing here is secured by it",
    ),
    (
        "FwpmNetEventSubscribe0",
        "user mode only: the kernel exports no subscription to net events",
    ),
    (
        "FwpmNetEventCreateEnumHandle0, Enum, Destroy, FwpmNetEventsGet0",
        "the log of net events that BFE keeps",
    ),
    (
        "FwpsAleEndpointGetSecurityInfo0, FwpsAleEndpointSetSecurityInfo0",
        "security descriptors of endpoints",
    ),
    (
        "FwpsvSwitchEventsSubscribe0, Unsubscribe0, FwpsvSwitchNotifyComplete0",
        "the NDIS structures of an extensible switch that its events hand over",
    ),
    (
        "provider contexts of other types than GENERAL",
        "the IPsec policies that they point at: adding one is refused",
    ),
];

/// The functions that the kit's import libraries name and that trap when they are called.
fn traps() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kit/lib");
    let simulated: BTreeSet<&str> = export::all().map(|export| export.name).collect();
    let mut text = String::from(
        "\n## Not simulated\n\nOf what the kit's import libraries name, these stop the machine when they are \
         called:\n\n",
    );
    for library in ["fwpkclnt", "ndis", "ntoskrnl"] {
        let file = folder.join(library).with_extension("def");
        let names = std::fs::read_to_string(&file).expect("the kit's libraries");
        let names: Vec<String> = names
            .lines()
            .skip_while(|line| *line != "EXPORTS")
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| !name.starts_with(';') && !simulated.contains(name))
            .map(|name| format!("`{name}`"))
            .collect();
        if !names.is_empty() {
            writeln!(text, "- {library}: {}", names.join(", ")).expect("memory");
        }
    }
    text.push_str("\nOf WFP, further, with what they would need:\n\n");
    for (name, needs) in ABSENT {
        writeln!(text, "- {name}: {needs}").expect("memory");
    }
    text
}

#[test]
fn what_is_said_to_be_absent_is() {
    for (names, _) in ABSENT {
        for name in names
            .split([',', ' '])
            .filter(|name| name.starts_with("Fwp"))
        {
            assert!(
                export::all().all(|export| export.name != name),
                "{name} is simulated"
            );
        }
    }
}

fn table() -> String {
    let mut modules: BTreeMap<&str, Vec<&Export>> = BTreeMap::new();
    for export in export::all() {
        modules.entry(export.module).or_default().push(export);
    }
    let mut text = INTRODUCTION.to_owned();
    for (module, mut exports) in modules {
        exports.sort_by_key(|export| (export.name.to_ascii_lowercase(), export.name));
        write!(text, "\n## {module}: {} functions\n\n", exports.len()).expect("memory");
        text.push_str("| Function | IRQL | Can fail |\n| --- | --- | --- |\n");
        text.extend(exports.into_iter().map(row));
    }
    text + &traps()
}

#[test]
fn the_table_of_simulated_functions_is_what_the_code_declares() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/simulated-functions.md");
    let expected = table();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &expected).expect("docs/ is writable");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let stale: Vec<&str> = expected
        .lines()
        .filter(|line| !found.lines().any(|found| found == *line))
        .collect();
    assert!(
        found == expected,
        "docs/simulated-functions.md is stale: run `cargo xtask docs`; new lines: {stale:#?}"
    );
}

#[test]
fn every_function_names_its_page() {
    let missing: Vec<&str> = export::all()
        .filter(|export| export.page().is_none())
        .map(|export| export.name)
        .collect();
    assert!(missing.is_empty(), "without a page: {missing:?}");
}

/// Functions that only a header's macro or inline function calls, or whose family shares a page: the name on it.
const SHARED_PAGES: &[(&str, &str)] = &[
    ("ExfAcquirePushLockExclusive", "ExAcquirePushLockExclusive"),
    ("ExfAcquirePushLockShared", "ExAcquirePushLockShared"),
    ("ExfAcquireRundownProtection", "ExAcquireRundownProtection"),
    ("ExfReleasePushLock", "ExReleasePushLockExclusive"),
    ("ExReleasePushLockEx", "ExReleasePushLockExclusive"),
    ("ExfReleasePushLockExclusive", "ExReleasePushLockExclusive"),
    ("ExfReleasePushLockShared", "ExReleasePushLockShared"),
    ("ExfReleaseRundownProtection", "ExReleaseRundownProtection"),
    (
        "ExfWaitForRundownProtectionRelease",
        "ExWaitForRundownProtectionRelease",
    ),
    ("ExpInterlockedFlushSList", "ExInterlockedFlushSList"),
    ("ExpInterlockedPopEntrySList", "ExInterlockedPopEntrySList"),
    (
        "ExpInterlockedPushEntrySList",
        "ExInterlockedPushEntrySList",
    ),
    // It has no page; that of its structure tells what it adds.
    ("FwpsCalloutRegister3", "fwps_callout3_"),
    ("IoAcquireRemoveLockEx", "IoAcquireRemoveLock"),
    ("IofCompleteRequest", "IoCompleteRequest"),
    ("IoInitializeRemoveLockEx", "IoInitializeRemoveLock"),
    ("IoReleaseRemoveLockAndWaitEx", "IoReleaseRemoveLockAndWait"),
    ("IoReleaseRemoveLockEx", "IoReleaseRemoveLock"),
    ("KfLowerIrql", "KeLowerIrql"),
    ("RtlNtStatusToDosErrorNoTeb", "RtlNtStatusToDosError"),
    ("WdfObjectGetTypedContextWorker", "WdfObjectGetTypedContext"),
    ("ZwClose", "NtClose"),
    ("ExAcquirePushLockExclusiveEx", "ExAcquirePushLockExclusive"),
    ("ExAcquirePushLockSharedEx", "ExAcquirePushLockShared"),
    ("ExReleasePushLockExclusiveEx", "ExReleasePushLockExclusive"),
    ("ExReleasePushLockSharedEx", "ExReleasePushLockShared"),
];

/// The name under which a function is documented.
fn documented_as(export: &Export) -> &'static str {
    SHARED_PAGES
        .iter()
        .find(|(name, _)| *name == export.name)
        .map_or(export.name, |(_, page)| page)
}

/// The pages are not fetched, but a page's address ends with the function's name.
#[test]
fn a_page_is_that_of_its_function() {
    let strangers: Vec<String> = export::all()
        .filter_map(|export| Some((export, export.page()?)))
        .filter(|(_, page)| page.contains("/ddi/"))
        .filter(|(export, page)| {
            let name = format!("-{}", documented_as(export).to_ascii_lowercase());
            !page.ends_with(&name)
        })
        .map(|(export, page)| format!("{}: {page}", export.name))
        .collect();
    assert!(strangers.is_empty(), "{strangers:#?}");
}

#[test]
fn no_function_is_declared_twice() {
    let mut seen = BTreeSet::new();
    let twice: Vec<&str> = export::all()
        .filter(|export| !seen.insert((export.module, export.name)))
        .map(|export| export.name)
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
}
