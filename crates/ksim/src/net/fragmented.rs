//! Fragments on their way: shown to the network layer, kept until their datagram is complete.

use wfp_schema::{ConditionFlags, Direction};

use super::fragments::Taken;
use super::host::{Arrival, Host, Transit, dropped};
use super::indicate::{Filtering, InjectionMark, Outcome, PacketId};
use super::indicator::{Details, Point};
use super::metadata::FragmentData;
use super::packet::{Fragment, Packet};
use super::path::Weight;
use super::report::{PacketReport, Reason};

impl<F: Filtering> Host<F> {
    /// Takes a fragment from the wire, or one that a driver injects again.
    pub(super) fn fragment(
        &mut self,
        id: PacketId,
        arrival: Arrival,
        packet: &Packet<'_>,
        fragment: Fragment,
        mark: Option<InjectionMark>,
    ) -> PacketReport {
        self.counters.fragments += u64::from(mark.is_none());
        let outbound = self.source_is_local(packet);
        let transit = Transit {
            mark,
            ..Transit::new(id, arrival, packet, outbound.unwrap_or(true))
        };
        let Some(outbound) = outbound else {
            return self.forward_fragment(&transit, fragment);
        };
        if !outbound && let Err(reason) = self.indicate_fragment(&transit, fragment) {
            if matches!(reason, Reason::Absorbed(_)) {
                self.absorb(None, &transit);
            }
            return dropped(id, None, reason);
        }
        match self
            .fragments
            .take(self.now, id, arrival.link, packet, fragment)
        {
            Taken::Waiting => dropped(id, None, Reason::AwaitsFragments),
            Taken::Discarded(mut ids) => {
                self.counters.fragments_discarded += 1;
                ids.retain(|&other| other != id);
                self.discard_fragments(&ids);
                dropped(id, None, Reason::FragmentsDiscarded)
            }
            Taken::Whole(datagram) => {
                self.counters.reassembled += 1;
                let Ok(packet) = Packet::parse(&datagram.bytes) else {
                    let mut ids = datagram.ids;
                    ids.retain(|&other| other != id);
                    self.counters.fragments_discarded += 1;
                    self.discard_fragments(&ids);
                    return dropped(id, None, Reason::FragmentsDiscarded);
                };
                // A fragment that a driver made up is not the capture's.
                let packets = datagram
                    .ids
                    .iter()
                    .filter(|&&id| id != PacketId::NONE)
                    .count() as u64;
                let weight = Weight {
                    packets,
                    bytes: datagram.wire_bytes as u64,
                };
                let transit = Transit {
                    flags: ConditionFlags::IS_REASSEMBLED,
                    ..Transit::new(id, arrival, &packet, outbound)
                };
                let report = self.whole(&transit, weight);
                self.settle_fragments(&report, &datagram.ids);
                report
            }
        }
    }

    /// The fragments of a datagram share the fate of the one that completed it.
    fn settle_fragments(&mut self, report: &PacketReport, ids: &[PacketId]) {
        let others = ids.iter().copied().filter(|&id| id != report.id);
        if report.reason.is_some_and(Reason::is_pending) {
            self.share_fate(report.id, others.collect());
        } else {
            let passed = report.passed;
            others.for_each(|id| self.push_settled(id, passed));
        }
    }

    /// The inbound network layer sees each fragment as a packet and once more as a fragment.
    fn indicate_fragment(
        &mut self,
        transit: &Transit<'_>,
        fragment: Fragment,
    ) -> Result<(), Reason> {
        let packet = transit.packet;
        if !self.indicator.wants(Point::InboundPacket, packet.version) {
            return Ok(());
        }
        let conversation = self.conversation(packet, false, transit.arrival);
        for flags in [ConditionFlags::NONE, ConditionFlags::IS_FRAGMENT] {
            let length = packet.wire_len - packet.ip_header_len;
            let details = Details {
                flags,
                header_sizes: Some((packet.ip_header_len, 0)),
                fragment: Some(FragmentData {
                    identification: fragment.identification,
                    offset: fragment.offset,
                    length: u32::try_from(length).unwrap_or(0),
                }),
                packet: Some(transit.data(packet.ip_header_len)),
                ..Details::new(Direction::Inbound)
            };
            let layer = self.indicator.layer(Point::InboundPacket, packet.version);
            match self
                .indicator
                .classify(Point::InboundPacket, &conversation, &details)
            {
                Outcome::Permit => {}
                Outcome::Block => return Err(Reason::Blocked(layer)),
                Outcome::Absorb | Outcome::Pend => return Err(Reason::Absorbed(layer)),
            }
        }
        Ok(())
    }
}
