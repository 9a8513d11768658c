//! Processes that begin and end.

use core::{marker::PhantomData, ptr};

use wdk_sys::{
    HANDLE, PCREATE_PROCESS_NOTIFY_ROUTINE_EX, PEPROCESS, PPS_CREATE_NOTIFY_INFO, PUNICODE_STRING,
};
use wfp_schema::NtStatus;

use crate::{
    irql::Passive,
    pool::{PoolVec, Tag},
};

/// Who is told.
pub trait Watcher: 'static {
    /// The tag of the memory that images' names are copied to.
    const TAG: Tag;

    /// A process begins: its first thread has not run yet. `image` is the path of its file in NT form, UTF-16 bytes
    /// without a terminator, as [`Metadata::process_path`](crate::metadata::Metadata::process_path) begins; `None` if
    /// it has none, or there was no memory for it; in memory that is not paged. At `PASSIVE_LEVEL`.
    fn began(process_id: u64, parent_id: u64, image: Option<&[u8]>);

    /// A process ends. At `PASSIVE_LEVEL`.
    fn ended(process_id: u64);
}

/// A watch over the system's processes, as long as it lasts.
#[derive(Debug)]
#[must_use = "a watch lasts until it is ended"]
pub struct Watch<W: Watcher> {
    routine: PCREATE_PROCESS_NOTIFY_ROUTINE_EX,
    _watcher: PhantomData<W>,
}

impl<W: Watcher> Watch<W> {
    /// `PsSetCreateProcessNotifyRoutineEx`. Processes that run already are not told of.
    ///
    /// # Errors
    /// `STATUS_ACCESS_DENIED` for a driver whose image is linked without `/INTEGRITYCHECK`, and
    /// `STATUS_INVALID_PARAMETER` if there are too many watches, or this one exists.
    pub fn begin(_passive: Passive) -> Result<Self, NtStatus> {
        let watch = Self {
            routine: Some(changed::<W>),
            _watcher: PhantomData,
        };
        // SAFETY: the routine is static, and the token says PASSIVE_LEVEL.
        let status = unsafe { wdk_sys::ntddk::PsSetCreateProcessNotifyRoutineEx(watch.routine, 0) };
        NtStatus::from_i32(status).ok()?;
        Ok(watch)
    }

    /// Ends the watch, and waits for calls of the watcher that run.
    ///
    /// # Errors
    /// Whatever the kernel answers.
    pub fn end(self, _passive: Passive) -> Result<(), NtStatus> {
        // SAFETY: the routine was registered, and the token says PASSIVE_LEVEL.
        let status = unsafe { wdk_sys::ntddk::PsSetCreateProcessNotifyRoutineEx(self.routine, 1) };
        NtStatus::from_i32(status).ok()
    }
}

/// `PCREATE_PROCESS_NOTIFY_ROUTINE_EX` of every watcher.
///
/// # Safety
/// Called by the kernel, at `PASSIVE_LEVEL`.
unsafe extern "C" fn changed<W: Watcher>(
    process: PEPROCESS,
    process_id: HANDLE,
    info: PPS_CREATE_NOTIFY_INFO,
) {
    let number = |id: HANDLE| id.addr() as u64;
    // SAFETY: the kernel passes NULL, or what lives during the call.
    let Some(info) = (unsafe { info.as_ref() }) else {
        return W::ended(number(process_id));
    };
    // The kernel's string may be in paged memory, which nobody may touch who holds a spin lock.
    let image =
        ImageName::of(process).and_then(|image| PoolVec::try_copy_of(W::TAG, image.bytes()).ok());
    W::began(
        number(process_id),
        number(info.ParentProcessId),
        image.as_deref(),
    );
}

/// What `SeLocateProcessImageName` gives, to be freed.
struct ImageName(PUNICODE_STRING);

impl ImageName {
    /// The name of a process's file. Not the one of `PS_CREATE_NOTIFY_INFO`, which is as the file was opened: with a
    /// drive's letter, mostly.
    fn of(process: PEPROCESS) -> Option<Self> {
        let mut name = ptr::null_mut();
        // SAFETY: the process is the one that the kernel tells of, at PASSIVE_LEVEL.
        let status = unsafe { wdk_sys::ntddk::SeLocateProcessImageName(process, &raw mut name) };
        (NtStatus::from_i32(status).is_success() && !name.is_null()).then(|| Self(name))
    }

    const fn bytes(&self) -> &[u8] {
        // SAFETY: the kernel's string lives until it is freed.
        let name = unsafe { &*self.0 };
        if name.Buffer.is_null() {
            return &[];
        }
        // SAFETY: a counted string's buffer is as long as it says.
        unsafe { core::slice::from_raw_parts(name.Buffer.cast(), name.Length as usize) }
    }
}

impl Drop for ImageName {
    fn drop(&mut self) {
        // SAFETY: the caller of `SeLocateProcessImageName` frees what it gave; no tag is asked for.
        unsafe { wdk_sys::ntddk::ExFreePoolWithTag(self.0.cast(), 0) };
    }
}
