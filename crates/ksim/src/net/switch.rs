//! A virtual switch that the host's network adapter is a port of, with the virtual machines at its other ports.
//!
//! A frame enters the switch by its source's port: `INGRESS_VSWITCH_ETHERNET` and, for IP,
//! `INGRESS_VSWITCH_TRANSPORT`. It leaves by each port that it is for: `EGRESS_VSWITCH_ETHERNET` and
//! `EGRESS_VSWITCH_TRANSPORT`. Below the host's own adapter that is behind the outbound layers of MAC frames, and
//! before the inbound ones.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/network/using-virtual-switch-filtering>

use wfp_engine::SwitchOrder;
use wfp_schema::field::Field;
use wfp_schema::flags::{L2Flags, L2MetadataFields};
use wfp_schema::{IpVersion, Layer, LayerId, LayerKind};

use super::card::Offload;
use super::host::Host;
use super::indicate::{Filtering, Indication, InjectionMark, Outcome, PacketData, PacketId, Value};
use super::link::{Frame, Mac, address_type};
use super::metadata::{LinkMetadata, Metadata};
use super::packet::{Packet, Transport};
use super::plan::COMPARTMENT;
use super::process::IdentityId;
use super::report::Reason;

/// What a switch connects (`FWP_VSWITCH_NETWORK_TYPE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchNetwork {
    /// Virtual machines only.
    Private = 1,
    /// Virtual machines and the host.
    Internal = 2,
    /// Virtual machines, the host, and a physical network.
    External = 3,
}

/// What is behind a port (`NDIS_SWITCH_NIC_TYPE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// The physical network.
    External = 0,
    /// A synthetic adapter of a virtual machine.
    Synthetic = 1,
    /// An emulated adapter of a virtual machine.
    Emulated = 2,
    /// The host.
    Internal = 3,
}

/// A port of a virtual switch, with the adapter behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchPort {
    /// Its identifier (`NDIS_SWITCH_PORT_ID`).
    pub id: u32,
    /// The index of the adapter behind it (`NDIS_SWITCH_NIC_INDEX`).
    pub nic: u16,
    /// What is behind it.
    pub kind: PortKind,
    /// The name of the adapter: a GUID as text.
    pub interface: String,
    /// The virtual machine: a GUID as text.
    pub machine: Option<String>,
    /// The hardware addresses behind it. The physical network has all that are behind no other port.
    pub addresses: Vec<[u8; 6]>,
}

/// A virtual switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Its name: a GUID as text.
    pub id: String,
    /// What it connects.
    pub network: SwitchNetwork,
    /// Its ports.
    pub ports: Vec<SwitchPort>,
}

impl Switch {
    /// The port of this kind, of which a switch has one: the host's, or the physical network's.
    #[must_use]
    pub fn port_of(&self, kind: PortKind) -> Option<usize> {
        self.ports.iter().position(|port| port.kind == kind)
    }

    fn port_with(&self, address: Mac) -> Option<usize> {
        self.ports
            .iter()
            .position(|port| port.addresses.contains(&address))
    }

    /// The port by which a frame from this address comes in.
    fn source(&self, address: Mac) -> Option<usize> {
        self.port_with(address)
            .or_else(|| self.port_of(PortKind::External))
    }

    /// The ports by which a frame leaves: that of its destination, all others for a group, the physical network
    /// for an address that is not known.
    fn destinations(&self, from: usize, address: Mac) -> Vec<usize> {
        if address_type(address) != 0 {
            return (0..self.ports.len()).filter(|port| *port != from).collect();
        }
        let to = self
            .port_with(address)
            .or_else(|| self.port_of(PortKind::External));
        to.filter(|port| *port != from).into_iter().collect()
    }
}

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    SourceMac,
    SourceMacType,
    DestinationMac,
    DestinationMacType,
    EtherType,
    Vlan,
    Tenant,
    SwitchId,
    Network,
    Interface(End),
    InterfaceType(End),
    Machine(End),
    Flags,
    Compartment,
    SourceAddress,
    DestinationAddress,
    Protocol,
    SourcePort,
    DestinationPort,
    Unknown,
}

