//! The structures of one classify, in memory that a processor uses again and again.

use std::mem::offset_of;

use wfp_schema::flags::L2MetadataFields;
use wfp_schema::{Action, DataType, LayerId, MetadataFields};

use super::identity::Shown;
use super::layout::kernel::{
    RawClassifyOut, RawDiscard, RawFragment, RawIncomingValues, RawMetadata, RawStreamData,
    RawStreamPacket,
};
use super::layout::request::SockAddr;
use super::layout::value::{RawBlob, RawValue};
use crate::access::{In, Out, Plain, Shared};
use crate::net::{Indication, LinkMetadata, Metadata, Value};

/// More fields than any layer has.
pub(super) const MAX_FIELDS: usize = 40;

/// Everything that a callout is given but the packet and the filter.
#[repr(C)]
#[derive(Clone, Copy)]
struct Frame {
    incoming: RawIncomingValues,
    values: [RawValue; MAX_FIELDS],
    /// What a value points at: a number or 16 bytes, or a blob.
    behind: [[u64; 2]; MAX_FIELDS],
    metadata: RawMetadata,
    out: RawClassifyOut,
    stream_packet: RawStreamPacket,
    stream_data: RawStreamData,
    original_destination: SockAddr,
}

// SAFETY: integers and addresses.
unsafe impl Plain for Frame {}

/// A processor's structures.
#[derive(Debug)]
pub(super) struct Scratch(Shared<Frame>);

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").finish_non_exhaustive()
    }
}

macro_rules! member {
    ($self:ident, $field:ident) => {
        $self.0.out().offset(offset_of!(Frame, $field))
    };
}

impl Scratch {
    pub(super) fn new() -> Self {
        let frame = Shared::new(Frame {
            incoming: RawIncomingValues {
                layer: 0,
                count: 0,
                values: Out::null(),
            },
            values: [RawValue::number(DataType::Empty, 0); MAX_FIELDS],
            behind: [[0; 2]; MAX_FIELDS],
            metadata: no_metadata(),
            out: RawClassifyOut {
                action: 0,
                out_context: 0,
                filter_id: 0,
                rights: 0,
                flags: 0,
                reserved: 0,
            },
            stream_packet: RawStreamPacket {
                data: Out::null(),
                missed_bytes: 0,
                bytes_required: 0,
                bytes_enforced: 0,
                action: Action::None.value(),
            },
            stream_data: RawStreamData::EMPTY,
            original_destination: SockAddr([0; 128]),
        });
        Self(frame)
    }

    /// Fills in what every callout of an indication is given.
    pub(super) fn indicate(&self, indication: &Indication<'_>, identity: &Shown) {
        self.fill_values(indication.layer, indication.values, identity);
        self.fill_metadata(indication.metadata, identity);
    }

