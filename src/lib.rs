//! Portcullis, the driver: a thin kernel shell around `portcullis-core`.
//!
//! Nothing here decides about traffic. The rules of this crate:
//!
//! 1. `lifecycle` has the one list of what starting does and how it is undone. A module offers
//!    a start and a stop for its row, and keeps what it made in a `static` of its own: a
//!    [`KernelCell`](wfp::cell::KernelCell), or an atomic.
//! 2. `callouts` has the one table of callouts. A file below it turns a layer's data into what
//!    the core asks for, and the core's answer into the layer's verdict.
//! 3. A classify allocates nothing, waits for nothing, and loops over nothing without a bound.
//! 4. `unsafe` is for entry points. KMDF is safe behind the crate `kmdf`, WFP behind the
//!    crate `wfp`.
//! 5. What can fail says so with a status, and leaves nothing half done.

#![no_std]
#![warn(linker_messages)]

mod ask;
mod boot;
mod callouts;
mod capture;
mod control;
mod device;
mod events;
mod flows;
mod lifecycle;
mod management;
mod packets;
mod platform;
mod policy;
mod processes;
mod readers;
mod redirect;
mod registration;
mod state;
mod streams;

// A panic halts the machine with a bug check; there is nothing sensible to go on with.
extern crate wdk_panic;

use kmdf::Driver;
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, WDFDRIVER};
use wfp::{NtStatus, irql::Passive};

/// Only for dependencies that might allocate: the driver itself takes tagged memory from
/// [`wfp::pool`], whose failures it can handle.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

/// Starts the driver. When it fails, nothing of it is left, and the status says why.
///
/// # Safety
/// Called by the operating system, once, with the driver's object and its key in the registry.
#[unsafe(export_name = "DriverEntry")]
pub unsafe extern "system" fn driver_entry(
    driver: &mut DRIVER_OBJECT,
    registry_path: PCUNICODE_STRING,
) -> NTSTATUS {
    // SAFETY: `DriverEntry` is called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    // SAFETY: these are the arguments of `DriverEntry`.
    let started = unsafe { Driver::create(driver, registry_path, Some(unload)) }
        .and_then(|driver| lifecycle::start(driver, passive));
    started.err().unwrap_or(NtStatus::SUCCESS).to_i32()
}

/// Stops the driver. When it returns, the code may go.
///
/// # Safety
/// Called by the framework, once, if `driver_entry` has succeeded.
unsafe extern "C" fn unload(_driver: WDFDRIVER) {
    // SAFETY: `EvtDriverUnload` is called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    lifecycle::stop(passive);
}
