//! Filters that ask no callout: they permit or block by their conditions alone, and may outlive the driver.

use core::{
    ffi::c_void,
    ptr::{self, NonNull},
};

use wdk_sys::{GUID, HANDLE};
use wfp_schema::{
    Action, DataType, FilterEnumFlags, FilterFlags, Guid, MatchType, NtStatus, condition,
};
use wfp_sys::{
    FWP_BYTE_ARRAY16, FWP_BYTE_BLOB, FWP_CONDITION_VALUE0, FWP_RANGE0, FWP_VALUE0,
    FWPM_FILTER_CONDITION0, FWPM_FILTER_ENUM_TEMPLATE0, FWPM_FILTER0, FWPM_PROVIDER0,
    FWPM_SUBLAYER0,
};

use crate::{
    engine::{FilterId, Label, Transaction, optional, to_guid},
    pool::{PoolVec, Tag},
    wide::Wide,
};

/// What a plain filter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainAction {
    /// It permits.
    Permit,
    /// It blocks, and no lighter sublayer may permit.
    Block,
}

/// How a plain filter outlives its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlives {
    /// Not at all, if the session is dynamic; else until the base filtering engine stops.
    Nothing,
    /// It comes back whenever the base filtering engine starts.
    Persistent,
    /// It is in force from the start of the network stack until the base filtering engine has
    /// started. Excludes the former.
    BootTime,
}

/// A condition of a plain filter. Ranges include both ends.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'a> {
    /// The traffic stays on this machine.
    Loopback,
    /// The IP protocol's number.
    Protocol(u8, u8),
    /// The local port, for ICMP the message's type; in the processor's byte order.
    LocalPort(u16, u16),
    /// The remote port, for ICMP the message's code; in the processor's byte order.
    RemotePort(u16, u16),
    /// The local address at an IPv4 layer, in the processor's byte order.
    LocalV4(u32, u32),
    /// The remote address at an IPv4 layer, in the processor's byte order.
    RemoteV4(u32, u32),
    /// The local address at an IPv6 layer, in network order.
    LocalV6([u8; 16], [u8; 16]),
    /// The remote address at an IPv6 layer, in network order.
    RemoteV6([u8; 16], [u8; 16]),
    /// The interface that has the local address, by its LUID.
    Interface(u64),
    /// The type of that interface: IANA's `ifType`.
    InterfaceType(u32, u32),
    /// The application: its path in NT form, lower case, as bytes of UTF-16 without a terminator.
    Application(&'a [u8]),
}

/// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
const IS_LOOPBACK: u32 = wfp_schema::ConditionFlags::IS_LOOPBACK.bits();

impl Condition<'_> {
    /// The field's key.
    const fn field(&self) -> Guid {
        match self {
            Self::Loopback => condition::FLAGS,
            Self::Protocol(..) => condition::IP_PROTOCOL,
            Self::LocalPort(..) => condition::IP_LOCAL_PORT,
            Self::RemotePort(..) => condition::IP_REMOTE_PORT,
            Self::LocalV4(..) | Self::LocalV6(..) => condition::IP_LOCAL_ADDRESS,
            Self::RemoteV4(..) | Self::RemoteV6(..) => condition::IP_REMOTE_ADDRESS,
            Self::Interface(_) => condition::IP_LOCAL_INTERFACE,
            Self::InterfaceType(..) => condition::INTERFACE_TYPE,
            Self::Application(_) => condition::ALE_APP_ID,
        }
    }

    /// The upper end of a range of more than one value, as a condition of its own.
    fn end(&self) -> Option<Self> {
        match *self {
            Self::Protocol(first, last) if first != last => Some(Self::Protocol(last, last)),
            Self::LocalPort(first, last) if first != last => Some(Self::LocalPort(last, last)),
            Self::RemotePort(first, last) if first != last => Some(Self::RemotePort(last, last)),
            Self::LocalV4(first, last) if first != last => Some(Self::LocalV4(last, last)),
            Self::RemoteV4(first, last) if first != last => Some(Self::RemoteV4(last, last)),
            Self::LocalV6(first, last) if first != last => Some(Self::LocalV6(last, last)),
            Self::RemoteV6(first, last) if first != last => Some(Self::RemoteV6(last, last)),
            Self::InterfaceType(first, last) if first != last => {
                Some(Self::InterfaceType(last, last))
            }
            _ => None,
        }
    }
}

