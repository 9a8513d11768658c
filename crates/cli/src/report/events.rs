//! The driver's events: a line each for people, an object each for programs.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};

use portcullis_policy::INTERFACE_TYPES;
use portcullis_proto::event::{EventKind, EventRecord, HostSource, Operation, PacketDrop};
use portcullis_proto::policy::{Action, interface_type};
use portcullis_proto::status::DriverState;
use serde::{Serialize, Serializer};

use super::{address, protocol, rule_name};
use crate::live::{place, reason};

/// `event` as a line; `rules` are the names of the policy's rules.
#[must_use]
pub fn line(event: &EventRecord, rules: &[String]) -> String {
    Event::new(event, rules).to_string()
}

/// What an event tells: displayed as a line, serialized as an object.
#[derive(Debug, Serialize)]
pub struct Event {
    sequence: u64,
    time: Time,
    kind: &'static str,
    #[serde(flatten)]
    told: Told,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Told {
    State {
        from: &'static str,
        to: &'static str,
    },
    Policy {
        hash: String,
        rules: u64,
    },
    Protection {
        persistent: u64,
        boot_time: u64,
    },
    Power {
        sleeps: bool,
    },
    Lost {
        lost: u64,
    },
    Connection(Box<Connection>),
}

/// What is told of a connection, a socket, or a packet. What is not known, or not told of, is left out.
#[derive(Debug, Serialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are the bits of a flag word"
)]
struct Connection {
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'static str>,
    #[serde(skip_serializing_if = "is_zero")]
    flow: u64,
    #[serde(skip_serializing_if = "is_zero")]
    process: u64,
    protocol: String,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<(IpAddr, u16)>,
    #[serde(flatten)]
    host: Option<Host>,
    #[serde(flatten)]
    decision: Option<Decision>,
    #[serde(skip_serializing_if = "is_false")]
    until_host_is_known: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<Interface>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded: Option<Discarded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp: Option<Icmp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dscp: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<&'static str>,
    #[serde(skip_serializing_if = "is_false")]
    raw: bool,
    #[serde(skip_serializing_if = "is_false")]
    promiscuous: bool,
    #[serde(skip_serializing_if = "is_false")]
    any_port: bool,
    #[serde(skip_serializing_if = "is_false")]
    out_of_band: bool,
    #[serde(flatten)]
    closed: Option<Closed>,
    /// At how many places of what was sent, and of what was received.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<[u64; 2]>,
    /// The direction of the stream that has gone out of band.
    #[serde(skip_serializing_if = "Option::is_none")]
    taken: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Host {
    #[serde(rename = "host")]
    name: String,
    #[serde(rename = "host_source")]
    source: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    has_encrypted_hello: bool,
}

#[derive(Debug, Serialize)]
struct Decision {
    verdict: &'static str,
    /// `None` is the default action.
    rule: Option<String>,
}

#[derive(Debug, Serialize)]
struct Interface {
    #[serde(rename = "type")]
    kind: String,
    luid: String,
}

#[derive(Debug, Serialize)]
struct Discarded {
    layer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<u64>,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Icmp {
    #[serde(rename = "type")]
    kind: u8,
    code: u8,
    reporter: IpAddr,
}

#[derive(Debug, Serialize)]
struct Closed {
    flows: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes what it serializes"
)]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes what it serializes"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event {
    /// What `event` tells; `rules` are the names of the policy's rules.
    #[must_use]
    pub fn new(event: &EventRecord, rules: &[String]) -> Self {
        let kind = EventKind::from_raw(event.kind);
        let [first, second] = event.value.map(zerocopy::little_endian::U64::get);
        let told = match kind {
            Some(EventKind::StateChanged) => Told::State {
                from: state(first),
                to: state(second),
            },
            Some(EventKind::PolicyChanged) => Told::Policy {
                hash: format!("{first:016x}"),
                rules: second,
            },
            Some(EventKind::ProtectionChanged) => Told::Protection {
                persistent: first,
                boot_time: second,
            },
            Some(EventKind::PowerChanged) => Told::Power { sleeps: first != 0 },
            Some(EventKind::Dropped) => Told::Lost { lost: first },
            _ => Told::Connection(Box::new(Connection::new(event, kind, rules))),
        };
        Self {
            sequence: event.sequence.get(),
            time: Time(event.time.get()),
            kind: kind.map_or("?", EventKind::name),
            told,
        }
    }
}

