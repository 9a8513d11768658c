//! Redirection: changing where a connection goes, or where a socket is bound, before either is done.
//!
//! The way: at `ALE_CONNECT_REDIRECT` or `ALE_BIND_REDIRECT` a callout asks its [`Classify`] for a [`ClassifyHandle`],
//! that for the [`WritableLayerData`], and changes it. What WFP asks for is a matter of types:
//!
//! - The data is applied exactly once, on every path: when it is dropped at the latest, changed or not. It borrows the
//!   handle, so it is applied before the handle is released, and there is no second one meanwhile.
//! - A handle is released exactly once, within its classify.
//! - A classify that cannot decide [keeps](ClassifyHandle::pend) what is asked for until somebody can: a [`PendedClassify`]
//!   is completed exactly once, after what was changed has been applied.
//! - A connection that is sent to a process of this machine gets its target, its process, the redirect handle and the context
//!   together; the context's memory is WFP's from then on, and freed if it does not come to that.
//! - Only what a layer lets change can be changed: a connection's local side can't.
//! - A [`RedirectHandle`] is made and destroyed at `PASSIVE_LEVEL`, so with no spin lock held.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/network/using-bind-or-connect-redirection>

mod pended;

use core::{
    cell::Cell,
    ffi::c_void,
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    net::SocketAddr,
    ptr::{self, NonNull},
};

use wfp_schema::{
    Guid, NtStatus, Rights, codes::ConnectionRedirectState, flags::RuntimeFilterFlags,
};
use wfp_sys::{FWPS_BIND_REQUEST0, FWPS_CLASSIFY_OUT0, FWPS_CONNECT_REQUEST0};

pub use pended::PendedClassify;

use crate::{
    callout::{Classify, Kept},
    engine::to_guid,
    irql::Passive,
    layer::{AleBindRedirect, AleConnectRedirect, LayerType},
    pool::{PoolBytes, Tag},
    sockaddr,
};

/// Versions of a request that are looked at: each redirector that changed it made one.
const MAX_VERSIONS: usize = 32;

/// Who redirects: what WFP tells redirectors apart by. One is enough for a driver.
#[derive(Debug)]
#[must_use = "a redirect handle stays until it is destroyed"]
pub struct RedirectHandle(NonNull<c_void>);

// SAFETY: the handle is not bound to a thread.
unsafe impl Send for RedirectHandle {}
// SAFETY: WFP's functions may be called with a handle from any thread.
unsafe impl Sync for RedirectHandle {}

impl RedirectHandle {
    /// `FwpsRedirectHandleCreate0`, in the name of a provider.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and whatever else WFP answers.
    pub fn create(provider: Guid, _passive: Passive) -> Result<Self, NtStatus> {
        let provider = to_guid(provider);
        let mut handle = ptr::null_mut();
        // SAFETY: the provider's key is only read, and the token says PASSIVE_LEVEL.
        let status =
            unsafe { wfp_sys::FwpsRedirectHandleCreate0(&raw const provider, 0, &raw mut handle) };
        NtStatus::from_i32(status).ok()?;
        NonNull::new(handle)
            .map(Self)
            .ok_or(NtStatus::INVALID_HANDLE)
    }

    /// `FwpsRedirectHandleDestroy0`. After the last callout that redirects is gone.
    pub fn destroy(self, _passive: Passive) {
        // SAFETY: the handle is given up with this, and the token says PASSIVE_LEVEL.
        unsafe { wfp_sys::FwpsRedirectHandleDestroy0(self.0.as_ptr()) };
    }

    /// `FwpsQueryConnectionRedirectState0`: who has redirected the connection of a classify. `None` is a state that
    /// this crate does not know. At IRQL <= `DISPATCH_LEVEL`.
    ///
    /// `records` are those of the classify's metadata; without any, nobody has.
    #[must_use]
    #[allow(
        clippy::cast_sign_loss,
        reason = "the states are not negative; C makes enumerations signed"
    )]
    pub fn state(&self, records: Option<RedirectRecords<'_>>) -> Option<ConnectionRedirectState> {
        let Some(records) = records else {
            return Some(ConnectionRedirectState::NotRedirected);
        };
        let mut context = ptr::null_mut();
        // SAFETY: the records are of a running classify, and the handle exists.
        let state = unsafe {
            wfp_sys::FwpsQueryConnectionRedirectState0(
                records.raw.as_ptr(),
                self.0.as_ptr(),
                &raw mut context,
            )
        };
        ConnectionRedirectState::from_u32(state as u32)
    }
}

