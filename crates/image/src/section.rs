//! Sections.

use serde::Serialize;

/// A section of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are the bits of a flag word"
)]
pub struct Section {
    /// Its name, at most eight characters.
    pub name: String,
    /// Where it begins.
    pub rva: u32,
    /// Bytes in memory, whole pages.
    pub size: u32,
    /// Bytes in the file.
    pub file_size: u32,
    /// `IMAGE_SCN_MEM_READ`.
    pub read: bool,
    /// `IMAGE_SCN_MEM_WRITE`.
    pub write: bool,
    /// `IMAGE_SCN_MEM_EXECUTE`.
    pub execute: bool,
    /// `IMAGE_SCN_MEM_DISCARDABLE`: gone after the driver's entry has returned.
    pub discardable: bool,
    /// Not `IMAGE_SCN_MEM_NOT_PAGED`, and named so that Windows pages it (`PAGE…`).
    pub pageable: bool,
}

impl Section {
    /// Whether `rva` lies in it.
    #[must_use]
    pub const fn contains(&self, rva: u32) -> bool {
        rva.wrapping_sub(self.rva) < self.size
    }
}
