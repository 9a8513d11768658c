//! What a driver asks of KMDF: the bind information that its entry stub hands to the framework's loader.

use serde::Serialize;

use crate::section::Section;
use crate::view::View;

/// `WDF_BIND_INFO` of a KMDF driver (the framework's published source, `fxldr.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Kmdf {
    /// Where the bind information is.
    pub rva: u32,
    /// Its size field: 0x30, or 0x58 in the form that also states a minimum version.
    pub size: u32,
    /// The framework version that the driver was built for.
    pub major: u32,
    /// The framework version that the driver was built for.
    pub minor: u32,
    /// Number of framework functions that it knows.
    pub functions: u32,
}

const SMALLEST_SIZE: u32 = 0x30;
const LARGEST_SIZE: u32 = 0x100;

/// Finds the bind information: the pointer to the string `KmdfLibrary` is its second member.
pub(crate) fn find(view: &View, sections: &[Section], base: u64) -> Option<Kmdf> {
    let wanted: Vec<u8> = "KmdfLibrary\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let bytes = view.bytes();
    let mut names = Vec::new();
    let mut from = 0;
    while let Some(at) = bytes.get(from..).and_then(|rest| position(rest, &wanted)) {
        names.push(base.wrapping_add((from + at) as u64));
        from += at + 2;
    }
    if names.is_empty() {
        return None;
    }
    sections
        .iter()
        .filter(|section| !section.execute)
        .find_map(|section| {
            (section.rva..section.rva.saturating_add(section.size))
                .step_by(8)
                .filter(|&at| view.u64(at).is_some_and(|pointer| names.contains(&pointer)))
                .find_map(|at| read(view, at.checked_sub(8)?))
        })
}

fn read(view: &View, rva: u32) -> Option<Kmdf> {
    let field = |offset: u32| view.u32(rva.checked_add(offset)?);
    let kmdf = Kmdf {
        rva,
        size: field(0)?,
        major: field(16)?,
        minor: field(20)?,
        functions: field(28)?,
    };
    ((SMALLEST_SIZE..=LARGEST_SIZE).contains(&kmdf.size) && kmdf.major == 1 && kmdf.minor < 1_000)
        .then_some(kmdf)
}

/// Where `needle` is in `bytes`; a scan by its first byte, since images are small and names rare.
fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = bytes.get(from..)?.iter().position(|&byte| byte == first) {
        if bytes.get(from + at..)?.starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}
