//! Injection handles.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectionhandlecreate0>

use crate::sync::lock;
use std::collections::HashMap;
use std::sync::Mutex;
use wfp_schema::flags::InjectionType;
use wfp_schema::{IpVersion, NtStatus};

/// What a handle is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectionHandle {
    /// What it injects into.
    pub types: InjectionType,
    /// The version of IP that it is for; `None` for any.
    pub family: Option<IpVersion>,
}

impl InjectionHandle {
    /// A handle for `types`, none of which means transport, stream and forward.
    ///
    /// # Errors
    /// `INVALID_PARAMETER` for an unknown type, and for the network without a version of IP.
    pub fn new(types: InjectionType, family: Option<IpVersion>) -> Result<Self, NtStatus> {
        if !types.unknown().is_empty() {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        if family.is_none() && types.intersects(InjectionType::NETWORK) {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let types = if types.is_empty() {
            InjectionType::TRANSPORT | InjectionType::STREAM | InjectionType::FORWARD
        } else {
            types
        };
        Ok(Self { types, family })
    }
}

#[derive(Debug)]
struct Entry {
    handle: InjectionHandle,
    closing: bool,
    pending: usize,
}

/// The handles of a system, by numbers that its host gives them.
#[derive(Debug, Default)]
pub struct InjectionHandles(Mutex<HashMap<u64, Entry>>);

impl InjectionHandles {
    /// Makes a handle known.
    pub fn insert(&self, number: u64, handle: InjectionHandle) {
        let entry = Entry {
            handle,
            closing: false,
            pending: 0,
        };
        lock(&self.0).insert(number, entry);
    }

    /// Begins as many injections as there are `completions`; see [`InjectionCall::begin`](super::InjectionCall).
    pub(super) fn begin(
        &self,
        number: u64,
        types: InjectionType,
        completions: usize,
    ) -> Result<Option<IpVersion>, NtStatus> {
        let mut handles = lock(&self.0);
        let entry = handles.get_mut(&number).ok_or(NtStatus::INVALID_HANDLE)?;
        if entry.closing {
            return Err(NtStatus::FWP_INJECT_HANDLE_CLOSING);
        }
        if !entry.handle.types.intersects(types) {
            return Err(NtStatus::FWP_INJECT_HANDLE_STALE);
        }
        entry.pending += completions;
        Ok(entry.handle.family)
    }

    /// A completion has returned, or one is not going to be called after all.
    pub fn complete(&self, number: u64) {
        if let Some(entry) = lock(&self.0).get_mut(&number) {
            entry.pending = entry.pending.saturating_sub(1);
        }
    }

    /// The handle is being destroyed: nothing more is injected with it.
    ///
    /// # Errors
    /// `INVALID_HANDLE`.
    pub fn close(&self, number: u64) -> Result<(), NtStatus> {
        let mut handles = lock(&self.0);
        let entry = handles.get_mut(&number).ok_or(NtStatus::INVALID_HANDLE)?;
        entry.closing = true;
        Ok(())
    }

    /// Whether all injections with the handle are completed.
    #[must_use]
    pub fn is_idle(&self, number: u64) -> bool {
        lock(&self.0)
            .get(&number)
            .is_none_or(|entry| entry.pending == 0)
    }

    /// Forgets a handle that is closed and idle. Whether it was: until then `FwpsInjectionHandleDestroy0` waits.
    pub fn remove(&self, number: u64) -> bool {
        let mut handles = lock(&self.0);
        let gone = handles
            .get(&number)
            .is_some_and(|entry| entry.closing && entry.pending == 0);
        if gone {
            handles.remove(&number);
        }
        gone
    }
}
