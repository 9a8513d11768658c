//! Which decision, and which discard, a packet belongs to.
//!
//! A packet's record says nothing of its fate. What is sent has been decided when it comes by the network layer; what is
//! received has not. So a packet waits for a while: for a discard of the same packet, and, if nothing is known of its
//! connection yet, for a decision about it.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_core::PacketSummary;
use portcullis_proto::Family;
use portcullis_proto::capture::{CaptureKind, CaptureRecord, CaptureStart};
use portcullis_proto::event::{Discard, EventKind, EventRecord, Operation};
use portcullis_proto::policy::Action;
use zerocopy::FromBytes as _;

use super::rebuilt;
use crate::report::address;

/// Records that may follow before a packet is told without having been discarded.
const PATIENCE: usize = 512;
/// Units of 100 ns after which it is told.
pub(super) const TIME: u64 = 2_000_000;
/// Bytes by which a discarded packet is recognized.
const ALIKE: usize = 96;
/// Connections that are remembered.
const CONNECTIONS: usize = 65_536;

/// The ends of a packet or a connection, from this machine's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    /// IP protocol number.
    pub protocol: u8,
    /// This machine's end; the source of a forwarded packet. The port of ICMP is 0.
    pub local: (IpAddr, u16),
    /// The other end.
    pub remote: (IpAddr, u16),
}

impl Subject {
    fn new(protocol: u8, local: (IpAddr, u16), remote: (IpAddr, u16)) -> Self {
        // Of ICMP, questions and answers have other types.
        let has_ports = !matches!(protocol, 1 | 58);
        let port = |port: u16| if has_ports { port } else { 0 };
        Self {
            protocol,
            local: (local.0, port(local.1)),
            remote: (remote.0, port(remote.1)),
        }
    }

    fn of_event(event: &EventRecord) -> Self {
        let local = (address(event, &event.local_address), event.local_port.get());
        let remote = (
            address(event, &event.remote_address),
            event.remote_port.get(),
        );
        Self::new(event.protocol, local, remote)
    }

    /// That of an ICMP error itself, not of what it complains about.
    fn of_icmp_error(event: &EventRecord) -> Self {
        let reporter = address(event, &event.reporter);
        let is_inbound = event.direction == portcullis_proto::policy::Direction::Inbound.raw();
        let protocol = if event.family == Family::V4.raw() {
            1
        } else {
            58
        };
        let other = if is_inbound {
            address(event, &event.local_address)
        } else {
            address(event, &event.remote_address)
        };
        let (local, remote) = if is_inbound {
            (other, reporter)
        } else {
            (reporter, other)
        };
        Self::new(protocol, (local, 0), (remote, 0))
    }

    fn of_record(record: &CaptureRecord) -> Self {
        let end = |bytes: &[u8; 16], port: u16| {
            let [a, b, c, d, ..] = *bytes;
            let address = if record.family == Family::V4.raw() {
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            } else {
                IpAddr::V6(Ipv6Addr::from(*bytes))
            };
            (address, port)
        };
        Self::new(
            record.protocol,
            end(&record.local_address, record.local_port.get()),
            end(&record.remote_address, record.remote_port.get()),
        )
    }

    fn of_packet(record: &CaptureRecord, packet: &[u8]) -> Self {
        let is_sent = record.direction != portcullis_proto::policy::Direction::Inbound.raw();
        PacketSummary::parse(packet).map_or_else(
            || Self::of_record(record),
            |summary| {
                let ends = summary.ends(is_sent);
                Self::new(
                    ends.protocol,
                    (ends.local.address, ends.local.port),
                    (ends.remote.address, ends.remote.port),
                )
            },
        )
    }
}

/// What was decided about a connection last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Permit or block.
    pub action: Action,
    /// The rule; `None` is the default action, or no policy.
    pub rule: Option<u32>,
    /// Whether there was a policy.
    pub has_policy: bool,
    /// A number for the flow, from 1; 0 for none.
    pub flow: u64,
    /// Who began it; `None` where nobody did.
    pub direction: Option<portcullis_proto::policy::Direction>,
    /// The application's path.
    pub application: Option<String>,
    /// Its process; 0 unknown.
    pub process: u64,
    /// The host name.
    pub host: Option<String>,
}

/// Whose a filter is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilterName {
    /// Portcullis's: a rule has decided.
    pub is_ours: bool,
    /// Its name; empty if unknown.
    pub name: String,
    /// Its provider's name; empty if unknown.
    pub provider: String,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It came by, and nobody was seen to discard it.
    Passed,
    /// It was discarded.
    Discarded(Discard, Option<FilterName>),
    /// Its connection was dropped by a decision about what it says; the packet itself was never made.
    Dropped,
}

