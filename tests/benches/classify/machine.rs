//! A simulated machine with a driver, or with none.

use std::net::{IpAddr, SocketAddr};

use ksim::fwp::KernelFiltering;
use ksim::net::{
    End, Filtering as _, FlowInfo, Identity, Indication, Metadata, Offload, Outcome, PacketData,
    Sid, Token, Value,
};
use ksim::{Caller, Config, Driver, FileHandle, Kernel, LoadOptions, PoolMode};
use portcullis_cli::control::{self, ControlError, Device};
use portcullis_proto::EventKind;
use portcullis_proto::device::{ControlCode, WIN32_PATH};
use portcullis_tests::{HOST_V4, HOST_V6, udp};
use wfp_engine::{Filter, Session};
use wfp_schema::codes::AddressType;
use wfp_schema::{Direction, IpVersion, Layer, LayerKind, MetadataFields, NtStatus};

/// IP protocol numbers.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Bytes of a UDP header.
const UDP_HEADER: u32 = 8;

/// A machine with one processor and a pool without guard pages: what is measured are drivers.
pub(crate) fn boot() -> Kernel {
    Kernel::new(&Config {
        pool: PoolMode::Fast,
        ..Config::default()
    })
    .expect("a machine")
}

/// Portcullis on a machine with one processor.
pub(crate) struct Portcullis {
    pub(crate) kernel: Kernel,
    pub(crate) driver: Driver,
    device: Control,
}

struct Control(FileHandle);

impl Device for Control {
    fn control(
        &self,
        code: ControlCode,
        input: &[u8],
        output_size: usize,
    ) -> Result<Vec<u8>, ControlError> {
        let result = self
            .0
            .ioctl(code.raw(), input, output_size)
            .expect("no bug check");
        match result.status {
            NtStatus::SUCCESS => Ok(result.output),
            status => Err(ControlError::Refused {
                operation: code.name(),
                status,
            }),
        }
    }
}

impl Portcullis {
    /// Starts the driver and gives it `policy`.
    pub(crate) fn start(image: &[u8], policy: &[u8]) -> Self {
        let kernel = boot();
        let driver = kernel
            .load(image, &LoadOptions::named("portcullis.sys"))
            .expect("the driver is loaded");
        let status = driver.start().expect("no bug check");
        assert!(status.is_success(), "the driver does not start: {status}");
        let device = Control(
            kernel
                .open(WIN32_PATH, Caller::administrator())
                .expect("the control device"),
        );
        control::set_policy(&device, policy).expect("a valid policy");
        Self {
            kernel,
            driver,
            device,
        }
    }

    /// Takes the events that wait out of the driver; how many of them tell of a decision.
    pub(crate) fn take_decisions(&self) -> usize {
        let mut events = Vec::new();
        control::take_events(&self.device, &mut events).expect("events");
        events
            .iter()
            .filter(|event| event.kind == EventKind::Authorize.raw())
            .count()
    }

    /// Unloads the driver, and expects that nothing was left or done wrong.
    pub(crate) fn stop(self) {
        self.device.0.close().expect("no bug check");
        let report = self.driver.unload().expect("no bug check");
        assert!(report.is_clean(), "{report:#?}");
    }
}

/// The layers of Portcullis's callouts.
const LAYERS: [LayerKind; 7] = [
    LayerKind::AleAuthConnect,
    LayerKind::AleAuthRecvAccept,
    LayerKind::AleAuthListen,
    LayerKind::AleFlowEstablished,
    LayerKind::Stream,
    LayerKind::DatagramData,
    LayerKind::AleEndpointClosure,
];

/// A machine without a driver, with a filter that permits everything at each of the layers.
pub(crate) fn without_driver() -> Kernel {
    let kernel = boot();
    let engine = kernel.filter_engine();
    let session = engine.open_session(Session::dynamic()).expect("a session");
    for (kind, version) in LAYERS
        .into_iter()
        .flat_map(|kind| [(kind, IpVersion::V4), (kind, IpVersion::V6)])
    {
        let layer = layer(kind, version).key();
        let filter = Filter {
            name: Some("permit".to_owned()),
            layer,
            ..Filter::default()
        };
        engine.add_filter(session, filter).expect("a filter");
    }
    kernel
}

fn layer(kind: LayerKind, version: IpVersion) -> &'static Layer {
    Layer::of(kind, version).expect("an IP layer")
}

/// Who talks to whom.
#[derive(Clone, Copy)]
pub(crate) struct Conversation {
    pub(crate) protocol: u8,
    pub(crate) local: End,
    pub(crate) remote: End,
}

impl Conversation {
    pub(crate) const fn version(&self) -> IpVersion {
        if self.local.address.is_ipv4() {
            IpVersion::V4
        } else {
            IpVersion::V6
        }
    }

    /// A datagram on its way out.
    pub(crate) fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        let [local, remote] =
            [self.local, self.remote].map(|end| SocketAddr::new(end.address, end.port).to_string());
        udp(&local, &remote, payload)
    }
}

/// The program that everything is measured for.
pub(crate) fn program() -> Identity {
    Identity::new(
        r"C:\Program Files\Measured\client.exe",
        4_000,
        Sid::new(5, &[21, 1, 2, 3, 1_001]),
    )
}

/// What a network stack keeps to make an indication of one layer again and again.
pub(crate) struct Indicated {
    layer: &'static Layer,
    conversation: Conversation,
    program: Identity,
    local: [u8; 16],
    remote: [u8; 16],
    /// The packet, where the layer has one.
    packet: Option<Vec<u8>>,
    offload: Offload,
}

