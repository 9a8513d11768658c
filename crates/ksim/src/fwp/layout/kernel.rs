//! `fwpsk.h`: what callouts see.

use wfp_schema::Guid;

use super::value::{RawBlob, RawValue};
use crate::access::{In, Out, plain};
use crate::ndis::layout::{Mdl, NetBuffer, NetBufferList, layout};

/// `FWPS_CALLOUT0` to `FWPS_CALLOUT3`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawCallout {
    pub(crate) key: Guid,
    pub(crate) flags: u32,
    pub(crate) classify: usize,
    pub(crate) notify: usize,
    pub(crate) flow_delete: usize,
}

/// `FWPS_INCOMING_VALUES0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawIncomingValues {
    pub(crate) layer: u16,
    pub(crate) count: u32,
    pub(crate) values: Out<RawValue>,
}

/// `FWPS_ACTION0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawAction {
    pub(crate) kind: u32,
    pub(crate) callout: u32,
}

/// `FWPS_FILTER_CONDITION0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawCondition {
    pub(crate) field: u16,
    pub(crate) reserved: u16,
    pub(crate) match_type: u32,
    pub(crate) value: RawValue,
}

/// `FWPS_FILTER0` to `FWPS_FILTER3`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawFilter {
    pub(crate) id: u64,
    pub(crate) weight: RawValue,
    pub(crate) sublayer_weight: u16,
    pub(crate) flags: u16,
    pub(crate) condition_count: u32,
    pub(crate) conditions: Out<RawCondition>,
    pub(crate) action: RawAction,
    pub(crate) context: u64,
    pub(crate) provider_context: usize,
}

/// `FWPS_CLASSIFY_OUT0`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawClassifyOut {
    pub(crate) action: u32,
    pub(crate) out_context: u64,
    pub(crate) filter_id: u64,
    pub(crate) rights: u32,
    pub(crate) flags: u32,
    pub(crate) reserved: u32,
}

/// `FWPS_STREAM_DATA_OFFSET0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawStreamDataOffset {
    pub(crate) list: Out<NetBufferList>,
    pub(crate) buffer: Out<NetBuffer>,
    pub(crate) mdl: Out<Mdl>,
    pub(crate) mdl_offset: u32,
    pub(crate) buffer_offset: u32,
    pub(crate) stream_data_offset: usize,
}

/// `FWPS_STREAM_DATA0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawStreamData {
    pub(crate) flags: u32,
    pub(crate) offset: RawStreamDataOffset,
    pub(crate) length: usize,
    pub(crate) lists: Out<NetBufferList>,
}

impl RawStreamData {
    /// No data.
    pub(crate) const EMPTY: Self = Self {
        flags: 0,
        offset: RawStreamDataOffset {
            list: Out::null(),
            buffer: Out::null(),
            mdl: Out::null(),
            mdl_offset: 0,
            buffer_offset: 0,
            stream_data_offset: 0,
        },
        length: 0,
        lists: Out::null(),
    };
}

/// `FWPS_STREAM_CALLOUT_IO_PACKET0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawStreamPacket {
    pub(crate) data: Out<RawStreamData>,
    pub(crate) missed_bytes: usize,
    pub(crate) bytes_required: u32,
    pub(crate) bytes_enforced: usize,
    pub(crate) action: u32,
}

/// `FWPS_DISCARD_METADATA0`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RawDiscard {
    pub(crate) module: u32,
    pub(crate) reason: u32,
    pub(crate) filter_id: u64,
}

/// `FWPS_INBOUND_FRAGMENT_METADATA0`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RawFragment {
    pub(crate) identification: u32,
    pub(crate) offset: u16,
    pub(crate) length: u32,
}

/// `FWPS_INCOMING_METADATA_VALUES0` of Windows 8 and later.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawMetadata {
    pub(crate) present: u32,
    pub(crate) flags: u32,
    pub(crate) reserved: u64,
    pub(crate) discard: RawDiscard,
    pub(crate) flow_handle: u64,
    pub(crate) ip_header_size: u32,
    pub(crate) transport_header_size: u32,
    pub(crate) process_path: Out<RawBlob>,
    pub(crate) token: u64,
    pub(crate) process_id: u64,
    pub(crate) source_interface: u32,
    pub(crate) destination_interface: u32,
    pub(crate) compartment: u32,
    pub(crate) fragment: RawFragment,
    pub(crate) path_mtu: u32,
    pub(crate) completion_handle: usize,
    pub(crate) endpoint_handle: u64,
    pub(crate) remote_scope: u32,
    pub(crate) control_data: usize,
    pub(crate) control_data_length: u32,
    pub(crate) packet_direction: u32,
    pub(crate) include_header: usize,
    pub(crate) include_header_length: u32,
    pub(crate) destination_prefix: [u32; 8],
    pub(crate) frame_length: u16,
    pub(crate) parent_endpoint_handle: u64,
    pub(crate) icmp_id_and_sequence: u32,
    pub(crate) redirect_target: u32,
    pub(crate) original_destination: usize,
    pub(crate) redirect_records: usize,
    pub(crate) l2_present: u32,
    pub(crate) l2_flags: u32,
    pub(crate) mac_header_size: u32,
    pub(crate) wifi_mode: u32,
    pub(crate) switch_source_port: u32,
    pub(crate) switch_source_nic: u16,
    pub(crate) switch_destination_port: u32,
    pub(crate) switch_context: usize,
    pub(crate) sub_process_tag: usize,
    pub(crate) reserved1: u64,
}

