//! The IRQL rule of each simulated function is that of its page.
//!
//! `documented-irql.tsv` holds what the pages' `req.irql` says (MicrosoftDocs/windows-driver-docs-ddi), word by word:
//! a second source beside what `exports!` declares.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use ksim::export;

const DOCUMENTED: &str = include_str!("documented-irql.tsv");

const APC: u8 = 1;
const DISPATCH: u8 = 2;
const HIGH: u8 = 15;

/// Pages whose one line says less than their remarks, or is wrong: function, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "ExAcquireFastMutexUnsafe",
        "remarks: APC_LEVEL, or PASSIVE_LEVEL in a critical region",
    ),
    ("ExReleaseFastMutexUnsafe", "as ExAcquireFastMutexUnsafe"),
    (
        "ExAcquireSpinLockShared",
        "remarks: IRQL <= DISPATCH_LEVEL on entry",
    ),
    (
        "KeReleaseSpinLockFromDpcLevel",
        "releases what KeAcquireSpinLockAtDpcLevel takes at IRQL >= DISPATCH_LEVEL",
    ),
    (
        "KeTryToAcquireSpinLockAtDpcLevel",
        "as KeAcquireSpinLockAtDpcLevel",
    ),
    (
        "RtlNtStatusToDosErrorNoTeb",
        "the page is that of the form that stores into the TEB",
    ),
    (
        "WdfFileObjectGetInitiatorProcessId",
        "reads one number; <= is missing on the page",
    ),
];

/// The range that a page's line means; `None` for one that refers to the remarks.
fn parse(line: &str) -> Option<RangeInclusive<u8>> {
    let line = line.split('(').next().unwrap_or_default();
    let line = line.replace("IRQL ", "").replace(['.', ' '], "");
    Some(match &*line {
        "PASSIVE_LEVEL" => 0..=0,
        "APC_LEVEL" => APC..=APC,
        "<=APC_LEVEL" | "<DISPATCH_LEVEL" => 0..=APC,
        "DISPATCH_LEVEL" => DISPATCH..=DISPATCH,
        "<=DISPATCH_LEVEL" => 0..=DISPATCH,
        ">=DISPATCH_LEVEL" => DISPATCH..=HIGH,
        "Anylevel" | "Any" => 0..=HIGH,
        _ => return None,
    })
}

#[test]
fn the_irql_of_a_function_is_that_of_its_page() {
    let documented: BTreeMap<&str, &str> = DOCUMENTED
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect();
    let (mut compared, mut unclear, mut wrong) = (0, Vec::new(), Vec::new());
    for export in export::all() {
        match documented.get(export.name).map(|line| (line, parse(line))) {
            Some((_, Some(range))) if range == export.irql => compared += 1,
            Some((line, Some(_))) if !EXCEPTIONS.iter().any(|(name, _)| *name == export.name) => {
                wrong.push(format!("{}: {:?}, page: {line}", export.name, export.irql));
            }
            Some((_, Some(_))) => {}
            Some((_, None)) | None => unclear.push(export.name),
        }
    }
    println!("{compared} functions allow the IRQLs that their pages name");
    println!("{} differ for a reason: {EXCEPTIONS:#?}", EXCEPTIONS.len());
    println!(
        "{} have no line to compare with: {unclear:?}",
        unclear.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(compared > 250, "only {compared} were compared");
}

#[test]
fn an_exception_is_still_one() {
    let stale: Vec<&str> = EXCEPTIONS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| {
            let line = DOCUMENTED
                .lines()
                .filter_map(|line| line.split_once('\t'))
                .find(|(documented, _)| documented == name);
            let export = export::all().find(|export| export.name == *name);
            let range = line.and_then(|(_, line)| parse(line));
            range.is_none() || range == export.map(|export| export.irql.clone())
        })
        .collect();
    assert!(stale.is_empty(), "{stale:?}");
}

/// Whether a function of WFP may be called at `DISPATCH_LEVEL`.
fn at_dispatch(name: &str) -> bool {
    let export = export::resolve("fwpkclnt.sys", name);
    let export = export.unwrap_or_else(|| panic!("{name} is not simulated"));
    export.irql.contains(&DISPATCH)
}

#[test]
fn irq_01_objects_callouts_and_handles_are_made_below_dispatch_level() {
    for name in [
        "FwpmFilterAdd0",
        "FwpsCalloutRegister0",
        "FwpsCalloutRegister1",
        "FwpsCalloutRegister2",
        "FwpsInjectionHandleCreate0",
    ] {
        assert!(!at_dispatch(name), "{name}");
    }
}

#[test]
fn irq_02_flows_pending_injections_and_the_engines_state_are_for_dispatch_level_too() {
    for name in [
        "FwpsFlowAssociateContext0",
        "FwpsPendOperation0",
        "FwpsInjectNetworkSendAsync0",
        "FwpsInjectNetworkReceiveAsync0",
        "FwpsInjectTransportSendAsync0",
        "FwpsInjectTransportReceiveAsync0",
        "FwpsInjectForwardAsync0",
        "FwpsInjectMacSendAsync0",
        "FwpsInjectMacReceiveAsync0",
        "FwpsStreamInjectAsync0",
        "FwpmBfeStateGet0",
    ] {
        assert!(at_dispatch(name), "{name}");
    }
}
