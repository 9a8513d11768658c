//! Which filters an enumeration's template means.
//!
//! <https://learn.microsoft.com/windows/win32/api/fwpmtypes/ns-fwpmtypes-fwpm_filter_enum_template0>

use std::cmp::Reverse;
use std::collections::BTreeSet;

use wfp_engine::{Condition, ConditionValue, FilterRecord, Objects};
use wfp_schema::{FilterFlags, Guid, Layer, MatchType, NtStatus};

use crate::fwp::host::KernelHost;
use crate::fwp::layout::template::RawFilterTemplate;
use crate::fwp::marshal;

/// `FWP_FILTER_ENUM_FULLY_CONTAINED` and `FWP_FILTER_ENUM_OVERLAPPING`.
const FULLY_CONTAINED: u32 = 0;
const OVERLAPPING: u32 = 1;

/// `FWP_FILTER_ENUM_FLAG_*`.
const BEST_TERMINATING_MATCH: u32 = 0x1;
const SORTED: u32 = 0x2;
const BOOT_TIME_ONLY: u32 = 0x4;
const INCLUDE_BOOT_TIME: u32 = 0x8;
const INCLUDE_DISABLED: u32 = 0x10;

/// `FWP_ACTION_FLAG_TERMINATING`.
const TERMINATING: u32 = 0x1000;
/// `actionMask` by which every filter is meant.
const ANY_ACTION: u32 = u32::MAX;

/// The keys of the filters that `template` means; all of them, if there is none.
pub(super) fn filters(
    objects: &Objects<KernelHost>,
    template: Option<RawFilterTemplate>,
) -> Result<Vec<Guid>, NtStatus> {
    let Some(template) = template else {
        return Ok(objects
            .filters()
            .map(|entry| entry.record().key())
            .collect());
    };
    if ![FULLY_CONTAINED, OVERLAPPING].contains(&template.enum_type) {
        return Err(NtStatus::FWP_INVALID_ENUMERATOR);
    }
    if !template.layer.is_zero() && Layer::by_key(template.layer).is_none() {
        return Err(NtStatus::FWP_LAYER_NOT_FOUND);
    }
    let has = |flag| template.flags & flag != 0;
    let asked = marshal::conditions(template.conditions, template.condition_count)?;
    let (provider, callout) = (template.provider.get(), template.callout.get());
    let mut selected: Vec<&FilterRecord> = objects
        .filters()
        .map(|entry| entry.record())
        .filter(|record| {
            let filter = record.filter();
            let boot_time = filter.flags.contains(FilterFlags::BOOTTIME);
            (provider.is_none() || filter.provider == provider)
                && (template.layer.is_zero() || filter.layer == template.layer)
                && callout.is_none_or(|callout| filter.callout == callout)
                && (template.action_mask == ANY_ACTION
                    || filter.action.value() & template.action_mask != 0)
                && (boot_time || !has(BOOT_TIME_ONLY))
                && (!boot_time || has(BOOT_TIME_ONLY) || has(INCLUDE_BOOT_TIME))
                && (has(INCLUDE_DISABLED) || !filter.flags.contains(FilterFlags::DISABLED))
                && means(
                    &filter.conditions,
                    &asked,
                    template.enum_type == OVERLAPPING,
                )
        })
        .collect();
    if has(SORTED | BEST_TERMINATING_MATCH) {
        selected
            .sort_by_key(|record| Reverse((record.sublayer_weight(), record.effective_weight())));
    }
    if has(BEST_TERMINATING_MATCH) {
        selected.retain(|record| record.action().value() & TERMINATING != 0);
        selected.truncate(1);
    }
    Ok(selected.into_iter().map(FilterRecord::key).collect())
}

/// Whether a filter's conditions contain all traffic that meets `asked`, or with `overlapping` any of it.
fn means(filter: &[Condition], asked: &[Condition], overlapping: bool) -> bool {
    let fields: BTreeSet<Guid> = filter.iter().map(|condition| condition.field).collect();
    fields.into_iter().all(|field| {
        let of = |conditions: &[Condition]| -> Vec<Set> {
            let here = conditions
                .iter()
                .filter(|condition| condition.field == field);
            here.map(Set::of).collect()
        };
        let (filters, asked) = (of(filter), of(asked));
        match (asked.is_empty(), overlapping) {
            // Any value is asked for.
            (true, overlapping) => overlapping,
            (false, true) => asked
                .iter()
                .any(|asked| filters.iter().any(|filter| filter.meets(asked))),
            (false, false) => asked.iter().all(|asked| asked.is_within(&filters)),
        }
    })
}

/// The values that meet a condition.
#[derive(Debug, PartialEq)]
enum Set {
    /// Numbers, of addresses too, from and to.
    Numbers(Vec<(u128, u128)>),
    /// What only the same condition is known to mean.
    Other(MatchType, ConditionValue),
}

impl Set {
    fn of(condition: &Condition) -> Self {
        numbers(condition.match_type, &condition.value).map_or_else(
            || Self::Other(condition.match_type, condition.value.clone()),
            Self::Numbers,
        )
    }