impl Indicated {
    pub(crate) fn at(kind: LayerKind, conversation: Conversation, packet: Option<Vec<u8>>) -> Self {
        let octets = |end: End| match end.address {
            IpAddr::V4(_) => [0; 16],
            IpAddr::V6(address) => address.octets(),
        };
        Self {
            layer: layer(kind, conversation.version()),
            conversation,
            program: program(),
            local: octets(conversation.local),
            remote: octets(conversation.remote),
            packet,
            offload: Offload::NONE,
        }
    }

    /// The same with a packet that the network card is to split into datagrams of so many bytes.
    pub(crate) const fn split(mut self, size: u32) -> Self {
        self.offload.segmentation = size;
        self
    }

    /// Calls `with` with the indication for the flow `handle` (0 for none).
    pub(crate) fn with<T>(&self, handle: u64, with: impl FnOnce(&Indication<'_>) -> T) -> T {
        let token = self.program.token();
        let mut values = [Value::Empty; 40];
        let fields = self.layer.fields();
        for (value, field) in values.iter_mut().zip(fields) {
            *value = self.value(field.name(), &token);
        }
        let has = |condition, field| {
            if condition {
                field
            } else {
                MetadataFields::NONE
            }
        };
        let network = matches!(
            self.layer.kind(),
            LayerKind::OutboundIpPacket | LayerKind::InboundIpPacket
        );
        let present = MetadataFields::PROCESS_PATH
            | MetadataFields::TOKEN
            | MetadataFields::PROCESS_ID
            | MetadataFields::COMPARTMENT_ID
            | MetadataFields::TRANSPORT_ENDPOINT_HANDLE
            | has(handle != 0, MetadataFields::FLOW_HANDLE)
            | has(self.packet.is_some(), MetadataFields::TRANSPORT_HEADER_SIZE);
        let ip_header = if self.conversation.version() == IpVersion::V4 {
            20
        } else {
            40
        };
        let metadata = Metadata {
            present: MetadataFields::from_bits(present.bits() & self.layer.metadata().bits()),
            flow_handle: handle,
            transport_header_size: UDP_HEADER,
            endpoint_handle: 1,
            compartment_id: 1,
            path_mtu: 1500,
            ..Metadata::nothing(&self.program)
        };
        let packet = self.packet.as_deref().map(|bytes| PacketData {
            bytes,
            offset: if network { 0 } else { ip_header },
            id: ksim::net::PacketId(0),
            injection: None,
            offload: self.offload,
            more: &[],
        });
        with(&Indication {
            packet,
            ..Indication::new(self.layer.id(), &values[..fields.len()], &metadata)
        })
    }

    fn value<'a>(&'a self, field: &str, token: &'a Token<'a>) -> Value<'a> {
        let address = |end: End, bytes: &'a [u8; 16]| match end.address {
            IpAddr::V4(address) => Value::Uint32(address.to_bits()),
            IpAddr::V6(_) => Value::ByteArray16(bytes),
        };
        let Conversation {
            protocol,
            local,
            remote,
        } = self.conversation;
        match field {
            "IP_LOCAL_ADDRESS" => address(local, &self.local),
            "IP_REMOTE_ADDRESS" => address(remote, &self.remote),
            "IP_LOCAL_ADDRESS_TYPE" | "IP_DESTINATION_ADDRESS_TYPE" => {
                Value::Uint8(AddressType::Unicast as u8)
            }
            "IP_LOCAL_PORT" => Value::Uint16(local.port),
            "IP_REMOTE_PORT" => Value::Uint16(remote.port),
            "IP_PROTOCOL" => Value::Uint8(protocol),
            "IP_LOCAL_INTERFACE" => Value::Uint64(6 << 48 | 2 << 24),
            "INTERFACE_INDEX" => Value::Uint32(2),
            "SUB_INTERFACE_INDEX" | "FLAGS" => Value::Uint32(0),
            "DIRECTION" => Value::Uint32(Direction::Outbound.value()),
            "ALE_APP_ID" | "ALE_ORIGINAL_APP_ID" => Value::ByteBlob(self.program.application_id()),
            "ALE_USER_ID" => Value::TokenAccessInformation(token),
            "COMPARTMENT_ID" => Value::Uint32(1),
            _ => Value::Empty,
        }
    }
}

/// Begins an outbound flow, as the stack does: authorized and established; its handle.
pub(crate) fn begin_flow(filtering: &mut KernelFiltering, conversation: Conversation) -> u64 {
    let handle = filtering.flow_created(&FlowInfo {
        version: conversation.version(),
        protocol: conversation.protocol,
        direction: Direction::Outbound,
        local: conversation.local,
        remote: conversation.remote,
    });
    for kind in [LayerKind::AleAuthConnect, LayerKind::AleFlowEstablished] {
        let indicated = Indicated::at(kind, conversation, None);
        let outcome = indicated.with(handle, |indication| filtering.classify(indication));
        assert_eq!(outcome, Outcome::Permit, "the measured flow is permitted");
    }
    handle
}

/// A client at a documentation address of `version`, and the server that the policies' last rule permits.
pub(crate) fn conversation(version: IpVersion, protocol: u8, port: u16) -> Conversation {
    let end = |address: &str, port| End {
        address: address.parse().expect("an address"),
        port,
    };
    let (local, remote) = match version {
        IpVersion::V4 => (HOST_V4, "198.51.100.7"),
        IpVersion::V6 => (HOST_V6, "2001:db8:51:100::7"),
    };
    Conversation {
        protocol,
        local: end(local, 50_000),
        remote: end(remote, port),
    }
}
