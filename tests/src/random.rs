//! Numbers from a seed: the same ones every time.

/// A generator (xorshift64*), good enough to choose test cases.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that begins at `seed`, which it prints: a failing test shows it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        println!("seed {seed:#x}");
        Self(seed.max(1))
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 for 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let number = self.next() >> 16;
        usize::try_from(number).unwrap_or(0) % bound.max(1)
    }

    /// A byte.
    pub const fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    /// `bytes` cut anywhere into pieces that are not empty.
    pub fn cut<'b>(&mut self, bytes: &'b [u8]) -> Vec<&'b [u8]> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(1 + self.below(rest.len().min(97)));
            pieces.push(piece);
            rest = behind;
        }
        pieces
    }
}