/// The redirect records of a classify: who redirected its connection.
#[derive(Clone, Copy, Debug)]
pub struct RedirectRecords<'a> {
    raw: NonNull<c_void>,
    _classify: PhantomData<&'a ()>,
}

impl RedirectRecords<'_> {
    /// # Safety
    /// `raw` is the `redirectRecords` of a classify that the result does not outlive, or NULL.
    pub(crate) const unsafe fn new(raw: *mut c_void) -> Option<Self> {
        match NonNull::new(raw) {
            Some(raw) => Some(Self {
                raw,
                _classify: PhantomData,
            }),
            None => None,
        }
    }
}

/// A connection that is asked for: what the layer shows, before this callout changes it.
#[derive(Clone, Copy)]
pub struct ConnectRequest<'a>(&'a FWPS_CONNECT_REQUEST0);

impl<'a> ConnectRequest<'a> {
    /// # Safety
    /// `raw` is the layer data of a classify at `ALE_CONNECT_REDIRECT`, which `'a` does not outlive, or NULL.
    pub(crate) const unsafe fn new(raw: *const FWPS_CONNECT_REQUEST0) -> Option<Self> {
        // SAFETY: forwarded from the caller.
        match unsafe { raw.as_ref() } {
            Some(request) => Some(Self(request)),
            None => None,
        }
    }

    /// Where it goes to; `None` if it is of no IP version.
    #[must_use]
    pub fn remote(self) -> Option<SocketAddr> {
        sockaddr::read(sockaddr::bytes(&self.0.remoteAddressAndPort))
    }

    /// Where it comes from.
    #[must_use]
    pub fn local(self) -> Option<SocketAddr> {
        sockaddr::read(sockaddr::bytes(&self.0.localAddressAndPort))
    }

    /// The local process that a redirector sends it to.
    #[must_use]
    pub const fn target_process(self) -> Option<u32> {
        match self.0.localRedirectTargetPID {
            0 => None,
            process => Some(process),
        }
    }

    /// The filter whose callout made this version; `None` for what the application asked for.
    #[must_use]
    pub const fn modifier_filter(self) -> Option<u64> {
        match self.0.modifierFilterId {
            0 => None,
            filter => Some(filter),
        }
    }

    /// This version, then those before it, as far back as [`MAX_VERSIONS`] go: the last one is what the application
    /// asked for.
    pub fn versions(self) -> impl Iterator<Item = Self> + use<'a> {
        core::iter::successors(Some(self), |version| {
            // SAFETY: the chain is of the same classify, and NULL at its end.
            unsafe { Self::new(version.0.previousVersion) }
        })
        .take(MAX_VERSIONS)
    }

    /// Whether somebody has changed where it goes to.
    #[must_use]
    pub fn is_redirected(self) -> bool {
        let first = self.versions().last();
        self.target_process().is_some() || first.is_none_or(|first| first.remote() != self.remote())
    }
}

impl fmt::Debug for ConnectRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("local", &self.local())
            .field("remote", &self.remote())
            .field("versions", &self.versions().count())
            .finish_non_exhaustive()
    }
}

/// A bind that is asked for: what the layer shows, before this callout changes it.
#[derive(Clone, Copy)]
pub struct BindRequest<'a>(&'a FWPS_BIND_REQUEST0);

impl<'a> BindRequest<'a> {
    /// # Safety
    /// `raw` is the layer data of a classify at `ALE_BIND_REDIRECT`, which `'a` does not outlive, or NULL.
    pub(crate) const unsafe fn new(raw: *const FWPS_BIND_REQUEST0) -> Option<Self> {
        // SAFETY: forwarded from the caller.
        match unsafe { raw.as_ref() } {
            Some(request) => Some(Self(request)),
            None => None,
        }
    }

    /// Where the socket is to be bound; the unspecified address if the system chooses.
    #[must_use]
    pub fn local(self) -> Option<SocketAddr> {
        sockaddr::read(sockaddr::bytes(&self.0.localAddressAndPort))
    }

    /// As [`ConnectRequest::versions`].
    pub fn versions(self) -> impl Iterator<Item = Self> + use<'a> {
        core::iter::successors(Some(self), |version| {
            // SAFETY: the chain is of the same classify, and NULL at its end.
            unsafe { Self::new(version.0.previousVersion) }
        })
        .take(MAX_VERSIONS)
    }

    /// Whether somebody has changed where the socket is to be bound.
    #[must_use]
    pub fn is_redirected(self) -> bool {
        self.versions()
            .last()
            .is_none_or(|first| first.local() != self.local())
    }
}

impl fmt::Debug for BindRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BindRequest")
            .field("local", &self.local())
            .field("versions", &self.versions().count())
            .finish_non_exhaustive()
    }
}

