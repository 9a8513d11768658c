//! A WFP callout driver that does what a conformance test tells it, and remembers what it saw.
//!
//! It is an interpreter of [`conformance_messages`]: a request is one call of WFP's interface, a callout plays a
//! script. Since tests also ask for what a driver must not do, calls are made as they come, on `wfp-sys`; nothing
//! here knows what their outcome should be.
//!
//! ```text
//! device     the control device: a request is a message, a reply is what the call returned
//! objects    sessions, transactions, objects of the filter engine
//! callouts   registration; what classifyFn, notifyFn and flowDeleteFn do
//! script     what a callout is told to do, and the calls that it makes within a classify
//! packets    packets that are cloned, made, injected and given back
//! traffic    flows, handles, what is pended, the base filtering engine
//! records    what was seen
//! slots      tables of what the test names by number
//! ```

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

mod callouts;
mod device;
mod objects;
mod packets;
mod records;
mod script;
mod slots;
mod traffic;

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use kmdf::Driver;
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, WDFDRIVER};
use wfp::{NtStatus, irql::Passive};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

/// Starts the driver.
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
        .and_then(|driver| device::create(driver, passive));
    started.err().unwrap_or(NtStatus::SUCCESS).to_i32()
}

/// Stops the driver: whatever the test has left is undone, in the order that WFP asks for.
///
/// # Safety
/// Called by the framework, once, if `driver_entry` has succeeded.
unsafe extern "C" fn unload(_driver: WDFDRIVER) {
    // SAFETY: `EvtDriverUnload` is called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    objects::close_all();
    traffic::finish_all();
    callouts::unregister_all();
    packets::free_all();
    traffic::destroy_all();
    device::delete(passive);
}
