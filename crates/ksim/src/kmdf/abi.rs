//! Structures and numbers that cross the boundary between a driver and the framework.
//!
//! Layouts are those of x64; enumerations are plain integers, since a driver may put anything there.

use wfp_schema::NtStatus;

use crate::access::{In, Out, Plain, plain};
use crate::ndis::layout::layout;

/// A callback that gets one object.
pub(crate) type ObjectCallback = extern "win64" fn(usize);
/// `EVT_WDF_DEVICE_FILE_CREATE`.
pub(crate) type FileCreate = extern "win64" fn(usize, usize, usize);
/// `EVT_WDF_IO_QUEUE_IO_DEFAULT` and others that get a queue or device and a request.
pub(crate) type RequestCallback = extern "win64" fn(usize, usize);
/// `EVT_WDF_IO_QUEUE_IO_READ` and `_WRITE`.
pub(crate) type TransferCallback = extern "win64" fn(usize, usize, usize);
/// `EVT_WDF_IO_QUEUE_IO_DEVICE_CONTROL`.
pub(crate) type ControlCallback = extern "win64" fn(usize, usize, usize, usize, u32);
/// `EVT_WDF_IO_QUEUE_STATE`.
pub(crate) type QueueStateCallback = extern "win64" fn(usize, usize);

/// Statuses of the framework's own facility, and others that only it returns.
pub(crate) mod status {
    use super::NtStatus;

    pub(crate) const PAUSED: NtStatus = NtStatus::from_u32(0xc020_0203);
    pub(crate) const BUSY: NtStatus = NtStatus::from_u32(0xc020_0204);
    pub(crate) const INTERNAL_ERROR: NtStatus = NtStatus::from_u32(0xc020_0201);
    pub(crate) const OBJECT_ATTRIBUTES_INVALID: NtStatus = NtStatus::from_u32(0xc020_0209);
    pub(crate) const NO_CALLBACK: NtStatus = NtStatus::from_u32(0xc020_020b);
    pub(crate) const INCOMPATIBLE_EXECUTION_LEVEL: NtStatus = NtStatus::from_u32(0xc020_020c);
    pub(crate) const PARENT_ASSIGNMENT_NOT_ALLOWED: NtStatus = NtStatus::from_u32(0xc020_020f);
    pub(crate) const SYNCHRONIZATION_SCOPE_INVALID: NtStatus = NtStatus::from_u32(0xc020_0210);
    pub(crate) const EXECUTION_LEVEL_INVALID: NtStatus = NtStatus::from_u32(0xc020_0211);
    pub(crate) const PARENT_NOT_SPECIFIED: NtStatus = NtStatus::from_u32(0xc020_0212);
    pub(crate) const INVALID_USER_BUFFER: NtStatus = NtStatus::from_u32(0xc000_00e8);
    pub(crate) const ACCESS_VIOLATION: NtStatus = NtStatus::from_u32(0xc000_0005);
    pub(crate) const DRIVER_INTERNAL_ERROR: NtStatus = NtStatus::from_u32(0xc000_0183);
}

/// `UNICODE_STRING`. Lengths are in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnicodeString {
    pub(crate) length: u16,
    pub(crate) maximum_length: u16,
    pub(crate) buffer: In<u16>,
}

impl UnicodeString {
    /// The text; `None` for a length without a buffer.
    pub(crate) fn text(self) -> Option<String> {
        let units: Option<Vec<u16>> = (0..usize::from(self.length / 2))
            .map(|index| self.buffer.at(index))
            .collect();
        units.map(|units| String::from_utf16_lossy(&units))
    }
}

/// The text of a string that may be absent.
pub(crate) fn text(string: In<UnicodeString>) -> Option<String> {
    string.get().and_then(UnicodeString::text)
}

/// `WDF_OBJECT_ATTRIBUTES`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct ObjectAttributes {
    pub(crate) size: u32,
    pub(crate) cleanup: Option<ObjectCallback>,
    pub(crate) destroy: Option<ObjectCallback>,
    pub(crate) execution_level: u32,
    pub(crate) synchronization_scope: u32,
    pub(crate) parent: usize,
    pub(crate) context_size_override: usize,
    pub(crate) context_type: In<ContextType>,
}

/// `WDF_OBJECT_CONTEXT_TYPE_INFO`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContextType {
    pub(crate) size: u32,
    pub(crate) name: In<u8>,
    pub(crate) context_size: usize,
    pub(crate) unique_type: usize,
    pub(crate) get_unique_type: Option<extern "win64" fn() -> usize>,
}

/// `WDF_DRIVER_CONFIG`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct DriverConfig {
    pub(crate) size: u32,
    pub(crate) device_add: usize,
    pub(crate) unload: Option<ObjectCallback>,
    pub(crate) init_flags: u32,
    pub(crate) pool_tag: u32,
}

