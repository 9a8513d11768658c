//! Which conditions a filter may have.

use super::{Condition, ConditionValue, RuntimeCondition, compare};
use crate::options::{Options, SeparatedConditions};
use crate::security;
use std::cmp::Ordering;
use wfp_schema::field::FieldType;
use wfp_schema::{DataType, Field, Guid, Layer, MatchType, NtStatus, condition};

/// Checks a filter's conditions against its layer.
///
/// Those that come back side by side on one field are alternatives.
///
/// # Errors
/// `FWP_CONDITION_NOT_FOUND`, `FWP_DUPLICATE_CONDITION`, and as [`RuntimeCondition::new`].
pub(crate) fn check(
    layer: &Layer,
    conditions: &[Condition],
    options: &Options,
) -> Result<Vec<RuntimeCondition>, NtStatus> {
    let mut checked = conditions
        .iter()
        .map(|condition| {
            let field = layer
                .field_by_condition(condition.field)
                .ok_or(NtStatus::FWP_CONDITION_NOT_FOUND)?;
            // Other 32-bit and 16-byte fields have the type of an address, but no networks.
            if condition.value.is_network() && field.field_type() != FieldType::Address {
                return Err(NtStatus::FWP_TYPE_MISMATCH);
            }
            RuntimeCondition::new(
                field.index(),
                data_type(field, layer, options),
                condition.match_type,
                condition.value.clone(),
                options,
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    let apart = are_apart(&checked);
    match options.separated_conditions {
        // Sorted, they would be side by side.
        SeparatedConditions::BothRequired if apart => {}
        SeparatedConditions::Refused if apart => return Err(NtStatus::FWP_DUPLICATE_CONDITION),
        _ => checked.sort_by_key(|condition| condition.field),
    }
    Ok(checked)
}

/// Whether a field has conditions between which there are others.
fn are_apart(conditions: &[RuntimeCondition]) -> bool {
    let mut fields: Vec<_> = conditions
        .chunk_by(|left, right| left.field == right.field)
        .map(|alternatives| alternatives[0].field)
        .collect();
    let runs = fields.len();
    fields.sort_unstable();
    fields.dedup();
    fields.len() < runs
}

/// The type of a field's values, of which the options leave one open.
pub(crate) fn data_type(field: &Field, layer: &Layer, options: &Options) -> DataType {
    const TENANT: Guid = condition::VSWITCH_TENANT_NETWORK_ID;
    match field.data_type(layer.version()) {
        DataType::Uint16 if options.wide_tenant_network_id && field.condition() == TENANT => {
            DataType::Uint32
        }
        data_type => data_type,
    }
}

/// Checks a condition value and a match type against the type of a field
/// (`FWP_MATCH_TYPE`).
pub(super) fn check_types(
    field_type: DataType,
    match_type: MatchType,
    value: &ConditionValue,
) -> Result<(), NtStatus> {
    match (value, field_type) {
        (ConditionValue::Empty, _) => allow(match_type == MatchType::Equal),
        (ConditionValue::V4AddrMask { mask, .. }, DataType::Uint32) => {
            if mask.leading_ones() + mask.trailing_zeros() != u32::BITS {
                return Err(NtStatus::FWP_INVALID_NET_MASK);
            }
            allow(match_type == MatchType::Equal)
        }
        (ConditionValue::V6AddrMask { prefix, .. }, DataType::ByteArray16) => {
            if *prefix > 128 {
                return Err(NtStatus::FWP_INVALID_NET_MASK);
            }
            allow(match_type == MatchType::Equal)
        }
        (
            ConditionValue::SecurityDescriptor(descriptor),
            DataType::TokenInformation | DataType::TokenAccessInformation,
        ) => {
            if !security::is_valid(descriptor) {
                return Err(NtStatus::INVALID_SECURITY_DESCR);
            }
            allow(match_type == MatchType::Equal)
        }
        (ConditionValue::Range(ends), _) => check_range(ends, field_type, match_type),
        (value, _) if value.data_type() == field_type => allow(accepts(match_type, field_type)),
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
