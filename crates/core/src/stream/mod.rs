//! Changing the data of streams, and holding it until it is decided.
//!
//! An [`Editor`] reads one direction of a stream in order and says, step by step, what becomes of it: keep these bytes,
//! replace those, or wait for more. It waits for at most [`WINDOW`] bytes. The same editor serves both ways of changing a
//! stream:
//!
//! - *inline*, in the classify ([`inline`]): what is before a change is permitted, the changed bytes are blocked and the new
//!   ones injected in their place;
//! - *out of band* ([`Courses`]): from the first byte that has to wait on, everything is taken out of the stream, and a
//!   thread puts it back in order, changed or not. A direction that has gone out of band stays there until its end: WFP
//!   does not let data overtake what waits.
//!
//! Nothing here knows of WFP: payloads are a type parameter, and what is to be injected goes to an [`Outlet`].

mod courses;
mod editor;
mod header;
mod inline;
mod lane;
mod outlet;
mod replace;
mod window;
mod worker;

pub use courses::{CourseHandle, CourseSlot, Courses};
pub use editor::{Editor, Edits, Stuck};
pub use inline::{Inline, inline};
pub use lane::{Piece, PieceSlot, Push};
pub use outlet::{Course, Outlet, Reach};
pub use window::{Insert, WINDOW};

use portcullis_proto::effect::{EffectKind, EffectSet};

/// The kinds of effects that streams are treated for.
pub const STREAM_EFFECTS: EffectSet = Edits::KINDS.with(EffectKind::OutOfBand);
