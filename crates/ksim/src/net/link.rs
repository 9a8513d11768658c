//! Frames: the layers of the data link below IP.
//!
//! - inbound: a [virtual switch](super::switch) if there is one, `INBOUND_MAC_FRAME_NATIVE`,
//!   `INBOUND_MAC_FRAME_ETHERNET`, then the packet's way;
//! - outbound: behind `OUTBOUND_IPPACKET`, `OUTBOUND_MAC_FRAME_ETHERNET`, `OUTBOUND_MAC_FRAME_NATIVE`, the switch.
//!
//! The fast layers are indicated before or behind the native ones, or not at all, as
//! [`Options::fast_layers`](wfp_engine::Options) says.

use wfp_engine::FastLayers;
use wfp_schema::flags::L2Flags;
use wfp_schema::{Layer, LayerData, LayerId, LayerKind};

use super::card::Offload;
use super::host::{Arrival, Host, dropped};
use super::indicate::{
    Filtering, Indication, InjectionMark, Outcome, PacketData, PacketId, Ticks, Value,
};
use super::inject::{Absorbed, Fingerprint, Injection, InjectionPoint};
use super::interface::Interface;
use super::key::Link;
use super::metadata::Metadata;
use super::packet::{Malformed, Packet};
use super::plan::COMPARTMENT;
use super::process::IdentityId;
use super::report::{PacketReport, Reason};
use super::switch::Left;

const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
const ETHER_TYPE_VLAN: u16 = 0x8100;
const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;

/// `NdisMedium802_3` and `NdisPhysicalMedium802_3`.
const NDIS_MEDIUM_802_3: u32 = 0;
const NDIS_PHYSICAL_MEDIUM_802_3: u32 = 14;
/// `NDIS_DEFAULT_PORT_NUMBER`.
const NDIS_DEFAULT_PORT: u32 = 0;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// `DL_ADDRESS_TYPE`.
pub(super) const fn address_type(address: Mac) -> u8 {
    match address {
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => 2,
        [first, ..] if first & 1 != 0 => 1,
        _ => 0,
    }
}

/// An Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) header_len: usize,
    pub(super) destination: Mac,
    pub(super) source: Mac,
    /// Of the VLAN tag, 0 without.
    pub(super) vlan: u16,
    pub(super) ether_type: u16,
    pub(super) link: Link,
    /// Where its IP packet begins, if it carries one.
    packet_at: Option<usize>,
}

impl<'a> Frame<'a> {
    /// Parses a frame from its Ethernet header. Its VLAN is its link.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mac = |at: usize| bytes.get(at..at + 6)?.try_into().ok();
        let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let (destination, source) = (mac(0)?, mac(6)?);
        let (vlan, header_len) = match word(12)? {
            ETHER_TYPE_VLAN => (word(14)? & 0x0fff, ETHERNET_HEADER + VLAN_TAG),
            _ => (0, ETHERNET_HEADER),
        };
        let ether_type = word(header_len - 2)?;
        let is_ip = matches!(ether_type, ETHER_TYPE_IPV4 | ETHER_TYPE_IPV6);
        Some(Self {
            bytes,
            header_len,
            destination,
            source,
            vlan,
            ether_type,
            link: vlan,
            packet_at: is_ip.then_some(header_len),
        })
    }

    /// The IP packet that it carries, as far as that was captured.
    pub(super) fn ip(&self) -> Option<&'a [u8]> {
        self.packet_at.and_then(|at| self.bytes.get(at..))
    }

    /// Where the IP packet begins, 0 if there is none.
    pub(super) fn packet_at(&self) -> usize {
        self.packet_at.unwrap_or(0)
    }

    /// The packet that it carries.
    pub(super) fn packet(&self) -> Option<Packet<'a>> {
        Packet::parse(self.ip()?).ok()
    }
}

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    InterfaceMac,
    LocalMac,
    RemoteMac,
    LocalMacType,
    RemoteMacType,
    EtherType,
    Vlan,
    Luid,
    Index,
    Type,
    Port,
    Flags,
    Compartment,
    Media,
    PhysicalMedia,
    Unknown,
}