    fn fill_values(&self, layer: LayerId, values: &[Value<'_>], identity: &Shown) {
        let raws: Out<RawValue> = member!(self, values);
        let behind: Out<[u64; 2]> = member!(self, behind);
        let values = &values[..values.len().min(MAX_FIELDS)];
        for (index, value) in values.iter().enumerate() {
            let own = behind.offset::<u8>(index * size_of::<[u64; 2]>());
            let kind = value.data_type();
            let raw = match *value {
                Value::Uint8(value) => RawValue::number(kind, value.into()),
                Value::Uint16(value) => RawValue::number(kind, value.into()),
                Value::Uint32(value) => RawValue::number(kind, value),
                Value::Int8(value) => RawValue::number(kind, value.cast_unsigned().into()),
                Value::Int16(value) => RawValue::number(kind, value.cast_unsigned().into()),
                Value::Int32(value) => RawValue::number(kind, value.cast_unsigned()),
                Value::Float(value) => RawValue::number(kind, value.to_bits()),
                Value::Uint64(value) => behind_it(own, kind, value),
                Value::Int64(value) => behind_it(own, kind, value.cast_unsigned()),
                Value::Double(value) => behind_it(own, kind, value.to_bits()),
                Value::ByteArray16(value) => behind_it(own, kind, *value),
                Value::ByteArray6(value) => behind_it(own, kind, *value),
                Value::ByteBlob(bytes) if identity.is_application(bytes) => {
                    RawValue::at(kind, identity.path)
                }
                Value::ByteBlob(bytes) => {
                    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    behind_it(
                        own,
                        kind,
                        RawBlob {
                            size,
                            data: lent(bytes),
                        },
                    )
                }
                Value::Sid(sid) => RawValue::at(kind, lent(sid)),
                Value::TokenAccessInformation(token) if identity.is_user(token.user) => {
                    RawValue::at(kind, identity.token)
                }
                Value::TokenInformation(token) if identity.is_user(token.user) => {
                    RawValue::at(kind, identity.groups)
                }
                // The stack knows the tokens of endpoints' owners only, and no strings.
                Value::Empty
                | Value::TokenAccessInformation(_)
                | Value::TokenInformation(_)
                | Value::UnicodeString(_) => RawValue::number(DataType::Empty, 0),
            };
            raws.offset::<RawValue>(index * size_of::<RawValue>())
                .set(raw);
        }
        let count = u32::try_from(values.len()).unwrap_or(0);
        self.incoming_out().set(RawIncomingValues {
            layer: layer.get(),
            count,
            values: raws,
        });
    }

    fn fill_metadata(&self, metadata: &Metadata<'_>, identity: &Shown) {
        // A member whose bit is clear holds nothing: a driver that reads it anyway finds nothing useful.
        let has = |field| metadata.present.contains(field);
        let mut raw = no_metadata();
        raw.present = metadata.present.bits();
        if has(MetadataFields::FLOW_HANDLE) {
            raw.flow_handle = metadata.flow_handle;
        }
        if has(MetadataFields::IP_HEADER_SIZE) {
            raw.ip_header_size = metadata.ip_header_size;
        }
        if has(MetadataFields::TRANSPORT_HEADER_SIZE) {
            raw.transport_header_size = metadata.transport_header_size;
        }
        if has(MetadataFields::PROCESS_PATH) {
            raw.process_path = identity.path;
        }
        if has(MetadataFields::TOKEN) {
            raw.token = TOKEN;
        }
        if has(MetadataFields::PROCESS_ID) {
            raw.process_id = metadata.process.process_id();
        }
        if has(MetadataFields::COMPARTMENT_ID) {
            raw.compartment = metadata.compartment_id;
        }
        if has(MetadataFields::FRAGMENT_DATA) {
            raw.fragment = RawFragment {
                identification: metadata.fragment.identification,
                offset: metadata.fragment.offset,
                length: metadata.fragment.length,
            };
        }
        if has(MetadataFields::PATH_MTU) {
            raw.path_mtu = metadata.path_mtu;
        }
        if has(MetadataFields::COMPLETION_HANDLE) {
            raw.completion_handle = usize::try_from(metadata.completion_handle).unwrap_or(0);
        }
        if has(MetadataFields::TRANSPORT_ENDPOINT_HANDLE) {
            raw.endpoint_handle = metadata.endpoint_handle;
        }
        if has(MetadataFields::PACKET_DIRECTION) {
            raw.packet_direction = metadata.packet_direction.value();
        }
        if has(MetadataFields::PARENT_ENDPOINT_HANDLE) {
            raw.parent_endpoint_handle = metadata.parent_endpoint_handle;
        }
        if has(MetadataFields::ICMP_ID_AND_SEQUENCE) {
            raw.icmp_id_and_sequence = metadata.icmp_id_and_sequence;
        }
        if has(MetadataFields::DISCARD_REASON) {
            raw.discard = RawDiscard {
                module: metadata.discard.module.value(),
                reason: metadata.discard.reason,
                filter_id: metadata.discard.filter_id,
            };
        }
        if has(MetadataFields::SOURCE_INTERFACE_INDEX) {
            raw.source_interface = metadata.source_interface_index;
        }
        if has(MetadataFields::DESTINATION_INTERFACE_INDEX) {
            raw.destination_interface = metadata.destination_interface_index;
        }
        if has(MetadataFields::REMOTE_SCOPE_ID) {
            raw.remote_scope = metadata.remote_scope_id;
        }
        if has(MetadataFields::TRANSPORT_HEADER_INCLUDE_HEADER) {
            raw.include_header = lent(metadata.include_header).address();
            raw.include_header_length =
                u32::try_from(metadata.include_header.len()).unwrap_or(u32::MAX);
        }
        if has(MetadataFields::ETHER_FRAME_LENGTH) {
            raw.frame_length = metadata.link.frame_length;
        }
        if let Some(redirection) = metadata.redirection {
            if has(MetadataFields::LOCAL_REDIRECT_TARGET_PID) {
                raw.redirect_target = redirection.current().target_process;
            }
            if has(MetadataFields::ORIGINAL_DESTINATION) {
                let at: Out<SockAddr> = member!(self, original_destination);
                at.set(SockAddr::of(redirection.original().remote));
                raw.original_destination = at.address();
            }
        }
        fill_link(&mut raw, &metadata.link);
        self.metadata_out().set(raw);
    }

    /// Shows the redirect records that drivers know by `handle`.
    pub(super) const fn show_records(&self, handle: usize) {
        if let Some(mut raw) = self.metadata_out().get() {
            raw.present |= MetadataFields::REDIRECT_RECORD_HANDLE.bits();
            raw.redirect_records = handle;
            self.metadata_out().set(raw);
        }
    }

    const fn incoming_out(&self) -> Out<RawIncomingValues> {
        member!(self, incoming)
    }

    const fn metadata_out(&self) -> Out<RawMetadata> {
        member!(self, metadata)
    }

    /// `inFixedValues`.
    pub(super) const fn incoming(&self) -> In<RawIncomingValues> {
        self.incoming_out().as_in()
    }

    /// `inMetaValues`.
    pub(super) const fn metadata(&self) -> In<RawMetadata> {
        self.metadata_out().as_in()
    }

    /// `classifyOut`.
    pub(super) const fn out(&self) -> Out<RawClassifyOut> {
        member!(self, out)
    }

    /// `layerData` of a stream layer.
    pub(super) const fn stream_packet(&self) -> Out<RawStreamPacket> {
        member!(self, stream_packet)
    }

    /// What that points at.
    pub(super) const fn stream_data(&self) -> Out<RawStreamData> {
        member!(self, stream_data)
    }

    /// An opaque `classifyContext`.
    pub(super) fn context(&self) -> usize {
        self.0.out().address()
    }
}

/// The members that `currentL2MetadataValues` is about.
fn fill_link(raw: &mut RawMetadata, link: &LinkMetadata) {
    let has = |field| link.present.contains(field);
    raw.l2_present = link.present.bits();
    raw.l2_flags = link.flags.bits();
    if has(L2MetadataFields::ETHERNET_MAC_HEADER_SIZE) {
        raw.mac_header_size = link.mac_header_size;
    }
    if has(L2MetadataFields::VSWITCH_SOURCE_PORT_ID) {
        raw.switch_source_port = link.switch_source_port;
    }
    if has(L2MetadataFields::VSWITCH_SOURCE_NIC_INDEX) {
        raw.switch_source_nic = link.switch_source_nic;
    }
    if has(L2MetadataFields::VSWITCH_DESTINATION_PORT_ID) {
        raw.switch_destination_port = link.switch_destination_port;
    }
}

/// A value whose member is the address of `value`, which is put at `own`.
fn behind_it<T: Plain>(own: Out<u8>, kind: DataType, value: T) -> RawValue {
    own.offset::<T>(0).set(value);
    RawValue::at(kind, own)
}

/// Bytes of an indication, for callouts to read.
const fn lent(bytes: &[u8]) -> Out<u8> {
    // SAFETY: the indication keeps the bytes for as long as the classify runs, and callouts only read values.
    unsafe { Out::new(bytes.as_ptr().cast_mut()) }
}

/// The token of every process: a handle that means something to `FwpsOpenToken0` only.
pub(super) const TOKEN: u64 = 0x746f_6b65;

const fn no_metadata() -> RawMetadata {
    RawMetadata {
        present: 0,
        flags: 0,
        reserved: 0,
        discard: RawDiscard {
            module: 0,
            reason: 0,
            filter_id: 0,
        },
        flow_handle: 0,
        ip_header_size: 0,
        transport_header_size: 0,
        process_path: Out::null(),
        token: 0,
        process_id: 0,
        source_interface: 0,
        destination_interface: 0,
        compartment: 0,
        fragment: RawFragment {
            identification: 0,
            offset: 0,
            length: 0,
        },
        path_mtu: 0,
        completion_handle: 0,
        endpoint_handle: 0,
        remote_scope: 0,
        control_data: 0,
        control_data_length: 0,
        packet_direction: 0,
        include_header: 0,
        include_header_length: 0,
        destination_prefix: [0; 8],
        frame_length: 0,
        parent_endpoint_handle: 0,
        icmp_id_and_sequence: 0,
        redirect_target: 0,
        original_destination: 0,
        redirect_records: 0,
        l2_present: 0,
        l2_flags: 0,
        mac_header_size: 0,
        wifi_mode: 0,
        switch_source_port: 0,
        switch_source_nic: 0,
        switch_destination_port: 0,
        switch_context: 0,
        sub_process_tag: 0,
        reserved1: 0,
    }
}
