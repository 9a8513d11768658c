//! A driver's device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::io::AsRawHandle as _;
use std::ptr;

use windows_sys::Win32::System::IO::DeviceIoControl;

/// An open device.
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
            .open(path)
            .map(Self)
    }

    /// `DeviceIoControl`, which returns when the driver has completed the request: one that waits for events, when
    /// there are some. Others that are to go on meanwhile need another open device.
    ///
    /// The output is as long as the driver made it, `output_size` at most.
    ///
    /// # Errors
    /// What the driver answered, as Windows translates it.
    pub fn control(&self, code: u32, input: &[u8], output_size: usize) -> io::Result<Vec<u8>> {
        let mut output = vec![0; output_size];
        let mut written = 0;
        // SAFETY: the handle is open, both buffers are as long as is said, and the call is over when it returns.
        let done = unsafe {
            DeviceIoControl(
                self.0.as_raw_handle(),
                code,
                input.as_ptr().cast(),
                length(input)?,
                output.as_mut_ptr().cast(),
                length(&output)?,
                &raw mut written,
                ptr::null_mut(),
            )
        };
        if done == 0 {
            return Err(io::Error::last_os_error());
        }
        output.truncate(usize::try_from(written).unwrap_or(usize::MAX));
        Ok(output)
    }
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
