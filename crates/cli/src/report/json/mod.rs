//! Reports for programs. docs/json.md says what they have in them.
//!
//! ```text
//! driver     the driver's callouts and counters
//! replay     what a replay showed
//! verifier   what the verifier found
//! error      that there is no report, and why
//! ```

mod driver;
mod error;
#[cfg(target_os = "linux")]
mod replay;
#[cfg(target_os = "linux")]
mod verifier;

pub use driver::{CalloutEntry, Counters};
pub use error::ErrorReport;
#[cfg(target_os = "linux")]
pub use replay::{LocalEntry, ReplayReport, local_side};
#[cfg(target_os = "linux")]
pub use verifier::VerifierEntry;
