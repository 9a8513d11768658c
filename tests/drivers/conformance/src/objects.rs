//! Sessions, transactions, objects of the filter engine.

use core::ffi::c_void;
use core::ptr;

use conformance_messages::{
    AddCallout, AddFilter, AddProvider, AddSubLayer, Begin, Close, Condition, Delete, End, Open,
    Query, Reply, object, option,
};
use wdk_sys::{GUID, HANDLE};
use wfp::wide;
use wfp_sys::{
    FWP_BYTE_ARRAY16, FWP_BYTE_BLOB, FWP_DATA_TYPE_, FWP_RANGE0, FWP_V4_ADDR_AND_MASK,
    FWP_V6_ADDR_AND_MASK, FWPM_CALLOUT0, FWPM_DISPLAY_DATA0, FWPM_FILTER_CONDITION0, FWPM_FILTER0,
    FWPM_LAYER0, FWPM_PROVIDER0, FWPM_SESSION0, FWPM_SUBLAYER0,
};

use crate::device::at_level;
use crate::slots::{Handles, Numbers, bits};

static SESSIONS: Handles<8> = Handles::new();
/// Filters that ask a callout of ours.
static ASKING: Numbers<64> = Numbers::new();

/// `RPC_C_AUTHN_WINNT`.
const AUTHENTICATION: u32 = 10;

pub(crate) const fn guid(bytes: [u8; 16]) -> GUID {
    let [a0, a1, a2, a3, b0, b1, c0, c1, data4 @ ..] = bytes;
    GUID {
        Data1: u32::from_le_bytes([a0, a1, a2, a3]),
        Data2: u16::from_le_bytes([b0, b1]),
        Data3: u16::from_le_bytes([c0, c1]),
        Data4: data4,
    }
}

const fn bytes(guid: &GUID) -> [u8; 16] {
    let [a0, a1, a2, a3] = guid.Data1.to_le_bytes();
    let [b0, b1] = guid.Data2.to_le_bytes();
    let [c0, c1] = guid.Data3.to_le_bytes();
    let [d0, d1, d2, d3, d4, d5, d6, d7] = guid.Data4;
    [
        a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7,
    ]
}

const fn display(options: u32) -> FWPM_DISPLAY_DATA0 {
    let name = if options & option::UNNAMED != 0 {
        ptr::null_mut()
    } else {
        wide!("conformance").as_ptr()
    };
    FWPM_DISPLAY_DATA0 {
        name,
        description: ptr::null_mut(),
    }
}

/// A key, or NULL for zeros.
struct Optional(Option<GUID>);

impl Optional {
    fn new(key: [u8; 16]) -> Self {
        Self((key != [0; 16]).then(|| guid(key)))
    }

    fn pointer(&mut self) -> *mut GUID {
        self.0.as_mut().map_or(ptr::null_mut(), ptr::from_mut)
    }
}

pub(crate) fn open(message: &Open) -> Reply {
    let session = FWPM_SESSION0 {
        sessionKey: guid(message.key),
        displayData: display(0),
        flags: message.flags,
        txnWaitTimeoutInMSec: message.wait,
        ..Default::default()
    };
    let mut handle: HANDLE = ptr::null_mut();
    let status = at_level(message.irql, || {
        // SAFETY: the session is only read, and the handle written, during the call.
        unsafe {
            wfp_sys::FwpmEngineOpen0(
                ptr::null(),
                AUTHENTICATION,
                ptr::null_mut(),
                &raw const session,
                &raw mut handle,
            )
        }
    });
    if status == 0 {
        SESSIONS.set(message.session, handle);
    }
    Reply::status(bits(status))
}

pub(crate) fn close(message: &Close) -> Reply {
    // SAFETY: the slot's handle is not used again.
    Reply::status(bits(unsafe {
        wfp_sys::FwpmEngineClose0(SESSIONS.take(message.session))
    }))
}

/// Closes what the test has left open, and deletes the filters whose callouts are about to go.
pub(crate) fn close_all() {
    for handle in SESSIONS.drain() {
        // SAFETY: the handle is not used again. A session that was ended by the engine is closed all the same.
        let _ = unsafe { wfp_sys::FwpmEngineClose0(handle) };
    }
    let last = Open {
        session: 0,
        flags: 0,
        wait: 0,
        irql: 0,
        key: [0; 16],
    };
    if open(&last).status == 0 {
        for id in ASKING.drain() {
            // SAFETY: takes a handle and a number. What the test has deleted is not found.
            let _ = unsafe { wfp_sys::FwpmFilterDeleteById0(SESSIONS.get(0), id) };
        }
        close(&Close { session: 0 });
    }
}