fn state(raw: u64) -> &'static str {
    let state = u32::try_from(raw).ok().and_then(DriverState::from_raw);
    state.map_or("?", DriverState::name)
}

impl Connection {
    fn new(event: &EventRecord, kind: Option<EventKind>, rules: &[String]) -> Self {
        let has = |flag: u16| event.flags.get() & flag != 0;
        let target = address(event, &event.target_address);
        let has_target = event.target_port.get() != 0 || event.target_address != [0; 16];
        let application: String = char::decode_utf16(event.application())
            .map(|unit| unit.unwrap_or('\u{fffd}'))
            .collect();
        let change = event.packet_change();
        let [first, second] = event.value.map(zerocopy::little_endian::U64::get);
        let tells_of_changes = matches!(
            kind,
            Some(EventKind::StreamEdited | EventKind::FlowClosed) if (first, second) != (0, 0)
        );
        Self {
            operation: Operation::from_raw(event.operation).map(Operation::name),
            flow: event.flow.get(),
            process: event.process_id.get(),
            protocol: protocol(event.protocol),
            local: (address(event, &event.local_address), event.local_port.get()),
            remote: (
                address(event, &event.remote_address),
                event.remote_port.get(),
            ),
            target: has_target.then(|| (target, event.target_port.get())),
            host: event.host().map(|host| Host {
                name: host.to_owned(),
                source: HostSource::from_raw(event.host_source).map_or("?", HostSource::name),
                has_encrypted_hello: has(EventRecord::ENCRYPTED_HELLO),
            }),
            decision: Action::from_raw(event.verdict).map(|action| Decision {
                verdict: action.name(),
                rule: event.rule().map(|rule| rule_name(rules, rule).into_owned()),
            }),
            until_host_is_known: has(EventRecord::PROVISIONAL),
            application: (!application.is_empty()).then_some(application),
            interface: interface(event.interface.get()),
            discarded: event.discard().map(|discard| Discarded {
                layer: place(&discard),
                filter: (discard.filter != 0).then_some(discard.filter),
                reason: reason(&discard),
            }),
            icmp: event.icmp().map(|(kind, code)| Icmp {
                kind,
                code,
                reporter: address(event, &event.reporter),
            }),
            dscp: change.and_then(|change| change.dscp),
            ttl: change.and_then(|change| change.hop_limit),
            dropped: event.packet_drop().map(PacketDrop::name),
            raw: has(EventRecord::RAW_SOCKET),
            promiscuous: has(EventRecord::PROMISCUOUS),
            any_port: has(EventRecord::ANY_PORT),
            out_of_band: has(EventRecord::OUT_OF_BAND),
            closed: (kind == Some(EventKind::EndpointClosed)).then(|| Closed {
                flows: first,
                bytes_sent: event.bytes_sent.get(),
                bytes_received: event.bytes_received.get(),
            }),
            changes: tells_of_changes.then_some([first, second]),
            taken: (kind == Some(EventKind::OutOfBand)).then_some(match first {
                1 => "sent",
                _ => "received",
            }),
        }
    }
}

fn interface(luid: u64) -> Option<Interface> {
    let kind = interface_type(luid);
    let named = INTERFACE_TYPES.iter().find(|(_, known)| *known == kind);
    (luid != 0).then(|| Interface {
        kind: named.map_or_else(|| kind.to_string(), |(name, _)| (*name).to_owned()),
        luid: format!("{luid:#x}"),
    })
}

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            sequence,
            time,
            kind,
            told,
        } = self;
        write!(f, "{sequence:>6} {time} {kind:<15} {told}")
    }
}

