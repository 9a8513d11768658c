//! Conditions on the network interface.

use super::{Issue, Reader, nearest};
use crate::effect::Effect;
use crate::interface::{INTERFACE_TYPES, Interfaces};
use crate::model::{Policy, Rule};
use crate::ranges::Ranges;
use portcullis_proto::policy::{Action, Direction, interface_type, interfaces_of_type};
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// Numbers of LUIDs.
type Luids = (u128, u128);

/// The interface of this name, or with this LUID.
pub(super) fn named(text: &str, known: &Interfaces) -> Result<Luids, Issue> {
    let number = text.strip_prefix("0x").map_or_else(
        || text.parse().ok(),
        |hex| u64::from_str_radix(hex, 16).ok(),
    );
    if let Some(luid) = number {
        return if interface_type(luid) == 0 {
            Err(Issue::new(format!("{text} is no interface's LUID")).hint(
                "`Get-NetAdapter | Format-List Name, NetLuid` shows names and LUIDs; an interface's index changes, and is not known here",
            ))
        } else {
            Ok((luid.into(), luid.into()))
        };
    }
    if let Some((first, last)) = known.find(text) {
        return Ok((first.into(), last.into()));
    }
    let issue = Issue::new(format!("there is no interface \"{text}\""));
    if INTERFACE_TYPES.iter().any(|(name, _)| *name == text) {
        return Err(issue.hint("write its type as `interface_type`, its name as `interface`"));
    }
    let names: Vec<_> = known.names().collect();
    Err(match (nearest(text, names.iter().copied()), known) {
        (Some(name), _) => issue.hint(format!("did you mean \"{name}\"?")),
        (None, Interfaces::Named(_)) if names.is_empty() => issue.hint(
            "no interface is named here: say which there are with `--interface`, or write its LUID",
        ),
        (None, Interfaces::Named(_)) => issue.hint(format!("there are {}", names.join(", "))),
        (None, _) => issue.hint("`Get-NetAdapter` shows the names"),
    })
}

/// The interfaces of a type.
pub(super) fn of_type(text: &str) -> Result<Vec<Luids>, Issue> {
    let range = |kind: u16| {
        let (first, last) = interfaces_of_type(kind);
        (first.into(), last.into())
    };
    let lower = text.to_lowercase();
    let known: Vec<_> = INTERFACE_TYPES
        .iter()
        .filter(|(name, _)| *name == lower)
        .map(|(_, kind)| range(*kind))
        .collect();
    if !known.is_empty() {
        return Ok(known);
    }
    if let Some(kind) = lower.parse().ok().filter(|kind| *kind > 0) {
        return Ok(vec![range(kind)]);
    }
    let instead = match lower.as_str() {
        "wlan" | "wi-fi" | "wireless" | "802.11" | "ieee80211" => Some("wifi"),
        "lan" | "wired" => Some("ethernet"),
        "wwan" | "cellular" | "mobile broadband" => Some("mobile"),
        "ras" | "remoteaccess" | "dialup" => Some("ppp"),
        other => nearest(other, INTERFACE_TYPES.map(|(name, _)| name)),
    };
    let issue = Issue::new(format!("there is no type of interfaces \"{text}\""));
    Err(match (instead, lower.as_str()) {
        (Some(name), _) => issue.hint(format!("write \"{name}\"")),
        (None, "vpn") => issue.hint(
            "a VPN's interface is of the type that its maker chose: write its name as `interface`",
        ),
        (None, "any" | "all") => issue.hint("leave it out to match all"),
        (None, _) => {
            let mut names: Vec<_> = INTERFACE_TYPES.map(|(name, _)| name).to_vec();
            names.dedup();
            issue.hint(format!(
                "it is {}, or a number of IANA's, 1 to 65535",
                names.join(", ")
            ))
        }
    })
}

