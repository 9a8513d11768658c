//! Registering callouts.

use wfp_engine::{CalloutId, Registration};
use wfp_schema::{CalloutFlags, Guid, NtStatus};

use super::function;
use super::host::{ClassifyFn, KernelCallout};
use super::layout::kernel::{Classify0, Classify1, FlowDelete, Notify, RawCallout};
use super::marshal::required;
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::{Call, exports};
use crate::verifier::ARGUMENT;

/// How the verifier calls a registered callout.
const CALLOUT: &str = "callout";

const NO_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();
const NULL_POINTER: NtStatus = NtStatus::FWP_NULL_POINTER;

fn register(
    call: &Call<'_>,
    device: usize,
    callout: In<RawCallout>,
    id: Out<u32>,
    version: u8,
) -> Result<(), NtStatus> {
    if device == 0 {
        return Err(NULL_POINTER);
    }
    let raw = required(callout)?;
    let flags = CalloutFlags::from_bits(raw.flags);
    if !flags.unknown().is_empty() {
        call.violation(&ARGUMENT, format!("unknown callout flags {flags}"));
    }
    let classify = if version == 0 {
        // SAFETY: FWPS_CALLOUT0.classifyFn is a FWPS_CALLOUT_CLASSIFY_FN0.
        unsafe { function::<Classify0>(raw.classify) }.map(ClassifyFn::Fn0)
    } else {
        // SAFETY: classifyFn of the later versions has the parameters of FWPS_CALLOUT_CLASSIFY_FN1.
        unsafe { function::<Classify1>(raw.classify) }.map(ClassifyFn::Fn1)
    };
    // SAFETY: notifyFn of every version has these parameters.
    let notify = unsafe { function::<Notify>(raw.notify) };
    // SAFETY: flowDeleteFn has one version only.
    let flow_delete = unsafe { function::<FlowDelete>(raw.flow_delete) };
    let (Some(classify), Some(notify)) = (classify, notify) else {
        return Err(call.machine().fwp.engine.options().null_callout_function);
    };
    if call.must_fail() {
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    let registered = call.machine().fwp.engine.register(Registration {
        key: raw.key,
        flags,
        has_flow_delete: flow_delete.is_some(),
        host: KernelCallout {
            classify,
            notify,
            flow_delete,
        },
    })?;
    call.machine().verifier().track(
        call,
        CALLOUT,
        registered.get() as usize,
        raw.key.to_string(),
        0,
    );
    id.set(registered.get());
    Ok(())
}

fn status(result: Result<(), NtStatus>) -> i32 {
    result.err().unwrap_or(NtStatus::SUCCESS).to_i32()
}

/// Forgets a callout that `result` says was unregistered.
fn unregistered(call: &Call<'_>, id: CalloutId, result: Result<(), NtStatus>) -> i32 {
    if result.is_ok() {
        call.machine().verifier().forget(CALLOUT, id.get() as usize);
    }
    status(result)
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscalloutregister0>
    fn FwpsCalloutRegister0(call, device: usize, callout: In<RawCallout>, id: Out<u32>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        status(register(&call, device, callout, id, 0))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscalloutregister1>
    fn FwpsCalloutRegister1(call, device: usize, callout: In<RawCallout>, id: Out<u32>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        status(register(&call, device, callout, id, 1))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscalloutregister2>
    fn FwpsCalloutRegister2(call, device: usize, callout: In<RawCallout>, id: Out<u32>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        status(register(&call, device, callout, id, 2))
    }

    /// Declared by `fwpsk.h`, without a page of its own:
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/ns-fwpsk-fwps_callout3_>
    fn FwpsCalloutRegister3(call, device: usize, callout: In<RawCallout>, id: Out<u32>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        status(register(&call, device, callout, id, 3))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscalloutunregisterbyid0>
    fn FwpsCalloutUnregisterById0(call, id: u32) -> i32,
    irql PASSIVE..=PASSIVE, fails NtStatus::DEVICE_BUSY.to_i32();
    {
        let id = CalloutId::new(id);
        let result = call.machine().fwp.engine.unregister_by_id(id);
        unregistered(&call, id, result)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscalloutunregisterbykey0>
    fn FwpsCalloutUnregisterByKey0(call, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE, fails NtStatus::DEVICE_BUSY.to_i32();
    {
        let Some(key) = key.get() else {
            return NULL_POINTER.to_i32();
        };
        let engine = &call.machine().fwp.engine;
        let found = engine.registered_callouts().into_iter().find(|(_, registered)| *registered == key);
        let Some((id, _)) = found else {
            return NtStatus::FWP_CALLOUT_NOT_FOUND.to_i32();
        };
    }
    then {
        let result = engine.unregister_by_key(key);
        unregistered(&call, id, result)
    }
}
