//! Flows, handles, what is pended, the base filtering engine.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use conformance_messages::{
    Bfe, Complete, FlowContext, HandleCreate, HandleDestroy, Reply, Signal, bfe, completion, flow,
    handle, kind, signal,
};
use wdk_sys::HANDLE;
use wfp::NtStatus;
use wfp_sys::FWPS_CLASSIFY_OUT0;

use crate::device::{self, at_level};
use crate::objects::guid;
use crate::slots::{Handles, Numbers, bits};
use crate::{records, script};

/// Injection handles.
pub(crate) static INJECTION_HANDLES: Handles<8> = Handles::new();
/// Redirect handles.
pub(crate) static REDIRECT_HANDLES: Handles<8> = Handles::new();
/// Completion contexts of pended operations.
pub(crate) static PENDED_OPERATIONS: Handles<8> = Handles::new();
/// Handles of pended classifies.
pub(crate) static PENDED_CLASSIFIES: Numbers<8> = Numbers::new();

static SUBSCRIPTION: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

#[allow(
    clippy::cast_possible_truncation,
    reason = "the test chooses numbers of their type"
)]
pub(crate) fn flow(message: &FlowContext) -> Reply {
    let (layer, callout) = (message.layer as u16, message.callout);
    let status = at_level(message.irql, || match message.what {
        // SAFETY: takes numbers.
        flow::ASSOCIATE => unsafe {
            wfp_sys::FwpsFlowAssociateContext0(message.flow, layer, callout, message.context)
        },
        // SAFETY: takes numbers.
        flow::REMOVE => unsafe { wfp_sys::FwpsFlowRemoveContext0(message.flow, layer, callout) },
        // SAFETY: takes numbers.
        flow::ABORT => unsafe { wfp_sys::FwpsFlowAbort0(message.flow) },
        // SAFETY: takes numbers.
        _ => unsafe {
            wfp_sys::FwpsStreamContinue0(message.flow, callout, layer, message.context as u32)
        },
    });
    Reply::status(bits(status))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the test chooses numbers of their type"
)]
pub(crate) fn create_handle(message: &HandleCreate) -> Reply {
    let mut made: HANDLE = ptr::null_mut();
    let redirect = message.kind == handle::REDIRECT;
    let status = at_level(message.irql, || {
        if redirect {
            let provider = guid(message.provider);
            // SAFETY: the key is read, and the handle written, during the call.
            unsafe { wfp_sys::FwpsRedirectHandleCreate0(&raw const provider, 0, &raw mut made) }
        } else {
            // SAFETY: the handle is written during the call.
            unsafe {
                wfp_sys::FwpsInjectionHandleCreate0(
                    message.family as u16,
                    message.flags,
                    &raw mut made,
                )
            }
        }
    });
    if status == 0 {
        let table = if redirect {
            &REDIRECT_HANDLES
        } else {
            &INJECTION_HANDLES
        };
        table.set(message.slot, made);
    }
    Reply::status(bits(status))
}

pub(crate) fn destroy_handle(message: &HandleDestroy) -> Reply {
    if message.kind == handle::REDIRECT {
        // SAFETY: the handle is not used again.
        unsafe { wfp_sys::FwpsRedirectHandleDestroy0(REDIRECT_HANDLES.take(message.slot)) };
        return Reply::status(0);
    }
    // The handle stays in its slot until the call returns: others may use it while it is being destroyed.
    let destroyed = INJECTION_HANDLES.get(message.slot);
    // SAFETY: the handle is one that was created, or NULL.
    let status = unsafe { wfp_sys::FwpsInjectionHandleDestroy0(destroyed) };
    INJECTION_HANDLES.take(message.slot);
    Reply::status(bits(status))
}

