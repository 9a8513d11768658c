//! Management objects from a driver's structures: each field read once, checked, never trusted.

use wfp_engine::{
    Callout, Condition, ConditionValue, Filter, Provider, ProviderContext, SubLayer, Weight,
};
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{Action, DataType, FilterFlags, Guid, MatchType, NtStatus, ProviderContextType};

use super::layout::management::{
    RawAction, RawCallout, RawCondition, RawDisplayData, RawFilter, RawProvider,
    RawProviderContext, RawSubLayer,
};
use super::layout::value::{RawBlob, RawRange, RawV4AddrMask, RawV6AddrMask, RawValue};
use crate::access::In;

/// `FWPM_PROVIDER_FLAG_PERSISTENT` and `FWPM_SUBLAYER_FLAG_PERSISTENT`.
const PERSISTENT: u32 = 0x1;
/// The longest blob that is read: a driver's size field may hold anything.
const LONGEST_BLOB: u32 = 0x10_0000;
/// The most conditions that are read.
const MOST_CONDITIONS: u32 = 0x1_0000;
/// `FWP_UINT8`, `FWP_UINT64`, `FWP_EMPTY` as weights.
const EMPTY: u32 = DataType::Empty.value();
const UINT8: u32 = DataType::Uint8.value();
const UINT64: u32 = DataType::Uint64.value();

/// What lies at an address that must not be NULL.
pub(super) fn required<T: crate::access::Plain>(address: In<T>) -> Result<T, NtStatus> {
    address.get().ok_or(NtStatus::FWP_NULL_POINTER)
}

fn name(display: &RawDisplayData) -> Option<String> {
    display.name.string()
}

/// Checks that optional provider data is readable as far as its size says.
fn provider_data(data: &RawBlob) -> Result<(), NtStatus> {
    if data.size > 0 {
        bytes(*data).map(drop)
    } else {
        Ok(())
    }
}

fn bytes(blob: RawBlob) -> Result<Box<[u8]>, NtStatus> {
    if blob.size > LONGEST_BLOB {
        return Err(NtStatus::FWP_OUT_OF_BOUNDS);
    }
    if blob.data.is_null() && blob.size > 0 {
        return Err(NtStatus::FWP_NULL_POINTER);
    }
    let mut bytes = vec![0; blob.size as usize];
    blob.data.as_in().copy_to(&mut bytes);
    Ok(bytes.into_boxed_slice())
}

/// `FWPM_PROVIDER0`.
pub(super) fn provider(at: In<RawProvider>) -> Result<Provider, NtStatus> {
    let raw = required(at)?;
    provider_data(&raw.data)?;
    Ok(Provider {
        key: raw.key,
        name: name(&raw.display),
        persistent: raw.flags & PERSISTENT != 0,
        service: raw.service.string(),
    })
}

/// `FWPM_PROVIDER_CONTEXT0` and later; of type general, whose data is the same in all of them.
pub(super) fn provider_context(at: In<RawProviderContext>) -> Result<ProviderContext, NtStatus> {
    let raw = required(at)?;
    provider_data(&raw.data)?;
    let context_type =
        ProviderContextType::from_u32(raw.context_type).ok_or(NtStatus::FWP_INVALID_ENUMERATOR)?;
    if context_type != ProviderContextType::General {
        // Policies of IPsec and the like are for the services that make them, not for drivers.
        return Err(NtStatus::NOT_SUPPORTED);
    }
    Ok(ProviderContext {
        key: raw.key,
        name: name(&raw.display),
        persistent: raw.flags & PERSISTENT != 0,
        provider: raw.provider.get(),
        context_type,
        data: bytes(required(raw.context)?)?,
    })
}

/// `FWPM_SUBLAYER0`.
pub(super) fn sublayer(at: In<RawSubLayer>) -> Result<SubLayer, NtStatus> {
    let raw = required(at)?;
    provider_data(&raw.data)?;
    Ok(SubLayer {
        key: raw.key,
        name: name(&raw.display),
        persistent: raw.flags & PERSISTENT != 0,
        provider: raw.provider.get(),
        weight: raw.weight,
    })
}

/// `FWPM_CALLOUT0`.
pub(super) fn callout(at: In<RawCallout>) -> Result<Callout, NtStatus> {
    let raw = required(at)?;
    provider_data(&raw.data)?;
    Ok(Callout {
        key: raw.key,
        name: name(&raw.display),
        flags: ManagementCalloutFlags::from_bits(raw.flags),
        provider: raw.provider.get(),
        layer: raw.layer,
    })
}

/// `FWPM_FILTER0`.
pub(super) fn filter(at: In<RawFilter>) -> Result<Filter, NtStatus> {
    let raw = required(at)?;
    provider_data(&raw.data)?;
    if !raw.reserved.is_null() {
        return Err(NtStatus::FWP_RESERVED);
    }
    let RawAction { kind, key } = raw.action;
    let action = Action::from_u32(kind)
        .filter(|action| action.is_filter_action())
        .ok_or(NtStatus::FWP_INVALID_ACTION_TYPE)?;
    Ok(Filter {
        key: raw.key,
        name: name(&raw.display),
        flags: FilterFlags::from_bits(raw.flags),
        provider: raw.provider.get(),
        layer: raw.layer,
        sublayer: raw.sublayer,
        weight: weight(raw.weight)?,
        conditions: conditions(raw.conditions, raw.condition_count)?,
        action,
        callout: if action.is_callout() { key } else { Guid::ZERO },
        context: raw.context[0],
        provider_context: Guid::from_bytes(context_key(raw.context)),
    })
}

