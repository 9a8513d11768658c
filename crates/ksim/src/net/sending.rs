//! What is sent on its way through the stack, down to the network card.

use super::card;
use super::host::{Entry, Host, Transit, has_ale};
use super::indicate::{Filtering, MAX_MORE};
use super::indicator::Point;
use super::packet::{Packet, Transport, protocol};
use super::report::Reason;

impl<F: Filtering> Host<F> {
    pub(super) fn outbound(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        from: Entry,
    ) -> Result<(), Reason> {
        let mut opening = false;
        if from != Entry::Network {
            self.admit(flow, transit)?;
            opening = self.opens(flow, transit);
            if opening {
                self.bind(flow, transit)?;
                self.connect_redirect(flow, transit)?;
            }
        }
        let rewritten = self.translated(flow, transit.packet, true);
        let packet = rewritten.as_deref().map(Packet::parse).and_then(Result::ok);
        let changed = packet.as_ref().map(|packet| Transit { packet, ..*transit });
        let transit = changed.as_ref().unwrap_or(transit);
        let result = self.outbound_as(flow, transit, from, opening);
        self.passage(Some(flow), transit, changed.is_some(), result);
        result
    }

    fn outbound_as(
        &mut self,
        flow: usize,
        transit: &Transit<'_>,
        from: Entry,
        opening: bool,
    ) -> Result<(), Reason> {
        if from != Entry::Network {
            self.authorize_or_recheck(flow, transit, opening)?;
            if !has_ale(transit.packet, transit.packet.version) {
                self.icmp_error(flow, transit)?;
            }
            self.payload(flow, transit, from)?;
            self.stream_packet(flow, transit)?;
        }
        // What is injected is as it was made; the stack's own is split by the stack, or left to the card.
        let segments = self.segments(transit);
        let list = segments
            .split_first()
            .and_then(|(first, more)| Some((Packet::parse(first).ok()?, more)));
        let card = self.setup.card.filter(|_| transit.mark.is_none());
        let left = card.and_then(|size| card::left(transit.packet, size, transit.offload));
        let parsed = left
            .as_ref()
            .and_then(|(bytes, offload)| Some((Packet::parse(bytes).ok()?, *offload)));
        let shown = match (&list, &parsed) {
            (Some((packet, more)), _) => Transit {
                packet,
                more,
                ..*transit
            },
            (None, Some((packet, offload))) => Transit {
                packet,
                offload: *offload,
                ..*transit
            },
            (None, None) => *transit,
        };
        if from != Entry::Network {
            self.at_transport(flow, &shown, opening)?;
        }
        self.at_packet_layer(flow, &shown, Point::OutboundPacket, opening)?;
        let entry = &self.flows.all[flow];
        if entry.conversation.loopback {
            return Ok(());
        }
        if let Some(frame) = &transit.frame {
            self.frame_out(frame, transit.mark, transit.id)?;
        }
        let size = transit.offload.datagram_size();
        let datagrams = size.filter(|_| matches!(transit.packet.transport, Transport::Udp));
        let split = datagrams.map_or(segments, |size| card::split(transit.packet, size));
        if split.is_empty() {
            self.sent(transit.packet.bytes);
        }
        for packet in &split {
            self.sent(packet);
        }
        Ok(())
    }

    /// The segments that the stack makes of a packet before it hands it down; none if it leaves the packet whole.
    fn segments(&self, transit: &Transit<'_>) -> Vec<Vec<u8>> {
        let packet = transit.packet;
        let is_own = transit.mark.is_none() && transit.frame.is_none();
        let data = packet.payload().len();
        let size = self.setup.segments.map_or(data, |size| {
            let least = data.div_ceil(1 + MAX_MORE);
            least.max(size as usize)
        });
        let splits = is_own && packet.protocol == protocol::TCP && !packet.is_cut();
        if splits && data > size {
            card::split(packet, size)
        } else {
            Vec::new()
        }
    }
}
