//! A driver's device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::ptr;

use windows_sys::Wdk::System::IO::NtDeviceIoControlFile;
use windows_sys::Win32::Foundation::{
    NTSTATUS, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_PENDING,
    WAIT_OBJECT_0,
};
use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OVERLAPPED;
use windows_sys::Win32::System::IO::{IO_STATUS_BLOCK, IO_STATUS_BLOCK_0};
use windows_sys::Win32::System::Threading::{CreateEventW, INFINITE, WaitForSingleObject};

/// An open device. Several threads may call it at the same time.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens the device at `path` (`\\.\Name`) for reading and writing.
    ///
    /// # Errors
    /// What the system answers: there is no such device, or this program may not open it.
    pub fn open(path: &str) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            // Without it the system holds back a request until the one before has been completed.
            .custom_flags(FILE_FLAG_OVERLAPPED)
            .open(path)
            .map(Self)
    }

    /// `DeviceIoControl`, which returns when the driver has completed the request: one that waits for events, when
    /// there are some. Meanwhile other threads may make other requests.
    ///
    /// The output is as long as the driver made it, `output_size` at most. It is the system's own call, because
    /// `DeviceIoControl` does not tell the driver's status but what Windows translates it to.
    ///
    /// <https://learn.microsoft.com/windows/win32/api/winternl/nf-winternl-ntdeviceiocontrolfile>
    ///
    /// # Errors
    /// The `NTSTATUS` that the driver, or the system in its name, answered.
    pub fn control(&self, code: u32, input: &[u8], output_size: usize) -> Result<Vec<u8>, u32> {
        let mut output = vec![0; output_size];
        let (input_length, output_length) = (length(input)?, length(&output)?);
        let completed = event()?;
        let mut block = IO_STATUS_BLOCK {
            Anonymous: IO_STATUS_BLOCK_0 {
                Status: STATUS_PENDING,
            },
            Information: 0,
        };
        // SAFETY: both handles are open, both buffers are as long as is said, and they, the event and the block stay
        // until the request is over: nothing below returns before.
        let status = unsafe {
            NtDeviceIoControlFile(
                self.0.as_raw_handle(),
                completed.as_raw_handle(),
                None,
                ptr::null(),
                &raw mut block,
                code,
                input.as_ptr().cast(),
                input_length,
                output.as_mut_ptr().cast(),
                output_length,
            )
        };
        let status = if status == STATUS_PENDING {
            wait(&completed);
            // SAFETY: the request is over: nobody else writes the block, and its status was written.
            unsafe { block.Anonymous.Status }
        } else {
            status
        };
        if status < 0 {
            return Err(raw(status));
        }
        output.truncate(block.Information);
        Ok(output)
    }
}

/// An event that is not signaled, and stays signaled once it is.
fn event() -> Result<OwnedHandle, u32> {
    // SAFETY: neither attributes nor a name are given.
    let event = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
    if event.is_null() {
        return Err(raw(STATUS_INSUFFICIENT_RESOURCES));
    }
    // SAFETY: the handle was just made, and is nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(event) })
}

/// Waits until a request is over, whose buffers must not go before. A wait for an open event without a limit does not
/// fail.
fn wait(completed: &OwnedHandle) {
    // SAFETY: the handle is open.
    let waited = unsafe { WaitForSingleObject(completed.as_raw_handle(), INFINITE) };
    if waited != WAIT_OBJECT_0 {
        // The driver may still write into the buffers: there is no way on.
        std::process::abort();
    }
}

fn length(bytes: &[u8]) -> Result<u32, u32> {
    u32::try_from(bytes.len()).map_err(|_| raw(STATUS_INVALID_PARAMETER))
}

const fn raw(status: NTSTATUS) -> u32 {
    status.cast_unsigned()
}
