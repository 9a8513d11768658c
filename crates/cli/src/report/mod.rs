//! What a replay and a verification show: tables for people, JSON for programs.

pub mod events;
pub mod json;
pub mod table;

use wfp_schema::Direction;

use crate::replay::Flow;

/// An IP protocol's name; numbers stand for themselves.
#[must_use]
pub fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

/// A direction's name.
#[must_use]
pub const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    }
}

/// A verdict's name.
#[must_use]
pub const fn verdict(flow: &Flow) -> &'static str {
    if flow.blocked() { "block" } else { "permit" }
}

/// The rule behind a flow's verdict by name; `None` is the default action.
#[must_use]
pub fn rule<'a>(flow: &Flow, names: &'a [String]) -> Option<&'a str> {
    names
        .get(usize::try_from(flow.rule()?).ok()?)
        .map(String::as_str)
}
