//! Sending packets back into the stack.
//!
//! A packet is injected with an [`InjectionHandle`] of the kind that its injection point needs: a
//! kind is a type, so that no other compiles. What the call may read until its completion (the
//! list, the remote address, control data) is moved into a place of [`Parcels`], together with
//! a value of the caller's that gets to know the outcome ([`Completion`]). A call that fails gives
//! everything back: nothing is leaked and nothing is freed twice.
//!
//! The rules behind it, from the DDI pages of the injection functions:
//!
//! - No spin lock may be held during an injection: its completion may run at once.
//! - TCP packets of transport layers are not injected in the classify, because the stack holds
//!   locks there: the calls at these layers demand [`Dispatch`], which a classify hasn't got.
//! - A completion may come long after the call, also when the driver is being unloaded.
//!   [`InjectionHandle::destroy`] waits for the last one.

mod parcel;
mod place;

use core::{
    ffi::c_void,
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
};

use wfp_schema::{
    IpVersion, LayerId, NtStatus, StreamFlags, codes::PacketInjectionState, flags::InjectionType,
};

pub use self::{
    parcel::{CONTROL, Completion, Parcels, Refused},
    place::{Arrival, Destination, KeptDestination},
};
use crate::{
    flow::{CalloutId, FlowId},
    irql::{Dispatch, Passive},
    list::List,
    nbl::Packet,
};

mod sealed {
    pub trait Sealed {}
}

/// Where a handle injects.
pub trait Kind: sealed::Sealed + 'static {
    #[doc(hidden)]
    const TYPE: InjectionType;
}

macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident = $type:ident;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub enum $kind {}

        impl sealed::Sealed for $kind {}

        impl Kind for $kind {
            const TYPE: InjectionType = InjectionType::$type;
        }
    )*};
}

kinds! {
    /// The network layers, `INBOUND_IPPACKET` and `OUTBOUND_IPPACKET`.
    Network = NETWORK;
    /// The transport, datagram data and ICMP error layers, and ALE's.
    Transport = TRANSPORT;
    /// `IPFORWARD`.
    Forward = FORWARD;
    /// `STREAM`.
    StreamData = STREAM;
}

/// `FwpsInjectionHandleCreate0`. It is destroyed when it is dropped at `PASSIVE_LEVEL`, which waits as
/// [`destroy`](Self::destroy) does; one that is dropped above stays for ever.
#[must_use = "a handle that is dropped is destroyed"]
pub struct InjectionHandle<K> {
    handle: NonNull<c_void>,
    version: IpVersion,
    _kind: PhantomData<K>,
}

// SAFETY: the handle is a name; WFP's functions take it from any thread.
unsafe impl<K> Send for InjectionHandle<K> {}
// SAFETY: as above.
unsafe impl<K> Sync for InjectionHandle<K> {}

impl<K: Kind> InjectionHandle<K> {
    /// A handle for packets of one IP version.
    ///
    /// # Errors
    /// `STATUS_FWP_TCPIP_NOT_READY` early at boot, or another status of WFP.
    pub fn create(version: IpVersion, _passive: Passive) -> Result<Self, NtStatus> {
        let mut handle = ptr::null_mut();
        // SAFETY: the token says PASSIVE_LEVEL.
        let status = unsafe {
            wfp_sys::FwpsInjectionHandleCreate0(family(version), K::TYPE.bits(), &raw mut handle)
        };
        NtStatus::from_i32(status).ok()?;
        Ok(Self {
            handle: NonNull::new(handle).ok_or(NtStatus::UNSUCCESSFUL)?,
            version,
            _kind: PhantomData,
        })
    }

    /// `FwpsInjectionHandleDestroy0`: waits until the last injection with it is completed. Hold
    /// no lock that a completion takes.
    ///
    /// # Errors
    /// Whatever WFP answers; none is documented.
    pub fn destroy(self, passive: Passive) -> Result<(), NtStatus> {
        destroy(ManuallyDrop::new(self).handle, passive)
    }

    /// For which IP version it is.
    #[must_use]
    pub const fn version(&self) -> IpVersion {
        self.version
    }

    /// `FwpsQueryPacketInjectionState0`: whether and by whom the packet was injected. To be asked
    /// before anything else is done with a packet.
    #[must_use]
    #[allow(
        clippy::cast_sign_loss,
        reason = "the states are not negative; C makes enumerations signed"
    )]
    pub fn state(&self, packet: Packet<'_>) -> InjectionState {
        let mut context = ptr::null_mut();
        // SAFETY: the packet is alive; the context is written to.
        let state = unsafe {
            wfp_sys::FwpsQueryPacketInjectionState0(
                self.handle.as_ptr(),
                packet.as_ptr(),
                &raw mut context,
            )
        };
        match PacketInjectionState::from_u32(state as u32) {
            Some(PacketInjectionState::InjectedBySelf) => InjectionState::BySelf {
                context: context.addr(),
            },
            Some(PacketInjectionState::PreviouslyInjectedBySelf) => {
                InjectionState::PreviouslyBySelf {
                    context: context.addr(),
                }
            }
            Some(PacketInjectionState::InjectedByOther) => InjectionState::ByOther,
            _ => InjectionState::NotInjected,
        }
    }
}