pub(crate) fn complete(message: &Complete) -> Reply {
    if message.kind == completion::OPERATION {
        let context = PENDED_OPERATIONS.take(message.slot);
        if context.is_null() {
            return Reply::status(NtStatus::NOT_FOUND.code());
        }
        // SAFETY: the context is of an operation that is pended, and not used again.
        unsafe { wfp_sys::FwpsCompleteOperation0(context, ptr::null_mut()) };
    } else {
        let classify = PENDED_CLASSIFIES.take(message.slot);
        if classify == 0 {
            return Reply::status(NtStatus::NOT_FOUND.code());
        }
        complete_classify(classify, message.action, message.rights);
    }
    Reply::status(0)
}

fn complete_classify(classify: u64, action: u32, rights: u32) {
    let out = FWPS_CLASSIFY_OUT0 {
        actionType: action,
        rights,
        ..Default::default()
    };
    // SAFETY: the handle is of a pended classify; the output is only read.
    unsafe { wfp_sys::FwpsCompleteClassify0(classify, 0, &raw const out) };
    // SAFETY: the handle is not used again.
    unsafe { wfp_sys::FwpsReleaseClassifyHandle0(classify) };
}

/// Ends what the test has left pended, and the subscription.
pub(crate) fn finish_all() {
    for context in PENDED_OPERATIONS.drain() {
        // SAFETY: the context is of an operation that is pended, and not used again.
        unsafe { wfp_sys::FwpsCompleteOperation0(context, ptr::null_mut()) };
    }
    for classify in PENDED_CLASSIFIES.drain() {
        complete_classify(classify, wfp_sys::FWP_ACTION_BLOCK, 0);
    }
    unsubscribe();
}

/// Destroys the handles that the test has left.
pub(crate) fn destroy_all() {
    for handle in INJECTION_HANDLES.drain() {
        // SAFETY: the handle is not used again.
        let _ = unsafe { wfp_sys::FwpsInjectionHandleDestroy0(handle) };
    }
    for handle in REDIRECT_HANDLES.drain() {
        // SAFETY: the handle is not used again.
        unsafe { wfp_sys::FwpsRedirectHandleDestroy0(handle) };
    }
}

pub(crate) fn bfe(message: Bfe) -> Reply {
    match message.what {
        bfe::SUBSCRIBE => subscribe(),
        bfe::UNSUBSCRIBE => Reply::status(unsubscribe()),
        _ => {
            // SAFETY: a number is returned; the level is the test's choice.
            let state = at_level(message.irql, || unsafe { wfp_sys::FwpmBfeStateGet0() });
            Reply::value(0, u64::from(state.cast_unsigned()))
        }
    }
}

fn subscribe() -> Reply {
    let Some(device) = device::wdm() else {
        return Reply::status(NtStatus::DEVICE_NOT_READY.code());
    };
    let mut made: HANDLE = ptr::null_mut();
    // SAFETY: the callback is static; the handle is written during the call.
    let status = unsafe {
        wfp_sys::FwpmBfeStateSubscribeChanges0(
            device.as_ptr().cast(),
            Some(changed),
            ptr::null_mut(),
            &raw mut made,
        )
    };
    if status == 0 {
        SUBSCRIPTION.store(made, Ordering::Release);
    }
    Reply::status(bits(status))
}

fn unsubscribe() -> u32 {
    let handle = SUBSCRIPTION.swap(ptr::null_mut(), Ordering::AcqRel);
    if handle.is_null() {
        return NtStatus::NOT_FOUND.code();
    }
    // SAFETY: the handle is not used again.
    bits(unsafe { wfp_sys::FwpmBfeStateUnsubscribeChanges0(handle) })
}

/// `FWPM_SERVICE_STATE_CHANGE_CALLBACK0`.
///
/// # Safety
/// Called by WFP.
unsafe extern "C" fn changed(_context: *mut c_void, state: wfp_sys::FWPM_SERVICE_STATE) {
    let mut record = records::blank();
    record.kind = kind::BFE_STATE;
    record.number = state.cast_unsigned();
    records::keep(record);
}

pub(crate) fn signal(message: Signal) -> Reply {
    if message.what == signal::RELEASE {
        script::release();
    }
    Reply::value(0, script::held().into())
}
