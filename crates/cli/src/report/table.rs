//! The report as tables.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use ksim::Report;
use ksim::net::End;
use portcullis_proto::callout::CALLOUTS;
use portcullis_proto::status::CalloutStatus;

use super::{direction, protocol, rule, verdict};
use crate::replay::{Flow, Outcome};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.to_vec());
    table
}

fn align_right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn end(protocol: u8, end: &End) -> String {
    match (protocol, end.address) {
        (1 | 58, address) => address.to_string(),
        (_, IpAddr::V4(_) | IpAddr::V6(_)) => SocketAddr::new(end.address, end.port).to_string(),
    }
}

/// A flow's host; `+` says that its hello had an encrypted one in it too.
fn host(flow: &Flow) -> String {
    let mark = if flow.decided.has_encrypted_hello {
        "+"
    } else {
        ""
    };
    let host = flow.decided.host.as_deref();
    host.map_or_else(String::new, |host| format!("{host}{mark}"))
}

/// The flows.
#[must_use]
pub fn flows(flows: &[Flow], rules: &[String]) -> String {
    // Few policies redirect.
    let redirects = flows
        .iter()
        .any(|flow| flow.decided.redirected_to.is_some());
    let mut header = vec![
        "Protocol",
        "Local",
        "Remote",
        "Direction",
        "Host",
        "Packets out",
        "in",
        "Bytes out",
        "in",
        "Verdict",
        "Rule",
    ];
    if redirects {
        header.push("Redirected to");
    }
    let mut table = table(&header);
    for flow in flows {
        let report = &flow.report;
        let mut row = vec![
            protocol(report.protocol),
            end(report.protocol, &report.local),
            end(report.protocol, &report.remote),
            direction(report.direction).to_owned(),
            host(flow),
            report.packets[0].to_string(),
            report.packets[1].to_string(),
            report.bytes[0].to_string(),
            report.bytes[1].to_string(),
            verdict(flow).to_owned(),
            rule(flow, rules).unwrap_or("(default)").to_owned(),
        ];
        if redirects {
            let target = flow.decided.redirected_to;
            row.push(target.map_or_else(String::new, |target| target.to_string()));
        }
        table.add_row(row);
    }
    align_right(&mut table, &[5, 6, 7, 8]);
    table.to_string()
}

/// The driver's callouts with their counters; those that nothing calls for are left out.
#[must_use]
pub fn callouts(callouts: &[CalloutStatus]) -> String {
    let mut table = table(&["Callout", "Layer", "Id", "Classify", "Permit", "Block"]);
    let is_used = |status: &&CalloutStatus| {
        status.flags.get() & CalloutStatus::FILTERED != 0 || status.classify.get() > 0
    };
    for status in callouts.iter().filter(is_used) {
        let info = CALLOUTS
            .iter()
            .find(|info| info.kind.raw() == status.kind && info.family.raw() == status.family);
        table.add_row([
            info.map_or("?", |info| info.name).to_owned(),
            info.map_or("?", |info| info.layer).to_owned(),
            status.callout_id.to_string(),
            status.classify.to_string(),
            status.permit.to_string(),
            status.block.to_string(),
        ]);
    }
    align_right(&mut table, &[2, 3, 4, 5]);
    table.to_string()
}

/// The driver's counters that are not zero, a line each; empty when all are.
#[must_use]
pub fn counters(outcome: &Outcome) -> String {
    let counted = outcome.statistics.iter().filter(|(_, count)| *count > 0);
    counted.fold(String::new(), |mut lines, (counter, count)| {
        writeln!(lines, "  {count} {}", counter.name()).ok();
        lines
    })
}

/// The verifier's verdict.
#[must_use]
pub fn verifier(report: &Report) -> String {
    if report.is_clean() {
        return "Verifier: no violation, no leak".to_owned();
    }
    let mut text = format!(
        "Verifier: {} violations, {} leaks",
        report.violations.len(),
        report.leaks.len()
    );
    for violation in &report.violations {
        write!(text, "\n  violation {violation}").ok();
    }
    for leak in &report.leaks {
        write!(text, "\n  leak {leak}").ok();
    }
    text
}
