//! Sessions with the filter engine and their transactions.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use wfp_engine::{Caller, Session, SessionId, TransactionWait};
use wfp_schema::NtStatus;
use wfp_schema::flags::SessionFlags;

use super::layout::management::RawSession;
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, OBJECT_STALE};

/// How the verifier calls an engine handle.
const ENGINE: &str = "filter engine handle";

const NO_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();

/// `RPC_C_AUTHN_WINNT` and `RPC_C_AUTHN_DEFAULT`.
const AUTHN_WINNT: u32 = 10;
const AUTHN_DEFAULT: u32 = u32::MAX;
/// `INFINITE`.
const INFINITE: u32 = u32::MAX;
/// `FWPM_TXN_READ_ONLY`.
const READ_ONLY: u32 = 0x1;

/// The sessions of drivers, by their engine handles.
pub(super) type State = Mutex<HashMap<usize, SessionId>>;

/// The session behind an engine handle.
///
/// # Errors
/// `INVALID_HANDLE`; `INSUFFICIENT_RESOURCES` for a call that is made to fail.
pub(super) fn session(call: &Call<'_>, engine: usize) -> Result<SessionId, NtStatus> {
    let known = call.machine().fwp.sessions.lock().get(&engine).copied();
    let Some(session) = known else {
        call.violation(
            &OBJECT_STALE,
            format!("{engine:#x} is no open engine handle"),
        );
        return Err(NtStatus::INVALID_HANDLE);
    };
    if call.fails_later() {
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    Ok(session)
}

/// A result as its status.
pub(super) fn status(result: Result<(), NtStatus>) -> i32 {
    result.err().unwrap_or(NtStatus::SUCCESS).to_i32()
}

/// What is asked for by a `FWPM_SESSION0`, which may be NULL.
fn asked(at: In<RawSession>) -> Result<Session, NtStatus> {
    let Some(raw) = at.get() else {
        return Ok(Session::default());
    };
    let flags = SessionFlags::from_bits(raw.flags);
    if !flags.unknown().is_empty() {
        return Err(NtStatus::FWP_INVALID_FLAGS);
    }
    Ok(Session {
        key: raw.key,
        dynamic: flags.contains(SessionFlags::DYNAMIC),
        transaction_wait: match raw.transaction_wait_ms {
            0 => TransactionWait::Default,
            INFINITE => TransactionWait::Infinite,
            limit => TransactionWait::Limit(Duration::from_millis(limit.into())),
        },
        caller: Caller::Kernel,
    })
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmengineopen0>
    fn FwpmEngineOpen0(
        call, server: In<u16>, authentication: u32, identity: usize, session: In<RawSession>, engine: Out<usize>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        if engine.is_null() {
            return NtStatus::FWP_NULL_POINTER.to_i32();
        }
        if !server.is_null() || ![AUTHN_WINNT, AUTHN_DEFAULT].contains(&authentication) {
            call.violation(&ARGUMENT, "serverName is NULL and authnService is RPC_C_AUTHN_WINNT or _DEFAULT");
            return NtStatus::INVALID_PARAMETER.to_i32();
        }
    }
    then {
        let machine = call.machine();
        let opened = asked(session).and_then(|session| machine.fwp.engine.open_session(session));
        status(opened.map(|session| {
            let handle = machine.ndis.new_handle();
            machine.fwp.sessions.lock().insert(handle, session);
            machine.verifier().track(&call, ENGINE, handle, "", 0);
            engine.set(handle);
        }))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmengineclose0>
    fn FwpmEngineClose0(call, engine: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        let machine = call.machine();
        if !machine.verifier().untrack(&call, ENGINE, engine) {
            return NtStatus::INVALID_HANDLE.to_i32();
        }
        let session = machine.fwp.sessions.lock().remove(&engine);
        status(session.ok_or(NtStatus::INVALID_HANDLE).and_then(|session| machine.fwp.engine.close_session(session)))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmtransactionbegin0>
    fn FwpmTransactionBegin0(call, engine: usize, flags: u32) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        if flags & !READ_ONLY != 0 {
            return NtStatus::FWP_INVALID_FLAGS.to_i32();
        }
        let read_only = flags & READ_ONLY != 0;
        status(
            session(&call, engine)
                .and_then(|session| call.machine().fwp.engine.begin_transaction(session, read_only)),
        )
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmtransactioncommit0>
    fn FwpmTransactionCommit0(call, engine: usize) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        status(session(&call, engine).and_then(|session| call.machine().fwp.engine.commit_transaction(session)))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmtransactionabort0>
    fn FwpmTransactionAbort0(call, engine: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        status(session(&call, engine).and_then(|session| call.machine().fwp.engine.abort_transaction(session)))
    }
}
