//! Conditions of filters.

mod check;
mod matching;
mod values;

pub(crate) use check::{check, data_type};
pub(crate) use matching::{compare, matches};
pub(crate) use values::Values;

use crate::options::Options;
use crate::value::Value;
use wfp_schema::{DataType, FieldIndex, Guid, MatchType, NtStatus};

/// `FWPM_FILTER_CONDITION0`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The key of the field.
    pub field: Guid,
    /// How it is compared.
    pub match_type: MatchType,
    /// With what.
    pub value: ConditionValue,
}

impl Condition {
    /// The field has exactly this value.
    #[must_use]
    pub const fn equal(field: Guid, value: ConditionValue) -> Self {
        Self::new(field, MatchType::Equal, value)
    }

    /// A condition of any match type.
    #[must_use]
    pub const fn new(field: Guid, match_type: MatchType, value: ConditionValue) -> Self {
        Self {
            field,
            match_type,
            value,
        }
    }
}

/// `FWP_CONDITION_VALUE0`.
#[derive(Clone, Debug, PartialEq)]
pub enum ConditionValue {
    /// `FWP_EMPTY`: the field is unknown.
    Empty,
    /// `FWP_UINT8`.
    Uint8(u8),
    /// `FWP_UINT16`.
    Uint16(u16),
    /// `FWP_UINT32`.
    Uint32(u32),
    /// `FWP_UINT64`.
    Uint64(u64),
    /// `FWP_INT8`.
    Int8(i8),
    /// `FWP_INT16`.
    Int16(i16),
    /// `FWP_INT32`.
    Int32(i32),
    /// `FWP_INT64`.
    Int64(i64),
    /// `FWP_FLOAT`.
    Float(f32),
    /// `FWP_DOUBLE`.
    Double(f64),
    /// `FWP_BYTE_ARRAY16_TYPE`.
    ByteArray16([u8; 16]),
    /// `FWP_BYTE_ARRAY6_TYPE`.
    ByteArray6([u8; 6]),
    /// `FWP_BYTE_BLOB_TYPE`.
    ByteBlob(Box<[u8]>),
    /// `FWP_SID`.
    Sid(Box<[u8]>),
    /// `FWP_SECURITY_DESCRIPTOR_TYPE`, self-relative.
    SecurityDescriptor(Box<[u8]>),
    /// `FWP_UNICODE_STRING_TYPE`, without the terminating NUL.
    UnicodeString(Box<[u16]>),
    /// `FWP_V4_ADDR_MASK`, both in host order.
    V4AddrMask {
        /// The address; bits outside the mask do not count.
        address: u32,
        /// The mask: ones, then zeros.
        mask: u32,
    },
    /// `FWP_V6_ADDR_MASK`.
    V6AddrMask {
        /// The address in network order; bits behind the prefix do not count.
        address: [u8; 16],
        /// Length of the prefix in bits, up to 128.
        prefix: u8,
    },
    /// `FWP_RANGE_TYPE`, both ends included.
    Range(Box<(Self, Self)>),
}

impl ConditionValue {
    /// The value of a range.
    #[must_use]
    pub fn range(low: Self, high: Self) -> Self {
        Self::Range(Box::new((low, high)))
    }

    /// Its `FWP_DATA_TYPE`.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        match self {
            Self::SecurityDescriptor(_) => DataType::SecurityDescriptor,
            Self::V4AddrMask { .. } => DataType::V4AddrMask,
            Self::V6AddrMask { .. } => DataType::V6AddrMask,
            Self::Range(_) => DataType::Range,
            single => single
                .as_value()
                .map_or(DataType::Empty, |value| value.data_type()),
        }
    }

    /// Whether it is an address and a mask.
    const fn is_network(&self) -> bool {
        matches!(self, Self::V4AddrMask { .. } | Self::V6AddrMask { .. })
    }

    /// The value that a field of the same type would have; `None` for the types
    /// that only conditions have.
    fn as_value(&self) -> Option<Value<'_>> {
        Some(match self {
            Self::Empty => Value::Empty,
            Self::Uint8(v) => Value::Uint8(*v),
            Self::Uint16(v) => Value::Uint16(*v),
            Self::Uint32(v) => Value::Uint32(*v),
            Self::Uint64(v) => Value::Uint64(*v),
            Self::Int8(v) => Value::Int8(*v),
            Self::Int16(v) => Value::Int16(*v),
            Self::Int32(v) => Value::Int32(*v),
            Self::Int64(v) => Value::Int64(*v),
            Self::Float(v) => Value::Float(*v),
            Self::Double(v) => Value::Double(*v),
            Self::ByteArray16(v) => Value::ByteArray16(v),
            Self::ByteArray6(v) => Value::ByteArray6(v),
            Self::ByteBlob(v) => Value::ByteBlob(v),
            Self::Sid(v) => Value::Sid(v),
            Self::UnicodeString(v) => Value::UnicodeString(v),
            Self::SecurityDescriptor(_)
            | Self::V4AddrMask { .. }
            | Self::V6AddrMask { .. }
            | Self::Range(_) => return None,
        })
    }
}

/// A condition of a filter in the kernel: the field by its index.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeCondition {
    /// The field.
    pub field: FieldIndex,
    /// How it is compared.
    pub match_type: MatchType,
    /// With what.
    pub value: ConditionValue,
    /// The upper end of a range belongs to it.
    includes_high: bool,
}

impl RuntimeCondition {
    /// A condition on a field that holds values of a type.
    ///
    /// # Errors
    /// `FWP_TYPE_MISMATCH`, `FWP_MATCH_TYPE_MISMATCH`, `FWP_INVALID_RANGE`,
    /// `FWP_INVALID_NET_MASK`, `INVALID_SECURITY_DESCR`.
    pub fn new(
        field: FieldIndex,
        field_type: DataType,
        match_type: MatchType,
        value: ConditionValue,
        options: &Options,
    ) -> Result<Self, NtStatus> {
        check::check_types(field_type, match_type, &value)?;
        Ok(Self {
            field,
            match_type,
            value,
            includes_high: options.range_includes_high,
        })
    }

    /// Whether a value of the field fulfils it.
    #[must_use]
    pub fn is_met_by(&self, value: &Value<'_>) -> bool {
        matching::matches_one(self, value)
    }
}