/// What a driver tells a proxy about a connection: `localRedirectContext`, which the proxy asks its socket for
/// (`SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT`).
///
/// WFP frees the memory when the connection ends, as it would what came from `ExAllocatePoolWithTag` (DDI page of
/// `FWPS_CONNECT_REQUEST0`); memory of `ExAllocatePool2` is the same to it.
#[derive(Debug)]
pub struct RedirectContext(PoolBytes);

impl RedirectContext {
    /// A copy of `bytes`, of which there is at least one. At IRQL <= `DISPATCH_LEVEL`.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_copy_of(tag: Tag, bytes: &[u8]) -> Result<Self, NtStatus> {
        PoolBytes::try_copy_of(tag, bytes).map(Self)
    }
}

/// A proxy of this machine, as a connection is sent to it.
#[derive(Debug)]
pub struct LocalProxy<'h> {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub process: u32,
    /// Who sends the connection there.
    pub handle: &'h RedirectHandle,
    /// What the proxy is told.
    pub context: RedirectContext,
}

mod sealed {
    pub trait Sealed {
        type Request: Copy;
    }
}

/// A layer whose data callouts may change.
pub trait Redirectable: LayerType + sealed::Sealed {}

impl sealed::Sealed for AleConnectRedirect {
    type Request = FWPS_CONNECT_REQUEST0;
}

impl Redirectable for AleConnectRedirect {}

impl sealed::Sealed for AleBindRedirect {
    type Request = FWPS_BIND_REQUEST0;
}

impl Redirectable for AleBindRedirect {}

impl<L: Redirectable> Classify<'_, L> {
    /// `FwpsAcquireClassifyHandle0`.
    ///
    /// # Errors
    /// `STATUS_FWP_IN_USE`: the classify has a handle, or is pended. `STATUS_INSUFFICIENT_RESOURCES`, and whatever else
    /// WFP answers.
    pub fn acquire(&self) -> Result<ClassifyHandle<'_, L>, NtStatus> {
        if self.kept.get() != Kept::Nothing {
            return Err(NtStatus::FWP_IN_USE);
        }
        let mut handle = 0;
        // SAFETY: the context is that of the running classify.
        let status = unsafe {
            wfp_sys::FwpsAcquireClassifyHandle0(self.call.context.cast_mut(), 0, &raw mut handle)
        };
        NtStatus::from_i32(status).ok()?;
        self.kept.set(Kept::Handle);
        Ok(ClassifyHandle {
            handle,
            call: self.call,
            kept: &self.kept,
            _layer: PhantomData,
        })
    }
}

/// A running classify, as functions that reach beyond it know it. Released when it is dropped.
#[derive(Debug)]
pub struct ClassifyHandle<'a, L> {
    handle: u64,
    call: Call,
    /// What the classify keeps: this.
    kept: &'a Cell<Kept>,
    _layer: PhantomData<L>,
}

impl<L: Redirectable> ClassifyHandle<'_, L> {
    /// Layer data to be changed. From now on the classify blocks, unless its function answers otherwise, which it does: the
    /// answer is written after it has returned.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and whatever else WFP answers; nothing is to be applied then.
    pub fn writable(&mut self) -> Result<WritableLayerData<'_, L>, NtStatus> {
        // SAFETY: the handle is of the running classify, the filter is the one that called the callout, and nothing
        // else refers to the answer while the classify function runs.
        unsafe { WritableLayerData::acquire(self.handle, self.call.filter, self.call.out) }
    }

    /// `FwpsPendClassify0`: keeps what is asked for until it is decided about it, after the classify. Whatever the callout
    /// answers then, the system is told to block, and nobody who is asked later has a say.
    ///
    /// # Errors
    /// `STATUS_FWP_CANNOT_PEND` if somebody has decided before, and where the system does not allow it; whatever else WFP
    /// answers. Nothing is pended then.
    pub fn pend(self) -> Result<PendedClassify<L>, NtStatus> {
        let (handle, call) = (self.handle, self.call);
        // SAFETY: the handle is of the running classify, which nothing else completes: it is this one's alone.
        let pended = unsafe { PendedClassify::pend(handle, &call) }?;
        self.kept.set(Kept::Classify);
        // The handle is released with what is pended.
        let _ = ManuallyDrop::new(self);
        Ok(pended)
    }
}

impl<L> Drop for ClassifyHandle<'_, L> {
    fn drop(&mut self) {
        // SAFETY: the handle was acquired and is not used any more; what borrowed it has been applied.
        unsafe { wfp_sys::FwpsReleaseClassifyHandle0(self.handle) };
        self.kept.set(Kept::Nothing);
    }
}