/// A packet with what is known of it.
#[derive(Debug, Clone)]
pub struct Matched {
    /// Its record; a discard's or an event's if there is no packet.
    pub record: CaptureRecord,
    /// It, from its IP header on.
    pub packet: Vec<u8>,
    /// Its length on the wire.
    pub original_length: u32,
    /// Whether the packet, or its IP header, was put together here from what is known of it.
    pub is_rebuilt: bool,
    /// Its ends.
    pub subject: Subject,
    /// What became of it.
    pub fate: Fate,
    /// What was decided about its connection.
    pub decided: Option<Decided>,
    /// Records that were lost just before it.
    pub lost: u64,
}

/// A packet that may still be discarded.
struct Waiting {
    matched: Matched,
    /// The number of its record.
    sequence: u64,
}

/// Puts records together.
#[derive(Default)]
pub struct Matcher {
    connections: HashMap<Subject, Decided>,
    /// The flows' numbers, by WFP's handle.
    flows: HashMap<u64, u64>,
    waiting: VecDeque<Waiting>,
    last: u64,
    /// Records lost since the last packet.
    lost: u64,
    total_lost: u64,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher")
            .field("connections", &self.connections.len())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Matcher {
    /// Records that were lost so far.
    #[must_use]
    pub const fn total_lost(&self) -> u64 {
        self.total_lost
    }

    /// How many packets wait for what may yet be known of them.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Takes a record with its data. `filter` tells whose a filter is. Gives `told` the packets about which all is known.
    pub fn add(
        &mut self,
        record: &CaptureRecord,
        data: &[u8],
        filter: &mut dyn FnMut(u64) -> Option<FilterName>,
        told: &mut dyn FnMut(Matched),
    ) {
        let sequence = record.sequence.get();
        let gap = sequence.saturating_sub(self.last.saturating_add(1));
        self.lost = self.lost.saturating_add(gap);
        self.total_lost = self.total_lost.saturating_add(gap);
        self.last = sequence;
        match CaptureKind::from_raw(record.kind) {
            Some(CaptureKind::Packet) => self.packet(record, data),
            Some(CaptureKind::Discard) => self.discard(record, data, filter),
            Some(CaptureKind::Event) => {
                if let Ok((event, _)) = EventRecord::read_from_prefix(data) {
                    self.event(record, &event);
                }
            }
            None => {}
        }
        let now = record.time.get();
        while let Some(first) = self.waiting.front() {
            let is_old = self.waiting.len() > PATIENCE
                || sequence.saturating_sub(first.sequence) > PATIENCE as u64
                || now.saturating_sub(first.matched.record.time.get()) > TIME;
            if !is_old && first.matched.fate == Fate::Passed {
                break;
            }
            if let Some(first) = self.waiting.pop_front() {
                self.tell(first, told);
            }
        }
    }

    /// Tells of all that still wait.
    pub fn finish(&mut self, told: &mut dyn FnMut(Matched)) {
        while let Some(first) = self.waiting.pop_front() {
            self.tell(first, told);
        }
    }

    fn tell(&self, mut first: Waiting, told: &mut dyn FnMut(Matched)) {
        if first.matched.decided.is_none() {
            first.matched.decided = self.connections.get(&first.matched.subject).cloned();
        }
        told(first.matched);
    }

    fn packet(&mut self, record: &CaptureRecord, data: &[u8]) {
        let subject = Subject::of_packet(record, data);
        let matched = Matched {
            record: *record,
            packet: data.to_vec(),
            original_length: record.original.get(),
            is_rebuilt: false,
            subject,
            fate: Fate::Passed,
            decided: self.connections.get(&subject).cloned(),
            lost: std::mem::take(&mut self.lost),
        };
        self.wait(matched);
    }

    fn wait(&mut self, matched: Matched) {
        self.waiting.push_back(Waiting {
            sequence: matched.record.sequence.get(),
            matched,
        });
    }

    fn discard(
        &mut self,
        record: &CaptureRecord,
        data: &[u8],
        filter: &mut dyn FnMut(u64) -> Option<FilterName>,
    ) {
        let discard = Discard {
            filter: record.filter.get(),
            layer: record.layer.get(),
            module: record.module,
            reason: record.reason.get(),
        };
        let name = (discard.filter != 0)
            .then(|| filter(discard.filter))
            .flatten();
        let fate = Fate::Discarded(discard, name);
        let start = CaptureStart::from_raw(record.start).unwrap_or(CaptureStart::Nothing);
        let is_whole = start == CaptureStart::IpHeader && !data.is_empty();
        let subject = if is_whole {
            Subject::of_packet(record, data)
        } else {
            Subject::of_record(record)
        };
        if is_whole {
            let is_it = |waiting: &&mut Waiting| {
                let matched = &waiting.matched;
                matched.subject == subject
                    && matched.fate == Fate::Passed
                    && matched.record.direction == record.direction
                    && is_alike(&matched.packet, data)
            };
            if let Some(waiting) = self.waiting.iter_mut().rev().find(is_it) {
                waiting.matched.fate = fate;
                // What blocked it was decided after it came by.
                waiting.matched.decided = self
                    .connections
                    .get(&subject)
                    .cloned()
                    .or_else(|| waiting.matched.decided.take());
                return;
            }
        }
        // A socket that may not be bound, or not listen, has no packet.
        if subject.protocol == 0 || subject.remote.0.is_unspecified() {
            return;
        }
        let (packet, original_length) = if is_whole {
            (data.to_vec(), record.original.get())
        } else {
            let transport = (start == CaptureStart::TransportHeader).then_some(data);
            rebuilt::packet(&subject, record, transport)
        };
        let matched = Matched {
            record: *record,
            packet,
            original_length,
            is_rebuilt: !is_whole,
            subject,
            fate,
            decided: self.connections.get(&subject).cloned(),
            lost: std::mem::take(&mut self.lost),
        };
        self.wait(matched);
    }

    fn event(&mut self, record: &CaptureRecord, event: &EventRecord) {
        let Some(kind) = EventKind::from_raw(event.kind) else {
            return;
        };
        let operation = Operation::from_raw(event.operation);
        let subject = match kind {
            EventKind::Authorize
                if matches!(operation, Some(Operation::Listen | Operation::Bind)) =>
            {
                return;
            }
            EventKind::Authorize
            | EventKind::HostName
            | EventKind::Reauthorize
            | EventKind::Content => Subject::of_event(event),
            EventKind::IcmpError => Subject::of_icmp_error(event),
            _ => return,
        };
        let Some(decided) = self.decided(event) else {
            return;
        };
        if self.connections.len() >= CONNECTIONS && !self.connections.contains_key(&subject) {
            self.connections.clear();
        }
        let was_known = self.connections.insert(subject, decided.clone()).is_some();
        // What came before anything was known of its connection is what this is about.
        if !was_known {
            for waiting in &mut self.waiting {
                if waiting.matched.subject == subject && waiting.matched.decided.is_none() {
                    waiting.matched.decided = Some(decided.clone());
                }
            }
        }
        let is_dropped = decided.action == Action::Block
            && matches!(
                kind,
                EventKind::HostName | EventKind::Reauthorize | EventKind::Content
            );
        // Datagrams are discarded singly, and shown where that is.
        if is_dropped && subject.protocol == 6 {
            let mut record = *record;
            record.family = event.family;
            record.direction = event.direction;
            record.local_address = event.local_address;
            record.remote_address = event.remote_address;
            let (packet, original_length) = rebuilt::packet(&subject, &record, None);
            let matched = Matched {
                record,
                packet,
                original_length,
                is_rebuilt: true,
                subject,
                fate: Fate::Dropped,
                decided: Some(decided),
                lost: std::mem::take(&mut self.lost),
            };
            self.wait(matched);
        }
    }

    /// What an event says was decided.
    fn decided(&mut self, event: &EventRecord) -> Option<Decided> {
        let units: Vec<u16> = event.application().collect();
        let next = self.flows.len() as u64 + 1;
        let flow = match event.flow.get() {
            0 => 0,
            handle => *self.flows.entry(handle).or_insert(next),
        };
        Some(Decided {
            action: Action::from_raw(event.verdict)?,
            rule: event.rule(),
            has_policy: event.epoch.get() != 0,
            flow,
            direction: portcullis_proto::policy::Direction::from_raw(event.direction),
            application: (!units.is_empty()).then(|| String::from_utf16_lossy(&units)),
            process: event.process_id.get(),
            host: event.host().map(str::to_owned),
        })
    }
}

/// Whether two copies may be of one packet.
fn is_alike(one: &[u8], other: &[u8]) -> bool {
    let length = one.len().min(other.len()).min(ALIKE);
    one.get(..length) == other.get(..length)
}