pub(crate) fn begin(message: &Begin) -> Reply {
    let session = SESSIONS.get(message.session);
    // SAFETY: takes a handle, which it checks.
    Reply::status(bits(unsafe {
        wfp_sys::FwpmTransactionBegin0(session, message.flags)
    }))
}

pub(crate) fn end(message: &End) -> Reply {
    let session = SESSIONS.get(message.session);
    let status = if message.commit != 0 {
        // SAFETY: takes a handle, which it checks.
        unsafe { wfp_sys::FwpmTransactionCommit0(session) }
    } else {
        // SAFETY: as above.
        unsafe { wfp_sys::FwpmTransactionAbort0(session) }
    };
    Reply::status(bits(status))
}

pub(crate) fn add_provider(message: &AddProvider) -> Reply {
    let provider = FWPM_PROVIDER0 {
        providerKey: guid(message.key),
        displayData: display(message.options),
        flags: message.flags,
        ..Default::default()
    };
    let session = SESSIONS.get(message.session);
    // SAFETY: the provider is only read during the call.
    Reply::status(bits(unsafe {
        wfp_sys::FwpmProviderAdd0(session, &raw const provider, ptr::null_mut())
    }))
}

pub(crate) fn add_sublayer(message: &AddSubLayer) -> Reply {
    let mut provider = Optional::new(message.provider);
    let sublayer = FWPM_SUBLAYER0 {
        subLayerKey: guid(message.key),
        displayData: display(message.options),
        flags: message.flags,
        providerKey: provider.pointer(),
        weight: u16::try_from(message.weight).unwrap_or(u16::MAX),
        ..Default::default()
    };
    let session = SESSIONS.get(message.session);
    // SAFETY: the sublayer and its provider's key are only read during the call.
    Reply::status(bits(unsafe {
        wfp_sys::FwpmSubLayerAdd0(session, &raw const sublayer, ptr::null_mut())
    }))
}

pub(crate) fn add_callout(message: &AddCallout) -> Reply {
    let mut provider = Optional::new(message.provider);
    let callout = FWPM_CALLOUT0 {
        calloutKey: guid(message.key),
        displayData: display(message.options),
        flags: message.flags,
        providerKey: provider.pointer(),
        applicableLayer: guid(message.layer),
        ..Default::default()
    };
    let mut id = 0;
    let session = SESSIONS.get(message.session);
    // SAFETY: the callout and its provider's key are only read during the call.
    let status = unsafe {
        wfp_sys::FwpmCalloutAdd0(session, &raw const callout, ptr::null_mut(), &raw mut id)
    };
    Reply::value(bits(status), id.into())
}

/// What a condition's value points at.
#[derive(Default)]
struct Pointee {
    number: u64,
    upper: u64,
    blob: FWP_BYTE_BLOB,
    array: FWP_BYTE_ARRAY16,
    v4: FWP_V4_ADDR_AND_MASK,
    v6: FWP_V6_ADDR_AND_MASK,
    range: FWP_RANGE0,
}