/// The layer data of a classify that is running or pended, to be changed. Applied when it is dropped, changed or not: it has to be,
/// exactly once.
#[derive(Debug)]
pub struct WritableLayerData<'h, L: Redirectable> {
    /// WFP promises a pointer when it reports success; NULL is passed on as it is.
    data: *mut L::Request,
    handle: u64,
    _handle: PhantomData<&'h mut L>,
}

impl<L: Redirectable> WritableLayerData<'_, L> {
    /// `FwpsAcquireWritableLayerDataPointer0`.
    ///
    /// # Safety
    /// The handle is of a classify that is running or pended, which the result does not outlive, and the filter is the one
    /// that called the callout. Nothing else refers to `out`, the answer of that classify, or a copy of it.
    unsafe fn acquire(
        handle: u64,
        filter: u64,
        out: NonNull<FWPS_CLASSIFY_OUT0>,
    ) -> Result<Self, NtStatus> {
        let mut data = ptr::null_mut();
        // SAFETY: forwarded from the caller.
        let status = unsafe {
            wfp_sys::FwpsAcquireWritableLayerDataPointer0(
                handle,
                filter,
                0,
                &raw mut data,
                out.as_ptr(),
            )
        };
        NtStatus::from_i32(status).ok()?;
        Ok(Self {
            data: data.cast(),
            handle,
            _handle: PhantomData,
        })
    }

    const fn request(&mut self) -> Option<&mut L::Request> {
        // SAFETY: the data is this classify's own copy until it is applied, or NULL.
        unsafe { self.data.as_mut() }
    }

    /// `FwpsApplyModifiedLayerData0`. Dropping it does the same.
    pub fn apply(self) {
        drop(self);
    }
}

impl WritableLayerData<'_, AleConnectRedirect> {
    /// Lets the connection go to another machine, and applies that.
    ///
    /// `false`, and it stays as it is: it is of the other IP version, or `remote` is a loopback address. What is sent to
    /// this machine needs a process there: [`redirect_to`](Self::redirect_to).
    #[must_use]
    pub fn connect_to(mut self, remote: SocketAddr) -> bool {
        let Some(request) = self.request() else {
            return false;
        };
        !remote.ip().to_canonical().is_loopback()
            && sockaddr::write(
                sockaddr::bytes_mut(&mut request.remoteAddressAndPort),
                remote,
            )
    }

    /// Sends the connection to a proxy of this machine, and applies that.
    ///
    /// `false`: it is of the other IP version, and stays as it is. An IPv4 proxy is reached by the IPv4-mapped address
    /// where the connection is one of a dual-mode socket.
    #[must_use]
    pub fn redirect_to(mut self, proxy: LocalProxy<'_>) -> bool {
        let Some(request) = self.request() else {
            return false;
        };
        if !sockaddr::write(
            sockaddr::bytes_mut(&mut request.remoteAddressAndPort),
            proxy.address,
        ) {
            return false;
        }
        request.localRedirectTargetPID = proxy.process;
        request.localRedirectHandle = proxy.handle.0.as_ptr();
        let (context, size) = proxy.context.0.into_raw();
        request.localRedirectContext = context.as_ptr().cast();
        request.localRedirectContextSize = size as u64;
        true
    }
}

impl WritableLayerData<'_, AleBindRedirect> {
    /// Lets the socket be bound to another address, with the port that it asked for, and applies that.
    ///
    /// `false`: it is of the other IP version, and stays as it is.
    #[must_use]
    pub fn bind_to(mut self, address: core::net::IpAddr) -> bool {
        let Some(request) = self.request() else {
            return false;
        };
        let local = sockaddr::bytes_mut(&mut request.localAddressAndPort);
        let port = sockaddr::read(local).map_or(0, |local| local.port());
        sockaddr::write(local, SocketAddr::new(address, port))
    }
}

impl<L: Redirectable> Drop for WritableLayerData<'_, L> {
    fn drop(&mut self) {
        // SAFETY: the handle is not released while this borrows it, and this is the only time that the data, which
        // came with it, is applied.
        unsafe { wfp_sys::FwpsApplyModifiedLayerData0(self.handle, self.data.cast(), 0) };
    }
}

/// What a classify function was called with besides what it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// `classifyContext`.
    pub(crate) context: *const c_void,
    /// The filter's run-time identifier.
    pub(crate) filter: u64,
    /// The filter's flags.
    pub(crate) filter_flags: RuntimeFilterFlags,
    /// Where the answer is written once the callout's function has returned.
    pub(crate) out: NonNull<FWPS_CLASSIFY_OUT0>,
    /// The rights with which the callout was called.
    pub(crate) rights: Rights,
}
