//! The framework's objects, a function for each call.

use core::ptr::{self, NonNull};

use wdk_sys::{
    DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, PFN_WDF_DRIVER_UNLOAD, PFN_WDF_FILE_CLEANUP,
    PFN_WDF_IO_QUEUE_IO_DEVICE_CONTROL, PFN_WDF_TIMER, PFN_WDF_WORKITEM, PWDFDEVICE_INIT, ULONG,
    UNICODE_STRING, WDF_DRIVER_CONFIG, WDF_FILEOBJECT_CONFIG, WDF_IO_QUEUE_CONFIG,
    WDF_NO_OBJECT_ATTRIBUTES, WDF_OBJECT_ATTRIBUTES, WDF_TIMER_CONFIG, WDF_WORKITEM_CONFIG,
    WDFDEVICE, WDFDRIVER, WDFOBJECT, WDFQUEUE, WDFREQUEST, WDFTIMER, WDFWORKITEM,
    call_unsafe_wdf_function_binding,
};
use wfp::{NtStatus, Result, device::Device, irql::Passive, wide::Wide};

use crate::Request;

/// `Size` of a structure that begins with it.
const fn size_of_ulong<T>() -> ULONG {
    const { assert!(size_of::<T>() < 1 << 16) };
    #[allow(clippy::cast_possible_truncation, reason = "asserted above")]
    {
        size_of::<T>() as ULONG
    }
}

const fn check(status: NTSTATUS) -> Result {
    NtStatus::from_i32(status).ok()
}

/// A counted string over one that ends with a NUL; KMDF only reads it.
fn unicode(text: Wide<'_>) -> Result<UNICODE_STRING> {
    let bytes = |units: usize| u16::try_from(units * 2).map_err(|_| NtStatus::INVALID_PARAMETER);
    Ok(UNICODE_STRING {
        Length: bytes(text.len())?,
        MaximumLength: bytes(text.len() + 1)?,
        Buffer: text.as_ptr(),
    })
}

/// `WDF_OBJECT_ATTRIBUTES_INIT`, for an object whose callbacks run at `PASSIVE_LEVEL` and side by
/// side if `passive`, else as its parent's.
fn attributes(parent: WDFOBJECT, passive: bool) -> WDF_OBJECT_ATTRIBUTES {
    use wdk_sys::{_WDF_EXECUTION_LEVEL as Level, _WDF_SYNCHRONIZATION_SCOPE as Scope};

    WDF_OBJECT_ATTRIBUTES {
        Size: size_of_ulong::<WDF_OBJECT_ATTRIBUTES>(),
        ExecutionLevel: if passive {
            Level::WdfExecutionLevelPassive
        } else {
            Level::WdfExecutionLevelInheritFromParent
        },
        SynchronizationScope: if passive {
            Scope::WdfSynchronizationScopeNone
        } else {
            Scope::WdfSynchronizationScopeInheritFromParent
        },
        ParentObject: parent,
        ..Default::default()
    }
}

/// The driver.
#[derive(Clone, Copy)]
pub struct Driver(WDFDRIVER);

impl Driver {
    /// `WdfDriverCreate`, for a driver without Plug and Play. The framework deletes the driver
    /// after `unload`, or when `DriverEntry` fails, and then `unload` is not called.
    ///
    /// # Errors
    /// Whatever the framework answers.
    ///
    /// # Safety
    /// `object` and `registry_path` are those that `DriverEntry` was called with.
    pub unsafe fn create(
        object: &mut DRIVER_OBJECT,
        registry_path: PCUNICODE_STRING,
        unload: PFN_WDF_DRIVER_UNLOAD,
    ) -> Result<Self> {
        let mut config = WDF_DRIVER_CONFIG {
            Size: size_of_ulong::<WDF_DRIVER_CONFIG>(),
            EvtDriverUnload: unload,
            DriverInitFlags: wdk_sys::_WDF_DRIVER_INIT_FLAGS::WdfDriverInitNonPnpDriver as ULONG,
            ..Default::default()
        };
        let mut driver: WDFDRIVER = ptr::null_mut();
        // SAFETY: the caller vouches for object and path, and the configuration is complete.
        check(unsafe {
            call_unsafe_wdf_function_binding!(
                WdfDriverCreate,
                ptr::from_mut(object),
                registry_path,
                WDF_NO_OBJECT_ATTRIBUTES,
                &raw mut config,
                &raw mut driver,
            )
        })?;
        Ok(Self(driver))
    }
}

