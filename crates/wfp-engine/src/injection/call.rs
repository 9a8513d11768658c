//! One call of an injection function, as its documentation judges it.

use wfp_schema::{IpVersion, NtStatus, StreamFlags};

use super::{InjectionHandles, InjectionTarget};

/// `WFP_INVALID_OPERATION`, and its subtype for a receive injection of several net buffers.
const BUGCHECK_INVALID_OPERATION: u32 = 0x1d3;
const SEVERAL_NET_BUFFERS: u64 = 1;

/// What is known of a net buffer list of the chain that is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListShape {
    /// Its net buffers.
    pub buffers: usize,
}

/// What a call gives.
#[derive(Clone, Copy, Debug)]
pub struct InjectionCall<'a> {
    /// The injection handle.
    pub handle: u64,
    /// Where it goes.
    pub target: InjectionTarget,
    /// `flags`, which is reserved.
    pub flags: u32,
    /// Whether there is a completion function.
    pub has_completion: bool,
    /// The chain; empty if the list is NULL.
    pub lists: &'a [ListShape],
}

/// An injection that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The version of IP that the handle is for, if it is for one.
    pub family: Option<IpVersion>,
    /// How often the completion function is going to be called: once a list, each time with the same context. 0 if
    /// a direction of a stream is ended without data.
    pub completions: usize,
}

/// Why an injection does not begin: nothing is completed, and the caller keeps its lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The function returns this.
    Status(NtStatus),
    /// The system stops: the code, its first parameter, and which list of the chain was the cause.
    Bugcheck {
        /// The code.
        code: u32,
        /// The first parameter.
        subtype: u64,
        /// The list's place in the chain.
        list: usize,
    },
}

impl From<NtStatus> for Refusal {
    fn from(status: NtStatus) -> Self {
        Self::Status(status)
    }
}

impl InjectionCall<'_> {
    /// Judges what the call gives, whatever its handle.
    ///
    /// # Errors
    /// `FWP_INVALID_PARAMETER` without a direction, for the end of the other direction, or with flags; `FWP_NULL_POINTER` without a list or a
    /// completion; a bug check for a list of several net buffers on the receive path.
    pub fn check(&self) -> Result<(), Refusal> {
        if let InjectionTarget::Stream(flags) = self.target {
            let closes_other = flags.contains(StreamFlags::RECEIVE_DISCONNECT)
                && !flags.contains(StreamFlags::RECEIVE)
                || flags.contains(StreamFlags::SEND_DISCONNECT)
                    && !flags.contains(StreamFlags::SEND);
            let has_direction = flags.intersects(StreamFlags::RECEIVE | StreamFlags::SEND);
            if !has_direction || closes_other {
                return Err(NtStatus::FWP_INVALID_PARAMETER.into());
            }
        }
        let only_closes = self.lists.is_empty() && self.target.closes();
        if !only_closes && (!self.has_completion || self.lists.is_empty()) {
            return Err(NtStatus::FWP_NULL_POINTER.into());
        }
        if self.flags != 0 {
            return Err(NtStatus::FWP_INVALID_PARAMETER.into());
        }
        let several = |list: &ListShape| list.buffers > 1;
        if self.target.is_receive()
            && let Some(list) = self.lists.iter().position(several)
        {
            return Err(Refusal::Bugcheck {
                code: BUGCHECK_INVALID_OPERATION,
                subtype: SEVERAL_NET_BUFFERS,
                list,
            });
        }
        Ok(())
    }

    /// Begins the injection: until [`InjectionHandles::complete`] was called as often as there are completions,
    /// the handle can't be destroyed.
    ///
    /// # Errors
    /// As [`check`](Self::check); `INVALID_HANDLE`, `FWP_INJECT_HANDLE_CLOSING`, and `FWP_INJECT_HANDLE_STALE` for
    /// a handle of another type.
    pub fn begin(&self, handles: &InjectionHandles) -> Result<Begun, Refusal> {
        self.check()?;
        let completions = self.lists.len();
        let types = self.target.handle_types();
        let family = handles.begin(self.handle, types, completions)?;
        Ok(Begun {
            family,
            completions,
        })
    }
}
