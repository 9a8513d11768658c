//! Registration, and the functions that WFP calls.

use core::ffi::c_void;
use core::ptr;

use conformance_messages::{Notify, Record, Register, Reply, Script, Unregister, kind, option};
use wdk_sys::{GUID, NTSTATUS};
use wfp::schema::{DataType, Layer, LayerData, LayerId};
use wfp::sync::{RawSpinLock, SpinLock};
use wfp_sys::{
    FWPS_CALLOUT_NOTIFY_TYPE, FWPS_CALLOUT2, FWPS_CLASSIFY_OUT0, FWPS_FILTER2,
    FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0, FWPS_STREAM_CALLOUT_IO_PACKET0,
    NET_BUFFER_LIST,
};
use zerocopy::FromZeros as _;

use crate::device::{self, at_level};
use crate::objects::guid;
use crate::script::{self, Call};
use crate::slots::{Numbers, bits};
use crate::{packets, records};

/// How many callouts there can be.
pub(crate) const CALLOUTS: usize = 16;

/// `NOTIFY_ADD_FILTER`.
const ADD_FILTER: FWPS_CALLOUT_NOTIFY_TYPE = 0;
/// `NOTIFY_DELETE_FILTER`.
const DELETE_FILTER: FWPS_CALLOUT_NOTIFY_TYPE = 1;

/// Identifiers by slot.
static IDS: Numbers<CALLOUTS> = Numbers::new();

struct Answers([Option<Notify>; CALLOUTS]);

static ANSWERS: SpinLock<Answers> = SpinLock::from_raw(
    <RawSpinLock as lock_api::RawMutex>::INIT,
    Answers([None; CALLOUTS]),
);

pub(crate) fn register(message: &Register) -> Reply {
    let Some(device) = device::wdm() else {
        return Reply::status(wfp::NtStatus::DEVICE_NOT_READY.code());
    };
    script::forget(message.callout);
    keep_answer(message.callout, None);
    let callout = FWPS_CALLOUT2 {
        calloutKey: guid(message.key),
        flags: message.flags,
        classifyFn: Some(classify),
        notifyFn: Some(notify),
        flowDeleteFn: if message.options & option::FLOW_DELETE != 0 {
            Some(flow_delete)
        } else {
            None
        },
    };
    let mut id = 0;
    let status = at_level(message.irql, || {
        // SAFETY: the functions are static, and the descriptor is copied.
        unsafe {
            wfp_sys::FwpsCalloutRegister2(device.as_ptr().cast(), &raw const callout, &raw mut id)
        }
    });
    if status == 0 {
        IDS.set(message.callout, id.into());
    }
    Reply::value(bits(status), id.into())
}

pub(crate) fn unregister(message: &Unregister) -> Reply {
    let status = if message.id == 0 {
        let key = guid(message.key);
        // SAFETY: the key is only read during the call.
        unsafe { wfp_sys::FwpsCalloutUnregisterByKey0(&raw const key) }
    } else {
        // SAFETY: takes a number.
        unsafe { wfp_sys::FwpsCalloutUnregisterById0(message.id) }
    };
    Reply::status(bits(status))
}

/// Unregisters what the test has left registered.
#[allow(
    clippy::cast_possible_truncation,
    reason = "identifiers of callouts have 32 bits"
)]
pub(crate) fn unregister_all() {
    for id in IDS.drain() {
        // SAFETY: takes a number. What the test has unregistered is not found.
        let _ = unsafe { wfp_sys::FwpsCalloutUnregisterById0(id as u32) };
    }
}

pub(crate) fn play(message: &Script) -> Reply {
    script::set(message);
    Reply::status(0)
}

pub(crate) fn answer_notify(message: &Notify) -> Reply {
    keep_answer(message.callout, Some(*message));
    Reply::status(0)
}

/// From now on the callout's `notifyFn` answers so.
fn keep_answer(callout: u32, answer: Option<Notify>) {
    let mut answers = ANSWERS.lock();
    if let Some(place) = answers.0.get_mut(callout as usize) {
        *place = answer;
    }
}

