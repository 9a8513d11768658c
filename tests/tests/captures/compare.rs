//! What differs between the flows that nDPI finds and those of a replay.

use std::collections::HashMap;
use std::fmt;

use super::expected::{End, Expected};
use super::found::{First, Found, ordered};

/// A difference in one flow of one capture.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    /// The capture's file name.
    pub(crate) capture: String,
    /// What nDPI says of the flow; nothing of one that only the replay has.
    pub(crate) expected: Option<Expected>,
    /// What the replay says of it; nothing of one that only nDPI has.
    pub(crate) found: Option<Found>,
    /// The connection's first packet, of TCP.
    pub(crate) first: Option<First>,
    /// What differs.
    pub(crate) kind: Kind,
}

/// What differs in a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The replay does not have it.
    Missing,
    /// nDPI does not have it.
    Extra,
    /// The packet counts.
    Packets,
    /// The host name.
    Host,
    /// Who began it.
    Client,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.capture, self.kind)?;
        if let Some(flow) = &self.expected {
            let (protocol, app) = (flow.protocol(), flow.app());
            write!(
                f,
                "\n    nDPI:   {protocol} {:?} - {:?} {:?}",
                flow.client, flow.server, flow.packets
            )?;
            write!(f, " {} ({app})", flow.host.as_deref().unwrap_or("no host"))?;
        }
        if let Some(flow) = &self.found {
            let protocol = flow.protocol;
            write!(
                f,
                "\n    replay: {protocol} {:?} - {:?} {:?}",
                flow.client, flow.server, flow.packets
            )?;
            write!(f, " {}", flow.host.as_deref().unwrap_or("no host"))?;
        }
        Ok(())
    }
}

/// How much of a capture is equal.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Score {
    /// Flows that nDPI finds.
    pub(crate) flows: usize,
    /// Those of them that the replay has.
    pub(crate) same_flows: usize,
    /// Those with equal packet counts both ways.
    pub(crate) same_packets: usize,
    /// Flows for which either side names a host.
    pub(crate) hosts: usize,
    /// Those with equal names.
    pub(crate) same_hosts: usize,
}

impl Score {
    /// Adds another capture's.
    pub(crate) const fn add(&mut self, other: Self) {
        self.flows += other.flows;
        self.same_flows += other.same_flows;
        self.same_packets += other.same_packets;
        self.hosts += other.hosts;
        self.same_hosts += other.same_hosts;
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            flows,
            same_flows,
            same_packets,
            hosts,
            same_hosts,
        } = self;
        write!(
            f,
            "flows {same_flows}/{flows}, packets {same_packets}/{flows}, hosts {same_hosts}/{hosts}"
        )
    }
}

/// Compares the flows of a capture.
pub(crate) fn compare(
    capture: &str,
    expected: &[Expected],
    found: Vec<Found>,
    first: &HashMap<[End; 2], First>,
) -> (Score, Vec<Difference>) {
    let mut score = Score {
        flows: expected.len(),
        ..Score::default()
    };
    let mut differences = Vec::new();
    let mut differs = |kind, expected: Option<&Expected>, found: Option<&Found>| {
        let ends = expected.map(|flow| ordered(&flow.client, &flow.server));
        differences.push(Difference {
            capture: capture.to_owned(),
            expected: expected.cloned(),
            found: found.cloned(),
            first: ends.and_then(|ends| first.get(&ends).cloned()),
            kind,
        });
    };
    let mut left: Vec<Found> = found;
    for flow in expected {
        let Some(found) = take_same(&mut left, flow) else {
            differs(Kind::Missing, Some(flow), None);
            continue;
        };
        score.same_flows += 1;
        if packets_of(&found, &flow.client) == flow.packets {
            score.same_packets += 1;
        } else {
            differs(Kind::Packets, Some(flow), Some(&found));
        }
        if found.client != flow.client {
            differs(Kind::Client, Some(flow), Some(&found));
        }
        if found.host.is_some() || flow.host.is_some() {
            score.hosts += 1;
            if found.host == flow.host {
                score.same_hosts += 1;
            } else {
                differs(Kind::Host, Some(flow), Some(&found));
            }
        }
    }
    for flow in &left {
        differs(Kind::Extra, None, Some(flow));
    }
    (score, differences)
}

/// Takes the flow between the same ends out of `found`. Where there are several, as on several VLANs, the one with the
/// same packet counts goes before the others.
fn take_same(found: &mut Vec<Found>, flow: &Expected) -> Option<Found> {
    let ends = ordered(&flow.client, &flow.server);
    let between = |other: &&Found| {
        other.protocol == flow.protocol() && ordered(&other.client, &other.server) == ends
    };
    let counted = |other: &Found| packets_of(other, &flow.client) == flow.packets;
    let place = found
        .iter()
        .position(|other| between(&other) && counted(other))
        .or_else(|| found.iter().position(|other| between(&other)))?;
    Some(found.remove(place))
}

/// Packets from `client`, and to it.
fn packets_of(flow: &Found, client: &End) -> [u64; 2] {
    let [from, to] = flow.packets;
    if flow.client == *client {
        [from, to]
    } else {
        [to, from]
    }
}
