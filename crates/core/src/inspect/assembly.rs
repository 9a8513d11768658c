//! Memory for the QUIC connections whose host name is sought.

use super::quic::{self, Assembly};
use super::{HostName, Outcome};
use crate::free_list::{FreeList, Link, Linked};
use lock_api::{Mutex, RawMutex};
use portcullis_proto::event::HostSource;

/// How far the search for a QUIC connection's host name has come in a flow of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quic {
    /// The initiator has sent nothing yet.
    Unseen,
    /// In the assembly of this index.
    Seeking(u32),
}

/// Storage for one connection.
pub struct AssemblySlot<R> {
    assembly: Mutex<R, Assembly>,
    link: Link,
}

impl<R: RawMutex> AssemblySlot<R> {
    /// A free slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            assembly: Mutex::new(Assembly::new()),
            link: Link::new(),
        }
    }
}

impl<R: RawMutex> Default for AssemblySlot<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> Linked for AssemblySlot<R> {
    fn link(&self) -> &Link {
        &self.link
    }
}

/// A fixed number of assemblies, over storage of the caller's.
///
/// A flow has one from its first QUIC datagram until its host name is known, or known to be none.
pub struct AssemblyPool<R, A> {
    free: FreeList<R>,
    slots: A,
}

/// Every assembly is taken: the datagram can't be looked at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

impl<R: RawMutex, A: AsRef<[AssemblySlot<R>]>> AssemblyPool<R, A> {
    /// A pool of free slots.
    pub fn new(slots: A) -> Self {
        Self {
            free: FreeList::new(slots.as_ref()),
            slots,
        }
    }

    /// Connections whose host name is sought now.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.free.used()
    }

    /// Whether no connection's host name is sought.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The initiator of a flow sent a datagram of `length` bytes, in these pieces. With [`Outcome::Host`] the name is
    /// in `name`, and `has_encrypted` says whether an encrypted `ClientHello` was seen besides. When something is known the flow has no assembly any more.
    ///
    /// # Errors
    /// [`NoRoom`]: nothing has changed.
    pub(crate) fn push<'d>(
        &self,
        state: &mut Quic,
        length: u64,
        pieces: impl IntoIterator<Item = &'d [u8]>,
        name: &mut HostName,
        has_encrypted: &mut bool,
    ) -> Result<Outcome, NoRoom> {
        let slots = self.slots.as_ref();
        let mut pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        let (first, index) = match *state {
            Quic::Seeking(index) => (pieces.next().unwrap_or_default(), index),
            Quic::Unseen => {
                let first = pieces.next().unwrap_or_default();
                if first.len() >= quic::PREFIX && !quic::is_quic(first) {
                    return Ok(Outcome::None(HostSource::NotRecognized));
                }
                (first, self.free.take(slots).ok_or(NoRoom)?)
            }
        };
        let Some(slot) = slots.get(index as usize) else {
            return Ok(Outcome::None(HostSource::NotRecognized));
        };
        let mut assembly = slot.assembly.lock();
        if *state == Quic::Unseen {
            assembly.reset();
            *state = Quic::Seeking(index);
        }
        let outcome = assembly.push(length, core::iter::once(first).chain(pieces));
        if let Outcome::Host(_) = outcome {
            *name = *assembly.name();
            *has_encrypted = assembly.has_encrypted_hello();
        }
        drop(assembly);
        if outcome != Outcome::NeedMore {
            self.release(state);
        }
        Ok(outcome)
    }

    /// The flow's host name is no longer sought.
    pub(crate) fn release(&self, state: &mut Quic) {
        if let Quic::Seeking(index) = *state {
            *state = Quic::Unseen;
            self.free.give(self.slots.as_ref(), index);
        }
    }
}