/// The condition with its value, which points into `at` and the message.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the test chooses numbers of their type"
)]
fn condition(message: &Condition, at: &mut Pointee) -> FWPM_FILTER_CONDITION0 {
    let mut made = FWPM_FILTER_CONDITION0 {
        fieldKey: guid(message.field),
        matchType: message.match_type as _,
        ..Default::default()
    };
    let first: [u8; 16] = *message.bytes.first_chunk().unwrap_or(&[0; 16]);
    at.number = message.number;
    at.upper = message.upper;
    made.conditionValue.type_ = message.value_type as _;
    let value = &mut made.conditionValue.__bindgen_anon_1;
    match made.conditionValue.type_ {
        FWP_DATA_TYPE_::FWP_UINT8 => value.uint8 = message.number as u8,
        FWP_DATA_TYPE_::FWP_UINT16 => value.uint16 = message.number as u16,
        FWP_DATA_TYPE_::FWP_UINT32 => value.uint32 = message.number as u32,
        FWP_DATA_TYPE_::FWP_UINT64 => value.uint64 = &raw mut at.number,
        FWP_DATA_TYPE_::FWP_BYTE_ARRAY16_TYPE => {
            at.array.byteArray16 = first;
            value.byteArray16 = &raw mut at.array;
        }
        FWP_DATA_TYPE_::FWP_BYTE_BLOB_TYPE => {
            at.blob = FWP_BYTE_BLOB {
                size: message.length,
                data: message.bytes.as_ptr().cast_mut(),
            };
            value.byteBlob = &raw mut at.blob;
        }
        FWP_DATA_TYPE_::FWP_V4_ADDR_MASK => {
            at.v4 = FWP_V4_ADDR_AND_MASK {
                addr: message.number as u32,
                mask: (message.number >> 32) as u32,
            };
            value.v4AddrMask = &raw mut at.v4;
        }
        FWP_DATA_TYPE_::FWP_V6_ADDR_MASK => {
            at.v6 = FWP_V6_ADDR_AND_MASK {
                addr: first,
                prefixLength: message.length as u8,
            };
            value.v6AddrMask = &raw mut at.v6;
        }
        FWP_DATA_TYPE_::FWP_RANGE_TYPE => {
            let bounds = [
                (message.number, &mut at.range.valueLow),
                (message.upper, &mut at.range.valueHigh),
            ];
            for (number, bound) in bounds {
                bound.type_ = message.bounds_type as _;
                match bound.type_ {
                    FWP_DATA_TYPE_::FWP_UINT8 => bound.__bindgen_anon_1.uint8 = number as u8,
                    FWP_DATA_TYPE_::FWP_UINT16 => bound.__bindgen_anon_1.uint16 = number as u16,
                    _ => bound.__bindgen_anon_1.uint32 = number as u32,
                }
            }
            value.rangeValue = &raw mut at.range;
        }
        _ => {}
    }
    made
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the test chooses numbers of their type"
)]
pub(crate) fn add_filter(message: &AddFilter) -> Reply {
    let mut provider = Optional::new(message.provider);
    let mut weight = message.weight;
    let mut pointees: [Pointee; 4] = Default::default();
    let mut conditions: [FWPM_FILTER_CONDITION0; 4] = Default::default();
    for ((from, at), to) in message
        .conditions
        .iter()
        .zip(&mut pointees)
        .zip(&mut conditions)
    {
        *to = condition(from, at);
    }
    let mut filter = FWPM_FILTER0 {
        filterKey: guid(message.key),
        displayData: display(message.options),
        flags: message.flags,
        providerKey: provider.pointer(),
        layerKey: guid(message.layer),
        subLayerKey: guid(message.sublayer),
        numFilterConditions: message.condition_count,
        filterCondition: conditions.as_mut_ptr(),
        ..Default::default()
    };
    filter.action.type_ = message.action;
    filter.action.__bindgen_anon_1.calloutKey = guid(message.callout);
    filter.weight.type_ = message.weight_type as _;
    match filter.weight.type_ {
        FWP_DATA_TYPE_::FWP_UINT64 => filter.weight.__bindgen_anon_1.uint64 = &raw mut weight,
        FWP_DATA_TYPE_::FWP_UINT8 => filter.weight.__bindgen_anon_1.uint8 = weight as u8,
        FWP_DATA_TYPE_::FWP_UINT32 => filter.weight.__bindgen_anon_1.uint32 = weight as u32,
        _ => {}
    }
    let mut id = 0;
    let session = SESSIONS.get(message.session);
    let status = at_level(message.irql, || {
        // SAFETY: the filter and what it points at are only read during the call.
        unsafe { wfp_sys::FwpmFilterAdd0(session, &raw const filter, ptr::null_mut(), &raw mut id) }
    });
    if status == 0 && message.action & wfp_sys::FWP_ACTION_FLAG_CALLOUT != 0 {
        ASKING.keep(id);
    }
    Reply::value(bits(status), id)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "identifiers of callouts have 32 bits"
)]
pub(crate) fn delete(message: &Delete) -> Reply {
    let key = guid(message.key);
    let session = SESSIONS.get(message.session);
    let status = match message.object {
        // SAFETY: the key is only read during the call.
        object::PROVIDER => unsafe { wfp_sys::FwpmProviderDeleteByKey0(session, &raw const key) },
        // SAFETY: as above.
        object::SUBLAYER => unsafe { wfp_sys::FwpmSubLayerDeleteByKey0(session, &raw const key) },
        // SAFETY: as above.
        object::CALLOUT => unsafe { wfp_sys::FwpmCalloutDeleteByKey0(session, &raw const key) },
        // SAFETY: takes numbers.
        object::CALLOUT_ID => unsafe {
            wfp_sys::FwpmCalloutDeleteById0(session, message.id as u32)
        },
        // SAFETY: the key is only read during the call.
        object::FILTER => unsafe { wfp_sys::FwpmFilterDeleteByKey0(session, &raw const key) },
        // SAFETY: takes numbers.
        _ => unsafe { wfp_sys::FwpmFilterDeleteById0(session, message.id) },
    };
    Reply::status(bits(status))
}