/// `WDF_FILEOBJECT_CONFIG`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileObjectConfig {
    pub(crate) size: u32,
    pub(crate) create: Option<FileCreate>,
    pub(crate) close: Option<ObjectCallback>,
    pub(crate) cleanup: Option<ObjectCallback>,
    pub(crate) auto_forward: u32,
    pub(crate) class: u32,
}

/// `WDF_IO_QUEUE_CONFIG`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueConfig {
    pub(crate) size: u32,
    pub(crate) dispatch_type: u32,
    pub(crate) power_managed: u32,
    pub(crate) allow_zero_length: u8,
    pub(crate) default_queue: u8,
    pub(crate) io_default: Option<RequestCallback>,
    pub(crate) io_read: Option<TransferCallback>,
    pub(crate) io_write: Option<TransferCallback>,
    pub(crate) io_device_control: Option<ControlCallback>,
    pub(crate) io_internal_device_control: Option<ControlCallback>,
    pub(crate) io_stop: usize,
    pub(crate) io_resume: usize,
    pub(crate) io_canceled_on_queue: Option<RequestCallback>,
}

/// `WDF_TIMER_CONFIG`, without what 1.11 and 1.13 added.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimerConfig {
    pub(crate) size: u32,
    pub(crate) callback: Option<ObjectCallback>,
    pub(crate) period: u32,
    pub(crate) automatic_serialization: u8,
}

/// `WDF_DPC_CONFIG` and `WDF_WORKITEM_CONFIG`, which look alike.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeferredConfig {
    pub(crate) size: u32,
    pub(crate) callback: Option<ObjectCallback>,
    pub(crate) automatic_serialization: u8,
}

/// `WDF_REQUEST_PARAMETERS`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestParameters {
    pub(crate) size: u16,
    pub(crate) minor_function: u8,
    pub(crate) request_type: u32,
    /// The union, as its four words.
    pub(crate) words: [u64; 4],
}

/// `WDFMEMORY_OFFSET`: a part of a memory object.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryOffset {
    pub(crate) offset: usize,
    pub(crate) length: usize,
}

/// `WDF_BIND_INFO`. What `WDF_BIND_INFO2` adds follows, and is read apart.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct BindInfo {
    pub(crate) size: u32,
    pub(crate) component: In<u16>,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) build: u32,
    pub(crate) function_count: u32,
    pub(crate) function_table: Out<usize>,
    pub(crate) module: usize,
}

plain!(
    UnicodeString,
    ObjectAttributes,
    ContextType,
    DriverConfig,
    FileObjectConfig,
    QueueConfig,
    TimerConfig,
    DeferredConfig,
    RequestParameters,
    MemoryOffset,
    BindInfo,
);

layout! {
    UnicodeString 16 { length @ 0, maximum_length @ 2, buffer @ 8 }
    ObjectAttributes 56 {
        size @ 0, cleanup @ 8, destroy @ 16, execution_level @ 24, synchronization_scope @ 28, parent @ 32,
        context_size_override @ 40, context_type @ 48,
    }
    ContextType 40 { size @ 0, name @ 8, context_size @ 16, unique_type @ 24, get_unique_type @ 32 }
    DriverConfig 32 { size @ 0, device_add @ 8, unload @ 16, init_flags @ 24, pool_tag @ 28 }
    FileObjectConfig 40 { size @ 0, create @ 8, close @ 16, cleanup @ 24, auto_forward @ 32, class @ 36 }
    QueueConfig 80 {
        size @ 0, dispatch_type @ 4, power_managed @ 8, allow_zero_length @ 12, default_queue @ 13, io_default @ 16,
        io_read @ 24, io_write @ 32, io_device_control @ 40, io_internal_device_control @ 48, io_stop @ 56,
        io_resume @ 64, io_canceled_on_queue @ 72,
    }
    TimerConfig 24 { size @ 0, callback @ 8, period @ 16, automatic_serialization @ 20 }
    DeferredConfig 24 { size @ 0, callback @ 8, automatic_serialization @ 16 }
    RequestParameters 40 { size @ 0, minor_function @ 2, request_type @ 4, words @ 8 }
    MemoryOffset 16 { offset @ 0, length @ 8 }
    BindInfo 48 {
        size @ 0, component @ 8, major @ 16, minor @ 20, build @ 24, function_count @ 28, function_table @ 32,
        module @ 40,
    }
}

/// `WdfExecutionLevel…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Passive,
    Dispatch,
}

/// `WdfSynchronizationScope…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Device,
    Queue,
    None,
}

/// The structure at `address`, if its size field holds one of `sizes`.
pub(crate) fn sized<T: Plain>(
    address: In<T>,
    size: impl Fn(&T) -> u32,
    sizes: &[u32],
) -> Result<T, NtStatus> {
    let value = address.get().ok_or(NtStatus::INVALID_PARAMETER)?;
    if sizes.contains(&size(&value)) {
        Ok(value)
    } else {
        Err(NtStatus::INFO_LENGTH_MISMATCH)
    }
}
