//! What ends the machine.

use super::{Area, rules};

rules! {
    Area::Stop;

    /// Rust code of the driver panicked.
    STOP_PANIC = Fatal, "stop-panic", "a driver's Rust code never panics", "wdk-panic: bug check 0x52504E43 (RPNC)";
    /// The driver stopped the machine itself.
    STOP_BUGCHECK = Fatal, "stop-bugcheck", "a driver never calls KeBugCheckEx", "KeBugCheckEx";
    /// The driver's code trapped.
    STOP_TRAP = Fatal, "stop-trap", "a driver raises no exception that nobody handles", "bug checks 0x1E, 0x50, 0x7E, 0xD1";
    /// The driver used its stack up.
    STOP_STACK = Fatal, "stop-stack", "a driver keeps within its kernel stack", "bug check 0x7F parameter 8; Using the Kernel Stack";
    /// A function that is not simulated was called.
    STOP_UNSIMULATED = Fatal, "stop-unsimulated", "a driver calls only functions that this kernel simulates", "docs: an unsimulated import";
    /// Driver code went on without a call while everybody waited for it.
    STOP_SPIN = Fatal, "stop-spin", "driver code does not wait by spinning on memory without a call: under a controlled schedule nobody else runs meanwhile", "bug check 0x133 DPC_WATCHDOG_VIOLATION; KeStallExecutionProcessor, Remarks";
    /// Nothing can end a wait.
    STOP_HANG = Fatal, "stop-hang", "every wait ends", "bug check 0x9F DRIVER_POWER_STATE_FAILURE; Driver Verifier: Deadlock Detection";
}
