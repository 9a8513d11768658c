//! Which filters of many can match, without looking at each.
//!
//! Every filter is filed under the values of one field that it can match, as
//! prefixes of bits (one value is a prefix of full length, a range is a few
//! prefixes) or as whole byte strings. The field is the one under which it has
//! the fewest neighbours. A classify looks its own values up, once for each
//! field and length of prefix in use, and gets lists of ranks; merged, they are
//! the candidates in the order of their weights. Whether a candidate matches is
//! still decided by its conditions, so the index can only save work.

use crate::condition::{RuntimeCondition, Values};
use crate::value::Value;
use rustc_hash::FxHashMap;
use std::collections::HashMap;
use std::ops::Range;

/// With fewer filters than these, looking at each is as fast.
pub(crate) const WORTHWHILE: usize = 16;
/// Greatest number of lists that a classify has to merge.
const MAX_LISTS: usize = 32;
/// Greatest number of places under which one filter is filed.
const MAX_PLACES: usize = 32;

/// A filter's place in the order of evaluation of its sublayer.
pub(crate) type Rank = u32;

/// An index of filters by rank.
#[derive(Debug)]
pub(crate) struct Index {
    shelves: Box<[Shelf]>,
    /// Filters that could not be filed.
    rest: Box<[Rank]>,
}

/// The filters that are filed under one field by prefixes of one length.
#[derive(Debug)]
struct Shelf {
    kind: ShelfKind,
    lists: FxHashMap<Key, Box<[Rank]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ShelfKind {
    /// By the number that is left of the field's value when it is shifted right.
    Number { field: usize, shift: u32 },
    /// By all bytes of the field's value.
    Bytes { field: usize },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Number(u128),
    /// A hash of the bytes: what it may have in common with others costs a look at the filter.
    Bytes(u64),
}

/// Where a filter is filed.
type Place = (ShelfKind, Key);

impl Index {
    /// Files filters, whose conditions come in the order of rank.
    pub(crate) fn new<'a>(filters: impl Iterator<Item = &'a [RuntimeCondition]>) -> Self {
        let choices: Vec<Vec<Vec<Place>>> = filters.map(choices).collect();
        let mut neighbours: HashMap<&Place, usize> = HashMap::new();
        for place in choices.iter().flatten().flatten() {
            *neighbours.entry(place).or_default() += 1;
        }
        let chosen: Vec<Option<&[Place]>> = choices
            .iter()
            .map(|of_filter| {
                of_filter
                    .iter()
                    .min_by_key(|places| {
                        places.iter().map(|place| neighbours[place]).sum::<usize>()
                    })
                    .map(Vec::as_slice)
            })
            .collect();
        let kept = busiest(&chosen);
        let mut shelves: Vec<FxHashMap<Key, Vec<Rank>>> = vec![FxHashMap::default(); kept.len()];
        let mut rest = Vec::new();
        for (rank, places) in (0..).zip(chosen) {
            let on_shelves = places.and_then(|places| {
                places
                    .iter()
                    .map(|(kind, key)| Some((kept.iter().position(|other| other == kind)?, key)))
                    .collect::<Option<Vec<_>>>()
            });
            match on_shelves {
                None => rest.push(rank),
                Some(places) => {
                    for (shelf, key) in places {
                        let list = shelves[shelf].entry(key.clone()).or_default();
                        if list.last() != Some(&rank) {
                            list.push(rank);
                        }
                    }
                }
            }
        }
        let shelf = |(kind, lists): (ShelfKind, FxHashMap<Key, Vec<Rank>>)| Shelf {
            kind,
            lists: lists
                .into_iter()
                .map(|(key, list)| (key, list.into_boxed_slice()))
                .collect(),
        };
        Self {
            shelves: kept.into_iter().zip(shelves).map(shelf).collect(),
            rest: rest.into_boxed_slice(),
        }
    }