impl Source {
    fn of(field: &str) -> Self {
        match field {
            "INTERFACE_MAC_ADDRESS" => Self::InterfaceMac,
            "MAC_LOCAL_ADDRESS" => Self::LocalMac,
            "MAC_REMOTE_ADDRESS" => Self::RemoteMac,
            "MAC_LOCAL_ADDRESS_TYPE" => Self::LocalMacType,
            "MAC_REMOTE_ADDRESS_TYPE" => Self::RemoteMacType,
            "ETHER_TYPE" => Self::EtherType,
            "VLAN_ID" => Self::Vlan,
            "INTERFACE" => Self::Luid,
            "INTERFACE_INDEX" => Self::Index,
            "INTERFACE_TYPE" => Self::Type,
            "NDIS_PORT" => Self::Port,
            "L2_FLAGS" => Self::Flags,
            "COMPARTMENT_ID" => Self::Compartment,
            "NDIS_MEDIA_TYPE" => Self::Media,
            "NDIS_PHYSICAL_MEDIA_TYPE" => Self::PhysicalMedia,
            _ => Self::Unknown,
        }
    }
}

/// A layer of the data link.
#[derive(Clone, Debug)]
pub(super) struct LinkLayer {
    id: LayerId,
    fields: Vec<Source>,
    /// Whether the data begins behind the frame's header.
    at_payload: bool,
    /// Whether the frame is shown at all.
    has_data: bool,
    outbound: bool,
}

/// The layers of the data link, in the order in which they are indicated.
#[derive(Clone, Debug)]
pub(super) struct LinkLayers {
    inbound: Vec<LinkLayer>,
    outbound: Vec<LinkLayer>,
}

impl LinkLayers {
    pub(super) fn new(fast: FastLayers) -> Self {
        let layer = |kind: LayerKind, outbound| {
            let layer = Layer::unversioned(kind).expect("the schema has the layers of MAC frames");
            let fields = layer.fields().iter();
            LinkLayer {
                id: layer.id(),
                fields: fields.map(|field| Source::of(field.name())).collect(),
                at_payload: kind == LayerKind::InboundMacFrameEthernet,
                has_data: layer.kind().data() != LayerData::None,
                outbound,
            }
        };
        let with_fast = |native, named: LayerKind, outbound| {
            let fast_layer = layer(named, outbound);
            match fast {
                FastLayers::Before => vec![fast_layer, native],
                FastLayers::Behind => vec![native, fast_layer],
                FastLayers::Never => vec![native],
            }
        };
        let mut inbound = with_fast(
            layer(LayerKind::InboundMacFrameNative, false),
            LayerKind::InboundMacFrameNativeFast,
            false,
        );
        inbound.push(layer(LayerKind::InboundMacFrameEthernet, false));
        let mut outbound = vec![layer(LayerKind::OutboundMacFrameEthernet, true)];
        outbound.extend(with_fast(
            layer(LayerKind::OutboundMacFrameNative, true),
            LayerKind::OutboundMacFrameNativeFast,
            true,
        ));
        Self { inbound, outbound }
    }
}

