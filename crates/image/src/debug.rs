//! The debug directory.

use serde::Serialize;

use crate::ImageError;
use crate::view::{View, malformed};

/// What the debug directory says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Debug {
    /// The program database that belongs to the image.
    pub pdb: Option<Pdb>,
    /// Whether the linker promises that the same input gives the same image (`/Brepro`).
    pub reproducible: bool,
}

/// A program database (`CodeView` record `RSDS`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pdb {
    /// Its path as the linker wrote it.
    pub path: String,
    /// The GUID that both carry, in registry form without braces.
    pub guid: String,
    /// How often it was written.
    pub age: u32,
}

/// `IMAGE_DEBUG_DIRECTORY`.
const ENTRY_SIZE: u32 = 28;
const TYPE_CODEVIEW: u32 = 2;
const TYPE_REPRO: u32 = 16;
const LONGEST_PATH: usize = 4_096;

/// Reads the debug directory of `size` bytes at `rva`.
pub(crate) fn read(view: &View, rva: u32, size: u32) -> Result<Debug, ImageError> {
    let table = "debug directory";
    let outside = |rva| malformed(table, rva, "outside the image");
    let mut debug = Debug::default();
    for index in 0..size / ENTRY_SIZE {
        let at = (index * ENTRY_SIZE)
            .checked_add(rva)
            .ok_or_else(|| outside(rva))?;
        let field = |offset: u32| {
            at.checked_add(offset)
                .and_then(|rva| view.u32(rva))
                .ok_or_else(|| outside(at))
        };
        match field(12)? {
            TYPE_CODEVIEW => debug.pdb = code_view(view, field(20)?),
            TYPE_REPRO => debug.reproducible = true,
            _ => {}
        }
    }
    Ok(debug)
}

/// The record at `rva`; `None` when it is of another kind or not in the image.
fn code_view(view: &View, rva: u32) -> Option<Pdb> {
    if rva == 0 || view.get(rva, 4)? != b"RSDS" {
        return None;
    }
    let [first, second, third] = [4u32, 8, 10].map(|offset| rva.checked_add(offset));
    let rest = view.get(rva.checked_add(12)?, 8)?;
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0u64, |value, &byte| value << 8 | u64::from(byte))
    };
    let (head, tail) = rest.split_at_checked(2)?;
    Some(Pdb {
        guid: format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            view.u32(first?)?,
            view.u16(second?)?,
            view.u16(third?)?,
            hex(head),
            hex(tail)
        ),
        age: view.u32(rva.checked_add(20)?)?,
        path: view.ascii(rva.checked_add(24)?, LONGEST_PATH)?,
    })
}
