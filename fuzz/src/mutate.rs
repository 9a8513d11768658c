//! From real input to hostile input.

/// A generator (xorshift64*), good enough to choose.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that begins at `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // The generator would stay at 0.
        Self(if seed == 0 { 1 } else { seed })
    }

    /// The next number.
    pub const fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 for 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() >> 16).unwrap_or(0) % bound.max(1)
    }

    /// One of these, which are some.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// No input becomes longer than this.
const LONGEST: usize = 1 << 16;
/// Most changes to one input.
const MOST_CHANGES: usize = 6;

/// Changes input: single bytes, but also numbers that may be lengths, counts and offsets, in both byte orders; whole ranges;
/// and words that the format knows.
#[derive(Debug)]
pub struct Mutator {
    random: Random,
    dictionary: &'static [&'static [u8]],
}

impl Mutator {
    /// Changes as `seed` says.
    #[must_use]
    pub const fn new(seed: u64, dictionary: &'static [&'static [u8]]) -> Self {
        Self {
            random: Random::new(seed),
            dictionary,
        }
    }

    /// One of `seeds`, changed.
    #[must_use]
    pub fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.random.one(seeds).clone();
        for _ in 0..=self.random.below(MOST_CHANGES) {
            self.change(&mut input, seeds);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let random = &mut self.random;
        let length = input.len();
        match random.below(10) {
            0 if length > 0 => input[random.below(length)] ^= 1 << random.below(8),
            1 if length > 0 => input[random.below(length)] = random.number().to_be_bytes()[0],
            2 | 3 => self.number(input),
            4 => input.truncate(random.below(length + 1)),
            5 => {
                let range = range(random, length);
                input.drain(range);
            }
            6 => {
                // What is there twice.
                let again = input[range(random, length)].to_vec();
                insert(random, input, &again);
            }
            7 => {
                let other = random.one(seeds);
                let part = other[range(random, other.len())].to_vec();
                if random.below(2) == 0 {
                    insert(random, input, &part);
                } else {
                    // In the place of as many bytes.
                    let at = random.below(length + 1);
                    let end = (at + part.len()).min(length);
                    input[at..end].copy_from_slice(&part[..end - at]);
                }
            }
            8 if !self.dictionary.is_empty() => {
                let word = *random.one(self.dictionary);
                insert(random, input, word);
            }
            _ => {
                let byte = random.number().to_be_bytes()[0];
                let bytes = vec![byte; random.below(9)];
                insert(random, input, &bytes);
            }
        }
    }

    /// A number of one to eight bytes becomes one that is likely to be wrong.
    fn number(&mut self, input: &mut [u8]) {
        let random = &mut self.random;
        let width = 1 << random.below(4);
        let Some(places) = input.len().checked_sub(width) else {
            return;
        };
        let at = random.below(places + 1);
        let mut bytes = [0; 8];
        bytes[8 - width..].copy_from_slice(&input[at..at + width]);
        let is_little = random.below(2) == 0;
        if is_little {
            bytes[8 - width..].reverse();
        }
        let now = u64::from_be_bytes(bytes);
        let all = input.len() as u64;
        let rest = (places - at) as u64;
        let new = match random.below(9) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX >> 1,
            3 => now.wrapping_add(1),
            4 => now.wrapping_sub(1),
            5 => all,
            6 => rest.wrapping_add(random.number() & 1),
            7 => now ^ 1 << random.below(64),
            _ => 1 << random.below(64),
        };
        let mut bytes = new.to_be_bytes();
        let number = &mut bytes[8 - width..];
        if is_little {
            number.reverse();
        }
        input[at..at + width].copy_from_slice(number);
    }
}

/// Part of so many bytes, mostly a short one.
fn range(random: &mut Random, length: usize) -> std::ops::Range<usize> {
    let most = if random.below(4) == 0 { length } else { 16 };
    let start = random.below(length + 1);
    let size = random.below(most.min(length - start) + 1);
    start..start + size
}

fn insert(random: &mut Random, input: &mut Vec<u8>, bytes: &[u8]) {
    let at = random.below(input.len() + 1);
    input.splice(at..at, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::Mutator;

    #[test]
    fn a_seed_makes_the_same_input_every_time_and_another_makes_other_input() {
        let seeds = [b"a real input".to_vec(), vec![0; 40], Vec::new()];
        let all = |seed| {
            let mut mutator = Mutator::new(seed, &[b"word"]);
            (0..500)
                .map(|_| mutator.mutated(&seeds))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
        let made = all(7);
        assert!(made.iter().any(|input| input.len() > 60), "longer ones");
        assert!(made.iter().any(Vec::is_empty), "and empty ones");
        let has_word = |input: &Vec<u8>| input.windows(4).any(|part| part == b"word");
        assert!(made.iter().any(has_word));
    }
}
