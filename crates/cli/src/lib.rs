//! Portcullis's user program as a library: captures, the driver's control device, replays and reports.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod ask;
pub mod capture;
pub mod commands;
pub mod control;
pub mod live;
pub mod replay;
pub mod report;
pub mod simulation;