/// A filter that asks no callout.
#[derive(Debug)]
pub struct PlainFilter<'a> {
    /// Its key.
    pub key: Guid,
    /// What it is called; its provider has to be persistent too.
    pub label: Label<'a>,
    /// The layer's key.
    pub layer: Guid,
    /// The key of its sublayer, which has to be persistent, and of the same provider.
    pub sublayer: Guid,
    /// Its weight within the sublayer.
    pub weight: u64,
    /// What it does.
    pub action: PlainAction,
    /// How it outlives its session.
    pub outlives: Outlives,
}

/// Conditions as WFP takes them: those on one field stand side by side and are alternatives.
pub struct Conditions {
    entries: PoolVec<Entry>,
    raw: PoolVec<FWPM_FILTER_CONDITION0>,
    tag: Tag,
}

/// One condition with what its value points at.
struct Entry {
    range: FWP_RANGE0,
    bytes: [FWP_BYTE_ARRAY16; 2],
    number: u64,
    blob: FWP_BYTE_BLOB,
    path: Option<PoolVec<u8>>,
}

impl core::fmt::Debug for Conditions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Conditions")
            .field("count", &self.raw.len())
            .finish_non_exhaustive()
    }
}

impl Conditions {
    /// Room for this many conditions.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_with_capacity(tag: Tag, capacity: usize) -> Result<Self, NtStatus> {
        // A range is two.
        let capacity = capacity.saturating_mul(2);
        Ok(Self {
            entries: PoolVec::try_with_capacity(tag, capacity)?,
            raw: PoolVec::try_with_capacity(tag, capacity)?,
            tag,
        })
    }

    /// Adds a condition.
    ///
    /// The page of `FWP_MATCH_TYPE` does not say whether a range's upper end belongs to it. So the end is
    /// added as an alternative of its own, and a protection has no gap either way.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, also when there is no room left.
    pub fn push(&mut self, condition: &Condition<'_>) -> Result<(), NtStatus> {
        self.push_one(condition)?;
        condition.end().map_or(Ok(()), |end| self.push_one(&end))
    }

    #[allow(
        clippy::cast_possible_wrap,
        reason = "C makes enumerations signed; their members are small"
    )]
    fn push_one(&mut self, condition: &Condition<'_>) -> Result<(), NtStatus> {
        const FULL: NtStatus = NtStatus::INSUFFICIENT_RESOURCES;

        let path = match condition {
            Condition::Application(path) => Some(self.terminated(path)?),
            _ => None,
        };
        let entry = Entry {
            range: FWP_RANGE0::default(),
            bytes: [FWP_BYTE_ARRAY16::default(); 2],
            number: 0,
            blob: FWP_BYTE_BLOB::default(),
            path,
        };
        self.entries.push(entry).map_err(|_| FULL)?;
        // It stays where it is: the vector never moves its elements.
        let entry = self.entries.last_mut().ok_or(FULL)?;
        let (matches, value) = entry.value(condition);
        let raw = FWPM_FILTER_CONDITION0 {
            fieldKey: to_guid(condition.field()),
            matchType: matches.value() as _,
            conditionValue: value,
        };
        self.raw.push(raw).map_err(|_| FULL)
    }

    /// The path with the terminator that belongs to it in `ALE_APP_ID`.
    fn terminated(&self, path: &[u8]) -> Result<PoolVec<u8>, NtStatus> {
        PoolVec::try_from_fn(self.tag, path.len() + 2, |at| {
            path.get(at).copied().unwrap_or(0)
        })
    }
}

