//! The device object that ties registrations to their driver.

use core::ptr::NonNull;

use wdk_sys::DEVICE_OBJECT;

/// A device object of the driver.
///
/// WFP keeps a reference while a callout is registered with it or a subscription made with it.
#[derive(Clone, Copy, Debug)]
pub struct Device(NonNull<DEVICE_OBJECT>);

// SAFETY: the pointer is only handed to WFP, which is called from any thread.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// # Safety
    /// `object` is a device object that this driver created and does not delete before everything
    /// that was made with the result is undone.
    #[must_use]
    pub const unsafe fn new(object: NonNull<DEVICE_OBJECT>) -> Self {
        Self(object)
    }

    /// The device object, for calls that this crate doesn't offer.
    #[must_use]
    pub const fn as_ptr(self) -> *mut DEVICE_OBJECT {
        self.0.as_ptr()
    }
}
