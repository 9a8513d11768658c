//! What a callout is told to do, and the calls that it makes within a classify.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use conformance_messages::{Operation, Record, Script, Step, operation};
use wdk_sys::HANDLE;
use wfp::sync::{RawSpinLock, SpinLock};
use wfp_sys::{
    AF_INET, FWPS_CLASSIFY_OUT0, FWPS_CONNECT_REQUEST0, FWPS_INCOMING_METADATA_VALUES0,
    FWPS_STREAM_CALLOUT_IO_PACKET0, NET_BUFFER_LIST,
};

use crate::callouts::{CALLOUTS, nothing};
use crate::slots::bits;
use crate::traffic::{INJECTION_HANDLES, PENDED_CLASSIFIES, PENDED_OPERATIONS, REDIRECT_HANDLES};
use crate::{packets, records};

struct Scripts([Option<(Script, u32)>; CALLOUTS]);

static SCRIPTS: SpinLock<Scripts> = SpinLock::from_raw(
    <RawSpinLock as lock_api::RawMutex>::INIT,
    Scripts([const { None }; CALLOUTS]),
);

/// How many classifies hold, and how many may go on.
static HELD: AtomicU32 = AtomicU32::new(0);
static RELEASED: AtomicU32 = AtomicU32::new(0);

/// Lets a classify go on that holds.
pub(crate) fn release() {
    RELEASED.fetch_add(1, Ordering::SeqCst);
}

/// How many classifies hold.
pub(crate) fn held() -> u32 {
    HELD.load(Ordering::SeqCst)
}

/// From now on the callout does this.
pub(crate) fn set(script: &Script) {
    replace(script.callout, Some(script));
}

/// A callout has no script.
pub(crate) fn forget(callout: u32) {
    replace(callout, None);
}

fn replace(callout: u32, script: Option<&Script>) {
    let mut scripts = SCRIPTS.lock();
    if let Some(place) = scripts.0.get_mut(callout as usize) {
        *place = script.map(|script| (*script, 0));
    }
}

/// The callout's next step.
fn next(callout: u32) -> Step {
    let mut scripts = SCRIPTS.lock();
    let Some(Some((script, at))) = scripts.0.get_mut(callout as usize) else {
        return nothing();
    };
    let step = script.steps.get(*at as usize).copied();
    if *at + 1 < script.count {
        *at += 1;
    }
    drop(scripts);
    step.unwrap_or_else(nothing)
}

/// A classify that is running.
pub(crate) struct Call<'a> {
    pub(crate) metadata: &'a FWPS_INCOMING_METADATA_VALUES0,
    pub(crate) classify_context: *const c_void,
    pub(crate) filter: u64,
    pub(crate) list: *mut NET_BUFFER_LIST,
    pub(crate) stream: *mut FWPS_STREAM_CALLOUT_IO_PACKET0,
    pub(crate) out: *mut FWPS_CLASSIFY_OUT0,
}

/// Plays the callout's next step and keeps the record.
pub(crate) fn run(callout: u32, call: &Call<'_>, mut record: Record) {
    let step = next(callout);
    let places = record.operations.iter_mut().zip(&mut record.values);
    for (made, (status, value)) in step.operations.iter().zip(places) {
        (*status, *value) = operate(made, call);
    }
    answer(&step, call);
    records::keep(record);
}

#[allow(clippy::cast_possible_wrap, reason = "C makes enumerations signed")]
const fn answer(step: &Step, call: &Call<'_>) {
    // SAFETY: NULL, or this classify's, of which nobody holds a reference.
    if let Some(packet) = unsafe { call.stream.as_mut() } {
        packet.streamAction = step.stream_action as _;
        packet.countBytesRequired = step.required;
        packet.countBytesEnforced = step.enforced;
    }
    // SAFETY: as above.
    let Some(out) = (unsafe { call.out.as_mut() }) else {
        return;
    };
    if step.action != 0 {
        out.actionType = step.action;
    }
    out.rights &= !step.clear_rights;
    out.flags |= step.flags;
}

/// Makes a call; its status and what else it gave.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the test chooses numbers of their type"
)]
fn operate(operation: &Operation, call: &Call<'_>) -> (u32, u64) {
    let flow = call.metadata.flowHandle;
    let (layer, callout) = (operation.a as u16, operation.b as u32);
    match operation.code {
        operation::ASSOCIATE => {
            // SAFETY: takes numbers.
            let status =
                unsafe { wfp_sys::FwpsFlowAssociateContext0(flow, layer, callout, operation.c) };
            (bits(status), 0)
        }
        // SAFETY: takes numbers.
        operation::REMOVE => (
            bits(unsafe { wfp_sys::FwpsFlowRemoveContext0(flow, layer, callout) }),
            0,
        ),
        // SAFETY: takes numbers.
        operation::ABORT_FLOW => (bits(unsafe { wfp_sys::FwpsFlowAbort0(flow) }), 0),
        operation::PEND_OPERATION => pend_operation(operation.slot, call),
        operation::PEND_CLASSIFY => pend_classify(operation.slot, call),
        operation::MODIFY => modify(operation, call),
        operation::REDIRECT_STATE => redirect_state(operation.slot, call),
        operation::CLONE => packets::clone(operation.slot, operation.a != 0, call),
        operation::INJECTION_STATE => injection_state(operation.slot, call),
        operation::CLONE_STREAM => packets::clone_stream(operation.slot, call),
        operation::HOLD => hold(),
        _ => (0, 0),
    }
}

fn hold() -> (u32, u64) {
    HELD.fetch_add(1, Ordering::SeqCst);
    let take = |count: u32| count.checked_sub(1);
    while RELEASED
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
        .is_err()
    {
        core::hint::spin_loop();
    }
    HELD.fetch_sub(1, Ordering::SeqCst);
    (0, 0)
}

