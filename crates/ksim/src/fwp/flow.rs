//! Flow contexts, and operations on flows that are delayed or ended.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use wfp_engine::{CalloutId, FlowId};
use wfp_schema::{LayerId, NtStatus};

use super::classify::stage_of;
use super::stack::StackRequest;
use crate::access::Out;
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::exports;
use crate::ndis::layout::NetBufferList;
use crate::verifier::{
    ARGUMENT, FLOW_LAYER, FLOW_REMOVED_TWICE, PEND_PROTOCOL, PEND_REAUTHORIZATION,
};

/// How the verifier calls a pended operation.
const PENDED: &str = "pended operation";

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NO_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();

/// The contexts that drivers have removed themselves from flows that still are: layer and callout each.
#[derive(Debug, Default)]
pub(super) struct Removals(Mutex<HashMap<u64, Vec<(u16, u32)>>>);

impl Removals {
    fn note(&self, flow: u64, context: (u16, u32)) {
        self.0.lock().entry(flow).or_default().push(context);
    }

    fn forget(&self, flow: u64, context: (u16, u32)) {
        if let Some(removed) = self.0.lock().get_mut(&flow) {
            removed.retain(|known| *known != context);
        }
    }

    fn knows(&self, flow: u64, context: (u16, u32)) -> bool {
        let removals = self.0.lock();
        removals
            .get(&flow)
            .is_some_and(|removed| removed.contains(&context))
    }

    /// The flow has ended.
    pub(super) fn end(&self, flow: u64) {
        self.0.lock().remove(&flow);
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsflowassociatecontext0>
    fn FwpsFlowAssociateContext0(call, flow: u64, layer: u16, callout: u32, context: u64) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES;
    {
        let layer = LayerId::new(layer);
        if !layer.layer().is_some_and(wfp_schema::Layer::is_flow_capable) {
            call.violation(&FLOW_LAYER, format!("{layer} has no flow contexts"));
        }
    }
    then {
        let engine = &call.machine().fwp.engine;
        let status = engine.associate_context(FlowId::new(flow), layer, CalloutId::new(callout), context);
        if status == NtStatus::SUCCESS {
            call.machine().fwp.removals.forget(flow, (layer.get(), callout));
        }
        status.to_i32()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsflowremovecontext0>
    fn FwpsFlowRemoveContext0(call, flow: u64, layer: u16, callout: u32) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        let engine = &call.machine().fwp.engine;
        let status = engine.remove_context(FlowId::new(flow), LayerId::new(layer), CalloutId::new(callout));
        let removals = &call.machine().fwp.removals;
        if [NtStatus::SUCCESS, NtStatus::PENDING].contains(&status) {
            removals.note(flow, (layer, callout));
        } else if removals.knows(flow, (layer, callout)) {
            call.violation(&FLOW_REMOVED_TWICE, "the context was removed before");
        }
        status.to_i32()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsflowabort0>
    fn FwpsFlowAbort0(call, flow: u64) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES;
    {
        let fwp = &call.machine().fwp;
        if fwp.engine.flow(FlowId::new(flow)).is_none() {
            return fwp.engine.options().unknown_flow.to_i32();
        }
    }
    then {
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
    }
    then {
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
            call.violation(&PEND_REAUTHORIZATION, "a reauthorization is pended");
            return NtStatus::FWP_CANNOT_PEND.to_i32();
        }
        if completion_handle == 0 || context.is_null() {
            return NtStatus::FWP_NULL_POINTER.to_i32();
        }
        let asked = completion_handle as u64;
        if current.pend_handle() != asked {
            call.violation(&ARGUMENT, "completionHandle is not that of the classify in progress");
            return NtStatus::INVALID_PARAMETER.to_i32();
        }
        if current.is_pended() {
            return NtStatus::FWP_CANNOT_PEND.to_i32();
        }
    }
    then {
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
        let fwp = &call.machine().fwp;
        let completion_handle = fwp.pended.lock().remove(&context);
        let Some(completion_handle) = completion_handle else {
            call.violation(&PEND_PROTOCOL, "the operation is not pended, or was completed before");
            return;
        };
        call.machine().verifier().forget(PENDED, context);
        fwp.ask(StackRequest::Complete { completion_handle });
    }
}
