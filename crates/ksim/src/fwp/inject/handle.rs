//! Injection handles.

use std::collections::HashMap;

use parking_lot::Mutex;
use wfp_schema::flags::InjectionType;
use wfp_schema::{IpVersion, NtStatus};

use super::mark::Marks;
use crate::access::Out;
use crate::cpu::PASSIVE;
use crate::export::exports;
use crate::fwp::layout::request::{AF_INET, AF_INET6};

/// How the verifier calls it.
const HANDLE: &str = "injection handle";

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();

/// `AF_UNSPEC`.
const AF_UNSPEC: u16 = 0;

/// What `FwpsInjectionHandleCreate0` made.
#[derive(Debug)]
struct Handle {
    types: InjectionType,
    family: Option<IpVersion>,
    closing: bool,
    pending: usize,
}

/// Injection in one machine.
#[derive(Debug, Default)]
pub(in crate::fwp) struct State {
    handles: Mutex<HashMap<usize, Handle>>,
    pub(super) marks: Mutex<Marks>,
}

impl State {
    /// Begins an injection of `lists` lists with `handle`, which must be of one of `types`. The version of IP that
    /// the handle is for, if it is for one.
    ///
    /// # Errors
    /// `INVALID_HANDLE`, `FWP_INJECT_HANDLE_CLOSING`, and `FWP_INJECT_HANDLE_STALE` for one of another type.
    pub(super) fn begin(
        &self,
        handle: usize,
        types: InjectionType,
        lists: usize,
    ) -> Result<Option<IpVersion>, NtStatus> {
        let mut handles = self.handles.lock();
        let known = handles.get_mut(&handle).ok_or(NtStatus::INVALID_HANDLE)?;
        if known.closing {
            return Err(NtStatus::FWP_INJECT_HANDLE_CLOSING);
        }
        if !known.types.intersects(types) {
            return Err(NtStatus::FWP_INJECT_HANDLE_STALE);
        }
        known.pending += lists;
        let family = known.family;
        drop(handles);
        Ok(family)
    }

    /// `lists` of those are completed, or were not injected after all.
    pub(super) fn end(&self, handle: usize, lists: usize) {
        if let Some(known) = self.handles.lock().get_mut(&handle) {
            known.pending -= lists;
        }
    }

    fn is_idle(&self, handle: usize) -> bool {
        self.handles
            .lock()
            .get(&handle)
            .is_none_or(|known| known.pending == 0)
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectionhandlecreate0>
    fn FwpsInjectionHandleCreate0(call, family: u16, flags: u32, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NtStatus::FWP_TCPIP_NOT_READY.to_i32();
    {
        if handle.is_null() {
            return NtStatus::FWP_NULL_POINTER.to_i32();
        }
        let asked = InjectionType::from_bits(flags);
        if !asked.unknown().is_empty() || ![AF_UNSPEC, AF_INET, AF_INET6].contains(&family) {
            return NtStatus::INVALID_PARAMETER.to_i32();
        }
        if family == AF_UNSPEC && asked.intersects(InjectionType::NETWORK) {
            return NtStatus::INVALID_PARAMETER.to_i32();
        }
        let types = if asked.is_empty() {
            InjectionType::TRANSPORT | InjectionType::STREAM | InjectionType::FORWARD
        } else {
            asked
        };
        let family = match family {
            AF_INET => Some(IpVersion::V4),
            AF_INET6 => Some(IpVersion::V6),
            _ => None,
        };
        let number = call.machine().ndis.new_handle();
        let made = Handle { types, family, closing: false, pending: 0 };
        call.machine().fwp.injection.handles.lock().insert(number, made);
        call.machine().verifier().track(&call, HANDLE, number, types.to_string(), 0);
        handle.set(number);
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectionhandledestroy0>
    fn FwpsInjectionHandleDestroy0(call, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        if !call.machine().verifier().untrack(&call, HANDLE, handle) {
            return NtStatus::INVALID_HANDLE.to_i32();
        }
        let state = &call.machine().fwp.injection;
        if let Some(known) = state.handles.lock().get_mut(&handle) {
            known.closing = true;
        }
        call.machine().wait(call.cpu(), "FwpsInjectionHandleDestroy0", None, || state.is_idle(handle));
        state.handles.lock().remove(&handle);
        SUCCESS
    }
}
