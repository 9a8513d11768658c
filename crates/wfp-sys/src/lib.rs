//! Raw bindings to the kernel interface of the Windows Filtering Platform: `fwpsk.h`, `fwpmk.h`,
//! and the net buffers of `ndis.h`.
//!
//! Names, types and values are those of the WDK's headers, from which `build.rs` generates them;
//! what also belongs to `ntddk.h` is taken from [`wdk_sys`], as are the status codes. Keys (GUIDs)
//! are not bound: their values come with a library or a macro of C.
//!
//! Members of unnamed unions are reached through `__bindgen_anon_1`. Enumerations are modules of
//! constants, named by their tag: `FWP_DATA_TYPE_::FWP_UINT32`.
//!
//! The structures' layouts are asserted when this crate is compiled.

#![no_std]

mod layout;

pub use bindings::*;

#[expect(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    reason = "generated from C headers"
)]
#[allow(
    unused_imports,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "generated from C headers"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/wfp.rs"));
}
