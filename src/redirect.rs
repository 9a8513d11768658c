//! Redirection: who redirects, which proxies there are, and where redirected connections were to go; also by which
//! interface connections go.

use kmdf::{Driver, File};
use portcullis_core::{
    Connection, Endpoint, Origin, OriginSlot, Origins, Proxies, Proxy, redirect::ProxyRefused,
};
use portcullis_proto::Counter;
use wfp::{
    NtStatus, Result, cell::KernelCell, irql::Passive, pool::PoolVec, redirect::RedirectHandle,
    sync::RawSpinLock,
};

use crate::{
    callouts::{self, Object},
    state::{self, tag},
};

/// Sets of connections that wait to be established, and that the layers then show otherwise.
const ORIGINS: usize = 256;

type OriginTable = Origins<PoolVec<OriginSlot<RawSpinLock>>>;

static HANDLE: KernelCell<RedirectHandle> = KernelCell::new(tag::REDIRECT);
static ORIGIN: KernelCell<OriginTable> = KernelCell::new(tag::REDIRECT);

/// Who listens for redirected connections. It needs no memory: a program may close its handle at any time.
static PROXIES: Proxies<RawSpinLock> = Proxies::new();

/// Creates the redirect handle, and room for original destinations.
pub(crate) fn create(_driver: Driver, passive: Passive) -> Result {
    let slots = PoolVec::try_from_fn(tag::REDIRECT, ORIGINS, |_| OriginSlot::new())?;
    ORIGIN.try_set(Origins::new(slots), passive)?;
    let provider = callouts::key(Object::Provider);
    if let Err(status) = HANDLE.try_set_with(|| RedirectHandle::create(provider, passive), passive)
    {
        forget_origins(passive);
        return Err(status);
    }
    Ok(())
}

/// Destroys the redirect handle.
pub(crate) fn delete(passive: Passive) {
    // SAFETY: the callouts, which use it, are unregistered.
    if let Some(handle) = unsafe { HANDLE.take(passive) } {
        handle.into_inner().destroy(passive);
    }
    forget_origins(passive);
}

fn forget_origins(passive: Passive) {
    // SAFETY: the callouts, which use them, are unregistered, or not yet registered.
    drop(unsafe { ORIGIN.take(passive) });
}

/// Who redirects, while the driver runs.
pub(crate) fn handle() -> Option<&'static RedirectHandle> {
    HANDLE.get()
}

/// The process of the proxy that listens there and serves that protocol.
pub(crate) fn proxy(endpoint: Endpoint, protocol: u8) -> Option<u32> {
    PROXIES.find(endpoint, protocol)
}

/// Whether a process has registered a proxy.
pub(crate) fn is_proxy(process_id: u64) -> bool {
    PROXIES.is_proxy(process_id)
}

/// Remembers where the flow of a connection was to go, and by which interface, until it is established.
pub(crate) fn remember(connection: &Connection<'_>) {
    let origin = Origin {
        remote: connection.remote,
        interface: connection.interface,
    };
    if let Some(origins) = ORIGIN.get()
        && connection.flow != 0
        && !origins.remember::<RawSpinLock>(connection.flow, origin)
    {
        state::count(Counter::OriginalForgotten);
    }
}

/// What was remembered of a flow that is established now, or to be remembered no more.
pub(crate) fn origin(flow: u64) -> Option<Origin> {
    ORIGIN.get()?.take::<RawSpinLock>(flow)
}

/// A program listens there, as long as `file` is open.
///
/// # Errors
/// `STATUS_OBJECT_NAME_COLLISION`: another one does. `STATUS_INSUFFICIENT_RESOURCES`: there are too many.
pub(crate) fn register(endpoint: Endpoint, protocol: u8, process_id: u32, file: File) -> Result {
    let proxy = Proxy {
        endpoint,
        protocol,
        process_id,
        owner: file.number(),
    };
    let registered = PROXIES.register(proxy).map_err(|refused| match refused {
        ProxyRefused::Taken => NtStatus::OBJECT_NAME_COLLISION,
        ProxyRefused::Full => NtStatus::INSUFFICIENT_RESOURCES,
    });
    state::count(match registered {
        Ok(()) => Counter::ProxiesRegistered,
        Err(_) => Counter::ProxyRefused,
    });
    registered
}

/// A program has closed its handle, or has ended: what it registered is gone.
pub(crate) fn file_gone(file: File) {
    for _ in 0..PROXIES.forget(file.number()) {
        state::count(Counter::ProxiesGone);
    }
}
