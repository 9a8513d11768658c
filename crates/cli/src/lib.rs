//! Portcullis's user program as a library: captures, the driver's control device, replays and reports.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod ask;
pub mod capture;
pub mod commands;
pub mod control;
#[cfg(windows)]
pub mod device;
pub mod live;
pub mod proxy;
#[cfg(target_os = "linux")]
pub mod replay;
pub mod report;
#[cfg(target_os = "linux")]
pub mod simulation;
