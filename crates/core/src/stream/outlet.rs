//! What the worker is given, and what it does with pieces.

use super::courses::CourseHandle;
use super::editor::{Editor, Stuck};
use super::lane::Piece;
use crate::flow::{FlowHandle, Transfer};

/// One direction of a stream, as the worker knows it. `A` is where data is put back.
#[derive(Clone, Copy, Debug)]
pub struct Course<A> {
    /// The stream.
    pub handle: CourseHandle,
    /// Its flow.
    pub flow: FlowHandle,
    /// Which way.
    pub transfer: Transfer,
    /// Where its data is put back.
    pub at: A,
}

/// How far back what may follow a piece still matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The last bytes up to the piece's end, this many; 0: nothing has to wait.
    Bytes(u64),
    /// All that waits, until the host's name is known.
    Host,
    /// The connection is to be dropped.
    Drop,
}

/// What the worker does with pieces. No lock is held during its calls.
pub trait Outlet<P, A> {
    /// Looks at a piece.
    fn inspect(&mut self, course: &Course<A>, piece: &Piece<P>) -> Reach;

    /// Puts a piece back into the stream, edited; without one, what waits in the editor. `last`: nothing that follows
    /// is to be waited for.
    ///
    /// # Errors
    /// [`Stuck`]: something did not go on.
    fn send(
        &mut self,
        course: &Course<A>,
        editor: &mut Editor,
        piece: Option<Piece<P>>,
        last: bool,
    ) -> Result<(), Stuck>;

    /// Ends the direction; `flags` are those of the piece with its end.
    ///
    /// # Errors
    /// [`Stuck`]: it did not end.
    fn end(&mut self, course: &Course<A>, flags: u32) -> Result<(), Stuck>;

    /// Asks for what was deferred with these flags.
    fn resume(&mut self, course: &Course<A>, flags: u32);

    /// Drops the connection.
    fn abort(&mut self, course: &Course<A>);
}
