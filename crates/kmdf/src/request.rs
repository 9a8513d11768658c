//! Control requests: each is completed exactly once, by its type.

use core::{
    ffi::c_void,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
};

use wdk_sys::{NTSTATUS, PVOID, WDFFILEOBJECT, WDFREQUEST, call_unsafe_wdf_function_binding};
use wfp::{NtStatus, Result};

use crate::Queue;

/// An open file of the device, as long as it is open: what a program has asked for is tied to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File(NonNull<c_void>);

// SAFETY: it is only compared.
unsafe impl Send for File {}
// SAFETY: as above.
unsafe impl Sync for File {}

impl File {
    /// The file that the framework calls `file`.
    ///
    /// # Safety
    /// `file` is of an open file of this driver's device, or NULL.
    #[must_use]
    pub const unsafe fn new(file: WDFFILEOBJECT) -> Option<Self> {
        match NonNull::new(file.cast()) {
            Some(file) => Some(Self(file)),
            None => None,
        }
    }

    /// A number that no other open file has.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0.addr().get() as u64
    }
}

/// A request that the driver owns. Dropping it completes it with `STATUS_CANCELLED`.
#[must_use]
pub struct Request(WDFREQUEST);

impl Request {
    /// # Safety
    /// The framework has just handed the request over, and it has not been completed or passed on.
    pub const unsafe fn new(request: WDFREQUEST) -> Self {
        Self(request)
    }

    /// The input; empty if there is none.
    ///
    /// All control codes are `METHOD_BUFFERED`, so this is a copy in kernel memory that user mode
    /// cannot change, and it is also where the output goes: read it before asking for
    /// [`output`](Self::output), which the borrows make sure of.
    #[must_use]
    pub fn input(&self) -> &[u8] {
        let mut buffer: PVOID = ptr::null_mut();
        let mut length = 0;
        // SAFETY: the request is the driver's. A request without input fails this.
        let status: NTSTATUS = unsafe {
            call_unsafe_wdf_function_binding!(
                WdfRequestRetrieveInputBuffer,
                self.0,
                0,
                &raw mut buffer,
                &raw mut length,
            )
        };
        if !NtStatus::from_i32(status).is_success() || buffer.is_null() {
            return &[];
        }
        // SAFETY: the buffer has this length and stays until the request is completed or passed
        // on, which needs the request itself.
        unsafe { core::slice::from_raw_parts(buffer.cast(), length) }
    }

    /// Room for the output, all zeros; empty if there is none. It takes the place of the input.
    pub fn output(&mut self) -> &mut [u8] {
        let mut buffer: PVOID = ptr::null_mut();
        let mut length = 0;
        // SAFETY: the request is the driver's. A request without output fails this.
        let status: NTSTATUS = unsafe {
            call_unsafe_wdf_function_binding!(
                WdfRequestRetrieveOutputBuffer,
                self.0,
                0,
                &raw mut buffer,
                &raw mut length,
            )
        };
        if !NtStatus::from_i32(status).is_success() || buffer.is_null() {
            return &mut [];
        }
        let start = buffer.cast::<u8>();
        // SAFETY: the buffer has this length. The I/O manager initializes only as much of it as
        // there is input.
        unsafe { start.write_bytes(0, length) };
        // SAFETY: as in `input`, and the exclusive borrow rules out another view of the buffer.
        unsafe { core::slice::from_raw_parts_mut(start, length) }
    }

    /// The open file that the request came by.
    #[must_use]
    pub fn file(&self) -> Option<File> {
        // SAFETY: the request is the driver's.
        let file = unsafe { call_unsafe_wdf_function_binding!(WdfRequestGetFileObject, self.0) };
        // SAFETY: the framework gives the file of a request, or NULL.
        unsafe { File::new(file) }
    }

    /// The process whose request it is.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        // SAFETY: the request is the driver's.
        unsafe { call_unsafe_wdf_function_binding!(WdfRequestGetRequestorProcessId, self.0) }
    }

    /// Completes the request: with so many bytes of output, or a failure.
    pub fn complete(self, result: Result<usize>) {
        let (status, information) = match result {
            Ok(written) => (NtStatus::SUCCESS, written),
            Err(status) => (status, 0),
        };
        ManuallyDrop::new(self).finish(status, information);
    }

    /// Passes the request on to a queue that holds it.
    ///
    /// # Errors
    /// The queue takes no requests: the request comes back.
    pub fn forward(self, queue: Queue) -> core::result::Result<(), (Self, NtStatus)> {
        // SAFETY: the request is the driver's; on success it is the queue's.
        let status: NTSTATUS = unsafe {
            call_unsafe_wdf_function_binding!(WdfRequestForwardToIoQueue, self.0, queue.handle())
        };
        match NtStatus::from_i32(status).ok() {
            Ok(()) => {
                let _ = ManuallyDrop::new(self);
                Ok(())
            }
            Err(status) => Err((self, status)),
        }
    }

    fn finish(&self, status: NtStatus, information: usize) {
        // SAFETY: the request is the driver's, and the callers give it up with this.
        unsafe {
            call_unsafe_wdf_function_binding!(
                WdfRequestCompleteWithInformation,
                self.0,
                status.to_i32(),
                information as u64,
            );
        };
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.finish(NtStatus::CANCELLED, 0);
    }
}
