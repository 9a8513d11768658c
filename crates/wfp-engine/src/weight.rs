//! Effective weights of filters.

use crate::condition::{ConditionValue, RuntimeCondition};
use crate::object::Weight;
use crate::options::AutoWeight;
use wfp_schema::weight::{AUTO_WEIGHT_BITS, WEIGHT_RANGE_MAX};
use wfp_schema::{MatchType, NtStatus};

/// The weight that decides a filter's place in its sublayer.
///
/// # Errors
/// `FWP_INVALID_WEIGHT` for a range above 15.
pub(crate) fn effective(
    weight: Weight,
    conditions: &[RuntimeCondition],
    formula: AutoWeight,
) -> Result<u64, NtStatus> {
    let automatic = || match formula {
        AutoWeight::BySpecificity => by_specificity(conditions),
        AutoWeight::ByFields => by_fields(conditions),
    };
    match weight {
        Weight::Exact(weight) => Ok(weight),
        Weight::Auto => Ok(automatic()),
        Weight::Range(range) if range <= WEIGHT_RANGE_MAX => {
            Ok((u64::from(range) << AUTO_WEIGHT_BITS) | automatic())
        }
        Weight::Range(_) => Err(NtStatus::FWP_INVALID_WEIGHT),
    }
}

/// What a field adds for having a condition at all; more than any specificity can.
const PER_FIELD: u64 = 1 << 40;
/// The specificity of a condition that one value alone fulfils.
const EXACT: u64 = 128;
const SPECIFICITY_SHIFT: u32 = 16;
const MAX_ALTERNATIVES: u64 = (1 << SPECIFICITY_SHIFT) - 1;

/// An automatic weight. Windows' formula is not published; this one is
/// deterministic, and grows with every field that has a condition, then with
/// how few values fulfil it.
///
/// No layer has 2^19 fields, so the sum stays below 2^60.
fn by_specificity(conditions: &[RuntimeCondition]) -> u64 {
    conditions
        .chunk_by(|left, right| left.field == right.field)
        .map(|alternatives| {
            let widest = alternatives.iter().map(specificity).min().unwrap_or(0);
            let others = alternatives.len() as u64 - 1;
            // Alternatives widen a condition, but never below the next lower specificity.
            PER_FIELD + (widest << SPECIFICITY_SHIFT) - others.min(MAX_ALTERNATIVES)
        })
        .sum()
}

/// Another: it only counts the fields that have conditions.
fn by_fields(conditions: &[RuntimeCondition]) -> u64 {
    let fields = conditions.chunk_by(|left, right| left.field == right.field);
    fields.map(|_| PER_FIELD).sum()
}

/// From 0 (nearly anything fulfils it) to [`EXACT`].
fn specificity(condition: &RuntimeCondition) -> u64 {
    let exact = match &condition.value {
        ConditionValue::V4AddrMask { mask, .. } => return u64::from(mask.leading_ones()) * 4,
        ConditionValue::V6AddrMask { prefix, .. } => return u64::from(*prefix),
        ConditionValue::Range(ends) => return range_specificity(&ends.0, &ends.1),
        ConditionValue::Uint8(flags) => u64::from(flags.count_ones()) * 16,
        ConditionValue::Uint16(flags) => u64::from(flags.count_ones()) * 8,
        ConditionValue::Uint32(flags) => u64::from(flags.count_ones()) * 4,
        ConditionValue::Uint64(flags) => u64::from(flags.count_ones()) * 2,
        ConditionValue::ByteBlob(suffix) => suffix.len() as u64,
        ConditionValue::UnicodeString(suffix) => suffix.len() as u64 * 2,
        _ => EXACT,
    };
    match condition.match_type {
        MatchType::Equal => EXACT,
        MatchType::EqualCaseInsensitive => EXACT - 1,
        MatchType::FlagsAllSet | MatchType::FlagsNoneSet | MatchType::Prefix => {
            exact.min(EXACT - 1)
        }
        MatchType::Greater
        | MatchType::Less
        | MatchType::GreaterOrEqual
        | MatchType::LessOrEqual
        | MatchType::FlagsAnySet => 1,
        MatchType::NotEqual | MatchType::NotPrefix | MatchType::Range => 0,
    }
}

/// How many leading bits a range fixes, on a scale up to [`EXACT`].
fn range_specificity(low: &ConditionValue, high: &ConditionValue) -> u64 {
    let fixed = |span: u64, width: u32| {
        let free = u64::BITS - span.leading_zeros();
        EXACT * u64::from(width.saturating_sub(free)) / u64::from(width)
    };
    match (low, high) {
        (ConditionValue::Uint8(low), ConditionValue::Uint8(high)) => {
            fixed(u64::from(high.saturating_sub(*low)), u8::BITS)
        }
        (ConditionValue::Uint16(low), ConditionValue::Uint16(high)) => {
            fixed(u64::from(high.saturating_sub(*low)), u16::BITS)
        }
        (ConditionValue::Uint32(low), ConditionValue::Uint32(high)) => {
            fixed(u64::from(high.saturating_sub(*low)), u32::BITS)
        }
        (ConditionValue::Uint64(low), ConditionValue::Uint64(high)) => {
            fixed(high.saturating_sub(*low), u64::BITS)
        }
        (ConditionValue::ByteArray16(low), ConditionValue::ByteArray16(high)) => {
            let span = u128::from_be_bytes(*high).saturating_sub(u128::from_be_bytes(*low));
            u64::from(span.leading_zeros())
        }
        _ => 1,
    }
}