fn pend_operation(slot: u32, call: &Call<'_>) -> (u32, u64) {
    let mut context: HANDLE = ptr::null_mut();
    // SAFETY: the handle is of this classify's metadata; the context is written during the call.
    let status =
        unsafe { wfp_sys::FwpsPendOperation0(call.metadata.completionHandle, &raw mut context) };
    if status == 0 {
        PENDED_OPERATIONS.set(slot, context);
    }
    (bits(status), 0)
}

/// `FwpsAcquireClassifyHandle0`.
fn acquire(call: &Call<'_>) -> Result<u64, u32> {
    let mut handle = 0;
    // SAFETY: the context is this classify's; the handle is written during the call.
    let status = unsafe {
        wfp_sys::FwpsAcquireClassifyHandle0(call.classify_context.cast_mut(), 0, &raw mut handle)
    };
    if status == 0 {
        Ok(handle)
    } else {
        Err(bits(status))
    }
}

fn pend_classify(slot: u32, call: &Call<'_>) -> (u32, u64) {
    let handle = match acquire(call) {
        Ok(handle) => handle,
        Err(status) => return (status, 0),
    };
    // SAFETY: handle, filter and output are this classify's.
    let status = unsafe { wfp_sys::FwpsPendClassify0(handle, call.filter, 0, call.out) };
    if status == 0 {
        PENDED_CLASSIFIES.set(slot, handle);
    } else {
        // SAFETY: the handle is not used again.
        unsafe { wfp_sys::FwpsReleaseClassifyHandle0(handle) };
    }
    (bits(status), 0)
}

fn modify(operation: &Operation, call: &Call<'_>) -> (u32, u64) {
    let handle = match acquire(call) {
        Ok(handle) => handle,
        Err(status) => return (status, 0),
    };
    let mut data: *mut c_void = ptr::null_mut();
    // SAFETY: handle, filter and output are this classify's; the pointer is written during the call.
    let status = unsafe {
        wfp_sys::FwpsAcquireWritableLayerDataPointer0(
            handle,
            call.filter,
            0,
            &raw mut data,
            call.out,
        )
    };
    // SAFETY: the output is this classify's.
    let (action, rights) = unsafe { call.out.as_ref() }.map_or((0, 0), |out| {
        (u64::from(out.actionType), u64::from(out.rights))
    });
    if status == 0 {
        // SAFETY: at the redirect layers that tests use, the data is a connect request, and it is the caller's.
        let request = unsafe { data.cast::<FWPS_CONNECT_REQUEST0>().as_mut() };
        if let Some(request) = request.filter(|_| operation.a != 0) {
            redirect(operation, request);
        }
        // SAFETY: the data is what the call above gave.
        unsafe { wfp_sys::FwpsApplyModifiedLayerData0(handle, data, 0) };
    }
    // SAFETY: the handle is not used again.
    unsafe { wfp_sys::FwpsReleaseClassifyHandle0(handle) };
    (bits(status), rights << 32 | action)
}

/// Writes the new destination, our handle and a context, whose memory WFP takes over.
#[allow(
    clippy::cast_possible_truncation,
    reason = "an address in the lower half and a port in the upper one"
)]
fn redirect(operation: &Operation, request: &mut FWPS_CONNECT_REQUEST0) {
    const POOL_FLAG_NON_PAGED: u64 = 0x40;

    let address = (operation.a as u32).to_be_bytes();
    let port = ((operation.a >> 32) as u16).to_be_bytes();
    let family = (AF_INET as u16).to_ne_bytes();
    let socket = [
        family,
        port,
        [address[0], address[1]],
        [address[2], address[3]],
    ];
    let place = (&raw mut request.remoteAddressAndPort).cast::<[[u8; 2]; 4]>();
    // SAFETY: a SOCKADDR_STORAGE has room for a SOCKADDR_IN, of which these are the first members.
    unsafe { place.write(socket) };
    // SAFETY: may be called at IRQL <= DISPATCH_LEVEL.
    let context = unsafe {
        wdk_sys::ntddk::ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, u32::from_le_bytes(*b"WfCo"))
    };
    if !context.is_null() {
        // SAFETY: the memory has room for the number.
        unsafe { context.cast::<u64>().write(operation.b) };
        request.localRedirectContext = context;
        request.localRedirectContextSize = 8;
    }
    request.localRedirectTargetPID = 4;
    request.localRedirectHandle = REDIRECT_HANDLES.get(operation.slot);
}

fn redirect_state(slot: u32, call: &Call<'_>) -> (u32, u64) {
    let mut context: *mut c_void = ptr::null_mut();
    // SAFETY: the records are of this classify's metadata; the pointer is written during the call.
    let state = unsafe {
        wfp_sys::FwpsQueryConnectionRedirectState0(
            call.metadata.redirectRecords,
            REDIRECT_HANDLES.get(slot),
            &raw mut context,
        )
    };
    // SAFETY: NULL, or the context that this driver gave: eight bytes.
    let number = unsafe { context.cast::<u64>().as_ref() }
        .copied()
        .unwrap_or(0);
    (0, number << 32 | u64::from(state.cast_unsigned()))
}

fn injection_state(slot: u32, call: &Call<'_>) -> (u32, u64) {
    let mut context: HANDLE = ptr::null_mut();
    // SAFETY: the list is this classify's; the context is written during the call.
    let state = unsafe {
        wfp_sys::FwpsQueryPacketInjectionState0(
            INJECTION_HANDLES.get(slot),
            call.list,
            &raw mut context,
        )
    };
    (0, (context as u64) << 32 | u64::from(state.cast_unsigned()))
}
