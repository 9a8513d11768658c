//! What the driver captures: its records, put together to packets with what was decided about each, in a file.
//!
//! ```text
//! session   a capture of the driver's, from its start to its end
//! matching  which decision, and which discard, a packet belongs to
//! comment   what is said of a packet
//! rebuilt   packets that never existed in full, or at all
//! file      the pcapng file
//! stop      what ends it
//! ```

mod comment;
mod file;
mod matching;
mod rebuilt;
mod session;
mod stop;

pub use comment::{of as comment, place, reason};
pub use matching::{Fate, FilterName, Matched, Matcher, Subject};
pub use session::{CaptureError, CaptureOptions, Captured, Session};
pub use stop::Stop;
