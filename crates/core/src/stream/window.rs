//! Bytes of a stream that are looked at together.

/// The most bytes that an editor has to see before it decides about the first of them: a header's name, the colon, and
/// one byte more; what is replaced is shorter.
pub const WINDOW: usize = 264;

/// Bytes that were left over from before, and those that came now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window<'b> {
    first: &'b [u8],
    second: &'b [u8],
}

impl<'b> Window<'b> {
    pub(super) const fn new(first: &'b [u8], second: &'b [u8]) -> Self {
        Self { first, second }
    }

    pub(super) const fn len(&self) -> usize {
        self.first.len() + self.second.len()
    }

    pub(super) fn at(&self, index: usize) -> Option<u8> {
        let rest = index.checked_sub(self.first.len());
        rest.map_or_else(|| self.first.get(index), |rest| self.second.get(rest))
            .copied()
    }

    /// The bytes from `index` on.
    pub(super) fn from(&self, index: usize) -> Self {
        let beyond = index.saturating_sub(self.first.len());
        Self {
            first: self.first.get(index..).unwrap_or_default(),
            second: self.second.get(beyond..).unwrap_or_default(),
        }
    }

    /// The first contiguous piece, and what follows.
    pub(super) const fn pieces(&self) -> [&'b [u8]; 2] {
        [self.first, self.second]
    }

    /// The place of the first byte that is `wanted`.
    pub(super) fn find(&self, wanted: u8) -> Option<usize> {
        let is_wanted = |byte: &u8| *byte == wanted;
        let first = self.first.iter().position(is_wanted);
        first.or_else(|| {
            let at = self.second.iter().position(is_wanted)?;
            Some(self.first.len() + at)
        })
    }
}

/// Bytes that come in the place of others: a few pieces of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insert<'p>([&'p [u8]; 4]);

impl<'p> Insert<'p> {
    /// The most bytes: a header's name and value, and what stands between and behind.
    pub const MAX: usize = 2 * portcullis_proto::effect::MAX_EFFECT_TEXT + 4;

    pub(super) const NONE: Self = Self([&[]; 4]);

    pub(super) const fn bytes(bytes: &'p [u8]) -> Self {
        Self([bytes, &[], &[], &[]])
    }

    /// A header's line.
    pub(super) const fn line(name: &'p [u8], value: &'p [u8]) -> Self {
        Self([name, b": ", value, b"\r\n"])
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }

    /// Whether nothing comes in the place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces.
    pub fn pieces(&self) -> impl Iterator<Item = &'p [u8]> + use<'p> {
        self.0.into_iter().filter(|piece| !piece.is_empty())
    }

    /// Puts the bytes to the front of `to`; how many there were. `None`: they do not fit.
    pub fn copy_to(&self, to: &mut [u8]) -> Option<usize> {
        let mut at = 0;
        for piece in self.pieces() {
            let end = at + piece.len();
            to.get_mut(at..end)?.copy_from_slice(piece);
            at = end;
        }
        Some(at)
    }
}

/// What becomes of the next bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'p> {
    /// They stay: this many, not 0.
    Keep(usize),
    /// This many, not 0, go, and others come in their place.
    Replace(usize, Insert<'p>),
    /// These come before them.
    Insert(Insert<'p>),
    /// More have to be seen first; there are fewer than [`WINDOW`].
    More,
}