impl Display for Told {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::State { from, to } => write!(f, "{from} → {to}"),
            Self::Policy { hash, rules } => write!(f, "{hash}, {rules} rules"),
            Self::Protection {
                persistent,
                boot_time,
            } => write!(
                f,
                "{persistent} filters hold without the driver, {boot_time} before BFE too"
            ),
            Self::Power { sleeps: true } => f.write_str("the system is about to sleep"),
            Self::Power { sleeps: false } => f.write_str("the system has come back from sleep"),
            Self::Lost { lost } => write!(f, "{lost} events were lost here"),
            Self::Connection(connection) => connection.fmt(f),
        }
    }
}

impl Display for Connection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let end = |(address, port): (IpAddr, u16)| SocketAddr::new(address, port);
        if let Some(operation) = self.operation {
            write!(f, "{operation} ")?;
        }
        let (local, remote) = (end(self.local), end(self.remote));
        write!(f, "{} {local} {remote}", self.protocol)?;
        if let Some(target) = self.target {
            write!(f, " → {}", end(target))?;
        }
        if let Some(host) = &self.host {
            write!(f, " host {} ({}", host.name, host.source)?;
            f.write_str(if host.has_encrypted_hello {
                ", outside an encrypted hello)"
            } else {
                ")"
            })?;
        }
        if let Some(Decision { verdict, rule }) = &self.decision {
            write!(f, " {verdict} by {}", rule.as_deref().unwrap_or("default"))?;
        }
        if self.until_host_is_known {
            f.write_str(" until the host is known")?;
        }
        if let Some(application) = &self.application {
            write!(f, " {application}")?;
        }
        if let Some(Interface { kind, luid }) = &self.interface {
            let is_named = kind.parse::<u16>().is_err();
            let of = if is_named {
                ""
            } else {
                "an interface of type "
            };
            write!(f, " over {of}{kind} ({luid})")?;
        }
        self.besides(f)
    }
}

impl Connection {
    /// What only events of some kinds tell.
    fn besides(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(discarded) = &self.discarded {
            write!(f, " at {}", discarded.layer)?;
            if let Some(filter) = discarded.filter {
                write!(f, " by filter {filter}")?;
            }
            write!(f, ": {}", discarded.reason)?;
        }
        if let Some(icmp) = &self.icmp {
            let Icmp {
                kind,
                code,
                reporter,
            } = icmp;
            write!(f, " type {kind} code {code} from {reporter}")?;
        }
        if let Some(dscp) = self.dscp {
            write!(f, " dscp {dscp}")?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, " ttl {ttl}")?;
        }
        if let Some(why) = self.dropped {
            write!(f, ": {why}")?;
        }
        for (is_so, text) in [
            (self.raw, " raw"),
            (self.promiscuous, " promiscuous"),
            (self.any_port, " port chosen by the system"),
            (self.out_of_band, ", found out of band"),
        ] {
            f.write_str(if is_so { text } else { "" })?;
        }
        if let Some(closed) = &self.closed {
            let (sent, received) = (closed.bytes_sent, closed.bytes_received);
            write!(
                f,
                " {} flows, {sent} bytes sent, {received} received",
                closed.flows
            )?;
        }
        if let Some([sent, received]) = self.changes {
            write!(
                f,
                ", changed at {sent} places of what was sent, {received} of what was received"
            )?;
        }
        self.taken
            .map_or(Ok(()), |direction| write!(f, ": what is {direction}"))
    }
}

/// A Windows system time in UTC: displayed as the time of day, serialized with its date (RFC 3339).
#[derive(Debug)]
struct Time(u64);

impl Time {
    /// 100 ns units in a day.
    const DAY: u64 = 864_000_000_000;
}

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ticks = self.0 % Self::DAY;
        let (seconds, fraction) = (ticks / 10_000_000, ticks % 10_000_000);
        let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        write!(
            f,
            "{hours:02}:{minutes:02}:{seconds:02}.{:06}",
            fraction / 10
        )
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (year, month, day) = date(self.0 / Self::DAY);
        serializer.collect_str(&format_args!("{year:04}-{month:02}-{day:02}T{self}Z"))
    }
}

