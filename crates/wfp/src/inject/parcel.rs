//! What an injection owns until its completion.

use core::{
    cell::UnsafeCell,
    ffi::c_void,
    fmt,
    mem::{ManuallyDrop, MaybeUninit},
    ptr::{self, NonNull},
};

use wdk_sys::{BOOLEAN, NTSTATUS};
use wfp_schema::NtStatus;
use wfp_sys::{FWPS_TRANSPORT_SEND_PARAMS0, NET_BUFFER_LIST};

use super::Destination;
use crate::{
    irql::Passive,
    list::{List, octets},
    pool::{PoolBox, PoolVec, Tag},
    slots::Slots,
};

/// What gets to know how an injection ended.
pub trait Completion: Send {
    /// What [`InjectionState`] gives back for the packet.
    fn context(&self) -> usize {
        0
    }

    /// The injection is over, and the list freed. May run before the injecting call returns,
    /// within a classify or on another processor, at IRQL <= `DISPATCH_LEVEL`.
    ///
    /// # Parameters
    /// `status` is the list's: whether the packet has been sent or delivered.
    fn completed(self, status: NtStatus);
}

impl Completion for () {
    fn completed(self, _status: NtStatus) {}
}

/// An injection that was refused, with everything that was to be injected.
#[derive(Debug)]
pub struct Refused<T> {
    /// Whoever was to be told of the outcome.
    pub owner: T,
    /// The packet; dropping it frees it.
    pub list: List,
    /// Why: a status of WFP, `STATUS_INSUFFICIENT_RESOURCES` if every place is taken, or
    /// `STATUS_INVALID_BUFFER_SIZE` if there is more control data than a place holds.
    pub status: NtStatus,
}

/// Places for what injections own until they are completed.
///
/// Places that are in use when this is dropped stay for ever: destroy the handles before.
pub struct Parcels<T> {
    inner: ManuallyDrop<PoolBox<Inner<T>>>,
}

struct Inner<T> {
    slots: Slots,
    places: PoolVec<Place<T>>,
}

struct Place<T> {
    /// Alive as long as the place is taken.
    home: NonNull<Inner<T>>,
    index: u32,
    /// Initialized from the place's taking until its completion.
    parcel: UnsafeCell<MaybeUninit<Parcel<T>>>,
}

/// Most bytes of control data. A socket's are a few headers of 16 bytes with an address or a number.
pub const CONTROL: usize = 256;

/// What an injection owns.
struct Parcel<T> {
    list: List,
    owner: T,
    /// Points to the two that follow.
    arguments: FWPS_TRANSPORT_SEND_PARAMS0,
    remote: [u8; 16],
    /// Aligned as `WSACMSGHDR` is.
    control: [u64; CONTROL / 8],
}

#[allow(
    clippy::non_send_fields_in_send_ty,
    reason = "a parcel's pointers lead to itself and to its list, which it owns"
)]
// SAFETY: a parcel has one owner, who may be any thread because `T` may be any thread's.
unsafe impl<T: Send> Send for Place<T> {}
// SAFETY: as above; only who has taken the place looks into it.
unsafe impl<T: Send> Sync for Place<T> {}

impl<T: Completion> Parcels<T> {
    /// Places for `count` injections at a time.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(tag: Tag, count: u32) -> Result<Self, NtStatus> {
        let inner = Inner {
            slots: Slots::try_new(tag, count)?,
            places: PoolVec::try_with_capacity(tag, count as usize)?,
        };
        let mut inner = PoolBox::try_new(tag, inner)?;
        let home = NonNull::from(&mut *inner);
        for index in 0..count {
            // There is room for each.
            let _ = inner.places.push(Place {
                home,
                index,
                parcel: UnsafeCell::new(MaybeUninit::uninit()),
            });
        }
        Ok(Self {
            inner: ManuallyDrop::new(inner),
        })
    }

    /// How many injections are on their way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.inner.slots.taken()
    }

    /// Waits until no injection is on its way.
    pub fn wait_until_idle(&self, passive: Passive) {
        self.inner.slots.wait_until_free(passive);
    }

    /// Takes a place, fills it and lets `call` inject.
    pub(super) fn inject(
        &self,
        list: List,
        owner: T,
        call: impl FnOnce(&Departure) -> NTSTATUS,
    ) -> Result<(), Refused<T>> {
        self.inject_to(list, owner, None, call)
    }

    pub(super) fn inject_to(
        &self,
        list: List,
        owner: T,
        to: Option<&Destination<'_>>,
        call: impl FnOnce(&Departure) -> NTSTATUS,
    ) -> Result<(), Refused<T>> {
        let refused = |list, owner, status| Refused {
            owner,
            list,
            status,
        };
        let slots = &self.inner.slots;
        if to.is_some_and(|to| to.control.len() > CONTROL) {
            return Err(refused(list, owner, NtStatus::INVALID_BUFFER_SIZE));
        }
        let taken = slots.take();
        let Some((place, index)) =
            taken.and_then(|index| Some((self.inner.places.get(index as usize)?, index)))
        else {
            return Err(refused(list, owner, NtStatus::INSUFFICIENT_RESOURCES));
        };
        let parcel = place.parcel.get().cast::<Parcel<T>>();
        let departure = Departure {
            list: list.as_ptr(),
            context: ptr::without_provenance_mut(owner.context()),
            completion: complete::<T>,
            place: ptr::from_ref(place).cast_mut().cast(),
            // SAFETY: within the place.
            arguments: unsafe { &raw mut (*parcel).arguments },
        };
        let filled = Parcel {
            list,
            owner,
            arguments: FWPS_TRANSPORT_SEND_PARAMS0::default(),
            remote: [0; 16],
            control: [0; CONTROL / 8],
        };
        // SAFETY: the place is this call's until it is put back.
        unsafe { parcel.write(filled) };
        if let Some(to) = to {
            // SAFETY: as above.
            address(unsafe { &mut *parcel }, to);
        }
        // From here on nothing refers to the parcel: its completion may run at any time.
        let status = NtStatus::from_i32(call(&departure));
        if status == NtStatus::SUCCESS {
            return Ok(());
        }
        // SAFETY: there will be no completion: the place is this call's again.
        let Parcel { list, owner, .. } = unsafe { parcel.read() };
        slots.put(index);
        Err(refused(list, owner, status))
    }
}

