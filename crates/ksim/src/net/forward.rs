//! Packets between others: `IPFORWARD`, where the host forwards them.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;
use wfp_schema::{ConditionFlags, Direction};

use super::host::{Arrival, Host, Transit, dropped};
use super::indicate::{Filtering, Outcome};
use super::indicator::{Details, Point};
use super::key::Link;
use super::local::same_prefix;
use super::packet::{Fragment, ip_addr};
use super::report::{PacketReport, Reason};

/// Datagrams whose fragments are collected for a group, and fragments of each.
const MAX_GROUPS: usize = 64;
const MAX_FRAGMENTS: usize = 512;

/// A forwarded datagram: source, destination, identification.
type Key = (u128, u128, u32);

/// The fragments of forwarded datagrams.
#[derive(Debug, Default)]
pub(super) struct Groups {
    collected: HashMap<Key, Vec<(Fragment, Vec<u8>)>, FxBuildHasher>,
}

impl Groups {
    /// Adds a fragment; all of them, in order, once they are complete.
    fn add(&mut self, key: Key, fragment: Fragment, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        if self.collected.len() >= MAX_GROUPS && !self.collected.contains_key(&key) {
            self.collected.clear();
        }
        let pieces = self.collected.entry(key).or_default();
        let at = pieces.partition_point(|(other, _)| other.offset < fragment.offset);
        let is_repeat = pieces
            .get(at)
            .is_some_and(|(other, _)| other.offset == fragment.offset);
        if !is_repeat && pieces.len() < MAX_FRAGMENTS {
            pieces.insert(at, (fragment, bytes.to_vec()));
        }
        let mut end = 0;
        for (piece, bytes) in pieces.iter() {
            if usize::from(piece.offset) != end {
                return None;
            }
            end += bytes.len() - piece.data_at();
        }
        if pieces.last().is_none_or(|(last, _)| last.more) {
            return None;
        }
        let pieces = self.collected.remove(&key)?;
        Some(pieces.into_iter().map(|(_, bytes)| bytes).collect())
    }
}

impl<F: Filtering> Host<F> {
    /// A packet that is neither from nor for this host.
    pub(super) fn forward(&mut self, transit: &Transit<'_>) -> PacketReport {
        if !self.setup.forwarding {
            return self.foreign(transit.id);
        }
        match self.at_forward_layer(transit, ConditionFlags::NONE, &[]) {
            Ok(()) => self.forwarded(transit),
            Err(reason) => self.not_forwarded(transit, reason),
        }
    }

    /// A fragment of such a packet: shown by itself and, with the last of its datagram, in the group.
    pub(super) fn forward_fragment(
        &mut self,
        transit: &Transit<'_>,
        fragment: Fragment,
    ) -> PacketReport {
        let report = self.forward(transit);
        if !report.passed || !self.setup.forwarding || !self.setup.fragment_groups {
            return report;
        }
        let packet = transit.packet;
        let key = (packet.source, packet.destination, fragment.identification);
        let Some(group) = self.forward_groups.add(key, fragment, packet.bytes) else {
            return report;
        };
        let Ok(first) = super::packet::Packet::parse(&group[0]) else {
            return report;
        };
        let others: Vec<_> = group[1..].iter().map(Vec::as_slice).collect();
        let shown = Transit {
            packet: &first,
            ..*transit
        };
        match self.at_forward_layer(&shown, ConditionFlags::IS_FRAGMENT_GROUP, &others) {
            Ok(()) => report,
            Err(reason) => {
                // The others have gone; the last one and so the datagram has not.
                self.counters.forwarded -= 1;
                self.counters.passed -= 1;
                self.not_forwarded(transit, reason)
            }
        }
    }

    fn not_forwarded(&mut self, transit: &Transit<'_>, reason: Reason) -> PacketReport {
        if matches!(reason, Reason::Absorbed(_)) {
            let outbound = Transit {
                outbound: true,
                ..*transit
            };
            self.absorb(None, &outbound);
        }
        dropped(transit.id, None, reason)
    }

    /// A packet that has passed `IPFORWARD`, or that a driver injects behind it.
    pub(super) fn forwarded(&mut self, transit: &Transit<'_>) -> PacketReport {
        self.sent(transit.packet.bytes);
        if transit.mark.is_none() {
            self.counters.forwarded += 1;
            self.counters.passed += 1;
        }
        PacketReport {
            id: transit.id,
            flow: None,
            passed: true,
            reason: transit.mark.is_none().then_some(Reason::Foreign),
        }
    }

    fn at_forward_layer(
        &mut self,
        transit: &Transit<'_>,
        flags: ConditionFlags,
        chain: &[&[u8]],
    ) -> Result<(), Reason> {
        let packet = transit.packet;
        let point = Point::Forward;
        if !self.indicator.wants(point, packet.version) {
            return Ok(());
        }
        let arrival = transit.arrival.interface.unwrap_or(transit.arrival.link);
        let destination = ip_addr(packet.version, packet.destination);
        // The source is where the local end of other layers is.
        let conversation = self.conversation(packet, true, Arrival::on(arrival));
        let next_hop = self.route(destination).unwrap_or(arrival);
        let details = Details {
            flags,
            packet: Some(transit.data(0)),
            chain,
            arrival: Some(arrival),
            next_hop: Some(next_hop),
            ..Details::new(Direction::Outbound)
        };
        let layer = self.indicator.layer(point, packet.version);
        match self.indicator.classify(point, &conversation, &details) {
            Outcome::Permit => Ok(()),
            Outcome::Block => Err(Reason::Blocked(layer)),
            Outcome::Absorb | Outcome::Pend => Err(Reason::Absorbed(layer)),
        }
    }

    fn route(&self, destination: std::net::IpAddr) -> Option<Link> {
        let matching = self
            .setup
            .routes
            .iter()
            .filter(|&&(prefix, length, _)| same_prefix(prefix, destination, length));
        matching
            .max_by_key(|(_, length, _)| *length)
            .map(|&(_, _, link)| link)
    }
}
