//! Injection handles.

use parking_lot::Mutex;
use wfp_engine::{InjectionHandle, InjectionHandles};
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

/// Injection in one machine.
#[derive(Debug, Default)]
pub(in crate::fwp) struct State {
    pub(super) handles: InjectionHandles,
    pub(super) marks: Mutex<Marks>,
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
        let family = match family {
            AF_UNSPEC => None,
            AF_INET => Some(IpVersion::V4),
            AF_INET6 => Some(IpVersion::V6),
            _ => return NtStatus::INVALID_PARAMETER.to_i32(),
        };
        let made = match InjectionHandle::new(InjectionType::from_bits(flags), family) {
            Ok(made) => made,
            Err(status) => return status.to_i32(),
        };
    }
    then {
        let number = call.machine().ndis.new_handle();
        call.machine().fwp.injection.handles.insert(number as u64, made);
        call.machine().verifier().track(&call, HANDLE, number, made.types.to_string(), 0);
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
        let handles = &call.machine().fwp.injection.handles;
        let number = handle as u64;
        if let Err(status) = handles.close(number) {
            return status.to_i32();
        }
        call.machine().wait(call.cpu(), "FwpsInjectionHandleDestroy0", None, || handles.is_idle(number));
        handles.remove(number);
        SUCCESS
    }
}
