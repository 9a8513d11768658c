//! What the commands show: lines and tables for people, JSON for programs.

pub mod events;
pub mod json;
pub mod status;
#[cfg(target_os = "linux")]
pub mod table;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_proto::event::EventRecord;
use wfp_schema::Direction;

#[cfg(target_os = "linux")]
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
#[cfg(target_os = "linux")]
#[must_use]
pub const fn verdict(flow: &Flow) -> &'static str {
    if flow.blocked() { "block" } else { "permit" }
}

/// The rule behind a flow's verdict by name; `None` is the default action.
#[cfg(target_os = "linux")]
#[must_use]
pub fn rule<'a>(flow: &Flow, names: &'a [String]) -> Option<&'a str> {
    names
        .get(usize::try_from(flow.rule()?).ok()?)
        .map(String::as_str)
}

/// The name of the rule at this place; where the names are not known, what an unnamed rule is called.
#[must_use]
pub fn rule_name(names: &[String], index: u32) -> Cow<'_, str> {
    let name = usize::try_from(index)
        .ok()
        .and_then(|index| names.get(index));
    name.map_or_else(
        || Cow::Owned(format!("rule {}", u64::from(index) + 1)),
        |name| Cow::Borrowed(name.as_str()),
    )
}

/// An address of an event.
#[must_use]
pub fn address(event: &EventRecord, bytes: &[u8; 16]) -> IpAddr {
    if event.family == 4 {
        let [a, b, c, d, ..] = *bytes;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(*bytes))
    }
}