impl LinkLayer {
    fn classify<F: Filtering>(
        &self,
        filtering: &mut F,
        frame: &Frame<'_>,
        interface: &Interface,
        metadata: &Metadata<'_>,
        packet: PacketData<'_>,
    ) -> Result<(), Reason> {
        let (local, remote) = if self.outbound {
            (&frame.source, &frame.destination)
        } else {
            (&frame.destination, &frame.source)
        };
        let values: Vec<_> = self
            .fields
            .iter()
            .map(|source| match source {
                Source::InterfaceMac => Value::ByteArray6(&interface.mac),
                Source::LocalMac => Value::ByteArray6(local),
                Source::RemoteMac => Value::ByteArray6(remote),
                Source::LocalMacType => Value::Uint8(address_type(*local)),
                Source::RemoteMacType => Value::Uint8(address_type(*remote)),
                Source::EtherType => Value::Uint16(frame.ether_type),
                Source::Vlan => Value::Uint16(frame.vlan),
                Source::Luid => Value::Uint64(interface.luid()),
                Source::Index => Value::Uint32(interface.index),
                Source::Type => Value::Uint32(interface.kind),
                Source::Port => Value::Uint32(NDIS_DEFAULT_PORT),
                Source::Flags => Value::Uint32(L2Flags::IS_NATIVE_ETHERNET.bits()),
                Source::Compartment => Value::Uint32(COMPARTMENT),
                Source::Media => Value::Uint32(NDIS_MEDIUM_802_3),
                Source::PhysicalMedia => Value::Uint32(NDIS_PHYSICAL_MEDIUM_802_3),
                Source::Unknown => Value::Empty,
            })
            .collect();
        let offset = if self.at_payload { frame.header_len } else { 0 };
        let indication = Indication {
            packet: self.has_data.then_some(PacketData { offset, ..packet }),
            ..Indication::new(self.id, &values, metadata)
        };
        match filtering.classify(&indication) {
            Outcome::Permit => Ok(()),
            Outcome::Block => Err(Reason::Blocked(self.id)),
            Outcome::Absorb | Outcome::Pend => Err(Reason::Absorbed(self.id)),
        }
    }
}

impl<F: Filtering> Host<F> {
    /// An Ethernet frame that left or reached the host at `now`. Its VLAN is its link.
    pub fn frame(&mut self, now: Ticks, bytes: &[u8]) -> PacketReport {
        let frame = Frame::parse(bytes);
        self.frame_or_malformed(now, frame)
    }

    /// As [`frame`](Self::frame), on a link that the caller names, with the IP packet where the caller has found it:
    /// behind tags and labels that this stack does not know. `None` if it carries none.
    pub fn frame_on(
        &mut self,
        now: Ticks,
        link: Link,
        bytes: &[u8],
        packet_at: Option<usize>,
    ) -> PacketReport {
        let frame = Frame::parse(bytes).map(|frame| Frame {
            link,
            packet_at,
            ..frame
        });
        self.frame_or_malformed(now, frame)
    }

    fn frame_or_malformed(&mut self, now: Ticks, frame: Option<Frame<'_>>) -> PacketReport {
        let id = self.next_id(now);
        let Some(frame) = frame else {
            self.counters.malformed += 1;
            return dropped(id, None, Reason::Malformed(Malformed::HeaderCut));
        };
        self.take_frame(id, &frame, None, 0)
    }

    fn take_frame(
        &mut self,
        id: PacketId,
        frame: &Frame<'_>,
        mark: Option<InjectionMark>,
        hops: u32,
    ) -> PacketReport {
        let outbound = self.is_outbound(frame);
        let shown = match frame.ip() {
            // After the packet has passed the layers above.
            Some(_) if outbound => Ok(Left { to_host: true }),
            _ if outbound => self.frame_out(frame, mark, id),
            _ => self
                .through_switch(frame, false, mark, id)
                .and_then(|left| {
                    if left.to_host {
                        self.at_link_layers(frame, false, mark, id)?;
                    }
                    Ok(left)
                }),
        };
        match (shown, frame.ip()) {
            (Err(reason), _) => {
                if matches!(reason, Reason::Absorbed(_)) {
                    self.remember(Absorbed {
                        id,
                        fragments: Vec::new(),
                        fingerprint: Fingerprint::of_frame(frame, outbound),
                        flow: None,
                        outbound,
                        hops,
                    });
                }
                dropped(id, None, reason)
            }
            (Ok(Left { to_host: true }), Some(packet)) => {
                self.enter(id, Arrival::on(frame.link), packet, Some(*frame))
            }
            _ => self.foreign(id),
        }
    }

