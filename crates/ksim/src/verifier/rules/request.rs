//! I/O requests of drivers without a framework.

use super::{Area, rules};

rules! {
    Area::Request;

    /// A dispatch routine's status and its IRP's mark disagree.
    IRP_PENDING = Fatal, "irp-pending", "a dispatch routine returns STATUS_PENDING exactly if it has marked the IRP pending", "IoMarkIrpPending; bug check 0xC9";
    /// An IRP's final status or its length is not what it should be.
    IRP_STATUS = Error, "irp-status", "an IRP is completed with a final status, which the dispatch routine returns, and with no more bytes than the caller's buffer has", "DRIVER_DISPATCH; IO_STATUS_BLOCK; bug check 0xC9";
    /// An IRP was read or written after it was completed.
    IRP_TOUCHED = Fatal, "irp-touched", "an IRP is not touched after it was completed", "IoCompleteRequest; Driver Verifier: I/O Verification";
    /// An IRP was completed while it could be cancelled, or a cancel routine kept the cancel spin lock.
    IRP_CANCEL = Fatal, "irp-cancel", "an IRP has no cancel routine when it is completed, and a cancel routine releases the cancel spin lock", "IoSetCancelRoutine; DRIVER_CANCEL; bug check 0x48";
}
