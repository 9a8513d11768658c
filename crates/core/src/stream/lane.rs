//! One direction of a stream that goes out of band: what waits in it.

use crate::free_list::{Link, Linked};
use lock_api::{Mutex, RawMutex};

/// Bytes of received data that wait; more are not taken before there are fewer than [`LOW`].
pub(super) const HIGH: u64 = 256 << 10;
pub(super) const LOW: u64 = 64 << 10;
/// For how long data waits for what may follow it, in units of 100 ns: half a second. A literal that is sent in two
/// parts with more time between them is not found.
pub(super) const HOLD: u64 = 5_000_000;
/// For how long data waits for a host's name: ten seconds.
pub(super) const HOST_HOLD: u64 = 20 * HOLD;

/// Data that was taken out of a stream, or the end of its direction.
#[derive(Debug)]
pub struct Piece<P> {
    /// The data.
    pub data: P,
    /// Bytes.
    pub length: u64,
    /// Bytes at its front that have been inspected in a classify.
    pub seen: u64,
    /// What kind of data it is, for who puts it back.
    pub flags: u32,
    /// The direction ends behind it.
    pub is_end: bool,
    /// It is urgent, and not changed.
    pub is_urgent: bool,
}

/// What became of a piece that was to wait.
#[derive(Debug)]
pub enum Push<P> {
    /// It waits; the worker has to be woken. Whether it is the first of its direction.
    Taken(bool),
    /// Too much waits: ask for it again later (`DEFER`).
    Defer(Piece<P>),
    /// Nothing more can wait, and it can't be asked for again: the connection can't go on.
    Full(Piece<P>),
    /// Nothing is to be taken any more, and nothing waits: it may go on as it is.
    Pass(Piece<P>),
}

/// Storage for one piece.
pub struct PieceSlot<R, P> {
    pub(super) entry: Mutex<R, Entry<P>>,
    link: Link,
}

pub(super) struct Entry<P> {
    pub(super) piece: Option<Piece<P>>,
    /// Bytes of the direction up to its end.
    pub(super) end: u64,
    /// Index plus one of what follows, 0 for none.
    pub(super) next: u32,
}

impl<R: RawMutex, P> PieceSlot<R, P> {
    /// A free slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entry: Mutex::new(Entry {
                piece: None,
                end: 0,
                next: 0,
            }),
            link: Link::new(),
        }
    }
}

impl<R: RawMutex, P> Default for PieceSlot<R, P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R, P> Linked for PieceSlot<R, P> {
    fn link(&self) -> &Link {
        &self.link
    }
}

/// A direction. Places in the list of pieces are indexes plus one, 0 for none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lane {
    pub(super) is_out_of_band: bool,
    pub(super) first: u32,
    pub(super) last: u32,
    /// The first that has not been inspected.
    pub(super) next: u32,
    /// Bytes that wait.
    pub(super) bytes: u64,
    /// Bytes that have been taken so far, and up to the last piece that has been inspected.
    pub(super) taken: u64,
    pub(super) inspected: u64,
    /// Up to here nothing that follows can matter.
    pub(super) safe: u64,
    /// It is for a host's name that data waits.
    pub(super) for_host: bool,
    /// Since when something waits; 0: nothing does.
    pub(super) since: u64,
    /// The flags of what was deferred.
    pub(super) deferred: Option<u32>,
    /// What was deferred is to be indicated again.
    pub(super) resuming: bool,
    /// While it is inline: bytes at the front of what is indicated next that have been inspected.
    pub(super) ahead: u64,
    /// Injections that are not completed.
    pub(super) outstanding: u32,
}

impl Lane {
    /// Whether nothing of it is on its way.
    pub(super) const fn is_idle(&self) -> bool {
        self.first == 0 && self.outstanding == 0
    }

    /// Until when what waits may do so.
    pub(super) const fn due(&self) -> u64 {
        self.since
            .saturating_add(if self.for_host { HOST_HOLD } else { HOLD })
    }
}