impl Entry {
    /// The condition's value, which points into this entry.
    fn value(&mut self, condition: &Condition<'_>) -> (MatchType, FWP_CONDITION_VALUE0) {
        match *condition {
            Condition::Loopback => {
                let mut value = typed(DataType::Uint32);
                value.__bindgen_anon_1.uint32 = IS_LOOPBACK;
                (MatchType::FlagsAnySet, value)
            }
            // One value is compared, not looked for in a range.
            Condition::Protocol(one, same) if one == same => {
                let mut value = typed(DataType::Uint8);
                value.__bindgen_anon_1.uint8 = one;
                (MatchType::Equal, value)
            }
            Condition::LocalPort(one, same) | Condition::RemotePort(one, same) if one == same => {
                let mut value = typed(DataType::Uint16);
                value.__bindgen_anon_1.uint16 = one;
                (MatchType::Equal, value)
            }
            Condition::LocalV4(one, same)
            | Condition::RemoteV4(one, same)
            | Condition::InterfaceType(one, same)
                if one == same =>
            {
                let mut value = typed(DataType::Uint32);
                value.__bindgen_anon_1.uint32 = one;
                (MatchType::Equal, value)
            }
            Condition::LocalV6(one, same) | Condition::RemoteV6(one, same) if one == same => {
                self.bytes[0] = FWP_BYTE_ARRAY16 { byteArray16: one };
                let mut value = typed(DataType::ByteArray16);
                value.__bindgen_anon_1.byteArray16 = &raw mut self.bytes[0];
                (MatchType::Equal, value)
            }
            Condition::Protocol(first, last) => self.range(DataType::Uint8, |low, high| {
                low.__bindgen_anon_1.uint8 = first;
                high.__bindgen_anon_1.uint8 = last;
            }),
            Condition::LocalPort(first, last) | Condition::RemotePort(first, last) => {
                self.range(DataType::Uint16, |low, high| {
                    low.__bindgen_anon_1.uint16 = first;
                    high.__bindgen_anon_1.uint16 = last;
                })
            }
            Condition::Interface(luid) => {
                self.number = luid;
                let mut value = typed(DataType::Uint64);
                value.__bindgen_anon_1.uint64 = &raw mut self.number;
                (MatchType::Equal, value)
            }
            Condition::LocalV4(first, last)
            | Condition::RemoteV4(first, last)
            | Condition::InterfaceType(first, last) => self.range(DataType::Uint32, |low, high| {
                low.__bindgen_anon_1.uint32 = first;
                high.__bindgen_anon_1.uint32 = last;
            }),
            Condition::LocalV6(first, last) | Condition::RemoteV6(first, last) => {
                self.bytes = [first, last].map(|bytes| FWP_BYTE_ARRAY16 { byteArray16: bytes });
                let [low_bytes, high_bytes] = self.bytes.each_mut().map(ptr::from_mut);
                self.range(DataType::ByteArray16, |low, high| {
                    low.__bindgen_anon_1.byteArray16 = low_bytes;
                    high.__bindgen_anon_1.byteArray16 = high_bytes;
                })
            }
            Condition::Application(_) => {
                let path = self.path.as_deref_mut().unwrap_or_default();
                self.blob = FWP_BYTE_BLOB {
                    size: u32::try_from(path.len()).unwrap_or(0),
                    data: path.as_mut_ptr(),
                };
                let mut value = typed(DataType::ByteBlob);
                value.__bindgen_anon_1.byteBlob = &raw mut self.blob;
                (MatchType::Equal, value)
            }
        }
    }

    #[allow(
        clippy::cast_possible_wrap,
        reason = "C makes enumerations signed; their members are small"
    )]
    fn range(
        &mut self,
        kind: DataType,
        set: impl FnOnce(&mut FWP_VALUE0, &mut FWP_VALUE0),
    ) -> (MatchType, FWP_CONDITION_VALUE0) {
        let empty = FWP_VALUE0 {
            type_: kind.value() as _,
            ..Default::default()
        };
        (self.range.valueLow, self.range.valueHigh) = (empty, empty);
        set(&mut self.range.valueLow, &mut self.range.valueHigh);
        let mut value = typed(DataType::Range);
        value.__bindgen_anon_1.rangeValue = &raw mut self.range;
        (MatchType::Range, value)
    }
}

#[allow(
    clippy::cast_possible_wrap,
    reason = "C makes enumerations signed; their members are small"
)]
fn typed(kind: DataType) -> FWP_CONDITION_VALUE0 {
    FWP_CONDITION_VALUE0 {
        type_: kind.value() as _,
        ..Default::default()
    }
}

/// `FWPM_PROVIDER_FLAG_PERSISTENT` and `FWPM_SUBLAYER_FLAG_PERSISTENT`.
const PERSISTENT: u32 = 1;