    /// Whether any value is in both.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Numbers(ours), Self::Numbers(theirs)) => ours
                .iter()
                .any(|(low, high)| theirs.iter().any(|(from, to)| low <= to && from <= high)),
            (Self::Other(MatchType::Equal, ours), Self::Other(MatchType::Equal, theirs)) => {
                ours == theirs
            }
            // Flags, prefixes and descriptors may have values in common whatever they are.
            _ => true,
        }
    }

    /// Whether each of its values is in one of `sets`.
    fn is_within(&self, sets: &[Self]) -> bool {
        let Self::Numbers(spans) = self else {
            return sets.contains(self);
        };
        let mut cover: Vec<(u128, u128)> = sets
            .iter()
            .filter_map(|set| match set {
                Self::Numbers(spans) => Some(spans.as_slice()),
                Self::Other(..) => None,
            })
            .flatten()
            .copied()
            .collect();
        cover.sort_unstable();
        spans.iter().all(|(low, high)| {
            let mut need = *low;
            for (from, to) in &cover {
                if *from > need {
                    return false;
                }
                if *to >= *high {
                    return true;
                }
                need = need.max(to.saturating_add(1));
            }
            false
        })
    }
}

/// The numbers that meet a condition; `None` where it is not about numbers.
fn numbers(match_type: MatchType, value: &ConditionValue) -> Option<Vec<(u128, u128)>> {
    let (low, high) = span(value)?;
    let below = |end: u128| end.checked_sub(1).map(|end| (0, end));
    let above = |start: u128| start.checked_add(1).map(|start| (start, u128::MAX));
    Some(match match_type {
        MatchType::Equal | MatchType::Range => vec![(low, high)],
        MatchType::Greater => above(high).into_iter().collect(),
        MatchType::Less => below(low).into_iter().collect(),
        MatchType::GreaterOrEqual => vec![(low, u128::MAX)],
        MatchType::LessOrEqual => vec![(0, high)],
        MatchType::NotEqual => below(low).into_iter().chain(above(high)).collect(),
        _ => return None,
    })
}

/// The numbers that a value stands for.
fn span(value: &ConditionValue) -> Option<(u128, u128)> {
    let number = |number: u128| Some((number, number));
    match value {
        ConditionValue::Uint8(value) => number((*value).into()),
        ConditionValue::Uint16(value) => number((*value).into()),
        ConditionValue::Uint32(value) => number((*value).into()),
        ConditionValue::Uint64(value) => number((*value).into()),
        ConditionValue::ByteArray16(value) => number(u128::from_be_bytes(*value)),
        ConditionValue::V4AddrMask { address, mask } => {
            // Only a mask of leading ones has one span.
            let contiguous = mask.leading_ones() + mask.trailing_zeros() == u32::BITS || *mask == 0;
            contiguous.then(|| ((address & mask).into(), (address | !mask).into()))
        }
        ConditionValue::V6AddrMask { address, prefix } => {
            let address = u128::from_be_bytes(*address);
            let rest = u128::MAX.checked_shr((*prefix).into()).unwrap_or(0);
            Some((address & !rest, address | rest))
        }
        ConditionValue::Range(ends) => Some((span(&ends.0)?.0, span(&ends.1)?.1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use wfp_schema::condition::{IP_PROTOCOL, IP_REMOTE_ADDRESS, IP_REMOTE_PORT};

    use super::*;

    fn port(port: u16) -> Condition {
        Condition::equal(IP_REMOTE_PORT, ConditionValue::Uint16(port))
    }

    fn ports(low: u16, high: u16) -> Condition {
        let (low, high) = (ConditionValue::Uint16(low), ConditionValue::Uint16(high));
        let range = ConditionValue::range(low, high);
        Condition::new(IP_REMOTE_PORT, MatchType::Range, range)
    }

    fn network(address: u32, mask: u32) -> Condition {
        Condition::equal(
            IP_REMOTE_ADDRESS,
            ConditionValue::V4AddrMask { address, mask },
        )
    }

    #[test]
    fn a_filter_contains_what_is_asked_when_every_value_of_it_matches() {
        assert!(means(&[], &[port(80)], false), "no condition: everything");
        assert!(means(&[ports(1, 100)], &[port(80)], false));
        assert!(means(
            &[ports(1, 79), ports(80, 100)],
            &[ports(70, 90)],
            false
        ));
        assert!(!means(
            &[ports(1, 79), ports(81, 100)],
            &[ports(70, 90)],
            false
        ));
        assert!(!means(&[port(80)], &[], false), "any port is asked for");
        assert!(!means(&[port(80)], &[ports(80, 81)], false));
        let (wide, narrow) = (
            network(0x0a00_0000, 0xff00_0000),
            network(0x0a01_0000, 0xffff_0000),
        );
        assert!(means(&[wide.clone()], &[narrow.clone()], false));
        assert!(!means(&[narrow], &[wide], false));
    }

    #[test]
    fn a_filter_overlaps_what_is_asked_when_any_value_of_it_matches() {
        assert!(means(&[port(80)], &[], true));
        assert!(means(&[ports(80, 90)], &[ports(90, 100)], true));
        assert!(!means(&[ports(80, 89)], &[ports(90, 100)], true));
        let tcp = Condition::equal(IP_PROTOCOL, ConditionValue::Uint8(6));
        assert!(means(&[port(80), tcp], &[port(80)], true));
    }
}
