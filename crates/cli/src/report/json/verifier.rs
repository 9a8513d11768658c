//! What the verifier found.

use ksim::Report;
use serde::Serialize;

/// What the verifier found.
#[derive(Debug, Serialize)]
pub struct VerifierEntry {
    violations: Vec<ViolationEntry>,
    leaks: Vec<LeakEntry>,
}

#[derive(Debug, Serialize)]
struct ViolationEntry {
    rule: &'static str,
    severity: &'static str,
    message: String,
    call: Option<&'static str>,
    callback: Option<&'static str>,
    last_call: Option<&'static str>,
    arguments: Vec<ArgumentEntry>,
    driver: Option<String>,
    site: Option<String>,
    stack: Vec<String>,
    processor: u32,
    irql: u8,
}

#[derive(Debug, Serialize)]
struct ArgumentEntry {
    name: &'static str,
    value: String,
}

#[derive(Debug, Serialize)]
struct LeakEntry {
    kind: &'static str,
    name: String,
    site: String,
    count: usize,
    bytes: usize,
}

impl From<&Report> for VerifierEntry {
    fn from(report: &Report) -> Self {
        let violations = report.violations.iter().map(|violation| ViolationEntry {
            rule: violation.rule,
            severity: violation.severity.name(),
            message: violation.message.clone(),
            call: violation.call,
            callback: violation.callback,
            last_call: violation.last_call,
            arguments: violation
                .arguments
                .iter()
                .map(|(name, value)| ArgumentEntry {
                    name,
                    value: value.clone(),
                })
                .collect(),
            driver: violation.driver.clone(),
            site: violation.site.clone(),
            stack: violation.stack.clone(),
            processor: violation.processor,
            irql: violation.irql,
        });
        let leaks = report.leaks.iter().map(|leak| LeakEntry {
            kind: leak.kind,
            name: leak.name.clone(),
            site: leak.site.clone(),
            count: leak.count,
            bytes: leak.bytes,
        });
        Self {
            violations: violations.collect(),
            leaks: leaks.collect(),
        }
    }
}
