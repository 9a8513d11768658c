//! The report of a replay.

use std::net::IpAddr;

use ksim::net::Found;
use portcullis_policy::Diagnostic;
use serde::Serialize;

use super::{CalloutEntry, Counters, VerifierEntry};
use crate::replay::{Flow, Outcome};
use crate::report::events::Event;
use crate::report::{direction, protocol, rule, verdict};

/// The report of a replay.
#[derive(Debug, Serialize)]
pub struct ReplayReport<'a> {
    /// How the local side was found; left out where it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    local_side: Option<Vec<LocalEntry>>,
    /// The driver's events; left out where they were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<Event>>,
    flows: Vec<FlowEntry<'a>>,
    callouts: Vec<CalloutEntry>,
    packets: u64,
    passed: u64,
    blocked: u64,
    without_ip: u64,
    of_other_hosts: u64,
    seconds: f64,
    counters: Counters<'a>,
    verifier: VerifierEntry,
    /// What the policy's author is warned of.
    diagnostics: &'a [Diagnostic],
}

/// An address that was taken for the local host's.
#[derive(Debug, Serialize)]
pub struct LocalEntry {
    address: IpAddr,
    scope: &'static str,
    flows: usize,
    began: usize,
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
    /// The path of its application; left out where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<&'a str>,
    host: Option<&'a str>,
    /// The host's hello had an encrypted one in it too; left out where it had not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    has_encrypted_hello: bool,
    /// Places at which rules changed what was sent, and what was received; left out where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<[u64; 2]>,
    packets: [u64; 2],
    /// Packets that passed.
    passed: [u64; 2],
    bytes: [u64; 2],
    verdict: &'static str,
    rule: Option<&'a str>,
    /// The layer of the first block; left out where nothing was blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_at: Option<String>,
}

impl From<&Found> for LocalEntry {
    fn from(found: &Found) -> Self {
        Self {
            address: found.address,
            scope: found.scope.name(),
            flows: found.flows,
            began: found.began,
        }
    }
}

/// How the local side of a replay was found, if it was not given.
#[must_use]
pub fn local_side(outcome: &Outcome) -> Option<Vec<LocalEntry>> {
    let discovery = outcome.discovery.as_ref()?;
    Some(discovery.found.iter().map(LocalEntry::from).collect())
}

impl<'a> ReplayReport<'a> {
    /// The report of `outcome`, with its events if they were asked for; `rules` are the names of the policy's rules, and
    /// `diagnostics` what its author is warned of.
    #[must_use]
    pub fn new(
        outcome: &'a Outcome,
        rules: &'a [String],
        diagnostics: &'a [Diagnostic],
        with_events: bool,
    ) -> Self {
        let events = || outcome.events.iter().map(|event| Event::new(event, rules));
        let flows = outcome.flows.iter();
        Self {
            local_side: local_side(outcome),
            events: with_events.then(|| events().collect()),
            flows: flows
                .map(|flow| flow_entry(flow, rules, &outcome.interfaces))
                .collect(),
            callouts: outcome.callouts.iter().map(CalloutEntry::from).collect(),
            packets: outcome.frames,
            passed: outcome.passed,
            blocked: outcome.blocked(),
            without_ip: outcome.not_ip,
            of_other_hosts: outcome.of_other_hosts,
            seconds: outcome.duration.as_secs_f64(),
            counters: Counters(&outcome.statistics),
            verifier: VerifierEntry::from(&outcome.verifier),
            diagnostics,
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
        application: flow.decided.application.as_deref(),
        host: flow.decided.host.as_deref(),
        has_encrypted_hello: flow.decided.has_encrypted_hello,
        changes: Some(flow.decided.changes).filter(|changes| *changes != [0; 2]),
        packets: report.packets,
        passed: report.passed,
        bytes: report.bytes,
        verdict: verdict(flow),
        rule: rule(flow, rules),
        blocked_at: report.blocked_at.map(|layer| layer.to_string()),
    }
}