impl Reader<'_> {
    /// Both conditions on the interface together.
    pub(super) fn interface(
        &mut self,
        rule: &mut Rule,
        named: Option<(Ranges, Range<usize>)>,
        of_types: Option<(Ranges, Range<usize>)>,
    ) {
        let Some(place) = named
            .as_ref()
            .or(of_types.as_ref())
            .map(|(_, at)| at.clone())
        else {
            return;
        };
        let ranges = |written: Option<(Ranges, _)>| written.map(|(ranges, _)| ranges);
        let (named, of_types) = (
            ranges(named).unwrap_or_default(),
            ranges(of_types).unwrap_or_default(),
        );
        if !named.is_any() && !of_types.is_any() && !named.meets_some(&of_types) {
            let issue = Issue::new("this rule never matches: the interface is of another type")
                .hint("leave `interface_type` out: `interface` says which it is");
            self.report(place.clone(), issue);
        }
        rule.interfaces = named.and(&of_types);
        if rule.action == Action::Ask {
            let issue = Issue::new("a rule that asks has no condition on the interface").hint(
                "an answer holds for the connection, whichever interface it takes later: permit or block by interface in a rule before this one",
            );
            self.report(place, issue);
        }
    }

    /// No rule whose interface has to be known may decide before a rule that redirects: where connections are redirected
    /// the interface is not known yet.
    pub(super) fn interfaces_before_redirects(&mut self, policy: &Policy, document: &DeTable<'_>) {
        let Some(DeValue::Array(tables)) = document.get("rule").map(toml::Spanned::get_ref) else {
            return;
        };
        let tables: Vec<_> = tables
            .iter()
            .filter_map(|table| table.get_ref().as_table())
            .collect();
        let redirects = |rule: &Rule| {
            let redirect = |effect: &Effect| matches!(effect, Effect::Redirect { .. });
            rule.effects.iter().any(redirect)
        };
        for (number, rule) in policy.rules.iter().enumerate() {
            // Hosts and contents are not looked at where connections are redirected.
            if rule.interfaces.is_any() || !rule.hosts.is_empty() || !rule.contents.is_empty() {
                continue;
            }
            let mut behind = (number..).zip(&policy.rules[number..]);
            let Some((place, redirecting)) =
                behind.find(|(_, other)| redirects(other) && may_share(rule, other))
            else {
                continue;
            };
            let span = tables
                .get(number)
                .and_then(|table| {
                    let is_one = |name: &str| matches!(name, "interface" | "interface_type");
                    let mut keys = table.iter();
                    keys.find(|(key, _)| is_one(key.get_ref()))
                })
                .map_or(0..0, |(key, _)| key.span());
            let issue = if place == number {
                Issue::new("a rule that redirects has no condition on the interface").hint(
                    "connections are redirected before Windows says which interface they take",
                )
            } else {
                let line = self.places.line_of(place);
                Issue::new(format!(
                    "\"{}\" comes before \"{}\", which redirects, and may match the same connections",
                    rule.name, redirecting.name
                ))
                .hint(format!(
                    "connections are redirected before Windows says which interface they take: move it behind that rule (line {line}), or give both conditions that exclude each other"
                ))
            };
            self.report(span, issue);
        }
    }
}

/// Whether an outgoing connection may match both rules, as far as can be told easily.
fn may_share(one: &Rule, other: &Rule) -> bool {
    let connects = |rule: &Rule| {
        use portcullis_proto::event::Operation::Connect;

        rule.direction != Some(Direction::Inbound)
            && (rule.operations.is_empty() || rule.operations.contains(&Connect))
    };
    let owners = {
        let share = |one: &[_], other: &[_]| {
            one.is_empty() || other.is_empty() || one.iter().any(|owner| other.contains(owner))
        };
        share(&one.users, &other.users)
    };
    let exact = |rule: &Rule| {
        let mut patterns = rule.applications.iter();
        !rule.children && patterns.all(|pattern| !pattern.is_wildcard() && !pattern.any_volume())
    };
    let applications = one.applications.is_empty()
        || other.applications.is_empty()
        || !exact(one)
        || !exact(other)
        || one
            .applications
            .iter()
            .any(|application| other.applications.contains(application));
    connects(one)
        && connects(other)
        && one.protocols.meets_some(&other.protocols)
        && one.local_addresses.meets_some(&other.local_addresses)
        && one.remote_addresses.meets_some(&other.remote_addresses)
        && one.local_ports.meets_some(&other.local_ports)
        && one.remote_ports.meets_some(&other.remote_ports)
        && owners
        && applications
}
