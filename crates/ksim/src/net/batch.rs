//! UDP datagrams that go through the stack as one packet: what an application sends in one call (USO), and what the network
//! card has received one behind the other (URO). They do only where every callout at their layers tolerates it.
//!
//! - <https://learn.microsoft.com/windows-hardware/drivers/network/udp-segmentation-offload-uso->
//! - <https://learn.microsoft.com/windows-hardware/drivers/network/udp-rsc-offload>

use wfp_engine::Offload as Kind;
use wfp_schema::IpVersion;

use super::card::{self, Offload};
use super::host::{Arrival, Host, Transit};
use super::indicate::{Filtering, Ticks};
use super::indicator::Point;
use super::packet::{Packet, ip_addr, protocol};
use super::path::Weight;
use super::report::PacketReport;

/// Most bytes of a packet.
const LARGEST: usize = 0xffff;

/// The layers of what is sent.
const OUTBOUND: [Point; 5] = [
    Point::Connect,
    Point::Established,
    Point::Datagram,
    Point::OutboundTransport,
    Point::OutboundPacket,
];
/// The layers of what is received.
const INBOUND: [Point; 5] = [
    Point::InboundPacket,
    Point::InboundTransport,
    Point::Accept,
    Point::Established,
    Point::Datagram,
];

impl<F: Filtering> Host<F> {
    /// What an application sends in one call, to be sent in datagrams of `size` bytes (`UDP_SEND_MSG_SIZE`). `bytes` is a packet
    /// from its IP header on, with all of the data.
    ///
    /// It goes through the stack as it is, and the card splits it, unless a callout does not tolerate that, or it stays on
    /// this host: then the stack has split it before. A report for each packet that went through the stack.
    pub fn send_segmented(&mut self, now: Ticks, bytes: &[u8], size: u32) -> Vec<PacketReport> {
        let packet = match Packet::parse(bytes) {
            Ok(packet) if is_datagram(&packet) && packet.payload().len() > size as usize => packet,
            _ => return vec![self.packet(now, bytes)],
        };
        let size = size.max(1);
        let address = |address| ip_addr(packet.version, address);
        let stays = self.is_loopback(address(packet.source), address(packet.destination));
        let datagrams = card::split(&packet, size as usize);
        if stays || !self.keeps(Kind::Uso, packet.version, &OUTBOUND) {
            return self.each(now, datagrams.iter().map(Vec::as_slice));
        }
        let offload = Offload {
            segmentation: card::segmentation(&packet, size),
            ..Offload::NONE
        };
        vec![self.as_one(now, &packet, offload, datagrams.iter().map(Vec::len))]
    }

    /// Datagrams that the card has received one behind the other. Those that it may it merges, unless a callout does not
    /// tolerate that. A report for each packet that went through the stack.
    pub fn receive_burst(&mut self, now: Ticks, datagrams: &[Vec<u8>]) -> Vec<PacketReport> {
        let mut reports = Vec::new();
        let mut left = datagrams;
        while let Some(first) = left.first() {
            let run = self.run_length(left);
            let (run, others) = left.split_at(run);
            left = others;
            let parsed: Vec<_> = run.iter().flat_map(|bytes| Packet::parse(bytes)).collect();
            if parsed.len() < 2 {
                reports.push(self.packet(now, first));
                continue;
            }
            let (bytes, offload) = card::merged(&parsed);
            let lengths = run.iter().map(Vec::len);
            reports.extend(
                Packet::parse(&bytes).map(|packet| self.as_one(now, &packet, offload, lengths)),
            );
        }
        reports
    }

    /// A packet whose list says this of offloads, be it true or not: what drivers below write there is theirs.
    pub fn packet_with(&mut self, now: Ticks, bytes: &[u8], offload: Offload) -> PacketReport {
        match Packet::parse(bytes) {
            Ok(packet) => {
                let lengths = std::iter::once(packet.wire_len);
                self.as_one(now, &packet, offload, lengths)
            }
            Err(_) => self.packet(now, bytes),
        }
    }

    /// How many of these the card merges into one packet, at least 1.
    fn run_length(&self, datagrams: &[Vec<u8>]) -> usize {
        let Ok(first) = Packet::parse(&datagrams[0]) else {
            return 1;
        };
        if !is_datagram(&first) || !self.keeps(Kind::Uro, first.version, &INBOUND) {
            return 1;
        }
        let size = first.payload().len();
        let (mut run, mut bytes) = (1, first.bytes.len());
        for next in &datagrams[1..] {
            let Ok(next) = Packet::parse(next) else {
                break;
            };
            let length = next.payload().len();
            bytes += length;
            if length > size || bytes > LARGEST || !card::may_merge(&first, &next) {
                break;
            }
            run += 1;
            if length < size {
                // Only the last may be shorter.
                break;
            }
        }
        run
    }

    /// Whether the offload stays on for what comes to these layers.
    fn keeps(&self, kind: Kind, version: IpVersion, points: &[Point]) -> bool {
        points.iter().all(|&point| {
            let layer = self.indicator.layer(point, version);
            self.indicator.filtering.keeps_offload(layer, kind)
        })
    }

    fn each<'a>(
        &mut self,
        now: Ticks,
        packets: impl Iterator<Item = &'a [u8]>,
    ) -> Vec<PacketReport> {
        packets.map(|bytes| self.packet(now, bytes)).collect()
    }

    /// Takes datagrams that are one packet, which are as long as `lengths` when they are not.
    fn as_one(
        &mut self,
        now: Ticks,
        packet: &Packet<'_>,
        offload: Offload,
        lengths: impl ExactSizeIterator<Item = usize>,
    ) -> PacketReport {
        let id = self.next_id(now);
        let arrival = Arrival::default();
        if let Some(report) = self.unreachable(id, arrival) {
            return report;
        }
        let weight = Weight {
            packets: lengths.len() as u64,
            bytes: lengths.map(|length| length as u64).sum(),
        };
        let transit = Transit {
            offload,
            ..Transit::new(id, arrival, packet, false)
        };
        self.whole(&transit, weight)
    }
}

/// Whether it is a whole UDP datagram.
const fn is_datagram(packet: &Packet<'_>) -> bool {
    packet.protocol == protocol::UDP && packet.fragment.is_none() && !packet.is_cut()
}