/// What a control device is before it exists; freed unless it becomes one.
struct DeviceInit(PWDFDEVICE_INIT);

impl Drop for DeviceInit {
    fn drop(&mut self) {
        // The framework sets it to NULL when it makes a device of it.
        if !self.0.is_null() {
            // SAFETY: the structure is not used any more.
            unsafe { call_unsafe_wdf_function_binding!(WdfDeviceInitFree, self.0) };
        }
    }
}

/// A control device: reachable by name, with no hardware behind it.
#[derive(Clone, Copy)]
pub struct ControlDevice(WDFDEVICE);

// SAFETY: the framework's functions may be called on a handle from any thread.
unsafe impl Send for ControlDevice {}
// SAFETY: as above.
unsafe impl Sync for ControlDevice {}

impl ControlDevice {
    /// Creates a device that does not take requests yet.
    ///
    /// `descriptor` (SDDL) says who may open it. `FILE_DEVICE_SECURE_OPEN` makes the I/O manager
    /// apply that to names below the device's too.
    ///
    /// `file_gone` is called when the last handle of an open file is closed, as at the end of its
    /// process, and again when no request refers to it any more: what a request has tied to its
    /// [`File`] ends there at the latest.
    ///
    /// # Errors
    /// Whatever the framework answers; nothing is left of the device then.
    pub fn create(
        driver: Driver,
        name: Wide<'_>,
        descriptor: Wide<'_>,
        device_type: ULONG,
        file_gone: PFN_WDF_FILE_CLEANUP,
    ) -> Result<Self> {
        let descriptor = unicode(descriptor)?;
        let name = unicode(name)?;
        // SAFETY: the driver's handle is valid, and the string lives during the call.
        let init = unsafe {
            call_unsafe_wdf_function_binding!(
                WdfControlDeviceInitAllocate,
                driver.0,
                &raw const descriptor,
            )
        };
        if init.is_null() {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        let mut init = DeviceInit(init);
        // SAFETY: the structure is valid until a device is made of it.
        unsafe {
            call_unsafe_wdf_function_binding!(WdfDeviceInitSetDeviceType, init.0, device_type);
        };
        // SAFETY: as above.
        unsafe {
            call_unsafe_wdf_function_binding!(
                WdfDeviceInitSetCharacteristics,
                init.0,
                wdk_sys::FILE_DEVICE_SECURE_OPEN,
                1,
            );
        };
        let mut files = WDF_FILEOBJECT_CONFIG {
            Size: size_of_ulong::<WDF_FILEOBJECT_CONFIG>(),
            EvtFileCleanup: file_gone,
            EvtFileClose: file_gone,
            AutoForwardCleanupClose: wdk_sys::_WDF_TRI_STATE::WdfUseDefault,
            FileObjectClass: wdk_sys::_WDF_FILEOBJECT_CLASS::WdfFileObjectWdfCanUseFsContext,
            ..Default::default()
        };
        if file_gone.is_some() {
            // SAFETY: as above; the framework copies the configuration.
            unsafe {
                call_unsafe_wdf_function_binding!(
                    WdfDeviceInitSetFileObjectConfig,
                    init.0,
                    &raw mut files,
                    WDF_NO_OBJECT_ATTRIBUTES,
                );
            };
        }
        // SAFETY: as above; the framework copies the name.
        check(unsafe {
            call_unsafe_wdf_function_binding!(WdfDeviceInitAssignName, init.0, &raw const name,)
        })?;
        let mut device: WDFDEVICE = ptr::null_mut();
        // SAFETY: as above; on success the structure belongs to the framework and becomes NULL.
        check(unsafe {
            call_unsafe_wdf_function_binding!(
                WdfDeviceCreate,
                &raw mut init.0,
                WDF_NO_OBJECT_ATTRIBUTES,
                &raw mut device,
            )
        })?;
        Ok(Self(device))
    }

    /// `WdfDeviceCreateSymbolicLink`. The link goes with the device.
    ///
    /// # Errors
    /// `STATUS_OBJECT_NAME_COLLISION`, and whatever else the framework answers.
    pub fn create_symbolic_link(self, name: Wide<'_>) -> Result {
        let name = unicode(name)?;
        // SAFETY: the device exists, and the string lives during the call.
        check(unsafe {
            call_unsafe_wdf_function_binding!(WdfDeviceCreateSymbolicLink, self.0, &raw const name,)
        })
    }

    /// `WdfControlFinishInitializing`: from now on requests arrive.
    pub fn finish_initializing(self) {
        // SAFETY: the device exists.
        unsafe { call_unsafe_wdf_function_binding!(WdfControlFinishInitializing, self.0) };
    }

    /// The device object for WFP.
    ///
    /// # Errors
    /// `STATUS_UNSUCCESSFUL`, which does not happen for a device that exists.
    pub fn wdm(self) -> Result<Device> {
        // SAFETY: the device exists.
        let object =
            unsafe { call_unsafe_wdf_function_binding!(WdfDeviceWdmGetDeviceObject, self.0) };
        let object = NonNull::new(object).ok_or(NtStatus::UNSUCCESSFUL)?;
        // SAFETY: whoever deletes the device vouches that nothing made with the result is left.
        Ok(unsafe { Device::new(object) })
    }

    /// `WdfObjectDelete`. Queues, work items and the symbolic link go with the device.
    ///
    /// # Safety
    /// Neither the device nor any of these is used any more, and every callout that was registered with it,
    /// and every subscription, is gone.
    pub unsafe fn delete(self) {
        // SAFETY: forwarded from the caller.
        unsafe { call_unsafe_wdf_function_binding!(WdfObjectDelete, self.0.cast()) };
    }
}

/// A queue of requests.
#[derive(Clone, Copy)]
pub struct Queue(WDFQUEUE);

// SAFETY: the framework's functions may be called on a handle from any thread.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// The device's default queue: it hands control requests over as they come, at
    /// `PASSIVE_LEVEL`, several at a time.
    ///
    /// # Errors
    /// Whatever the framework answers.
    pub fn create_default(
        device: ControlDevice,
        control: PFN_WDF_IO_QUEUE_IO_DEVICE_CONTROL,
    ) -> Result<Self> {
        let mut config = WDF_IO_QUEUE_CONFIG {
            DispatchType: wdk_sys::_WDF_IO_QUEUE_DISPATCH_TYPE::WdfIoQueueDispatchParallel,
            DefaultQueue: 1,
            EvtIoDeviceControl: control,
            ..Default::default()
        };
        // WDF_IO_QUEUE_CONFIG_INIT_DEFAULT_QUEUE: no limit.
        config.Settings.Parallel.NumberOfPresentedRequests = ULONG::MAX;
        Self::create(device, config)
    }