/// Calls a function that gives an object, reads it, and gives its memory back.
fn get<T>(call: impl FnOnce(*mut *mut T) -> i32, read: impl FnOnce(&T, &mut Reply)) -> Reply {
    let mut object: *mut T = ptr::null_mut();
    let status = call(&raw mut object);
    let mut reply = Reply::status(bits(status));
    // SAFETY: NULL, or an object that the call gave and that is freed below.
    if let Some(found) = unsafe { object.as_ref() } {
        read(found, &mut reply);
        let mut memory: *mut c_void = object.cast();
        // SAFETY: the memory came from the call, and is not used any more.
        unsafe { wfp_sys::FwpmFreeMemory0(&raw mut memory) };
    }
    reply
}

fn read_filter(filter: &FWPM_FILTER0, reply: &mut Reply) {
    let number = |value: &wfp_sys::FWP_VALUE0| match value.type_ {
        FWP_DATA_TYPE_::FWP_UINT64 => {
            // SAFETY: the type says which member is valid.
            let pointer = unsafe { value.__bindgen_anon_1.uint64 };
            // SAFETY: it points at a number within the object.
            unsafe { pointer.as_ref() }.copied().unwrap_or(0)
        }
        // SAFETY: the type says which member is valid.
        FWP_DATA_TYPE_::FWP_UINT8 => u64::from(unsafe { value.__bindgen_anon_1.uint8 }),
        _ => 0,
    };
    reply.values = [
        filter.filterId,
        number(&filter.weight),
        number(&filter.effectiveWeight),
        filter.flags.into(),
    ];
    reply.keys = [bytes(&filter.filterKey), bytes(&filter.subLayerKey)];
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "identifiers of callouts have 32 bits, those of layers 16"
)]
pub(crate) fn query(message: &Query) -> Reply {
    let key = guid(message.key);
    let key = &raw const key;
    let session = SESSIONS.get(message.session);
    match message.object {
        object::PROVIDER => get::<FWPM_PROVIDER0>(
            // SAFETY: the key is only read during the call.
            |at| unsafe { wfp_sys::FwpmProviderGetByKey0(session, key, at) },
            |provider, reply| reply.keys[0] = bytes(&provider.providerKey),
        ),
        object::SUBLAYER => get::<FWPM_SUBLAYER0>(
            // SAFETY: as above.
            |at| unsafe { wfp_sys::FwpmSubLayerGetByKey0(session, key, at) },
            |sublayer, reply| reply.keys[0] = bytes(&sublayer.subLayerKey),
        ),
        object::CALLOUT => get::<FWPM_CALLOUT0>(
            // SAFETY: as above.
            |at| unsafe { wfp_sys::FwpmCalloutGetByKey0(session, key, at) },
            read_callout,
        ),
        object::CALLOUT_ID => get::<FWPM_CALLOUT0>(
            // SAFETY: takes numbers.
            |at| unsafe { wfp_sys::FwpmCalloutGetById0(session, message.id as u32, at) },
            read_callout,
        ),
        object::FILTER => get::<FWPM_FILTER0>(
            // SAFETY: the key is only read during the call.
            |at| unsafe { wfp_sys::FwpmFilterGetByKey0(session, key, at) },
            read_filter,
        ),
        object::LAYER_ID => get::<FWPM_LAYER0>(
            // SAFETY: takes numbers.
            |at| unsafe { wfp_sys::FwpmLayerGetById0(session, message.id as u16, at) },
            |layer, reply| reply.keys = [bytes(&layer.layerKey), bytes(&layer.defaultSubLayerKey)],
        ),
        _ => get::<FWPM_FILTER0>(
            // SAFETY: takes numbers.
            |at| unsafe { wfp_sys::FwpmFilterGetById0(session, message.id, at) },
            read_filter,
        ),
    }
}

fn read_callout(callout: &FWPM_CALLOUT0, reply: &mut Reply) {
    reply.values[0] = callout.calloutId.into();
    reply.keys[0] = bytes(&callout.calloutKey);
}
