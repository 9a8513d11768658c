//! What a driver asks of its WDFDEVICE and may change later, and the framework's own verifier.

use super::object::{Id, Kind, resolve};
use crate::cpu::{DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::verifier::ARGUMENT;

/// `PowerActionNone`: no transition is under way while a driver of a control device runs.
const POWER_ACTION_NONE: u32 = 0;

/// `KMODE_EXCEPTION_NOT_HANDLED`: what a break without a debugger ends in.
const KMODE_EXCEPTION_NOT_HANDLED: u32 = 0x1e;
/// `STATUS_BREAKPOINT`.
const BREAKPOINT: u64 = 0x8000_0003;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicegetalignmentrequirement>
    fn WdfDeviceGetAlignmentRequirement(call, globals: usize, device: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, device, Kind::Device);
        call.machine().kmdf().lock().device(id).map_or(0, |device| device.alignment)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicesetalignmentrequirement>
    fn WdfDeviceSetAlignmentRequirement(call, globals: usize, device: usize, alignment: u32),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, device, Kind::Device);
        if !(alignment.wrapping_add(1)).is_power_of_two() {
            call.violation(&ARGUMENT, format!("{alignment:#x} is not a FILE_*_ALIGNMENT"));
        }
        if let Some(device) = call.machine().kmdf().lock().device(id) {
            device.alignment = alignment;
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicesetcharacteristics>
    fn WdfDeviceSetCharacteristics(call, globals: usize, device: usize, characteristics: u32),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, device, Kind::Device);
        if let Some(device) = call.machine().kmdf().lock().device(id) {
            device.characteristics = characteristics;
        }
    }

    /// A control device has none.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicewdmgetattacheddevice>
    fn WdfDeviceWdmGetAttachedDevice(call, globals: usize, device: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        no_stack(&call, device)
    }

    /// A control device has none.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicewdmgetphysicaldevice>
    fn WdfDeviceWdmGetPhysicalDevice(call, globals: usize, device: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        no_stack(&call, device)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicegetsystempoweraction>
    fn WdfDeviceGetSystemPowerAction(call, globals: usize, device: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        resolve(&call, device, Kind::Device);
        POWER_ACTION_NONE
    }

    /// Without a debugger, a break point stops the machine.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfverifier/nf-wdfverifier-wdfverifierdbgbreakpoint>
    fn WdfVerifierDbgBreakPoint(call, globals: usize),
    irql PASSIVE..=HIGH;
    {
        stop(&call, KMODE_EXCEPTION_NOT_HANDLED, [BREAKPOINT, call.site() as u64, 0, 0])
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfverifier/nf-wdfverifier-wdfverifierkebugcheck>
    fn WdfVerifierKeBugCheck(call, globals: usize, code: u32, first: usize, second: usize, third: usize, fourth: usize),
    irql PASSIVE..=HIGH;
    {
        stop(&call, code, [first as u64, second as u64, third as u64, fourth as u64])
    }
}

fn no_stack(call: &Call<'_>, device: usize) -> usize {
    let _: Id = resolve(call, device, Kind::Device);
    0
}

fn stop(call: &Call<'_>, code: u32, parameters: [u64; 4]) -> ! {
    let place = call.machine().verifier().place(call.site());
    call.machine().crash(Bugcheck::new(
        code,
        parameters,
        format!("{} called from {place}", call.name()),
    ))
}