/// An end of a frame's way through the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    From,
    To,
}

impl Origin {
    fn of(field: &Field) -> Self {
        match field.name() {
            "MAC_SOURCE_ADDRESS" => Self::SourceMac,
            "MAC_SOURCE_ADDRESS_TYPE" => Self::SourceMacType,
            "MAC_DESTINATION_ADDRESS" => Self::DestinationMac,
            "MAC_DESTINATION_ADDRESS_TYPE" => Self::DestinationMacType,
            "ETHER_TYPE" => Self::EtherType,
            "VLAN_ID" => Self::Vlan,
            "VSWITCH_TENANT_NETWORK_ID" => Self::Tenant,
            "VSWITCH_ID" => Self::SwitchId,
            "VSWITCH_NETWORK_TYPE" => Self::Network,
            "VSWITCH_SOURCE_INTERFACE_ID" => Self::Interface(End::From),
            "VSWITCH_SOURCE_INTERFACE_TYPE" => Self::InterfaceType(End::From),
            "VSWITCH_SOURCE_VM_ID" => Self::Machine(End::From),
            "VSWITCH_DESTINATION_INTERFACE_ID" => Self::Interface(End::To),
            "VSWITCH_DESTINATION_INTERFACE_TYPE" => Self::InterfaceType(End::To),
            "VSWITCH_DESTINATION_VM_ID" => Self::Machine(End::To),
            "L2_FLAGS" => Self::Flags,
            "COMPARTMENT_ID" => Self::Compartment,
            "IP_SOURCE_ADDRESS" => Self::SourceAddress,
            "IP_DESTINATION_ADDRESS" => Self::DestinationAddress,
            "IP_PROTOCOL" => Self::Protocol,
            "IP_SOURCE_PORT" => Self::SourcePort,
            "IP_DESTINATION_PORT" => Self::DestinationPort,
            _ => Self::Unknown,
        }
    }
}

/// A layer of the switch.
#[derive(Clone, Debug)]
struct SwitchLayer {
    id: LayerId,
    fields: Vec<Origin>,
    metadata: L2MetadataFields,
}

impl SwitchLayer {
    fn of(layer: Option<&Layer>) -> Self {
        let layer = layer.expect("the schema has the layers of virtual switches");
        Self {
            id: layer.id(),
            fields: layer.fields().iter().map(Origin::of).collect(),
            metadata: layer.kind().l2_metadata(),
        }
    }
}

/// The layers of one direction.
#[derive(Clone, Debug)]
struct Side {
    ethernet: SwitchLayer,
    transport: [SwitchLayer; 2],
}

impl Side {
    fn of(ethernet: LayerKind, transport: LayerKind) -> Self {
        let at = |version| SwitchLayer::of(Layer::of(transport, version));
        Self {
            ethernet: SwitchLayer::of(Layer::unversioned(ethernet)),
            transport: [at(IpVersion::V4), at(IpVersion::V6)],
        }
    }
}

/// A switch as the stack works with it: names are blobs.
#[derive(Debug)]
pub(super) struct SwitchState {
    switch: Switch,
    id: Vec<u8>,
    /// The names of each port's adapter and machine.
    names: Vec<[Vec<u8>; 2]>,
    ingress: Side,
    egress: Side,
}

/// Text as the blob of a field: UTF-16 with its terminating zero.
fn blob(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

impl SwitchState {
    pub(super) fn new(switch: Switch) -> Self {
        Self {
            id: blob(&switch.id),
            names: switch
                .ports
                .iter()
                .map(|port| {
                    let machine = port.machine.as_deref().map(blob);
                    [blob(&port.interface), machine.unwrap_or_default()]
                })
                .collect(),
            switch,
            ingress: Side::of(
                LayerKind::IngressVSwitchEthernet,
                LayerKind::IngressVSwitchTransport,
            ),
            egress: Side::of(
                LayerKind::EgressVSwitchEthernet,
                LayerKind::EgressVSwitchTransport,
            ),
        }
    }
}

/// A frame on its way through the switch.
struct Passing<'a> {
    frame: Frame<'a>,
    packet: Option<Packet<'a>>,
    mark: Option<InjectionMark>,
    id: PacketId,
    from: usize,
    to: Option<usize>,
    /// Whether tenants have 32 bits.
    wide_tenant: bool,
}

