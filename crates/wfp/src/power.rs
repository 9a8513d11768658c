//! Sleep and resume, for drivers whose device has no power of its own.

use core::{
    ffi::c_void,
    fmt,
    ptr::{self, NonNull},
};

use wdk_sys::{OBJECT_ATTRIBUTES, PCALLBACK_OBJECT, UNICODE_STRING};
use wfp_schema::NtStatus;

use crate::{irql::Passive, wide};

/// Who hears of sleep and resume.
///
/// The functions are called at IRQL <= `DISPATCH_LEVEL` (page "Using a system-defined callback
/// object"); the token is there if the level allows to wait. The system goes on when they return.
pub trait Listener: 'static {
    /// The system is about to leave its working state.
    fn before_sleep(passive: Option<Passive>);

    /// The system has come back to its working state.
    fn after_resume(passive: Option<Passive>);
}

/// A registration with `\Callback\PowerState`.
#[must_use = "changes are heard of until the registration is ended"]
pub struct Registration {
    object: PCALLBACK_OBJECT,
    handle: NonNull<c_void>,
}

// SAFETY: the handle and the object are not bound to a thread.
unsafe impl Send for Registration {}
// SAFETY: a shared registration offers nothing.
unsafe impl Sync for Registration {}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").finish_non_exhaustive()
    }
}

/// `OBJ_CASE_INSENSITIVE` and `OBJ_KERNEL_HANDLE`.
const ATTRIBUTES: u32 = 0x40 | 0x200;

impl Registration {
    /// `ExRegisterCallback`.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, or why the callback object cannot be opened.
    pub fn new<L: Listener>(_passive: Passive) -> Result<Self, NtStatus> {
        let text = wide!("\\Callback\\PowerState");
        let bytes = u16::try_from(2 * text.len()).map_err(|_| NtStatus::INVALID_PARAMETER)?;
        let mut name = UNICODE_STRING {
            Length: bytes,
            MaximumLength: bytes,
            Buffer: text.as_ptr(),
        };
        let mut attributes = OBJECT_ATTRIBUTES {
            Length: u32::try_from(size_of::<OBJECT_ATTRIBUTES>())
                .map_err(|_| NtStatus::INVALID_PARAMETER)?,
            RootDirectory: ptr::null_mut(),
            ObjectName: &raw mut name,
            Attributes: ATTRIBUTES,
            SecurityDescriptor: ptr::null_mut(),
            SecurityQualityOfService: ptr::null_mut(),
        };
        let mut object: PCALLBACK_OBJECT = ptr::null_mut();
        // SAFETY: the attributes and the name are only read, the system's object is not created,
        // and the token says PASSIVE_LEVEL.
        let status =
            unsafe { wdk_sys::ntddk::ExCreateCallback(&raw mut object, &raw mut attributes, 0, 1) };
        NtStatus::from_i32(status).ok()?;
        // SAFETY: the object is open, and the function is static and takes no context.
        let handle = unsafe {
            wdk_sys::ntddk::ExRegisterCallback(object, Some(changed::<L>), ptr::null_mut())
        };
        let Some(handle) = NonNull::new(handle) else {
            dereference(object);
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        };
        Ok(Self { object, handle })
    }

    /// `ExUnregisterCallback`, which waits for a running function of the listener: never call it from there.
    pub fn end(self, _passive: Passive) {
        // SAFETY: the handle is of a registration that is not used again, and the token says
        // PASSIVE_LEVEL.
        unsafe { wdk_sys::ntddk::ExUnregisterCallback(self.handle.as_ptr()) };
        dereference(self.object);
    }
}

fn dereference(object: PCALLBACK_OBJECT) {
    // SAFETY: `ExCreateCallback` has given a reference, which is not used again.
    let _ = unsafe { wdk_sys::ntddk::ObfDereferenceObject(object.cast()) };
}

/// `CALLBACK_FUNCTION` of every listener.
///
/// # Safety
/// Called by the system.
unsafe extern "C" fn changed<L: Listener>(
    _context: *mut c_void,
    what: *mut c_void,
    value: *mut c_void,
) {
    /// `PO_CB_SYSTEM_STATE_LOCK`: the second argument is 0 before sleep, and 1 after it.
    const SYSTEM_STATE_LOCK: usize = 3;

    if what.addr() != SYSTEM_STATE_LOCK {
        return;
    }
    let passive = Passive::check();
    if value.is_null() {
        L::before_sleep(passive);
    } else {
        L::after_resume(passive);
    }
}
