//! Flow contexts, and operations on flows that are delayed or ended.

use wfp_engine::{CalloutId, FlowId};
use wfp_schema::{LayerId, NtStatus};

use super::classify::stage_of;
use super::stack::StackRequest;
use crate::access::Out;
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::exports;
use crate::ndis::layout::NetBufferList;
use crate::verifier::ARGUMENT;
use std::sync::atomic::Ordering;

/// How the verifier calls a pended operation.
const PENDED: &str = "pended operation";

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NO_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsflowassociatecontext0>
    fn FwpsFlowAssociateContext0(call, flow: u64, layer: u16, callout: u32, context: u64) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES;
    {
        call.machine()
            .fwp
            .engine
            .associate_context(FlowId::new(flow), LayerId::new(layer), CalloutId::new(callout), context)
            .to_i32()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsflowremovecontext0>
    fn FwpsFlowRemoveContext0(call, flow: u64, layer: u16, callout: u32) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        call.machine()
            .fwp
            .engine
            .remove_context(FlowId::new(flow), LayerId::new(layer), CalloutId::new(callout))
            .to_i32()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsflowabort0>
    fn FwpsFlowAbort0(call, flow: u64) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES;
    {
        let fwp = &call.machine().fwp;
        if fwp.engine.flow(FlowId::new(flow)).is_none() {
            return fwp.engine.options().unknown_flow.to_i32();
        }
        fwp.ask(StackRequest::AbortFlow { flow_handle: flow });
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsstreamcontinue0>
    fn FwpsStreamContinue0(call, flow: u64, callout: u32, layer: u16, stream_flags: u32) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES;
    {
        let fwp = &call.machine().fwp;
        if fwp.engine.flow(FlowId::new(flow)).is_none() {
            return fwp.engine.options().unknown_flow.to_i32();
        }
        fwp.ask(StackRequest::ContinueStream { flow_handle: flow, stage: stage_of(callout) });
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpspendoperation0>
    fn FwpsPendOperation0(call, completion_handle: usize, context: Out<usize>) -> i32,
    irql PASSIVE..=DISPATCH, fails NtStatus::FWP_TCPIP_NOT_READY.to_i32();
    {
        let fwp = &call.machine().fwp;
        let current = fwp.current(call.cpu());
        // Said first: metadata has no completion handle when a connection is authorized again.
        if current.reauthorizing.load(Ordering::Relaxed) {
            return NtStatus::FWP_CANNOT_PEND.to_i32();
        }
        if completion_handle == 0 || context.is_null() {
            return NtStatus::FWP_NULL_POINTER.to_i32();
        }
        let asked = completion_handle as u64;
        if current.completion_handle.load(Ordering::Relaxed) != asked {
            call.violation(&ARGUMENT, "completionHandle is not that of the classify in progress");
            return NtStatus::INVALID_PARAMETER.to_i32();
        }
        if current.is_pended() {
            return NtStatus::FWP_CANNOT_PEND.to_i32();
        }
        current.pended.store(true, Ordering::Relaxed);
        let handle = call.machine().ndis.new_handle();
        fwp.pended.lock().insert(handle, asked);
        call.machine().verifier().track(&call, PENDED, handle, "", 0);
        context.set(handle);
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscompleteoperation0>
    fn FwpsCompleteOperation0(call, context: usize, list: Out<NetBufferList>),
    irql PASSIVE..=DISPATCH;
    {
        if call.machine().verifier().untrack(&call, PENDED, context) {
            let fwp = &call.machine().fwp;
            let completion_handle = fwp.pended.lock().remove(&context);
            if let Some(completion_handle) = completion_handle {
                fwp.ask(StackRequest::Complete { completion_handle });
            }
        }
    }
}
