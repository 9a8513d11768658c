//! Which values can fulfil a condition, for those whose conditions say it plainly.

use super::{ConditionValue, RuntimeCondition};
use wfp_schema::MatchType;

/// The values that fulfil a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values<'a> {
    /// Unsigned numbers of so many bits, both ends included. Addresses are numbers too.
    Numbers { low: u128, high: u128, bits: u32 },
    /// These bytes.
    Bytes(&'a [u8]),
    /// None at all.
    None,
}

impl RuntimeCondition {
    /// The values that fulfil it, `None` if they are no single run of numbers or bytes.
    pub(crate) fn values(&self) -> Option<Values<'_>> {
        match &self.value {
            ConditionValue::Range(ends) => {
                let (low, bits) = number(&ends.0)?;
                let (high, _) = number(&ends.1)?;
                let high = if self.includes_high {
                    Some(high)
                } else {
                    high.checked_sub(1)
                };
                Some(span(Some(low), high, bits))
            }
            ConditionValue::V4AddrMask { address, mask } => {
                let (low, high) = (address & mask, address | !mask);
                Some(span(Some(low.into()), Some(high.into()), u32::BITS))
            }
            ConditionValue::V6AddrMask { address, prefix } => {
                let address = u128::from_be_bytes(*address);
                let host = u128::MAX.checked_shr((*prefix).into()).unwrap_or(0);
                Some(span(
                    Some(address & !host),
                    Some(address | host),
                    u128::BITS,
                ))
            }
            ConditionValue::ByteArray6(bytes) => self.exactly(bytes),
            ConditionValue::ByteBlob(bytes) | ConditionValue::Sid(bytes) => self.exactly(bytes),
            value => {
                let (number, bits) = number(value)?;
                let top = top(bits);
                Some(match self.match_type {
                    MatchType::Equal => span(Some(number), Some(number), bits),
                    MatchType::Greater => span(number.checked_add(1), Some(top), bits),
                    MatchType::GreaterOrEqual => span(Some(number), Some(top), bits),
                    MatchType::Less => span(Some(0), number.checked_sub(1), bits),
                    MatchType::LessOrEqual => span(Some(0), Some(number), bits),
                    _ => return None,
                })
            }
        }
    }

    /// The number it compares with, and the greatest of its type.
    pub(crate) fn number(&self) -> Option<(u128, u128)> {
        number(&self.value).map(|(number, bits)| (number, top(bits)))
    }

    fn exactly<'a>(&self, bytes: &'a [u8]) -> Option<Values<'a>> {
        (self.match_type == MatchType::Equal).then_some(Values::Bytes(bytes))
    }
}

/// The greatest number of so many bits, at least one.
const fn top(bits: u32) -> u128 {
    u128::MAX >> (u128::BITS - bits)
}

/// The numbers between two ends; none if one of them lies beyond what numbers can be.
const fn span<'a>(low: Option<u128>, high: Option<u128>, bits: u32) -> Values<'a> {
    match (low, high) {
        (Some(low), Some(high)) if low <= high => Values::Numbers { low, high, bits },
        _ => Values::None,
    }
}

/// An unsigned number, or an address as one, and how many bits it has.
fn number(value: &ConditionValue) -> Option<(u128, u32)> {
    Some(match value {
        ConditionValue::Uint8(number) => ((*number).into(), u8::BITS),
        ConditionValue::Uint16(number) => ((*number).into(), u16::BITS),
        ConditionValue::Uint32(number) => ((*number).into(), u32::BITS),
        ConditionValue::Uint64(number) => ((*number).into(), u64::BITS),
        ConditionValue::ByteArray16(bytes) => (u128::from_be_bytes(*bytes), u128::BITS),
        _ => return None,
    })
}