impl Transaction<'_> {
    /// `FWPM_PROVIDER_FLAG_PERSISTENT`: a provider that stays until it is deleted.
    ///
    /// The objects of a provider with a service are only loaded when the base filtering engine
    /// starts if that service starts automatically (page of `FwpmProviderAdd0`).
    ///
    /// # Errors
    /// `STATUS_FWP_ALREADY_EXISTS` if the key is in use; `STATUS_FWP_LIFETIME_MISMATCH` in a
    /// dynamic session.
    pub fn add_persistent_provider(
        &self,
        key: Guid,
        label: &Label<'_>,
        service: Wide<'_>,
    ) -> Result<(), NtStatus> {
        let provider = FWPM_PROVIDER0 {
            providerKey: to_guid(key),
            displayData: label.display(),
            flags: PERSISTENT,
            serviceName: service.as_ptr(),
            ..Default::default()
        };
        // SAFETY: the provider is only read; no security descriptor means the inherited one.
        let status = unsafe {
            wfp_sys::FwpmProviderAdd0(self.handle(), &raw const provider, ptr::null_mut())
        };
        NtStatus::from_i32(status).ok()
    }

    /// `FWPM_SUBLAYER_FLAG_PERSISTENT`: a sublayer that stays until it is deleted.
    ///
    /// # Errors
    /// As [`add_sublayer`](Self::add_sublayer); `STATUS_FWP_LIFETIME_MISMATCH` in a dynamic
    /// session, and for a provider that is not persistent.
    pub fn add_persistent_sublayer(
        &self,
        key: Guid,
        label: &Label<'_>,
        weight: u16,
    ) -> Result<(), NtStatus> {
        let mut provider = label.provider.map(to_guid);
        let sublayer = FWPM_SUBLAYER0 {
            subLayerKey: to_guid(key),
            displayData: label.display(),
            flags: PERSISTENT,
            providerKey: optional(&mut provider),
            weight,
            ..Default::default()
        };
        // SAFETY: the sublayer and the key that it points at are only read during the call.
        let status = unsafe {
            wfp_sys::FwpmSubLayerAdd0(self.handle(), &raw const sublayer, ptr::null_mut())
        };
        NtStatus::from_i32(status).ok()
    }

    /// Whether there is a sublayer with this key.
    ///
    /// # Errors
    /// Whatever `FwpmSubLayerGetByKey0` answers but `STATUS_FWP_SUBLAYER_NOT_FOUND`.
    pub fn has_sublayer(&self, key: Guid) -> Result<bool, NtStatus> {
        let key = to_guid(key);
        let mut found: *mut FWPM_SUBLAYER0 = ptr::null_mut();
        // SAFETY: the key is only read, and what is found is freed below.
        let status = unsafe {
            wfp_sys::FwpmSubLayerGetByKey0(self.handle(), &raw const key, &raw mut found)
        };
        match NtStatus::from_i32(status) {
            NtStatus::FWP_SUBLAYER_NOT_FOUND => Ok(false),
            status => {
                status.ok()?;
                free(&mut found.cast());
                Ok(true)
            }
        }
    }

    /// `FwpmFilterAdd0`.
    ///
    /// # Errors
    /// A key that is in use or names nothing; `STATUS_FWP_LIFETIME_MISMATCH` for a provider or a
    /// sublayer that does not last as long.
    #[allow(
        clippy::cast_possible_wrap,
        reason = "C makes enumerations signed; their members are small"
    )]
    pub fn add_plain_filter(
        &self,
        filter: &PlainFilter<'_>,
        conditions: &mut Conditions,
    ) -> Result<FilterId, NtStatus> {
        let mut provider = filter.label.provider.map(to_guid);
        let mut weight = filter.weight;
        let flags = match filter.outlives {
            Outlives::Nothing => FilterFlags::NONE,
            Outlives::Persistent => FilterFlags::PERSISTENT,
            Outlives::BootTime => FilterFlags::BOOTTIME,
        };
        let action = match filter.action {
            PlainAction::Permit => Action::Permit,
            PlainAction::Block => Action::Block,
        };
        let mut raw = FWPM_FILTER0 {
            filterKey: to_guid(filter.key),
            displayData: filter.label.display(),
            flags: flags.bits(),
            providerKey: optional(&mut provider),
            layerKey: to_guid(filter.layer),
            subLayerKey: to_guid(filter.sublayer),
            weight: FWP_VALUE0 {
                type_: DataType::Uint64.value() as _,
                ..Default::default()
            },
            numFilterConditions: u32::try_from(conditions.raw.len())
                .map_err(|_| NtStatus::INVALID_PARAMETER)?,
            filterCondition: if conditions.raw.is_empty() {
                ptr::null_mut()
            } else {
                conditions.raw.as_mut_ptr()
            },
            ..Default::default()
        };
        raw.weight.__bindgen_anon_1.uint64 = &raw mut weight;
        raw.action.type_ = action.value();
        let mut id = 0;
        // SAFETY: the filter, its conditions and what they point at are only read during the call.
        let status = unsafe {
            wfp_sys::FwpmFilterAdd0(self.handle(), &raw const raw, ptr::null_mut(), &raw mut id)
        };
        NtStatus::from_i32(status).ok()?;
        Ok(FilterId::new(id))
    }

    /// Deletes every filter of a provider at one layer: those in force, those that only hold at
    /// boot, and those that are disabled. Returns how many there were.
    ///
    /// # Errors
    /// Of the enumeration, or of a deletion.
    pub fn delete_filters_of(&self, provider: Guid, layer: Guid) -> Result<usize, NtStatus> {
        let mut deleted = 0;
        let enumeration = Enumeration::new(self, provider, layer)?;
        while let Some(filters) = enumeration.next()? {
            for id in filters.ids() {
                self.delete_filter(id)?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}

/// `FWP_FILTER_ENUM_OVERLAPPING`.
const OVERLAPPING: wfp_sys::FWP_FILTER_ENUM_TYPE = 1;

/// Filters that an enumeration returns at a time.
const PAGE: u32 = 32;

/// An enumeration of filters, as they were when it began.
struct Enumeration<'t> {
    transaction: &'t Transaction<'t>,
    handle: HANDLE,
}

impl<'t> Enumeration<'t> {
    #[allow(
        clippy::cast_possible_wrap,
        reason = "C makes enumerations signed; their members are small"
    )]
    fn new(
        transaction: &'t Transaction<'_>,
        provider: Guid,
        layer: Guid,
    ) -> Result<Self, NtStatus> {
        let mut provider: GUID = to_guid(provider);
        let flags = FilterEnumFlags::INCLUDE_BOOTTIME | FilterEnumFlags::INCLUDE_DISABLED;
        let template = FWPM_FILTER_ENUM_TEMPLATE0 {
            providerKey: &raw mut provider,
            layerKey: to_guid(layer),
            // Whatever its conditions: those that contain all traffic would be those without any.
            enumType: OVERLAPPING,
            flags: flags.bits(),
            // Any action.
            actionMask: u32::MAX,
            ..Default::default()
        };
        let mut handle: HANDLE = ptr::null_mut();
        // SAFETY: the template and the key that it points at are only read during the call.
        let status = unsafe {
            wfp_sys::FwpmFilterCreateEnumHandle0(
                transaction.handle(),
                &raw const template,
                &raw mut handle,
            )
        };
        NtStatus::from_i32(status).ok()?;
        Ok(Self {
            transaction,
            handle,
        })
    }

    /// The next filters; `None` when there are no more.
    fn next(&self) -> Result<Option<Page>, NtStatus> {
        let mut entries: *mut *mut FWPM_FILTER0 = ptr::null_mut();
        let mut count = 0;
        // SAFETY: the handle is of this session's enumeration; what is returned is freed by `Page`.
        let status = unsafe {
            wfp_sys::FwpmFilterEnum0(
                self.transaction.handle(),
                self.handle,
                PAGE,
                &raw mut entries,
                &raw mut count,
            )
        };
        NtStatus::from_i32(status).ok()?;
        let page = NonNull::new(entries).map(|entries| Page { entries, count });
        Ok(page.filter(|page| page.count > 0))
    }
}

impl Drop for Enumeration<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is of this session's enumeration, and not used again. A failure
        // leaves it to the session's end.
        let _ = unsafe {
            wfp_sys::FwpmFilterDestroyEnumHandle0(self.transaction.handle(), self.handle)
        };
    }
}

/// Filters that an enumeration has returned.
struct Page {
    entries: NonNull<*mut FWPM_FILTER0>,
    count: u32,
}

impl Page {
    fn ids(&self) -> impl Iterator<Item = FilterId> + '_ {
        (0..self.count as usize).filter_map(|at| {
            // SAFETY: `FwpmFilterEnum0` has returned `count` entries.
            let place = unsafe { self.entries.add(at) };
            // SAFETY: as above.
            let entry = unsafe { place.read() };
            // SAFETY: each points at a filter, and all live until the page is freed.
            let filter = unsafe { entry.as_ref() };
            filter.map(|filter| FilterId::new(filter.filterId))
        })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        free(&mut self.entries.as_ptr().cast());
    }
}

/// Gives memory back that the management interface has lent.
fn free(memory: &mut *mut c_void) {
    // SAFETY: the pointer came from a call of the management interface, and is not used again.
    unsafe { wfp_sys::FwpmFreeMemory0(memory) };
}
