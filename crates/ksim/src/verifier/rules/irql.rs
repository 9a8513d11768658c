//! At which IRQL what may be done.

use super::{Area, rules};

rules! {
    Area::Irql;

    /// A function was called at an IRQL that its page excludes.
    IRQL_RANGE = Error, "irql-range", "a function is called only at the IRQLs its page allows", "DDI pages, Requirements: IRQL";
    /// A callback came back at another IRQL.
    IRQL_RESTORED = Fatal, "irql-restored", "a callback returns at the IRQL at which it was called", "bug check 0xC9; Driver Verifier: Force IRQL Checking";
}
