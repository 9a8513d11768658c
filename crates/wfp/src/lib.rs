//! Safe Windows Filtering Platform (WFP) for kernel drivers.
//!
//! Everything unsafe about WFP is inside; a driver that uses this crate writes
//! no `unsafe` to classify, register, add filters or walk packets. WFP's
//! contracts are types here:
//!
//! - a [`layer`] gives its fields, its data and its legal [verdicts](verdict);
//!   asking for a field that the layer lacks, or blocking where that is wrong,
//!   does not compile;
//! - a [`callout`] is a trait; one trampoline converts arguments, calls it, and
//!   writes action, rights and flags;
//! - [`registration`], [`engine`] and [`bfe`] own what they made and fail
//!   honestly; [`flow`] contexts are values, never pointers;
//! - a packet of our own ([`list`]) is injected ([`inject`]) or freed, never both and never
//!   neither;
//! - [`irql::Passive`] is the proof that waiting is allowed, [`irql::Dispatch`] that no classify
//!   runs. A function that demands no token may be called at IRQL <= `DISPATCH_LEVEL`.
//!
//! Memory is [`pool`] memory: tagged, fallible, never executable. Locks are in
//! [`sync`]; a [`swap::Swap`] is read without any.

#![no_std]
// Off Windows the kernel's half is not compiled, and the links into it lead nowhere.
#![cfg_attr(not(windows), allow(rustdoc::broken_intra_doc_links))]

#[cfg(windows)]
pub mod attachment;
#[cfg(windows)]
pub mod bfe;
#[cfg(windows)]
pub mod callout;
pub mod cell;
#[cfg(windows)]
pub mod device;
#[cfg(windows)]
pub mod engine;
#[cfg(windows)]
pub mod flow;
#[cfg(windows)]
pub mod inject;
pub mod irql;
#[cfg(windows)]
pub mod layer;
#[cfg(windows)]
pub mod list;
#[cfg(windows)]
pub mod metadata;
#[cfg(windows)]
pub mod nbl;
#[cfg(windows)]
pub mod pend;
#[cfg(windows)]
pub mod plain;
pub mod pool;
#[cfg(windows)]
pub mod power;
#[cfg(windows)]
pub mod process;
mod processor;
#[cfg(windows)]
pub mod redirect;
#[cfg(windows)]
pub mod registration;
#[cfg(any(windows, test))]
mod slots;
mod sockaddr;
#[cfg(windows)]
pub mod stream;
pub mod swap;
#[cfg(windows)]
pub mod sync;
#[cfg(windows)]
pub mod time;
pub mod token;
#[cfg(windows)]
pub mod values;
pub mod verdict;
pub mod wide;

pub use wfp_schema as schema;
pub use wfp_schema::NtStatus;

/// A result whose error is a status.
pub type Result<T = ()> = core::result::Result<T, NtStatus>;
