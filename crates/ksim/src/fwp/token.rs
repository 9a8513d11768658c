//! Tokens of the owners of endpoints.

use wfp_schema::NtStatus;

use super::scratch::TOKEN;
use super::session::session;
use crate::access::Out;
use crate::cpu::PASSIVE;
use crate::export::exports;
use crate::nt::system::HANDLE;

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsopentoken0>
    ///
    /// `modified` is the LUID that a classify's metadata calls `token`, passed by value.
    fn FwpsOpenToken0(call, engine: usize, modified: u64, access: u32, token: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.to_i32() => later;
    {
        if token.is_null() {
            return NtStatus::FWP_NULL_POINTER.to_i32();
        }
        if let Err(status) = session(&call, engine) {
            return status.to_i32();
        }
        if modified != TOKEN {
            return NtStatus::NOT_FOUND.to_i32();
        }
        // What is done with it needs functions of the security reference monitor; it is closed as any handle.
        let handle = call.machine().ndis.new_handle();
        call.machine().verifier().track(&call, HANDLE, handle, "token", 0);
        token.set(handle);
        NtStatus::SUCCESS.to_i32()
    }
}
