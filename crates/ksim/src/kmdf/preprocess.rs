//! IRPs that a driver sees before the framework does.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/wdf/preprocessing-and-postprocessing-irps>

use std::sync::Arc;

use wfp_schema::NtStatus;

use super::device::route;
use super::device_init::change;
use super::object::{Id, Kind, fatal, not_null, resolve};
use crate::access::In;
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::exports;
use crate::nt::io_irp::Irp;
use crate::nt::wdm;
use crate::verifier::ARGUMENT;

/// `EVT_WDFDEVICE_WDM_IRP_PREPROCESS`: device and IRP.
pub(crate) type Preprocess = extern "win64" fn(usize, usize) -> NtStatus;

/// `IRP_MJ_MAXIMUM_FUNCTION`.
const MOST_MAJOR: u8 = 0x1b;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdeviceinitassignwdmirppreprocesscallback>
    fn WdfDeviceInitAssignWdmIrpPreprocessCallback(
        call, globals: usize, init: usize, callback: Option<Preprocess>, major: u8, minors: In<u8>, count: u32,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        resolve(&call, init, Kind::DeviceInit);
        not_null(&call, callback.map_or(0, |callback| callback as usize), "EvtDeviceWdmIrpPreprocess");
        if major > MOST_MAJOR {
            call.violation(&ARGUMENT, format!("{major:#x} is not a major function"));
            return NtStatus::INVALID_PARAMETER;
        }
        // Every IRP here has the minor function 0.
        let wanted = minors.is_null() || (0..count as usize).any(|index| minors.at(index) == Some(0));
        if let Some(callback) = callback.filter(|_| wanted) {
            change(&call, init, |init| {
                init.preprocess.retain(|(other, _)| *other != major);
                init.preprocess.push((major, callback));
            });
        }
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicewdmdispatchpreprocessedirp>
    fn WdfDeviceWdmDispatchPreprocessedIrp(call, globals: usize, device: usize, irp: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        /// `WDF_REQUIRED_PARAMETER_IS_NULL`.
        const NO_IRP: u64 = 4;
        let id = resolve(&call, device, Kind::Device);
        let Some(known) = call.machine().io().irp(irp) else {
            let message = format!("{irp:#x} is no IRP that is under way");
            fatal(&call, &ARGUMENT, [NO_IRP, irp as u64, 0], &message);
        };
        // The driver has skipped its stack location, of which there is one here.
        known.restore_location();
        route(call.cpu(), id, &known);
        known.mark_pending();
        match known.progress() {
            (Some(status), false) => status,
            _ => NtStatus::PENDING,
        }
    }
}

/// Shows the IRP to the driver, if it wants to see such ones first; whether it did.
pub(super) fn shown(cpu: &Cpu, id: Id, irp: &Arc<Irp>) -> bool {
    let preprocess = {
        let mut state = cpu.machine().kmdf().lock();
        let device = state.device(id);
        device.and_then(|device| {
            let all = device.preprocess.iter();
            all.copied().find(|(major, _)| *major == irp.major as u8)
        })
    };
    let Some((_, preprocess)) = preprocess else {
        return false;
    };
    let callback = Callback::new("EvtDeviceWdmIrpPreprocess", preprocess as usize);
    let address = irp.address();
    let status = cpu.enter_driver(callback, PASSIVE, || preprocess(id.handle(), address));
    wdm::check_returned(cpu, callback, irp, status);
    true
}
