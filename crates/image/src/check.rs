//! What is wrong with a driver image.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{Image, ImportName, Machine};

/// What each module of the kernel exports: names by lower-case file name (`ntoskrnl.exe`).
pub type ExportLists = BTreeMap<String, BTreeSet<String>>;

/// What an image is to be.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// What it must run on; `None` accepts any.
    pub machine: Option<Machine>,
    /// What the real libraries export; `None` does not check names.
    pub exports: Option<ExportLists>,
    /// Whether it must be a KMDF driver whose entry is the framework's stub.
    pub kmdf: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A short stable name.
    pub rule: &'static str,
    /// What is wrong and where.
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)
    }
}

/// `IMAGE_SUBSYSTEM_NATIVE`.
const NATIVE: u16 = 1;

/// Everything about `image` that a driver must not be, or that is not as expected.
#[must_use]
pub fn check(image: &Image, expected: &Expectations) -> Vec<Finding> {
    let mut findings = Findings::default();
    if let Some(machine) = expected.machine.filter(|&machine| machine != image.machine) {
        findings.add(
            "machine",
            format!("the image is for {}, not for {machine}", image.machine),
        );
    }
    if image.subsystem != NATIVE {
        findings.add(
            "subsystem",
            format!("the subsystem is {}, not native (1)", image.subsystem),
        );
    }
    sections(image, &mut findings);
    flags(image, &mut findings);
    checksum(image, &mut findings);
    imports(image, expected.exports.as_ref(), &mut findings);
    if expected.kmdf {
        kmdf(image, &mut findings);
    }
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, rule: &'static str, message: impl Into<String>) {
        self.0.push(Finding {
            rule,
            message: message.into(),
        });
    }
}

fn sections(image: &Image, findings: &mut Findings) {
    for section in image
        .sections
        .iter()
        .filter(|section| section.write && section.execute)
    {
        findings.add(
            "writable-executable",
            format!("section {} is writable and executable", section.name),
        );
    }
    let writable: BTreeSet<&str> = image
        .imports
        .iter()
        .filter_map(|import| image.section_at(import.slot))
        .filter(|section| section.write)
        .map(|section| section.name.as_str())
        .collect();
    for section in writable {
        findings.add(
            "writable-imports",
            format!("the import address table is in section {section}, which is writable"),
        );
    }
}

fn flags(image: &Image, findings: &mut Findings) {
    let flags = image.characteristics;
    for (set, name) in [
        (flags.nx, "NX_COMPAT"),
        (flags.aslr, "DYNAMIC_BASE"),
        (flags.high_entropy, "HIGH_ENTROPY_VA"),
        (flags.force_integrity, "FORCE_INTEGRITY"),
    ] {
        if !set {
            findings.add("characteristics", format!("the flag {name} is missing"));
        }
    }
    if image.relocations.is_none() {
        findings.add(
            "relocations",
            "relocations were stripped, so the image cannot be moved",
        );
    }
}

fn checksum(image: &Image, findings: &mut Findings) {
    if image.checksum == 0 {
        findings.add("checksum", "the checksum is zero");
    } else if image.checksum != image.computed_checksum {
        let (stored, computed) = (image.checksum, image.computed_checksum);
        findings.add(
            "checksum",
            format!("the checksum is {stored:#010x}, and should be {computed:#010x}"),
        );
    }
}

fn imports(image: &Image, exports: Option<&ExportLists>, findings: &mut Findings) {
    for import in &image.imports {
        let name = match &import.name {
            ImportName::Name(name) => name,
            ImportName::Ordinal(ordinal) => {
                findings.add(
                    "ordinal-import",
                    format!(
                        "{}: function {ordinal} is imported by ordinal",
                        import.module
                    ),
                );
                continue;
            }
        };
        let Some(lists) = exports else { continue };
        match lists.get(&import.module.to_ascii_lowercase()) {
            None => findings.add(
                "unknown-import",
                format!("{}!{name}: no such module is known", import.module),
            ),
            Some(list) if !list.contains(name) => {
                findings.add(
                    "unknown-import",
                    format!("{}!{name} is not exported there", import.module),
                );
            }
            Some(_) => {}
        }
    }
}

fn kmdf(image: &Image, findings: &mut Findings) {
    if image.kmdf.is_none() {
        findings.add("kmdf", "there is no KMDF bind information");
    }
    if !image
        .entry_reaches
        .iter()
        .any(|name| name == "WdfVersionBind")
    {
        findings.add(
            "entry",
            format!(
                "the entry point {:#x} is not the KMDF stub's: it does not lead to WdfVersionBind",
                image.entry
            ),
        );
    }
}
