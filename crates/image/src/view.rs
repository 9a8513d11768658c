//! An image's bytes by relative address, bounds-checked.

use std::fmt;

use crate::ImageError;

/// The image as it lies in memory at its preferred base.
#[derive(Clone, Default)]
pub(crate) struct View(Vec<u8>);

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({} bytes)", self.0.len())
    }
}

impl View {
    pub(crate) const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Everything from `rva` on.
    pub(crate) fn from(&self, rva: u32) -> Option<&[u8]> {
        self.0.get(usize::try_from(rva).ok()?..)
    }

    /// `length` bytes at `rva`.
    pub(crate) fn get(&self, rva: u32, length: usize) -> Option<&[u8]> {
        self.from(rva)?.get(..length)
    }

    fn array<const N: usize>(&self, rva: u32) -> Option<[u8; N]> {
        self.from(rva)?.first_chunk().copied()
    }

    pub(crate) fn u16(&self, rva: u32) -> Option<u16> {
        self.array(rva).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&self, rva: u32) -> Option<u32> {
        self.array(rva).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&self, rva: u32) -> Option<u64> {
        self.array(rva).map(u64::from_le_bytes)
    }

    /// The NUL-terminated ASCII string at `rva`, of at most `longest` bytes.
    pub(crate) fn ascii(&self, rva: u32, longest: usize) -> Option<String> {
        let bytes = self.from(rva)?;
        let end = bytes.iter().take(longest + 1).position(|&byte| byte == 0)?;
        let text = std::str::from_utf8(bytes.get(..end)?).ok()?;
        text.is_ascii().then(|| text.to_owned())
    }
}

/// An [`ImageError::Table`].
pub(crate) const fn malformed(table: &'static str, rva: u32, problem: &'static str) -> ImageError {
    ImageError::Table {
        table,
        rva,
        problem,
    }
}
