//! Conditions: checking them when a filter is added, and matching.

use crate::security;
use crate::value::Value;
use std::cmp::Ordering;
use wfp_schema::{DataType, Field, FieldIndex, Guid, IpVersion, Layer, MatchType, NtStatus};

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
}

/// Checks a filter's conditions against its layer.
///
/// The conditions come back ordered by field, those of one field side by side.
///
/// # Errors
/// `FWP_CONDITION_NOT_FOUND`, `FWP_TYPE_MISMATCH`, `FWP_MATCH_TYPE_MISMATCH`,
/// `FWP_INVALID_RANGE`, `FWP_INVALID_NET_MASK`, `INVALID_SECURITY_DESCR`.
pub(crate) fn check(
    layer: &Layer,
    conditions: &[Condition],
) -> Result<Vec<RuntimeCondition>, NtStatus> {
    let mut checked = conditions
        .iter()
        .map(|condition| {
            let field = layer
                .field_by_condition(condition.field)
                .ok_or(NtStatus::FWP_CONDITION_NOT_FOUND)?;
            check_one(field, layer.version(), condition)?;
            Ok(RuntimeCondition {
                field: field.index(),
                match_type: condition.match_type,
                value: condition.value.clone(),
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    checked.sort_by_key(|condition| condition.field);
    Ok(checked)
}

fn check_one(
    field: &Field,
    version: Option<IpVersion>,
    condition: &Condition,
) -> Result<(), NtStatus> {
    let field_type = field.data_type(version);
    match (&condition.value, field_type) {
        (ConditionValue::Empty, _) => allow(condition.match_type == MatchType::Equal),
        (ConditionValue::V4AddrMask { mask, .. }, DataType::Uint32) => {
            if mask.leading_ones() + mask.trailing_zeros() != u32::BITS {
                return Err(NtStatus::FWP_INVALID_NET_MASK);
            }
            allow(condition.match_type == MatchType::Equal)
        }
        (ConditionValue::V6AddrMask { prefix, .. }, DataType::ByteArray16) => {
            if *prefix > 128 {
                return Err(NtStatus::FWP_INVALID_NET_MASK);
            }
            allow(condition.match_type == MatchType::Equal)
        }
        (
            ConditionValue::SecurityDescriptor(descriptor),
            DataType::TokenInformation | DataType::TokenAccessInformation,
        ) => {
            if !security::is_valid(descriptor) {
                return Err(NtStatus::INVALID_SECURITY_DESCR);
            }
            allow(condition.match_type == MatchType::Equal)
        }
        (ConditionValue::Range(ends), _) => check_range(ends, field_type, condition.match_type),
        (value, _) if value.data_type() == field_type => {
            allow(accepts(condition.match_type, field_type))
        }
        _ => Err(NtStatus::FWP_TYPE_MISMATCH),
    }
}

fn check_range(
    (low, high): &(ConditionValue, ConditionValue),
    field_type: DataType,
    match_type: MatchType,
) -> Result<(), NtStatus> {
    if low.data_type() != high.data_type() {
        return Err(NtStatus::FWP_INVALID_RANGE);
    }
    if low.data_type() != field_type {
        return Err(NtStatus::FWP_TYPE_MISMATCH);
    }
    allow(match_type == MatchType::Range && field_type.is_sortable())?;
    match (low.as_value(), high.as_value()) {
        (Some(low), Some(high)) if compare(&low, &high) != Some(Ordering::Greater) => Ok(()),
        _ => Err(NtStatus::FWP_INVALID_RANGE),
    }
}

const fn allow(allowed: bool) -> Result<(), NtStatus> {
    if allowed {
        Ok(())
    } else {
        Err(NtStatus::FWP_MATCH_TYPE_MISMATCH)
    }
}

/// Whether a match type works on two values of this one type.
const fn accepts(match_type: MatchType, data_type: DataType) -> bool {
    match match_type {
        MatchType::Equal => true,
        MatchType::Greater
        | MatchType::Less
        | MatchType::GreaterOrEqual
        | MatchType::LessOrEqual
        | MatchType::NotEqual => data_type.is_sortable(),
        MatchType::FlagsAllSet | MatchType::FlagsAnySet | MatchType::FlagsNoneSet => {
            data_type.is_unsigned()
        }
        MatchType::EqualCaseInsensitive => matches!(data_type, DataType::UnicodeString),
        MatchType::Prefix | MatchType::NotPrefix => {
            matches!(data_type, DataType::ByteBlob | DataType::UnicodeString)
        }
        // A range is a type of its own, see `check_range`.
        MatchType::Range => false,
    }
}

/// Whether values fulfil conditions as [`check`] ordered them: of each field
/// one, of every field.
pub(crate) fn matches(conditions: &[RuntimeCondition], values: &[Value<'_>]) -> bool {
    let mut rest = conditions;
    while let [first, ..] = rest {
        let of_field = rest.iter().take_while(|c| c.field == first.field).count();
        let (alternatives, others) = rest.split_at(of_field);
        let value = values.get(first.field.get()).unwrap_or(&Value::Empty);
        if !alternatives
            .iter()
            .any(|condition| matches_one(condition, value))
        {
            return false;
        }
        rest = others;
    }
    true
}

fn matches_one(condition: &RuntimeCondition, value: &Value<'_>) -> bool {
    match (&condition.value, value) {
        (ConditionValue::Empty, Value::Empty) => true,
        (ConditionValue::Empty, _) | (_, Value::Empty) => false,
        (ConditionValue::V4AddrMask { address, mask }, Value::Uint32(value)) => {
            value & mask == address & mask
        }
        (ConditionValue::V6AddrMask { address, prefix }, Value::ByteArray16(value)) => {
            let shift = 128 - u32::from(*prefix).min(128);
            let differing = u128::from_be_bytes(*address) ^ u128::from_be_bytes(**value);
            differing.checked_shr(shift).unwrap_or(0) == 0
        }
        (
            ConditionValue::SecurityDescriptor(descriptor),
            Value::TokenInformation(token) | Value::TokenAccessInformation(token),
        ) => security::grants_match(descriptor, token),
        (ConditionValue::Range(ends), _) => {
            let above = |end: &ConditionValue| {
                end.as_value()
                    .and_then(|end| compare(value, &end))
                    .map(Ordering::is_ge)
            };
            let below = |end: &ConditionValue| {
                end.as_value()
                    .and_then(|end| compare(value, &end))
                    .map(Ordering::is_le)
            };
            above(&ends.0) == Some(true) && below(&ends.1) == Some(true)
        }
        (operand, _) => operand
            .as_value()
            .is_some_and(|operand| matches_same_type(condition.match_type, value, &operand)),
    }
}

fn matches_same_type(match_type: MatchType, value: &Value<'_>, operand: &Value<'_>) -> bool {
    let order = |wanted: fn(Ordering) -> bool| compare(value, operand).is_some_and(wanted);
    match match_type {
        MatchType::Equal => value == operand,
        MatchType::NotEqual => order(Ordering::is_ne),
        MatchType::Greater => order(Ordering::is_gt),
        MatchType::Less => order(Ordering::is_lt),
        MatchType::GreaterOrEqual => order(Ordering::is_ge),
        MatchType::LessOrEqual => order(Ordering::is_le),
        MatchType::FlagsAllSet => flags(value, operand).is_some_and(|(v, c)| v & c == c),
        MatchType::FlagsAnySet => flags(value, operand).is_some_and(|(v, c)| v & c != 0),
        MatchType::FlagsNoneSet => flags(value, operand).is_some_and(|(v, c)| v & c == 0),
        MatchType::EqualCaseInsensitive => equal_ignoring_case(value, operand),
        MatchType::Prefix => ends_with(value, operand) == Some(true),
        MatchType::NotPrefix => ends_with(value, operand) == Some(false),
        MatchType::Range => false,
    }
}

/// The order of two values of one sortable type. Bytes and strings compare element by element.
pub(crate) fn compare(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    Some(match (left, right) {
        (Value::Uint8(l), Value::Uint8(r)) => l.cmp(r),
        (Value::Uint16(l), Value::Uint16(r)) => l.cmp(r),
        (Value::Uint32(l), Value::Uint32(r)) => l.cmp(r),
        (Value::Uint64(l), Value::Uint64(r)) => l.cmp(r),
        (Value::Int8(l), Value::Int8(r)) => l.cmp(r),
        (Value::Int16(l), Value::Int16(r)) => l.cmp(r),
        (Value::Int32(l), Value::Int32(r)) => l.cmp(r),
        (Value::Int64(l), Value::Int64(r)) => l.cmp(r),
        (Value::ByteArray16(l), Value::ByteArray16(r)) => l.cmp(r),
        (Value::ByteBlob(l), Value::ByteBlob(r)) => l.cmp(r),
        (Value::UnicodeString(l), Value::UnicodeString(r)) => l.cmp(r),
        _ => return None,
    })
}

fn flags(value: &Value<'_>, operand: &Value<'_>) -> Option<(u64, u64)> {
    Some(match (value, operand) {
        (Value::Uint8(v), Value::Uint8(c)) => (u64::from(*v), u64::from(*c)),
        (Value::Uint16(v), Value::Uint16(c)) => (u64::from(*v), u64::from(*c)),
        (Value::Uint32(v), Value::Uint32(c)) => (u64::from(*v), u64::from(*c)),
        (Value::Uint64(v), Value::Uint64(c)) => (*v, *c),
        _ => return None,
    })
}

/// Equality of UTF-16 strings by their simple lower-case forms.
fn equal_ignoring_case(value: &Value<'_>, operand: &Value<'_>) -> bool {
    let (Value::UnicodeString(value), Value::UnicodeString(operand)) = (value, operand) else {
        return false;
    };
    let lower = |text: &[u16]| {
        char::decode_utf16(text.iter().copied())
            .flat_map(|unit| {
                unit.unwrap_or(char::REPLACEMENT_CHARACTER)
                    .to_lowercase()
                    .collect::<Vec<_>>()
            })
            .collect::<String>()
    };
    lower(value) == lower(operand)
}

/// Whether a string ends with another: that is what `FWP_MATCH_PREFIX` tests.
/// A blob's string may carry a terminating NUL, which does not count.
fn ends_with(value: &Value<'_>, operand: &Value<'_>) -> Option<bool> {
    match (value, operand) {
        (Value::UnicodeString(value), Value::UnicodeString(operand)) => {
            Some(value.ends_with(operand))
        }
        (Value::ByteBlob(value), Value::ByteBlob(operand)) => {
            Some(without_nul(value).ends_with(without_nul(operand)))
        }
        _ => None,
    }
}

fn without_nul(blob: &[u8]) -> &[u8] {
    match blob {
        [text @ .., 0, 0] if text.len().is_multiple_of(2) => text,
        whole => whole,
    }
}
