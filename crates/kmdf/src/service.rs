//! A driver as a service: how it starts and stops.

use wdk_sys::{
    DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, ULONG, WDFDRIVER, WDFFILEOBJECT, WDFQUEUE,
    WDFREQUEST,
};
use wfp::{
    NtStatus, Result,
    cell::KernelCell,
    irql::Passive,
    pool::Tag,
    wide::{Wide, WideString},
};

use crate::{ControlDevice, Driver, File, Queue, Request};

/// `FILE_DEVICE_NETWORK`.
const NETWORK: ULONG = 0x12;

/// The device, until the service has stopped.
static DEVICE: KernelCell<ControlDevice> = KernelCell::new(TAG);
/// Its queue, until no request is to arrive any more.
static QUEUE: KernelCell<Queue> = KernelCell::new(TAG);

const TAG: Tag = Tag::new(*b"KmSv");

/// `D:P(A;;GA;;;SY)`: the system.
const SYSTEM: &WideString<16> = &WideString::new("D:P(A;;GA;;;SY)");

/// A driver that has one control device, with which it registers its callouts.
///
/// # Safety
/// When [`stop`](Self::stop) has returned, nothing that was made with the device is left: no callout, no subscription,
/// and nobody who uses the device's queues, work items and timers.
pub unsafe trait Service: 'static {
    /// The device's name.
    const DEVICE: Wide<'static>;
    /// Who may open the device, in SDDL: by default the system alone.
    const OPENED_BY: Wide<'static> = SYSTEM.as_wide();
    /// Starts the service. Requests arrive when this has succeeded.
    ///
    /// # Errors
    /// Why it could not start; [`stop`](Self::stop) is called then.
    fn start(device: ControlDevice, passive: Passive) -> Result;

    /// Undoes what [`start`](Self::start) has done, last first, however far it has come. Requests do not arrive any more.
    fn stop(passive: Passive);

    /// Does what a control request asks for, several at a time. The number is that of bytes of output.
    ///
    /// # Errors
    /// What the request is completed with.
    fn control(_code: u32, _request: &mut Request, _passive: Passive) -> Result<usize> {
        Err(NtStatus::INVALID_DEVICE_REQUEST)
    }

    /// An open file of the device ends; called twice for each, see [`ControlDevice::create`].
    fn file_gone(_file: File, _passive: Passive) {}
}

/// What `DriverEntry` does: it creates the driver and its device and starts the service, or leaves nothing.
///
/// # Safety
/// Called by `DriverEntry` with its arguments.
pub unsafe fn enter<S: Service>(
    driver: &mut DRIVER_OBJECT,
    registry_path: PCUNICODE_STRING,
) -> NTSTATUS {
    // SAFETY: `DriverEntry` is called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    // SAFETY: forwarded from the caller.
    unsafe { Driver::create(driver, registry_path, Some(unload::<S>)) }
        .and_then(|driver| start::<S>(driver, passive))
        .err()
        .unwrap_or(NtStatus::SUCCESS)
        .to_i32()
}

/// # Safety
/// Called by the framework, once, if `DriverEntry` has succeeded.
unsafe extern "C" fn unload<S: Service>(_driver: WDFDRIVER) {
    // SAFETY: `EvtDriverUnload` is called at PASSIVE_LEVEL.
    stop::<S>(unsafe { Passive::assume() });
}

/// # Safety
/// Called by the framework, with a request that is the driver's from now on.
unsafe extern "C" fn control<S: Service>(
    _queue: WDFQUEUE,
    request: WDFREQUEST,
    _output_length: usize,
    _input_length: usize,
    code: ULONG,
) {
    // SAFETY: the framework has just handed the request over.
    let mut request = unsafe { Request::new(request) };
    // SAFETY: the queue's execution level is passive.
    let result = S::control(code, &mut request, unsafe { Passive::assume() });
    request.complete(result);
}

/// # Safety
/// Called by the framework, with a file of the device.
unsafe extern "C" fn file_gone<S: Service>(file: WDFFILEOBJECT) {
    // SAFETY: the framework calls this with a file.
    if let Some(file) = unsafe { File::new(file) } {
        // SAFETY: EvtFileCleanup and EvtFileClose are called at PASSIVE_LEVEL.
        S::file_gone(file, unsafe { Passive::assume() });
    }
}

fn start<S: Service>(driver: Driver, passive: Passive) -> Result {
    let device = *DEVICE.try_set_with(
        || {
            let file_gone = Some(file_gone::<S> as unsafe extern "C" fn(WDFFILEOBJECT));
            ControlDevice::create(driver, S::DEVICE, S::OPENED_BY, NETWORK, file_gone)
        },
        passive,
    )?;
    QUEUE
        .try_set_with(
            || Queue::create_default(device, Some(control::<S>)),
            passive,
        )
        .and_then(|_| S::start(device, passive))
        .inspect_err(|_| stop::<S>(passive))?;
    device.finish_initializing();
    Ok(())
}

fn stop<S: Service>(passive: Passive) {
    // SAFETY: start and stop are not called at the same time, and nobody else uses it.
    if let Some(queue) = unsafe { QUEUE.take(passive) } {
        queue.purge();
    }
    S::stop(passive);
    // SAFETY: the service has stopped, and nobody else uses it.
    if let Some(device) = unsafe { DEVICE.take(passive) } {
        // SAFETY: the trait's implementation vouches that nothing made with it is left.
        unsafe { device.delete() };
    }
}
