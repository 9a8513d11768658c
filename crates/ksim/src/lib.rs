//! A simulated Windows kernel that runs real WFP drivers.
//!
//! A driver's PE image is mapped into this process, its imports are bound to Rust functions
//! (`extern "win64"`), and it is driven with I/O requests and network traffic. Nothing here knows any
//! particular driver.
//!
//! ```text
//! Kernel ── processors (cpu)  an IRQL and a KPCR each
//!   ├─ sched                 threads on them, and who goes on: freely, by a seed, by a trace
//!   ├─ loader, thunks, trap   the image, its imports, and what happens when it faults
//!   ├─ nt                     ntoskrnl and HAL: pool, locks, events, time, I/O manager
//!   ├─ kmdf                   the Kernel-Mode Driver Framework
//!   ├─ ndis, fwp              net buffers and the WFP ABI over wfp-engine
//!   ├─ net                    a host's network stack: packets in, layer indications out
//!   └─ verifier               what Driver Verifier and the DDI ask of a driver
//! ```
//!
//! Rules of this crate:
//! - Everything belongs to a [`Kernel`]; several kernels run side by side in one process.
//! - No lock of ours is held across a call into the driver.
//! - Time is virtual: it moves only when somebody says so or waits.
//! - A trap in the driver freezes its kernel and is reported as a [`Bugcheck`]; nothing unwinds through
//!   driver frames.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod access;
pub mod coverage;
pub mod cpu;
pub mod driver;
pub mod export;
pub mod fwp;
pub mod kernel;
pub mod kmdf;
pub mod loader;
pub mod ndis;
pub mod net;
pub mod nt;
pub mod sched;
pub mod symbols;
pub mod thunks;
pub mod time;
mod trap;
pub mod verifier;

pub use cpu::Cpu;
pub use driver::Driver;
pub use kernel::{Bugcheck, Config, Kernel};
pub use loader::{LoadError, LoadOptions};
pub use nt::io_security::{Account, Caller};
pub use nt::io_user::{FileHandle, IoResult, OpenError, PendingIo, UserMemory};
pub use nt::pool::PoolMode;
pub use nt::power::SystemState;
pub use nt::process_notify::NewProcess;
pub use nt::session::SessionEvent;
pub use sched::Schedule;
pub use verifier::{Leak, Report, Violation};