    /// Whether the host has sent the frame. An interface about which nothing was said has the address from which
    /// the first such frame came.
    fn is_outbound(&mut self, frame: &Frame<'_>) -> bool {
        let by_address = frame
            .packet()
            .and_then(|packet| self.source_is_local(&packet));
        let interfaces = &mut self.indicator.interfaces;
        match by_address {
            Some(outbound) => {
                if outbound {
                    interfaces.learn(frame.link, frame.source);
                }
                outbound
            }
            None => frame.source == interfaces.of(frame.link).mac,
        }
    }

    /// Shows the frame of an outbound packet.
    pub(super) fn frame_out(
        &mut self,
        frame: &Frame<'_>,
        mark: Option<InjectionMark>,
        id: PacketId,
    ) -> Result<Left, Reason> {
        self.at_link_layers(frame, true, mark, id)?;
        self.through_switch(frame, true, mark, id)
    }

    fn at_link_layers(
        &mut self,
        frame: &Frame<'_>,
        outbound: bool,
        mark: Option<InjectionMark>,
        id: PacketId,
    ) -> Result<(), Reason> {
        let interface = self.indicator.interfaces.of(frame.link);
        let indicator = &mut self.indicator;
        let metadata = Metadata::nothing(indicator.processes.identity(IdentityId::SYSTEM));
        let packet = PacketData {
            bytes: frame.bytes,
            offset: 0,
            id,
            injection: mark,
            offload: Offload::default(),
            more: &[],
        };
        let layers = if outbound {
            &self.link_layers.outbound
        } else {
            &self.link_layers.inbound
        };
        for layer in layers {
            if indicator.filtering.wants(layer.id) {
                let filtering = &mut indicator.filtering;
                layer.classify(filtering, frame, &interface, &metadata, packet)?;
            }
        }
        Ok(())
    }

    /// A frame that a driver injects: shown to the layers of the data link again, then it goes on.
    pub(super) fn inject_frame(&mut self, injection: &Injection<'_>) -> PacketReport {
        let Some(frame) = Frame::parse(injection.bytes) else {
            let reason = Reason::Malformed(Malformed::HeaderCut);
            return dropped(PacketId::NONE, None, reason);
        };
        let below = injection.point == InjectionPoint::VSwitchIngress;
        let outbound =
            injection.point == InjectionPoint::MacSend || below && self.is_outbound(&frame);
        let origin = self.origin(injection, Fingerprint::of_frame(&frame, outbound));
        let id = origin.as_ref().map_or(PacketId::NONE, |origin| origin.id);
        let Some(hops) = self.hop(injection, origin.as_ref()) else {
            if let Some(absorbed) = origin {
                self.settle(&absorbed, false);
            }
            return dropped(id, None, Reason::InjectionLoop);
        };
        let report = if outbound {
            let sent = if below {
                self.through_switch(&frame, true, Some(injection.mark), id)
            } else {
                self.frame_out(&frame, Some(injection.mark), id)
            };
            match sent {
                Ok(_) => {
                    self.sent(frame.ip().unwrap_or(frame.bytes));
                    PacketReport {
                        id,
                        flow: None,
                        passed: true,
                        reason: None,
                    }
                }
                Err(reason) => {
                    if matches!(reason, Reason::Absorbed(_)) {
                        self.remember(Absorbed {
                            id,
                            fragments: Vec::new(),
                            fingerprint: Fingerprint::of_frame(&frame, true),
                            flow: origin.as_ref().and_then(|origin| origin.flow),
                            outbound: true,
                            hops,
                        });
                    }
                    dropped(id, None, reason)
                }
            }
        } else {
            self.take_frame(id, &frame, Some(injection.mark), hops)
        };
        if let Some(absorbed) = origin {
            if report.reason.is_some_and(Reason::is_pending) {
                self.share_fate(absorbed.id, absorbed.fragments);
            } else {
                self.settle(&absorbed, report.passed);
            }
        }
        report
    }
}