/// The bytes of `FWPM_FILTER0.providerContextKey`, which shares its place with `rawContext`.
fn context_key([low, high]: [u64; 2]) -> [u8; 16] {
    ((u128::from(high) << 64) | u128::from(low)).to_le_bytes()
}

fn weight(raw: RawValue) -> Result<Weight, NtStatus> {
    match raw.kind {
        EMPTY => Ok(Weight::Auto),
        UINT8 => Ok(Weight::Range(raw.uint8())),
        UINT64 => required(raw.pointer::<u64>()).map(Weight::Exact),
        _ => Err(NtStatus::FWP_INVALID_WEIGHT),
    }
}

pub(super) fn conditions(first: In<RawCondition>, count: u32) -> Result<Vec<Condition>, NtStatus> {
    if count > MOST_CONDITIONS {
        return Err(NtStatus::FWP_OUT_OF_BOUNDS);
    }
    (0..count as usize)
        .map(|index| {
            let raw = first.at(index).ok_or(NtStatus::FWP_NULL_POINTER)?;
            let match_type =
                MatchType::from_u32(raw.match_type).ok_or(NtStatus::FWP_INVALID_ENUMERATOR)?;
            Ok(Condition::new(raw.field, match_type, value(raw.value)?))
        })
        .collect()
}

/// `FWP_CONDITION_VALUE0`.
fn value(raw: RawValue) -> Result<ConditionValue, NtStatus> {
    let kind = DataType::from_u32(raw.kind).ok_or(NtStatus::FWP_INVALID_ENUMERATOR)?;
    Ok(match kind {
        DataType::Empty => ConditionValue::Empty,
        DataType::Uint8 => ConditionValue::Uint8(raw.uint8()),
        DataType::Uint16 => ConditionValue::Uint16(raw.uint16()),
        DataType::Uint32 => ConditionValue::Uint32(raw.uint32()),
        DataType::Uint64 => ConditionValue::Uint64(required(raw.pointer())?),
        DataType::Int8 => ConditionValue::Int8(raw.uint8().cast_signed()),
        DataType::Int16 => ConditionValue::Int16(raw.uint16().cast_signed()),
        DataType::Int32 => ConditionValue::Int32(raw.uint32().cast_signed()),
        DataType::Int64 => ConditionValue::Int64(required(raw.pointer::<u64>())?.cast_signed()),
        DataType::Float => ConditionValue::Float(f32::from_bits(raw.uint32())),
        DataType::Double => ConditionValue::Double(f64::from_bits(required(raw.pointer())?)),
        DataType::ByteArray16 => ConditionValue::ByteArray16(required(raw.pointer())?),
        DataType::ByteArray6 => ConditionValue::ByteArray6(required(raw.pointer())?),
        DataType::ByteBlob => ConditionValue::ByteBlob(bytes(required(raw.pointer())?)?),
        DataType::Sid => ConditionValue::Sid(sid(raw.pointer())?),
        DataType::SecurityDescriptor => {
            ConditionValue::SecurityDescriptor(bytes(required(raw.pointer())?)?)
        }
        DataType::UnicodeString => {
            let text = raw
                .pointer::<u16>()
                .string()
                .ok_or(NtStatus::FWP_NULL_POINTER)?;
            ConditionValue::UnicodeString(text.encode_utf16().collect())
        }
        DataType::V4AddrMask => {
            let RawV4AddrMask { address, mask } = required(raw.pointer())?;
            ConditionValue::V4AddrMask { address, mask }
        }
        DataType::V6AddrMask => {
            let RawV6AddrMask { address, prefix } = required(raw.pointer())?;
            ConditionValue::V6AddrMask { address, prefix }
        }
        DataType::Range => {
            let RawRange { low, high } = required(raw.pointer())?;
            if low.kind == DataType::Range.value() || high.kind == DataType::Range.value() {
                return Err(NtStatus::FWP_INVALID_RANGE);
            }
            ConditionValue::range(value(low)?, value(high)?)
        }
        // Types that only fields have.
        DataType::TokenInformation | DataType::TokenAccessInformation => {
            return Err(NtStatus::FWP_TYPE_MISMATCH);
        }
    })
}

/// A SID: its size follows from its count of sub-authorities.
pub(super) fn sid(at: In<u8>) -> Result<Box<[u8]>, NtStatus> {
    let count = at.at(1).ok_or(NtStatus::FWP_NULL_POINTER)?;
    let mut sid = vec![0; 8 + 4 * usize::from(count)];
    at.copy_to(&mut sid);
    Ok(sid.into_boxed_slice())
}
