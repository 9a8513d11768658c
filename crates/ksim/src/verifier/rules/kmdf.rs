//! The Kernel-Mode Driver Framework.

use super::{Area, rules};

rules! {
    Area::Kmdf;

    /// A request was completed twice, or never.
    REQUEST_COMPLETION = Fatal, "request-completion", "a request is completed exactly once", "WdfRequestComplete";
}