/// The slot of a callout.
#[allow(clippy::cast_possible_truncation, reason = "there are few slots")]
fn slot_of(id: u32) -> u32 {
    IDS.find(id.into()).unwrap_or(CALLOUTS) as u32
}

/// `FWPS_CALLOUT_CLASSIFY_FN2` of every callout.
///
/// # Safety
/// Called by WFP, whose function type's DDI page says what each argument is.
unsafe extern "C" fn classify(
    fixed: *const FWPS_INCOMING_VALUES0,
    metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    classify_context: *const c_void,
    filter: *const FWPS_FILTER2,
    flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: WFP passes values that live during the call.
    let (Some(fixed), Some(metadata)) = (unsafe { fixed.as_ref() }, unsafe { metadata.as_ref() })
    else {
        return;
    };
    // SAFETY: as above.
    let (Some(filter), false) = (unsafe { filter.as_ref() }, out.is_null()) else {
        return;
    };
    let callout = slot_of(filter.action.calloutId);
    let mut record = blank(kind::CLASSIFY);
    record.callout = callout;
    record.layer = fixed.layerId.into();
    record.id = filter.filterId;
    record.filter_context = filter.context;
    record.flow_context = flow_context;
    read_metadata(metadata, &mut record);
    let layer = LayerId::new(fixed.layerId).layer();
    if let Some(layer) = layer {
        // SAFETY: the values are those that WFP passed.
        unsafe { read_fields(fixed, layer, &mut record) };
    }
    let (mut stream, mut list) = (ptr::null_mut(), ptr::null_mut());
    match layer.map(Layer::data) {
        Some(LayerData::StreamCalloutIoPacket) => {
            stream = layer_data.cast::<FWPS_STREAM_CALLOUT_IO_PACKET0>();
        }
        Some(LayerData::NetBufferList { .. }) => list = layer_data.cast::<NET_BUFFER_LIST>(),
        _ => {}
    }
    // SAFETY: NULL, or the list of this classify.
    unsafe { packets::look(list, &mut record) };
    // SAFETY: NULL, or the stream's packet of this classify.
    unsafe { packets::look_at_stream(stream, &mut record) };
    // SAFETY: what a callout answers is its own during the call.
    record.action = unsafe { (*out).actionType };
    // SAFETY: as above.
    record.rights = unsafe { (*out).rights };
    // SAFETY: as above.
    record.out_flags = unsafe { (*out).flags };
    let call = Call {
        metadata,
        classify_context,
        filter: filter.filterId,
        list,
        stream,
        out,
    };
    script::run(callout, &call, record);
}

fn blank(kind: u32) -> Record {
    let mut record = records::blank();
    record.kind = kind;
    // SAFETY: reading the level is allowed at any level.
    record.irql = u32::from(unsafe { wdk_sys::ntddk::KeGetCurrentIrql() });
    record
}

#[allow(clippy::cast_sign_loss, reason = "C makes enumerations signed")]
fn read_metadata(metadata: &FWPS_INCOMING_METADATA_VALUES0, record: &mut Record) {
    let present = metadata.currentMetadataValues;
    record.metadata = present.into();
    if present & wfp_sys::FWPS_METADATA_FIELD_FLOW_HANDLE != 0 {
        record.flow = metadata.flowHandle;
    }
    if present & wfp_sys::FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE != 0 {
        record.endpoint = metadata.transportEndpointHandle;
    }
    if present & wfp_sys::FWPS_METADATA_FIELD_COMPLETION_HANDLE != 0 {
        record.completion = metadata.completionHandle as u64;
    }
    if present & wfp_sys::FWPS_METADATA_FIELD_DISCARD_REASON != 0 {
        record.discard_module = metadata.discardMetadata.discardModule as u32;
        record.discard_reason = metadata.discardMetadata.discardReason;
    }
}