plain!(
    RawCallout,
    RawIncomingValues,
    RawCondition,
    RawFilter,
    RawClassifyOut,
    RawStreamData,
    RawStreamPacket,
    RawMetadata,
);

// SAFETY: integers and addresses.
unsafe impl crate::access::Plain for RawStreamDataOffset {}

/// `FWPS_INJECT_COMPLETE0`.
pub(crate) type InjectComplete =
    extern "win64" fn(context: usize, list: Out<NetBufferList>, dispatch: u8);

/// `FWPM_SERVICE_STATE_CHANGE_CALLBACK0`.
pub(crate) type BfeStateChanged = extern "win64" fn(context: usize, state: u32);

/// `FWPS_CALLOUT_CLASSIFY_FN0`.
pub(crate) type Classify0 = extern "win64" fn(
    values: In<RawIncomingValues>,
    metadata: In<RawMetadata>,
    layer_data: Out<u8>,
    filter: In<RawFilter>,
    flow_context: u64,
    out: Out<RawClassifyOut>,
);

/// `FWPS_CALLOUT_CLASSIFY_FN1` to `FWPS_CALLOUT_CLASSIFY_FN3`.
pub(crate) type Classify1 = extern "win64" fn(
    values: In<RawIncomingValues>,
    metadata: In<RawMetadata>,
    layer_data: Out<u8>,
    classify_context: usize,
    filter: In<RawFilter>,
    flow_context: u64,
    out: Out<RawClassifyOut>,
);

/// `FWPS_CALLOUT_NOTIFY_FN0` to `FWPS_CALLOUT_NOTIFY_FN3`.
pub(crate) type Notify = extern "win64" fn(kind: u32, key: In<Guid>, filter: Out<RawFilter>) -> i32;

/// `FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0`.
pub(crate) type FlowDelete = extern "win64" fn(layer: u16, callout: u32, context: u64);

layout! {
    RawCallout 48 { key @ 0, flags @ 16, classify @ 24, notify @ 32, flow_delete @ 40 }
    RawIncomingValues 16 { layer @ 0, count @ 4, values @ 8 }
    RawAction 8 { kind @ 0, callout @ 4 }
    RawCondition 24 { field @ 0, reserved @ 2, match_type @ 4, value @ 8 }
    RawFilter 64 {
        id @ 0, weight @ 8, sublayer_weight @ 24, flags @ 26, condition_count @ 28, conditions @ 32, action @ 40,
        context @ 48, provider_context @ 56,
    }
    RawClassifyOut 40 { action @ 0, out_context @ 8, filter_id @ 16, rights @ 24, flags @ 28, reserved @ 32 }
    RawStreamDataOffset 40 {
        list @ 0, buffer @ 8, mdl @ 16, mdl_offset @ 24, buffer_offset @ 28, stream_data_offset @ 32,
    }
    RawStreamData 64 { flags @ 0, offset @ 8, length @ 48, lists @ 56 }
    RawStreamPacket 40 { data @ 0, missed_bytes @ 8, bytes_required @ 16, bytes_enforced @ 24, action @ 32 }
    RawDiscard 16 { module @ 0, reason @ 4, filter_id @ 8 }
    RawFragment 12 { identification @ 0, offset @ 4, length @ 8 }
    RawMetadata 280 {
        present @ 0, flags @ 4, reserved @ 8, discard @ 16, flow_handle @ 32, ip_header_size @ 40,
        transport_header_size @ 44, process_path @ 48, token @ 56, process_id @ 64, source_interface @ 72,
        destination_interface @ 76, compartment @ 80, fragment @ 84, path_mtu @ 96, completion_handle @ 104,
        endpoint_handle @ 112, remote_scope @ 120, control_data @ 128, control_data_length @ 136,
        packet_direction @ 140, include_header @ 144, include_header_length @ 152, destination_prefix @ 156,
        frame_length @ 188, parent_endpoint_handle @ 192, icmp_id_and_sequence @ 200, redirect_target @ 204,
        original_destination @ 208, redirect_records @ 216, l2_present @ 224, l2_flags @ 228, mac_header_size @ 232,
        wifi_mode @ 236, switch_source_port @ 240, switch_source_nic @ 244, switch_destination_port @ 248,
        switch_context @ 256, sub_process_tag @ 264, reserved1 @ 272,
    }
}
