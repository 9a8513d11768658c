//! The management interface: sessions, transactions, and the objects in them.

use core::{
    ffi::c_void,
    fmt,
    marker::PhantomData,
    ptr::{self, NonNull},
};

use wdk_sys::{GUID, HANDLE};
use wfp_schema::{Action, DataType, FilterFlags, Guid, NtStatus, flags::SessionFlags};
use wfp_sys::{
    FWP_VALUE0, FWPM_CALLOUT0, FWPM_DISPLAY_DATA0, FWPM_FILTER0, FWPM_PROVIDER0, FWPM_SESSION0,
    FWPM_SUBLAYER0,
};

use crate::{flow::CalloutId, irql::Passive, wide::Wide};

/// How an object is called in tools, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Label<'a> {
    /// Display name. Required by every object.
    pub name: Wide<'a>,
    /// Display description.
    pub description: Wide<'a>,
    /// Key of the provider that the object belongs to.
    pub provider: Option<Guid>,
}

impl Label<'_> {
    pub(crate) const fn display(&self) -> FWPM_DISPLAY_DATA0 {
        FWPM_DISPLAY_DATA0 {
            name: self.name.as_ptr(),
            description: self.description.as_ptr(),
        }
    }
}

/// The run-time identifier of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilterId(u64);

impl FilterId {
    /// The filter with this identifier, which WFP gave it.
    pub(crate) const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// How a filter asks its callout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalloutAction {
    /// The callout permits, blocks or continues.
    Unknown,
    /// The callout permits or blocks; anything else counts as block.
    Terminating,
    /// The callout watches; any answer counts as continue.
    Inspection,
}

impl CalloutAction {
    const fn action(self) -> Action {
        match self {
            Self::Unknown => Action::CalloutUnknown,
            Self::Terminating => Action::CalloutTerminating,
            Self::Inspection => Action::CalloutInspection,
        }
    }
}

/// A filter without conditions: it matches everything at its layer, and asks a callout.
#[derive(Clone, Copy, Debug)]
pub struct CatchAll<'a> {
    /// Its key.
    pub key: Guid,
    /// What it is called.
    pub label: Label<'a>,
    /// The layer's key.
    pub layer: Guid,
    /// The sublayer's key.
    pub sublayer: Guid,
    /// Its weight within the sublayer.
    pub weight: u64,
    /// How the callout is asked.
    pub action: CalloutAction,
    /// The callout's key.
    pub callout: Guid,
    /// `FWPM_FILTER_FLAG_*`.
    pub flags: FilterFlags,
}

/// A session with the base filtering engine, used by one thread at a time.
///
/// It may move to another thread; it must not be shared (`!Sync`), because a session has one
/// transaction.
#[derive(Debug)]
pub struct EngineSession {
    /// Taken when the session is closed explicitly.
    handle: Option<NonNull<c_void>>,
    /// Makes the type `!Sync`; see below for `Send`.
    _not_sync: PhantomData<*mut ()>,
}

// SAFETY: the handle is not bound to a thread; only concurrent use is ruled out.
unsafe impl Send for EngineSession {}

impl EngineSession {
    /// Opens a dynamic session: its objects go with it.
    ///
    /// # Errors
    /// The base filtering engine has to be running.
    pub fn open_dynamic(label: &Label<'_>, passive: Passive) -> Result<Self, NtStatus> {
        Self::open(label, SessionFlags::DYNAMIC, passive)
    }

    /// Opens a session whose objects stay: as long as the base filtering engine runs, or, if they
    /// are persistent, until they are deleted.
    ///
    /// # Errors
    /// The base filtering engine has to be running.
    pub fn open_static(label: &Label<'_>, passive: Passive) -> Result<Self, NtStatus> {
        Self::open(label, SessionFlags::NONE, passive)
    }

    fn open(label: &Label<'_>, flags: SessionFlags, _passive: Passive) -> Result<Self, NtStatus> {
        /// `RPC_C_AUTHN_WINNT`.
        const AUTHENTICATION: u32 = 10;

        let session = FWPM_SESSION0 {
            displayData: label.display(),
            flags: flags.bits(),
            ..Default::default()
        };
        let mut handle: HANDLE = ptr::null_mut();
        // SAFETY: server and identity are NULL as the DDI page asks, the session is only read,
        // and the token says PASSIVE_LEVEL.
        let status = unsafe {
            wfp_sys::FwpmEngineOpen0(
                ptr::null(),
                AUTHENTICATION,
                ptr::null_mut(),
                &raw const session,
                &raw mut handle,
            )
        };
        NtStatus::from_i32(status).ok()?;
        Ok(Self {
            handle: NonNull::new(handle),
            _not_sync: PhantomData,
        })
    }

