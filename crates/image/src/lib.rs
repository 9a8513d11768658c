//! Facts about, and checks of, a Windows driver image.
//!
//! [`Image::parse`] reads a PE file and says what it is; [`check`] says what is wrong with it;
//! [`Image::relocated`] lays it out in memory as the kernel's loader does. Input is hostile: every malformed file is
//! an [`ImageError`] and nothing here panics.
//!
//! Addresses are relative to the image's start (RVA, in bytes) unless a name says otherwise. The layout of the
//! format is that of Microsoft's "PE Format" page.
#![forbid(unsafe_code)]

pub mod build;
mod check;
mod checksum;
mod debug;
mod entry;
mod exports;
mod imports;
mod kmdf;
mod load_config;
mod parse;
mod relocations;
mod section;
pub mod unwind;
mod view;

use serde::Serialize;

pub use check::{Expectations, ExportLists, Finding, check};
pub use debug::{Debug, Pdb};
pub use exports::Export;
pub use imports::{Import, ImportName};
pub use kmdf::Kmdf;
pub use load_config::LoadConfig;
pub use section::Section;
pub use unwind::Frame;

use view::View;

/// The largest image that is read, in bytes. Real drivers are far smaller.
pub const MAX_IMAGE_SIZE: u32 = 256 << 20;

/// What an image runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// `IMAGE_FILE_MACHINE_AMD64`.
    X64,
    /// `IMAGE_FILE_MACHINE_ARM64`.
    Arm64,
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::X64 => "x64",
            Self::Arm64 => "arm64",
        })
    }
}

/// Why a file is no driver image that we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The headers don't make a 64-bit PE file.
    #[error("not a 64-bit PE file: {0}")]
    Headers(&'static str),
    /// A machine other than x64 and ARM64.
    #[error("the image is for machine {0:#06x}; x64 (0x8664) and ARM64 (0xaa64) are known")]
    Machine(u16),
    /// Larger than [`MAX_IMAGE_SIZE`], or not even as large as its headers.
    #[error("the image claims {0:#x} bytes in memory")]
    Size(u32),
    /// Sections that don't begin on pages of their own.
    #[error("section alignment {0:#x} is not a power of two of at least a page")]
    Alignment(u32),
    /// A section's extent is impossible.
    #[error("section {name}: {problem}")]
    Section {
        /// The section's name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The entry point is not inside the image.
    #[error("the entry point {0:#x} is not in an executable section")]
    Entry(u32),
    /// A table points outside the image or is malformed.
    #[error("{table} at {rva:#x}: {problem}")]
    Table {
        /// Which table.
        table: &'static str,
        /// Where it goes wrong.
        rva: u32,
        /// What is wrong.
        problem: &'static str,
    },
}

/// The `DllCharacteristics` that matter for drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are the bits of a flag word"
)]
pub struct Characteristics {
    /// `NX_COMPAT`.
    pub nx: bool,
    /// `DYNAMIC_BASE`.
    pub aslr: bool,
    /// `HIGH_ENTROPY_VA`.
    pub high_entropy: bool,
    /// `FORCE_INTEGRITY`.
    pub force_integrity: bool,
    /// `WDM_DRIVER`.
    pub wdm: bool,
    /// `GUARD_CF`.
    pub guard_cf: bool,
}

/// A driver image and everything that is said about it.
#[derive(Debug, Clone, Serialize)]
pub struct Image {
    /// What it runs on.
    pub machine: Machine,
    /// Bytes of the file.
    pub file_size: usize,
    /// Bytes in memory, whole pages.
    pub image_size: u32,
    /// Bytes of the headers in memory.
    pub headers_size: u32,
    /// The address at which it would like to be.
    pub preferred_base: u64,
    /// The entry point.
    pub entry: u32,
    /// `Subsystem`; 1 is native.
    pub subsystem: u16,
    /// `TimeDateStamp`: seconds since 1970, or a hash in a reproducible build.
    pub timestamp: u32,
    /// The linker's version, major and minor.
    pub linker: (u8, u8),
    /// The flags.
    pub characteristics: Characteristics,
    /// The checksum in the header.
    pub checksum: u32,
    /// The checksum that the file has.
    pub computed_checksum: u32,
    /// The sections, in the order of their addresses.
    pub sections: Vec<Section>,
    /// What it imports.
    pub imports: Vec<Import>,
    /// What it exports.
    pub exports: Vec<Export>,
    /// Number of places that hold an absolute address; `None` when relocations were stripped.
    pub relocations: Option<usize>,
    /// The load configuration, if there is one.
    pub load_config: Option<LoadConfig>,
    /// What the debug directory says.
    pub debug: Debug,
    /// What it asks of KMDF, if it is a KMDF driver.
    pub kmdf: Option<Kmdf>,
    /// The function that takes most of the stack; `None` where no function table tells.
    pub largest_frame: Option<Frame>,
    /// The imports that the code reaches from the entry point within the KMDF stub; see [`check`].
    #[serde(skip)]
    entry_reaches: Vec<String>,
    /// Where an x64 image's function table is, and how long.
    #[serde(skip)]
    function_table: Option<(u32, u32)>,
    #[serde(skip)]
    relocation_places: Vec<u32>,
    #[serde(skip)]
    view: View,
}

impl Image {
    /// Reads a driver image.
    ///
    /// # Errors
    /// [`ImageError`] for everything that is not a well-formed 64-bit image.
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        parse::parse(file)
    }

    /// The image as it lies in memory at address `base`: headers and sections in place, absolute addresses
    /// relocated, imports unbound. [`image_size`](Self::image_size) bytes.
    ///
    /// # Errors
    /// [`ImageError::Table`] when relocations were stripped and `base` is not the preferred base.
    pub fn relocated(&self, base: u64) -> Result<Vec<u8>, ImageError> {
        relocations::relocated(self, base)
    }

    /// The section that holds `rva`.
    #[must_use]
    pub fn section_at(&self, rva: u32) -> Option<&Section> {
        self.sections.iter().find(|section| section.contains(rva))
    }
}
