//! Sets of numbers as ranges.

/// A set of numbers: ranges that ascend and do not touch. As a condition the empty set means "any".
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// The set of these ranges, each from its first to its last number; those the wrong way round are left out.
    pub fn new(ranges: impl IntoIterator<Item = (u128, u128)>) -> Self {
        let mut sorted: Vec<_> = ranges
            .into_iter()
            .filter(|(first, last)| first <= last)
            .collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The ranges, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[(u128, u128)] {
        &self.0
    }

    /// Whether there is no range: any number.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the number is among them, or any number is.
    #[must_use]
    pub fn contains(&self, number: u128) -> bool {
        self.is_any()
            || self
                .0
                .iter()
                .any(|&(first, last)| first <= number && number <= last)
    }

    /// Whether every number of `other` is among these.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.is_any() || (!other.is_any() && other.0.iter().all(|&range| self.covers_range(range)))
    }

    /// Whether every number from the range's first to its last is among these.
    #[must_use]
    pub fn covers_range(&self, (first, last): (u128, u128)) -> bool {
        let candidate = self.0.partition_point(|&(_, end)| end < first);
        self.is_any()
            || self
                .0
                .get(candidate)
                .is_some_and(|&(start, end)| start <= first && last <= end)
    }

    /// Whether some number is among both.
    #[must_use]
    pub fn meets_some(&self, other: &Self) -> bool {
        self.is_any() || other.is_any() || other.0.iter().any(|&range| self.meets(range))
    }

    /// The numbers that are among both. If there are none, that is every number: ask [`meets_some`](Self::meets_some)
    /// first.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        if self.is_any() || other.is_any() {
            return if self.is_any() { other } else { self }.clone();
        }
        let both = |&(first, last): &(u128, u128)| {
            let others = other.0.iter();
            others.map(move |&(start, end)| (first.max(start), last.min(end)))
        };
        Self::new(self.0.iter().flat_map(both))
    }

    /// Whether some number from the range's first to its last is among these.
    #[must_use]
    pub fn meets(&self, (first, last): (u128, u128)) -> bool {
        let candidate = self.0.partition_point(|&(_, end)| end < first);
        self.is_any()
            || self
                .0
                .get(candidate)
                .is_some_and(|&(start, _)| start <= last)
    }
}
