//! The report as JSON.

use std::net::IpAddr;

use ksim::Report;
use portcullis_proto::callout::CALLOUTS;
use portcullis_proto::status::CalloutStatus;
use serde::Serialize;

use super::{direction, protocol, rule, verdict};
use crate::replay::{Flow, Outcome};

/// The report of a replay.
#[derive(Debug, Serialize)]
pub struct ReplayReport<'a> {
    flows: Vec<FlowEntry<'a>>,
    callouts: Vec<CalloutEntry>,
    verifier: VerifierEntry,
    packets: u64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct FlowEntry<'a> {
    protocol: String,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    /// Where the driver sent it instead; left out where it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    redirected_to: Option<(IpAddr, u16)>,
    direction: &'static str,
    /// The interface that its packets took last, if that was named; left out where it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    host: Option<&'a str>,
    /// The host's hello had an encrypted one in it too; left out where it had not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    has_encrypted_hello: bool,
    /// Places at which rules changed what was sent, and what was received; left out where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<[u64; 2]>,
    packets: [u64; 2],
    bytes: [u64; 2],
    verdict: &'static str,
    rule: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct CalloutEntry {
    name: &'static str,
    layer: &'static str,
    id: u32,
    classify: u64,
    permit: u64,
    block: u64,
}

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

impl<'a> ReplayReport<'a> {
    /// The report of `outcome`; `rules` are the names of the policy's rules.
    #[must_use]
    pub fn new(outcome: &'a Outcome, rules: &'a [String]) -> Self {
        Self {
            flows: outcome
                .flows
                .iter()
                .map(|flow| flow_entry(flow, rules, &outcome.interfaces))
                .collect(),
            callouts: outcome.callouts.iter().filter_map(callout_entry).collect(),
            verifier: VerifierEntry::from(&outcome.verifier),
            packets: outcome.frames,
            seconds: outcome.duration.as_secs_f64(),
        }
    }
}

fn flow_entry<'a>(
    flow: &'a Flow,
    rules: &'a [String],
    interfaces: &'a [(String, u64)],
) -> FlowEntry<'a> {
    let report = &flow.report;
    let mut interfaces = interfaces.iter();
    FlowEntry {
        protocol: protocol(report.protocol),
        local: (report.local.address, report.local.port),
        remote: (report.remote.address, report.remote.port),
        redirected_to: flow
            .decided
            .redirected_to
            .map(|target| (target.ip(), target.port())),
        direction: direction(report.direction),
        interface: interfaces
            .find(|(_, luid)| *luid == flow.decided.interface)
            .map(|(name, _)| name.as_str()),
        host: flow.decided.host.as_deref(),
        has_encrypted_hello: flow.decided.has_encrypted_hello,
        changes: Some(flow.decided.changes).filter(|changes| *changes != [0; 2]),
        packets: report.packets,
        bytes: report.bytes,
        verdict: verdict(flow),
        rule: rule(flow, rules),
    }
}

fn callout_entry(status: &CalloutStatus) -> Option<CalloutEntry> {
    let info = CALLOUTS
        .iter()
        .find(|info| info.kind.raw() == status.kind && info.family.raw() == status.family)?;
    Some(CalloutEntry {
        name: info.name,
        layer: info.layer,
        id: status.callout_id.get(),
        classify: status.classify.get(),
        permit: status.permit.get(),
        block: status.block.get(),
    })
}
