//! UTF-16 strings that are made when the driver is compiled.

/// A string of at most `N - 1` characters, ended by a NUL.
#[derive(Clone, Copy, Debug)]
pub struct WideString<const N: usize> {
    units: [u16; N],
    length: usize,
}

impl<const N: usize> WideString<N> {
    /// The two parts joined. In a constant, text that does not fit, or is not ASCII, does not
    /// compile.
    ///
    /// # Panics
    /// If it does not fit or is not ASCII.
    #[must_use]
    pub const fn join(first: &str, second: &str) -> Self {
        let mut this = Self {
            units: [0; N],
            length: 0,
        };
        this.append(first.as_bytes());
        this.append(second.as_bytes());
        this
    }

    /// The text. In a constant, one that does not fit, or is not ASCII, does not compile.
    ///
    /// # Panics
    /// If it does not fit or is not ASCII.
    #[must_use]
    pub const fn new(text: &str) -> Self {
        Self::join(text, "")
    }

    const fn append(&mut self, text: &[u8]) {
        let mut at = 0;
        while at < text.len() {
            assert!(text[at].is_ascii(), "the text is not ASCII");
            assert!(self.length + 1 < N, "the text is too long");
            self.units[self.length] = text[at] as u16;
            self.length += 1;
            at += 1;
        }
    }

    /// The string.
    #[must_use]
    pub const fn as_wide(&self) -> Wide<'_> {
        Wide {
            units: &self.units,
            length: self.length,
        }
    }
}

/// A UTF-16 string ended by a NUL.
#[derive(Clone, Copy, Debug)]
pub struct Wide<'a> {
    units: &'a [u16],
    length: usize,
}

impl Wide<'_> {
    /// The first unit; a NUL follows the last. WFP and the kernel take it mutable and only read.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u16 {
        self.units.as_ptr().cast_mut()
    }

    /// Units before the NUL.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing before the NUL.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// A [`Wide`] of a constant string.
#[macro_export]
macro_rules! wide {
    ($text:expr) => {
        const {
            const TEXT: &$crate::wide::WideString<{ $text.len() + 1 }> =
                &$crate::wide::WideString::new($text);
            TEXT.as_wide()
        }
    };
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::WideString;

    #[test]
    fn a_joined_string_ends_with_a_nul() {
        let name = WideString::<8>::join("a-", "v4");
        let wide = name.as_wide();
        assert_eq!(wide.len(), 4);
        let expected: std::vec::Vec<u16> = "a-v4\0\0\0\0".encode_utf16().collect();
        assert_eq!(name.units[..], expected[..]);
    }

    #[test]
    fn a_string_fills_its_room_to_the_nul() {
        assert_eq!(wide!("Portcullis").len(), 10);
        assert!(std::panic::catch_unwind(|| WideString::<4>::new("four")).is_err());
    }
}