impl<K> Drop for InjectionHandle<K> {
    fn drop(&mut self) {
        if let Some(passive) = Passive::check() {
            // No failure is documented, and nothing could be done about one.
            let _ = destroy(self.handle, passive);
        }
    }
}

/// A handle for each IP version, for callouts that are at the layers of both.
#[derive(Debug)]
#[must_use = "handles that are dropped are destroyed"]
pub struct InjectionHandles<K> {
    v4: InjectionHandle<K>,
    v6: InjectionHandle<K>,
}

impl<K: Kind> InjectionHandles<K> {
    /// Both handles.
    ///
    /// # Errors
    /// As [`InjectionHandle::create`]; there is neither then.
    pub fn create(passive: Passive) -> Result<Self, NtStatus> {
        Ok(Self {
            v4: InjectionHandle::create(IpVersion::V4, passive)?,
            v6: InjectionHandle::create(IpVersion::V6, passive)?,
        })
    }

    /// The handle for packets of one IP version.
    pub const fn of(&self, version: IpVersion) -> &InjectionHandle<K> {
        match version {
            IpVersion::V4 => &self.v4,
            IpVersion::V6 => &self.v6,
        }
    }
}

fn destroy(handle: NonNull<c_void>, _passive: Passive) -> Result<(), NtStatus> {
    // SAFETY: the caller gives the handle up, and the token says PASSIVE_LEVEL.
    NtStatus::from_i32(unsafe { wfp_sys::FwpsInjectionHandleDestroy0(handle.as_ptr()) }).ok()
}

impl<K> fmt::Debug for InjectionHandle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InjectionHandle")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Who injected a packet, as one handle sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectionState {
    /// It came from the stack or the wire.
    NotInjected,
    /// It was injected with this handle: it is to be permitted, and may be neither changed nor
    /// taken again.
    BySelf {
        /// [`Completion::context`] of the injection.
        context: usize,
    },
    /// It was injected with this handle, then by somebody else: to be treated as `BySelf`.
    PreviouslyBySelf {
        /// [`Completion::context`] of the injection.
        context: usize,
    },
    /// It was injected by somebody else.
    ByOther,
}

impl InjectionState {
    /// Whether the packet has been through the callout before, so that it has to let it pass.
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::BySelf { .. } | Self::PreviouslyBySelf { .. })
    }
}

/// Where data of a stream go on.
#[derive(Clone, Copy, Debug)]
pub struct StreamPlace {
    /// The stream's flow.
    pub flow: FlowId,
    /// The callout after which they go on.
    pub callout: CalloutId,
    /// The callout's layer.
    pub layer: LayerId,
    /// Which way, and whether that way ends behind them.
    pub flags: StreamFlags,
    /// Bytes of data.
    pub length: usize,
}

impl InjectionHandle<Network> {
    /// `FwpsInjectNetworkSendAsync0`: sends a packet that begins with its IP header.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn send<T: Completion>(
        &self,
        parcels: &Parcels<T>,
        list: impl Into<List>,
        owner: T,
        compartment: u32,
    ) -> Result<(), Refused<T>> {
        parcels.inject(list.into(), owner, |departure| {
            // SAFETY: the parcel owns the list until the completion.
            unsafe {
                wfp_sys::FwpsInjectNetworkSendAsync0(
                    self.handle.as_ptr(),
                    departure.context,
                    0,
                    compartment.cast_signed(),
                    departure.list,
                    Some(departure.completion),
                    departure.place,
                )
            }
        })
    }

    /// `FwpsInjectNetworkReceiveAsync0`: receives a packet of one net buffer that begins with its
    /// IP header, whose checksum is right.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn receive<T: Completion>(
        &self,
        parcels: &Parcels<T>,
        list: impl Into<List>,
        owner: T,
        at: Arrival,
    ) -> Result<(), Refused<T>> {
        parcels.inject(list.into(), owner, |departure| {
            // SAFETY: the parcel owns the list until the completion.
            unsafe {
                wfp_sys::FwpsInjectNetworkReceiveAsync0(
                    self.handle.as_ptr(),
                    departure.context,
                    0,
                    at.compartment.cast_signed(),
                    at.interface,
                    at.sub_interface,
                    departure.list,
                    Some(departure.completion),
                    departure.place,
                )
            }
        })
    }
}

