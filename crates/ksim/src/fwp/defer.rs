//! Classifies that are decided later, and layer data that is changed: classify handles and what they are for.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/network/using-bind-or-connect-redirection>

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use wfp_schema::{Action, NtStatus, Rights};

use super::layout::kernel::RawClassifyOut;
use super::operation::Operation;
use super::redirect;
use super::stack::StackRequest;
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::net::Completion;
use crate::verifier::{ARGUMENT, LAYER_DATA, OBJECT_STALE, PEND_PROTOCOL};

/// How the verifier calls a classify handle, and a pended classify.
const HANDLE: &str = "classify handle";
const PENDED: &str = "pended classify";

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NULL_POINTER: i32 = NtStatus::FWP_NULL_POINTER.to_i32();
const NOT_READY: i32 = NtStatus::FWP_TCPIP_NOT_READY.to_i32();
const INVALID_HANDLE: i32 = NtStatus::INVALID_HANDLE.to_i32();

/// `FWPS_CLASSIFY_FLAG_REAUTHORIZE_IF_MODIFIED_BY_OTHERS`.
const REAUTHORIZE_IF_MODIFIED: u32 = 0x1;

/// The classifies that drivers have handles of.
pub(super) type State = Mutex<HashMap<u64, Arc<Operation>>>;

/// The classify behind a handle.
fn operation(call: &Call<'_>, handle: u64) -> Option<Arc<Operation>> {
    let known = call.machine().fwp.operations.lock().get(&handle).cloned();
    if known.is_none() {
        call.violation(&OBJECT_STALE, format!("{handle:#x} is no classify handle"));
    }
    known
}

/// Forgets a handle that is neither held nor pended.
fn drop_if_unused(call: &Call<'_>, handle: u64) {
    let verifier = call.machine().verifier();
    let number = number(handle);
    if !verifier.is_tracked(HANDLE, number) && !verifier.is_tracked(PENDED, number) {
        call.machine().fwp.operations.lock().remove(&handle);
    }
}

/// A handle as the verifier numbers things.
fn number(handle: u64) -> usize {
    usize::try_from(handle).unwrap_or(usize::MAX)
}

/// Reports flags that are reserved.
fn check_flags(call: &Call<'_>, flags: u32, known: u32) {
    if flags & !known != 0 {
        call.violation(&ARGUMENT, format!("flags is {flags:#x}"));
    }
}

/// `FWP_ACTION_BLOCK` for good.
const fn block(out: Out<RawClassifyOut>) {
    if let Some(mut left) = out.get() {
        left.action = Action::Block.value();
        left.rights &= !Rights::ACTION_WRITE.bits();
        out.set(left);
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsacquireclassifyhandle0>
    fn FwpsAcquireClassifyHandle0(call, context: usize, flags: u32, handle: Out<u64>) -> i32,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES.to_i32();
    {
        if context == 0 || handle.is_null() {
            return NULL_POINTER;
        }
        check_flags(&call, flags, 0);
        let machine = call.machine();
        let current = machine.fwp.current(call.cpu());
        if current.context.load(Ordering::Relaxed) != context {
            call.violation(&ARGUMENT, "classifyContext is not that of the classify in progress");
            return NtStatus::INVALID_PARAMETER.to_i32();
        }
    }
    then {
        let operation = current.operation();
        let made = machine.ndis.new_handle();
        machine.fwp.operations.lock().insert(made as u64, operation);
        machine.verifier().track(&call, HANDLE, made, "", 0);
        handle.set(made as u64);
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsreleaseclassifyhandle0>
    fn FwpsReleaseClassifyHandle0(call, handle: u64),
    irql PASSIVE..=DISPATCH;
    {
        if !call.machine().verifier().untrack(&call, HANDLE, number(handle)) {
            return;
        }
        let known = call.machine().fwp.operations.lock().get(&handle).cloned();
        if known.is_some_and(|operation| operation.has_writable()) {
            call.violation(&LAYER_DATA, "the classify handle is released before FwpsApplyModifiedLayerData0");
        }
        drop_if_unused(&call, handle);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpspendclassify0>
    fn FwpsPendClassify0(call, handle: u64, filter: u64, flags: u32, out: Out<RawClassifyOut>) -> i32,
    irql PASSIVE..=DISPATCH, fails NOT_READY;
    {
        let Some(operation) = operation(&call, handle) else {
            return INVALID_HANDLE;
        };
        if out.is_null() {
            return NULL_POINTER;
        }
        check_flags(&call, flags, REAUTHORIZE_IF_MODIFIED);
    }
    then {
        match operation.pend() {
            Ok(()) => {
                call.machine().verifier().track(&call, PENDED, number(handle), "", 0);
                call.machine().fwp.current(call.cpu()).pended_classify.store(true, Ordering::Relaxed);
                SUCCESS
            }
            Err(status) => status.to_i32(),
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscompleteclassify0>
    fn FwpsCompleteClassify0(call, handle: u64, flags: u32, out: In<RawClassifyOut>),
    irql PASSIVE..=DISPATCH;
    {
        let Some(operation) = operation(&call, handle) else {
            return;
        };
        check_flags(&call, flags, 0);
        if operation.has_writable() {
            call.violation(&LAYER_DATA, "the classify is completed before FwpsApplyModifiedLayerData0");
        }
        if !operation.complete() {
            call.violation(&PEND_PROTOCOL, "a classify is completed that is not pended, or was completed before");
            return;
        }
        call.machine().verifier().forget(PENDED, number(handle));
        let completion = match out.get().map(|out| out.action) {
            None => Completion::Again,
            Some(action) if action == Action::Permit.value() => Completion::Permit,
            Some(action) if action == Action::Block.value() => Completion::Block,
            Some(action) => {
                call.violation(&ARGUMENT, format!("actionType {action:#x} is not final"));
                Completion::Block
            }
        };
        call.machine().fwp.ask(StackRequest::CompleteClassify {
            pend_handle: operation.pend_handle,
            completion,
            changes: operation.take_changes(),
        });
        drop_if_unused(&call, handle);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsacquirewritablelayerdatapointer0>
    fn FwpsAcquireWritableLayerDataPointer0(
        call, handle: u64, filter: u64, flags: u32, data: Out<Out<u8>>, out: Out<RawClassifyOut>,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES.to_i32();
    {
        let Some(operation) = operation(&call, handle) else {
            return INVALID_HANDLE;
        };
        if data.is_null() {
            return NULL_POINTER;
        }
        check_flags(&call, flags, 0);
        if !operation.is_open() {
            call.violation(&OBJECT_STALE, "the classify is over");
            return INVALID_HANDLE;
        }
    }
    then {
        match operation.acquire(filter) {
            Ok(at) => {
                data.set(at);
                block(out);
                SUCCESS
            }
            Err(status) => {
                call.violation(&LAYER_DATA, format!("layer data cannot be acquired: {status}"));
                status.to_i32()
            }
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsapplymodifiedlayerdata0>
    fn FwpsApplyModifiedLayerData0(call, handle: u64, modified: Out<u8>, flags: u32),
    irql PASSIVE..=DISPATCH;
    {
        let Some(operation) = operation(&call, handle) else {
            return;
        };
        check_flags(&call, flags, REAUTHORIZE_IF_MODIFIED);
        if !operation.is_open() {
            call.violation(&LAYER_DATA, "the classify is over");
            return;
        }
        match operation.apply(modified) {
            Ok(version) => redirect::check_applied(&call, &version),
            Err(complaint) => call.violation(&LAYER_DATA, complaint),
        }
    }
}