    /// A queue that holds requests until they are asked for. The framework completes those that
    /// are cancelled meanwhile.
    ///
    /// # Errors
    /// Whatever the framework answers.
    pub fn create_manual(device: ControlDevice) -> Result<Self> {
        Self::create(
            device,
            WDF_IO_QUEUE_CONFIG {
                DispatchType: wdk_sys::_WDF_IO_QUEUE_DISPATCH_TYPE::WdfIoQueueDispatchManual,
                ..Default::default()
            },
        )
    }

    fn create(device: ControlDevice, config: WDF_IO_QUEUE_CONFIG) -> Result<Self> {
        let mut config = WDF_IO_QUEUE_CONFIG {
            Size: size_of_ulong::<WDF_IO_QUEUE_CONFIG>(),
            PowerManaged: wdk_sys::_WDF_TRI_STATE::WdfFalse,
            ..config
        };
        // A queue's parent is its device.
        let mut attributes = attributes(ptr::null_mut(), true);
        let mut queue: WDFQUEUE = ptr::null_mut();
        // SAFETY: the device exists, and the configuration is complete.
        check(unsafe {
            call_unsafe_wdf_function_binding!(
                WdfIoQueueCreate,
                device.0,
                &raw mut config,
                &raw mut attributes,
                &raw mut queue,
            )
        })?;
        Ok(Self(queue))
    }

    /// The oldest request that the queue holds.
    #[must_use]
    pub fn next(self) -> Option<Request> {
        let mut request: WDFREQUEST = ptr::null_mut();
        // SAFETY: the queue exists.
        let status = unsafe {
            call_unsafe_wdf_function_binding!(
                WdfIoQueueRetrieveNextRequest,
                self.0,
                &raw mut request,
            )
        };
        check(status).ok()?;
        // SAFETY: the request is the driver's now.
        NonNull::new(request).map(|request| unsafe { Request::new(request.as_ptr()) })
    }

    /// `WdfIoQueuePurgeSynchronously`: refuses what comes, cancels what waits, and waits for what
    /// is being worked on.
    pub fn purge(self) {
        // SAFETY: the queue exists, and no callback of it is on this thread's stack.
        unsafe { call_unsafe_wdf_function_binding!(WdfIoQueuePurgeSynchronously, self.0) };
    }

