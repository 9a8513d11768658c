//! Which values fulfil conditions.

use super::{ConditionValue, RuntimeCondition};
use crate::security;
use crate::value::Value;
use std::cmp::Ordering;
use wfp_schema::MatchType;

/// Whether values fulfil conditions as [`check`](super::check) ordered them: one
/// of those that stand side by side on a field, and so for each such run.
pub(crate) fn matches(conditions: &[RuntimeCondition], values: &[Value<'_>]) -> bool {
    conditions
        .chunk_by(|left, right| left.field == right.field)
        .all(|alternatives| {
            let field = alternatives[0].field.get();
            let value = values.get(field).unwrap_or(&Value::Empty);
            alternatives
                .iter()
                .any(|condition| matches_one(condition, value))
        })
}

pub(super) fn matches_one(condition: &RuntimeCondition, value: &Value<'_>) -> bool {
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
                    .map(|order| order.is_lt() || condition.includes_high && order.is_eq())
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
