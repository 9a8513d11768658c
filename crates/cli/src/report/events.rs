//! The driver's events, a line each.

use std::fmt::Write as _;

use portcullis_policy::INTERFACE_TYPES;
use portcullis_proto::event::{EventKind, EventRecord, HostSource, Operation};
use portcullis_proto::policy::{Action, interface_type};
use portcullis_proto::status::DriverState;

use super::{address, protocol};
use crate::live::{place, reason};

/// `event` as a line; `rules` are the names of the policy's rules.
#[must_use]
pub fn line(event: &EventRecord, rules: &[String]) -> String {
    let mut line = format!("{:>6} {}", event.sequence.get(), time(event.time.get()));
    let kind = EventKind::from_raw(event.kind);
    write!(line, " {:<15}", kind.map_or("?", EventKind::name)).ok();
    match kind {
        Some(EventKind::StateChanged) => {
            let [from, to] = event.value.map(|state| {
                u32::try_from(state.get())
                    .ok()
                    .and_then(DriverState::from_raw)
                    .map_or("?", DriverState::name)
            });
            write!(line, " {from} → {to}").ok();
        }
        Some(EventKind::PolicyChanged) => {
            write!(
                line,
                " {:016x}, {} rules",
                event.value[0].get(),
                event.value[1].get()
            )
            .ok();
        }
        Some(EventKind::ProtectionChanged) => {
            let [persistent, boot_time] = event.value.map(zerocopy::little_endian::U64::get);
            write!(
                line,
                " {persistent} filters hold without the driver, {boot_time} before BFE too"
            )
            .ok();
        }
        Some(EventKind::PowerChanged) => {
            let what = match event.value[0].get() {
                0 => "the system has come back from sleep",
                _ => "the system is about to sleep",
            };
            write!(line, " {what}").ok();
        }
        Some(EventKind::Dropped) => {
            write!(line, " {} events were lost here", event.value[0].get()).ok();
        }
        _ => connection(&mut line, event, rules),
    }
    besides(&mut line, event);
    line
}

fn connection(line: &mut String, event: &EventRecord, rules: &[String]) {
    if let Some(operation) = Operation::from_raw(event.operation) {
        write!(line, " {}", operation.name()).ok();
    }
    let local =
        std::net::SocketAddr::new(address(event, &event.local_address), event.local_port.get());
    let remote = std::net::SocketAddr::new(
        address(event, &event.remote_address),
        event.remote_port.get(),
    );
    write!(line, " {} {local} {remote}", protocol(event.protocol)).ok();
    if event.target_port.get() != 0 || event.target_address != [0; 16] {
        let target = address(event, &event.target_address);
        let target = std::net::SocketAddr::new(target, event.target_port.get());
        write!(line, " → {target}").ok();
    }
    if let Some(host) = event.host() {
        let source = HostSource::from_raw(event.host_source).map_or("?", HostSource::name);
        write!(line, " host {host} ({source}").ok();
        line.push_str(if event.flags.get() & EventRecord::ENCRYPTED_HELLO == 0 {
            ")"
        } else {
            ", outside an encrypted hello)"
        });
    }
    if let Some(action) = Action::from_raw(event.verdict) {
        let rule = event
            .rule()
            .and_then(|rule| rules.get(usize::try_from(rule).ok()?));
        write!(
            line,
            " {} by {}",
            action.name(),
            rule.map_or("default", String::as_str)
        )
        .ok();
    }
    if event.flags.get() & EventRecord::PROVISIONAL != 0 {
        line.push_str(" until the host is known");
    }
    let application: String = char::decode_utf16(event.application())
        .map(|unit| unit.unwrap_or('\u{fffd}'))
        .collect();
    if !application.is_empty() {
        write!(line, " {application}").ok();
    }
    if event.interface.get() != 0 {
        write!(line, " over {}", interface(event.interface.get())).ok();
    }
}

/// An interface by its type, as policies have it, and its LUID.
fn interface(luid: u64) -> String {
    let kind = interface_type(luid);
    let named = INTERFACE_TYPES.iter().find(|(_, known)| *known == kind);
    named.map_or_else(
        || format!("an interface of type {kind} ({luid:#x})"),
        |(name, _)| format!("{name} ({luid:#x})"),
    )
}

/// What only events of some kinds tell.
fn besides(line: &mut String, event: &EventRecord) {
    if let Some(discard) = event.discard() {
        write!(line, " at {}", place(&discard)).ok();
        if discard.filter != 0 {
            write!(line, " by filter {}", discard.filter).ok();
        }
        write!(line, ": {}", reason(&discard)).ok();
    }
    if let Some((kind, code)) = event.icmp() {
        let reporter = address(event, &event.reporter);
        write!(line, " type {kind} code {code} from {reporter}").ok();
    }
    if let Some(change) = event.packet_change() {
        if let Some(dscp) = change.dscp {
            write!(line, " dscp {dscp}").ok();
        }
        if let Some(limit) = change.hop_limit {
            write!(line, " ttl {limit}").ok();
        }
    }
    if let Some(why) = event.packet_drop() {
        write!(line, ": {}", why.name()).ok();
    }
    for (flag, text) in [
        (EventRecord::RAW_SOCKET, " raw"),
        (EventRecord::PROMISCUOUS, " promiscuous"),
        (EventRecord::ANY_PORT, " port chosen by the system"),
        (EventRecord::OUT_OF_BAND, ", found out of band"),
    ] {
        if event.flags.get() & flag != 0 {
            line.push_str(text);
        }
    }
    let [first, second] = event.value.map(zerocopy::little_endian::U64::get);
    match EventKind::from_raw(event.kind) {
        Some(EventKind::EndpointClosed) => {
            write!(
                line,
                " {first} flows, {} bytes sent, {} received",
                event.bytes_sent, event.bytes_received
            )
            .ok();
        }
        Some(EventKind::StreamEdited | EventKind::FlowClosed) if (first, second) != (0, 0) => {
            write!(
                line,
                ", changed at {first} places of what was sent, {second} of what was received"
            )
            .ok();
        }
        Some(EventKind::OutOfBand) if first == 1 => line.push_str(": what is sent"),
        Some(EventKind::OutOfBand) => line.push_str(": what is received"),
        _ => {}
    }
}

/// The time of day in UTC of a Windows system time.
fn time(ticks: u64) -> String {
    let day = ticks % 864_000_000_000;
    let (seconds, fraction) = (day / 10_000_000, day % 10_000_000);
    format!(
        "{:02}:{:02}:{:02}.{:06}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        fraction / 10
    )
}