/// Year, month and day of the month, so many days after 1601-01-01, with which 400 years of the Gregorian calendar begin.
const fn date(days: u64) -> (u64, usize, u64) {
    const CYCLE: u64 = 146_097;

    let (mut year, mut day) = (1601 + 400 * (days / CYCLE), days % CYCLE);
    loop {
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let february = if is_leap { 29 } else { 28 };
        let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 0;
        while month < months.len() {
            if day < months[month] {
                return (year, month + 1, day + 1);
            }
            day -= months[month];
            month += 1;
        }
        year += 1;
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::little_endian::{U16, U32, U64};

    use super::*;

    #[test]
    fn a_day_has_a_date() {
        for (days, expected) in [
            (0, (1601, 1, 1)),
            (134_774, (1970, 1, 1)),
            (134_774 + 11_016, (2000, 2, 29)),
            (134_774 + 11_017, (2000, 3, 1)),
            (134_774 + 20_514, (2026, 3, 2)),
            (146_096, (2000, 12, 31)),
            (146_097, (2001, 1, 1)),
            (146_097 + 36_524 - 1, (2100, 12, 31)),
        ] {
            assert_eq!(date(days), expected, "{days}");
        }
        let time = serde_json::to_string(&Time(134_774 * Time::DAY + 366_101_234_560)).unwrap();
        assert_eq!(time, "\"1970-01-01T10:10:10.123456Z\"");
        // Whatever a driver says.
        assert!(serde_json::to_string(&Time(u64::MAX)).is_ok());
    }

    #[test]
    fn a_rule_whose_name_is_not_known_is_told_by_its_number_and_the_default_as_such() {
        let mut event = EventRecord {
            kind: EventKind::Authorize.raw(),
            verdict: Action::Block.raw(),
            rule: U32::new(2),
            ..EventRecord::default()
        };
        assert!(line(&event, &[]).ends_with(" block by rule 3"));
        let names = ["a", "b", "no ads"].map(ToOwned::to_owned);
        assert!(line(&event, &names).ends_with(" block by no ads"));
        event.rule = EventRecord::default().rule;
        assert!(line(&event, &names).ends_with(" block by default"));
    }

    /// Everything that the line says of an event is in its object.
    #[test]
    fn an_event_is_told_to_programs_as_to_people() {
        let object = |event: &EventRecord| {
            let object = serde_json::to_value(Event::new(event, &[])).unwrap();
            (object, line(event, &[]))
        };
        let state = |from: DriverState, to: DriverState| EventRecord {
            sequence: U64::new(1),
            kind: EventKind::StateChanged.raw(),
            value: [from, to].map(|state| U64::new(state.raw().into())),
            ..EventRecord::default()
        };
        let (told, text) = object(&state(DriverState::Starting, DriverState::Active));
        assert_eq!(
            told,
            serde_json::json!({
                "sequence": 1, "time": "1601-01-01T00:00:00.000000Z", "kind": "state-changed",
                "from": "starting", "to": "active",
            })
        );
        assert!(
            text.ends_with(" state-changed   starting → active"),
            "{text}"
        );

        let mut event = EventRecord {
            kind: EventKind::IcmpError.raw(),
            family: 4,
            protocol: 17,
            verdict: Action::Block.raw(),
            local_port: U16::new(53),
            interface: U64::new(0x47_0000_0000_0001),
            value: [U64::new(0x0403), U64::ZERO],
            ..EventRecord::default()
        };
        event.reporter[..4].copy_from_slice(&[10, 0, 0, 1]);
        let (told, text) = object(&event);
        assert_eq!(
            told["icmp"],
            serde_json::json!({"type": 3, "code": 4, "reporter": "10.0.0.1"})
        );
        assert_eq!(told["rule"], serde_json::Value::Null);
        assert_eq!(told["interface"]["type"], "wifi");
        for part in [
            "udp 0.0.0.0:53",
            "over wifi (0x47",
            "type 3 code 4 from 10.0.0.1",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        for absent in ["host", "target", "application", "dscp", "raw", "flow"] {
            assert_eq!(told.get(absent), None, "{told}");
        }
    }
}
