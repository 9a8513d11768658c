//! What crosses the boundary between Portcullis's driver and user mode.
//!
//! Everything here is plain data of a fixed layout: little-endian, packed (alignment 1), without pointers. The driver
//! and the programs that talk to it are built from this one description:
//!
//! - [`device`]: the control device's names, who may open it, and its I/O control codes;
//! - [`message`]: requests and replies, and how their versions are checked;
//! - [`redirect`]: how proxies register, and what they are told;
//! - [`effect`]: what rules do besides deciding;
//! - [`ask`]: questions and answers;
//! - [`status`], [`counter`], [`event`], [`capture`], [`filter`]: what the replies hold;
//! - [`policy`]: the compiled policy, which user mode makes and the driver validates and reads in place.
//!
//! Integers are little-endian; IP addresses and SIDs are bytes in network order and in Windows's own layout.
#![no_std]
#![forbid(unsafe_code)]

pub mod ask;
pub mod callout;
pub mod capture;
pub mod counter;
pub mod device;
pub mod effect;
pub mod event;
pub mod filter;
pub mod message;
pub mod policy;
pub mod redirect;
pub mod status;
mod wire;

pub use callout::{CALLOUTS, CalloutInfo, CalloutKind, Family};
pub use counter::Counter;
pub use effect::{EffectKind, EffectSet};
pub use event::{EventKind, EventRecord};
pub use status::{DriverState, LifecycleStep};

/// What a decision lets happen to a connection, a flow or a datagram.
pub use policy::Action;