    /// The filters that may match, by rank; every filter that does match is among them.
    pub(crate) fn candidates(&self, values: &[Value<'_>]) -> Candidates<'_> {
        let mut candidates = Candidates {
            lists: [&[]; MAX_LISTS],
            count: 0,
        };
        candidates.add(&self.rest);
        for shelf in &self.shelves {
            let key = match shelf.kind {
                ShelfKind::Number { field, shift } => values
                    .get(field)
                    .and_then(number_of)
                    .map(|number| Key::Number(number.checked_shr(shift).unwrap_or(0))),
                ShelfKind::Bytes { field } => values.get(field).and_then(bytes_of).map(Key::of),
            };
            if let Some(list) = key.and_then(|key| shelf.lists.get(&key)) {
                candidates.add(list);
            }
        }
        candidates
    }
}

/// The shelves that most filters want, as many as there may be.
fn busiest(chosen: &[Option<&[Place]>]) -> Vec<ShelfKind> {
    let mut wanted: FxHashMap<ShelfKind, usize> = FxHashMap::default();
    for (kind, _) in chosen.iter().flatten().copied().flatten() {
        *wanted.entry(*kind).or_default() += 1;
    }
    let mut kinds: Vec<(usize, ShelfKind)> = wanted
        .into_iter()
        .map(|(kind, count)| (count, kind))
        .collect();
    kinds.sort_unstable_by_key(|(count, _)| std::cmp::Reverse(*count));
    // One list is that of the filters which are on no shelf.
    kinds.truncate(MAX_LISTS - 1);
    kinds.into_iter().map(|(_, kind)| kind).collect()
}

/// For each field whose conditions name few enough values, the places of a
/// filter with these conditions.
fn choices(conditions: &[RuntimeCondition]) -> Vec<Vec<Place>> {
    conditions
        .chunk_by(|left, right| left.field == right.field)
        .filter_map(|alternatives| {
            let mut places = Vec::new();
            for condition in alternatives {
                let field = condition.field.get();
                match condition.values()? {
                    Values::Numbers { low, high, bits } => {
                        prefixes(low, high, bits, |key, shift| {
                            places.push((ShelfKind::Number { field, shift }, Key::Number(key)));
                        });
                    }
                    Values::Bytes(bytes) => {
                        places.push((ShelfKind::Bytes { field }, Key::of(bytes)));
                    }
                    Values::None => {}
                }
                if places.len() > MAX_PLACES {
                    return None;
                }
            }
            Some(places)
        })
        .collect()
}

/// The prefixes that make up the numbers from `low` to `high`, of `bits` bits each.
fn prefixes(low: u128, high: u128, bits: u32, mut add: impl FnMut(u128, u32)) {
    let mut next = Some(low).filter(|low| *low <= high);
    while let Some(from) = next {
        // The largest block that begins here and does not go beyond the end.
        let mut shift = from.trailing_zeros().min(bits);
        let last = |shift: u32| from | !u128::MAX.checked_shl(shift).unwrap_or(0);
        while last(shift) > high {
            shift -= 1;
        }
        add(from.checked_shr(shift).unwrap_or(0), shift);
        next = last(shift).checked_add(1).filter(|next| *next <= high);
    }
}

impl Key {
    fn of(bytes: &[u8]) -> Self {
        use std::hash::Hasher;
        let mut hasher = rustc_hash::FxHasher::default();
        hasher.write(bytes);
        Self::Bytes(hasher.finish())
    }
}

fn number_of(value: &Value<'_>) -> Option<u128> {
    Some(match value {
        Value::Uint8(number) => (*number).into(),
        Value::Uint16(number) => (*number).into(),
        Value::Uint32(number) => (*number).into(),
        Value::Uint64(number) => (*number).into(),
        Value::ByteArray16(bytes) => u128::from_be_bytes(**bytes),
        _ => return None,
    })
}

const fn bytes_of<'a>(value: &Value<'a>) -> Option<&'a [u8]> {
    match value {
        Value::ByteBlob(bytes) | Value::Sid(bytes) => Some(bytes),
        Value::ByteArray6(bytes) => Some(*bytes),
        _ => None,
    }
}

/// The ranks at which filters may match, in order.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives on the stack of one classify, where it must not allocate"
)]
#[derive(Debug)]
pub(crate) enum Ranks<'a> {
    /// Of every filter.
    All(Range<Rank>),
    /// Of those that the index names.
    Candidates(Candidates<'a>),
}

impl Iterator for Ranks<'_> {
    type Item = Rank;

    fn next(&mut self) -> Option<Rank> {
        match self {
            Self::All(ranks) => ranks.next(),
            Self::Candidates(candidates) => candidates.next(),
        }
    }
}

/// Sorted lists of ranks, merged.
#[derive(Debug)]
pub(crate) struct Candidates<'a> {
    lists: [&'a [Rank]; MAX_LISTS],
    count: usize,
}

impl<'a> Candidates<'a> {
    const fn add(&mut self, list: &'a [Rank]) {
        if !list.is_empty() && self.count < MAX_LISTS {
            self.lists[self.count] = list;
            self.count += 1;
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = Rank;

    fn next(&mut self) -> Option<Rank> {
        let lists = &mut self.lists[..self.count];
        let next = lists
            .iter()
            .filter_map(|list| list.first())
            .min()
            .copied()?;
        for list in lists {
            if list.first() == Some(&next) {
                *list = &list[1..];
            }
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::prefixes;

    #[test]
    fn prefixes_make_up_exactly_the_range() {
        let (top, bits) = (63_u128, 6);
        for low in 0..=top {
            for high in 0..=top {
                let mut covered = Vec::new();
                prefixes(low, high, bits, |key, shift| {
                    covered.extend((key << shift)..((key + 1) << shift));
                });
                let expected: Vec<_> = (low..=high).collect();
                assert_eq!(covered, expected);
            }
        }
    }

    #[test]
    fn every_number_is_one_prefix() {
        let mut found = Vec::new();
        prefixes(0, u128::MAX, 128, |key, shift| found.push((key, shift)));
        assert_eq!(found, [(0, 128)]);
    }
}
