//! Host names as they are kept and compared.

use portcullis_proto::event::MAX_HOST;

/// A host name: at most [`MAX_HOST`] bytes of visible ASCII, in lower case, without a trailing dot.
#[derive(Clone, Copy, Debug)]
pub struct HostName {
    length: u8,
    /// One more than the longest name, for its trailing dot.
    bytes: [u8; MAX_HOST + 1],
}

impl HostName {
    /// A name without a byte: none.
    pub const EMPTY: Self = Self {
        length: 0,
        bytes: [0; MAX_HOST + 1],
    };

    /// The name written as `text`. `None` if it is empty, too long, or has anything but visible ASCII in it.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut name = Self::EMPTY;
        text.iter().all(|&byte| name.push(byte)).then_some(())?;
        name.finish().then_some(name)
    }

    /// The name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }

    /// Whether there is no name.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets the name.
    pub(crate) const fn clear(&mut self) {
        self.length = 0;
    }

    /// Adds a byte in lower case. `false` if it can't be part of a name or does not fit.
    pub(crate) fn push(&mut self, byte: u8) -> bool {
        let place = self.bytes.get_mut(usize::from(self.length));
        match place {
            Some(place) if byte.is_ascii_graphic() => {
                *place = byte.to_ascii_lowercase();
                self.length += 1;
                true
            }
            _ => false,
        }
    }

    /// Shortens the name to its first `length` bytes.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = u8::try_from(length).map_or(self.length, |length| self.length.min(length));
    }

    /// Ends the name: takes the trailing dot off. `false` if nothing, or too much, is left.
    pub(crate) fn finish(&mut self) -> bool {
        if let [rest @ .., b'.'] = self.as_bytes() {
            self.truncate(rest.len());
        }
        !self.is_empty() && usize::from(self.length) <= MAX_HOST
    }
}

impl PartialEq for HostName {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for HostName {}