    fn handle(&self) -> HANDLE {
        self.handle.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// Shows a filter of anybody's.
    ///
    /// # Errors
    /// `STATUS_FWP_FILTER_NOT_FOUND`.
    pub fn filter<T>(
        &self,
        id: u64,
        _passive: Passive,
        show: impl FnOnce(&FilterInfo<'_>) -> T,
    ) -> Result<T, NtStatus> {
        let mut raw: *mut FWPM_FILTER0 = ptr::null_mut();
        // SAFETY: the handle is open, and the token says PASSIVE_LEVEL.
        let status = unsafe { wfp_sys::FwpmFilterGetById0(self.handle(), id, &raw mut raw) };
        NtStatus::from_i32(status).ok()?;
        let object = Object::new(raw)?;
        let filter = object.get();
        // SAFETY: the key is NULL or lives as long as the filter.
        let provider = unsafe { filter.providerKey.as_ref() };
        let shown = show(&FilterInfo {
            key: from_guid(&filter.filterKey),
            // SAFETY: the name is NULL or lives as long as the filter; strings end with a NUL.
            name: unsafe { Text::new(filter.displayData.name) },
            provider: provider.map(from_guid),
        });
        Ok(shown)
    }

    /// Shows the display name of a provider.
    ///
    /// # Errors
    /// `STATUS_FWP_PROVIDER_NOT_FOUND`.
    pub fn provider_name<T>(
        &self,
        key: Guid,
        _passive: Passive,
        show: impl FnOnce(Text<'_>) -> T,
    ) -> Result<T, NtStatus> {
        let key = to_guid(key);
        let mut raw: *mut FWPM_PROVIDER0 = ptr::null_mut();
        // SAFETY: the handle is open, the key is only read, and the token says PASSIVE_LEVEL.
        let status =
            unsafe { wfp_sys::FwpmProviderGetByKey0(self.handle(), &raw const key, &raw mut raw) };
        NtStatus::from_i32(status).ok()?;
        let object = Object::new(raw)?;
        // SAFETY: the name is NULL or lives as long as the provider; strings end with a NUL.
        Ok(show(unsafe { Text::new(object.get().displayData.name) }))
    }

    /// Begins a transaction for reading and writing.
    ///
    /// # Errors
    /// `STATUS_FWP_TIMEOUT` when another session holds the lock for too long;
    /// `STATUS_FWP_SESSION_ABORTED` when the engine has stopped meanwhile.
    pub fn transaction(&mut self, passive: Passive) -> Result<Transaction<'_>, NtStatus> {
        // SAFETY: the handle is open, and the token says PASSIVE_LEVEL.
        let status = unsafe { wfp_sys::FwpmTransactionBegin0(self.handle(), 0) };
        NtStatus::from_i32(status).ok()?;
        Ok(Transaction {
            session: self,
            passive,
            open: true,
        })
    }

    /// Closes the session; an open transaction is aborted, and what was added dynamically goes.
    ///
    /// # Errors
    /// The handle is gone all the same.
    pub fn close(mut self, passive: Passive) -> Result<(), NtStatus> {
        self.close_handle(passive)
    }

    fn close_handle(&mut self, _passive: Passive) -> Result<(), NtStatus> {
        let Some(handle) = self.handle.take() else {
            return Ok(());
        };
        // SAFETY: the handle is open and not used again, and the token says PASSIVE_LEVEL.
        NtStatus::from_i32(unsafe { wfp_sys::FwpmEngineClose0(handle.as_ptr()) }).ok()
    }
}

impl Drop for EngineSession {
    fn drop(&mut self) {
        if self.handle.is_some() {
            // Sessions are made and kept at PASSIVE_LEVEL; one dropped elsewhere stays open.
            if let Some(passive) = Passive::check() {
                let _ = self.close_handle(passive);
            }
        }
    }
}

/// A filter as the engine tells of it.
#[derive(Clone, Debug)]
pub struct FilterInfo<'a> {
    /// Its key.
    pub key: Guid,
    /// Its display name.
    pub name: Text<'a>,
    /// The key of its provider.
    pub provider: Option<Guid>,
}

/// A string of the engine's: UTF-16 code units up to a NUL.
#[derive(Clone)]
pub struct Text<'a> {
    next: *const u16,
    _lives: PhantomData<&'a u16>,
}

impl Text<'_> {
    /// # Safety
    /// `text` is NULL, or leads to a string that ends with a NUL and lives for `'a`.
    const unsafe fn new(text: *const u16) -> Self {
        Self {
            next: text,
            _lives: PhantomData,
        }
    }
}

impl Iterator for Text<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        // SAFETY: NULL, or within the string: its NUL is not passed.
        let unit = unsafe { self.next.as_ref() }
            .copied()
            .filter(|&unit| unit != 0)?;
        // SAFETY: the unit is not the NUL, so another follows.
        self.next = unsafe { self.next.add(1) };
        Some(unit)
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in char::decode_utf16(self.clone()) {
            fmt::Write::write_char(f, letter.unwrap_or(char::REPLACEMENT_CHARACTER))?;
        }
        Ok(())
    }
}

