//! What is made, used and given back; and the arguments of calls.

use super::{Area, rules};

rules! {
    Area::Object;

    /// Something of the driver's is left after it was unloaded.
    UNLOAD_LEFT = Fatal, "unload-left", "a driver gives everything back before its unload routine returns", "bug check 0xC4 subcode 0x62; DRIVER_UNLOAD";
    /// A callback of the driver's had not returned when the driver was unloaded.
    UNLOAD_RUNNING = Fatal, "unload-running", "every callback, thread and deferred routine of a driver has returned before its unload routine does", "bug check 0xCE; DRIVER_UNLOAD";
    /// A filter of the driver's asks its callout after the unload.
    UNLOAD_FILTER = Warning, "unload-filter", "a driver deletes its filters before it is unloaded: one whose callout is not registered blocks", "FwpsCalloutUnregisterById0; FWPM_FILTER0";
    /// Code or data of a driver was used after it was unloaded.
    UNLOAD_CODE = Fatal, "unload-code", "nothing runs or reads a driver that is unloaded", "bug check 0xCE";
    /// A handle or object was used that does not exist (any more).
    OBJECT_STALE = Fatal, "object-stale", "a handle is used only between its creation and its deletion", "Driver Verifier: Miscellaneous Checks";
    /// A callback used much of the stack.
    KERNEL_STACK = Warning, "kernel-stack", "a callback uses no more than 12 KB of the 24 KB kernel stack", "Using the Kernel Stack";
    /// An argument that the function's page excludes.
    ARGUMENT = Error, "argument", "arguments are as the function's page asks", "DDI pages, Parameters";
}
