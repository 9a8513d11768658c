//! What is said of a packet, as its comment in the file.

use std::fmt::Write as _;

use portcullis_proto::event::Discard;
use portcullis_proto::policy::{Action, Direction};
use wfp_schema::LayerId;

use super::matching::{Decided, Fate, FilterName, Matched};
use crate::report::rule_name;

/// The comment of a packet; `rules` are the names of the policy's rules.
#[must_use]
pub fn of(matched: &Matched, rules: &[String]) -> String {
    let mut text = String::new();
    if matched.lost > 0 {
        write!(text, "{} records were lost before this; ", matched.lost).ok();
    }
    match &matched.fate {
        Fate::Passed => match &matched.decided {
            None => text.push_str("passed, no decision seen"),
            Some(decided) if decided.action == Action::Block => {
                text.push_str("passed, of a connection with the verdict ");
                verdict(&mut text, decided, rules);
            }
            Some(decided) => verdict(&mut text, decided, rules),
        },
        Fate::Discarded(discard, filter) => {
            let ours = filter.as_ref().is_some_and(|filter| filter.is_ours);
            match matched.decided.as_ref().filter(|_| ours) {
                Some(decided) if decided.action == Action::Block => {
                    verdict(&mut text, decided, rules);
                }
                _ => text.push_str("discarded"),
            }
            write!(text, " at {}", place(discard)).ok();
            if !ours {
                by(&mut text, discard, filter.as_ref());
            }
        }
        Fate::Dropped => {
            text.push_str("connection dropped: ");
            if let Some(decided) = &matched.decided {
                verdict(&mut text, decided, rules);
            }
        }
    }
    if let Some(decided) = &matched.decided {
        connection(&mut text, decided);
    }
    if matched.is_rebuilt {
        text.push_str("; there was no such packet on the network: its headers are put together from what is known");
    }
    text
}

fn verdict(text: &mut String, decided: &Decided, rules: &[String]) {
    match decided.rule {
        Some(rule) => {
            let rule = rule_name(rules, rule);
            write!(text, "{} by rule \"{rule}\"", decided.action)
        }
        None if decided.has_policy => write!(text, "{} by the default", decided.action),
        None => write!(text, "{}: there is no policy", decided.action),
    }
    .ok();
}

fn connection(text: &mut String, decided: &Decided) {
    if decided.flow != 0 {
        write!(text, "; flow {}", decided.flow).ok();
    }
    match decided.direction {
        Some(Direction::Outbound) => text.push_str(", outbound"),
        Some(Direction::Inbound) => text.push_str(", inbound"),
        None => {}
    }
    if let Some(application) = &decided.application {
        write!(text, "; {application}").ok();
    }
    if decided.process != 0 {
        write!(text, " (process {})", decided.process).ok();
    }
    if let Some(host) = &decided.host {
        write!(text, "; host {host}").ok();
    }
}

/// Who discarded, if not a rule.
fn by(text: &mut String, discard: &Discard, filter: Option<&FilterName>) {
    match filter {
        Some(filter) if !filter.name.is_empty() => {
            write!(text, " by filter {} \"{}\"", discard.filter, filter.name).ok();
            if !filter.provider.is_empty() {
                write!(text, " of \"{}\"", filter.provider).ok();
            }
        }
        _ if discard.filter != 0 => {
            write!(text, " by filter {}", discard.filter).ok();
        }
        _ => {
            write!(text, ": {}", reason(discard)).ok();
        }
    }
}

/// Where it was discarded: the layer, not the discard layer that shows it.
#[must_use]
pub fn place(discard: &Discard) -> String {
    let layer = LayerId::new(discard.layer).to_string();
    layer.trim_end_matches("_DISCARD").to_owned()
}

/// Why something was discarded, in words.
#[must_use]
pub fn reason(discard: &Discard) -> String {
    let known = match (discard.module, discard.reason) {
        (0, 3) => "nobody receives the protocol",
        (0, 4) => "no endpoint has the port",
        (0, 9) => "dropped after inspection",
        (0, 257) => "absorbed after inspection",
        (1, 4) => "no endpoint wants the segment",
        (2, 0) => "a filter blocked it",
        (2, 1) => "IPsec",
        _ => "",
    };
    if known.is_empty() {
        let module = match discard.module {
            0 => "the IP layer",
            1 => "the transport",
            2 => "WFP",
            _ => "an unknown module",
        };
        format!("reason {} of {module}", discard.reason)
    } else {
        known.to_owned()
    }
}
