//! Redirectors: their handles, and what the redirect records of a connection tell them.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;
use wfp_engine::Provenance;
use wfp_schema::codes::ConnectionRedirectState;
use wfp_schema::{Guid, NtStatus};

use crate::access::{In, Out};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::{Kernel, Machine};
use crate::net::{Redirection, Request};
use crate::verifier::{ARGUMENT, LAYER_DATA, OBJECT_STALE};

/// How the verifier calls a redirect handle.
const HANDLE: &str = "redirect handle";
/// How it calls blocks of pool.
const POOL: &str = "pool";

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NULL_POINTER: i32 = NtStatus::FWP_NULL_POINTER.to_i32();

/// The redirect records that indications show, by their handles: valid during the indication.
pub(super) type State = Mutex<HashMap<usize, Redirection>>;

/// What `records` means to the redirector with `handle`, and the context that it gave.
fn state(records: &Redirection, handle: u64) -> (ConnectionRedirectState, u64) {
    let redirections = records
        .records()
        .rev()
        .filter(|version| version.redirect_handle != 0)
        .map(|version| (version.redirect_handle, version.context));
    let state = Provenance::of(redirections, &handle);
    (state.of_connection(), state.context().unwrap_or(0))
}

/// Checks a version that a driver applied, whose context becomes the system's.
pub(super) fn check_applied(call: &Call<'_>, version: &Request) {
    let verifier = call.machine().verifier();
    let handle = usize::try_from(version.redirect_handle).unwrap_or(0);
    if handle != 0 && !verifier.is_tracked(HANDLE, handle) {
        call.violation(
            &OBJECT_STALE,
            format!("localRedirectHandle {handle:#x} is no redirect handle"),
        );
    }
    let is_loopback = version.remote.address.to_canonical().is_loopback();
    if is_loopback && (handle == 0 || version.target_process == 0) {
        call.violation(
            &LAYER_DATA,
            "a connection is redirected to this machine without localRedirectHandle and localRedirectTargetPID",
        );
    }
    let context = usize::try_from(version.context).unwrap_or(0);
    if context != 0 {
        verifier.forget(POOL, context);
        let size = usize::try_from(version.context_size).unwrap_or(usize::MAX);
        match call.machine().nt().pool().block(context) {
            None => call.violation(&ARGUMENT, "localRedirectContext is no block of pool"),
            Some(block) if size == 0 || size > block.size => call.violation(
                &ARGUMENT,
                format!(
                    "localRedirectContextSize is {size}, and localRedirectContext has {} bytes",
                    block.size
                ),
            ),
            Some(_) => {}
        }
    }
}

/// The contexts that redirectors gave along, each once.
fn contexts(redirection: &Redirection) -> impl Iterator<Item = usize> {
    let given = redirection.versions().iter().map(|version| version.context);
    let distinct: BTreeSet<u64> = given.filter(|context| *context != 0).collect();
    distinct
        .into_iter()
        .filter_map(|context| usize::try_from(context).ok())
}

/// Frees the contexts of a connection that is over.
pub(super) fn ended(machine: &Machine, redirection: &Redirection) {
    for context in contexts(redirection) {
        if machine.nt().pool().block(context).is_some() {
            machine.nt().pool().free(context, 0);
        }
    }
}

impl Kernel {
    /// What the socket of a redirected connection answers to `SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT`: the context
    /// that the last redirector gave along. `None`: it gave none, or the connection is over.
    #[must_use]
    pub fn redirect_context(&self, records: &Redirection) -> Option<Vec<u8>> {
        let last = records.records().last()?;
        let context = usize::try_from(last.context).ok().filter(|at| *at != 0)?;
        let block = self.nt().pool().block(context)?;
        let size = usize::try_from(last.context_size).ok()?.min(block.size);
        let mut bytes = vec![0; size];
        In::<u8>::member(last.context).copy_to(&mut bytes);
        Some(bytes)
    }
}

/// The records in the form in which sockets take them: a count, then for each redirection its handle, its context,
/// its target and both ends of what it changed.
fn socket_form(records: &Redirection) -> Vec<u8> {
    let versions = records.versions();
    let mut bytes = u32::try_from(versions.len())
        .unwrap_or(0)
        .to_le_bytes()
        .to_vec();
    for version in versions {
        bytes.extend(version.redirect_handle.to_le_bytes());
        bytes.extend(version.target_process.to_le_bytes());
        for end in [version.local, version.remote] {
            bytes.extend(super::layout::request::SockAddr::of(end).0);
        }
    }
    bytes
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsredirecthandlecreate0>
    fn FwpsRedirectHandleCreate0(call, provider: In<Guid>, flags: u32, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.to_i32();
    {
        if provider.is_null() || handle.is_null() {
            return NULL_POINTER;
        }
        if flags != 0 {
            call.violation(&ARGUMENT, format!("flags is {flags:#x}, not 0"));
            return NtStatus::FWP_INVALID_FLAGS.to_i32();
        }
    }
    then {
        let made = call.machine().ndis.new_handle();
        call.machine().verifier().track(&call, HANDLE, made, "", 0);
        handle.set(made);
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsredirecthandledestroy0>
    fn FwpsRedirectHandleDestroy0(call, handle: usize),
    irql PASSIVE..=PASSIVE;
    {
        call.machine().verifier().untrack(&call, HANDLE, handle);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsqueryconnectionredirectstate0>
    fn FwpsQueryConnectionRedirectState0(call, records: usize, handle: usize, context: Out<usize>) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        if !call.machine().verifier().is_tracked(HANDLE, handle) {
            call.violation(&OBJECT_STALE, format!("{handle:#x} is no redirect handle"));
        }
        let known = call.machine().fwp.records.lock().get(&records).cloned();
        if known.is_none() && records != 0 {
            call.violation(&OBJECT_STALE, format!("{records:#x} are no redirect records of the classify in progress"));
        }
        let (state, own) = known.map_or((ConnectionRedirectState::NotRedirected, 0), |known| state(&known, handle as u64));
        if matches!(
            state,
            ConnectionRedirectState::RedirectedBySelf | ConnectionRedirectState::PreviouslyRedirectedBySelf
        ) {
            context.set(usize::try_from(own).unwrap_or(0));
        }
        state.value()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsqueryconnectionsioformatredirectrecords0>
    fn FwpsQueryConnectionSioFormatRedirectRecords0(
        call, records: usize, buffer: Out<u8>, length: usize, transferred: Out<usize>,
    ) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        let known = call.machine().fwp.records.lock().get(&records).cloned();
        let Some(known) = known else {
            return NtStatus::NOT_FOUND.to_i32();
        };
        let bytes = socket_form(&known);
        transferred.set(bytes.len());
        if buffer.is_null() || length < bytes.len() {
            return NtStatus::BUFFER_TOO_SMALL.to_i32();
        }
        buffer.copy_from(&bytes);
        SUCCESS
    }
}