impl InjectionHandle<Transport> {
    /// `FwpsInjectTransportSendAsync0`: sends a packet that begins with its transport header.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn send<T: Completion>(
        &self,
        parcels: &Parcels<T>,
        list: impl Into<List>,
        owner: T,
        to: &Destination<'_>,
        _outside: Dispatch,
    ) -> Result<(), Refused<T>> {
        parcels.inject_to(list.into(), owner, Some(to), |departure| {
            // SAFETY: the parcel owns the list, the arguments and what they point to until the
            // completion.
            unsafe {
                wfp_sys::FwpsInjectTransportSendAsync0(
                    self.handle.as_ptr(),
                    departure.context,
                    to.endpoint,
                    0,
                    departure.arguments,
                    family(self.version),
                    to.compartment.cast_signed(),
                    departure.list,
                    Some(departure.completion),
                    departure.place,
                )
            }
        })
    }

    /// `FwpsInjectTransportReceiveAsync0`: receives a packet of one net buffer that begins with
    /// its IP header, whose checksum is right.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn receive<T: Completion>(
        &self,
        parcels: &Parcels<T>,
        list: impl Into<List>,
        owner: T,
        at: Arrival,
        _outside: Dispatch,
    ) -> Result<(), Refused<T>> {
        parcels.inject(list.into(), owner, |departure| {
            // SAFETY: the parcel owns the list until the completion.
            unsafe {
                wfp_sys::FwpsInjectTransportReceiveAsync0(
                    self.handle.as_ptr(),
                    departure.context,
                    ptr::null_mut(),
                    0,
                    family(self.version),
                    at.compartment.cast_signed(),
                    at.interface,
                    at.sub_interface,
                    departure.list,
                    Some(departure.completion),
                    departure.place,
                )
            }
        })
    }
}

impl InjectionHandle<Forward> {
    /// `FwpsInjectForwardAsync0`: forwards a packet that begins with its IP header by
    /// `interface`. No layer sees it.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn forward<T: Completion>(
        &self,
        parcels: &Parcels<T>,
        list: impl Into<List>,
        owner: T,
        compartment: u32,
        interface: u32,
    ) -> Result<(), Refused<T>> {
        parcels.inject(list.into(), owner, |departure| {
            // SAFETY: the parcel owns the list until the completion.
            unsafe {
                wfp_sys::FwpsInjectForwardAsync0(
                    self.handle.as_ptr(),
                    departure.context,
                    0,
                    family(self.version),
                    compartment.cast_signed(),
                    interface,
                    departure.list,
                    Some(departure.completion),
                    departure.place,
                )
            }
        })
    }
}

impl InjectionHandle<StreamData> {
    /// `FwpsStreamInjectAsync0`: lets data of a stream go on behind the callout.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn inject<T: Completion>(
        &self,
        parcels: &Parcels<T>,
        list: impl Into<List>,
        owner: T,
        at: StreamPlace,
    ) -> Result<(), Refused<T>> {
        parcels.inject(list.into(), owner, |departure| {
            // SAFETY: the parcel owns the list until the completion.
            unsafe {
                wfp_sys::FwpsStreamInjectAsync0(
                    self.handle.as_ptr(),
                    departure.context,
                    0,
                    at.flow.get(),
                    at.callout.get(),
                    at.layer.get(),
                    at.flags.bits(),
                    departure.list,
                    at.length as u64,
                    Some(departure.completion),
                    departure.place,
                )
            }
        })
    }

    /// `FwpsStreamInjectAsync0` without data: lets a direction of a stream end. `at.flags` has to
    /// have a `DISCONNECT` flag. There is no completion.
    ///
    /// # Errors
    /// A status of WFP.
    pub fn end(&self, at: StreamPlace) -> Result<(), NtStatus> {
        // SAFETY: with a DISCONNECT flag there may be no list; without one WFP refuses.
        let status = unsafe {
            wfp_sys::FwpsStreamInjectAsync0(
                self.handle.as_ptr(),
                ptr::null_mut(),
                0,
                at.flow.get(),
                at.callout.get(),
                at.layer.get(),
                at.flags.bits(),
                ptr::null_mut(),
                0,
                Some(parcel::complete::<()>),
                ptr::null_mut(),
            )
        };
        NtStatus::from_i32(status).ok()
    }
}

/// `ADDRESS_FAMILY` of an IP version.
#[allow(clippy::cast_possible_truncation, reason = "2 and 23")]
pub(crate) const fn family(version: IpVersion) -> u16 {
    match version {
        IpVersion::V4 => wfp_sys::AF_INET as u16,
        IpVersion::V6 => wfp_sys::AF_INET6 as u16,
    }
}
