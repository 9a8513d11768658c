//! What waits, in the order in which it goes on.

use core::mem;

/// A fixed number of things that wait, each until its time; those of one time in the order in which they came.
///
/// `S` is the storage: as many [`Waiting`] as can wait. Putting in and taking out takes a number of steps that grows with
/// the logarithm of how many wait.
#[derive(Debug)]
pub struct Schedule<S> {
    /// The first `length` are a heap: none is before the one at half its index.
    places: S,
    length: usize,
    /// How many have been put in.
    count: u64,
}

/// A place for something that waits.
#[derive(Debug)]
pub struct Waiting<T> {
    due: u64,
    order: u64,
    value: Option<T>,
}

impl<T> Waiting<T> {
    /// A free place.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            due: 0,
            order: 0,
            value: None,
        }
    }

    const fn key(&self) -> (u64, u64) {
        (self.due, self.order)
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Schedule<S> {
    /// Nothing waits.
    pub const fn new(places: S) -> Self {
        Self {
            places,
            length: 0,
            count: 0,
        }
    }

    /// How many wait.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Lets `value` wait until `due`. Whether it is the first of all now.
    ///
    /// # Errors
    /// Gives `value` back if every place is taken.
    pub fn push<T>(&mut self, due: u64, value: T) -> Result<bool, T>
    where
        S: AsMut<[Waiting<T>]>,
    {
        let places = self.places.as_mut();
        let Some(place) = places.get_mut(self.length) else {
            return Err(value);
        };
        *place = Waiting {
            due,
            order: self.count,
            value: Some(value),
        };
        let mut at = self.length;
        self.count += 1;
        self.length += 1;
        while at > 0 && is_before(places, at, (at - 1) / 2) {
            places.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        Ok(at == 0)
    }

    /// When the first goes on.
    pub fn next_due<T>(&mut self) -> Option<u64>
    where
        S: AsMut<[Waiting<T>]>,
    {
        if self.length == 0 {
            return None;
        }
        self.places.as_mut().first().map(|first| first.due)
    }

    /// Takes the first out, if its time has come by `now`.
    pub fn pop_due<T>(&mut self, now: u64) -> Option<T>
    where
        S: AsMut<[Waiting<T>]>,
    {
        if self.next_due()? > now {
            return None;
        }
        let places = self.places.as_mut();
        let last = self.length - 1;
        places.swap(0, last);
        let taken = places.get_mut(last).map(mem::take)?;
        self.length = last;
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut first = at;
            if left < last && is_before(places, left, first) {
                first = left;
            }
            if right < last && is_before(places, right, first) {
                first = right;
            }
            if first == at {
                return taken.value;
            }
            places.swap(at, first);
            at = first;
        }
    }
}

fn is_before<T>(places: &[Waiting<T>], one: usize, other: usize) -> bool {
    match (places.get(one), places.get(other)) {
        (Some(one), Some(other)) => one.key() < other.key(),
        _ => false,
    }
}
