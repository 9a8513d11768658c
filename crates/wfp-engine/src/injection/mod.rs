//! The rules of injection: which handle injects what, what a call must give, who holds a list meanwhile, and how
//! many completions follow.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/network/packet-injection-functions>

mod call;
mod handles;
mod holder;
mod target;

pub use call::{Begun, InjectionCall, ListShape, Refusal};
pub use handles::{InjectionHandle, InjectionHandles};
pub use holder::{Holder, Returned, clone_of_indicated};
pub use target::{InjectionPoint, InjectionTarget};