impl Passing<'_> {
    const fn end(&self, end: End) -> Option<usize> {
        match end {
            End::From => Some(self.from),
            End::To => self.to,
        }
    }

    fn flags(&self, switch: &Switch) -> L2Flags {
        let is_machine = |port: usize| switch.ports[port].machine.is_some();
        if is_machine(self.from) && self.to.is_some_and(is_machine) {
            L2Flags::IS_NATIVE_ETHERNET | L2Flags::IS_VM2VM
        } else {
            L2Flags::IS_NATIVE_ETHERNET
        }
    }

    /// Ports of TCP and UDP.
    fn ports(&self) -> Option<[u16; 2]> {
        let packet = self.packet.as_ref()?;
        matches!(packet.transport, Transport::Tcp(_) | Transport::Udp)
            .then_some([packet.source_port, packet.destination_port])
    }

    fn at<F: Filtering>(
        &self,
        layer: &SwitchLayer,
        state: &SwitchState,
        filtering: &mut F,
        metadata: &Metadata<'_>,
        offset: usize,
    ) -> Result<(), Reason> {
        if !filtering.wants(layer.id) {
            return Ok(());
        }
        let switch = &state.switch;
        let flags = self.flags(switch);
        let octets = self.packet.as_ref().map_or([[0; 16]; 2], |packet| {
            [
                packet.source.to_be_bytes(),
                packet.destination.to_be_bytes(),
            ]
        });
        let address = |index: usize| {
            let octets: &[u8; 16] = &octets[index];
            match self.packet.as_ref().map(|packet| packet.version) {
                Some(IpVersion::V4) => {
                    let [.., a, b, c, d] = *octets;
                    Value::Uint32(u32::from_be_bytes([a, b, c, d]))
                }
                Some(IpVersion::V6) => Value::ByteArray16(octets),
                None => Value::Empty,
            }
        };
        let ports = self.ports();
        let port = |index: usize| ports.map_or(Value::Empty, |ports| Value::Uint16(ports[index]));
        let name = |end, which: usize| {
            let name = self.end(end).map(|port| &*state.names[port][which]);
            name.filter(|name| !name.is_empty())
                .map_or(Value::Empty, Value::ByteBlob)
        };
        let values: Vec<_> = layer
            .fields
            .iter()
            .map(|source| match *source {
                Origin::SourceMac => Value::ByteArray6(&self.frame.source),
                Origin::SourceMacType => Value::Uint8(address_type(self.frame.source)),
                Origin::DestinationMac => Value::ByteArray6(&self.frame.destination),
                Origin::DestinationMacType => Value::Uint8(address_type(self.frame.destination)),
                Origin::EtherType => Value::Uint16(self.frame.ether_type),
                Origin::Vlan => Value::Uint16(self.frame.vlan),
                // No network of a tenant.
                Origin::Tenant if self.wide_tenant => Value::Uint32(0),
                Origin::Tenant => Value::Uint16(0),
                Origin::SwitchId => Value::ByteBlob(&state.id),
                Origin::Network => Value::Uint8(switch.network as u8),
                Origin::Interface(end) => name(end, 0),
                Origin::Machine(end) => name(end, 1),
                Origin::InterfaceType(end) => self.end(end).map_or(Value::Empty, |port| {
                    Value::Uint8(switch.ports[port].kind as u8)
                }),
                Origin::Flags => Value::Uint32(flags.bits()),
                Origin::Compartment => Value::Uint32(COMPARTMENT),
                Origin::SourceAddress => address(0),
                Origin::DestinationAddress => address(1),
                Origin::Protocol => self
                    .packet
                    .as_ref()
                    .map_or(Value::Empty, |packet| Value::Uint8(packet.protocol)),
                Origin::SourcePort => port(0),
                Origin::DestinationPort => port(1),
                Origin::Unknown => Value::Empty,
            })
            .collect();
        let from = &switch.ports[self.from];
        let mut present = L2MetadataFields::ETHERNET_MAC_HEADER_SIZE
            | L2MetadataFields::VSWITCH_SOURCE_PORT_ID
            | L2MetadataFields::VSWITCH_SOURCE_NIC_INDEX;
        if self.to.is_some() {
            present |= L2MetadataFields::VSWITCH_DESTINATION_PORT_ID;
        }
        let metadata = Metadata {
            link: LinkMetadata {
                present: L2MetadataFields::from_bits(present.bits() & layer.metadata.bits()),
                flags,
                mac_header_size: u32::try_from(self.frame.header_len).unwrap_or(0),
                frame_length: 0,
                switch_source_port: from.id,
                switch_source_nic: from.nic,
                switch_destination_port: self.to.map_or(0, |port| switch.ports[port].id),
            },
            ..*metadata
        };
        let indication = Indication {
            packet: Some(PacketData {
                bytes: self.frame.bytes,
                offset,
                id: self.id,
                injection: self.mark,
                offload: Offload::default(),
                more: &[],
            }),
            ..Indication::new(layer.id, &values, &metadata)
        };
        match filtering.classify(&indication) {
            Outcome::Permit => Ok(()),
            Outcome::Block => Err(Reason::Blocked(layer.id)),
            Outcome::Absorb | Outcome::Pend => Err(Reason::Absorbed(layer.id)),
        }
    }
}