/// Fills in where a sent packet goes.
fn address<T>(parcel: &mut Parcel<T>, to: &Destination<'_>) {
    parcel.remote = octets(to.remote);
    // SAFETY: the control data's memory as bytes.
    let control = unsafe {
        core::slice::from_raw_parts_mut(parcel.control.as_mut_ptr().cast::<u8>(), CONTROL)
    };
    let length = to.control.len();
    // The caller has checked the length.
    if let Some(room) = control.get_mut(..length) {
        room.copy_from_slice(to.control);
    }
    parcel.arguments.remoteAddress = parcel.remote.as_mut_ptr();
    parcel.arguments.remoteScopeId.__bindgen_anon_1.Value = to.scope;
    if length > 0 {
        parcel.arguments.controlData = parcel.control.as_mut_ptr().cast();
        parcel.arguments.controlDataLength = u32::try_from(length).unwrap_or(0);
    }
}

impl<T> Drop for Parcels<T> {
    fn drop(&mut self) {
        if self.inner.slots.taken() == 0 {
            // SAFETY: dropped once; no place is in use, so that nothing points here any more.
            unsafe { ManuallyDrop::drop(&mut self.inner) };
        }
    }
}

impl<T> fmt::Debug for Parcels<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parcels")
            .field("slots", &self.inner.slots)
            .finish_non_exhaustive()
    }
}

/// What an injection function is given of a parcel.
pub(super) struct Departure {
    pub(super) list: *mut NET_BUFFER_LIST,
    /// `injectionContext`.
    pub(super) context: *mut c_void,
    pub(super) completion: unsafe extern "C" fn(*mut c_void, *mut NET_BUFFER_LIST, BOOLEAN),
    /// `completionContext`.
    pub(super) place: *mut c_void,
    pub(super) arguments: *mut FWPS_TRANSPORT_SEND_PARAMS0,
}

/// `FWPS_INJECT_COMPLETE0` of every injection.
///
/// # Safety
/// Called by WFP, once for each injection that it accepted, with the place of its parcel.
pub(super) unsafe extern "C" fn complete<T: Completion>(
    context: *mut c_void,
    list: *mut NET_BUFFER_LIST,
    _dispatch_level: BOOLEAN,
) {
    // SAFETY: NULL or the list that was injected, which is ours again.
    let status = unsafe { list.as_ref() }.map_or(NtStatus::UNSUCCESSFUL, |list| {
        // SAFETY: the union's other member is NDIS's own.
        NtStatus::from_i32(unsafe { list.__bindgen_anon_2.Status })
    });
    // SAFETY: the context is the place that the injection was given, which is still taken.
    let Some(place) = (unsafe { context.cast::<Place<T>>().as_ref() }) else {
        return;
    };
    let parcel = place.parcel.get().cast::<Parcel<T>>();
    // SAFETY: filled by the injection, read once.
    let Parcel { list, owner, .. } = unsafe { parcel.read() };
    // Before the place: then every list is freed when no place is taken.
    drop(list);
    // SAFETY: the parcels live as long as a place of theirs is taken.
    unsafe { place.home.as_ref() }.slots.put(place.index);
    owner.completed(status);
}
