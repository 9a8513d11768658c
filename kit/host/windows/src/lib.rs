//! The `windows` crate for the host that builds the driver.
//!
//! `wdk-build` looks the WDK's folder up in the registry through `windows`, which compiles on
//! Windows only. On a Windows host this package hands through to the real crate; elsewhere it holds
//! the few names that `wdk-build` uses and answers every look-up with "not found", which leaves the
//! `WDKContentRoot` environment variable to decide.

#[cfg(windows)]
pub use real::*;

#[cfg(not(windows))]
mod absent;
#[cfg(not(windows))]
pub use absent::*;
