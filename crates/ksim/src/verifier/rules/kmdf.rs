//! The Kernel-Mode Driver Framework.

use super::{Area, rules};

rules! {
    Area::Kmdf;

    /// A request was completed twice, or never.
    REQUEST_COMPLETION = Fatal, "request-completion", "a request is completed exactly once", "WdfRequestComplete";
    /// A driver used a request that waits on a queue, or handed on one that it may not.
    REQUEST_OWNERSHIP = Fatal, "request-ownership", "a driver uses and hands on only the requests that it owns", "Request Ownership (WDF); bug check 0x10D subcode 6";
    /// A cancelable request was completed, forwarded or marked again.
    REQUEST_CANCELABLE = Error, "request-cancelable", "a request is unmarked before it is completed or handed on", "WdfRequestUnmarkCancelable";
    /// A request was in the driver's hands when it went away.
    REQUEST_LEFT = Error, "request-left", "every request is completed before the driver unloads", "WdfRequestComplete; Driver Verifier: KMDF Verification";
    /// A handle of one kind was passed where another is wanted.
    HANDLE_TYPE = Fatal, "handle-type", "a function gets handles of the types that its page names", "bug check 0x10D subcode 5 (WDF_INVALID_HANDLE)";
    /// A callback waits for itself.
    WAIT_IN_CALLBACK = Error, "wait-in-callback", "a callback does not wait for the object whose callback it is", "WdfIoQueueStopSynchronously; WdfTimerStop; WdfDpcCancel; WdfWorkItemFlush";
}