    /// The handle, for calls that this crate does not offer.
    #[must_use]
    pub const fn handle(self) -> WDFQUEUE {
        self.0
    }
}

/// Work that runs at `PASSIVE_LEVEL`, once for any number of requests before it begins.
#[derive(Clone, Copy)]
pub struct WorkItem(WDFWORKITEM);

// SAFETY: the framework's functions may be called on a handle from any thread.
unsafe impl Send for WorkItem {}
// SAFETY: as above.
unsafe impl Sync for WorkItem {}

impl WorkItem {
    /// `WdfWorkItemCreate`. The work item goes with the device.
    ///
    /// # Errors
    /// Whatever the framework answers.
    pub fn create(device: ControlDevice, work: PFN_WDF_WORKITEM) -> Result<Self> {
        let mut config = WDF_WORKITEM_CONFIG {
            Size: size_of_ulong::<WDF_WORKITEM_CONFIG>(),
            EvtWorkItemFunc: work,
            AutomaticSerialization: 0,
        };
        let mut attributes = attributes(device.0.cast(), false);
        let mut item: WDFWORKITEM = ptr::null_mut();
        // SAFETY: the device exists, and the configuration is complete.
        check(unsafe {
            call_unsafe_wdf_function_binding!(
                WdfWorkItemCreate,
                &raw mut config,
                &raw mut attributes,
                &raw mut item,
            )
        })?;
        Ok(Self(item))
    }

    /// Asks for a run. At IRQL <= `DISPATCH_LEVEL`.
    pub fn enqueue(self) {
        // SAFETY: the work item exists.
        unsafe { call_unsafe_wdf_function_binding!(WdfWorkItemEnqueue, self.0) };
    }

    /// Waits until it neither runs nor waits to run. Not from the work itself.
    pub fn flush(self) {
        // SAFETY: the work item exists, and is not what runs this.
        unsafe { call_unsafe_wdf_function_binding!(WdfWorkItemFlush, self.0) };
    }
}

/// A timer that fires once for each time it is started, at `DISPATCH_LEVEL`.
#[derive(Clone, Copy)]
pub struct Timer(WDFTIMER);

// SAFETY: the framework's functions may be called on a handle from any thread.
unsafe impl Send for Timer {}
// SAFETY: as above.
unsafe impl Sync for Timer {}

impl Timer {
    /// `WdfTimerCreate`, with the resolution of the hardware. The timer goes with the device.
    ///
    /// # Errors
    /// Whatever the framework answers.
    pub fn create(device: ControlDevice, expired: PFN_WDF_TIMER) -> Result<Self> {
        let mut config = WDF_TIMER_CONFIG {
            Size: size_of_ulong::<WDF_TIMER_CONFIG>(),
            EvtTimerFunc: expired,
            UseHighResolutionTimer: 1,
            ..Default::default()
        };
        let mut attributes = attributes(device.0.cast(), false);
        attributes.ExecutionLevel = wdk_sys::_WDF_EXECUTION_LEVEL::WdfExecutionLevelDispatch;
        let mut timer: WDFTIMER = ptr::null_mut();
        // SAFETY: the device exists, and the configuration is complete.
        check(unsafe {
            call_unsafe_wdf_function_binding!(
                WdfTimerCreate,
                &raw mut config,
                &raw mut attributes,
                &raw mut timer,
            )
        })?;
        Ok(Self(timer))
    }

    /// Lets the timer fire in `ticks` units of 100 nanoseconds, at the soonest; sets it anew if it was started. At IRQL <=
    /// `DISPATCH_LEVEL`.
    pub fn start(self, ticks: u64) {
        // A due time that is not positive is relative to now.
        let due = i64::try_from(ticks).map_or(i64::MIN, |ticks| -ticks);
        // SAFETY: the timer exists. Whether it was started says nothing.
        let _ = unsafe { call_unsafe_wdf_function_binding!(WdfTimerStart, self.0, due) };
    }

    /// Stops the timer, and waits until what it calls has returned. Not from what it calls.
    pub fn stop(self, _passive: Passive) {
        // SAFETY: the timer exists, and the token says PASSIVE_LEVEL. Whether it was started says nothing.
        let _ = unsafe { call_unsafe_wdf_function_binding!(WdfTimerStop, self.0, 1) };
    }
}