/// An object that a get function returned; freed by its type.
struct Object<T>(NonNull<T>);

impl<T> Object<T> {
    /// Takes over what a get function returned.
    fn new(raw: *mut T) -> Result<Self, NtStatus> {
        NonNull::new(raw).map(Self).ok_or(NtStatus::UNSUCCESSFUL)
    }

    const fn get(&self) -> &T {
        // SAFETY: the object lives until it is freed.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Object<T> {
    fn drop(&mut self) {
        let mut raw: *mut c_void = self.0.as_ptr().cast();
        // SAFETY: a get function allocated it, and nobody refers to it any more.
        unsafe { wfp_sys::FwpmFreeMemory0(&raw mut raw) };
    }
}

/// A transaction: what happens in it becomes effective together, when it is committed.
#[derive(Debug)]
#[must_use = "a transaction that is not committed is aborted"]
pub struct Transaction<'s> {
    session: &'s mut EngineSession,
    passive: Passive,
    open: bool,
}

impl Transaction<'_> {
    /// The session's handle.
    pub(crate) fn handle(&self) -> HANDLE {
        self.session.handle()
    }

    /// Makes everything effective.
    ///
    /// # Errors
    /// Then nothing has become effective.
    pub fn commit(mut self) -> Result<(), NtStatus> {
        // SAFETY: the session has this transaction open, at PASSIVE_LEVEL.
        let status = unsafe { wfp_sys::FwpmTransactionCommit0(self.session.handle()) };
        NtStatus::from_i32(status).ok()?;
        self.open = false;
        Ok(())
    }

    /// `FwpmProviderAdd0`.
    ///
    /// # Errors
    /// `STATUS_FWP_ALREADY_EXISTS` if the key is in use.
    pub fn add_provider(
        &self,
        key: Guid,
        label: &Label<'_>,
        service: Wide<'_>,
    ) -> Result<(), NtStatus> {
        let provider = FWPM_PROVIDER0 {
            providerKey: to_guid(key),
            displayData: label.display(),
            serviceName: service.as_ptr(),
            ..Default::default()
        };
        // SAFETY: the provider is only read; no security descriptor means the inherited one.
        let status = unsafe {
            wfp_sys::FwpmProviderAdd0(self.session.handle(), &raw const provider, ptr::null_mut())
        };
        NtStatus::from_i32(status).ok()
    }

    /// `FwpmSubLayerAdd0`. Heavier sublayers are asked first.
    ///
    /// # Errors
    /// `STATUS_FWP_ALREADY_EXISTS` if the key is in use; `STATUS_FWP_PROVIDER_NOT_FOUND`.
    pub fn add_sublayer(&self, key: Guid, label: &Label<'_>, weight: u16) -> Result<(), NtStatus> {
        let mut provider = label.provider.map(to_guid);
        let sublayer = FWPM_SUBLAYER0 {
            subLayerKey: to_guid(key),
            displayData: label.display(),
            providerKey: optional(&mut provider),
            weight,
            ..Default::default()
        };
        // SAFETY: the sublayer and the key that it points at are only read during the call.
        let status = unsafe {
            wfp_sys::FwpmSubLayerAdd0(self.session.handle(), &raw const sublayer, ptr::null_mut())
        };
        NtStatus::from_i32(status).ok()
    }

    /// `FwpmCalloutAdd0`, for use by filters of `layer` alone.
    ///
    /// # Errors
    /// `STATUS_FWP_ALREADY_EXISTS` if the key is in use; `STATUS_FWP_PROVIDER_NOT_FOUND`.
    pub fn add_callout(
        &self,
        key: Guid,
        label: &Label<'_>,
        layer: Guid,
    ) -> Result<CalloutId, NtStatus> {
        let mut provider = label.provider.map(to_guid);
        let callout = FWPM_CALLOUT0 {
            calloutKey: to_guid(key),
            displayData: label.display(),
            providerKey: optional(&mut provider),
            applicableLayer: to_guid(layer),
            ..Default::default()
        };
        let mut id = 0;
        // SAFETY: the callout and the key that it points at are only read during the call.
        let status = unsafe {
            wfp_sys::FwpmCalloutAdd0(
                self.session.handle(),
                &raw const callout,
                ptr::null_mut(),
                &raw mut id,
            )
        };
        NtStatus::from_i32(status).ok()?;
        Ok(CalloutId::new(id))
    }

    /// `FwpmFilterAdd0`.
    ///
    /// # Errors
    /// A key that is in use or names nothing; `STATUS_FWP_CALLOUT_NOTIFICATION_FAILED` if the
    /// callout refuses the filter.
    #[allow(
        clippy::cast_possible_wrap,
        reason = "C makes enumerations signed; their members are small"
    )]
    pub fn add_filter(&self, filter: &CatchAll<'_>) -> Result<FilterId, NtStatus> {
        let mut provider = filter.label.provider.map(to_guid);
        let mut weight = filter.weight;
        let mut raw = FWPM_FILTER0 {
            filterKey: to_guid(filter.key),
            displayData: filter.label.display(),
            flags: filter.flags.bits(),
            providerKey: optional(&mut provider),
            layerKey: to_guid(filter.layer),
            subLayerKey: to_guid(filter.sublayer),
            weight: FWP_VALUE0 {
                type_: DataType::Uint64.value() as _,
                ..Default::default()
            },
            ..Default::default()
        };
        raw.weight.__bindgen_anon_1.uint64 = &raw mut weight;
        raw.action.type_ = filter.action.action().value();
        raw.action.__bindgen_anon_1.calloutKey = to_guid(filter.callout);
        let mut id = 0;
        // SAFETY: the filter and what it points at are only read during the call.
        let status = unsafe {
            wfp_sys::FwpmFilterAdd0(
                self.session.handle(),
                &raw const raw,
                ptr::null_mut(),
                &raw mut id,
            )
        };
        NtStatus::from_i32(status).ok()?;
        Ok(FilterId(id))
    }

    /// `FwpmFilterDeleteById0`.
    ///
    /// # Errors
    /// `STATUS_FWP_FILTER_NOT_FOUND`.
    pub fn delete_filter(&self, id: FilterId) -> Result<(), NtStatus> {
        // SAFETY: the session is open, at PASSIVE_LEVEL.
        let status = unsafe { wfp_sys::FwpmFilterDeleteById0(self.session.handle(), id.get()) };
        NtStatus::from_i32(status).ok()
    }

    /// `FwpmCalloutDeleteByKey0`. The callout's registration is another matter.
    ///
    /// # Errors
    /// `STATUS_FWP_CALLOUT_NOT_FOUND`; `STATUS_FWP_IN_USE` while filters name it.
    pub fn delete_callout(&self, key: Guid) -> Result<(), NtStatus> {
        let key = to_guid(key);
        // SAFETY: the key is only read during the call.
        let status =
            unsafe { wfp_sys::FwpmCalloutDeleteByKey0(self.session.handle(), &raw const key) };
        NtStatus::from_i32(status).ok()
    }

    /// `FwpmSubLayerDeleteByKey0`.
    ///
    /// # Errors
    /// `STATUS_FWP_SUBLAYER_NOT_FOUND`; `STATUS_FWP_IN_USE` while it has filters.
    pub fn delete_sublayer(&self, key: Guid) -> Result<(), NtStatus> {
        let key = to_guid(key);
        // SAFETY: the key is only read during the call.
        let status =
            unsafe { wfp_sys::FwpmSubLayerDeleteByKey0(self.session.handle(), &raw const key) };
        NtStatus::from_i32(status).ok()
    }

    /// `FwpmProviderDeleteByKey0`.
    ///
    /// # Errors
    /// `STATUS_FWP_PROVIDER_NOT_FOUND`; `STATUS_FWP_IN_USE` while objects belong to it.
    pub fn delete_provider(&self, key: Guid) -> Result<(), NtStatus> {
        let key = to_guid(key);
        // SAFETY: the key is only read during the call.
        let status =
            unsafe { wfp_sys::FwpmProviderDeleteByKey0(self.session.handle(), &raw const key) };
        NtStatus::from_i32(status).ok()
    }

    /// The token of the thread that began the transaction.
    #[must_use]
    pub const fn passive(&self) -> Passive {
        self.passive
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            // SAFETY: the session has this transaction open, at PASSIVE_LEVEL. A failure means
            // that the engine has aborted it already.
            let _ = unsafe { wfp_sys::FwpmTransactionAbort0(self.session.handle()) };
        }
    }
}

impl fmt::Display for FilterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key as C's structures have it.
pub(crate) const fn to_guid(key: Guid) -> GUID {
    let (data1, data2, data3, data4) = key.parts();
    GUID {
        Data1: data1,
        Data2: data2,
        Data3: data3,
        Data4: data4,
    }
}

/// The key that WFP spells so.
fn from_guid(guid: &GUID) -> Guid {
    let head =
        u128::from(guid.Data1) << 96 | u128::from(guid.Data2) << 80 | u128::from(guid.Data3) << 64;
    Guid::from_u128(head | u128::from(u64::from_be_bytes(guid.Data4)))
}

/// A pointer to what is there, else NULL.
pub(crate) fn optional(key: &mut Option<GUID>) -> *mut GUID {
    key.as_mut().map_or(ptr::null_mut(), ptr::from_mut)
}