/// # Safety
/// `fixed` is what WFP passed to a classify of `layer` that is running.
#[allow(clippy::cast_sign_loss, reason = "C makes enumerations signed")]
unsafe fn read_fields(fixed: &FWPS_INCOMING_VALUES0, layer: &Layer, record: &mut Record) {
    let fields = [
        ("FLAGS", &mut record.flags),
        ("REAUTHORIZE_REASON", &mut record.reauthorize_reason),
        ("DIRECTION", &mut record.direction),
        ("IP_PROTOCOL", &mut record.protocol),
        ("IP_LOCAL_PORT", &mut record.local_port),
        ("IP_REMOTE_PORT", &mut record.remote_port),
        ("IP_REMOTE_ADDRESS", &mut record.remote_address),
        ("IP_LOCAL_ADDRESS", &mut record.local_address_type),
    ];
    for (name, place) in fields {
        *place = u32::MAX;
        let Some(index) = layer.fields().iter().position(|field| field.name() == name) else {
            continue;
        };
        if index >= fixed.valueCount as usize || fixed.incomingValue.is_null() {
            continue;
        }
        // SAFETY: there are `valueCount` values.
        let at = unsafe { fixed.incomingValue.add(index) };
        // SAFETY: as above.
        let value = unsafe { &(*at).value };
        let data = &value.__bindgen_anon_1;
        let data_type = value.type_ as u32;
        if name == "IP_LOCAL_ADDRESS" {
            *place = data_type;
            continue;
        }
        *place = match DataType::from_u32(data_type) {
            // SAFETY: the type says which member is valid.
            Some(DataType::Uint8) => u32::from(unsafe { data.uint8 }),
            // SAFETY: as above.
            Some(DataType::Uint16) => u32::from(unsafe { data.uint16 }),
            // SAFETY: as above.
            Some(DataType::Uint32) => unsafe { data.uint32 },
            _ => u32::MAX,
        };
    }
}

/// `FWPS_CALLOUT_NOTIFY_FN2` of every callout.
///
/// # Safety
/// Called by WFP, whose function type's DDI page says what each argument is.
#[allow(clippy::cast_sign_loss, reason = "C makes enumerations signed")]
unsafe extern "C" fn notify(
    notification: FWPS_CALLOUT_NOTIFY_TYPE,
    filter_key: *const GUID,
    filter: *mut FWPS_FILTER2,
) -> NTSTATUS {
    let mut record = blank(kind::NOTIFY);
    record.number = notification as u32;
    record.keyed = u32::from(!filter_key.is_null());
    // SAFETY: NULL, or a filter that is the callout's to read and whose context it may set.
    let Some(filter) = (unsafe { filter.as_mut() }) else {
        record.callout = u32::MAX;
        records::keep(record);
        return 0;
    };
    record.callout = slot_of(filter.action.calloutId);
    record.id = filter.filterId;
    let answer = ANSWERS
        .lock()
        .0
        .get(record.callout as usize)
        .copied()
        .flatten();
    let mut status = 0;
    if let Some(answer) = answer {
        match notification {
            ADD_FILTER => {
                if answer.set_context != 0 {
                    filter.context = answer.context;
                }
                status = answer.add_status.cast_signed();
            }
            DELETE_FILTER => status = answer.delete_status.cast_signed(),
            _ => {}
        }
    }
    record.filter_context = filter.context;
    records::keep(record);
    status
}

/// `FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0` of the callouts that take contexts.
///
/// # Safety
/// Called by WFP.
unsafe extern "C" fn flow_delete(layer: u16, callout: u32, context: u64) {
    let mut record = blank(kind::FLOW_DELETE);
    record.callout = slot_of(callout);
    record.layer = layer.into();
    record.id = callout.into();
    record.flow_context = context;
    records::keep(record);
}

/// A script that leaves everything as it is.
pub(crate) fn nothing() -> conformance_messages::Step {
    conformance_messages::Step::new_zeroed()
}
