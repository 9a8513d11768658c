//! The values that a classify is indicated with.

use core::{ffi::c_void, fmt};

use wfp_schema::{DataType, FieldIndex};
use wfp_sys::{
    FWP_BYTE_BLOB, FWP_TOKEN_INFORMATION, FWP_VALUE0, FWPS_INCOMING_VALUE0, FWPS_INCOMING_VALUES0,
};

use crate::token;

/// One value, with its data where WFP keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `FWP_EMPTY`: not known at this classify. Also a field that the running system lacks.
    Empty,
    /// `FWP_UINT8`.
    Uint8(u8),
    /// `FWP_UINT16`; ports are in host order.
    Uint16(u16),
    /// `FWP_UINT32`; IPv4 addresses are in host order.
    Uint32(u32),
    /// `FWP_UINT64`.
    Uint64(u64),
    /// `FWP_BYTE_ARRAY16_TYPE`, such as an IPv6 address in network order.
    Bytes16(&'a [u8; 16]),
    /// `FWP_BYTE_BLOB_TYPE`.
    Blob(&'a [u8]),
    /// `FWP_SID`; also the user of `FWP_TOKEN_INFORMATION_TYPE`.
    Sid(&'a [u8]),
    /// `FWP_TOKEN_ACCESS_INFORMATION_TYPE`.
    Token(&'a [u8]),
    /// A type that no layer's fields have here, or a pointer that is NULL.
    Other,
}

/// The values of one classify by field index.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    values: &'a [FWPS_INCOMING_VALUE0],
    layer: u16,
}

impl<'a> Values<'a> {
    /// # Safety
    /// `raw` is what WFP passes to a classify function, whose call `'a` does not outlive.
    pub(crate) const unsafe fn new(raw: &'a FWPS_INCOMING_VALUES0) -> Self {
        let values = if raw.incomingValue.is_null() {
            &[]
        } else {
            // SAFETY: WFP fills `valueCount` values, which live as long as the call.
            unsafe { core::slice::from_raw_parts(raw.incomingValue, raw.valueCount as usize) }
        };
        Self {
            values,
            layer: raw.layerId,
        }
    }

    /// The run-time identifier of the layer.
    #[must_use]
    pub const fn layer(&self) -> u16 {
        self.layer
    }

    /// The value of a field. An older system has fewer fields; those are [`Value::Empty`].
    #[must_use]
    pub fn get(&self, field: FieldIndex) -> Value<'a> {
        self.values
            .get(field.get())
            // SAFETY: the value is one of a running classify, as `new` was promised.
            .map_or(Value::Empty, |incoming| unsafe { read(&incoming.value) })
    }
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values")
            .field("layer", &self.layer)
            .field("count", &self.values.len())
            .finish_non_exhaustive()
    }
}

/// # Safety
/// `value` is one that WFP passed to a classify function, whose call `'a` does not outlive: its
/// type says which member is valid, and pointers lead to what that type describes.
#[allow(
    clippy::cast_sign_loss,
    reason = "the types of FWP_DATA_TYPE are not negative; C makes enumerations signed"
)]
unsafe fn read(value: &FWP_VALUE0) -> Value<'_> {
    let Some(data_type) = DataType::from_u32(value.type_ as u32) else {
        return Value::Other;
    };
    let data = &value.__bindgen_anon_1;
    match data_type {
        DataType::Empty => Value::Empty,
        // SAFETY: the type says that this member is valid.
        DataType::Uint8 => Value::Uint8(unsafe { data.uint8 }),
        // SAFETY: as above.
        DataType::Uint16 => Value::Uint16(unsafe { data.uint16 }),
        // SAFETY: as above.
        DataType::Uint32 => Value::Uint32(unsafe { data.uint32 }),
        DataType::Uint64 => {
            // SAFETY: as above.
            let pointer = unsafe { data.uint64 };
            // SAFETY: the pointer is NULL or leads to a number.
            unsafe { pointer.as_ref() }.map_or(Value::Other, |number| Value::Uint64(*number))
        }
        DataType::ByteArray16 => {
            // SAFETY: as above.
            let pointer = unsafe { data.byteArray16 };
            // SAFETY: the pointer is NULL or leads to 16 bytes.
            unsafe { pointer.as_ref() }
                .map_or(Value::Other, |array| Value::Bytes16(&array.byteArray16))
        }
        DataType::ByteBlob => {
            // SAFETY: as above.
            let pointer = unsafe { data.byteBlob };
            // SAFETY: the pointer is NULL or leads to a blob.
            unsafe { blob(pointer) }.map_or(Value::Other, Value::Blob)
        }
        DataType::TokenAccessInformation => {
            // SAFETY: as above.
            let pointer = unsafe { data.tokenAccessInformation };
            // SAFETY: the pointer is NULL or leads to a blob.
            unsafe { blob(pointer) }.map_or(Value::Other, Value::Token)
        }
        DataType::Sid => {
            // SAFETY: as above.
            let pointer = unsafe { data.sid };
            // SAFETY: the pointer is NULL or leads to a SID.
            unsafe { sid(pointer.cast()) }.map_or(Value::Other, Value::Sid)
        }
        DataType::TokenInformation => {
            // SAFETY: as above.
            let pointer = unsafe { data.tokenInformation };
            // SAFETY: the pointer is NULL or leads to a token's groups.
            unsafe { first_group(pointer) }.map_or(Value::Other, Value::Sid)
        }
        _ => Value::Other,
    }
}

/// The first of a token's groups, which is its user.
///
/// # Safety
/// `pointer` is NULL or leads to groups that live for `'a`.
unsafe fn first_group<'a>(pointer: *const FWP_TOKEN_INFORMATION) -> Option<&'a [u8]> {
    // SAFETY: forwarded from the caller.
    let information = unsafe { pointer.as_ref() }?;
    if information.sidCount == 0 {
        return None;
    }
    // SAFETY: there are `sidCount` entries, unless the pointer is NULL.
    let first = unsafe { information.sids.as_ref() }?;
    // SAFETY: an entry leads to a SID.
    unsafe { sid(first.Sid) }
}

/// # Safety
/// `pointer` is NULL or leads to a blob that lives for `'a`.
pub(crate) unsafe fn blob<'a>(pointer: *const FWP_BYTE_BLOB) -> Option<&'a [u8]> {
    // SAFETY: forwarded from the caller.
    let blob = unsafe { pointer.as_ref() }?;
    if blob.size == 0 {
        return Some(&[]);
    }
    if blob.data.is_null() {
        return None;
    }
    // SAFETY: a blob's data is as long as its size says.
    Some(unsafe { core::slice::from_raw_parts(blob.data, blob.size as usize) })
}

/// # Safety
/// `pointer` is NULL or leads to a SID that lives for `'a`.
unsafe fn sid<'a>(pointer: *const c_void) -> Option<&'a [u8]> {
    /// Bytes of a SID that every SID has: revision, count, and authority.
    const HEADER: usize = 8;

    let first = pointer.cast::<[u8; HEADER]>();
    // SAFETY: the pointer is NULL or leads to a SID, which is at least its header.
    let header = unsafe { first.as_ref() }?;
    let length = HEADER + 4 * usize::from(header[1]);
    // SAFETY: the header's second byte counts the sub-authorities of four bytes that follow it.
    token::sid(unsafe { core::slice::from_raw_parts(first.cast(), length) })
}
