//! Pool memory.

use super::{Area, rules};

rules! {
    Area::Pool;

    /// A block was freed that is not allocated.
    POOL_DOUBLE_FREE = Fatal, "pool-double-free", "pool is freed once, by the address that was allocated", "bug check 0xC2 BAD_POOL_CALLER";
    /// A block was freed with another tag.
    POOL_TAG = Error, "pool-tag", "pool is freed with the tag it was allocated with", "ExFreePoolWithTag";
    /// Bytes behind an allocated block were touched.
    POOL_OVERRUN = Fatal, "pool-overrun", "a driver touches nothing behind its allocations", "Driver Verifier: Special Pool; bug check 0xCD";
    /// Bytes before an allocated block were touched.
    POOL_UNDERRUN = Fatal, "pool-underrun", "a driver touches nothing before its allocations", "Driver Verifier: Special Pool (Verify Start); bug check 0xCD";
    /// Paged pool was touched where no page fault can be served.
    POOL_PAGED_ACCESS = Fatal, "pool-paged-access", "paged pool is touched below DISPATCH_LEVEL only", "bug check 0xD1 DRIVER_IRQL_NOT_LESS_OR_EQUAL";
    /// Bytes of a freed block changed.
    POOL_USE_AFTER_FREE = Fatal, "pool-use-after-free", "a driver does not touch pool that it has freed", "Driver Verifier: Special Pool";
    /// Pool that a driver may execute.
    POOL_EXECUTABLE = Error, "pool-executable", "pool is allocated non-executable", "bug check 0xC4 subcode 0x2000";
    /// A request for no bytes.
    POOL_SIZE = Error, "pool-size", "at least one byte of pool is asked for", "ExAllocatePool2; bug check 0xC4 subcode 0x0";
    /// A request without a tag.
    POOL_NO_TAG = Error, "pool-no-tag", "pool has a tag", "ExAllocatePool2; bug check 0xC2 subcode 0x9B";
    /// Flags that name no pool.
    POOL_FLAGS = Error, "pool-flags", "POOL_FLAGS name one pool and nothing unknown", "POOL_FLAGS";
}
