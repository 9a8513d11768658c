//! The part of the Kernel-Mode Driver Framework (KMDF) that a driver without hardware uses: a control device,
//! its queues, requests that are completed exactly once, work items and timers.
//!
//! A handle here is valid from its creation until the device is deleted, which is the last thing that stopping
//! a driver does; the framework checks no handle, so nothing outside this crate makes one.

#![no_std]
#![cfg(windows)]

mod framework;
mod request;
mod service;

pub use framework::{ControlDevice, Driver, Queue, Timer, WorkItem};
pub use request::{File, Request};
pub use service::{Service, enter};