/// Where a frame has left the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Whether by the host's port.
    pub(super) to_host: bool,
}

impl<F: Filtering> Host<F> {
    /// Sends a frame through the switch, if there is one.
    pub(super) fn through_switch(
        &mut self,
        frame: &Frame<'_>,
        outbound: bool,
        mark: Option<InjectionMark>,
        id: PacketId,
    ) -> Result<Left, Reason> {
        let indicator = &mut self.indicator;
        let Some(state) = &self.switch else {
            return Ok(Left { to_host: !outbound });
        };
        let from = if outbound {
            state.switch.port_of(PortKind::Internal)
        } else {
            state.switch.source(frame.source)
        };
        let Some(from) = from else {
            // Neither end is behind the switch.
            return Ok(Left { to_host: !outbound });
        };
        let metadata = Metadata::nothing(indicator.processes.identity(IdentityId::SYSTEM));
        let mut passing = Passing {
            frame: *frame,
            packet: frame.packet(),
            mark,
            id,
            from,
            to: None,
            wide_tenant: indicator.options.wide_tenant_network_id,
        };
        let order = indicator.options.switch_order;
        let filtering = &mut indicator.filtering;
        let mut at = |passing: &Passing<'_>, side: &Side| {
            let ethernet =
                |filtering: &mut F| passing.at(&side.ethernet, state, filtering, &metadata, 0);
            let transport = |filtering: &mut F| {
                let Some(packet) = &passing.packet else {
                    return Ok(());
                };
                let layer = &side.transport[packet.version as usize];
                let offset = passing.frame.packet_at();
                passing.at(layer, state, filtering, &metadata, offset)
            };
            match order {
                SwitchOrder::EthernetFirst => {
                    ethernet(filtering).and_then(|()| transport(filtering))
                }
                SwitchOrder::TransportFirst => {
                    transport(filtering).and_then(|()| ethernet(filtering))
                }
            }
        };
        at(&passing, &state.ingress)?;
        let mut left = None;
        let mut refused = None;
        for to in state.switch.destinations(from, frame.destination) {
            passing.to = Some(to);
            match at(&passing, &state.egress) {
                Ok(()) => {
                    let to_host = state.switch.ports[to].kind == PortKind::Internal;
                    let before = left.is_some_and(|left: Left| left.to_host);
                    left = Some(Left {
                        to_host: before || to_host,
                    });
                }
                Err(reason) => refused = refused.or(Some(reason)),
            }
        }
        match (left, refused) {
            (Some(left), _) => Ok(left),
            (None, Some(reason)) => Err(reason),
            (None, None) => Ok(Left { to_host: false }),
        }
    }
}
